-- What analysts read: groups that have gone silent are among the groups, messages that nobody has begun to poll are a gap, a gap
-- is one row however the roll-up came upon it, the last counts stay where a receipt ends, steps are even in every time zone,
-- and a filter by group is one before groups are summed up.

CREATE OR REPLACE VIEW receiptd.unread_backlog AS
SELECT sdk_app_id, group_id, messages, read_num, unread_num,
    (read_num / nullif(read_num + unread_num, 0)::double precision)::real AS read_rate, never_read, oldest_unread, group_key
FROM (
    SELECT g.sdk_app_id, g.group_id, g.group_key, count(*) AS messages, sum(m.read_num) AS read_num,
        sum(m.unread_num) AS unread_num, count(*) FILTER (WHERE m.read_num = 0 AND m.unread_num > 0) AS never_read,
        min(m.sent_at) FILTER (WHERE m.unread_num > 0) AS oldest_unread
    FROM receiptd.watched_messages m
    JOIN receiptd.watched_groups g USING (group_key)
    WHERE m.state = 'active' AND m.read_num IS NOT NULL
    GROUP BY g.group_key, g.sdk_app_id, g.group_id
) of_groups;

CREATE OR REPLACE VIEW receiptd.group_engagement AS
SELECT sdk_app_id, group_id, l.rolled_up_until AS as_of, h.messages_sent_7d, h.reads_7d,
    coalesce(m.messages_aged_7d, 0) AS messages_aged_7d, m.read_rate_7d::real, m.read_rate_before::real,
    (m.read_rate_7d - m.read_rate_before)::real AS trend, m.half_read_7d, newest.sent_at AS last_sent_at, group_key
FROM receiptd.watched_groups g
JOIN receiptd.poller_leases l USING (sdk_app_id)
-- Seqs count up with time.
CROSS JOIN LATERAL (
    SELECT n.sent_at FROM receiptd.message_milestones n WHERE n.group_key = g.group_key ORDER BY n.msg_seq DESC LIMIT 1
) newest
LEFT JOIN (
    -- Read rates are those of messages a day old: so the last seven days are those sent until a day ago.
    SELECT g.sdk_app_id, g.group_id, g.group_key,
        count(m.read_rate_24h) FILTER (WHERE is_recent) AS messages_aged_7d,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY m.read_rate_24h) FILTER (WHERE is_recent) AS read_rate_7d,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY m.read_rate_24h) FILTER (WHERE NOT is_recent) AS read_rate_before,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY m.half_read_by - m.sent_at) FILTER (WHERE is_recent) AS half_read_7d
    FROM receiptd.message_milestones m
    JOIN receiptd.watched_groups g USING (group_key)
    JOIN receiptd.poller_leases l USING (sdk_app_id)
    CROSS JOIN LATERAL (SELECT m.sent_at >= l.rolled_up_until - interval '8 days' AS is_recent) AS age
    WHERE m.sent_at >= l.rolled_up_until - interval '15 days' AND m.sent_at < l.rolled_up_until
    GROUP BY g.group_key, g.sdk_app_id, g.group_id
) m USING (sdk_app_id, group_id, group_key)
LEFT JOIN (
    SELECT g.sdk_app_id, g.group_id, g.group_key, sum(h.messages_sent) AS messages_sent_7d, sum(h.reads_gained) AS reads_7d
    FROM receiptd.group_receipts_hourly h
    JOIN receiptd.watched_groups g USING (group_key)
    JOIN receiptd.poller_leases l USING (sdk_app_id)
    WHERE h.hour >= l.rolled_up_until - interval '7 days'
    GROUP BY g.group_key, g.sdk_app_id, g.group_id
) h USING (sdk_app_id, group_id, group_key)
WHERE g.state <> 'removed' OR m.group_key IS NOT NULL;

CREATE OR REPLACE VIEW receiptd.poll_coverage AS
SELECT sdk_app_id, group_id, min(gap_from) AS gap_from, max(gap_until) AS gap_until,
    max(gap_until) - min(gap_from) AS duration, sum(messages)::integer AS messages,
    (array_agg(reason ORDER BY gap_until - gap_from DESC, gap_until))[1] AS reason,
    (array_agg(code ORDER BY gap_until - gap_from DESC, gap_until))[1] AS code, group_key
