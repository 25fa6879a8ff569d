-- What analysts ask: each question a view or a function, with the app and the group spelt out.

-- Analysts name the group, and often not the app.
CREATE INDEX watched_groups_by_id ON receiptd.watched_groups (group_id);

-- Both arms are joined to the groups by themselves, so that a filter by group reaches either by its index.
CREATE OR REPLACE VIEW receiptd.latest_receipts AS
SELECT g.sdk_app_id, g.group_id, m.msg_seq, m.sent_at, m.state, m.read_num, m.unread_num, m.receipt_code,
    m.first_polled_at, m.last_changed_at,
    CASE WHEN m.first_polled_at IS NOT NULL THEN coalesce(m.known_until, s.last_polled_at) END AS known_until,
    m.closed_at, m.group_key
FROM receiptd.watched_messages m
JOIN receiptd.watched_groups g USING (group_key)
LEFT JOIN receiptd.poll_slots s ON s.group_key = m.group_key AND s.slot_id = m.slot_id
UNION ALL
SELECT g.sdk_app_id, g.group_id, m.msg_seq, m.sent_at, m.state, m.read_num, m.unread_num, m.receipt_code,
    m.first_polled_at, m.last_changed_at, m.known_until, m.closed_at, m.group_key
FROM receiptd.message_milestones m
JOIN receiptd.watched_groups g USING (group_key)
WHERE m.closed_at IS NOT NULL;

CREATE OR REPLACE VIEW receiptd.receipt_history AS
SELECT g.sdk_app_id, g.group_id, h.msg_seq, h.polled_at, h.read_num, h.unread_num, h.code, h.prior_polled_at, h.source,
    h.group_key, h.prior_read_num
FROM receiptd.receipt_snapshots h
JOIN receiptd.watched_groups g USING (group_key);

CREATE VIEW receiptd.read_speed AS
SELECT g.sdk_app_id, g.group_id, m.msg_seq, m.sent_at, m.state,
    CASE WHEN m.first_read_by IS NOT NULL THEN greatest(m.first_read_after - m.sent_at, '0') END AS first_read_at_least,
    CASE WHEN m.first_read_by IS NOT NULL THEN greatest(m.first_read_by - m.sent_at, '0') END AS first_read_at_most,
    CASE WHEN m.half_read_by IS NOT NULL THEN greatest(m.half_read_after - m.sent_at, '0') END AS half_read_at_least,
    CASE WHEN m.half_read_by IS NOT NULL THEN greatest(m.half_read_by - m.sent_at, '0') END AS half_read_at_most,
    CASE WHEN m.p90_read_by IS NOT NULL THEN greatest(m.p90_read_after - m.sent_at, '0') END AS p90_read_at_least,
    CASE WHEN m.p90_read_by IS NOT NULL THEN greatest(m.p90_read_by - m.sent_at, '0') END AS p90_read_at_most,
    CASE WHEN m.all_read_by IS NOT NULL THEN greatest(m.all_read_after - m.sent_at, '0') END AS all_read_at_least,
    CASE WHEN m.all_read_by IS NOT NULL THEN greatest(m.all_read_by - m.sent_at, '0') END AS all_read_at_most,
    m.read_rate_15m, m.read_rate_1h, m.read_rate_24h, m.read_rate_7d, m.group_key
FROM receiptd.message_milestones m
JOIN receiptd.watched_groups g USING (group_key);

CREATE VIEW receiptd.never_read AS
SELECT sdk_app_id, group_id, msg_seq, sent_at, state, unread_num, first_polled_at, known_until,
    known_until - sent_at AS unread_for, group_key
FROM receiptd.latest_receipts
WHERE read_num = 0 AND unread_num > 0;

CREATE VIEW receiptd.unread_backlog AS
SELECT g.sdk_app_id, g.group_id, m.messages, m.read_num, m.unread_num,
    (m.read_num / nullif(m.read_num + m.unread_num, 0)::double precision)::real AS read_rate,
    m.never_read, m.oldest_unread, m.group_key
FROM (
    SELECT group_key, count(*) AS messages, sum(read_num) AS read_num, sum(unread_num) AS unread_num,
        count(*) FILTER (WHERE read_num = 0 AND unread_num > 0) AS never_read,
        min(sent_at) FILTER (WHERE unread_num > 0) AS oldest_unread
    FROM receiptd.watched_messages
    WHERE state = 'active' AND read_num IS NOT NULL
    GROUP BY group_key
) m
JOIN receiptd.watched_groups g USING (group_key);

