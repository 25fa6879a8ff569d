-- Views and functions for analysts, with app and group id.

-- The current state of every message, in a slot or not, with its milestones. Only this view, slot_messages and latest_receipts
-- know where it is stored.
CREATE VIEW receiptd.message_state AS
SELECT m.group_key, m.msg_seq, m.sent_at, m.state, m.closed_at, m.read_num, m.unread_num, m.receipt_code, m.first_polled_at,
    m.last_changed_at, m.known_until, m.first_read_after, m.first_read_by, m.half_read_after, m.half_read_by,
    m.p80_read_after, m.p80_read_by, m.p90_read_after, m.p90_read_by, m.all_read_after, m.all_read_by,
    -- The first change after an age stores the counts at that age. Without such a change, the latest counts are those at that age,
    -- if they are known to have held. A message that all members have read needs no more polls.
    CASE WHEN m.last_changed_at > m.sent_at + interval '15 minutes' THEN m.read_15m
        WHEN m.holds_until >= m.sent_at + interval '15 minutes' THEN m.read_num END AS read_15m,
    CASE WHEN m.last_changed_at > m.sent_at + interval '15 minutes' THEN m.unread_15m
        WHEN m.holds_until >= m.sent_at + interval '15 minutes' THEN m.unread_num END AS unread_15m,
    CASE WHEN m.last_changed_at > m.sent_at + interval '1 hour' THEN m.read_1h
        WHEN m.holds_until >= m.sent_at + interval '1 hour' THEN m.read_num END AS read_1h,
    CASE WHEN m.last_changed_at > m.sent_at + interval '1 hour' THEN m.unread_1h
        WHEN m.holds_until >= m.sent_at + interval '1 hour' THEN m.unread_num END AS unread_1h,
    CASE WHEN m.last_changed_at > m.sent_at + interval '24 hours' THEN m.read_24h
        WHEN m.holds_until >= m.sent_at + interval '24 hours' THEN m.read_num END AS read_24h,
    CASE WHEN m.last_changed_at > m.sent_at + interval '24 hours' THEN m.unread_24h
        WHEN m.holds_until >= m.sent_at + interval '24 hours' THEN m.unread_num END AS unread_24h,
    CASE WHEN m.last_changed_at > m.sent_at + interval '7 days' THEN m.read_7d
        WHEN m.holds_until >= m.sent_at + interval '7 days' THEN m.read_num END AS read_7d,
    CASE WHEN m.last_changed_at > m.sent_at + interval '7 days' THEN m.unread_7d
        WHEN m.holds_until >= m.sent_at + interval '7 days' THEN m.unread_num END AS unread_7d,
    m.labels,
    -- Changes by polls are in the slot, with their time. Counts at an age become known when that age is reached, without a write.
    greatest(m.updated_at, m.last_changed_at,
        CASE WHEN m.holds_until >= m.sent_at + interval '7 days' THEN m.sent_at + interval '7 days'
            WHEN m.holds_until >= m.sent_at + interval '24 hours' THEN m.sent_at + interval '24 hours'
            WHEN m.holds_until >= m.sent_at + interval '1 hour' THEN m.sent_at + interval '1 hour'
            WHEN m.holds_until >= m.sent_at + interval '15 minutes' THEN m.sent_at + interval '15 minutes' END) AS updated_at,
    m.discovered_at
FROM (
    SELECT m.*, CASE WHEN m.state = 'all_read' THEN now()
        -- Before the next poll is due, nothing has been missed.
        WHEN m.due_at IS NOT NULL THEN greatest(m.known_until, least(m.due_at, now())) ELSE m.known_until END AS holds_until
    FROM (
        SELECT m.group_key, m.msg_seq, m.sent_at, m.state, m.closed_at, coalesce(e.read_num, m.read_num) AS read_num,
            coalesce(e.unread_num, m.unread_num) AS unread_num, coalesce(e.code, m.receipt_code) AS receipt_code,
            coalesce(e.first_polled_at, m.first_polled_at) AS first_polled_at,
            coalesce(e.changed_at, m.last_changed_at) AS last_changed_at,
            coalesce(e.known_until, m.known_until) AS known_until, e.due_at,
            m.first_read_after, m.first_read_by, m.half_read_after, m.half_read_by, m.p80_read_after, m.p80_read_by,
            m.p90_read_after, m.p90_read_by, m.all_read_after, m.all_read_by, m.read_15m, m.unread_15m, m.read_1h, m.unread_1h,
            m.read_24h, m.unread_24h, m.read_7d, m.unread_7d, m.labels, m.updated_at,
            m.discovered_at
        FROM receiptd.watched_messages m
        -- The state of a message in a slot is in the slot only, not in its row.
        LEFT JOIN receiptd.slot_messages e ON e.group_key = m.group_key AND e.slot_id = m.slot_id AND e.msg_seq = m.msg_seq
    ) m
) m;

COMMENT ON VIEW receiptd.message_state IS 'Internal: the current state of every message. Query messages instead.';
COMMENT ON COLUMN receiptd.message_state.group_key IS 'Group of the message, see watched_groups.';
COMMENT ON COLUMN receiptd.message_state.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.message_state.sent_at IS 'Time of sending: the earliest one given to watch_messages.';
COMMENT ON COLUMN receiptd.message_state.state IS 'active, or why polling ended: all_read, no_receipt, expired, rejected, removed.';
COMMENT ON COLUMN receiptd.message_state.closed_at IS 'Time when polling ended; null while the message is polled.';
COMMENT ON COLUMN receiptd.message_state.read_num IS 'Latest known number of members who have read it. If the receipt has ended (receipt_code is not 0), the number before.';
COMMENT ON COLUMN receiptd.message_state.unread_num IS 'Latest known number of members who have not read it.';
COMMENT ON COLUMN receiptd.message_state.receipt_code IS 'Latest code of the message: 0 is success, 10062 no receipt.';
COMMENT ON COLUMN receiptd.message_state.first_polled_at IS 'Time of the first answer with a receipt of the message.';
COMMENT ON COLUMN receiptd.message_state.last_changed_at IS 'Time of the first answer with these counts and this code.';
COMMENT ON COLUMN receiptd.message_state.known_until IS 'Time when the last attempt that saw these counts was sent.';
COMMENT ON COLUMN receiptd.message_state.first_read_after IS 'Time when the last attempt was sent that saw it read by nobody; null if the first one found it read already.';
COMMENT ON COLUMN receiptd.message_state.first_read_by IS 'Time of the first answer that showed it read by at least one member; null if none has.';
COMMENT ON COLUMN receiptd.message_state.half_read_after IS 'Time when the last attempt was sent that saw it read by less than half of the members; null if the first one saw more.';
COMMENT ON COLUMN receiptd.message_state.half_read_by IS 'Time of the first answer that showed it read by half of the members (read_num + unread_num); null if none has.';
COMMENT ON COLUMN receiptd.message_state.p80_read_after IS 'Time when the last attempt was sent that saw it read by less than 80 % of the members; null if the first one saw more.';
COMMENT ON COLUMN receiptd.message_state.p80_read_by IS 'Time of the first answer that showed it read by 80 % of the members (read_num + unread_num); null if none has.';
COMMENT ON COLUMN receiptd.message_state.p90_read_after IS 'Time when the last attempt was sent that saw it read by less than 90 % of the members; null if the first one saw more.';
COMMENT ON COLUMN receiptd.message_state.p90_read_by IS 'Time of the first answer that showed it read by 90 % of the members (read_num + unread_num); null if none has.';
COMMENT ON COLUMN receiptd.message_state.all_read_after IS 'Time when the last attempt was sent that saw it not yet read by all; null if the first one found it read by all.';
COMMENT ON COLUMN receiptd.message_state.all_read_by IS 'Time of the first answer that showed it read by all members; null if none has.';
COMMENT ON COLUMN receiptd.message_state.read_15m IS 'Number of members who had read it 15 minutes after sending, according to the last poll by then. Null if there was none, if the message is younger, or if it is unknown because of a gap.';
COMMENT ON COLUMN receiptd.message_state.unread_15m IS 'Number of members who had not read it by then.';
COMMENT ON COLUMN receiptd.message_state.read_1h IS 'Number of members who had read it an hour after sending, according to the last poll by then. Null if there was none, if the message is younger, or if it is unknown because of a gap.';
COMMENT ON COLUMN receiptd.message_state.unread_1h IS 'Number of members who had not read it by then.';
COMMENT ON COLUMN receiptd.message_state.read_24h IS 'Number of members who had read it a day after sending, according to the last poll by then. Null if there was none, if the message is younger, or if it is unknown because of a gap.';
COMMENT ON COLUMN receiptd.message_state.unread_24h IS 'Number of members who had not read it by then.';
COMMENT ON COLUMN receiptd.message_state.read_7d IS 'Number of members who had read it seven days after sending, according to the last poll by then. Null if there was none, if the message is younger, or if it is unknown because of a gap.';
COMMENT ON COLUMN receiptd.message_state.unread_7d IS 'Number of members who had not read it by then.';
COMMENT ON COLUMN receiptd.message_state.labels IS 'Labels of the message; null if there are none.';
COMMENT ON COLUMN receiptd.message_state.discovered_at IS 'Time when discovery found the message; null if its owner added it.';
COMMENT ON COLUMN receiptd.message_state.updated_at IS 'Time when the row last changed, not counting known_until, which moves with every poll.';

-- The view that is read most, and therefore not based on message_state: for messages in a slot, only the row of the slot is read,
-- one for 50 messages. Finding a single message opens all slots of its group, which takes too long in a large one: there, messages are
-- found by their rows. All messages of such a group together take twice as long in this way. slot_messages requires the LEFT JOIN.
-- Each branch joins the groups separately, so that a filter by group uses an index in all. The outer SELECT is necessary: conditions
-- are pushed into a plain UNION ALL even if the view is a security barrier.
CREATE VIEW receiptd.latest_receipts AS
SELECT sdk_app_id, group_id, msg_seq, sent_at, state, read_num, unread_num, receipt_code, first_polled_at, last_changed_at,
    known_until, closed_at, group_key, labels, group_labels
