-- $1 app, $2 from, $3 until, groups from $5 to $6 without $7: folds the snapshots of the span into the milestones of their messages. Doing it again, or in
-- another order, changes nothing: the first poll that saw a milestone wins, and the last counts do.
WITH seen AS (
    -- Where no count was known before, nothing was observed.
    SELECT s.group_key, s.msg_seq, s.polled_at, s.read_num,
        CASE WHEN s.prior_read_num IS NULL THEN '-infinity' ELSE s.prior_polled_at END AS prior,
        s.read_num::bigint + s.unread_num AS members
    FROM receiptd.receipt_snapshots s
    JOIN receiptd.watched_groups g USING (group_key)
    WHERE g.sdk_app_id = $1 AND g.group_key BETWEEN $5 AND $6 AND g.group_key <> ALL ($7) AND s.polled_at >= $2 AND s.polled_at < $3
), folded AS (
    SELECT group_key, msg_seq, min(polled_at) AS first_polled_at, max(polled_at) AS last_polled_at,
        max(polled_at) FILTER (WHERE read_num IS NOT NULL) AS last_counted_at,
        min(polled_at) FILTER (WHERE read_num > 0) AS first_by, min(prior) FILTER (WHERE read_num > 0) AS first_after,
        min(polled_at) FILTER (WHERE members > 0 AND read_num * 2::bigint >= members) AS half_by,
        min(prior) FILTER (WHERE members > 0 AND read_num * 2::bigint >= members) AS half_after,
        min(polled_at) FILTER (WHERE members > 0 AND read_num * 10::bigint >= members * 9) AS p90_by,
        min(prior) FILTER (WHERE members > 0 AND read_num * 10::bigint >= members * 9) AS p90_after,
        min(polled_at) FILTER (WHERE members > 0 AND read_num = members) AS all_by,
        min(prior) FILTER (WHERE members > 0 AND read_num = members) AS all_after
    FROM seen GROUP BY group_key, msg_seq
)
INSERT INTO receiptd.message_milestones AS m (group_key, msg_seq, sent_at, read_num, unread_num, receipt_code,
    first_polled_at, last_changed_at, first_read_after, first_read_by, half_read_after, half_read_by,
    p90_read_after, p90_read_by, all_read_after, all_read_by)
SELECT f.group_key, f.msg_seq, coalesce(w.sent_at, k.sent_at), counted.read_num, counted.unread_num,
    -- The last poll mostly had counts.
    CASE WHEN f.last_counted_at = f.last_polled_at THEN counted.code ELSE (
        SELECT s.code FROM receiptd.receipt_snapshots s WHERE s.group_key = f.group_key AND s.msg_seq = f.msg_seq
            AND s.polled_at = f.last_polled_at AND s.polled_at >= $2 AND s.polled_at < $3
    ) END,
    f.first_polled_at, f.last_polled_at, nullif(f.first_after, '-infinity'), f.first_by,
    nullif(f.half_after, '-infinity'), f.half_by, nullif(f.p90_after, '-infinity'), f.p90_by,
    nullif(f.all_after, '-infinity'), f.all_by
FROM folded f
LEFT JOIN receiptd.receipt_snapshots counted ON counted.group_key = f.group_key AND counted.msg_seq = f.msg_seq
    AND counted.polled_at = f.last_counted_at AND counted.polled_at >= $2 AND counted.polled_at < $3
LEFT JOIN receiptd.watched_messages w ON w.group_key = f.group_key AND w.msg_seq = f.msg_seq
LEFT JOIN receiptd.message_milestones k ON k.group_key = f.group_key AND k.msg_seq = f.msg_seq
WHERE coalesce(w.sent_at, k.sent_at) IS NOT NULL
ORDER BY f.group_key, f.msg_seq
ON CONFLICT (group_key, msg_seq) DO UPDATE SET
    sent_at = least(m.sent_at, EXCLUDED.sent_at),
    first_polled_at = least(m.first_polled_at, EXCLUDED.first_polled_at),
    read_num = CASE WHEN EXCLUDED.last_changed_at < m.last_changed_at THEN coalesce(m.read_num, EXCLUDED.read_num)
        ELSE coalesce(EXCLUDED.read_num, m.read_num) END,
    unread_num = CASE WHEN EXCLUDED.last_changed_at < m.last_changed_at THEN coalesce(m.unread_num, EXCLUDED.unread_num)
        ELSE coalesce(EXCLUDED.unread_num, m.unread_num) END,
    receipt_code = CASE WHEN EXCLUDED.last_changed_at < m.last_changed_at THEN m.receipt_code ELSE EXCLUDED.receipt_code END,
    last_changed_at = greatest(m.last_changed_at, EXCLUDED.last_changed_at),
    known_until = CASE WHEN m.closed_at IS NOT NULL THEN m.known_until END,
    first_read_after = CASE WHEN m.first_read_by <= EXCLUDED.first_read_by OR EXCLUDED.first_read_by IS NULL
        THEN m.first_read_after ELSE EXCLUDED.first_read_after END,
    first_read_by = least(m.first_read_by, EXCLUDED.first_read_by),
    half_read_after = CASE WHEN m.half_read_by <= EXCLUDED.half_read_by OR EXCLUDED.half_read_by IS NULL
        THEN m.half_read_after ELSE EXCLUDED.half_read_after END,
    half_read_by = least(m.half_read_by, EXCLUDED.half_read_by),
    p90_read_after = CASE WHEN m.p90_read_by <= EXCLUDED.p90_read_by OR EXCLUDED.p90_read_by IS NULL
        THEN m.p90_read_after ELSE EXCLUDED.p90_read_after END,
    p90_read_by = least(m.p90_read_by, EXCLUDED.p90_read_by),
    all_read_after = CASE WHEN m.all_read_by <= EXCLUDED.all_read_by OR EXCLUDED.all_read_by IS NULL
        THEN m.all_read_after ELSE EXCLUDED.all_read_after END,
    all_read_by = least(m.all_read_by, EXCLUDED.all_read_by)
