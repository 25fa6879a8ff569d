-- $1 app, $2 from, $3 until: the gaps that ended in the span: polls that were made more than a minute after they were due,
-- joined where they overlap within a group.
WITH late AS (
    SELECT c.group_key, c.due_at, c.called_at, c.messages_answered
    FROM receiptd.api_calls c
    JOIN receiptd.watched_groups g USING (group_key)
    WHERE g.sdk_app_id = $1 AND c.called_at >= $2 AND c.called_at < $3 AND c.class = 'success'
        AND c.due_at < c.called_at - interval '1 minute'
), gaps AS (
    SELECT group_key, lower(gap) AS gap_from, upper(gap) AS gap_until
    FROM (SELECT group_key, unnest(range_agg(tstzrange(due_at, called_at, '[]'))) AS gap FROM late GROUP BY group_key) merged
), others AS (
    -- What was called meanwhile, no further back than tells the reason at a bearable price.
    SELECT c.group_key, c.called_at, c.class, c.code
    FROM receiptd.api_calls c
    JOIN receiptd.watched_groups g USING (group_key)
    WHERE g.sdk_app_id = $1 AND EXISTS (SELECT FROM gaps) AND c.called_at < $3
        AND c.called_at >= greatest((SELECT min(gap_from) FROM gaps), $3 - interval '6 hours')
), answered AS (
    SELECT DISTINCT date_bin('15 seconds', called_at, '2000-01-01Z') AS began FROM others WHERE class = 'success'
)
INSERT INTO receiptd.poll_gaps (group_key, gap_from, gap_until, messages, reason, code)
SELECT p.group_key, p.gap_from, p.gap_until,
    (SELECT sum(l.messages_answered) FROM late l
        WHERE l.group_key = p.group_key AND l.called_at BETWEEN p.gap_from AND p.gap_until),
    coalesce(failed.class, CASE WHEN EXISTS (
        -- Not in its last quarter, in which others may have been called after a stop, before this group's turn came.
        SELECT FROM answered a WHERE a.began >= p.gap_from
            AND a.began + interval '15 seconds' <= p.gap_until - (p.gap_until - p.gap_from) / 4
    ) THEN 'waiting' ELSE 'not_polling' END), failed.code
FROM gaps p
LEFT JOIN LATERAL (
    SELECT o.class, o.code FROM others o
    WHERE o.group_key = p.group_key AND o.class <> 'success' AND o.called_at BETWEEN p.gap_from AND p.gap_until
    ORDER BY o.called_at DESC LIMIT 1
) failed ON true