FROM (
    SELECT g.sdk_app_id, g.group_id, e.msg_seq, e.sent_at, 'active' AS state, e.read_num, e.unread_num, e.code AS receipt_code,
        e.first_polled_at, e.changed_at AS last_changed_at, e.known_until, NULL::timestamptz AS closed_at, e.group_key,
        m.labels, g.labels AS group_labels
    FROM receiptd.watched_groups g
    LEFT JOIN receiptd.slot_messages e USING (group_key)
    -- Only for labels: without them, the planner removes this join.
    LEFT JOIN receiptd.watched_messages m ON m.group_key = e.group_key AND m.msg_seq = e.msg_seq AND m.slot_id = e.slot_id
    WHERE NOT g.is_large AND e.msg_seq IS NOT NULL
    UNION ALL
    SELECT g.sdk_app_id, g.group_id, m.msg_seq, m.sent_at, m.state, s.read_num[least(p.n, cardinality(s.read_num))],
        s.member_num[least(p.n, cardinality(s.member_num))] - s.read_num[least(p.n, cardinality(s.read_num))],
        s.code[least(p.n, cardinality(s.code))], s.first_polled_at[least(p.n, cardinality(s.first_polled_at))],
        s.changed_at[least(p.n, cardinality(s.changed_at))],
        CASE WHEN s.code[least(p.n, cardinality(s.code))] IS NOT NULL
            THEN coalesce(s.known_apart[least(p.n, cardinality(s.known_apart))], s.known_until) END,
        m.closed_at, m.group_key, m.labels, g.labels
    FROM receiptd.watched_messages m
    JOIN receiptd.watched_groups g USING (group_key)
    JOIN receiptd.poll_slots s ON s.group_key = m.group_key AND s.slot_id = m.slot_id
    CROSS JOIN LATERAL (SELECT array_position(s.msg_seqs, m.msg_seq) AS n) p
    WHERE g.is_large AND p.n IS NOT NULL
    UNION ALL
    SELECT g.sdk_app_id, g.group_id, m.msg_seq, m.sent_at, m.state, m.read_num, m.unread_num, m.receipt_code,
        m.first_polled_at, m.last_changed_at, m.known_until, m.closed_at, m.group_key, m.labels, g.labels
    FROM receiptd.watched_messages m
    JOIN receiptd.watched_groups g USING (group_key) WHERE m.slot_id IS NULL
) branches;

COMMENT ON VIEW receiptd.latest_receipts IS 'The latest counts of every watched message, and the time until which they are known to hold.';
COMMENT ON COLUMN receiptd.latest_receipts.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.latest_receipts.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.latest_receipts.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.latest_receipts.sent_at IS 'Time of sending, as given to watch_messages.';
COMMENT ON COLUMN receiptd.latest_receipts.state IS 'active, or why polling ended: all_read, no_receipt, expired, rejected, removed.';
COMMENT ON COLUMN receiptd.latest_receipts.read_num IS 'Latest known number of members who have read the message; null if no count is known. If the receipt has ended (receipt_code is not 0), the last count.';
COMMENT ON COLUMN receiptd.latest_receipts.unread_num IS 'Latest known number of members who have not read the message; null if no count is known.';
COMMENT ON COLUMN receiptd.latest_receipts.receipt_code IS 'Code of the message: 0 is success, 10062 no receipt; null before the first poll.';
COMMENT ON COLUMN receiptd.latest_receipts.first_polled_at IS 'Time of the first answer with a receipt of the message.';
COMMENT ON COLUMN receiptd.latest_receipts.last_changed_at IS 'Time of the first answer with these counts and this code.';
COMMENT ON COLUMN receiptd.latest_receipts.known_until IS 'Time when the last attempt that saw the same was sent. A change that has not been observed yet happened after that. Earlier than last_changed_at if only one answer has shown the counts.';
COMMENT ON COLUMN receiptd.latest_receipts.closed_at IS 'Time when polling of the message ended; null while it is active.';
COMMENT ON COLUMN receiptd.latest_receipts.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON COLUMN receiptd.latest_receipts.labels IS 'Labels of the message; null if there are none.';
COMMENT ON COLUMN receiptd.latest_receipts.group_labels IS 'Labels of the group; null if there are none.';

CREATE VIEW receiptd.receipt_history AS
SELECT g.sdk_app_id, g.group_id, h.msg_seq, h.polled_at, h.read_num, h.unread_num, h.code, h.prior_polled_at,
    h.prior_read_num, CASE WHEN h.is_webhook THEN 'webhook' ELSE 'poll' END AS source, h.group_key, m.labels, g.labels AS group_labels
FROM receiptd.receipt_snapshots h
JOIN receiptd.watched_groups g USING (group_key)
-- Only for labels.
LEFT JOIN receiptd.watched_messages m ON m.group_key = h.group_key AND m.msg_seq = h.msg_seq;

COMMENT ON VIEW receiptd.receipt_history IS 'Every observed change of counts of every message: receipt_snapshots with app and group id.';
COMMENT ON COLUMN receiptd.receipt_history.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.receipt_history.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.receipt_history.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.receipt_history.polled_at IS 'Time of the first answer with these counts.';
COMMENT ON COLUMN receiptd.receipt_history.read_num IS 'Number of members who had read the message.';
COMMENT ON COLUMN receiptd.receipt_history.unread_num IS 'Number of members who had not read the message.';
COMMENT ON COLUMN receiptd.receipt_history.code IS 'Code of the message: 0 is success, 10062 no receipt.';
COMMENT ON COLUMN receiptd.receipt_history.prior_polled_at IS 'Time when the last attempt that saw the previous counts was sent: the change happened after that and by polled_at. Null for the first observation.';
COMMENT ON COLUMN receiptd.receipt_history.prior_read_num IS 'The previous read count: the difference is the number of reads in between. Null for the first count.';
COMMENT ON COLUMN receiptd.receipt_history.source IS 'poll or webhook.';
COMMENT ON COLUMN receiptd.receipt_history.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON COLUMN receiptd.receipt_history.labels IS 'Labels of the message; null if there are none.';
COMMENT ON COLUMN receiptd.receipt_history.group_labels IS 'Labels of the group; null if there are none.';

-- For days whose snapshots have been removed, from the daily rows of messages.
CREATE VIEW receiptd.age_at_read AS
SELECT branches.*, extract(epoch FROM age_at_least)::double precision AS age_at_least_s,
    extract(epoch FROM age_at_most)::double precision AS age_at_most_s
FROM (
    SELECT g.sdk_app_id, g.group_id, h.msg_seq, m.sent_at,
        greatest(h.prior_polled_at - m.sent_at, '0') AS age_at_least, greatest(h.polled_at - m.sent_at, '0') AS age_at_most,
        h.read_num - coalesce(h.prior_read_num, 0) AS reads, h.polled_at AS seen_at, h.group_key, m.labels,
        g.labels AS group_labels
    FROM receiptd.receipt_snapshots h
    JOIN receiptd.watched_groups g USING (group_key)
    JOIN receiptd.watched_messages m ON m.group_key = h.group_key AND m.msg_seq = h.msg_seq
    WHERE h.read_num > coalesce(h.prior_read_num, 0)
    UNION ALL
    SELECT g.sdk_app_id, g.group_id, d.msg_seq, m.sent_at,
        greatest(d.known_before - m.sent_at, '0'), greatest(d.last_seen_at - m.sent_at, '0'),
        d.reads_gained + d.reads_found, d.last_seen_at, d.group_key, m.labels, g.labels
    FROM receiptd.message_receipts_daily d
    JOIN receiptd.watched_groups g USING (group_key)
    JOIN receiptd.watched_messages m ON m.group_key = d.group_key AND m.msg_seq = d.msg_seq
    WHERE d.reads_gained + d.reads_found > 0 AND d.day < coalesce((
        SELECT min(to_date(right(c.relname, 8), 'YYYYMMDD')) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'receiptd.receipt_snapshots'::regclass
    ), 'infinity')
) branches;

COMMENT ON VIEW receiptd.age_at_read IS 'Age of messages when they were read: one row for each observed rise of a read count; for days whose snapshots have been removed, one row per message and day. Filter by seen_at or by group. Example: SELECT width_bucket(age_at_most, ARRAY[''15 minutes'', ''1 hour'', ''1 day'']::interval[]), sum(reads) FROM receiptd.age_at_read WHERE group_id = ''@TGS#2TTV7VSII'' GROUP BY 1.';
COMMENT ON COLUMN receiptd.age_at_read.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.age_at_read.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.age_at_read.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.age_at_read.sent_at IS 'Time of sending, as given to watch_messages.';
COMMENT ON COLUMN receiptd.age_at_read.age_at_least IS 'Minimum age of the message when these members read it; 0 if they had read it by the first poll.';
COMMENT ON COLUMN receiptd.age_at_read.age_at_most IS 'Maximum age.';
COMMENT ON COLUMN receiptd.age_at_read.reads IS 'Number of members who read it then. A read is not visible if another member who had read the message left the group at the same time.';
COMMENT ON COLUMN receiptd.age_at_read.seen_at IS 'Time of the answer that showed it; for a whole day, of the last one.';
COMMENT ON COLUMN receiptd.age_at_read.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON COLUMN receiptd.age_at_read.labels IS 'Labels of the message; null if there are none.';
COMMENT ON COLUMN receiptd.age_at_read.group_labels IS 'Labels of the group; null if there are none.';
COMMENT ON COLUMN receiptd.age_at_read.age_at_least_s IS 'age_at_least in seconds.';
COMMENT ON COLUMN receiptd.age_at_read.age_at_most_s IS 'age_at_most in seconds.';

-- It joins the groups only to restrict readers to the groups of their apps.
CREATE VIEW receiptd.message_milestones AS
SELECT m.group_key, m.msg_seq, m.sent_at, m.state, m.closed_at, m.read_num, m.unread_num, m.receipt_code, m.first_polled_at,
    m.last_changed_at, m.known_until, m.first_read_after, m.first_read_by, m.half_read_after, m.half_read_by,
    m.p80_read_after, m.p80_read_by, m.p90_read_after, m.p90_read_by, m.all_read_after, m.all_read_by,
    m.read_15m / nullif(m.read_15m::bigint + m.unread_15m, 0)::double precision AS read_rate_15m,
    m.read_1h / nullif(m.read_1h::bigint + m.unread_1h, 0)::double precision AS read_rate_1h,
    m.read_24h / nullif(m.read_24h::bigint + m.unread_24h, 0)::double precision AS read_rate_24h,
    m.read_7d / nullif(m.read_7d::bigint + m.unread_7d, 0)::double precision AS read_rate_7d,
    m.labels, g.labels AS group_labels, m.updated_at
FROM receiptd.message_state m
JOIN receiptd.watched_groups g USING (group_key);

