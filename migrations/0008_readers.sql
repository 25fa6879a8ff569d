-- Who has read a message: personal data, kept only for groups whose owner asked for it (watched_groups.readers).
--
-- Locks: a transaction that writes members takes a weak lock on forgotten_members and a share lock on the group, and checks both
-- afterwards. So nothing about a member is written after forget_member, and nothing about a group after its readers were turned
-- off.

-- One row per message whose readers are asked for. The counts that made it due are stored, so that a restart loses nothing.
CREATE TABLE receiptd.reader_lists (
    group_key    integer NOT NULL,
    msg_seq      bigint NOT NULL,
    sent_at      timestamptz NOT NULL,
    asked_at     timestamptz,
    known_until  timestamptz,
    read_num     integer,
    unread_num   integer,
    not_read     text[] NOT NULL DEFAULT '{}',
    gone         text[] NOT NULL DEFAULT '{}',
    moved_at     timestamptz,
    moved_read   integer,
    moved_unread integer,
    retry_at     timestamptz,
    failures     smallint NOT NULL DEFAULT 0,
    PRIMARY KEY (group_key, msg_seq),
    CONSTRAINT a_list_is_of_a_watched_group FOREIGN KEY (group_key) REFERENCES receiptd.watched_groups,
    CONSTRAINT counts_come_in_pairs CHECK ((read_num IS NULL) = (unread_num IS NULL)),
    CONSTRAINT what_is_due_has_counts CHECK (moved_at IS NULL OR (moved_read >= 0 AND moved_unread >= 0)),
    CONSTRAINT failures_are_not_negative CHECK (failures >= 0)
);

COMMENT ON TABLE receiptd.reader_lists IS 'Internal: messages whose readers are asked for, with the members who have not read them. Personal data. See members_not_read.';
COMMENT ON COLUMN receiptd.reader_lists.group_key IS 'Group of the message; see watched_groups.';
COMMENT ON COLUMN receiptd.reader_lists.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.reader_lists.sent_at IS 'Time of sending, as in watched_messages. Retention goes by it.';
COMMENT ON COLUMN receiptd.reader_lists.asked_at IS 'Time when Tencent Chat was last asked; null if it was not.';
COMMENT ON COLUMN receiptd.reader_lists.known_until IS 'Time until which all readers are known: members not stored as readers had not read the message then. Null if unknown.';
COMMENT ON COLUMN receiptd.reader_lists.read_num IS 'Number of readers in the last answer; null if there was none.';
COMMENT ON COLUMN receiptd.reader_lists.unread_num IS 'Number of members who had not read it in the last answer.';
COMMENT ON COLUMN receiptd.reader_lists.not_read IS 'These members, or their pseudonyms.';
COMMENT ON COLUMN receiptd.reader_lists.gone IS 'Members who left the group without having been seen to read it, or their pseudonyms.';
COMMENT ON COLUMN receiptd.reader_lists.moved_at IS 'Time when the counts were first seen to differ from the last answer: the readers are due. Null if nothing is due.';
COMMENT ON COLUMN receiptd.reader_lists.moved_read IS 'Read count since then.';
COMMENT ON COLUMN receiptd.reader_lists.moved_unread IS 'Unread count since then.';
COMMENT ON COLUMN receiptd.reader_lists.retry_at IS 'Earliest time of the next try after a failure; null if the last one succeeded.';
COMMENT ON COLUMN receiptd.reader_lists.failures IS 'Number of failures in a row.';

CREATE INDEX reader_lists_due ON receiptd.reader_lists (asked_at NULLS FIRST) WHERE moved_at IS NOT NULL;
CREATE INDEX reader_lists_by_time ON receiptd.reader_lists (sent_at);

CREATE TABLE receiptd.message_readers (
    group_key  integer NOT NULL,
    msg_seq    bigint NOT NULL,
    member     text NOT NULL,
    read_after timestamptz,
    read_by    timestamptz NOT NULL,
    source     text NOT NULL DEFAULT 'poll',
    PRIMARY KEY (group_key, msg_seq, member),
    CONSTRAINT a_reader_is_in_a_list FOREIGN KEY (group_key, msg_seq) REFERENCES receiptd.reader_lists ON DELETE CASCADE,
    CONSTRAINT member_is_1_to_256_bytes CHECK (octet_length(member) BETWEEN 1 AND 256),
    CONSTRAINT reads_are_intervals CHECK (read_after <= read_by),
    CONSTRAINT source_is_known CHECK (source IN ('poll', 'webhook'))
);

