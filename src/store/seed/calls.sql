-- $1 app, $2 day, $3 the end: a call for each group every ten minutes of the day. One group was refused for an hour, five
-- days before the end; none was polled for three hours, ten days before it.
INSERT INTO receiptd.api_calls (called_at, group_key, attempt, messages_asked, messages_answered, entries_bad, class, code,
    http_status, latency_ms, error, due_at)
SELECT c.at, g.group_key, 1, 50, CASE WHEN c.fails THEN 0 ELSE 50 END, 0, CASE WHEN c.fails THEN 'retry' ELSE 'success' END,
    CASE WHEN c.fails THEN 10002 ELSE 0 END, 200, 20, CASE WHEN c.fails THEN 'server internal error' END,
    CASE WHEN c.at - interval '10 minutes' < c.outage_end AND c.at >= c.outage_end THEN c.outage_end - interval '3 hours'
        WHEN c.refused AND NOT c.fails AND c.at >= c.refusal_end AND c.at - interval '10 minutes' < c.refusal_end
            THEN c.refusal_end - interval '1 hour'
        ELSE c.at - interval '1 second' END
FROM receiptd.watched_groups g
CROSS JOIN LATERAL (
    SELECT t.at, $3 - interval '10 days' AS outage_end, $3 - interval '5 days' AS refusal_end,
        g.group_id = 'class-2' AS refused,
        g.group_id = 'class-2' AND t.at >= $3 - interval '5 days 1 hour' AND t.at < $3 - interval '5 days' AS fails
    FROM (
        SELECT $2 + n * interval '10 minutes' + g.group_key % 600 * interval '1 second' AS at FROM generate_series(0, 143) AS n
    ) t
    WHERE t.at < $3 AND NOT (t.at >= $3 - interval '10 days 3 hours' AND t.at < $3 - interval '10 days')
) c
WHERE g.sdk_app_id = $1
ORDER BY c.at