COMMENT ON VIEW receiptd.message_milestones IS 'One row per message, which outlives its snapshots: how fast and how far it was read, and why polling ended. Each milestone is an interval: it was reached after ..._after and by ..._by. Example: SELECT msg_seq, half_read_after, half_read_by FROM receiptd.message_milestones WHERE group_key = 7.';
COMMENT ON COLUMN receiptd.message_milestones.group_key IS 'Group of the message, see watched_groups.';
COMMENT ON COLUMN receiptd.message_milestones.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.message_milestones.sent_at IS 'Time of sending: the earliest one given to watch_messages.';
COMMENT ON COLUMN receiptd.message_milestones.state IS 'active, or why polling ended: all_read, no_receipt, expired, rejected, removed.';
COMMENT ON COLUMN receiptd.message_milestones.closed_at IS 'Time when polling ended; null while the message is polled.';
COMMENT ON COLUMN receiptd.message_milestones.read_num IS 'Latest known number of members who have read it. If the receipt has ended (receipt_code is not 0), the number before.';
COMMENT ON COLUMN receiptd.message_milestones.unread_num IS 'Latest known number of members who have not read it.';
COMMENT ON COLUMN receiptd.message_milestones.receipt_code IS 'Latest code of the message: 0 is success, 10062 no receipt.';
COMMENT ON COLUMN receiptd.message_milestones.first_polled_at IS 'Time of the first answer with a receipt of the message.';
COMMENT ON COLUMN receiptd.message_milestones.last_changed_at IS 'Time of the first answer with these counts and this code.';
COMMENT ON COLUMN receiptd.message_milestones.known_until IS 'Time when the last attempt that saw these counts was sent.';
COMMENT ON COLUMN receiptd.message_milestones.first_read_after IS 'Time when the last attempt was sent that saw it read by nobody; null if the first one found it read already.';
COMMENT ON COLUMN receiptd.message_milestones.first_read_by IS 'Time of the first answer that showed it read by at least one member; null if none has.';
COMMENT ON COLUMN receiptd.message_milestones.half_read_after IS 'Time when the last attempt was sent that saw it read by less than half of the members; null if the first one saw more.';
COMMENT ON COLUMN receiptd.message_milestones.half_read_by IS 'Time of the first answer that showed it read by half of the members (read_num + unread_num); null if none has.';
COMMENT ON COLUMN receiptd.message_milestones.p80_read_after IS 'Time when the last attempt was sent that saw it read by less than 80 % of the members; null if the first one saw more.';
COMMENT ON COLUMN receiptd.message_milestones.p80_read_by IS 'Time of the first answer that showed it read by 80 % of the members (read_num + unread_num); null if none has.';
COMMENT ON COLUMN receiptd.message_milestones.p90_read_after IS 'Time when the last attempt was sent that saw it read by less than 90 % of the members; null if the first one saw more.';
COMMENT ON COLUMN receiptd.message_milestones.p90_read_by IS 'Time of the first answer that showed it read by 90 % of the members (read_num + unread_num); null if none has.';
COMMENT ON COLUMN receiptd.message_milestones.all_read_after IS 'Time when the last attempt was sent that saw it not yet read by all; null if the first one found it read by all.';
COMMENT ON COLUMN receiptd.message_milestones.all_read_by IS 'Time of the first answer that showed it read by all members; null if none has.';
COMMENT ON COLUMN receiptd.message_milestones.read_rate_15m IS 'Share of members who had read it 15 minutes after sending, according to the last poll by then. Null if there was none, if the message is younger, or if it is unknown: polls were due before that time but not made, and the next one saw other counts or there was none.';
COMMENT ON COLUMN receiptd.message_milestones.read_rate_1h IS 'The same, an hour after sending.';
COMMENT ON COLUMN receiptd.message_milestones.read_rate_24h IS 'The same, a day after sending.';
COMMENT ON COLUMN receiptd.message_milestones.read_rate_7d IS 'The same, seven days after sending.';
COMMENT ON COLUMN receiptd.message_milestones.labels IS 'Labels of the message; null if there are none.';
COMMENT ON COLUMN receiptd.message_milestones.group_labels IS 'Labels of the group; null if there are none.';
COMMENT ON COLUMN receiptd.message_milestones.updated_at IS 'Time when the row last changed; see messages.updated_at.';

-- Everything about a message in one row. Filters by group, message, label and time of sending use an index. Columns that are not
-- selected cost nothing.
CREATE VIEW receiptd.messages AS
SELECT g.sdk_app_id, g.group_id, m.msg_seq, m.labels, g.labels AS group_labels, m.sent_at, m.state, m.closed_at, m.read_num,
    m.unread_num, m.read_num::bigint + m.unread_num AS members,
    m.read_num / nullif(m.read_num::bigint + m.unread_num, 0)::double precision AS read_rate,
    m.receipt_code, m.first_polled_at, m.last_changed_at, m.known_until, known.known_for,
    extract(epoch FROM known.known_for)::double precision AS known_for_s,
    first.at_least AS first_read_at_least, first.at_most AS first_read_at_most,
    extract(epoch FROM first.at_least)::double precision AS first_read_at_least_s,
    extract(epoch FROM first.at_most)::double precision AS first_read_at_most_s,
    CASE WHEN m.read_num IS NOT NULL THEN m.first_read_by IS NULL END AS first_read_censored,
    half.at_least AS half_read_at_least, half.at_most AS half_read_at_most,
    extract(epoch FROM half.at_least)::double precision AS half_read_at_least_s,
    extract(epoch FROM half.at_most)::double precision AS half_read_at_most_s,
    CASE WHEN m.read_num IS NOT NULL THEN m.half_read_by IS NULL END AS half_read_censored,
    p80.at_least AS p80_read_at_least, p80.at_most AS p80_read_at_most,
    extract(epoch FROM p80.at_least)::double precision AS p80_read_at_least_s,
    extract(epoch FROM p80.at_most)::double precision AS p80_read_at_most_s,
    CASE WHEN m.read_num IS NOT NULL THEN m.p80_read_by IS NULL END AS p80_read_censored,
    p90.at_least AS p90_read_at_least, p90.at_most AS p90_read_at_most,
    extract(epoch FROM p90.at_least)::double precision AS p90_read_at_least_s,
    extract(epoch FROM p90.at_most)::double precision AS p90_read_at_most_s,
    CASE WHEN m.read_num IS NOT NULL THEN m.p90_read_by IS NULL END AS p90_read_censored,
    whole.at_least AS all_read_at_least, whole.at_most AS all_read_at_most,
    extract(epoch FROM whole.at_least)::double precision AS all_read_at_least_s,
    extract(epoch FROM whole.at_most)::double precision AS all_read_at_most_s,
    CASE WHEN m.read_num IS NOT NULL THEN m.all_read_by IS NULL END AS all_read_censored,
    m.read_15m, m.read_15m::bigint + m.unread_15m AS members_15m,
    m.read_15m / nullif(m.read_15m::bigint + m.unread_15m, 0)::double precision AS read_rate_15m,
    m.read_1h, m.read_1h::bigint + m.unread_1h AS members_1h,
    m.read_1h / nullif(m.read_1h::bigint + m.unread_1h, 0)::double precision AS read_rate_1h,
    m.read_24h, m.read_24h::bigint + m.unread_24h AS members_24h,
    m.read_24h / nullif(m.read_24h::bigint + m.unread_24h, 0)::double precision AS read_rate_24h,
    m.read_7d, m.read_7d::bigint + m.unread_7d AS members_7d,
    m.read_7d / nullif(m.read_7d::bigint + m.unread_7d, 0)::double precision AS read_rate_7d,
    m.updated_at, m.group_key, m.discovered_at
FROM receiptd.message_state m
JOIN receiptd.watched_groups g USING (group_key)
CROSS JOIN LATERAL (SELECT CASE WHEN m.read_num IS NOT NULL
    THEN greatest(CASE m.receipt_code WHEN 0 THEN m.known_until ELSE m.last_changed_at END - m.sent_at, '0') END AS known_for) known
CROSS JOIN LATERAL (SELECT CASE WHEN m.first_read_by IS NOT NULL THEN greatest(m.first_read_after - m.sent_at, '0') END AS at_least,
    CASE WHEN m.first_read_by IS NOT NULL THEN greatest(m.first_read_by - m.sent_at, '0') END AS at_most) first
CROSS JOIN LATERAL (SELECT CASE WHEN m.half_read_by IS NOT NULL THEN greatest(m.half_read_after - m.sent_at, '0') END AS at_least,
    CASE WHEN m.half_read_by IS NOT NULL THEN greatest(m.half_read_by - m.sent_at, '0') END AS at_most) half
CROSS JOIN LATERAL (SELECT CASE WHEN m.p80_read_by IS NOT NULL THEN greatest(m.p80_read_after - m.sent_at, '0') END AS at_least,
    CASE WHEN m.p80_read_by IS NOT NULL THEN greatest(m.p80_read_by - m.sent_at, '0') END AS at_most) p80
CROSS JOIN LATERAL (SELECT CASE WHEN m.p90_read_by IS NOT NULL THEN greatest(m.p90_read_after - m.sent_at, '0') END AS at_least,
    CASE WHEN m.p90_read_by IS NOT NULL THEN greatest(m.p90_read_by - m.sent_at, '0') END AS at_most) p90
CROSS JOIN LATERAL (SELECT CASE WHEN m.all_read_by IS NOT NULL THEN greatest(m.all_read_after - m.sent_at, '0') END AS at_least,
    CASE WHEN m.all_read_by IS NOT NULL THEN greatest(m.all_read_by - m.sent_at, '0') END AS at_most) whole;