CREATE VIEW receiptd.hourly_receipts AS
SELECT g.sdk_app_id, g.group_id, h.hour, h.messages_sent, h.messages_active, h.reads_gained, h.reads_lost,
    h.reads_found, h.messages_aged_24h, h.median_read_rate_24h, h.p90_read_rate_24h, h.unread_backlog, h.polls, h.calls,
    h.coverage, h.group_key
FROM receiptd.group_receipts_hourly h
JOIN receiptd.watched_groups g USING (group_key);

CREATE VIEW receiptd.group_engagement AS
SELECT g.sdk_app_id, g.group_id, l.rolled_up_until AS as_of, h.messages_sent_7d, h.reads_7d,
    m.messages_aged_7d, m.read_rate_7d::real, m.read_rate_before::real, (m.read_rate_7d - m.read_rate_before)::real AS trend,
    m.half_read_7d, m.last_sent_at, g.group_key
FROM receiptd.watched_groups g
JOIN receiptd.poller_leases l USING (sdk_app_id)
JOIN (
    -- Read rates are those of messages a day old: so the last seven days are those sent until a day ago.
    SELECT m.group_key, max(m.sent_at) AS last_sent_at,
        count(m.read_rate_24h) FILTER (WHERE is_recent) AS messages_aged_7d,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY m.read_rate_24h) FILTER (WHERE is_recent) AS read_rate_7d,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY m.read_rate_24h) FILTER (WHERE NOT is_recent) AS read_rate_before,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY m.half_read_by - m.sent_at) FILTER (WHERE is_recent) AS half_read_7d
    FROM receiptd.message_milestones m
    JOIN receiptd.watched_groups g USING (group_key)
    JOIN receiptd.poller_leases l USING (sdk_app_id)
    CROSS JOIN LATERAL (SELECT m.sent_at >= l.rolled_up_until - interval '8 days' AS is_recent) AS age
    WHERE m.sent_at >= l.rolled_up_until - interval '15 days' AND m.sent_at < l.rolled_up_until
    GROUP BY m.group_key
) m USING (group_key)
LEFT JOIN (
    SELECT h.group_key, sum(h.messages_sent) AS messages_sent_7d, sum(h.reads_gained) AS reads_7d
    FROM receiptd.group_receipts_hourly h
    JOIN receiptd.watched_groups g USING (group_key)
    JOIN receiptd.poller_leases l USING (sdk_app_id)
    WHERE h.hour >= l.rolled_up_until - interval '7 days'
    GROUP BY h.group_key
) h USING (group_key);

CREATE VIEW receiptd.poll_coverage AS
SELECT g.sdk_app_id, g.group_id, p.gap_from, p.gap_until, p.gap_until - p.gap_from AS duration, p.messages, p.reason, p.code,
    p.group_key
FROM receiptd.poll_gaps p
JOIN receiptd.watched_groups g USING (group_key)
UNION ALL
SELECT g.sdk_app_id, g.group_id, s.gap_from, NULL, now() - s.gap_from, s.messages,
    CASE WHEN g.state = 'active' THEN s.reason ELSE g.state END, g.state_code, g.group_key
FROM (
    SELECT s.group_key, min(coalesce(s.last_polled_at, s.next_poll_at)) AS gap_from,
        count(m.msg_seq)::integer AS messages,
        CASE WHEN max(s.failures) > 0 THEN 'failing' ELSE 'waiting' END AS reason
    FROM receiptd.poll_slots s
    JOIN receiptd.watched_groups g USING (group_key)
    JOIN receiptd.watched_messages m USING (group_key, slot_id)
    WHERE s.next_poll_at < now() - interval '1 minute' OR s.failures > 0 OR g.state <> 'active'
    GROUP BY s.group_key
) s
JOIN receiptd.watched_groups g USING (group_key);

CREATE VIEW receiptd.data_freshness AS
SELECT sdk_app_id, rolled_up_until FROM receiptd.poller_leases;