FROM (
    -- Those that overlap are one: each that begins after all before it have ended begins another.
    SELECT *, count(*) FILTER (WHERE is_apart) OVER (PARTITION BY group_key, sdk_app_id, group_id ORDER BY gap_from, gap_until)
        AS number
    FROM (
        SELECT g.sdk_app_id, g.group_id, p.group_key, p.gap_from, p.gap_until, p.messages, p.reason, p.code,
            p.gap_from > max(p.gap_until) OVER (
                PARTITION BY p.group_key, g.sdk_app_id, g.group_id ORDER BY p.gap_from, p.gap_until
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS is_apart
        FROM receiptd.poll_gaps p
        JOIN receiptd.watched_groups g USING (group_key)
    ) seen
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

-- Written so that the planner can put it into the query around it: a filter by group then reaches the index.
CREATE OR REPLACE FUNCTION receiptd.receipts_at(at timestamptz) RETURNS TABLE (
    sdk_app_id bigint, group_id text, msg_seq bigint, sent_at timestamptz, read_num integer, unread_num integer,
    code integer, observed_at timestamptz, group_key integer
) LANGUAGE sql STABLE AS $$
    SELECT l.sdk_app_id, l.group_id, l.msg_seq, l.sent_at, l.read_num, l.unread_num, l.receipt_code, l.last_changed_at,
        l.group_key
    FROM receiptd.latest_receipts l
    WHERE l.last_changed_at <= $1
    UNION ALL
    SELECT l.sdk_app_id, l.group_id, l.msg_seq, l.sent_at, coalesce(h.read_num, counted.read_num),
        coalesce(h.unread_num, counted.unread_num), h.code, h.polled_at, l.group_key
    FROM receiptd.latest_receipts l
    CROSS JOIN LATERAL (
        SELECT h.read_num, h.unread_num, h.code, h.polled_at
        FROM receiptd.receipt_history h
        WHERE h.group_key = l.group_key AND h.msg_seq = l.msg_seq
            AND h.polled_at BETWEEN l.first_polled_at AND $1
        ORDER BY h.polled_at DESC LIMIT 1
    ) h
    -- Where the receipt had ended, the counts that were known last.
    LEFT JOIN LATERAL (
        SELECT c.read_num, c.unread_num
        FROM receiptd.receipt_history c
        WHERE h.read_num IS NULL AND c.group_key = l.group_key AND c.msg_seq = l.msg_seq AND c.read_num IS NOT NULL
            AND c.polled_at BETWEEN l.first_polled_at AND $1
        ORDER BY c.polled_at DESC LIMIT 1
    ) counted ON true
    WHERE l.first_polled_at <= $1 AND l.last_changed_at > $1
$$;

CREATE OR REPLACE FUNCTION receiptd.receipt_curve(group_id text, msg_seq bigint, step interval, sdk_app_id bigint DEFAULT NULL)
RETURNS TABLE (at timestamptz, age interval, read_num integer, unread_num integer, read_rate real)
LANGUAGE sql STABLE AS $$
    WITH message AS (
        SELECT group_key, msg_seq, sent_at, first_polled_at, known_until
        FROM receiptd.latest_receipts l
        WHERE l.group_id = $1 AND l.msg_seq = $2 AND l.sdk_app_id = coalesce($4, l.sdk_app_id)
    ), points AS (
        -- In UTC, where every day has 24 hours.
        SELECT m.group_key, m.sent_at, s.at AT TIME ZONE 'UTC' AS at, NULL::integer AS read_num, NULL::integer AS unread_num,
            true AS is_step
        FROM message m
        CROSS JOIN generate_series(m.sent_at AT TIME ZONE 'UTC', m.known_until AT TIME ZONE 'UTC', $3) AS s (at)
        UNION ALL
        SELECT m.group_key, m.sent_at, h.polled_at, h.read_num, h.unread_num, false
        FROM message m JOIN receiptd.receipt_snapshots h USING (group_key, msg_seq)
        WHERE h.polled_at BETWEEN m.first_polled_at AND m.known_until AND h.read_num IS NOT NULL
    ), spans AS (
        -- Each snapshot and the steps until the next one.
        SELECT p.*, count(*) FILTER (WHERE NOT is_step) OVER (PARTITION BY group_key ORDER BY p.at, is_step) AS span
        FROM points p
    ), carried AS (
        SELECT s.group_key, s.sent_at, s.at, s.is_step, first_value(s.read_num) OVER span AS read_num,
            first_value(s.unread_num) OVER span AS unread_num
        FROM spans s WINDOW span AS (PARTITION BY s.group_key, s.span ORDER BY s.at, s.is_step)
    )
    SELECT c.at, c.at - c.sent_at, c.read_num, c.unread_num, c.read_num / nullif(c.read_num + c.unread_num, 0)::real
    FROM carried c WHERE c.is_step ORDER BY c.group_key, c.at
$$;

COMMENT ON COLUMN receiptd.watched_messages.read_num IS 'Latest known count of members who have read it; null if none was ever known. Where receipt_code is not 0, the count before.';
COMMENT ON COLUMN receiptd.watched_messages.unread_num IS 'Latest known count of members who have not read it; null if none was ever known. Where receipt_code is not 0, the count before.';
COMMENT ON COLUMN receiptd.latest_receipts.read_num IS 'Members who have read the message, as last known; null if nothing was ever known. A receipt that has ended (receipt_code is not 0) keeps its last counts.';
COMMENT ON COLUMN receiptd.latest_receipts.unread_num IS 'Members who have not read the message, as last known; null if nothing was ever known.';
COMMENT ON COLUMN receiptd.latest_receipts.last_changed_at IS 'Poll at which these counts and this code were first seen.';
COMMENT ON COLUMN receiptd.latest_receipts.known_until IS 'Last poll that still saw the same: it held from last_changed_at until then.';
COMMENT ON COLUMN receiptd.receipt_snapshots.prior_read_num IS 'The read count that was known before: the difference is what was read in between. Null for the first count.';
COMMENT ON COLUMN receiptd.receipt_history.prior_read_num IS 'The read count that was known before: the difference is what was read in between. Null for the first count.';
COMMENT ON COLUMN receiptd.message_milestones.read_num IS 'Last known count of members who have read it. Where the receipt has ended (receipt_code is not 0), the count before.';
COMMENT ON COLUMN receiptd.message_milestones.sent_at IS 'When the message was sent: the earliest time that whoever watched it has said.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.reads_found IS 'Reads that the first count of a message had. gained - lost + found, added up over all hours, is the sum of the latest read counts.';
COMMENT ON COLUMN receiptd.hourly_receipts.reads_found IS 'Reads that the first counts of messages had.';
COMMENT ON COLUMN receiptd.group_engagement.last_sent_at IS 'When the newest message was sent, however long ago.';
COMMENT ON VIEW receiptd.group_engagement IS 'How each group reads: the last seven days and the seven before, by messages a day old. As of the last roll-up, not of now. Every watched group of which a message has been polled is here; read_rate_7d is null where none became a day old. Example: SELECT group_id, read_rate_7d, trend FROM receiptd.group_engagement ORDER BY trend NULLS LAST LIMIT 10.';
COMMENT ON VIEW receiptd.poll_coverage IS 'Gaps: where and for how long nothing was observed though it was due, and why. Complete is what has no row here; only a gap in which the messages were unwatched leaves none. Example: SELECT * FROM receiptd.poll_coverage WHERE group_id = ''@TGS#2TTV7VSII'' ORDER BY gap_from.';
COMMENT ON COLUMN receiptd.poll_coverage.gap_from IS 'When the first poll was due that was not made in time; of a gap that goes on, the last poll, or since when the messages are watched if there was none.';
COMMENT ON COLUMN receiptd.poll_coverage.reason IS 'Class of the last failed call of the group, as in api_calls; not_polling: no call of the app was answered; waiting: others were polled; of a gap that goes on: paused, quarantined, removed, failing or waiting. Where several make one gap, that of the longest.';