COMMENT ON VIEW receiptd.messages IS 'One row per message, which outlives its snapshots: how far and how fast it was read, and its labels. Times since sending are the shortest and the longest possible ones, as intervals and in seconds (..._s). Example: SELECT msg_seq, half_read_at_most_s FROM receiptd.messages WHERE labels @> ''{"campaign": "spring"}''.';
COMMENT ON COLUMN receiptd.messages.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.messages.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.messages.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.messages.labels IS 'Labels of the message; null if there are none. A filter with labels @> uses an index.';
COMMENT ON COLUMN receiptd.messages.group_labels IS 'Labels of the group; null if there are none. group_labels || labels contains both if neither is null.';
COMMENT ON COLUMN receiptd.messages.sent_at IS 'Time of sending: the earliest one given to watch_messages.';
COMMENT ON COLUMN receiptd.messages.state IS 'active, or why polling ended: all_read, no_receipt, expired, rejected, removed.';
COMMENT ON COLUMN receiptd.messages.closed_at IS 'Time when polling ended; null while the message is polled.';
COMMENT ON COLUMN receiptd.messages.read_num IS 'Latest known number of members who have read it; null if no count is known. If the receipt has ended (receipt_code is not 0), the last count.';
COMMENT ON COLUMN receiptd.messages.unread_num IS 'Latest known number of members who have not read it.';
COMMENT ON COLUMN receiptd.messages.members IS 'Number of members without the sender: the sum of the two.';
COMMENT ON COLUMN receiptd.messages.read_rate IS 'Share of them who have read it; null if there are none.';
COMMENT ON COLUMN receiptd.messages.receipt_code IS 'Code of the message: 0 is success, 10062 no receipt; null before the first poll.';
COMMENT ON COLUMN receiptd.messages.first_polled_at IS 'Time of the first answer with a receipt of the message.';
COMMENT ON COLUMN receiptd.messages.last_changed_at IS 'Time of the first answer with these counts and this code.';
COMMENT ON COLUMN receiptd.messages.known_until IS 'Time when the last attempt that saw the same was sent. A change that has not been observed yet happened after that.';
COMMENT ON COLUMN receiptd.messages.known_for IS 'Time after sending for which its counts are known. A censored milestone was not reached in this time. Null without counts.';
COMMENT ON COLUMN receiptd.messages.known_for_s IS 'The same in seconds.';
COMMENT ON COLUMN receiptd.messages.first_read_at_least IS 'Shortest possible time from sending until the first read; null if no read is known. 0 if the first poll found it so.';
COMMENT ON COLUMN receiptd.messages.first_read_at_most IS 'Longest possible time from sending until the first read; null if no read is known.';
COMMENT ON COLUMN receiptd.messages.first_read_at_least_s IS 'The shortest possible time in seconds.';
COMMENT ON COLUMN receiptd.messages.first_read_at_most_s IS 'The longest possible time in seconds.';
COMMENT ON COLUMN receiptd.messages.first_read_censored IS 'True if this was not observed within known_for: it took longer or has not happened. Null without counts.';
COMMENT ON COLUMN receiptd.messages.half_read_at_least IS 'Shortest possible time from sending until half of the members had read it; null if that is not known to have happened. 0 if the first poll found it so.';
COMMENT ON COLUMN receiptd.messages.half_read_at_most IS 'Longest possible time from sending until half of the members had read it; null if that is not known to have happened.';
COMMENT ON COLUMN receiptd.messages.half_read_at_least_s IS 'The shortest possible time in seconds.';
COMMENT ON COLUMN receiptd.messages.half_read_at_most_s IS 'The longest possible time in seconds.';
COMMENT ON COLUMN receiptd.messages.half_read_censored IS 'True if this was not observed within known_for: it took longer or has not happened. Null without counts.';
COMMENT ON COLUMN receiptd.messages.p80_read_at_least IS 'Shortest possible time from sending until 80 % of the members had read it; null if that is not known to have happened. 0 if the first poll found it so.';
COMMENT ON COLUMN receiptd.messages.p80_read_at_most IS 'Longest possible time from sending until 80 % of the members had read it; null if that is not known to have happened.';
COMMENT ON COLUMN receiptd.messages.p80_read_at_least_s IS 'The shortest possible time in seconds.';
COMMENT ON COLUMN receiptd.messages.p80_read_at_most_s IS 'The longest possible time in seconds.';
COMMENT ON COLUMN receiptd.messages.p80_read_censored IS 'True if this was not observed within known_for: it took longer or has not happened. Null without counts.';
COMMENT ON COLUMN receiptd.messages.p90_read_at_least IS 'Shortest possible time from sending until 90 % of the members had read it; null if that is not known to have happened. 0 if the first poll found it so.';
COMMENT ON COLUMN receiptd.messages.p90_read_at_most IS 'Longest possible time from sending until 90 % of the members had read it; null if that is not known to have happened.';
COMMENT ON COLUMN receiptd.messages.p90_read_at_least_s IS 'The shortest possible time in seconds.';
COMMENT ON COLUMN receiptd.messages.p90_read_at_most_s IS 'The longest possible time in seconds.';
COMMENT ON COLUMN receiptd.messages.p90_read_censored IS 'True if this was not observed within known_for: it took longer or has not happened. Null without counts.';
COMMENT ON COLUMN receiptd.messages.all_read_at_least IS 'Shortest possible time from sending until all members had read it; null if that is not known to have happened. 0 if the first poll found it so.';
COMMENT ON COLUMN receiptd.messages.all_read_at_most IS 'Longest possible time from sending until all members had read it; null if that is not known to have happened.';
COMMENT ON COLUMN receiptd.messages.all_read_at_least_s IS 'The shortest possible time in seconds.';
COMMENT ON COLUMN receiptd.messages.all_read_at_most_s IS 'The longest possible time in seconds.';
COMMENT ON COLUMN receiptd.messages.all_read_censored IS 'True if this was not observed within known_for: it took longer or has not happened. Null without counts.';
COMMENT ON COLUMN receiptd.messages.read_15m IS 'Number of members who had read it 15 minutes after sending, according to the last poll by then. Null if there was none, if the message is younger, or if it is unknown because of a gap.';
COMMENT ON COLUMN receiptd.messages.members_15m IS 'Number of members at that time, without the sender.';
COMMENT ON COLUMN receiptd.messages.read_rate_15m IS 'Share of these members who had read it.';
COMMENT ON COLUMN receiptd.messages.read_1h IS 'Number of members who had read it an hour after sending, according to the last poll by then. Null if there was none, if the message is younger, or if it is unknown because of a gap.';
COMMENT ON COLUMN receiptd.messages.members_1h IS 'Number of members at that time, without the sender.';
COMMENT ON COLUMN receiptd.messages.read_rate_1h IS 'Share of these members who had read it.';
COMMENT ON COLUMN receiptd.messages.read_24h IS 'Number of members who had read it a day after sending, according to the last poll by then. Null if there was none, if the message is younger, or if it is unknown because of a gap.';
COMMENT ON COLUMN receiptd.messages.members_24h IS 'Number of members at that time, without the sender.';
COMMENT ON COLUMN receiptd.messages.read_rate_24h IS 'Share of these members who had read it.';
COMMENT ON COLUMN receiptd.messages.read_7d IS 'Number of members who had read it seven days after sending, according to the last poll by then. Null if there was none, if the message is younger, or if it is unknown because of a gap.';
COMMENT ON COLUMN receiptd.messages.members_7d IS 'Number of members at that time, without the sender.';
COMMENT ON COLUMN receiptd.messages.read_rate_7d IS 'Share of these members who had read it.';
COMMENT ON COLUMN receiptd.messages.updated_at IS 'Time when the row last changed, not counting known_until and known_for, which move with every poll. See messages_since.';
COMMENT ON COLUMN receiptd.messages.discovered_at IS 'Time when discovery found the message; null if its owner added it.';
COMMENT ON COLUMN receiptd.messages.group_key IS 'Short key of the group, for joins with the tables.';
CREATE VIEW receiptd.read_speed AS
SELECT sdk_app_id, group_id, msg_seq, sent_at, state, first_read_at_least, first_read_at_most, half_read_at_least,
    half_read_at_most, p80_read_at_least, p80_read_at_most, p90_read_at_least, p90_read_at_most, all_read_at_least,
    all_read_at_most, read_rate_15m, read_rate_1h, read_rate_24h, read_rate_7d, group_key, labels, group_labels, known_for,
    first_read_at_least_s, first_read_at_most_s, half_read_at_least_s, half_read_at_most_s, p80_read_at_least_s,
    p80_read_at_most_s, p90_read_at_least_s, p90_read_at_most_s, all_read_at_least_s, all_read_at_most_s, known_for_s
FROM receiptd.messages;

COMMENT ON VIEW receiptd.read_speed IS 'How fast each message was read, as the shortest and the longest possible time. Example: SELECT msg_seq, half_read_at_least, half_read_at_most FROM receiptd.read_speed WHERE group_id = ''@TGS#2TTV7VSII''.';
COMMENT ON COLUMN receiptd.read_speed.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.read_speed.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.read_speed.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.read_speed.sent_at IS 'Time of sending, as given to watch_messages.';
COMMENT ON COLUMN receiptd.read_speed.state IS 'active, or why polling ended.';
COMMENT ON COLUMN receiptd.read_speed.first_read_at_least IS 'Shortest possible time from sending until the first read; null if no read is known.';
COMMENT ON COLUMN receiptd.read_speed.first_read_at_most IS 'Longest possible time from sending to the first read; null if no read is known.';
COMMENT ON COLUMN receiptd.read_speed.half_read_at_least IS 'Shortest possible time from sending until half of the members had read it; null if that is not known to have happened.';
COMMENT ON COLUMN receiptd.read_speed.half_read_at_most IS 'Longest possible time from sending until half of the members had read it; null if that is not known to have happened.';
COMMENT ON COLUMN receiptd.read_speed.p80_read_at_least IS 'Shortest possible time from sending until 80 % of the members had read it; null if that is not known to have happened.';
COMMENT ON COLUMN receiptd.read_speed.p80_read_at_most IS 'Longest possible time from sending until 80 % of the members had read it; null if that is not known to have happened.';
COMMENT ON COLUMN receiptd.read_speed.p90_read_at_least IS 'Shortest possible time from sending until 90 % of the members had read it; null if that is not known to have happened.';
COMMENT ON COLUMN receiptd.read_speed.p90_read_at_most IS 'Longest possible time from sending until 90 % of the members had read it; null if that is not known to have happened.';
COMMENT ON COLUMN receiptd.read_speed.all_read_at_least IS 'Shortest possible time from sending until all members had read it; null if that is not known to have happened.';
COMMENT ON COLUMN receiptd.read_speed.all_read_at_most IS 'Longest possible time from sending until all members had read it; null if that is not known to have happened.';
COMMENT ON COLUMN receiptd.read_speed.read_rate_15m IS 'Share of members who had read it 15 minutes after sending.';
COMMENT ON COLUMN receiptd.read_speed.read_rate_1h IS 'The same after an hour.';
COMMENT ON COLUMN receiptd.read_speed.read_rate_24h IS 'The same after a day.';
COMMENT ON COLUMN receiptd.read_speed.read_rate_7d IS 'The same after seven days.';
COMMENT ON COLUMN receiptd.read_speed.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON COLUMN receiptd.read_speed.labels IS 'Labels of the message; null if there are none.';
COMMENT ON COLUMN receiptd.read_speed.group_labels IS 'Labels of the group; null if there are none.';
COMMENT ON COLUMN receiptd.read_speed.known_for IS 'Time after sending for which its counts are known. A milestone that is null was not reached in this time.';
COMMENT ON COLUMN receiptd.read_speed.first_read_at_least_s IS 'first_read_at_least in seconds.';
COMMENT ON COLUMN receiptd.read_speed.first_read_at_most_s IS 'first_read_at_most in seconds.';
COMMENT ON COLUMN receiptd.read_speed.half_read_at_least_s IS 'half_read_at_least in seconds.';
COMMENT ON COLUMN receiptd.read_speed.half_read_at_most_s IS 'half_read_at_most in seconds.';
COMMENT ON COLUMN receiptd.read_speed.p80_read_at_least_s IS 'p80_read_at_least in seconds.';
COMMENT ON COLUMN receiptd.read_speed.p80_read_at_most_s IS 'p80_read_at_most in seconds.';
COMMENT ON COLUMN receiptd.read_speed.p90_read_at_least_s IS 'p90_read_at_least in seconds.';
COMMENT ON COLUMN receiptd.read_speed.p90_read_at_most_s IS 'p90_read_at_most in seconds.';
COMMENT ON COLUMN receiptd.read_speed.all_read_at_least_s IS 'all_read_at_least in seconds.';
COMMENT ON COLUMN receiptd.read_speed.all_read_at_most_s IS 'all_read_at_most in seconds.';
COMMENT ON COLUMN receiptd.read_speed.known_for_s IS 'known_for in seconds.';

-- One row per group. Counts are only computed if they are selected.
CREATE VIEW receiptd.groups AS
SELECT g.sdk_app_id, g.group_id, g.group_type, g.labels, g.cadence, g.readers, g.state, g.state_code, g.state_reason,
    g.added_at, (SELECT count(*) FROM receiptd.watched_messages m WHERE m.group_key = g.group_key) AS messages,
    (SELECT count(*) FROM receiptd.watched_messages m WHERE m.group_key = g.group_key AND m.state = 'active') AS messages_active,
    -- Seqs increase with time.
    (SELECT m.sent_at FROM receiptd.watched_messages m WHERE m.group_key = g.group_key ORDER BY m.msg_seq DESC LIMIT 1)
        AS last_sent_at,
    (SELECT m.read_num::bigint + m.unread_num FROM receiptd.message_state m
        WHERE m.group_key = g.group_key AND m.read_num IS NOT NULL ORDER BY m.msg_seq DESC LIMIT 1) AS members,
    g.updated_at, g.group_key, g.discovered_at
FROM receiptd.watched_groups g;

