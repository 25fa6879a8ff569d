-- $1 app, $2 the first hour, $3 the end of the last one, $4 rolled up until, groups from $5 to $6 without $7, $8 whether to count the
-- active messages, for a single hour, $9 end of receipts for messages that were closed in the hours: one row for each group and hour
-- with activity, or with other messages or unread counts at its end than before it. All hours together take one pass over the
-- snapshots.
--
-- Counting the active messages opens all slots, and takes off what has changed since the hour. That costs as much for an hour of
-- little activity as for a busy one. Otherwise the changes of the hours are added to the row before them.
WITH reads AS (
    SELECT group_key, hour, sum(gained) AS gained, sum(lost) AS lost, sum(found) AS found,
        sum(carried) AS carried, sum(first_seen) AS first_seen, sum(unread) AS unread,
        CASE WHEN sum(gained) > 0 THEN ARRAY[
            coalesce(sum(gained) FILTER (WHERE quarter = hour), 0),
            coalesce(sum(gained) FILTER (WHERE quarter = hour + interval '15 minutes'), 0),
            coalesce(sum(gained) FILTER (WHERE quarter = hour + interval '30 minutes'), 0),
            coalesce(sum(gained) FILTER (WHERE quarter = hour + interval '45 minutes'), 0)
        ]::bigint[] END AS by_quarter
    FROM (
        SELECT group_key, quarter, sum(greatest(read_num - prior_read_num, 0)) AS gained,
            sum(prior_read_num - read_num) FILTER (WHERE prior_read_num > read_num) AS lost,
            sum(read_num) FILTER (WHERE prior_read_num IS NULL) AS found,
            sum(greatest(read_num - prior_read_num, 0))
                FILTER (WHERE prior_polled_at < date_bin('1 hour', quarter, '2000-01-01Z')) AS carried,
            count(*) FILTER (WHERE prior_polled_at IS NULL) AS first_seen,
            sum(unread_num - coalesce(prior_unread_num, 0)) AS unread
        FROM (
            -- With OFFSET the planner expects few quarters. Otherwise it sorts all snapshots.
            SELECT group_key, date_bin('15 minutes', polled_at, '2000-01-01Z') AS quarter, prior_polled_at, read_num,
                prior_read_num, unread_num, prior_unread_num
            FROM receiptd.receipt_snapshots
            WHERE polled_at >= $2 AND polled_at < $3 AND group_key BETWEEN $5 AND $6 AND group_key <> ALL ($7) OFFSET 0
        ) snapshots
        GROUP BY group_key, quarter
    ) quarters
    CROSS JOIN LATERAL (SELECT date_bin('1 hour', quarter, '2000-01-01Z') AS hour) hours
    GROUP BY group_key, hour
), calls AS (
    SELECT group_key, date_bin('1 hour', called_at, '2000-01-01Z') AS hour, count(*) AS calls,
        count(*) FILTER (WHERE messages_answered > 0) AS polls
    FROM receiptd.api_calls WHERE called_at >= $2 AND called_at < $3 GROUP BY group_key, hour
), sent AS (
    SELECT * FROM (
        SELECT m.group_key, date_bin('1 hour', m.sent_at, '2000-01-01Z') AS hour,
            count(CASE WHEN m.slot_id IS NULL THEN m.first_polled_at ELSE (
                SELECT (receiptd.spread(s.first_polled_at, cardinality(s.msg_seqs)))[array_position(s.msg_seqs, m.msg_seq)] FROM receiptd.poll_slots s
                WHERE s.group_key = m.group_key AND s.slot_id = m.slot_id
            ) END) AS messages
        FROM receiptd.watched_messages m
        WHERE m.sent_at >= $2 AND m.sent_at < $3 AND m.group_key BETWEEN $5 AND $6 AND m.group_key <> ALL ($7)
        -- With OFFSET they are counted once, and not again for the condition.
        GROUP BY m.group_key, hour OFFSET 0
    ) polled WHERE messages > 0
), aged AS (
    SELECT group_key, hour, count(*) AS messages, percentile_cont(0.5) WITHIN GROUP (ORDER BY rate) AS median,
        percentile_cont(0.9) WITHIN GROUP (ORDER BY rate) AS p90
    FROM (
        SELECT m.group_key, date_bin('1 hour', m.sent_at, '2000-01-01Z') + interval '24 hours' AS hour,
            s.read_24h / nullif(s.read_24h::bigint + s.unread_24h, 0)::double precision AS rate
        FROM receiptd.watched_messages m
        -- Counts that a later change has stored stand in the row. Others depend on how long the latest counts held. With OFFSET
        -- each message is looked up by itself. Otherwise all slots may be opened to find those of a few messages.
        CROSS JOIN LATERAL (
            SELECT m.read_24h, m.unread_24h WHERE m.read_24h IS NOT NULL
            UNION ALL
            SELECT s.read_24h, s.unread_24h FROM receiptd.message_state s
            WHERE m.read_24h IS NULL AND s.group_key = m.group_key AND s.msg_seq = m.msg_seq OFFSET 0
        ) s
        WHERE m.sent_at >= $2 - interval '24 hours' AND m.sent_at < $3 - interval '24 hours'
            AND m.group_key BETWEEN $5 AND $6 AND m.group_key <> ALL ($7)
    ) rates WHERE rate IS NOT NULL GROUP BY group_key, hour
), closed AS (
    -- Messages that were closed in the hour. Some were closed shortly before, during a poll that then changed them.
    SELECT m.group_key, h.hour, count(*) FILTER (WHERE m.first_polled_at < h.ended AND (m.closed_at >= h.hour OR m.first_polled_at >= h.hour))
            AS messages, sum(CASE WHEN m.closed_at >= h.hour THEN m.unread_num - late.after ELSE late.within END) AS unread,
        count(*) FILTER (WHERE m.first_polled_at >= h.ended) AS messages_after, sum(late.after) AS unread_after
    FROM receiptd.watched_messages m
    CROSS JOIN LATERAL (
        SELECT hour, hour + interval '1 hour' AS ended
        FROM (
            SELECT date_bin('1 hour', m.closed_at, '2000-01-01Z') + later * interval '1 hour' AS hour FROM generate_series(0, 1) AS later
        ) hours WHERE hour >= $2 AND hour < $3
    ) h
    CROSS JOIN LATERAL (
        SELECT coalesce(sum(r.unread_num - coalesce(r.prior_unread_num, 0)) FILTER (WHERE r.polled_at < h.ended), 0) AS within,
            coalesce(sum(r.unread_num - coalesce(r.prior_unread_num, 0)) FILTER (WHERE r.polled_at >= h.ended), 0) AS after
        FROM receiptd.receipt_snapshots r
        WHERE m.last_changed_at >= CASE WHEN m.closed_at < h.hour THEN h.hour ELSE h.ended END AND r.group_key = m.group_key
            AND r.msg_seq = m.msg_seq AND r.polled_at >= h.hour AND r.polled_at < h.ended + interval '1 hour'
            -- Of these days, known before it runs.
            AND r.polled_at >= $2 AND r.polled_at < $9
    ) late
    WHERE m.closed_at >= $2 - interval '1 hour' AND m.closed_at < $3 AND m.group_key BETWEEN $5 AND $6 AND m.group_key <> ALL ($7)
    GROUP BY m.group_key, h.hour
), counted AS (
    SELECT group_key, $2 AS hour, sum(messages)::bigint AS messages, sum(unread)::bigint AS unread
    FROM (
        -- A sum per slot: all messages together would have to be sorted. unnest is fastest in a list of columns.
        SELECT s.group_key, e.messages, e.unread
        FROM receiptd.poll_slots s
        CROSS JOIN LATERAL (
            SELECT count(m.first_polled_at) AS messages, sum(m.member_num - m.read_num) AS unread
            FROM (
                SELECT unnest(receiptd.spread(s.first_polled_at, cardinality(s.msg_seqs))) AS first_polled_at,
                    unnest(receiptd.spread(s.member_num, cardinality(s.msg_seqs))) AS member_num,
                    unnest(receiptd.spread(s.read_num, cardinality(s.msg_seqs))) AS read_num
            ) m
        ) e
        WHERE $8
        UNION ALL
        SELECT group_key, count(first_polled_at), sum(unread_num) FROM receiptd.watched_messages
        WHERE $8 AND slot_id IS NULL AND (state = 'active' OR closed_at >= $3) GROUP BY group_key
        UNION ALL
        -- Rows in the future were dated by a wrong clock. Without $8 no partition is even opened for the plan.
        SELECT group_key, -count(*) FILTER (WHERE prior_polled_at IS NULL), -sum(unread_num - coalesce(prior_unread_num, 0))
        FROM receiptd.receipt_snapshots
        WHERE polled_at >= CASE WHEN $8 THEN $3 ELSE 'infinity' END AND polled_at < now() + interval '1 minute'
        GROUP BY group_key
    ) m
    WHERE group_key BETWEEN $5 AND $6 AND group_key <> ALL ($7) GROUP BY group_key
), gaps AS (
    SELECT group_key, hour, 1 - sum(extract(epoch FROM upper(gap) - lower(gap))) / 3600 AS coverage,
        bool_or(lower(gap) = hour) AS began_before
    FROM (
        SELECT p.group_key, hour, unnest(range_agg(tstzrange(p.gap_from, p.gap_until) * tstzrange(hour, hour + interval '1 hour'))) AS gap
        FROM receiptd.poll_gaps p
        JOIN generate_series($2, $3 - interval '1 hour', interval '1 hour') AS hour
            ON p.gap_until > hour AND p.gap_from < hour + interval '1 hour'
        WHERE p.gap_until > $2 AND p.gap_from < $3
        GROUP BY p.group_key, hour
    ) of_hours GROUP BY group_key, hour
), same AS (
    SELECT group_key, hour, true AS exists FROM receiptd.group_receipts_hourly WHERE hour >= $2 AND hour < $3
), facts AS (
    SELECT group_key, hour, coalesce(sent.messages, 0) AS messages_sent, coalesce(reads.gained, 0) AS reads_gained, reads.by_quarter,
        coalesce(reads.lost, 0) AS reads_lost, coalesce(reads.found, 0) AS reads_found, coalesce(aged.messages, 0) AS messages_aged_24h,
        aged.median, aged.p90, coalesce(calls.polls, 0) AS polls, coalesce(calls.calls, 0) AS calls,
        coalesce(gaps.coverage, 1) AS coverage,
        CASE WHEN gaps.began_before THEN coalesce(reads.carried, 0) ELSE 0 END AS reads_carried,
        -- Counts are compared with the row before.
        CASE WHEN $8 THEN coalesce(counted.messages, 0) + coalesce(closed.messages_after, 0) - coalesce(before.messages_active, 0)
            ELSE coalesce(reads.first_seen, 0) - coalesce(closed.messages, 0) END AS more_messages,
        CASE WHEN $8 THEN coalesce(counted.unread, 0) + coalesce(closed.unread_after, 0) - coalesce(before.unread_backlog, 0)
            ELSE coalesce(reads.unread, 0) - coalesce(closed.unread, 0) END AS more_unread,
        coalesce(before.messages_active, 0) AS messages_before, coalesce(before.unread_backlog, 0) AS unread_before,
        same.exists OR coalesce(calls.calls, sent.messages, aged.messages, reads.gained) IS NOT NULL AS is_active
    FROM reads
    FULL JOIN calls USING (group_key, hour)
    FULL JOIN sent USING (group_key, hour)
    FULL JOIN aged USING (group_key, hour)
    FULL JOIN closed USING (group_key, hour)
    FULL JOIN counted USING (group_key, hour)
    FULL JOIN gaps USING (group_key, hour)
    FULL JOIN same USING (group_key, hour)
    JOIN (
        SELECT g.group_key, h.messages_active, h.unread_backlog
        FROM receiptd.watched_groups g
        LEFT JOIN LATERAL (
            SELECT h.messages_active, h.unread_backlog FROM receiptd.group_receipts_hourly h
            WHERE h.group_key = g.group_key AND h.hour < $2 ORDER BY h.hour DESC LIMIT 1
        ) h ON true
        WHERE g.sdk_app_id = $1 AND g.group_key BETWEEN $5 AND $6 AND g.group_key <> ALL ($7)
    ) before USING (group_key)
), reckoned AS MATERIALIZED (
    SELECT * FROM (
        SELECT *, messages_before + sum(more_messages) OVER hours AS messages_active,
            unread_before + sum(more_unread) OVER hours AS unread_backlog
        FROM facts WINDOW hours AS (PARTITION BY group_key ORDER BY hour)
    ) ended
    WHERE is_active OR (messages_active > 0 AND coverage < 1) OR (more_messages, more_unread) <> (0, 0)
), kept AS (
    -- If hours are repeated, a later one without a row keeps the values that it took from the row before it.
    INSERT INTO receiptd.group_receipts_hourly (group_key, hour, messages_active, unread_backlog)
    SELECT group_key, $3, coalesce(old.messages_active, 0), coalesce(old.unread_backlog, 0)
    FROM (SELECT DISTINCT ON (group_key) * FROM reckoned ORDER BY group_key, hour DESC) new
    LEFT JOIN LATERAL (
        SELECT h.messages_active, h.unread_backlog FROM receiptd.group_receipts_hourly h
        WHERE h.group_key = new.group_key AND h.hour < $3 ORDER BY h.hour DESC LIMIT 1
    ) old ON true
    WHERE $3 < date_trunc('hour', $4::timestamptz, 'UTC')
        AND (new.messages_active, new.unread_backlog) <> (coalesce(old.messages_active, 0), coalesce(old.unread_backlog, 0))
    ORDER BY group_key
    ON CONFLICT (group_key, hour) DO NOTHING
)
INSERT INTO receiptd.group_receipts_hourly AS h (group_key, hour, messages_sent, messages_active, reads_gained, gained_by_quarter,
    reads_lost, reads_found, messages_aged_24h, median_read_rate_24h, p90_read_rate_24h, unread_backlog, polls, calls, coverage,
    reads_carried)
