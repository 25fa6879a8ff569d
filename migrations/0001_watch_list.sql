-- The watch list, the schedule, and the limits on what is watched.

COMMENT ON SCHEMA receiptd IS 'Read receipts of Tencent Chat group messages and their history, kept by receiptd.';

-- receiptd creates this table before it applies the first migration.
COMMENT ON TABLE receiptd.schema_migrations IS 'Internal: the migrations that receiptd has applied to this schema.';
COMMENT ON COLUMN receiptd.schema_migrations.version IS 'Number of the migration.';
COMMENT ON COLUMN receiptd.schema_migrations.description IS 'Subject of the migration.';
COMMENT ON COLUMN receiptd.schema_migrations.installed_on IS 'Time when it was applied.';
COMMENT ON COLUMN receiptd.schema_migrations.success IS 'Whether it was applied completely.';
COMMENT ON COLUMN receiptd.schema_migrations.checksum IS 'Checksum of its text: an applied migration is never edited.';
COMMENT ON COLUMN receiptd.schema_migrations.execution_time IS 'Duration in nanoseconds.';

CREATE TABLE receiptd.watched_groups (
    group_key    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sdk_app_id   bigint NOT NULL,
    group_id     text NOT NULL,
    group_type   text,
    cadence      text,
    labels       jsonb,
    readers      boolean NOT NULL DEFAULT false,
    state        text NOT NULL DEFAULT 'active',
    state_code   integer,
    state_reason text,
    refused_at   timestamptz,
    probe_at     timestamptz,
    added_at     timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    reschedule   boolean NOT NULL DEFAULT false,
    is_large     boolean NOT NULL DEFAULT false,
    discovered_at timestamptz,
    CONSTRAINT an_app_has_a_group_once UNIQUE (sdk_app_id, group_id),
    CONSTRAINT sdk_app_id_is_a_positive_u32 CHECK (sdk_app_id BETWEEN 1 AND 4294967295),
    CONSTRAINT group_id_is_1_to_47_bytes_of_printable_ascii CHECK (group_id ~ '^[\x20-\x7e]{1,47}$'),
    CONSTRAINT communities_and_topics_have_no_read_receipts
        CHECK (NOT starts_with(group_id, '@TGS#_') AND position('@TOPIC#' IN group_id) = 0),
    CONSTRAINT group_type_has_read_receipts CHECK (group_type IN ('Private', 'Public', 'ChatRoom')),
    CONSTRAINT cadence_is_a_name CHECK (cadence ~ '^[A-Za-z0-9_-]{1,63}$'),
    CONSTRAINT labels_are_an_object CHECK (jsonb_typeof(labels) = 'object'),
    CONSTRAINT state_is_known CHECK (state IN ('active', 'paused', 'quarantined', 'removed')),
    CONSTRAINT only_quarantine_has_a_code_and_a_probe
        CHECK (state = 'quarantined' OR (state_code IS NULL AND probe_at IS NULL)),
    CONSTRAINT probe_at_is_finite CHECK (isfinite(probe_at))
);

COMMENT ON TABLE receiptd.watched_groups IS 'Watched groups, one row per app and group.';
COMMENT ON COLUMN receiptd.watched_groups.group_key IS 'Short key of the group, used by all other tables.';
COMMENT ON COLUMN receiptd.watched_groups.sdk_app_id IS 'SDKAppID of the Tencent Chat app that the group belongs to.';
COMMENT ON COLUMN receiptd.watched_groups.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.watched_groups.group_type IS 'Private (Work), Public or ChatRoom (Meeting); null if unknown. Others have no read receipts.';
COMMENT ON COLUMN receiptd.watched_groups.cadence IS 'Name of the configured cadence, which sets how often messages are polled; null for the default.';
COMMENT ON COLUMN receiptd.watched_groups.labels IS 'Labels of the group from its owner, an object of strings, numbers and booleans such as {"branch": "north"}; null if there are none. Never sent anywhere.';
COMMENT ON COLUMN receiptd.watched_groups.readers IS 'Whether the members who have read its messages are stored; see member_reads. False by default: they are personal data.';
COMMENT ON COLUMN receiptd.watched_groups.state IS 'active: polled. paused: by its owner. quarantined: refused by Tencent Chat, see state_code. removed: no longer watched.';
COMMENT ON COLUMN receiptd.watched_groups.state_code IS 'Tencent Chat''s error code that caused the quarantine.';
COMMENT ON COLUMN receiptd.watched_groups.state_reason IS 'Reason for the state.';
COMMENT ON COLUMN receiptd.watched_groups.refused_at IS 'Time when a quarantined group was last refused; null if it is not quarantined. When one is answered again, groups refused with the same code within a minute of it are probed immediately.';
COMMENT ON COLUMN receiptd.watched_groups.probe_at IS 'Time when a quarantined group is probed; null if it is not quarantined.';
COMMENT ON COLUMN receiptd.watched_groups.added_at IS 'Time when the group was first watched.';
COMMENT ON COLUMN receiptd.watched_groups.updated_at IS 'Time when its type, cadence, labels, readers or state last changed, or when it was added.';
COMMENT ON COLUMN receiptd.watched_groups.discovered_at IS 'Time when discovery added the group to the watch list; null if its owner did.';
COMMENT ON COLUMN receiptd.watched_groups.is_large IS 'Internal: whether the group has had more than 100 slots at a time. Then latest_receipts finds its messages by their rows.';
COMMENT ON COLUMN receiptd.watched_groups.reschedule IS 'Internal: whether the state or cadence has changed and the schedule has not been updated yet.';