COMMENT ON VIEW receiptd.groups IS 'One row per group that is or was watched. Example: SELECT group_id, messages, members FROM receiptd.groups WHERE labels @> ''{"branch": "north"}''.';
COMMENT ON COLUMN receiptd.groups.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.groups.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.groups.group_type IS 'Private (Work), Public or ChatRoom (Meeting); null if unknown.';
COMMENT ON COLUMN receiptd.groups.labels IS 'Labels of the group; null if there are none.';
COMMENT ON COLUMN receiptd.groups.cadence IS 'Name of its cadence, which sets how often messages are polled; null for the default.';
COMMENT ON COLUMN receiptd.groups.readers IS 'Whether the members who have read its messages are stored; see member_reads.';
COMMENT ON COLUMN receiptd.groups.state IS 'active: polled. paused: by its owner. quarantined: refused by Tencent Chat, see state_code. removed: no longer watched.';
COMMENT ON COLUMN receiptd.groups.state_code IS 'Tencent Chat''s error code that caused the quarantine.';
COMMENT ON COLUMN receiptd.groups.state_reason IS 'Reason for the state.';
COMMENT ON COLUMN receiptd.groups.added_at IS 'Time when the group was first watched.';
COMMENT ON COLUMN receiptd.groups.messages IS 'Number of its messages, including those no longer watched.';
COMMENT ON COLUMN receiptd.groups.messages_active IS 'Number of those that are being polled.';
COMMENT ON COLUMN receiptd.groups.last_sent_at IS 'Time of sending of its newest message.';
COMMENT ON COLUMN receiptd.groups.members IS 'Number of members without the sender, according to the newest message with counts. Null if there is none.';
COMMENT ON COLUMN receiptd.groups.updated_at IS 'Time when its type, cadence, labels, readers or state last changed, or when it was added. Changes of its messages don''t count.';
COMMENT ON COLUMN receiptd.groups.discovered_at IS 'Time when discovery added the group; null if its owner did.';
COMMENT ON COLUMN receiptd.groups.group_key IS 'Short key of the group, for joins with the tables.';

CREATE VIEW receiptd.never_read AS
SELECT sdk_app_id, group_id, msg_seq, sent_at, state, unread_num, first_polled_at, known.until AS known_until,
    known.until - sent_at AS unread_for, group_key, labels, group_labels,
    extract(epoch FROM known.until - sent_at)::double precision AS unread_for_s
FROM receiptd.latest_receipts
-- If the receipt has ended, polls since then prove nothing.
CROSS JOIN LATERAL (SELECT CASE receipt_code WHEN 0 THEN known_until ELSE last_changed_at END AS until) known
WHERE read_num = 0 AND unread_num > 0;

COMMENT ON VIEW receiptd.never_read IS 'Messages that nobody has read, according to the latest polls. Example: SELECT group_id, msg_seq, unread_for FROM receiptd.never_read WHERE unread_for > ''1 day''.';
COMMENT ON COLUMN receiptd.never_read.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.never_read.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.never_read.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.never_read.sent_at IS 'Time of sending, as given to watch_messages.';
COMMENT ON COLUMN receiptd.never_read.state IS 'active, or why polling ended.';
COMMENT ON COLUMN receiptd.never_read.unread_num IS 'Number of members who have not read it: all of them, without the sender.';
COMMENT ON COLUMN receiptd.never_read.first_polled_at IS 'Time of the first answer with a receipt of the message.';
COMMENT ON COLUMN receiptd.never_read.known_until IS 'Time when the last attempt that saw it unread was sent.';
COMMENT ON COLUMN receiptd.never_read.unread_for IS 'Time after sending for which it is known to be unread.';
COMMENT ON COLUMN receiptd.never_read.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON COLUMN receiptd.never_read.labels IS 'Labels of the message; null if there are none.';
COMMENT ON COLUMN receiptd.never_read.group_labels IS 'Labels of the group; null if there are none.';
COMMENT ON COLUMN receiptd.never_read.unread_for_s IS 'unread_for in seconds.';

-- Grouped by the names of the groups, so that a filter by group applies before the aggregation.
CREATE VIEW receiptd.unread_backlog AS
SELECT sdk_app_id, group_id, messages, read_num, unread_num,
    (read_num / nullif(read_num + unread_num, 0)::double precision) AS read_rate, never_read, oldest_unread, group_key,
    g.labels AS group_labels
FROM (
    SELECT m.sdk_app_id, m.group_id, m.group_key, count(*) AS messages, sum(m.read_num) AS read_num,
        sum(m.unread_num) AS unread_num, count(*) FILTER (WHERE m.read_num = 0 AND m.unread_num > 0) AS never_read,
        min(m.sent_at) FILTER (WHERE m.unread_num > 0) AS oldest_unread
    FROM receiptd.latest_receipts m
    WHERE m.state = 'active' AND m.read_num IS NOT NULL
    GROUP BY m.group_key, m.sdk_app_id, m.group_id
) of_groups
LEFT JOIN (SELECT group_key, labels FROM receiptd.watched_groups) g USING (group_key);

COMMENT ON VIEW receiptd.unread_backlog IS 'Unread counts of each group, over the messages that are polled. Example: SELECT group_id, unread_num FROM receiptd.unread_backlog ORDER BY unread_num DESC LIMIT 10.';
COMMENT ON COLUMN receiptd.unread_backlog.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.unread_backlog.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.unread_backlog.messages IS 'Number of messages that are polled and have counts.';
COMMENT ON COLUMN receiptd.unread_backlog.read_num IS 'Sum of their read counts.';
COMMENT ON COLUMN receiptd.unread_backlog.unread_num IS 'Sum of their unread counts.';
COMMENT ON COLUMN receiptd.unread_backlog.read_rate IS 'Share of the members, over all these messages, who have read.';
COMMENT ON COLUMN receiptd.unread_backlog.never_read IS 'Number of messages that nobody has read.';
COMMENT ON COLUMN receiptd.unread_backlog.oldest_unread IS 'Time of sending of the oldest message that not all members have read.';
COMMENT ON COLUMN receiptd.unread_backlog.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON COLUMN receiptd.unread_backlog.group_labels IS 'Labels of the group; null if there are none.';

-- Overdue polls. A gap begins when its first poll was due; for slots that fail, the first failed call has that time. A delay of up
-- to a minute is no gap.
CREATE VIEW receiptd.open_gaps AS
SELECT group_key, min(since) AS gap_from, sum(messages) AS messages, max(failures) AS failures
FROM (
    SELECT s.group_key, CASE WHEN s.failures = 0 THEN s.next_poll_at
            ELSE coalesce(failed.due_at, s.last_polled_at, s.next_poll_at) END AS since,
        cardinality(s.msg_seqs) AS messages, s.failures
    FROM receiptd.poll_slots s
    LEFT JOIN LATERAL (
        SELECT c.due_at FROM receiptd.api_calls c
        WHERE s.failures > 0 AND c.group_key = s.group_key AND c.class <> 'success' AND c.due_at IS NOT NULL
            AND c.called_at > coalesce(s.last_polled_at, '-infinity')
        ORDER BY c.called_at LIMIT 1
    ) failed ON true
    WHERE cardinality(s.msg_seqs) > 0 AND (s.failures > 0 OR s.next_poll_at < now() - interval '1 minute')
    UNION ALL
    SELECT m.group_key, m.added_at, 1, 0
    FROM receiptd.watched_messages m
    WHERE m.slot_id IS NULL AND m.closed_at IS NULL
) waiting
WHERE since < now() - interval '1 minute'
GROUP BY group_key;

COMMENT ON VIEW receiptd.open_gaps IS 'Internal: the groups with overdue polls, one row each. Query poll_coverage instead.';
COMMENT ON COLUMN receiptd.open_gaps.group_key IS 'The group.';
COMMENT ON COLUMN receiptd.open_gaps.gap_from IS 'Time when the first of these polls was due; if messages were never polled, when they were first watched.';
COMMENT ON COLUMN receiptd.open_gaps.messages IS 'Number of unread messages.';
COMMENT ON COLUMN receiptd.open_gaps.failures IS 'Maximum number of failed polls in a row of a slot.';

-- The outer SELECT is necessary here and below: conditions are pushed into a plain UNION ALL even if the view is a security barrier.
-- Filters use an index in both branches: by hour in the first, by group in both. The second has few hours, each with a lookup of one
-- row of a group. If a query only asks for hours with activity (reads_gained > 0), the planner removes the second.
CREATE VIEW receiptd.hourly_receipts AS
SELECT sdk_app_id, group_id, hour, messages_sent, messages_active, reads_gained, reads_lost, reads_found, messages_aged_24h,
    median_read_rate_24h, p90_read_rate_24h, unread_backlog, polls, calls,
    -- A gap that still lasts is not in the table. In the hour in which it began, the time before it counts, minus earlier gaps.
    CASE WHEN o.gap_from <= hour THEN 0
        WHEN o.gap_from < hour + interval '1 hour' THEN extract(epoch FROM o.gap_from - hour - coalesce((
            SELECT sum(upper(gap) - lower(gap)) FROM (
                SELECT unnest(range_agg(tstzrange(p.gap_from, p.gap_until) * tstzrange(hour, o.gap_from))) AS gap
                FROM receiptd.poll_gaps p
                WHERE p.group_key = branches.group_key AND p.gap_until > hour AND p.gap_from < o.gap_from
            ) ended), '0')) / 3600
        ELSE coverage END::double precision AS coverage,
    group_key, group_labels, reads_carried, updated_at
FROM (
    SELECT g.sdk_app_id, g.group_id, h.hour, h.messages_sent, h.messages_active, h.reads_gained, h.reads_lost,
        h.reads_found, h.messages_aged_24h, h.median_read_rate_24h, h.p90_read_rate_24h, h.unread_backlog, h.polls, h.calls,
        h.coverage, h.group_key, g.labels AS group_labels, h.reads_carried, h.updated_at
    FROM receiptd.group_receipts_hourly h
    JOIN receiptd.watched_groups g USING (group_key)
    UNION ALL
    SELECT g.sdk_app_id, g.group_id, hours.hour, 0, last.messages_active, 0::bigint, 0::bigint, 0::bigint, 0, NULL::double precision,
        NULL::double precision, last.unread_backlog, 0, 0, 1::double precision, g.group_key, g.labels, 0::bigint,
        greatest(last.updated_at, hours.hour + interval '1 hour')
    FROM generate_series(
        (SELECT min(hour) FROM receiptd.group_receipts_hourly), (SELECT max(rolled_up_until) FROM receiptd.poller_leases),
        interval '1 hour'
    ) AS hours (hour)
    JOIN receiptd.poller_leases l ON hours.hour < date_trunc('hour', l.rolled_up_until, 'UTC')
    JOIN receiptd.watched_groups g USING (sdk_app_id)
    CROSS JOIN LATERAL (
        SELECT h.hour, h.messages_active, h.unread_backlog, h.updated_at
        FROM receiptd.group_receipts_hourly h
        WHERE h.group_key = g.group_key AND h.hour <= hours.hour
        ORDER BY h.hour DESC LIMIT 1
    ) last
    WHERE last.hour < hours.hour AND last.messages_active > 0
        -- The activity of such an hour is not known yet.
        AND NOT EXISTS (SELECT FROM receiptd.rollup_passed_over p WHERE p.group_key = g.group_key AND p.hour = hours.hour)
) branches
LEFT JOIN receiptd.open_gaps o USING (group_key);