SELECT group_key, hour, messages_sent, messages_active, reads_gained, by_quarter, reads_lost, reads_found, messages_aged_24h, median, p90,
    unread_backlog, polls, calls, coverage, reads_carried
FROM reckoned ORDER BY group_key, hour
ON CONFLICT (group_key, hour) DO UPDATE SET messages_sent = EXCLUDED.messages_sent,
    messages_active = EXCLUDED.messages_active, reads_gained = EXCLUDED.reads_gained,
    gained_by_quarter = EXCLUDED.gained_by_quarter, reads_lost = EXCLUDED.reads_lost,
    reads_found = EXCLUDED.reads_found, messages_aged_24h = EXCLUDED.messages_aged_24h,
    median_read_rate_24h = EXCLUDED.median_read_rate_24h, p90_read_rate_24h = EXCLUDED.p90_read_rate_24h,
    unread_backlog = EXCLUDED.unread_backlog, polls = EXCLUDED.polls, calls = EXCLUDED.calls, coverage = EXCLUDED.coverage,
    reads_carried = EXCLUDED.reads_carried
-- Rows that would not change are not written.
WHERE (h.messages_sent, h.messages_active, h.reads_gained, h.gained_by_quarter, h.reads_lost, h.reads_found, h.messages_aged_24h,
        h.median_read_rate_24h, h.p90_read_rate_24h, h.unread_backlog, h.polls, h.calls, h.coverage, h.reads_carried)
    IS DISTINCT FROM (EXCLUDED.messages_sent, EXCLUDED.messages_active, EXCLUDED.reads_gained, EXCLUDED.gained_by_quarter,
        EXCLUDED.reads_lost, EXCLUDED.reads_found, EXCLUDED.messages_aged_24h, EXCLUDED.median_read_rate_24h,
        EXCLUDED.p90_read_rate_24h, EXCLUDED.unread_backlog, EXCLUDED.polls, EXCLUDED.calls, EXCLUDED.coverage,
        EXCLUDED.reads_carried)