COMMENT ON TABLE receiptd.message_readers IS 'Members who have read a message, each once, of groups with readers on. Personal data: only receiptd_member_reader reads it. Kept for retention.readers after the message was sent. See member_reads.';
COMMENT ON COLUMN receiptd.message_readers.group_key IS 'Group of the message; see watched_groups.';
COMMENT ON COLUMN receiptd.message_readers.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.message_readers.member IS 'Account of the member or, with readers.pseudonyms, its pseudonym.';
COMMENT ON COLUMN receiptd.message_readers.read_after IS 'The member read it after this time, when the last call that proves the opposite was sent. Null if the first call saw it read already.';
COMMENT ON COLUMN receiptd.message_readers.read_by IS 'The member had read it by this time, when the answer arrived, or the moment of the event.';
COMMENT ON COLUMN receiptd.message_readers.source IS 'poll: by asking. webhook: by an event, at its exact moment.';

-- For erasing and exporting one member.
CREATE INDEX message_readers_by_member ON receiptd.message_readers (member);

CREATE TABLE receiptd.forgotten_members (
    sdk_app_id   bigint NOT NULL,
    member_hash  bytea NOT NULL,
    forgotten_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sdk_app_id, member_hash),
    CONSTRAINT sdk_app_id_is_a_positive_u32 CHECK (sdk_app_id BETWEEN 1 AND 4294967295)
);

COMMENT ON TABLE receiptd.forgotten_members IS 'Excluded members, as hashes of their accounts or pseudonyms. To admit one again, delete the row.';
COMMENT ON COLUMN receiptd.forgotten_members.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.forgotten_members.member_hash IS 'SHA-256 of the account or pseudonym.';
COMMENT ON COLUMN receiptd.forgotten_members.forgotten_at IS 'Time when the member was forgotten.';

-- Reads that polls saw before the readers of a group were turned on have to be asked for, too.
CREATE FUNCTION receiptd.ask_for_readers() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO receiptd.reader_lists AS l (group_key, msg_seq, sent_at, moved_at, moved_read, moved_unread)
        SELECT e.group_key, e.msg_seq, e.sent_at, now(), e.read_num, e.unread_num
        FROM receiptd.slot_messages e WHERE e.group_key = NEW.group_key AND e.code = 0 AND e.read_num IS NOT NULL
        ORDER BY e.msg_seq
        ON CONFLICT (group_key, msg_seq) DO UPDATE
            SET moved_at = EXCLUDED.moved_at, moved_read = EXCLUDED.moved_read, moved_unread = EXCLUDED.moved_unread;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION receiptd.ask_for_readers() IS 'Internal: makes the readers of all active messages of a group due when its readers are turned on.';

CREATE TRIGGER ask_for_readers AFTER UPDATE OF readers ON receiptd.watched_groups FOR EACH ROW
    WHEN (NEW.readers AND NOT OLD.readers) EXECUTE FUNCTION receiptd.ask_for_readers();

CREATE FUNCTION receiptd.member_hash(member text) RETURNS bytea
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT sha256(convert_to(member, 'UTF8'))
$$;

COMMENT ON FUNCTION receiptd.member_hash(text) IS 'Internal: the hash of a member in forgotten_members.';

