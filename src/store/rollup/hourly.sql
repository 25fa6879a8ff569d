-- $1 app, $2 hour, $3 its end, $4 rolled up until, groups from $5 to $6 without $7: one row for each group with activity in the
-- hour, or with other messages or unread counts at its end than in the group's last row.
WITH reckoned AS MATERIALIZED (
    SELECT g.group_key, coalesce(aged.sent, 0) AS messages_sent, coalesce(alive.messages, 0) AS messages_active,
        coalesce(reads.gained, 0) AS reads_gained, reads.by_quarter, coalesce(reads.lost, 0) AS reads_lost, coalesce(reads.found, 0) AS reads_found,
        coalesce(aged.messages, 0) AS messages_aged_24h, aged.median, aged.p90, coalesce(alive.unread, 0) AS unread_backlog,
        coalesce(calls.polls, 0) AS polls, coalesce(calls.calls, 0) AS calls, coalesce(gaps.coverage, 1) AS coverage,
        CASE WHEN gaps.began_before THEN coalesce(reads.carried, 0) ELSE 0 END AS reads_carried,
        coalesce(last.messages_active, 0) AS last_active, coalesce(last.unread_backlog, 0) AS last_unread
    FROM receiptd.watched_groups g
    LEFT JOIN LATERAL (
        SELECT h.hour, h.messages_active, h.unread_backlog FROM receiptd.group_receipts_hourly h
        WHERE h.group_key = g.group_key AND h.hour <= $2 ORDER BY h.hour DESC LIMIT 1
    ) last ON true
    LEFT JOIN (
        SELECT group_key, sum(gained) AS gained, sum(lost) AS lost, sum(found) AS found, sum(carried) AS carried,
            CASE WHEN sum(gained) > 0 THEN ARRAY[
                coalesce(sum(gained) FILTER (WHERE quarter = 0), 0), coalesce(sum(gained) FILTER (WHERE quarter = 1), 0),
                coalesce(sum(gained) FILTER (WHERE quarter = 2), 0), coalesce(sum(gained) FILTER (WHERE quarter = 3), 0)
            ]::bigint[] END AS by_quarter
        FROM (
            SELECT group_key, width_bucket(polled_at, ARRAY[$2 + interval '15 minutes', $2 + interval '30 minutes',
                    $2 + interval '45 minutes']) AS quarter, sum(greatest(read_num - prior_read_num, 0)) AS gained,
                sum(greatest(prior_read_num - read_num, 0)) AS lost,
                sum(greatest(read_num - prior_read_num, 0)) FILTER (WHERE prior_polled_at < $2) AS carried,
                sum(read_num) FILTER (WHERE prior_read_num IS NULL) AS found
            FROM receiptd.receipt_snapshots WHERE polled_at >= $2 AND polled_at < $3
                AND group_key BETWEEN $5 AND $6 AND group_key <> ALL ($7) GROUP BY group_key, quarter
        ) of_quarters
        GROUP BY group_key
    ) reads USING (group_key)
    LEFT JOIN (
        SELECT group_key, count(*) AS calls, count(*) FILTER (WHERE messages_answered > 0) AS polls
        FROM receiptd.api_calls WHERE called_at >= $2 AND called_at < $3 GROUP BY group_key
    ) calls USING (group_key)
    LEFT JOIN (
        SELECT group_key, count(first_polled_at) FILTER (WHERE sent_at >= $2) AS sent, count(rate) AS messages,
            percentile_cont(0.5) WITHIN GROUP (ORDER BY rate) AS median, percentile_cont(0.9) WITHIN GROUP (ORDER BY rate) AS p90
        FROM (
            -- Both kinds of message at once, since the view opens all slots to find theirs.
            SELECT group_key, sent_at, first_polled_at, CASE WHEN sent_at < $3 - interval '24 hours'
                THEN read_24h / nullif(read_24h::bigint + unread_24h, 0)::double precision END AS rate
            FROM receiptd.message_state
            WHERE (sent_at >= $2 AND sent_at < $3
                    OR sent_at >= $2 - interval '24 hours' AND sent_at < $3 - interval '24 hours')
                AND group_key BETWEEN $5 AND $6 AND group_key <> ALL ($7)
        ) m GROUP BY group_key
    ) aged USING (group_key)
    LEFT JOIN (
        SELECT group_key, sum(messages)::bigint AS messages, sum(unread)::bigint AS unread
        FROM (
            -- A sum per slot: all messages together would have to be sorted. unnest is fastest in a list of columns.
            SELECT s.group_key, e.messages, e.unread
            FROM receiptd.poll_slots s
            CROSS JOIN LATERAL (
                SELECT count(*) AS messages, sum(CASE WHEN m.last_changed_at < $3 THEN m.unread_num ELSE (
                    SELECT r.unread_num FROM receiptd.receipt_snapshots r
                    WHERE r.group_key = s.group_key AND r.msg_seq = m.msg_seq AND r.polled_at >= m.first_polled_at
                        AND r.polled_at < $3 AND r.unread_num IS NOT NULL
                    ORDER BY r.polled_at DESC LIMIT 1
                ) END) AS unread
                FROM (
                    SELECT unnest(s.msg_seqs) AS msg_seq, unnest(s.unread_num) AS unread_num,
                        unnest(s.first_polled_at) AS first_polled_at, unnest(s.changed_at) AS last_changed_at
                ) m
                WHERE m.first_polled_at < $3
            ) e
            WHERE e.messages > 0
            UNION ALL
            SELECT m.group_key, 1, CASE WHEN m.last_changed_at < $3 THEN m.unread_num ELSE (
                SELECT r.unread_num FROM receiptd.receipt_snapshots r
                WHERE r.group_key = m.group_key AND r.msg_seq = m.msg_seq AND r.polled_at >= m.first_polled_at
                    AND r.polled_at < $3 AND r.unread_num IS NOT NULL
                ORDER BY r.polled_at DESC LIMIT 1
            ) END
            FROM receiptd.watched_messages m
            WHERE m.slot_id IS NULL AND (m.state = 'active' OR m.closed_at >= $3) AND m.first_polled_at < $3
        ) m
        WHERE group_key BETWEEN $5 AND $6 AND group_key <> ALL ($7) GROUP BY group_key
    ) alive USING (group_key)
    LEFT JOIN (
        SELECT group_key, 1 - sum(extract(epoch FROM upper(gap) - lower(gap))) / 3600 AS coverage,
            bool_or(lower(gap) = $2) AS began_before
        FROM (
            SELECT group_key, unnest(range_agg(tstzrange(gap_from, gap_until) * tstzrange($2, $3))) AS gap
            FROM receiptd.poll_gaps WHERE gap_until > $2 AND gap_from < $3 GROUP BY group_key
        ) gap GROUP BY group_key
    ) gaps USING (group_key)
    WHERE g.sdk_app_id = $1 AND g.group_key BETWEEN $5 AND $6 AND g.group_key <> ALL ($7)
        AND (last.hour = $2 OR aged.messages > 0 OR (alive.messages > 0 AND gaps.coverage < 1)
            OR coalesce(calls.calls, nullif(aged.sent, 0), reads.gained, reads.found) IS NOT NULL
            OR (coalesce(alive.messages, 0), coalesce(alive.unread, 0))
                <> (coalesce(last.messages_active, 0), coalesce(last.unread_backlog, 0)))
), kept AS (
    -- If an hour is repeated, a later one without a row keeps the values that it took from the row before it.
    INSERT INTO receiptd.group_receipts_hourly (group_key, hour, messages_active, unread_backlog)
    SELECT group_key, $3, last_active, last_unread FROM reckoned
    WHERE $3 < date_trunc('hour', $4::timestamptz, 'UTC') AND (messages_active, unread_backlog) <> (last_active, last_unread)
    ORDER BY group_key
    ON CONFLICT (group_key, hour) DO NOTHING
)
INSERT INTO receiptd.group_receipts_hourly AS h (group_key, hour, messages_sent, messages_active, reads_gained, gained_by_quarter,
    reads_lost, reads_found, messages_aged_24h, median_read_rate_24h, p90_read_rate_24h, unread_backlog, polls, calls, coverage,
    reads_carried)
SELECT group_key, $2, messages_sent, messages_active, reads_gained, by_quarter, reads_lost, reads_found, messages_aged_24h, median, p90,
    unread_backlog, polls, calls, coverage, reads_carried
FROM reckoned ORDER BY group_key
ON CONFLICT (group_key, hour) DO UPDATE SET messages_sent = EXCLUDED.messages_sent,
    messages_active = EXCLUDED.messages_active, reads_gained = EXCLUDED.reads_gained,
    gained_by_quarter = EXCLUDED.gained_by_quarter, reads_lost = EXCLUDED.reads_lost,
    reads_found = EXCLUDED.reads_found, messages_aged_24h = EXCLUDED.messages_aged_24h,
    median_read_rate_24h = EXCLUDED.median_read_rate_24h, p90_read_rate_24h = EXCLUDED.p90_read_rate_24h,
    unread_backlog = EXCLUDED.unread_backlog, polls = EXCLUDED.polls, calls = EXCLUDED.calls, coverage = EXCLUDED.coverage,
    reads_carried = EXCLUDED.reads_carried
