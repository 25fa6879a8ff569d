-- $1 app, $2 UTC midnight, $3 the next one, $4 unused, groups from $5 to $6 without $7: one row for each message with snapshots in
-- the day. Existing rows stay, since snapshots are only added; those that would not change are not written.
MERGE INTO receiptd.message_receipts_daily AS d
USING (
    SELECT s.group_key, s.msg_seq, s.first_seen_at, s.last_seen_at, s.gained, s.lost, s.found,
        last.read_num, last.unread_num, last.code, s.known_before
    FROM (
        SELECT group_key, msg_seq, min(polled_at) AS first_seen_at, max(polled_at) AS last_seen_at,
            sum(greatest(read_num - prior_read_num, 0)) AS gained,
            coalesce(sum(prior_read_num - read_num) FILTER (WHERE prior_read_num > read_num), 0) AS lost,
            coalesce(sum(read_num) FILTER (WHERE prior_read_num IS NULL), 0) AS found,
            CASE WHEN bool_and(prior_polled_at IS NOT NULL) THEN min(prior_polled_at) END AS known_before
        FROM receiptd.receipt_snapshots
        WHERE polled_at >= $2 AND polled_at < $3 AND group_key BETWEEN $5 AND $6 AND group_key <> ALL ($7)
        GROUP BY group_key, msg_seq
    ) s
    JOIN receiptd.watched_groups g ON g.group_key = s.group_key AND g.sdk_app_id = $1
    -- By the key: joining all snapshots again took twice as long. If the receipt had ended, the last known counts.
    CROSS JOIN LATERAL (
        SELECT coalesce(l.read_num, l.prior_read_num) AS read_num, coalesce(l.unread_num, l.prior_unread_num) AS unread_num, l.code
        FROM receiptd.receipt_snapshots l
        WHERE l.group_key = s.group_key AND l.msg_seq = s.msg_seq AND l.polled_at = s.last_seen_at
            AND l.polled_at >= $2 AND l.polled_at < $3
        LIMIT 1
    ) last
    ORDER BY s.group_key, s.msg_seq
) n ON d.group_key = n.group_key AND d.msg_seq = n.msg_seq AND d.day = ($2::timestamptz AT TIME ZONE 'UTC')::date
WHEN MATCHED AND (d.first_seen_at, d.last_seen_at, d.reads_gained, d.reads_lost, d.reads_found, d.read_num, d.unread_num, d.code, d.known_before)
    IS DISTINCT FROM (n.first_seen_at, n.last_seen_at, n.gained, n.lost, n.found, n.read_num, n.unread_num, n.code, n.known_before) THEN
    UPDATE SET first_seen_at = n.first_seen_at, last_seen_at = n.last_seen_at, reads_gained = n.gained, reads_lost = n.lost,
        reads_found = n.found, read_num = n.read_num, unread_num = n.unread_num, code = n.code, known_before = n.known_before
WHEN NOT MATCHED THEN
    INSERT (group_key, day, msg_seq, first_seen_at, last_seen_at, reads_gained, reads_lost, reads_found, read_num, unread_num, code, known_before)
    VALUES (n.group_key, ($2::timestamptz AT TIME ZONE 'UTC')::date, n.msg_seq, n.first_seen_at, n.last_seen_at, n.gained, n.lost,
        n.found, n.read_num, n.unread_num, n.code, n.known_before)