-- Written so that the planner can put it into the query around it: a filter by group then reaches the index.
CREATE FUNCTION receiptd.receipts_at(at timestamptz) RETURNS TABLE (
    sdk_app_id bigint, group_id text, msg_seq bigint, sent_at timestamptz, read_num integer, unread_num integer,
    code integer, observed_at timestamptz, group_key integer
) LANGUAGE sql STABLE AS $$
    SELECT l.sdk_app_id, l.group_id, l.msg_seq, l.sent_at, l.read_num, l.unread_num, l.receipt_code, l.last_changed_at,
        l.group_key
    FROM receiptd.latest_receipts l
    WHERE l.last_changed_at <= $1
    UNION ALL
    SELECT l.sdk_app_id, l.group_id, l.msg_seq, l.sent_at, h.read_num, h.unread_num, h.code, h.polled_at, l.group_key
    FROM receiptd.latest_receipts l
    CROSS JOIN LATERAL (
        SELECT h.read_num, h.unread_num, h.code, h.polled_at
        FROM receiptd.receipt_history h
        WHERE h.group_key = l.group_key AND h.msg_seq = l.msg_seq
            AND h.polled_at BETWEEN l.first_polled_at AND $1
        ORDER BY h.polled_at DESC LIMIT 1
    ) h
    WHERE l.first_polled_at <= $1 AND l.last_changed_at > $1
$$;

