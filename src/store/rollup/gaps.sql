-- $1 app, $2 from, $3 until, within an hour, groups from $5 to $6 without $7: the gaps of this hour so far, of groups with a
-- late poll in the span: polls made more than a minute after they were due. Within a group they form one gap if they overlap,
-- or if at most 15 minutes and no poll in time are between them. A gap that continues one of the hour before begins where that
-- ended, so that the view poll_coverage joins them: it does not matter where an hour was cut.
WITH late_so_far AS (
    SELECT c.group_key, c.due_at, c.called_at, c.messages_answered
    FROM receiptd.api_calls c
    JOIN receiptd.watched_groups g USING (group_key)
    WHERE g.sdk_app_id = $1 AND g.group_key BETWEEN $5 AND $6 AND g.group_key <> ALL ($7)
        AND c.called_at >= date_trunc('hour', $2::timestamptz, 'UTC') AND c.called_at < $3 AND c.messages_answered > 0
        AND c.due_at < c.called_at - interval '1 minute'
), late AS (
    SELECT * FROM late_so_far WHERE group_key IN (SELECT group_key FROM late_so_far WHERE called_at >= $2)
), islands AS (
    SELECT group_key, lower(gap) AS gap_from, upper(gap) AS gap_until, sum(l.messages_answered) AS messages
    FROM (SELECT group_key, unnest(range_agg(tstzrange(due_at, called_at, '[]'))) AS gap FROM late GROUP BY group_key) merged
    JOIN late l USING (group_key)
    WHERE l.called_at BETWEEN lower(gap) AND upper(gap)
    GROUP BY group_key, gap
), before AS (
    SELECT group_key, max(gap_until) AS gap_until FROM receiptd.poll_gaps
    WHERE gap_until >= date_trunc('hour', $2, 'UTC') - interval '15 minutes'
        AND gap_until < date_trunc('hour', $2, 'UTC') GROUP BY group_key
), events AS (
    SELECT i.group_key, i.gap_from AS at, i.gap_from, i.gap_until, i.messages, NULL AS called_at, coalesce(
        lag(i.gap_until) OVER (PARTITION BY i.group_key ORDER BY i.gap_from), b.gap_until) AS prior_until
    FROM islands i LEFT JOIN before b USING (group_key)
    UNION ALL
    SELECT c.group_key, c.called_at, NULL, NULL, NULL, c.called_at, NULL
    FROM receiptd.api_calls c
    WHERE c.called_at >= date_trunc('hour', $2, 'UTC') - interval '15 minutes' AND c.called_at < $3 AND c.messages_answered > 0
        AND c.group_key IN (SELECT group_key FROM late)
), placed AS (
    -- Only polls in time can be between two of them, since the late ones form the gaps.
    SELECT group_key, gap_from, gap_until, messages, prior_until, coalesce(gap_from <= prior_until + interval '15 minutes'
        AND (polled_at <= prior_until OR polled_at IS NULL), false) AS goes_on
    FROM (
        SELECT *, max(called_at) OVER (
            PARTITION BY group_key ORDER BY at RANGE BETWEEN UNBOUNDED PRECEDING AND interval '1 microsecond' PRECEDING
        ) AS polled_at FROM events
    ) seen
    WHERE gap_from IS NOT NULL
), joined AS (
    SELECT group_key, gap_until, messages, CASE WHEN goes_on THEN least(gap_from, prior_until) ELSE gap_from END AS gap_from,
        count(*) FILTER (WHERE NOT goes_on) OVER (PARTITION BY group_key ORDER BY gap_until) AS number
    FROM placed
), gaps AS (
    SELECT group_key, min(gap_from) AS gap_from, max(gap_until) AS gap_until, least(max(messages), 2147483647) AS messages,
        -- Without its last quarter, in which others may have been called after a stop, before this group's turn.
        max(gap_until) - (max(gap_until) - min(gap_from)) / 4 AS told_until
    FROM joined GROUP BY group_key, number
), answered AS MATERIALIZED (
    -- When others were polled meanwhile: exact to seconds for the last hours, and to the hour for earlier ones. All calls of a
    -- long gap would be too many to read, and so would those of the last hours for each gap: they are read once.
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
SELECT p.group_key, p.gap_from, p.gap_until, p.messages,
    coalesce(failed.class, CASE WHEN EXISTS (
        SELECT FROM answered a WHERE a.began >= p.gap_from AND a.ended <= p.told_until
    ) THEN 'waiting' ELSE 'not_polling' END), failed.code
FROM gaps p
LEFT JOIN LATERAL (
    SELECT c.class, c.code FROM receiptd.api_calls c
    WHERE c.group_key = p.group_key AND c.class <> 'success' AND c.called_at BETWEEN p.gap_from AND p.gap_until
    ORDER BY c.called_at DESC LIMIT 1
) failed ON true