CREATE FUNCTION receiptd.erase_readers(sdk_app_id bigint, group_id text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    key integer;
    erased bigint;
BEGIN
    PERFORM receiptd.require_app(erase_readers.sdk_app_id);
    -- An answer that is being stored has locked the group.
    SELECT g.group_key INTO key FROM receiptd.watched_groups g
        WHERE g.sdk_app_id = erase_readers.sdk_app_id AND g.group_id = erase_readers.group_id FOR NO KEY UPDATE;
    SELECT count(*) INTO erased FROM receiptd.message_readers r WHERE r.group_key = key;
    DELETE FROM receiptd.reader_lists l WHERE l.group_key = key;
    RETURN erased;
END
$$;

COMMENT ON FUNCTION receiptd.erase_readers(bigint, text) IS 'Erases everything stored about the members of a group and returns the number of reads. Counts and history stay. While readers are on, later answers add members again: turn them off first. Only the owner of the schema may call it.';

CREATE FUNCTION receiptd.forget_member(sdk_app_id bigint, member text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    erased bigint;
    changed bigint;
BEGIN
    PERFORM receiptd.require_app(forget_member.sdk_app_id);
    -- Waits for answers that are being stored; later ones see the row.
    LOCK TABLE receiptd.forgotten_members IN EXCLUSIVE MODE;
    INSERT INTO receiptd.forgotten_members (sdk_app_id, member_hash)
        VALUES (forget_member.sdk_app_id, receiptd.member_hash(forget_member.member)) ON CONFLICT DO NOTHING;
    DELETE FROM receiptd.message_readers r USING receiptd.watched_groups g
        WHERE g.group_key = r.group_key AND g.sdk_app_id = forget_member.sdk_app_id AND r.member = forget_member.member;
    GET DIAGNOSTICS erased = ROW_COUNT;
    UPDATE receiptd.reader_lists l
        SET not_read = array_remove(l.not_read, forget_member.member), gone = array_remove(l.gone, forget_member.member)
        FROM receiptd.watched_groups g
        WHERE g.group_key = l.group_key AND g.sdk_app_id = forget_member.sdk_app_id
            AND forget_member.member IN (SELECT unnest(l.not_read || l.gone));
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN erased + changed;
END
$$;

COMMENT ON FUNCTION receiptd.forget_member(bigint, text) IS 'Erases a member, given by account or pseudonym as stored, from all groups of an app, and excludes the member from then on. Returns the number of messages in which the member was named. Only the owner of the schema may call it; `receiptd forget-member` computes the pseudonym. Example: SELECT receiptd.forget_member(1400000000, ''alice'').';

-- A member with two names would be two readers.
CREATE TABLE receiptd.member_naming (
    sdk_app_id bigint PRIMARY KEY,
    naming     text NOT NULL,
    CONSTRAINT sdk_app_id_is_a_positive_u32 CHECK (sdk_app_id BETWEEN 1 AND 4294967295)
);

COMMENT ON TABLE receiptd.member_naming IS 'Internal: how the members of an app are named in message_readers and reader_lists. It can only change while no member is stored.';
COMMENT ON COLUMN receiptd.member_naming.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.member_naming.naming IS '''accounts'', or ''pseudonyms'' with a fingerprint of their key.';

-- The time of sending is that of the message, which becomes earlier if it is watched again with an earlier one.
CREATE VIEW receiptd.member_reads AS
SELECT g.sdk_app_id, g.group_id, r.msg_seq, r.member, sent.at AS sent_at, r.read_after, r.read_by,
    greatest(coalesce(r.read_after, sent.at) - sent.at, interval '0') AS latency_at_least,
    greatest(r.read_by - sent.at, interval '0') AS latency_at_most, r.source, r.group_key,
    greatest(extract(epoch FROM coalesce(r.read_after, sent.at) - sent.at), 0)::double precision AS latency_at_least_s,
    greatest(extract(epoch FROM r.read_by - sent.at), 0)::double precision AS latency_at_most_s
FROM receiptd.message_readers r
JOIN receiptd.reader_lists l USING (group_key, msg_seq)
JOIN receiptd.watched_groups g USING (group_key)
LEFT JOIN receiptd.watched_messages w ON w.group_key = r.group_key AND w.msg_seq = r.msg_seq
CROSS JOIN LATERAL (SELECT coalesce(w.sent_at, l.sent_at) AS at) sent;

COMMENT ON VIEW receiptd.member_reads IS 'Who has read which message and when, one row per message and reader, of groups with readers on. Personal data. Example: SELECT msg_seq, latency_at_most FROM receiptd.member_reads WHERE member = ''alice''.';
COMMENT ON COLUMN receiptd.member_reads.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.member_reads.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.member_reads.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.member_reads.member IS 'Account of the reader, or its pseudonym.';
COMMENT ON COLUMN receiptd.member_reads.sent_at IS 'Time of sending, as given to watch_messages.';
COMMENT ON COLUMN receiptd.member_reads.read_after IS 'The member read it after this time; null if the first call saw it read already.';
COMMENT ON COLUMN receiptd.member_reads.read_by IS 'The member had read it by this time.';
COMMENT ON COLUMN receiptd.member_reads.latency_at_least IS 'Shortest possible time from sending to reading.';
COMMENT ON COLUMN receiptd.member_reads.latency_at_most IS 'Longest possible time from sending to reading.';
COMMENT ON COLUMN receiptd.member_reads.source IS 'poll: by asking. webhook: by an event, at its exact moment.';
COMMENT ON COLUMN receiptd.member_reads.group_key IS 'Short key of the group, for joins with the tables.';
COMMENT ON COLUMN receiptd.member_reads.latency_at_least_s IS 'latency_at_least in seconds.';
COMMENT ON COLUMN receiptd.member_reads.latency_at_most_s IS 'latency_at_most in seconds.';

CREATE VIEW receiptd.members_not_read AS
SELECT g.sdk_app_id, g.group_id, l.msg_seq, m.member, coalesce(w.sent_at, l.sent_at) AS sent_at, m.has_left, l.known_until, l.group_key
FROM receiptd.reader_lists l
JOIN receiptd.watched_groups g USING (group_key)
LEFT JOIN receiptd.watched_messages w ON w.group_key = l.group_key AND w.msg_seq = l.msg_seq
CROSS JOIN LATERAL (
    SELECT u.member, false AS has_left FROM unnest(l.not_read) AS u (member)
    UNION ALL
    SELECT u.member, true FROM unnest(l.gone) AS u (member)
) m;

COMMENT ON VIEW receiptd.members_not_read IS 'Who has not read which message, one row per message and member, of groups with readers on. Personal data. Example: SELECT member FROM receiptd.members_not_read WHERE msg_seq = 7 AND NOT has_left.';
COMMENT ON COLUMN receiptd.members_not_read.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.members_not_read.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.members_not_read.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.members_not_read.member IS 'Account of the member, or its pseudonym.';
COMMENT ON COLUMN receiptd.members_not_read.sent_at IS 'Time of sending, as given to watch_messages.';
COMMENT ON COLUMN receiptd.members_not_read.has_left IS 'Whether the member left the group without having been seen to read it.';
COMMENT ON COLUMN receiptd.members_not_read.known_until IS 'The member had not read it at this time; null if unknown.';
COMMENT ON COLUMN receiptd.members_not_read.group_key IS 'Short key of the group, for joins with the tables.';

CREATE VIEW receiptd.member_latency AS
SELECT sdk_app_id, group_id, member, count(read_by) AS messages_read, count(*) - count(read_by) AS messages_not_read,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_at_least) AS latency_at_least,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_at_most) AS latency_at_most,
    extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_at_least))::double precision AS latency_at_least_s,
    extract(epoch FROM percentile_cont(0.5) WITHIN GROUP (ORDER BY latency_at_most))::double precision AS latency_at_most_s,
    group_key
FROM (
    SELECT sdk_app_id, group_id, member, read_by, latency_at_least, latency_at_most, group_key FROM receiptd.member_reads
    UNION ALL
    SELECT sdk_app_id, group_id, member, NULL, NULL, NULL, group_key FROM receiptd.members_not_read WHERE NOT has_left
) m
GROUP BY sdk_app_id, group_id, group_key, member;

COMMENT ON VIEW receiptd.member_latency IS 'How fast each member reads, one row per group and member, over the messages whose readers are kept. Personal data. Example: SELECT member, latency_at_most FROM receiptd.member_latency WHERE group_id = ''@TGS#2TTV7VSII'' ORDER BY 2.';
COMMENT ON COLUMN receiptd.member_latency.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.member_latency.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.member_latency.member IS 'Account of the member, or its pseudonym.';
COMMENT ON COLUMN receiptd.member_latency.messages_read IS 'Number of messages that the member has read.';
COMMENT ON COLUMN receiptd.member_latency.messages_not_read IS 'Number of messages that the member has not read, without those that the member left the group before reading.';
COMMENT ON COLUMN receiptd.member_latency.latency_at_least IS 'Median of the shortest possible times from sending to reading, over the messages read.';
COMMENT ON COLUMN receiptd.member_latency.latency_at_most IS 'Median of the longest possible times from sending to reading, over the messages read.';
COMMENT ON COLUMN receiptd.member_latency.latency_at_least_s IS 'latency_at_least in seconds.';
COMMENT ON COLUMN receiptd.member_latency.latency_at_most_s IS 'latency_at_most in seconds.';
COMMENT ON COLUMN receiptd.member_latency.group_key IS 'Short key of the group, for joins with the tables.';

CREATE FUNCTION receiptd.readers_of(group_id text, msg_seq bigint, sdk_app_id bigint DEFAULT NULL)
RETURNS TABLE (member text, read_after timestamptz, read_by timestamptz, source text)
LANGUAGE sql STABLE AS $$
    SELECT r.member, r.read_after, r.read_by, r.source FROM receiptd.member_reads r
    WHERE r.group_id = $1 AND r.msg_seq = $2 AND r.sdk_app_id = coalesce($3, r.sdk_app_id)
    ORDER BY r.read_by, r.member
$$;

COMMENT ON FUNCTION receiptd.readers_of(text, bigint, bigint) IS 'Who has read a message, in the order of reading. Personal data. Example: SELECT * FROM receiptd.readers_of(''@TGS#2TTV7VSII'', 101).';

CREATE FUNCTION receiptd.not_read_by(group_id text, msg_seq bigint, sdk_app_id bigint DEFAULT NULL)
RETURNS TABLE (member text, known_until timestamptz)
LANGUAGE sql STABLE AS $$
    SELECT m.member, m.known_until FROM receiptd.members_not_read m
    WHERE m.group_id = $1 AND m.msg_seq = $2 AND m.sdk_app_id = coalesce($3, m.sdk_app_id) AND NOT m.has_left
    ORDER BY m.member
$$;

COMMENT ON FUNCTION receiptd.not_read_by(text, bigint, bigint) IS 'Who has not read a message, without members who left the group. Personal data. Example: SELECT * FROM receiptd.not_read_by(''@TGS#2TTV7VSII'', 101).';

CREATE FUNCTION receiptd.acknowledged_by(
    group_id text, msg_seq bigint, deadline timestamptz, sdk_app_id bigint DEFAULT NULL
) RETURNS TABLE (member text, outcome text, read_after timestamptz, read_by timestamptz)
LANGUAGE sql STABLE AS $$
    SELECT r.member,
        CASE WHEN r.read_by <= $3 THEN 'in_time' WHEN r.read_after >= $3 THEN 'late' ELSE 'unclear' END,
        r.read_after, r.read_by
    FROM receiptd.member_reads r
    WHERE r.group_id = $1 AND r.msg_seq = $2 AND r.sdk_app_id = coalesce($4, r.sdk_app_id)
    UNION ALL
    SELECT m.member, CASE WHEN m.has_left THEN 'left' ELSE 'not_read' END, m.known_until, NULL
    FROM receiptd.members_not_read m
    WHERE m.group_id = $1 AND m.msg_seq = $2 AND m.sdk_app_id = coalesce($4, m.sdk_app_id)
    ORDER BY 4, 1
$$;

COMMENT ON FUNCTION receiptd.acknowledged_by(text, bigint, timestamptz, bigint) IS 'Every member of a message with the outcome at a deadline. in_time: had read it by then. late: read it afterwards. unclear: the interval of the read contains the deadline. not_read: has not read it. left: left the group without having been seen to read it. Personal data. Example: SELECT outcome, count(*) FROM receiptd.acknowledged_by(''@TGS#2TTV7VSII'', 101, ''2026-11-24 12:00Z'') GROUP BY 1.';

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA receiptd FROM PUBLIC;
GRANT EXECUTE ON FUNCTION receiptd.apps_of_caller() TO PUBLIC;