CREATE FUNCTION receiptd.receipt_curve(group_id text, msg_seq bigint, step interval, sdk_app_id bigint DEFAULT NULL)
RETURNS TABLE (at timestamptz, age interval, read_num integer, unread_num integer, read_rate real)
LANGUAGE sql STABLE AS $$
    WITH message AS (
        SELECT group_key, msg_seq, sent_at, first_polled_at, known_until
        FROM receiptd.latest_receipts l
        WHERE l.group_id = $1 AND l.msg_seq = $2 AND l.sdk_app_id = coalesce($4, l.sdk_app_id)
    ), points AS (
        SELECT m.group_key, m.sent_at, s.at, NULL::integer AS read_num, NULL::integer AS unread_num, true AS is_step
        FROM message m CROSS JOIN generate_series(m.sent_at, m.known_until, $3) AS s (at)
        UNION ALL
        SELECT m.group_key, m.sent_at, h.polled_at, h.read_num, h.unread_num, false
        FROM message m JOIN receiptd.receipt_snapshots h USING (group_key, msg_seq)
        WHERE h.polled_at BETWEEN m.first_polled_at AND m.known_until
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

COMMENT ON FUNCTION receiptd.receipts_at(timestamptz) IS 'The counts of every message as they were known at that moment, and since when. Example: SELECT sum(unread_num) FROM receiptd.receipts_at(''2026-11-20 18:00+00'') WHERE group_id = ''@TGS#2TTV7VSII''. It needs the snapshots of messages that have changed since.';
COMMENT ON FUNCTION receiptd.receipt_curve(text, bigint, interval, bigint) IS 'How a message was read: its counts at even steps from its sending to its last poll, carried forward; null before the first poll. Example: SELECT * FROM receiptd.receipt_curve(''@TGS#2TTV7VSII'', 102, ''5 minutes''). The app is needed only where two have a group of this id.';

COMMENT ON COLUMN receiptd.receipt_history.prior_read_num IS 'read_num of the row before: the difference is what was read in between. Null for the first observation.';
COMMENT ON VIEW receiptd.read_speed IS 'How fast each message was read, as the shortest and the longest time that polling allows. Example: SELECT msg_seq, half_read_at_least, half_read_at_most FROM receiptd.read_speed WHERE group_id = ''@TGS#2TTV7VSII''.';
COMMENT ON COLUMN receiptd.read_speed.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.read_speed.group_id IS 'Group id as Tencent Chat writes it.';
COMMENT ON COLUMN receiptd.read_speed.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.read_speed.sent_at IS 'When the message was sent, as said by whoever watched it.';
COMMENT ON COLUMN receiptd.read_speed.state IS 'active, or why polling ended.';
COMMENT ON COLUMN receiptd.read_speed.first_read_at_least IS 'The shortest time until somebody had read it; null if nobody was seen to.';
COMMENT ON COLUMN receiptd.read_speed.first_read_at_most IS 'By this time after sending somebody had read it; null if nobody was seen to.';
COMMENT ON COLUMN receiptd.read_speed.half_read_at_least IS 'The shortest time until half had read it; null if half were not seen to.';
COMMENT ON COLUMN receiptd.read_speed.half_read_at_most IS 'The longest time until half had read it; null if half were not seen to.';
COMMENT ON COLUMN receiptd.read_speed.p90_read_at_least IS 'The shortest time until 90 % had read it; null if they were not seen to.';
COMMENT ON COLUMN receiptd.read_speed.p90_read_at_most IS 'The longest time until 90 % had read it; null if they were not seen to.';
COMMENT ON COLUMN receiptd.read_speed.all_read_at_least IS 'The shortest time until all had read it; null if they were not seen to.';
COMMENT ON COLUMN receiptd.read_speed.all_read_at_most IS 'The longest time until all had read it; null if they were not seen to.';
COMMENT ON COLUMN receiptd.read_speed.read_rate_15m IS 'Share of members who had read it after 15 minutes.';
COMMENT ON COLUMN receiptd.read_speed.read_rate_1h IS 'The same after an hour.';
COMMENT ON COLUMN receiptd.read_speed.read_rate_24h IS 'The same after a day.';
COMMENT ON COLUMN receiptd.read_speed.read_rate_7d IS 'The same after seven days.';
COMMENT ON COLUMN receiptd.read_speed.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON VIEW receiptd.never_read IS 'Messages that nobody has read, as far as polls have told. Example: SELECT group_id, msg_seq, unread_for FROM receiptd.never_read WHERE unread_for > ''1 day''.';
COMMENT ON COLUMN receiptd.never_read.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.never_read.group_id IS 'Group id as Tencent Chat writes it.';
COMMENT ON COLUMN receiptd.never_read.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.never_read.sent_at IS 'When the message was sent, as said by whoever watched it.';
COMMENT ON COLUMN receiptd.never_read.state IS 'active, or why polling ended.';
COMMENT ON COLUMN receiptd.never_read.unread_num IS 'Members who have not read it: all who count.';
COMMENT ON COLUMN receiptd.never_read.first_polled_at IS 'First poll that told something of the message.';
COMMENT ON COLUMN receiptd.never_read.known_until IS 'Last poll that saw it unread.';
COMMENT ON COLUMN receiptd.never_read.unread_for IS 'For how long after its sending it was seen unread.';
COMMENT ON COLUMN receiptd.never_read.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON VIEW receiptd.unread_backlog IS 'What is unread now in each group, over the messages that are being polled. Example: SELECT group_id, unread_num FROM receiptd.unread_backlog ORDER BY unread_num DESC LIMIT 10.';
COMMENT ON COLUMN receiptd.unread_backlog.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.unread_backlog.group_id IS 'Group id as Tencent Chat writes it.';
COMMENT ON COLUMN receiptd.unread_backlog.messages IS 'Messages that are polled and have counts.';
COMMENT ON COLUMN receiptd.unread_backlog.read_num IS 'Sum of their read counts.';
COMMENT ON COLUMN receiptd.unread_backlog.unread_num IS 'Sum of their unread counts.';
COMMENT ON COLUMN receiptd.unread_backlog.read_rate IS 'Share of the two sums that is read.';
COMMENT ON COLUMN receiptd.unread_backlog.never_read IS 'How many of the messages nobody has read.';
COMMENT ON COLUMN receiptd.unread_backlog.oldest_unread IS 'When the oldest message was sent that not all have read.';
COMMENT ON COLUMN receiptd.unread_backlog.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON VIEW receiptd.hourly_receipts IS 'group_receipts_hourly with app and group spelt out. Example: SELECT hour, reads_gained, coverage FROM receiptd.hourly_receipts WHERE group_id = ''@TGS#2TTV7VSII'' ORDER BY hour.';
COMMENT ON COLUMN receiptd.hourly_receipts.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.hourly_receipts.group_id IS 'Group id as Tencent Chat writes it.';
COMMENT ON COLUMN receiptd.hourly_receipts.hour IS 'Beginning of the hour.';
COMMENT ON COLUMN receiptd.hourly_receipts.messages_sent IS 'Messages that were sent in this hour.';
COMMENT ON COLUMN receiptd.hourly_receipts.messages_active IS 'Messages that were being polled at its end.';
COMMENT ON COLUMN receiptd.hourly_receipts.reads_gained IS 'Reads seen to come in.';
COMMENT ON COLUMN receiptd.hourly_receipts.reads_lost IS 'Reads seen to go: members who had read and left.';
COMMENT ON COLUMN receiptd.hourly_receipts.reads_found IS 'Reads that first polls found.';
COMMENT ON COLUMN receiptd.hourly_receipts.messages_aged_24h IS 'Messages that became 24 hours old in this hour.';
COMMENT ON COLUMN receiptd.hourly_receipts.median_read_rate_24h IS 'Median of their read rates at that age.';
COMMENT ON COLUMN receiptd.hourly_receipts.p90_read_rate_24h IS '90th percentile of the same.';
COMMENT ON COLUMN receiptd.hourly_receipts.unread_backlog IS 'Sum of unread counts at the end of the hour.';
COMMENT ON COLUMN receiptd.hourly_receipts.polls IS 'Calls that were answered.';
COMMENT ON COLUMN receiptd.hourly_receipts.calls IS 'Attempts to call.';
COMMENT ON COLUMN receiptd.hourly_receipts.coverage IS 'Share of the hour that lies in no gap.';
COMMENT ON COLUMN receiptd.hourly_receipts.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON VIEW receiptd.group_engagement IS 'How each group reads: the last seven days and the seven before, by messages a day old. As of the last roll-up, not of now. Example: SELECT group_id, read_rate_7d, trend FROM receiptd.group_engagement ORDER BY trend NULLS LAST LIMIT 10.';
COMMENT ON COLUMN receiptd.group_engagement.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.group_engagement.group_id IS 'Group id as Tencent Chat writes it.';
COMMENT ON COLUMN receiptd.group_engagement.as_of IS 'Until when data is rolled up: the days count back from here.';
COMMENT ON COLUMN receiptd.group_engagement.messages_sent_7d IS 'Messages sent in the last seven days.';
COMMENT ON COLUMN receiptd.group_engagement.reads_7d IS 'Reads that came in in the last seven days.';
COMMENT ON COLUMN receiptd.group_engagement.messages_aged_7d IS 'Messages that became a day old in the last seven days and have a read rate at that age.';
COMMENT ON COLUMN receiptd.group_engagement.read_rate_7d IS 'Median share of members who had read them when they were a day old.';
COMMENT ON COLUMN receiptd.group_engagement.read_rate_before IS 'The same of the seven days before.';
COMMENT ON COLUMN receiptd.group_engagement.trend IS 'Difference of the two: negative where a group grows quiet.';
COMMENT ON COLUMN receiptd.group_engagement.half_read_7d IS 'Median of the time until half had read, at most, of the messages that half have read.';
COMMENT ON COLUMN receiptd.group_engagement.last_sent_at IS 'When the newest message was sent.';
COMMENT ON COLUMN receiptd.group_engagement.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON VIEW receiptd.poll_coverage IS 'Gaps: where and for how long nothing was observed though it was due, and why. Complete is what has no row here. Example: SELECT * FROM receiptd.poll_coverage WHERE group_id = ''@TGS#2TTV7VSII'' ORDER BY gap_from.';
COMMENT ON COLUMN receiptd.poll_coverage.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.poll_coverage.group_id IS 'Group id as Tencent Chat writes it.';
COMMENT ON COLUMN receiptd.poll_coverage.gap_from IS 'When the first poll was due that was not made in time; of a gap that goes on, the last poll.';
COMMENT ON COLUMN receiptd.poll_coverage.gap_until IS 'When the last late poll was made; null while the gap goes on.';
COMMENT ON COLUMN receiptd.poll_coverage.duration IS 'How long it lasted, or has lasted.';
COMMENT ON COLUMN receiptd.poll_coverage.messages IS 'How many messages it concerns.';
COMMENT ON COLUMN receiptd.poll_coverage.reason IS 'Class of the last failed call of the group, as in api_calls; not_polling: no call of the app was answered; waiting: others were polled; of a gap that goes on: paused, quarantined, removed, failing or waiting.';
COMMENT ON COLUMN receiptd.poll_coverage.code IS 'Error code of Tencent Chat, if that was why.';
COMMENT ON COLUMN receiptd.poll_coverage.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON VIEW receiptd.data_freshness IS 'Until when milestones and roll-ups are complete. Example: SELECT now() - rolled_up_until FROM receiptd.data_freshness.';
COMMENT ON COLUMN receiptd.data_freshness.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.data_freshness.rolled_up_until IS 'Milestones, hourly rows and gaps are complete until then. latest_receipts and receipt_history are always up to date.';
