-- Polls that come late again and again are one gap, a row for each hour of it.

CREATE OR REPLACE VIEW receiptd.poll_coverage AS
SELECT sdk_app_id, group_id, min(gap_from) AS gap_from, max(gap_until) AS gap_until,
    max(gap_until) - min(gap_from) AS duration, least(max(messages), 2147483647)::integer AS messages,
    (array_agg(reason ORDER BY gap_until - gap_from DESC, gap_until))[1] AS reason,
    (array_agg(code ORDER BY gap_until - gap_from DESC, gap_until))[1] AS code, group_key
FROM (
    -- Rows that overlap are other messages of the same gap, and rows that touch are its next hour.
    SELECT *, sum(row_messages) OVER (PARTITION BY group_key, sdk_app_id, group_id, number, hour) AS messages
    FROM (
        -- Each that begins after all before it have ended begins another gap.
        SELECT *, count(*) FILTER (WHERE (gap_from > prior_until) IS NOT FALSE) OVER gaps AS number,
            count(*) FILTER (WHERE gap_from >= prior_until) OVER gaps AS hour
        FROM (
            SELECT g.sdk_app_id, g.group_id, p.group_key, p.gap_from, p.gap_until, p.messages AS row_messages, p.reason, p.code,
                max(p.gap_until) OVER (
                    PARTITION BY p.group_key, g.sdk_app_id, g.group_id ORDER BY p.gap_from, p.gap_until
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                ) AS prior_until
            FROM receiptd.poll_gaps p
            JOIN receiptd.watched_groups g USING (group_key)
        ) seen
        WINDOW gaps AS (PARTITION BY group_key, sdk_app_id, group_id ORDER BY gap_from, gap_until)
    ) numbered
) gaps
GROUP BY group_key, sdk_app_id, group_id, number
UNION ALL
SELECT sdk_app_id, group_id, min(since), NULL, now() - min(since), count(*)::integer,
    CASE WHEN state <> 'active' THEN state WHEN max(failures) > 0 THEN 'failing' ELSE 'waiting' END, state_code, group_key
FROM (
    SELECT g.sdk_app_id, g.group_id, g.group_key, g.state, g.state_code, s.failures,
        coalesce(s.last_polled_at, s.next_poll_at) AS since
    FROM receiptd.poll_slots s
    JOIN receiptd.watched_groups g USING (group_key)
    JOIN receiptd.watched_messages m USING (group_key, slot_id)
    WHERE s.next_poll_at < now() - interval '1 minute' OR s.failures > 0 OR g.state <> 'active'
    UNION ALL
    SELECT g.sdk_app_id, g.group_id, g.group_key, g.state, g.state_code, 0, m.added_at
    FROM receiptd.watched_messages m
    JOIN receiptd.watched_groups g USING (group_key)
    WHERE m.slot_id IS NULL AND m.state = 'active' AND m.added_at < now() - interval '1 minute'
) waiting
GROUP BY group_key, sdk_app_id, group_id, state, state_code;

COMMENT ON TABLE receiptd.poll_gaps IS 'Spans in which messages of a group were due and nothing was observed of them in time, once they have ended. Late polls that follow each other within 15 minutes, without one in time between them, are one gap; it has a row for each hour in which such polls were made. See the view poll_coverage.';
COMMENT ON COLUMN receiptd.poll_gaps.gap_from IS 'When the first of its polls was due, or when the row of the hour before ends, if it goes on from there.';
COMMENT ON COLUMN receiptd.poll_gaps.messages IS 'How many messages it concerns: the most that were late at a time.';
