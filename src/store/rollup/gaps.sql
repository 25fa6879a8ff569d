-- $1 app, $2 from, $3 until, groups from $5 to $6 without $7: the gaps that ended in the span: polls that were made more than a minute after they were due,
-- joined where they overlap within a group. (What spans join beyond that is for the view poll_coverage: so it does not matter
-- where a span was cut.)
WITH late AS (
    SELECT c.group_key, c.due_at, c.called_at, c.messages_answered
    FROM receiptd.api_calls c
    JOIN receiptd.watched_groups g USING (group_key)
    WHERE g.sdk_app_id = $1 AND g.group_key BETWEEN $5 AND $6 AND g.group_key <> ALL ($7) AND c.called_at >= $2 AND c.called_at < $3 AND c.messages_answered > 0
        AND c.due_at < c.called_at - interval '1 minute'
), gaps AS (
    SELECT group_key, lower(gap) AS gap_from, upper(gap) AS gap_until,
        -- Not its last quarter, in which others may have been called after a stop, before this group's turn came.
        upper(gap) - (upper(gap) - lower(gap)) / 4 AS told_until
    FROM (SELECT group_key, unnest(range_agg(tstzrange(due_at, called_at, '[]'))) AS gap FROM late GROUP BY group_key) merged
), answered AS (
    -- When others were polled meanwhile: for the last hours to some seconds, for earlier ones to the hour. All calls of a long
    -- gap would be too many to read.
    SELECT DISTINCT date_bin('15 seconds', c.called_at, '2000-01-01Z') AS began,
        date_bin('15 seconds', c.called_at, '2000-01-01Z') + interval '15 seconds' AS ended
    FROM receiptd.api_calls c
    JOIN receiptd.watched_groups g USING (group_key)
    WHERE g.sdk_app_id = $1 AND EXISTS (SELECT FROM gaps) AND c.messages_answered > 0 AND c.called_at < $3
        AND c.called_at >= greatest((SELECT min(gap_from) FROM gaps), $3 - interval '6 hours')
    UNION
    SELECT DISTINCT h.hour, h.hour + interval '1 hour'
    FROM receiptd.group_receipts_hourly h
    JOIN receiptd.watched_groups g USING (group_key)
    WHERE g.sdk_app_id = $1 AND h.polls > 0 AND h.hour < $3
        AND h.hour >= (SELECT min(gap_from) FROM gaps WHERE gap_from < $3 - interval '6 hours')
)
INSERT INTO receiptd.poll_gaps (group_key, gap_from, gap_until, messages, reason, code)
SELECT p.group_key, p.gap_from, p.gap_until,
    (SELECT least(sum(l.messages_answered), 2147483647) FROM late l
        WHERE l.group_key = p.group_key AND l.called_at BETWEEN p.gap_from AND p.gap_until),
    coalesce(failed.class, CASE WHEN EXISTS (
        SELECT FROM answered a WHERE a.began >= p.gap_from AND a.ended <= p.told_until
    ) THEN 'waiting' ELSE 'not_polling' END), failed.code
FROM gaps p
LEFT JOIN LATERAL (
    SELECT c.class, c.code FROM receiptd.api_calls c
    WHERE c.group_key = p.group_key AND c.class <> 'success' AND c.called_at BETWEEN p.gap_from AND p.gap_until
    ORDER BY c.called_at DESC LIMIT 1
) failed ON true
