-- $1 app, $2 hour, $3 its end, groups from $5 to $6 without $7: one row for each group that had watched messages or calls in the hour. All that lies before its
-- end is folded already.
INSERT INTO receiptd.group_receipts_hourly AS h (group_key, hour, messages_sent, messages_active, reads_gained, reads_lost,
    reads_found, messages_aged_24h, median_read_rate_24h, p90_read_rate_24h, unread_backlog, polls, calls, coverage)
SELECT g.group_key, $2, coalesce(sent.messages, 0), coalesce(alive.messages, 0), coalesce(reads.gained, 0),
    coalesce(reads.lost, 0), coalesce(reads.found, 0), coalesce(aged.messages, 0), aged.median, aged.p90,
    coalesce(alive.unread, 0), coalesce(calls.polls, 0), coalesce(calls.calls, 0), coalesce(gaps.coverage, 1)
FROM receiptd.watched_groups g
LEFT JOIN (
    SELECT group_key, sum(greatest(read_num - prior_read_num, 0)) AS gained,
        sum(greatest(prior_read_num - read_num, 0)) AS lost,
        sum(read_num) FILTER (WHERE prior_read_num IS NULL) AS found
    FROM receiptd.receipt_snapshots WHERE polled_at >= $2 AND polled_at < $3
        AND group_key BETWEEN $5 AND $6 AND group_key <> ALL ($7) GROUP BY group_key
) reads USING (group_key)
LEFT JOIN (
    SELECT group_key, count(*) AS calls, count(*) FILTER (WHERE messages_answered > 0) AS polls
    FROM receiptd.api_calls WHERE called_at >= $2 AND called_at < $3 GROUP BY group_key
) calls USING (group_key)
LEFT JOIN (
    SELECT group_key, count(first_polled_at) AS messages
    FROM receiptd.message_milestones WHERE sent_at >= $2 AND sent_at < $3
        AND group_key BETWEEN $5 AND $6 AND group_key <> ALL ($7) GROUP BY group_key
) sent USING (group_key)
LEFT JOIN (
    SELECT group_key, count(read_rate_24h) AS messages,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY read_rate_24h) AS median,
        percentile_cont(0.9) WITHIN GROUP (ORDER BY read_rate_24h) AS p90
    FROM receiptd.message_milestones
    WHERE sent_at >= $2 - interval '24 hours' AND sent_at < $3 - interval '24 hours'
        AND group_key BETWEEN $5 AND $6 AND group_key <> ALL ($7) GROUP BY group_key
) aged USING (group_key)
LEFT JOIN (
    SELECT m.group_key, count(*) AS messages, sum(CASE WHEN m.last_changed_at < $3 THEN m.unread_num ELSE (
        SELECT s.unread_num FROM receiptd.receipt_snapshots s
        WHERE s.group_key = m.group_key AND s.msg_seq = m.msg_seq AND s.polled_at >= m.first_polled_at AND s.polled_at < $3
            AND s.unread_num IS NOT NULL
        ORDER BY s.polled_at DESC LIMIT 1
    ) END) AS unread
    FROM receiptd.message_milestones m
    WHERE (m.closed_at IS NULL OR m.closed_at >= $3) AND m.first_polled_at < $3
        AND m.group_key BETWEEN $5 AND $6 AND m.group_key <> ALL ($7) GROUP BY m.group_key
) alive USING (group_key)
LEFT JOIN (
    SELECT group_key, 1 - sum(extract(epoch FROM upper(gap) - lower(gap))) / 3600 AS coverage
    FROM (
        SELECT group_key, unnest(range_agg(tstzrange(gap_from, gap_until) * tstzrange($2, $3))) AS gap
        FROM receiptd.poll_gaps WHERE gap_until > $2 AND gap_from < $3 GROUP BY group_key
    ) gap GROUP BY group_key
) gaps USING (group_key)
WHERE g.sdk_app_id = $1 AND g.group_key BETWEEN $5 AND $6 AND g.group_key <> ALL ($7)
    AND coalesce(nullif(alive.messages, 0), calls.calls, nullif(sent.messages, 0), reads.gained, reads.found) IS NOT NULL
ORDER BY g.group_key
ON CONFLICT (group_key, hour) DO UPDATE SET messages_sent = EXCLUDED.messages_sent,
    messages_active = EXCLUDED.messages_active, reads_gained = EXCLUDED.reads_gained, reads_lost = EXCLUDED.reads_lost,
    reads_found = EXCLUDED.reads_found, messages_aged_24h = EXCLUDED.messages_aged_24h,
    median_read_rate_24h = EXCLUDED.median_read_rate_24h, p90_read_rate_24h = EXCLUDED.p90_read_rate_24h,
    unread_backlog = EXCLUDED.unread_backlog, polls = EXCLUDED.polls, calls = EXCLUDED.calls, coverage = EXCLUDED.coverage