-- Analysts name the group, and often not the app.
CREATE INDEX watched_groups_by_id ON receiptd.watched_groups (group_id);
CREATE INDEX watched_groups_to_reschedule ON receiptd.watched_groups (group_key) WHERE reschedule;
CREATE INDEX watched_groups_to_probe ON receiptd.watched_groups (probe_at) WHERE state = 'quarantined';

CREATE FUNCTION receiptd.note_reschedule() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.reschedule := true;
    IF NEW.state <> 'quarantined' THEN
        NEW.state_code := NULL;
        NEW.state_reason := CASE WHEN NEW.state_reason IS DISTINCT FROM OLD.state_reason THEN NEW.state_reason END;
        NEW.probe_at := NULL;
        NEW.refused_at := NULL;
    END IF;
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION receiptd.note_reschedule() IS 'Internal: marks a group with a changed state or cadence for rescheduling, and clears the columns of quarantine.';

CREATE TRIGGER note_reschedule BEFORE UPDATE OF state, cadence ON receiptd.watched_groups FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.cadence IS DISTINCT FROM NEW.cadence)
    EXECUTE FUNCTION receiptd.note_reschedule();

CREATE FUNCTION receiptd.note_update() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;

COMMENT ON FUNCTION receiptd.note_update() IS 'Internal: sets updated_at of a changed group or message, by the clock and not the beginning of the transaction, so that it is close to the commit.';

-- After note_reschedule, by its name.
CREATE TRIGGER note_update BEFORE UPDATE ON receiptd.watched_groups FOR EACH ROW
    WHEN ((OLD.group_type, OLD.cadence, OLD.labels, OLD.readers, OLD.state, OLD.state_code, OLD.state_reason)
        IS DISTINCT FROM (NEW.group_type, NEW.cadence, NEW.labels, NEW.readers, NEW.state, NEW.state_code, NEW.state_reason))
    EXECUTE FUNCTION receiptd.note_update();

