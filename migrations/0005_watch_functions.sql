-- Watching from applications: idempotent functions, usable from any language. receiptd_writer has no other rights, so they run
-- with the rights of their owner.
--
-- Locks: messages first, in the order of their seqs, and then their slots, in the order of their ids. So two calls never deadlock.
-- The daemon, which starts from slots, locks in the other order, and doesn't wait. watch_messages touches active messages only
-- to change their labels.

-- Rights by app, which are off while this table is empty.
CREATE TABLE receiptd.role_apps (
    role       regrole NOT NULL,
    sdk_app_id bigint NOT NULL,
    PRIMARY KEY (role, sdk_app_id),
    CONSTRAINT sdk_app_id_is_a_positive_u32 CHECK (sdk_app_id BETWEEN 1 AND 4294967295)
);

COMMENT ON TABLE receiptd.role_apps IS 'Which apps a role may use: its own rows and those of the roles it is a member of. Empty: every role may use all apps that its other rights allow. The owner of the schema may use all. Example: INSERT INTO receiptd.role_apps VALUES (''shop'', 1400000000).';
COMMENT ON COLUMN receiptd.role_apps.role IS 'Name of the role.';
COMMENT ON COLUMN receiptd.role_apps.sdk_app_id IS 'SDKAppID of the Tencent Chat app that it may use.';

-- The calling role is that of SET ROLE, if any, else the one that logged in. Both are visible within functions that run as their
-- owner, and SET ROLE can only take rights away.
CREATE FUNCTION receiptd.apps_of_caller() RETURNS bigint[]
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    asking regrole := to_regrole(quote_ident(
        CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END));