COMMENT ON VIEW receiptd.hourly_receipts IS 'One row per group and complete UTC hour with watched messages or calls: group_receipts_hourly with app and group id, including the hours in which nothing happened. Example: SELECT hour, reads_gained, coverage FROM receiptd.hourly_receipts WHERE group_id = ''@TGS#2TTV7VSII'' ORDER BY hour.';
COMMENT ON COLUMN receiptd.hourly_receipts.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.hourly_receipts.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.hourly_receipts.hour IS 'Start of the hour.';
COMMENT ON COLUMN receiptd.hourly_receipts.messages_sent IS 'Number of messages sent in this hour.';
COMMENT ON COLUMN receiptd.hourly_receipts.messages_active IS 'Number of messages that were polled at its end.';
COMMENT ON COLUMN receiptd.hourly_receipts.reads_gained IS 'Number of reads gained.';
COMMENT ON COLUMN receiptd.hourly_receipts.reads_lost IS 'Number of reads lost: members who had read the message and left the group.';
COMMENT ON COLUMN receiptd.hourly_receipts.reads_found IS 'Reads already contained in the first counts of messages.';
COMMENT ON COLUMN receiptd.hourly_receipts.messages_aged_24h IS 'Number of messages that became 24 hours old in this hour.';
COMMENT ON COLUMN receiptd.hourly_receipts.median_read_rate_24h IS 'Median of their read rates at the age of a day.';
COMMENT ON COLUMN receiptd.hourly_receipts.p90_read_rate_24h IS '90th percentile of these read rates.';
COMMENT ON COLUMN receiptd.hourly_receipts.unread_backlog IS 'Sum of unread counts at the end of the hour.';
COMMENT ON COLUMN receiptd.hourly_receipts.polls IS 'Number of answered calls.';
COMMENT ON COLUMN receiptd.hourly_receipts.calls IS 'Number of attempts.';
COMMENT ON COLUMN receiptd.hourly_receipts.coverage IS 'Share of the hour without a gap, including gaps that still last.';
COMMENT ON COLUMN receiptd.hourly_receipts.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON COLUMN receiptd.hourly_receipts.group_labels IS 'Labels of the group; null if there are none.';
COMMENT ON COLUMN receiptd.hourly_receipts.reads_carried IS 'Part of reads_gained that may have happened before this hour, since the first polls after a gap found it.';
COMMENT ON COLUMN receiptd.hourly_receipts.updated_at IS 'Time when the row last changed. For an hour in which nothing happened: when it ended, or when the previous row changed.';

-- The Kaplan-Meier estimate. A message that has not reached the milestone is at risk for as long as it was observed. So young messages
-- neither shorten the time, as they would if they were omitted, nor lengthen it, as they would if they counted as "never". If all
-- messages were observed long enough, the result is null unless the share of all messages got there. The last term allows for the
-- rounding errors of a million factors.
CREATE FUNCTION receiptd.time_until(reached interval[], known_for interval[], share double precision DEFAULT 0.5) RETURNS interval
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    at_risk bigint;
    missing double precision := 1;
    step record;
BEGIN
    IF (share > 0 AND share < 1) IS NOT TRUE THEN
        RAISE EXCEPTION 'the share must be between 0 and 1, not %', share USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Use 0.5 for the median, 0.9 for nine messages in ten.';
    END IF;
    SELECT count(*) INTO at_risk FROM unnest(reached, known_for) AS u (reached, known_for)
        WHERE coalesce(u.reached, u.known_for) IS NOT NULL;
    FOR step IN
        SELECT coalesce(u.reached, u.known_for) AS after, count(u.reached) AS got_there, count(*) AS ended
        FROM unnest(time_until.reached, time_until.known_for) AS u (reached, known_for)
        WHERE coalesce(u.reached, u.known_for) IS NOT NULL GROUP BY 1 ORDER BY 1
    LOOP
        missing := missing * (1 - step.got_there / at_risk::double precision);
        IF missing <= 1 - share + 1e-9 THEN
            RETURN step.after;
        END IF;
        at_risk := at_risk - step.ended;
    END LOOP;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION receiptd.time_until(interval[], interval[], double precision) IS 'Time in which a share of messages reached a milestone, including those that have not reached it; the median if no share is given. Null if too few have. The arguments are the time that each message took, null if it has not got there, and the time for which each was observed. Example: SELECT group_id, receiptd.time_until(array_agg(half_read_at_most), array_agg(known_for)) FROM receiptd.messages GROUP BY group_id.';

-- A group without rows in the last seven days had no reads in that time.
CREATE VIEW receiptd.group_engagement AS
SELECT sdk_app_id, group_id, l.rolled_up_until AS as_of,
    coalesce(h.messages_sent_7d, 0) AS messages_sent_7d, coalesce(h.reads_7d, 0) AS reads_7d,
    coalesce(m.messages_aged_7d, 0) AS messages_aged_7d, m.read_rate_7d, m.read_rate_before,
    m.read_rate_7d - m.read_rate_before AS trend, m.half_read_7d, newest.sent_at AS last_sent_at, group_key,
    g.labels AS group_labels, extract(epoch FROM m.half_read_7d)::double precision AS half_read_7d_s
FROM receiptd.watched_groups g
JOIN receiptd.poller_leases l USING (sdk_app_id)
-- Seqs increase with time.
CROSS JOIN LATERAL (
    SELECT n.sent_at FROM receiptd.message_state n WHERE n.group_key = g.group_key AND n.first_polled_at IS NOT NULL
    ORDER BY n.msg_seq DESC LIMIT 1
) newest
LEFT JOIN (
    -- Read rates are at the age of a day, so the last seven days end with messages sent a day ago.
    SELECT m.sdk_app_id, m.group_id, m.group_key,
        count(m.read_rate_24h) FILTER (WHERE is_recent) AS messages_aged_7d,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY m.read_rate_24h) FILTER (WHERE is_recent) AS read_rate_7d,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY m.read_rate_24h) FILTER (WHERE NOT is_recent) AS read_rate_before,
        receiptd.time_until(array_agg(m.half_read_at_most) FILTER (WHERE is_recent),
            array_agg(m.known_for) FILTER (WHERE is_recent)) AS half_read_7d
    FROM receiptd.messages m
    JOIN receiptd.poller_leases l USING (sdk_app_id)
    CROSS JOIN LATERAL (SELECT m.sent_at >= l.rolled_up_until - interval '8 days' AS is_recent) AS age
    WHERE m.sent_at >= l.rolled_up_until - interval '15 days' AND m.sent_at < l.rolled_up_until
    GROUP BY m.group_key, m.sdk_app_id, m.group_id
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

COMMENT ON VIEW receiptd.group_engagement IS 'Engagement of each group in the last seven days and the seven before, by its messages at the age of a day. As of the last roll-up. Contains each watched group with a polled message; read_rate_7d is null if none became a day old. Example: SELECT group_id, read_rate_7d, trend FROM receiptd.group_engagement ORDER BY trend NULLS LAST LIMIT 10.';
COMMENT ON COLUMN receiptd.group_engagement.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.group_engagement.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.group_engagement.as_of IS 'End of the roll-up, from which the days are counted back.';
COMMENT ON COLUMN receiptd.group_engagement.messages_sent_7d IS 'Number of messages sent in the last seven days.';
COMMENT ON COLUMN receiptd.group_engagement.reads_7d IS 'Number of reads gained in the last seven days.';
COMMENT ON COLUMN receiptd.group_engagement.messages_aged_7d IS 'Number of messages that became a day old in the last seven days and have a read rate at that age.';
COMMENT ON COLUMN receiptd.group_engagement.read_rate_7d IS 'Median share of members who had read these messages at the age of a day.';
COMMENT ON COLUMN receiptd.group_engagement.read_rate_before IS 'The same for the seven days before.';
COMMENT ON COLUMN receiptd.group_engagement.trend IS 'Difference of the two; negative if the group is going quiet.';
COMMENT ON COLUMN receiptd.group_engagement.half_read_7d IS 'Longest possible time in which half of the messages were read by half of the members; null if fewer were. Messages not read by half yet count for the time they were observed; see time_until.';
COMMENT ON COLUMN receiptd.group_engagement.last_sent_at IS 'Time of sending of the newest message, however long ago.';
COMMENT ON COLUMN receiptd.group_engagement.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON COLUMN receiptd.group_engagement.group_labels IS 'Labels of the group; null if there are none.';
COMMENT ON COLUMN receiptd.group_engagement.half_read_7d_s IS 'half_read_7d in seconds.';

-- Consecutive late polls are one gap; so are messages that have never been polled.
CREATE VIEW receiptd.poll_coverage AS
SELECT branches.sdk_app_id, branches.group_id, gap_from, gap_until, duration, messages, reason, code, branches.group_key,
    g.labels AS group_labels, extract(epoch FROM branches.duration)::double precision AS duration_s, branches.updated_at
