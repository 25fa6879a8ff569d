-- $1 app, $2 from, $3 until, groups from $5 to $6 without $7: gaps that ended in the span and reach into earlier
-- hours are subtracted there. It is now also known which of the messages that became a day old in those hours had read rates:
-- those for which the next poll saw the same counts.
INSERT INTO receiptd.group_receipts_hourly (group_key, hour, messages_active, unread_backlog, coverage, messages_aged_24h,
    median_read_rate_24h, p90_read_rate_24h)
SELECT covered.group_key, covered.hour, last.messages_active, last.unread_backlog, covered.coverage, aged.messages, aged.median,
    aged.p90
FROM (
    SELECT hours.group_key, hours.hour, 1 - sum(extract(epoch FROM upper(gap) - lower(gap))) / 3600 AS coverage
    FROM (
        SELECT DISTINCT p.group_key, hour
        FROM receiptd.poll_gaps p
        JOIN receiptd.watched_groups g USING (group_key)
        CROSS JOIN LATERAL generate_series(date_trunc('hour', p.gap_from, 'UTC'),
            date_trunc('hour', $2::timestamptz, 'UTC') - interval '1 hour', '1 hour') AS hour
        WHERE g.sdk_app_id = $1 AND g.group_key BETWEEN $5 AND $6 AND g.group_key <> ALL ($7) AND p.gap_until >= $2 AND p.gap_until < $3
    ) hours
    CROSS JOIN LATERAL (
        SELECT unnest(range_agg(tstzrange(p.gap_from, p.gap_until) * tstzrange(hour, hour + interval '1 hour'))) AS gap
        FROM receiptd.poll_gaps p
        WHERE p.group_key = hours.group_key AND p.gap_until > hour AND p.gap_from < hour + interval '1 hour'
    ) gaps
    GROUP BY hours.group_key, hours.hour
) covered
-- Hours without a row get one if the group had messages in them.
CROSS JOIN LATERAL (
    SELECT h.hour, h.messages_active, h.unread_backlog FROM receiptd.group_receipts_hourly h
    WHERE h.group_key = covered.group_key AND h.hour <= covered.hour ORDER BY h.hour DESC LIMIT 1
) last
CROSS JOIN LATERAL (
    SELECT count(rate) AS messages, percentile_cont(0.5) WITHIN GROUP (ORDER BY rate) AS median,
        percentile_cont(0.9) WITHIN GROUP (ORDER BY rate) AS p90
    FROM (
        SELECT m.read_24h / nullif(m.read_24h::bigint + m.unread_24h, 0)::double precision AS rate
        FROM receiptd.message_state m
        WHERE m.group_key = covered.group_key AND m.sent_at >= covered.hour - interval '24 hours'
            AND m.sent_at < covered.hour - interval '23 hours'
    ) rates
) aged
WHERE last.hour = covered.hour OR (last.messages_active > 0 AND NOT EXISTS (
    SELECT FROM receiptd.rollup_passed_over p WHERE p.group_key = covered.group_key AND p.hour = covered.hour
))
ORDER BY covered.group_key, covered.hour
ON CONFLICT (group_key, hour) DO UPDATE SET coverage = EXCLUDED.coverage, messages_aged_24h = EXCLUDED.messages_aged_24h,
    median_read_rate_24h = EXCLUDED.median_read_rate_24h, p90_read_rate_24h = EXCLUDED.p90_read_rate_24h