BEGIN
    IF NOT EXISTS (SELECT FROM receiptd.role_apps) OR (
        SELECT pg_has_role(asking, nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'receiptd'
    ) THEN
        RETURN NULL;
    END IF;
    RETURN coalesce((SELECT array_agg(DISTINCT r.sdk_app_id) FROM receiptd.role_apps r
        WHERE EXISTS (SELECT FROM pg_roles WHERE oid = r.role) AND pg_has_role(asking, r.role, 'USAGE')), '{}');
END
$$;

COMMENT ON FUNCTION receiptd.apps_of_caller() IS 'The apps that the current role may use; null: all. See role_apps.';

CREATE FUNCTION receiptd.require_app(sdk_app_id bigint, messages integer DEFAULT 0) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    most integer := (SELECT a.max_messages_a_call FROM receiptd.apps a WHERE a.sdk_app_id = require_app.sdk_app_id);
BEGIN
    IF NOT coalesce(require_app.sdk_app_id = ANY (receiptd.apps_of_caller()), true) THEN
        RAISE EXCEPTION 'permission denied for app % of Tencent Chat', require_app.sdk_app_id
            USING ERRCODE = 'insufficient_privilege', HINT = 'The owner of the schema grants it with a row in receiptd.role_apps.';
    END IF;
    IF require_app.messages > most THEN
        RAISE EXCEPTION 'the maximum is % messages per call, and this call has %', most, require_app.messages
            USING ERRCODE = 'program_limit_exceeded',
                HINT = 'Split the call, or raise limits.messages_per_call in the configuration of the daemon.';
    END IF;
END
$$;

COMMENT ON FUNCTION receiptd.require_app(bigint, integer) IS 'Internal: raises an error if the current role may not use the app, or names more messages in one call than the daemon allows.';

-- The number of watched messages is the daemon's last count plus those added since, which is cheap for any number. The limit on
-- messages is exact except for concurrent calls, which do not see, and so do not wait for, each other. `messages` is the number
-- that the call has added.
CREATE FUNCTION receiptd.refuse_full_app(sdk_app_id bigint, messages integer DEFAULT 0) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
    app receiptd.apps;
    new_groups bigint;
    watched bigint;
BEGIN
    SELECT a.* INTO app FROM receiptd.apps a WHERE a.sdk_app_id = refuse_full_app.sdk_app_id;
    SELECT count(*) INTO new_groups FROM receiptd.watched_groups g
        WHERE g.group_key > app.last_group_key AND g.sdk_app_id = refuse_full_app.sdk_app_id;
    IF app.groups + new_groups > app.max_groups THEN
        RAISE EXCEPTION 'app % may watch at most % groups', refuse_full_app.sdk_app_id, app.max_groups
            USING ERRCODE = 'program_limit_exceeded', CONSTRAINT = 'limits.groups',
                HINT = 'Unwatch groups, or raise limits.groups in the configuration of the daemon.';
    END IF;
    IF refuse_full_app.messages > 0 AND app.max_active_messages IS NOT NULL THEN
        WITH free AS (
            SELECT t.total_id FROM receiptd.watch_totals t WHERE t.sdk_app_id = refuse_full_app.sdk_app_id
            LIMIT 1 FOR UPDATE SKIP LOCKED
        )
        UPDATE receiptd.watch_totals t SET messages = t.messages + refuse_full_app.messages
            FROM free WHERE t.sdk_app_id = refuse_full_app.sdk_app_id AND t.total_id = free.total_id;
        IF NOT FOUND THEN
            INSERT INTO receiptd.watch_totals (sdk_app_id, messages)
                VALUES (refuse_full_app.sdk_app_id, refuse_full_app.messages);
        END IF;
        -- One statement, so that both have the same snapshot.
        SELECT a.active_messages - a.watched_at_count + (
            SELECT sum(t.messages) FROM receiptd.watch_totals t WHERE t.sdk_app_id = a.sdk_app_id
        ) INTO watched FROM receiptd.apps a WHERE a.sdk_app_id = refuse_full_app.sdk_app_id;
        IF watched > app.max_active_messages THEN
            RAISE EXCEPTION 'app % may watch at most % messages at a time', refuse_full_app.sdk_app_id,
                    app.max_active_messages
                USING ERRCODE = 'program_limit_exceeded', CONSTRAINT = 'limits.messages',
                    HINT = 'Unwatch messages, or raise limits.messages in the configuration of the daemon.';
        END IF;
    END IF;
END
$$;

COMMENT ON FUNCTION receiptd.refuse_full_app(bigint, integer) IS 'Internal: raises an error if the app watches more groups or, after adding messages, more messages than the daemon allows.';

-- Labels are added to the existing ones. A new value replaces the old one, and null removes the label.
CREATE FUNCTION receiptd.merged_labels(old jsonb, given jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    merged jsonb;
    bad text;
BEGIN
    IF given IS NULL THEN
        RETURN old;
    END IF;
    IF jsonb_typeof(given) <> 'object' THEN
        RAISE EXCEPTION 'labels must be a JSON object, not of type %: %', jsonb_typeof(given), left(given::text, 100)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Use names with values, for example {"campaign": "spring"}.';
    END IF;
    SELECT e.key INTO bad FROM jsonb_each(given) e WHERE jsonb_typeof(e.value) IN ('object', 'array') LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the value of label "%" is an %', left(bad, 100), jsonb_typeof(given -> bad)
            USING ERRCODE = 'invalid_parameter_value',
                HINT = 'Use a string, a number, true or false. The value null removes the label.';
    END IF;
    SELECT e.key INTO bad FROM jsonb_each(given) e WHERE char_length(e.key) NOT BETWEEN 1 AND 63 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the name of label "%" has % characters', left(bad, 100), char_length(bad)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Names of labels have 1 to 63 characters.';
    END IF;
    merged := nullif(jsonb_strip_nulls(coalesce(old, '{}') || given), '{}');
    IF octet_length(merged::text) > 2000 THEN
        RAISE EXCEPTION 'the labels have % bytes as JSON; the maximum is 2000', octet_length(merged::text)
            USING ERRCODE = 'program_limit_exceeded',
                HINT = 'Use few short labels to filter and group by. The value null removes a label.';
    END IF;
    RETURN merged;
END
$$;

COMMENT ON FUNCTION receiptd.merged_labels(jsonb, jsonb) IS 'Internal: labels with the given ones added. Raises an error if they are not an object of strings, numbers and booleans, or if the result is too large.';

-- A session keeps the plans of its first calls, and a plan for an empty table scans it completely: without enable_seqscan = off,
-- here and below, ten thousand groups watched in one transaction took four times as long as they should, and a hundred thousand
-- nearly forever.
CREATE FUNCTION receiptd.watch_group(
    sdk_app_id bigint,
    group_id text,
    group_type text DEFAULT NULL,
    cadence text DEFAULT NULL,
    labels jsonb DEFAULT NULL,
    readers boolean DEFAULT NULL
) RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    kind text := CASE lower(watch_group.group_type)
        WHEN 'private' THEN 'Private' WHEN 'work' THEN 'Private'
        WHEN 'public' THEN 'Public'
        WHEN 'chatroom' THEN 'ChatRoom' WHEN 'meeting' THEN 'ChatRoom'
        ELSE watch_group.group_type END;
    key integer;
BEGIN
    PERFORM receiptd.require_app(watch_group.sdk_app_id);
    IF lower(kind) IN ('avchatroom', 'community') OR starts_with(watch_group.group_id, '@TGS#_')
        OR position('@TOPIC#' IN watch_group.group_id) > 0
    THEN
        RAISE EXCEPTION 'group % can''t be watched: Tencent Chat keeps no read receipts for %', watch_group.group_id,
                CASE WHEN lower(kind) = 'avchatroom' THEN 'an AVChatRoom'
                    WHEN position('@TOPIC#' IN watch_group.group_id) > 0 THEN 'a topic of a Community'
                    ELSE 'a Community' END
            USING ERRCODE = 'check_violation', HINT = 'Watch Private (Work), Public or ChatRoom (Meeting) groups.';
    END IF;
    SELECT g.group_key INTO key FROM receiptd.watched_groups g
        WHERE g.sdk_app_id = watch_group.sdk_app_id AND g.group_id = watch_group.group_id;
    IF key IS NULL THEN
        INSERT INTO receiptd.watched_groups AS g (sdk_app_id, group_id, group_type, cadence, labels, readers)
            VALUES (watch_group.sdk_app_id, watch_group.group_id, kind, watch_group.cadence,
                receiptd.merged_labels(NULL, watch_group.labels), coalesce(watch_group.readers, false))
            ON CONFLICT (sdk_app_id, group_id) DO NOTHING RETURNING g.group_key INTO key;
        IF key IS NOT NULL THEN
            PERFORM receiptd.refuse_full_app(watch_group.sdk_app_id);
            RETURN key;
        END IF;
        SELECT g.group_key INTO STRICT key FROM receiptd.watched_groups g
            WHERE g.sdk_app_id = watch_group.sdk_app_id AND g.group_id = watch_group.group_id;
    END IF;
    UPDATE receiptd.watched_groups g SET
            group_type = coalesce(kind, g.group_type),
            cadence = coalesce(watch_group.cadence, g.cadence),
            labels = receiptd.merged_labels(g.labels, watch_group.labels),
            readers = coalesce(watch_group.readers, g.readers),
            state = CASE g.state WHEN 'removed' THEN 'active' ELSE g.state END
        WHERE g.group_key = key
            AND (g.state = 'removed' OR kind <> coalesce(g.group_type, '')
                OR watch_group.cadence <> coalesce(g.cadence, '')
                OR watch_group.readers <> g.readers
                OR receiptd.merged_labels(g.labels, watch_group.labels) IS DISTINCT FROM g.labels);
    RETURN key;
END
$$;

COMMENT ON FUNCTION receiptd.watch_group(bigint, text, text, text, jsonb, boolean) IS 'Watches a group and returns its group_key. Idempotent: a type or cadence replaces the old one, null leaves it unchanged. With readers => true, the members who have read its messages are stored: personal data, off by default. Labels, such as {"branch": "north"}, are added to those of the group; the value null removes one. A paused group stays paused.';

-- Only rows with changed labels are written, and waited for.
CREATE FUNCTION receiptd.label_keys(group_keys integer[], msg_seqs bigint[], labels jsonb[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
BEGIN
    WITH locked AS (
        SELECT m.group_key, m.msg_seq, u.labels, u.number
        FROM unnest(label_keys.group_keys, label_keys.msg_seqs, label_keys.labels)
            WITH ORDINALITY AS u (group_key, msg_seq, labels, number)
        JOIN receiptd.watched_messages m ON m.group_key = u.group_key AND m.msg_seq = u.msg_seq
        WHERE receiptd.merged_labels(m.labels, u.labels) IS DISTINCT FROM m.labels
        ORDER BY m.group_key, m.msg_seq FOR NO KEY UPDATE OF m
    )
    UPDATE receiptd.watched_messages m SET labels = receiptd.merged_labels(m.labels, given.labels)
        FROM (SELECT DISTINCT ON (group_key, msg_seq) * FROM locked ORDER BY group_key, msg_seq, number) given
        WHERE m.group_key = given.group_key AND m.msg_seq = given.msg_seq;
END
$$;

COMMENT ON FUNCTION receiptd.label_keys(integer[], bigint[], jsonb[]) IS 'Internal: adds labels to existing messages, given by their keys; see watch_messages. The arrays have the same length.';

-- The one way onto the watch list. It ends with a second look at the groups: unwatch_group may have removed them since they were
-- looked up. From the insert on, it waits for this transaction. If an owner calls this, the group is then watched again.
-- Discovery, which passes the number of polls without a receipt, looks at the groups first, and leaves removed groups and all
-- known messages alone.
CREATE FUNCTION receiptd.watch_keys(
    group_keys integer[],
    msg_seqs bigint[],
    sent_at timestamptz[],
    labels jsonb[],
    discovered smallint[] DEFAULT NULL
) RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    added bigint;
    latest timestamptz := (SELECT max(u.at) FROM unnest(watch_keys.sent_at) AS u (at));
    is_discovered boolean := watch_keys.discovered IS NOT NULL;
    followed integer[];
BEGIN
    IF latest > now() + interval '1 day' THEN
        RAISE EXCEPTION 'sent_at % is more than a day in the future', latest USING ERRCODE = 'datetime_field_overflow',
            HINT = 'Omit it for messages that were just sent.';
    END IF;
    IF is_discovered THEN
        WITH locked AS (
            SELECT g.group_key FROM receiptd.watched_groups g
            WHERE g.group_key = ANY (watch_keys.group_keys) AND g.state <> 'removed' ORDER BY g.group_key FOR KEY SHARE
        )
        SELECT array_agg(l.group_key) INTO followed FROM locked l;
    END IF;
    -- Active messages are not touched, and so not waited for. The order prevents deadlocks of two calls for the same messages.
    INSERT INTO receiptd.watched_messages AS w (group_key, msg_seq, sent_at, labels, no_receipt_polls, discovered_at)
        SELECT DISTINCT ON (u.group_key, u.msg_seq) u.group_key, u.msg_seq, u.sent_at,
            CASE WHEN u.labels IS NOT NULL THEN receiptd.merged_labels(k.labels, u.labels) ELSE k.labels END,
            coalesce(u.no_receipt_polls, 0), CASE WHEN is_discovered THEN now() END
        FROM unnest(watch_keys.group_keys, watch_keys.msg_seqs, watch_keys.sent_at, watch_keys.labels, watch_keys.discovered)
            WITH ORDINALITY AS u (group_key, msg_seq, sent_at, labels, no_receipt_polls, number)
        LEFT JOIN receiptd.watched_messages k ON k.group_key = u.group_key AND k.msg_seq = u.msg_seq
        WHERE CASE WHEN is_discovered THEN k.state IS NULL AND u.group_key = ANY (followed)
            ELSE k.state IS DISTINCT FROM 'active' END
        ORDER BY u.group_key, u.msg_seq, u.number
        ON CONFLICT (group_key, msg_seq) DO UPDATE
            SET state = 'active', labels = EXCLUDED.labels, closed_at = NULL, no_receipt_polls = 0, added_at = now(),
                discovered_at = NULL,
                sent_at = least(w.sent_at, EXCLUDED.sent_at),
                aged_from = CASE WHEN EXCLUDED.sent_at > w.sent_at THEN EXCLUDED.sent_at END,
                -- Counts at an age belong to another time if it was sent earlier.
                read_15m = CASE WHEN EXCLUDED.sent_at >= w.sent_at THEN w.read_15m END,
                unread_15m = CASE WHEN EXCLUDED.sent_at >= w.sent_at THEN w.unread_15m END,
                read_1h = CASE WHEN EXCLUDED.sent_at >= w.sent_at THEN w.read_1h END,
                unread_1h = CASE WHEN EXCLUDED.sent_at >= w.sent_at THEN w.unread_1h END,
                read_24h = CASE WHEN EXCLUDED.sent_at >= w.sent_at THEN w.read_24h END,
                unread_24h = CASE WHEN EXCLUDED.sent_at >= w.sent_at THEN w.unread_24h END,
                read_7d = CASE WHEN EXCLUDED.sent_at >= w.sent_at THEN w.read_7d END,
                unread_7d = CASE WHEN EXCLUDED.sent_at >= w.sent_at THEN w.unread_7d END
            WHERE w.state <> 'active' AND NOT is_discovered;
    GET DIAGNOSTICS added = ROW_COUNT;
    IF watch_keys.labels IS NOT NULL THEN
        PERFORM receiptd.label_keys(watch_keys.group_keys, watch_keys.msg_seqs, watch_keys.labels);
    END IF;
    IF added > 0 AND NOT is_discovered THEN
        WITH removed AS (
            SELECT g.group_key FROM receiptd.watched_groups g
            WHERE g.group_key = ANY (watch_keys.group_keys) AND g.state = 'removed' ORDER BY g.group_key FOR NO KEY UPDATE
        )
        UPDATE receiptd.watched_groups g SET state = 'active' FROM removed r WHERE g.group_key = r.group_key;
    END IF;
    RETURN added;
END
$$;

COMMENT ON FUNCTION receiptd.watch_keys(integer[], bigint[], timestamptz[], jsonb[], smallint[]) IS 'Internal: watches messages of watched groups, given by their keys; see watch_messages. The arrays have the same length, but the labels may be null. For messages of discovery, discovered is the number of polls without a receipt that each of them starts with; otherwise it is null.';

CREATE FUNCTION receiptd.watch_messages(
    sdk_app_id bigint,
    group_id text,
    msg_seqs bigint[],
    sent_at timestamptz DEFAULT now(),
    labels jsonb DEFAULT NULL
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n integer := coalesce(cardinality(watch_messages.msg_seqs), 0);
    key integer;
    added bigint;
BEGIN
    PERFORM receiptd.require_app(watch_messages.sdk_app_id, n);
    key := receiptd.watch_group(watch_messages.sdk_app_id, watch_messages.group_id);
    added := receiptd.watch_keys(array_fill(key, ARRAY[n]), watch_messages.msg_seqs,
        array_fill(watch_messages.sent_at, ARRAY[n]),
        CASE WHEN watch_messages.labels IS NOT NULL THEN array_fill(watch_messages.labels, ARRAY[n]) END);
    IF added > 0 THEN
        PERFORM receiptd.refuse_full_app(watch_messages.sdk_app_id, added::integer);
    END IF;
    RETURN added;
END
$$;

COMMENT ON FUNCTION receiptd.watch_messages(bigint, text, bigint[], timestamptz, jsonb) IS 'Watches messages of a group, and the group with them. Returns how many were not being watched before. Idempotent: active messages are left as they are, but for their labels; closed ones are active again, polled as if they had been sent at the time given, while their sent_at stays the earliest that was given. Labels, such as {"campaign": "spring"}, are added to those that each message has; the value null removes one.';

-- An empty slot is deleted by the next poll that is due, since the result of a poll in flight must find it.
-- Slots that lose as many messages as they have are not compared with the rows of their messages: that takes a second for 100,000.
CREATE FUNCTION receiptd.leave_slots(group_key integer, slots bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_custom_plan SET jit = off AS $$
#variable_conflict use_column
BEGIN
    WITH left_slots AS (
        SELECT u.slot_id, count(*) AS messages FROM unnest(leave_slots.slots) AS u (slot_id)
        WHERE u.slot_id IS NOT NULL GROUP BY u.slot_id
    )
    UPDATE receiptd.poll_slots s SET version = s.version + 1, read_num = coalesce(k.read_num, '{}'),
            changed_at = coalesce(k.changed_at, '{}'), member_num = coalesce(k.member_num, '{}'),
            msg_seqs = coalesce(k.msg_seqs, '{}'), sent_at = coalesce(k.sent_at, '{}'),
            aged_from = coalesce(k.aged_from, '{}'), first_polled_at = coalesce(k.first_polled_at, '{}'),
            code = coalesce(k.code, '{}'), known_apart = coalesce(k.known_apart, '{}'),
            no_receipt_polls = coalesce(k.no_receipt_polls, '{}'), refused_since = coalesce(k.refused_since, '{}')
        FROM left_slots u
        LEFT JOIN (
            SELECT p.slot_id, array_agg(e.read_num ORDER BY e.number) AS read_num,
                array_agg(e.changed_at ORDER BY e.number) AS changed_at,
                array_agg(e.member_num ORDER BY e.number) AS member_num, array_agg(e.msg_seq ORDER BY e.number) AS msg_seqs,
                array_agg(e.sent_at ORDER BY e.number) AS sent_at, array_agg(e.aged_from ORDER BY e.number) AS aged_from,
                array_agg(e.first_polled_at ORDER BY e.number) AS first_polled_at, array_agg(e.code ORDER BY e.number) AS code,
                array_agg(e.known_apart ORDER BY e.number) AS known_apart,
                array_agg(e.no_receipt_polls ORDER BY e.number) AS no_receipt_polls,
                array_agg(e.refused_since ORDER BY e.number) AS refused_since
            FROM receiptd.poll_slots p
            JOIN left_slots USING (slot_id)
            CROSS JOIN LATERAL unnest(p.msg_seqs, receiptd.spread(p.read_num, cardinality(p.msg_seqs)),
                receiptd.spread(p.changed_at, cardinality(p.msg_seqs)), receiptd.spread(p.member_num, cardinality(p.msg_seqs)),
                receiptd.spread(p.sent_at, cardinality(p.msg_seqs)), receiptd.spread(p.aged_from, cardinality(p.msg_seqs)),
                receiptd.spread(p.first_polled_at, cardinality(p.msg_seqs)), receiptd.spread(p.code, cardinality(p.msg_seqs)),
                receiptd.spread(p.known_apart, cardinality(p.msg_seqs)),
                receiptd.spread(p.no_receipt_polls, cardinality(p.msg_seqs)),
                receiptd.spread(p.refused_since, cardinality(p.msg_seqs))) WITH ORDINALITY
                AS e (msg_seq, read_num, changed_at, member_num, sent_at, aged_from, first_polled_at, code, known_apart,
                    no_receipt_polls, refused_since, number)
            JOIN receiptd.watched_messages m
                ON m.group_key = p.group_key AND m.slot_id = p.slot_id AND m.msg_seq = e.msg_seq
            WHERE p.group_key = leave_slots.group_key AND cardinality(p.msg_seqs) > left_slots.messages
            GROUP BY p.slot_id
        ) k USING (slot_id)
        WHERE s.group_key = leave_slots.group_key AND s.slot_id = u.slot_id;
END
$$;

COMMENT ON FUNCTION receiptd.leave_slots(integer, bigint[]) IS 'Internal: takes messages out of their slots, which the caller has locked, after their rows were changed or deleted. A slot is given once for each of these messages.';

-- Otherwise a message whose row somebody deleted would be polled for ever.
CREATE FUNCTION receiptd.leave_slot() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM receiptd.poll_slots s WHERE s.group_key = OLD.group_key AND s.slot_id = OLD.slot_id
        AND OLD.msg_seq = ANY (s.msg_seqs) FOR NO KEY UPDATE;
    -- Otherwise it has left with another message that the same statement has deleted.
    IF FOUND THEN
        PERFORM receiptd.leave_slots(OLD.group_key, ARRAY[OLD.slot_id]);
    END IF;
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION receiptd.leave_slot() IS 'Internal: takes a deleted message out of its slot.';

CREATE TRIGGER leave_slot AFTER DELETE ON receiptd.watched_messages FOR EACH ROW
    WHEN (OLD.slot_id IS NOT NULL) EXECUTE FUNCTION receiptd.leave_slot();

-- Planned for each call, since it may name one message or a million.
CREATE FUNCTION receiptd.unwatch_messages(
    sdk_app_id bigint,
    group_id text,
    msg_seqs bigint[] DEFAULT NULL
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan SET jit = off AS $$
#variable_conflict use_column
DECLARE
    key integer := (SELECT g.group_key FROM receiptd.watched_groups g
        WHERE g.sdk_app_id = unwatch_messages.sdk_app_id AND g.group_id = unwatch_messages.group_id);
    seqs bigint[];
    slots_of bigint[];
    slots bigint[];
    removed bigint;
    overdue_since timestamptz;
    overdue bigint;
BEGIN
    PERFORM receiptd.require_app(unwatch_messages.sdk_app_id, coalesce(cardinality(unwatch_messages.msg_seqs), 0));
    -- The messages first: while they are locked, nobody else can assign or move them. So these are their slots.
    WITH locked AS (
        SELECT m.msg_seq, m.slot_id FROM receiptd.watched_messages m
        WHERE m.group_key = key AND m.state = 'active'
            AND (unwatch_messages.msg_seqs IS NULL OR m.msg_seq = ANY (unwatch_messages.msg_seqs))
        ORDER BY m.msg_seq FOR NO KEY UPDATE
    )
    SELECT array_agg(msg_seq), array_agg(slot_id) INTO seqs, slots_of FROM locked;
    slots := ARRAY(SELECT DISTINCT u.slot_id FROM unnest(slots_of) AS u (slot_id) WHERE u.slot_id IS NOT NULL);
    PERFORM FROM receiptd.poll_slots s WHERE s.group_key = key AND s.slot_id = ANY (slots)
        ORDER BY s.slot_id FOR NO KEY UPDATE;
    -- Usually none of them is overdue, and a group may have many other slots.
    IF array_position(slots_of, NULL) IS NOT NULL OR EXISTS (
        SELECT FROM receiptd.poll_slots s WHERE s.group_key = key AND s.slot_id = ANY (slots)
            AND (s.failures > 0 OR s.next_poll_at < now())
    ) THEN
        SELECT o.gap_from, o.messages INTO overdue_since, overdue FROM receiptd.open_gaps o WHERE o.group_key = key;
    END IF;
    UPDATE receiptd.watched_messages m
        SET state = 'removed', closed_at = now(), slot_id = NULL, no_receipt_polls = 0, refused_since = NULL,
            read_num = coalesce(e.read_num, m.read_num), unread_num = coalesce(e.unread_num, m.unread_num),
            receipt_code = coalesce(e.code, m.receipt_code),
            first_polled_at = coalesce(e.first_polled_at, m.first_polled_at),
            last_changed_at = coalesce(e.changed_at, m.last_changed_at),
            known_until = coalesce(e.known_until, m.known_until), updated_at = clock_timestamp()
        FROM unnest(seqs, slots_of) AS u (msg_seq, slot_id)
        LEFT JOIN (
            -- With OFFSET each slot is opened once, and not for each of its messages.
            SELECT s.slot_id, s.msg_seq, s.read_num, s.unread_num, s.code, s.first_polled_at, s.changed_at, s.known_until
            FROM receiptd.slot_messages s WHERE s.group_key = key AND s.slot_id = ANY (slots) OFFSET 0
        ) e ON e.slot_id = u.slot_id AND e.msg_seq = u.msg_seq
        WHERE m.group_key = key AND m.msg_seq = u.msg_seq;
    GET DIAGNOSTICS removed = ROW_COUNT;
    PERFORM receiptd.leave_slots(key, slots_of);
    -- The roll-up finds gaps by the late polls that end them. If the last overdue messages leave, there will be none.
    IF overdue_since IS NOT NULL AND NOT EXISTS (SELECT FROM receiptd.open_gaps o WHERE o.group_key = key) THEN
        INSERT INTO receiptd.poll_gaps (group_key, gap_from, gap_until, messages, reason)
            VALUES (key, overdue_since, now(), least(overdue, 2147483647), 'unwatched') ON CONFLICT DO NOTHING;
    END IF;
    -- A group that is not polled has no such poll: its empty slots go when it is rescheduled.
    UPDATE receiptd.watched_groups g SET reschedule = true
        WHERE removed > 0 AND g.group_key = key AND g.state <> 'active' AND NOT g.reschedule;
    RETURN removed;
END
$$;

COMMENT ON FUNCTION receiptd.unwatch_messages(bigint, text, bigint[]) IS 'Stops watching messages of a group, or all of them; their history stays. Returns how many were active. Locks them and their slots until the end of the transaction: use one transaction per call, since several calls in one can cause deadlocks.';

CREATE FUNCTION receiptd.unwatch_group(sdk_app_id bigint, group_id text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    removed bigint := receiptd.unwatch_messages(unwatch_group.sdk_app_id, unwatch_group.group_id);
BEGIN
    -- An open transaction that adds messages has locked the group: after it they are visible, and no more can be added.
    PERFORM FROM receiptd.watched_groups g
        WHERE g.sdk_app_id = unwatch_group.sdk_app_id AND g.group_id = unwatch_group.group_id FOR UPDATE;
    removed := removed + receiptd.unwatch_messages(unwatch_group.sdk_app_id, unwatch_group.group_id);
    UPDATE receiptd.watched_groups g SET state = 'removed'
        WHERE g.sdk_app_id = unwatch_group.sdk_app_id AND g.group_id = unwatch_group.group_id AND g.state <> 'removed';
    RETURN removed;
END
$$;

COMMENT ON FUNCTION receiptd.unwatch_group(bigint, text) IS 'Stops watching a group and all its messages; their history stays. Returns how many messages were active.';

CREATE FUNCTION receiptd.pause_group(sdk_app_id bigint, group_id text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM receiptd.require_app(pause_group.sdk_app_id);
    UPDATE receiptd.watched_groups g SET state = 'paused'
        WHERE g.sdk_app_id = pause_group.sdk_app_id AND g.group_id = pause_group.group_id
            AND g.state IN ('active', 'quarantined');
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION receiptd.pause_group(bigint, text) IS 'Stops polling a group until it is resumed. True if it was active or quarantined.';

CREATE FUNCTION receiptd.resume_group(sdk_app_id bigint, group_id text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
BEGIN
    PERFORM receiptd.require_app(resume_group.sdk_app_id);
    UPDATE receiptd.watched_groups g SET state = 'active'
        WHERE g.sdk_app_id = resume_group.sdk_app_id AND g.group_id = resume_group.group_id
            AND g.state IN ('paused', 'quarantined');
    RETURN FOUND;
END
$$;

COMMENT ON FUNCTION receiptd.resume_group(bigint, text) IS 'Polls a paused or quarantined group again. True if it was paused or quarantined.';