FROM (
    SELECT sdk_app_id, group_id, min(gap_from) AS gap_from, max(gap_until) AS gap_until,
        max(gap_until) - min(gap_from) AS duration, least(max(messages), 2147483647)::integer AS messages,
        (array_agg(reason ORDER BY gap_until - gap_from DESC, gap_until))[1] AS reason,
        (array_agg(code ORDER BY gap_until - gap_from DESC, gap_until))[1] AS code, group_key, max(updated_at) AS updated_at
    FROM (
        -- Overlapping rows are other messages of the same gap; adjacent rows are its next hour.
        SELECT *, sum(row_messages) OVER (PARTITION BY group_key, sdk_app_id, group_id, number, hour) AS messages
        FROM (
            -- A row that begins after the end of all previous ones starts another gap.
            SELECT *, count(*) FILTER (WHERE (gap_from > prior_until) IS NOT FALSE) OVER gaps AS number,
                count(*) FILTER (WHERE gap_from >= prior_until) OVER gaps AS hour
            FROM (
                SELECT g.sdk_app_id, g.group_id, p.group_key, p.gap_from, p.gap_until, p.messages AS row_messages,
                    p.reason, p.code, p.updated_at, max(p.gap_until) OVER (
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
    SELECT g.sdk_app_id, g.group_id, o.gap_from, NULL, now() - o.gap_from, least(o.messages, 2147483647)::integer,
        CASE WHEN g.state <> 'active' THEN g.state WHEN o.failures > 0 THEN 'failing' ELSE 'waiting' END, g.state_code, g.group_key,
        NULL
    FROM receiptd.open_gaps o
    JOIN receiptd.watched_groups g USING (group_key)
) branches
LEFT JOIN receiptd.watched_groups g ON g.group_key = branches.group_key;

COMMENT ON VIEW receiptd.poll_coverage IS 'Gaps: groups and times without observation although polls were due, with the reason. Data without a row here is complete, except for times in which messages were unwatched. Example: SELECT * FROM receiptd.poll_coverage WHERE group_id = ''@TGS#2TTV7VSII'' ORDER BY gap_from.';
COMMENT ON COLUMN receiptd.poll_coverage.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.poll_coverage.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.poll_coverage.gap_from IS 'Time when the first missed poll was due; if there was no poll yet, when the messages were first watched.';
COMMENT ON COLUMN receiptd.poll_coverage.gap_until IS 'Time of the last late poll; null while the gap lasts.';
COMMENT ON COLUMN receiptd.poll_coverage.duration IS 'Duration, so far if it still lasts.';
COMMENT ON COLUMN receiptd.poll_coverage.messages IS 'Number of messages affected.';
COMMENT ON COLUMN receiptd.poll_coverage.reason IS 'Class of the group''s last failed call, as in api_calls; not_polling: no call for the app was answered; waiting: other groups were polled; unwatched: no poll ended the gap, since the messages were unwatched. For a gap that still lasts: paused, quarantined, removed, failing or waiting. If a gap has several reasons, that of the longest part.';
COMMENT ON COLUMN receiptd.poll_coverage.code IS 'Error code of Tencent Chat, if that was the reason.';
COMMENT ON COLUMN receiptd.poll_coverage.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON COLUMN receiptd.poll_coverage.group_labels IS 'Labels of the group; null if there are none.';
COMMENT ON COLUMN receiptd.poll_coverage.duration_s IS 'duration in seconds.';
COMMENT ON COLUMN receiptd.poll_coverage.updated_at IS 'Time when it was last written, which is repeated while its last hour is rolled up; null during the gap.';

CREATE VIEW receiptd.message_days AS
SELECT g.sdk_app_id, g.group_id, d.msg_seq, d.day, d.reads_gained, d.reads_lost, d.reads_found, d.read_num, d.unread_num,
    d.read_num::bigint + d.unread_num AS members, d.code, d.first_seen_at, d.last_seen_at, d.group_key, m.labels,
    g.labels AS group_labels, d.updated_at
FROM receiptd.message_receipts_daily d
JOIN receiptd.watched_groups g USING (group_key)
-- Only for labels.
LEFT JOIN receiptd.watched_messages m ON m.group_key = d.group_key AND m.msg_seq = d.msg_seq;

COMMENT ON VIEW receiptd.message_days IS 'Counts and reads of each message on each UTC day on which it changed, which outlive its snapshots. Complete up to the last day rolled up; see data_freshness. On days without a row, the previous row still holds. Example: SELECT day, sum(reads_gained + reads_found) FROM receiptd.message_days WHERE day >= ''2026-11-01'' GROUP BY day.';
COMMENT ON COLUMN receiptd.message_days.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.message_days.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.message_days.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.message_days.day IS 'UTC day.';
COMMENT ON COLUMN receiptd.message_days.reads_gained IS 'Sum of the rises of the read count between two polls. Reads in the first count are in reads_found.';
COMMENT ON COLUMN receiptd.message_days.reads_lost IS 'Sum of its falls: members who had read the message and left the group.';
COMMENT ON COLUMN receiptd.message_days.reads_found IS 'Reads in the first count of the message, if that was on this day.';
COMMENT ON COLUMN receiptd.message_days.read_num IS 'Number of members who had read it at the end of the day, as far as known; null if no count was known.';
COMMENT ON COLUMN receiptd.message_days.unread_num IS 'Number of members who had not read it at the end of the day, as far as known.';
COMMENT ON COLUMN receiptd.message_days.members IS 'Sum of both.';
COMMENT ON COLUMN receiptd.message_days.code IS 'Code of the message in the last snapshot of the day: 0 is success, 10062 no receipt.';
COMMENT ON COLUMN receiptd.message_days.first_seen_at IS 'polled_at of the first snapshot of the day.';
COMMENT ON COLUMN receiptd.message_days.last_seen_at IS 'polled_at of the last snapshot of the day.';
COMMENT ON COLUMN receiptd.message_days.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON COLUMN receiptd.message_days.labels IS 'Labels of the message; null if there are none.';
COMMENT ON COLUMN receiptd.message_days.group_labels IS 'Labels of the group; null if there are none.';
COMMENT ON COLUMN receiptd.message_days.updated_at IS 'Time when the row was written or last changed, after the end of the day.';

-- The only view without groups.
CREATE VIEW receiptd.data_freshness AS
SELECT l.sdk_app_id, l.rolled_up_until, coalesce(o.groups, 0) AS groups_in_gap, o.gap_from,
    CASE WHEN l.rolled_up_until IS NOT NULL THEN least(l.rolled_up_until, skipped.hour, late.hour) END AS complete_until
FROM receiptd.poller_leases l
CROSS JOIN (SELECT receiptd.apps_of_caller() AS ids) apps
LEFT JOIN (
    SELECT g.sdk_app_id, count(*) AS groups, min(o.gap_from) AS gap_from
    FROM receiptd.open_gaps o JOIN receiptd.watched_groups g USING (group_key) GROUP BY g.sdk_app_id
) o USING (sdk_app_id)
LEFT JOIN (
    SELECT g.sdk_app_id, min(p.hour) AS hour
    FROM receiptd.rollup_passed_over p JOIN receiptd.watched_groups g USING (group_key) GROUP BY g.sdk_app_id
) skipped USING (sdk_app_id)
LEFT JOIN (SELECT r.sdk_app_id, min(r.hour) AS hour FROM receiptd.rollup_redo r GROUP BY r.sdk_app_id) late USING (sdk_app_id)
WHERE apps.ids IS NULL OR l.sdk_app_id = ANY (apps.ids);

COMMENT ON VIEW receiptd.data_freshness IS 'End of the roll-up, and number of groups with overdue polls, by app. Example: SELECT now() - rolled_up_until, groups_in_gap FROM receiptd.data_freshness.';
COMMENT ON COLUMN receiptd.data_freshness.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.data_freshness.rolled_up_until IS 'End of the roll-up. Everything but hourly rows, gaps and message_days is always up to date.';
COMMENT ON COLUMN receiptd.data_freshness.groups_in_gap IS 'Number of groups with a gap that still lasts; see poll_coverage.';
COMMENT ON COLUMN receiptd.data_freshness.gap_from IS 'Start of the oldest of these gaps; null if there is none.';
COMMENT ON COLUMN receiptd.data_freshness.complete_until IS 'Time until which hourly rows, gaps and message_days are complete: rolled_up_until, or the first hour that is still to be rolled up again, because data was stored late or the database refused rows of a group.';

-- Functions for analysts use the caller's search path, so that the planner can inline them and a filter by group uses the index. So
-- nothing in them may resolve to a function or operator of another schema that matches better than PostgreSQL's own: there is no
-- built-in `/` for an integer and a double, and first_value is polymorphic.
CREATE FUNCTION receiptd.receipts_at(at timestamptz) RETURNS TABLE (
    sdk_app_id bigint, group_id text, msg_seq bigint, sent_at timestamptz, read_num integer, unread_num integer,
    code integer, observed_at timestamptz, group_key integer, labels jsonb, group_labels jsonb, is_exact boolean
) LANGUAGE sql STABLE AS $$
    SELECT l.sdk_app_id, l.group_id, l.msg_seq, l.sent_at, l.read_num, l.unread_num, l.receipt_code, l.last_changed_at,
        l.group_key, l.labels, l.group_labels, true
    FROM receiptd.latest_receipts l
    WHERE l.last_changed_at <= $1
    UNION ALL
    -- From the daily rows of the message. Snapshots are only read for the current day and for days in which it changed.
    SELECT l.sdk_app_id, l.group_id, l.msg_seq, l.sent_at, coalesce(h.read_num, d.read_num), coalesce(h.unread_num, d.unread_num),
        coalesce(h.code, d.code), coalesce(h.polled_at, d.last_seen_at),
        l.group_key, l.labels, l.group_labels,
        CASE WHEN h.polled_at IS NULL THEN d.day IS NOT NULL AND within.day IS NULL
            ELSE within.day IS NULL OR h.polled_at >= within.first_seen_at END
    FROM receiptd.latest_receipts l
    LEFT JOIN receiptd.data_freshness f ON f.sdk_app_id = l.sdk_app_id
    CROSS JOIN LATERAL (
        -- Until then, a day without a row is one without changes.
        SELECT pg_catalog.date_trunc('day'::text, coalesce(f.complete_until, '-infinity'), 'UTC'::text) AS until
    ) days
    LEFT JOIN LATERAL (
        SELECT d.day, d.last_seen_at, d.read_num, d.unread_num, d.code
        FROM receiptd.message_receipts_daily d
        WHERE d.group_key = l.group_key AND d.msg_seq = l.msg_seq AND d.day <= ($1 AT TIME ZONE 'UTC')::date
            AND d.last_seen_at BETWEEN l.first_polled_at AND $1
        ORDER BY d.day DESC LIMIT 1
    ) d ON true
    LEFT JOIN LATERAL (
        SELECT w.day, w.first_seen_at
        FROM receiptd.message_receipts_daily w
        WHERE w.group_key = l.group_key AND w.msg_seq = l.msg_seq AND w.day = ($1 AT TIME ZONE 'UTC')::date
            AND w.first_seen_at <= $1 AND w.last_seen_at > $1
    ) within ON true
    CROSS JOIN LATERAL (
        SELECT greatest(l.first_polled_at, least(days.until, pg_catalog.date_trunc('day'::text, $1, 'UTC'::text))) AS since,
            within.day IS NOT NULL OR $1 >= days.until AS is_needed
    ) snapshots
    LEFT JOIN LATERAL (
        -- If the receipt had ended, the last known counts.
        SELECT coalesce(h.read_num, h.prior_read_num) AS read_num, coalesce(h.unread_num, h.prior_unread_num) AS unread_num,
            h.code, h.polled_at
        FROM receiptd.receipt_snapshots h
        WHERE snapshots.is_needed AND h.group_key = l.group_key AND h.msg_seq = l.msg_seq
            AND h.polled_at BETWEEN snapshots.since AND $1
        ORDER BY h.polled_at DESC LIMIT 1
    ) h ON true
    WHERE l.first_polled_at <= $1 AND l.last_changed_at > $1
$$;

COMMENT ON FUNCTION receiptd.receipts_at(timestamptz) IS 'The counts of every message that had been polled by that time, as known then, with the time of their first observation. is_exact is false if the message changed on that day and the day''s snapshots have been removed: then the counts are those at the end of the day before, or null. Example: SELECT sum(unread_num) FROM receiptd.receipts_at(''2026-11-20 18:00+00'') WHERE group_id = ''@TGS#2TTV7VSII''.';

CREATE FUNCTION receiptd.read_at_age(age interval) RETURNS TABLE (
    sdk_app_id bigint, group_id text, msg_seq bigint, sent_at timestamptz, read_at_least integer, read_at_most bigint,
    members bigint, known_until timestamptz, group_key integer, labels jsonb, group_labels jsonb
) LANGUAGE sql STABLE AS $$
    SELECT l.sdk_app_id, l.group_id, l.msg_seq, l.sent_at, l.read_num,
        -- Polls that find no receipt any more prove no counts.
        CASE WHEN l.state = 'all_read' OR (l.receipt_code = 0 AND l.known_until >= l.sent_at + $1) THEN l.read_num
            ELSE l.read_num::bigint + l.unread_num END,
        l.read_num::bigint + l.unread_num, CASE l.receipt_code WHEN 0 THEN l.known_until ELSE l.last_changed_at END, l.group_key,
        l.labels, l.group_labels
    FROM receiptd.latest_receipts l
    WHERE l.last_changed_at <= l.sent_at + $1 AND l.read_num IS NOT NULL AND l.sent_at + $1 <= pg_catalog.now()
    UNION ALL
    SELECT l.sdk_app_id, l.group_id, l.msg_seq, l.sent_at, coalesce(h.read_num, 0),
        CASE WHEN h.is_counted AND n.prior_polled_at >= l.sent_at + $1 THEN h.read_num
            ELSE greatest(h.read_num, coalesce(n.read_num, h.read_num::bigint + h.unread_num)) END,
        coalesce(h.read_num::bigint + h.unread_num, n.read_num::bigint + n.unread_num),
        CASE WHEN h.is_counted THEN n.prior_polled_at WHEN h.read_num IS NOT NULL THEN h.polled_at END, l.group_key,
        l.labels, l.group_labels
    FROM receiptd.latest_receipts l
    CROSS JOIN LATERAL (
        SELECT n.read_num, n.unread_num, n.prior_polled_at
        FROM receiptd.receipt_history n
        WHERE n.group_key = l.group_key AND n.msg_seq = l.msg_seq AND n.polled_at > l.sent_at + $1
            AND n.polled_at BETWEEN l.first_polled_at AND l.last_changed_at
        ORDER BY n.polled_at LIMIT 1
    ) n
    LEFT JOIN LATERAL (
        -- If there was no receipt, the last known counts.
        SELECT coalesce(h.read_num, h.prior_read_num) AS read_num, coalesce(h.unread_num, h.prior_unread_num) AS unread_num,
            h.read_num IS NOT NULL AS is_counted, h.polled_at
        FROM receiptd.receipt_snapshots h
        WHERE h.group_key = l.group_key AND h.msg_seq = l.msg_seq
            AND h.polled_at BETWEEN l.first_polled_at AND l.sent_at + $1
        ORDER BY h.polled_at DESC LIMIT 1
    ) h ON true
    WHERE l.last_changed_at > l.sent_at + $1 AND (h.read_num IS NOT NULL OR n.read_num IS NOT NULL)
$$;

COMMENT ON FUNCTION receiptd.read_at_age(interval) IS 'Minimum and maximum number of members who had read each message at an age, if none of them left the group, and the time before that age until which the counts were known. Both are equal if nothing changed between the polls before and after. Messages that are younger, or without counts, are omitted. Example: SELECT msg_seq, read_at_least, read_at_most, members FROM receiptd.read_at_age(''30 minutes'') WHERE group_id = ''@TGS#2TTV7VSII''. It needs the snapshots of messages that have changed since.';

-- Runs with the rights of its owner, since readers may not read slots. The view in it still restricts readers to their apps. Slots
-- have the times when counts of their messages changed; the row of a message is updated when the message leaves its slot.
CREATE FUNCTION receiptd.messages_since(since timestamptz) RETURNS SETOF receiptd.messages
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off
SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    keys integer[];
    seqs bigint[];
BEGIN
    SELECT array_agg(changed.group_key), array_agg(changed.msg_seq) INTO keys, seqs
    FROM (
        SELECT w.group_key, w.msg_seq FROM receiptd.watched_messages w WHERE w.updated_at >= messages_since.since
        UNION
        SELECT e.group_key, e.msg_seq FROM receiptd.slot_messages e WHERE e.changed_at >= messages_since.since
        UNION
        -- Counts at an age become known when that age is reached, without a write.
        SELECT w.group_key, w.msg_seq
        FROM unnest(ARRAY[interval '15 minutes', '1 hour', '24 hours', '7 days']) AS age
        JOIN receiptd.watched_messages w ON w.sent_at >= messages_since.since - age AND w.sent_at <= now() - age
    ) changed;
    -- In arrays, so that the planner knows their number: it looks few up, and joins many.
    RETURN QUERY SELECT m.*
        FROM unnest(keys, seqs) AS changed (group_key, msg_seq)
        JOIN receiptd.messages m ON m.group_key = changed.group_key AND m.msg_seq = changed.msg_seq
        WHERE m.updated_at >= messages_since.since;
END
$$;

COMMENT ON FUNCTION receiptd.messages_since(timestamptz) IS 'Messages that have changed since a time: the rows of messages with a later updated_at, found by indexes. Changes are stored shortly after their updated_at, so start some minutes before the latest one that you have, and replace rows that you already have. Example: SELECT * FROM receiptd.messages_since(now() - interval ''1 day'').';

CREATE FUNCTION receiptd.receipt_curve(group_id text, msg_seq bigint, step interval, sdk_app_id bigint DEFAULT NULL)
RETURNS TABLE (at timestamptz, age interval, read_num integer, unread_num integer, read_rate double precision, is_exact boolean,
    age_s double precision)
LANGUAGE sql STABLE AS $$
    WITH message AS (
        -- The answer with the last counts arrived after its attempt was sent. latest_receipts would open all slots of the group for
        -- a single message.
        SELECT group_key, l.msg_seq, l.sent_at, l.first_polled_at, greatest(l.known_until, l.last_changed_at) AS known_until
        FROM receiptd.watched_groups g
        JOIN receiptd.message_milestones l USING (group_key)
        WHERE g.group_id = $1 AND l.msg_seq = $2 AND g.sdk_app_id = coalesce($4, g.sdk_app_id)
    ), days AS (
        -- Days whose snapshots have been removed: between their first and last change, the counts before are carried forward.
        SELECT m.group_key, m.sent_at, d.first_seen_at, d.last_seen_at, d.read_num, d.unread_num,
            pg_catalog.lag(d.read_num) OVER days AS read_before, pg_catalog.lag(d.unread_num) OVER days AS unread_before
        FROM message m JOIN receiptd.message_receipts_daily d USING (group_key, msg_seq)
        -- With every poll kept, the last answer arrived after its attempt was sent.
        WHERE d.last_seen_at >= m.first_polled_at AND d.first_seen_at <= m.known_until AND NOT EXISTS (
            SELECT FROM receiptd.receipt_snapshots h
            WHERE h.group_key = m.group_key AND h.msg_seq = m.msg_seq AND h.polled_at = d.last_seen_at
        )
        WINDOW days AS (PARTITION BY m.group_key ORDER BY d.day)
    ), points AS (
        -- In UTC, since all its days have 24 hours.
        SELECT m.group_key, m.sent_at, s.at AT TIME ZONE 'UTC' AS at, NULL::integer AS read_num, NULL::integer AS unread_num,
            NULL::boolean AS is_exact, true AS is_step
        FROM message m
        CROSS JOIN pg_catalog.generate_series(m.sent_at AT TIME ZONE 'UTC', m.known_until AT TIME ZONE 'UTC', $3) AS s (at)
        UNION ALL
        SELECT m.group_key, m.sent_at, h.polled_at, h.read_num, h.unread_num, true, false
        FROM message m JOIN receiptd.receipt_snapshots h USING (group_key, msg_seq)
        WHERE h.polled_at BETWEEN m.first_polled_at AND m.known_until AND h.read_num IS NOT NULL
        UNION ALL
        SELECT group_key, sent_at, last_seen_at, read_num, unread_num, true, false FROM days WHERE read_num IS NOT NULL
        UNION ALL
        SELECT group_key, sent_at, first_seen_at, read_before, unread_before, false, false
        FROM days WHERE first_seen_at < last_seen_at
    ), spans AS (
        -- Each snapshot with the steps up to the next one.
        SELECT p.*, pg_catalog.count(*) FILTER (WHERE NOT is_step) OVER (PARTITION BY group_key ORDER BY p.at, is_step) AS span
        FROM points p
    ), carried AS (
        SELECT s.group_key, s.sent_at, s.at, s.is_step, pg_catalog.first_value(s.read_num) OVER span AS read_num,
            pg_catalog.first_value(s.unread_num) OVER span AS unread_num, pg_catalog.first_value(s.is_exact) OVER span AS is_exact
        FROM spans s WINDOW span AS (PARTITION BY s.group_key, s.span ORDER BY s.at, s.is_step)
    )
    SELECT c.at, c.at - c.sent_at, c.read_num, c.unread_num,
        c.read_num OPERATOR(pg_catalog./) nullif(c.read_num::bigint + c.unread_num, 0)::double precision, c.is_exact,
        extract(epoch FROM c.at - c.sent_at)::double precision
    FROM carried c WHERE c.is_step ORDER BY c.group_key, c.at
$$;

COMMENT ON FUNCTION receiptd.receipt_curve(text, bigint, interval, bigint) IS 'The read curve of a message: its counts at regular steps from sending to the last poll, carried forward. is_exact is null before the first count, and false if the snapshots have been removed: then the counts are those at the end of the day before, or null. Example: SELECT * FROM receiptd.receipt_curve(''@TGS#2TTV7VSII'', 102, ''5 minutes''). The app is needed only where two have a group of this id.';

-- Offsets of time zones are multiples of a quarter of an hour.
CREATE FUNCTION receiptd.hourly_reads(zone text, since timestamptz DEFAULT '-infinity', until timestamptz DEFAULT 'infinity')
RETURNS TABLE (sdk_app_id bigint, group_id text, hour timestamptz, local_hour timestamp, reads_gained bigint, group_key integer)
LANGUAGE sql STABLE AS $$
    SELECT q.sdk_app_id, q.group_id, q.hour, q.hour AT TIME ZONE $1, pg_catalog.sum(q.gained)::bigint, q.group_key
    FROM (
        SELECT g.sdk_app_id, g.group_id, h.group_key, u.gained, quarter.at,
            pg_catalog.date_trunc('hour'::text, quarter.at, $1) AS hour
        FROM receiptd.group_receipts_hourly h
        JOIN receiptd.watched_groups g USING (group_key)
        CROSS JOIN LATERAL pg_catalog.unnest(h.gained_by_quarter) WITH ORDINALITY AS u (gained, number)
        CROSS JOIN LATERAL (
            SELECT h.hour + (u.number - 1)::double precision * interval '15 minutes' AS at
        ) quarter
        WHERE h.hour > $2 - interval '1 hour' AND h.hour < $3 AND h.gained_by_quarter IS NOT NULL
    ) q
    WHERE q.gained > 0 AND q.at >= $2 AND q.at < $3
    GROUP BY q.sdk_app_id, q.group_id, q.group_key, q.hour
$$;

COMMENT ON FUNCTION receiptd.hourly_reads(text, timestamptz, timestamptz) IS 'Reads of each group in the hours of a time zone, also with an offset of half an hour, from since (inclusive) to until (exclusive), both in whole quarters of an hour. Hours without reads have no row. Example: SELECT extract(hour FROM local_hour), sum(reads_gained) FROM receiptd.hourly_reads(''Asia/Kolkata'', ''2026-11-01'') GROUP BY 1.';