-- A slot has the states of its messages, in arrays, so that a poll writes one row. An array has one element per message, or one if
-- it is the same for all. Columns that change with most polls come first, so that small changes write little WAL; for the same reason
-- the number of members is stored instead of the unread count, which would change with each read. No column that a poll updates has
-- an index, including the due time: so updates stay heap-only, and an analyst's long query, which keeps dead rows alive, can't slow
-- the schedule. A slot of 50 messages has 1.4 to 2.4 kB, stays in its page and is never toasted.
CREATE TABLE receiptd.poll_slots (
    group_key        integer NOT NULL,
    slot_id          bigint NOT NULL GENERATED BY DEFAULT AS IDENTITY,
    version          bigint NOT NULL DEFAULT 0,
    next_poll_at     timestamptz NOT NULL,
    last_polled_at   timestamptz,
    known_until      timestamptz,
    last_called_at   timestamptz,
    quiet_polls      integer NOT NULL DEFAULT 0,
    failures         integer NOT NULL DEFAULT 0,
    read_num         integer[] NOT NULL DEFAULT '{}',
    changed_at       timestamptz[] NOT NULL DEFAULT '{}',
    member_num       integer[] NOT NULL DEFAULT '{}',
    msg_seqs         bigint[] NOT NULL DEFAULT '{}',
    sent_at          timestamptz[] NOT NULL DEFAULT '{}',
    aged_from        timestamptz[] NOT NULL DEFAULT '{}',
    first_polled_at  timestamptz[] NOT NULL DEFAULT '{}',
    code             integer[] NOT NULL DEFAULT '{}',
    known_apart      timestamptz[] NOT NULL DEFAULT '{}',
    no_receipt_polls smallint[] NOT NULL DEFAULT '{}',
    refused_since    timestamptz[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (group_key, slot_id),
    CONSTRAINT a_slot_is_of_a_watched_group FOREIGN KEY (group_key) REFERENCES receiptd.watched_groups,
    CONSTRAINT poll_times_are_finite
        CHECK (isfinite(next_poll_at) AND isfinite(last_polled_at) AND isfinite(known_until) AND isfinite(last_called_at)),
    CONSTRAINT counters_are_not_negative CHECK (quiet_polls >= 0 AND failures >= 0),
    CONSTRAINT every_array_has_an_element_a_message_or_one_for_all CHECK (
        cardinality(read_num) IN (1, cardinality(msg_seqs)) AND cardinality(changed_at) IN (1, cardinality(msg_seqs))
        AND cardinality(member_num) IN (1, cardinality(msg_seqs)) AND cardinality(sent_at) IN (1, cardinality(msg_seqs))
        AND cardinality(aged_from) IN (1, cardinality(msg_seqs)) AND cardinality(first_polled_at) IN (1, cardinality(msg_seqs))
        AND cardinality(code) IN (1, cardinality(msg_seqs)) AND cardinality(known_apart) IN (1, cardinality(msg_seqs))
        AND cardinality(no_receipt_polls) IN (1, cardinality(msg_seqs)) AND cardinality(refused_since) IN (1, cardinality(msg_seqs)))
) WITH (fillfactor = 50, toast_tuple_target = 8160, autovacuum_vacuum_scale_factor = 0.05);

-- No plan uses statistics of array elements. Computing them took ten times as long as the rest of an ANALYZE, which runs every
-- minute: with a million messages as much as all polls together.
ALTER TABLE receiptd.poll_slots
    ALTER read_num SET STATISTICS 0,
    ALTER changed_at SET STATISTICS 0,
    ALTER member_num SET STATISTICS 0,
    ALTER msg_seqs SET STATISTICS 0,
    ALTER sent_at SET STATISTICS 0,
    ALTER aged_from SET STATISTICS 0,
    ALTER first_polled_at SET STATISTICS 0,
    ALTER code SET STATISTICS 0,
    ALTER known_apart SET STATISTICS 0,
    ALTER no_receipt_polls SET STATISTICS 0,
    ALTER refused_since SET STATISTICS 0;

COMMENT ON TABLE receiptd.poll_slots IS 'Internal: the schedule. One row is one future call: messages of one group that are always polled together, with their states.';
COMMENT ON COLUMN receiptd.poll_slots.group_key IS 'Group of the slot.';
COMMENT ON COLUMN receiptd.poll_slots.slot_id IS 'Id of the slot.';
COMMENT ON COLUMN receiptd.poll_slots.version IS 'Increases with every change. A decision on another version is made again.';
COMMENT ON COLUMN receiptd.poll_slots.next_poll_at IS 'Time when the slot is due.';
COMMENT ON COLUMN receiptd.poll_slots.last_polled_at IS 'Time when the last answer for the slot arrived; null if there was none.';
COMMENT ON COLUMN receiptd.poll_slots.known_until IS 'Time when the first answered attempt of that poll was sent: its messages are known until then, unless they have their own time.';
COMMENT ON COLUMN receiptd.poll_slots.last_called_at IS 'Time when the first attempt of the last stored poll was sent, by which a poll can tell whether it was stored.';
COMMENT ON COLUMN receiptd.poll_slots.quiet_polls IS 'Number of polls in a row without a change.';
COMMENT ON COLUMN receiptd.poll_slots.failures IS 'Number of failed polls in a row.';
COMMENT ON COLUMN receiptd.poll_slots.read_num IS 'Latest known count of members who have read each message; null if none was ever known.';
COMMENT ON COLUMN receiptd.poll_slots.member_num IS 'Latest known count of members who have or have not read it.';
COMMENT ON COLUMN receiptd.poll_slots.changed_at IS 'Time of the poll that first saw these counts and this code.';
COMMENT ON COLUMN receiptd.poll_slots.msg_seqs IS 'Numbers of the messages within the group. Each has one element in every other array, unless that has one for all.';
COMMENT ON COLUMN receiptd.poll_slots.sent_at IS 'Time of sending, as in watched_messages.';
COMMENT ON COLUMN receiptd.poll_slots.aged_from IS 'Start of its age instead, as in watched_messages.';
COMMENT ON COLUMN receiptd.poll_slots.first_polled_at IS 'Time of the first poll with a receipt of it.';
COMMENT ON COLUMN receiptd.poll_slots.code IS 'Latest code of the message; null before the first poll.';
COMMENT ON COLUMN receiptd.poll_slots.known_apart IS 'Time until which it is known, if it differs from known_until of the slot.';
COMMENT ON COLUMN receiptd.poll_slots.no_receipt_polls IS 'Number of polls in a row that found no receipt or, if refused_since is set, refused the message.';
COMMENT ON COLUMN receiptd.poll_slots.refused_since IS 'Time since when each poll that asked for this message alone was refused; null if the last one was not.';

-- Without a search path of its own, so that it becomes part of the statement.
CREATE FUNCTION receiptd.spread(elements anyarray, messages integer) RETURNS anyarray LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN pg_catalog.cardinality(elements) OPERATOR(pg_catalog.=) 1
        THEN pg_catalog.array_fill(elements[1], ARRAY[messages]) ELSE elements END
$$;

COMMENT ON FUNCTION receiptd.spread(anyarray, integer) IS 'Internal: an array of a slot, with one element for each of its messages.';

-- Only the seqs are unnested, and an element of another array is read if its column is selected: unnesting all arrays took three
-- times as long. Each element is in a coalesce(), so that on the right of a LEFT JOIN PostgreSQL computes it before the join.
-- Otherwise it carries the slot's arrays with each message through hash tables and sorts. So use a LEFT JOIN.
CREATE VIEW receiptd.slot_messages AS
SELECT s.group_key, s.slot_id, e.msg_seq, coalesce(s.sent_at[least(e.n::integer, cardinality(s.sent_at))]) AS sent_at,
    coalesce(s.read_num[least(e.n::integer, cardinality(s.read_num))]) AS read_num,
    coalesce(s.member_num[least(e.n::integer, cardinality(s.member_num))] - s.read_num[least(e.n::integer, cardinality(s.read_num))]) AS unread_num,
    coalesce(s.code[least(e.n::integer, cardinality(s.code))]) AS code, coalesce(s.first_polled_at[least(e.n::integer, cardinality(s.first_polled_at))]) AS first_polled_at,
    coalesce(s.changed_at[least(e.n::integer, cardinality(s.changed_at))]) AS changed_at,
    CASE WHEN s.code[least(e.n::integer, cardinality(s.code))] IS NOT NULL
        THEN coalesce(s.known_apart[least(e.n::integer, cardinality(s.known_apart))], s.known_until) END AS known_until,
    coalesce(s.known_apart[least(e.n::integer, cardinality(s.known_apart))]) AS known_apart,
    coalesce(s.no_receipt_polls[least(e.n::integer, cardinality(s.no_receipt_polls))]) AS no_receipt_polls,
    coalesce(s.refused_since[least(e.n::integer, cardinality(s.refused_since))]) AS refused_since,
    CASE WHEN s.failures = 0 AND s.known_apart[least(e.n::integer, cardinality(s.known_apart))] IS NULL THEN s.next_poll_at END AS due_at
FROM receiptd.poll_slots s
CROSS JOIN LATERAL unnest(s.msg_seqs) WITH ORDINALITY AS e (msg_seq, n);

COMMENT ON VIEW receiptd.slot_messages IS 'Internal: the contents of the slots, one row per message.';
COMMENT ON COLUMN receiptd.slot_messages.group_key IS 'Group of the message.';
COMMENT ON COLUMN receiptd.slot_messages.slot_id IS 'Slot of the message.';
COMMENT ON COLUMN receiptd.slot_messages.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.slot_messages.sent_at IS 'Time of sending, as in watched_messages.';
COMMENT ON COLUMN receiptd.slot_messages.read_num IS 'Latest known count of members who have read it.';
COMMENT ON COLUMN receiptd.slot_messages.unread_num IS 'Latest known count of members who have not read it.';
COMMENT ON COLUMN receiptd.slot_messages.code IS 'Latest code of the message; null before the first poll.';
COMMENT ON COLUMN receiptd.slot_messages.first_polled_at IS 'Time of the first poll with a receipt of it.';
COMMENT ON COLUMN receiptd.slot_messages.changed_at IS 'Time of the poll that first saw these counts and this code.';
COMMENT ON COLUMN receiptd.slot_messages.known_until IS 'Time until which they are known to hold.';
COMMENT ON COLUMN receiptd.slot_messages.known_apart IS 'The same, if it differs from known_until of the slot.';
COMMENT ON COLUMN receiptd.slot_messages.no_receipt_polls IS 'Number of polls in a row that found no receipt or, if refused_since is set, refused the message.';
COMMENT ON COLUMN receiptd.slot_messages.refused_since IS 'Time since when each poll that asked for this message alone was refused.';
COMMENT ON COLUMN receiptd.slot_messages.due_at IS 'Time when its next poll is due; null if its slot fails, or if its last poll had no receipt of it.';

-- A message has one row for life, until retention removes it together with the roll-ups.
-- A message that is watched again keeps its row: its state, its milestones, and its time of sending, which analytics depend on. The
-- newly given time is the start of its age for the cadence, so it is polled as if it were that young.
CREATE TABLE receiptd.watched_messages (
    group_key        integer NOT NULL,
    msg_seq          bigint NOT NULL,
    sent_at          timestamptz NOT NULL DEFAULT now(),
    aged_from        timestamptz,
    added_at         timestamptz NOT NULL DEFAULT now(),
    state            text NOT NULL DEFAULT 'active',
    closed_at        timestamptz,
    slot_id          bigint,
    read_num         integer,
    unread_num       integer,
    receipt_code     integer,
    first_polled_at  timestamptz,
    last_changed_at  timestamptz,
    known_until      timestamptz,
    no_receipt_polls smallint NOT NULL DEFAULT 0,
    refused_since    timestamptz,
    first_read_after timestamptz,
    first_read_by    timestamptz,
    half_read_after  timestamptz,
    half_read_by     timestamptz,
    p80_read_after   timestamptz,
    p80_read_by      timestamptz,
    p90_read_after   timestamptz,
    p90_read_by      timestamptz,
    all_read_after   timestamptz,
    all_read_by      timestamptz,
    read_15m         integer,
    unread_15m       integer,
    read_1h          integer,
    unread_1h        integer,
    read_24h         integer,
    unread_24h       integer,
    read_7d          integer,
    unread_7d        integer,
    labels           jsonb,
    updated_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    discovered_at    timestamptz,
    PRIMARY KEY (group_key, msg_seq),
    CONSTRAINT a_message_is_of_a_watched_group FOREIGN KEY (group_key) REFERENCES receiptd.watched_groups,
    CONSTRAINT a_message_is_in_a_slot_of_its_group FOREIGN KEY (group_key, slot_id) REFERENCES receiptd.poll_slots,
    CONSTRAINT msg_seq_is_a_positive_u32 CHECK (msg_seq BETWEEN 1 AND 4294967295),
    CONSTRAINT sent_at_is_a_date_of_this_age CHECK (sent_at >= '2000-01-01Z' AND sent_at < '2200-01-01Z'),
    CONSTRAINT aged_from_is_later_than_sent_at CHECK (aged_from > sent_at),
    CONSTRAINT times_of_a_message_are_finite CHECK (isfinite(added_at) AND isfinite(closed_at) AND isfinite(first_polled_at)
        AND isfinite(last_changed_at) AND isfinite(known_until) AND isfinite(refused_since)),
    CONSTRAINT labels_are_an_object CHECK (jsonb_typeof(labels) = 'object'),
    CONSTRAINT state_is_known
        CHECK (state IN ('active', 'all_read', 'no_receipt', 'expired', 'rejected', 'removed')),
    CONSTRAINT only_active_messages_are_in_a_slot CHECK (state = 'active' OR slot_id IS NULL),
    CONSTRAINT closed_at_says_since_when CHECK ((state = 'active') = (closed_at IS NULL)),
    CONSTRAINT counts_come_in_pairs CHECK ((read_num IS NULL) = (unread_num IS NULL)),
    CONSTRAINT counts_are_not_negative CHECK (read_num >= 0 AND unread_num >= 0),
    CONSTRAINT what_is_known_of_a_message_in_a_slot_is_there CHECK (slot_id IS NULL OR (read_num IS NULL
        AND receipt_code IS NULL AND first_polled_at IS NULL AND last_changed_at IS NULL AND known_until IS NULL
        AND no_receipt_polls = 0 AND refused_since IS NULL)),
    CONSTRAINT a_polled_message_without_slot_says_until_when_it_is_known
        CHECK (slot_id IS NOT NULL OR first_polled_at IS NULL OR known_until IS NOT NULL),
    CONSTRAINT milestones_are_intervals CHECK (first_read_after < first_read_by AND half_read_after < half_read_by
        AND p80_read_after < p80_read_by AND p90_read_after < p90_read_by AND all_read_after < all_read_by),
    CONSTRAINT counts_at_an_age_come_in_pairs CHECK ((read_15m IS NULL) = (unread_15m IS NULL)
        AND (read_1h IS NULL) = (unread_1h IS NULL) AND (read_24h IS NULL) = (unread_24h IS NULL)
        AND (read_7d IS NULL) = (unread_7d IS NULL))
) WITH (fillfactor = 85);

COMMENT ON TABLE receiptd.watched_messages IS 'All messages that are or were watched, one row each, kept when their snapshots are dropped: latest counts, milestones, and how watching ended. Analysts read latest_receipts, message_milestones and read_speed instead.';
COMMENT ON COLUMN receiptd.watched_messages.group_key IS 'Group of the message.';
COMMENT ON COLUMN receiptd.watched_messages.msg_seq IS 'Number of the message within its group, from 1.';
COMMENT ON COLUMN receiptd.watched_messages.sent_at IS 'Time of sending, as given to watch_messages; the earliest one if it was watched again. The age of the message decides how often it is polled.';
COMMENT ON COLUMN receiptd.watched_messages.aged_from IS 'Internal: start of its age instead, if it was watched again with a later time of sending.';
COMMENT ON COLUMN receiptd.watched_messages.added_at IS 'Time when the message was last added to the watch list.';
COMMENT ON COLUMN receiptd.watched_messages.state IS 'active: polled. all_read: all members have read it. no_receipt: it has no receipt. expired: older than the end of its cadence. rejected: refused by Tencent Chat with receipt_code in several polls. removed: no longer watched.';
COMMENT ON COLUMN receiptd.watched_messages.closed_at IS 'Time when polling of the message ended; null if it is active.';
COMMENT ON COLUMN receiptd.watched_messages.slot_id IS 'Internal: the slot of the message, which has its state; null before it has one and after it is closed.';
COMMENT ON COLUMN receiptd.watched_messages.read_num IS 'Latest known count of members who have read it; null if none was ever known. If receipt_code is not 0, the last count before.';
COMMENT ON COLUMN receiptd.watched_messages.unread_num IS 'Latest known count of members who have not read it; null if none was ever known. If receipt_code is not 0, the last count before.';
COMMENT ON COLUMN receiptd.watched_messages.receipt_code IS 'Latest code of the message: 0 is success, 10062 no receipt.';
COMMENT ON COLUMN receiptd.watched_messages.first_polled_at IS 'Time when the first answer with a receipt of the message arrived.';
COMMENT ON COLUMN receiptd.watched_messages.last_changed_at IS 'Time when the answer that first showed the latest counts or code arrived.';
COMMENT ON COLUMN receiptd.watched_messages.known_until IS 'Internal: time until which these counts are known to hold; null in a slot. See latest_receipts.known_until.';
COMMENT ON COLUMN receiptd.watched_messages.no_receipt_polls IS 'Internal: number of polls in a row that found no receipt or, if refused_since is set, refused the message.';
COMMENT ON COLUMN receiptd.watched_messages.refused_since IS 'Internal: time since when each poll that asked for this message alone was refused; null if the last one was not.';
COMMENT ON COLUMN receiptd.watched_messages.first_read_after IS 'Time when the last attempt that saw no reads was sent; null if the first one saw reads already.';
COMMENT ON COLUMN receiptd.watched_messages.first_read_by IS 'Time when the first answer with reads arrived; null if there was none.';
COMMENT ON COLUMN receiptd.watched_messages.half_read_after IS 'Time when the last attempt that saw it read by fewer than half was sent; null if the first one saw more already.';
COMMENT ON COLUMN receiptd.watched_messages.half_read_by IS 'Time when the first answer that saw it read by half of read_num + unread_num arrived; null if there was none.';
COMMENT ON COLUMN receiptd.watched_messages.p80_read_after IS 'Time when the last attempt that saw it read by fewer than 80 % was sent; null if the first one saw more already.';
COMMENT ON COLUMN receiptd.watched_messages.p80_read_by IS 'Time when the first answer that saw it read by 80 % of read_num + unread_num arrived; null if there was none.';
COMMENT ON COLUMN receiptd.watched_messages.p90_read_after IS 'Time when the last attempt that saw it read by fewer than 90 % was sent; null if the first one saw more already.';
COMMENT ON COLUMN receiptd.watched_messages.p90_read_by IS 'Time when the first answer that saw it read by 90 % of read_num + unread_num arrived; null if there was none.';
COMMENT ON COLUMN receiptd.watched_messages.all_read_after IS 'Time when the last attempt that did not see it read by all was sent; null if the first one did.';
COMMENT ON COLUMN receiptd.watched_messages.all_read_by IS 'Time when the first answer that saw it read by all arrived; null if there was none.';
COMMENT ON COLUMN receiptd.watched_messages.read_15m IS 'Internal: read_num as known 15 minutes after sent_at, if it has changed since; null if read_num still applies. See message_state.';
COMMENT ON COLUMN receiptd.watched_messages.unread_15m IS 'Internal: the same for unread_num.';
COMMENT ON COLUMN receiptd.watched_messages.read_1h IS 'Internal: the same for read_num, an hour after sent_at.';
COMMENT ON COLUMN receiptd.watched_messages.unread_1h IS 'Internal: the same for unread_num.';
COMMENT ON COLUMN receiptd.watched_messages.read_24h IS 'Internal: the same for read_num, a day after sent_at.';
COMMENT ON COLUMN receiptd.watched_messages.unread_24h IS 'Internal: the same for unread_num.';
COMMENT ON COLUMN receiptd.watched_messages.read_7d IS 'Internal: the same for read_num, seven days after sent_at.';
COMMENT ON COLUMN receiptd.watched_messages.unread_7d IS 'Internal: the same for unread_num.';
COMMENT ON COLUMN receiptd.watched_messages.labels IS 'Labels of the message from its owner, an object of strings, numbers and booleans such as {"campaign": "spring", "arm": "B"}; null if there are none. Never sent anywhere.';
COMMENT ON COLUMN receiptd.watched_messages.discovered_at IS 'Time when discovery found the message; null if its owner added it.';
COMMENT ON COLUMN receiptd.watched_messages.updated_at IS 'Internal: time when its state, labels or time of sending last changed, or when it was added. Polls don''t change it: see messages.updated_at.';

-- Active messages are few compared with closed ones, so polling, slotting and counting use indexes without the latter.
CREATE INDEX watched_messages_active ON receiptd.watched_messages (group_key, slot_id) WHERE state = 'active';
-- By closed_at, which is null for active messages: with their state, the planner might take the index above for messages to
-- slot, and read the whole group.
CREATE INDEX watched_messages_to_slot ON receiptd.watched_messages (group_key, msg_seq)
    WHERE slot_id IS NULL AND closed_at IS NULL;
CREATE INDEX watched_messages_closed ON receiptd.watched_messages (closed_at) WHERE closed_at IS NOT NULL;
CREATE INDEX watched_messages_by_time ON receiptd.watched_messages (sent_at);
-- Messages without labels have no entry. Polling never writes labels, so its updates stay heap-only.
CREATE INDEX watched_messages_by_label ON receiptd.watched_messages USING gin (labels jsonb_path_ops)
    WHERE labels IS NOT NULL;

-- Polling writes none of these columns: an index on a column that it writes would make each of its updates write all indexes.
CREATE INDEX watched_messages_by_update ON receiptd.watched_messages (updated_at);

-- Statements on very many messages set it themselves: the trigger would take a quarter of their time.
CREATE TRIGGER note_update BEFORE UPDATE OF state, labels, sent_at ON receiptd.watched_messages FOR EACH ROW
    WHEN ((OLD.state, OLD.labels, OLD.sent_at) IS DISTINCT FROM (NEW.state, NEW.labels, NEW.sent_at)
        AND OLD.updated_at = NEW.updated_at)
    EXECUTE FUNCTION receiptd.note_update();

-- A row per app with a daemon: configured values for the functions that applications call. A roll-up locks the row of its app, so
-- that there is one at a time.
CREATE TABLE receiptd.apps (
    sdk_app_id          bigint PRIMARY KEY,
    max_messages_a_call integer,
    max_active_messages bigint,
    max_groups          bigint,
    active_messages     bigint NOT NULL DEFAULT 0,
    watched_at_count    bigint NOT NULL DEFAULT 0,
    groups              bigint NOT NULL DEFAULT 0,
    last_group_key      integer NOT NULL DEFAULT 0,
    counted_at          timestamptz,
    CONSTRAINT sdk_app_id_is_a_positive_u32 CHECK (sdk_app_id BETWEEN 1 AND 4294967295)
);

COMMENT ON TABLE receiptd.apps IS 'Internal: the apps that a daemon polls, with its configured limits and its last counts. Written by the daemon.';
COMMENT ON COLUMN receiptd.apps.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.apps.max_messages_a_call IS 'Maximum number of messages in one call of watch_messages or unwatch_messages.';
COMMENT ON COLUMN receiptd.apps.max_active_messages IS 'Maximum number of active messages.';
COMMENT ON COLUMN receiptd.apps.max_groups IS 'Maximum number of watched groups.';
COMMENT ON COLUMN receiptd.apps.active_messages IS 'Number of active messages at the last count.';
COMMENT ON COLUMN receiptd.apps.watched_at_count IS 'Sum of watch_totals.messages at the last count: the difference was watched since.';
COMMENT ON COLUMN receiptd.apps.groups IS 'Number of watched groups at the last count, without removed ones.';
COMMENT ON COLUMN receiptd.apps.last_group_key IS 'Highest group_key at the last count.';
COMMENT ON COLUMN receiptd.apps.counted_at IS 'Time of the last count that differed from the one before.';

-- Total number of watched messages, in as many rows per app as there were concurrent calls: each adds to one that no other has
-- locked.
CREATE TABLE receiptd.watch_totals (
    sdk_app_id bigint NOT NULL,
    total_id   bigint GENERATED ALWAYS AS IDENTITY,
    messages   bigint NOT NULL,
    PRIMARY KEY (sdk_app_id, total_id),
    CONSTRAINT sdk_app_id_is_a_positive_u32 CHECK (sdk_app_id BETWEEN 1 AND 4294967295)
);

COMMENT ON TABLE receiptd.watch_totals IS 'Internal: number of messages added to the watch list since the daemon first stored the app''s limits, as the sum over the app''s rows.';
COMMENT ON COLUMN receiptd.watch_totals.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.watch_totals.total_id IS 'Key of the row.';
COMMENT ON COLUMN receiptd.watch_totals.messages IS 'Number of messages counted in this row.';

-- Discovery: which groups are followed, and up to which message each was read. Contains neither names nor contents.
CREATE TABLE receiptd.discovery (
    sdk_app_id bigint PRIMARY KEY,
    began_at   timestamptz,
    CONSTRAINT sdk_app_id_is_a_positive_u32 CHECK (sdk_app_id BETWEEN 1 AND 4294967295)
);

COMMENT ON TABLE receiptd.discovery IS 'Internal: the apps whose groups and messages are or were discovered. Written by the daemon.';
COMMENT ON COLUMN receiptd.discovery.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.discovery.began_at IS 'Time when discovery was switched on: messages sent since are new. Null if it is switched off.';

CREATE TABLE receiptd.discovery_lists (
    sdk_app_id bigint NOT NULL,
    group_type text NOT NULL,
    next_page  text NOT NULL DEFAULT '0',
    listed_at  timestamptz,
    PRIMARY KEY (sdk_app_id, group_type),
    CONSTRAINT group_type_has_read_receipts CHECK (group_type IN ('Private', 'Public', 'ChatRoom')),
    CONSTRAINT next_page_is_a_u64 CHECK (next_page ~ '^[0-9]{1,20}$')
);

COMMENT ON TABLE receiptd.discovery_lists IS 'Internal: how far the groups of each type are listed.';
COMMENT ON COLUMN receiptd.discovery_lists.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.discovery_lists.group_type IS 'Type of the groups.';
COMMENT ON COLUMN receiptd.discovery_lists.next_page IS 'Place of the next page of the list; 0 is the beginning.';
COMMENT ON COLUMN receiptd.discovery_lists.listed_at IS 'Time when the list was last read to its end.';

CREATE TABLE receiptd.discovered_groups (
    sdk_app_id       bigint NOT NULL,
    group_id         text NOT NULL,
    group_type       text,
    next_seq         bigint,
    found_at         timestamptz NOT NULL DEFAULT now(),
    last_message_at  timestamptz,
    with_receipt     bigint NOT NULL DEFAULT 0,
    without_receipt  bigint NOT NULL DEFAULT 0,
    watched          bigint NOT NULL DEFAULT 0,
    passed           bigint NOT NULL DEFAULT 0,
    passed_seqs      bigint[] NOT NULL DEFAULT '{}',
    passed_reasons   text[] NOT NULL DEFAULT '{}',
    refused_code     integer,
    PRIMARY KEY (sdk_app_id, group_id),
    CONSTRAINT next_seq_is_a_positive_u32 CHECK (next_seq BETWEEN 1 AND 4294967296),
    CONSTRAINT every_passed_message_has_a_reason CHECK (cardinality(passed_seqs) = cardinality(passed_reasons))
) WITH (fillfactor = 80);

COMMENT ON TABLE receiptd.discovered_groups IS 'Internal: the groups that discovery follows, and up to which message each was read.';
COMMENT ON COLUMN receiptd.discovered_groups.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.discovered_groups.group_id IS 'Group id in Tencent Chat.';
COMMENT ON COLUMN receiptd.discovered_groups.group_type IS 'Private (Work), Public or ChatRoom (Meeting); null if unknown.';
COMMENT ON COLUMN receiptd.discovered_groups.next_seq IS 'Messages below this seq have been read; null before the first look.';
COMMENT ON COLUMN receiptd.discovered_groups.found_at IS 'Time when the group was found.';
COMMENT ON COLUMN receiptd.discovered_groups.last_message_at IS 'Time of its latest message.';
COMMENT ON COLUMN receiptd.discovered_groups.with_receipt IS 'Number of its latest discovered messages, at most 100, that have a receipt.';
COMMENT ON COLUMN receiptd.discovered_groups.without_receipt IS 'Number of these that have none.';
COMMENT ON COLUMN receiptd.discovered_groups.watched IS 'Number of its messages that discovery has watched.';
COMMENT ON COLUMN receiptd.discovered_groups.passed IS 'Number of its messages that discovery has passed over.';
COMMENT ON COLUMN receiptd.discovered_groups.passed_seqs IS 'The latest of these, at most 50.';
COMMENT ON COLUMN receiptd.discovered_groups.passed_reasons IS 'Why each of them was passed over.';
COMMENT ON COLUMN receiptd.discovered_groups.refused_code IS 'Error code with which Tencent Chat refused the last look at the group; null if it did not.';
