-- How an application watches: idempotent functions, usable from any language.
--
-- Locks: whoever changes messages that are in a slot locks the slots first, in the order of their ids, and then the
-- messages in the order of their seqs. So these functions and the daemon never deadlock. watch_messages touches no
-- active message at all.

CREATE FUNCTION receiptd.watch_group(
    sdk_app_id bigint,
    group_id text,
    group_type text DEFAULT NULL,
    cadence text DEFAULT NULL
) RETURNS integer LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    kind text := CASE lower(watch_group.group_type)
        WHEN 'private' THEN 'Private' WHEN 'work' THEN 'Private'
        WHEN 'public' THEN 'Public'
        WHEN 'chatroom' THEN 'ChatRoom' WHEN 'meeting' THEN 'ChatRoom'
        ELSE watch_group.group_type END;
    key integer;
BEGIN
    IF lower(kind) IN ('avchatroom', 'community') OR starts_with(watch_group.group_id, '@TGS#_')
        OR position('@TOPIC#' IN watch_group.group_id) > 0
    THEN
        RAISE EXCEPTION 'group % can not be watched: Tencent Chat keeps no read receipts for %', watch_group.group_id,
                CASE WHEN lower(kind) = 'avchatroom' THEN 'an AVChatRoom'
                    WHEN position('@TOPIC#' IN watch_group.group_id) > 0 THEN 'a topic of a Community'
                    ELSE 'a Community' END
            USING ERRCODE = 'check_violation', HINT = 'Watch Private (Work), Public or ChatRoom (Meeting) groups.';
    END IF;
    SELECT g.group_key INTO key FROM receiptd.watched_groups g
        WHERE g.sdk_app_id = watch_group.sdk_app_id AND g.group_id = watch_group.group_id;
    IF key IS NULL THEN
        INSERT INTO receiptd.watched_groups AS g (sdk_app_id, group_id, group_type, cadence)
            VALUES (watch_group.sdk_app_id, watch_group.group_id, kind, watch_group.cadence)
            ON CONFLICT (sdk_app_id, group_id) DO NOTHING RETURNING g.group_key INTO key;
        IF key IS NOT NULL THEN
            RETURN key;
        END IF;
        SELECT g.group_key INTO STRICT key FROM receiptd.watched_groups g
            WHERE g.sdk_app_id = watch_group.sdk_app_id AND g.group_id = watch_group.group_id;
    END IF;
    UPDATE receiptd.watched_groups g SET
            group_type = coalesce(kind, g.group_type),
            cadence = coalesce(watch_group.cadence, g.cadence),
            state = CASE g.state WHEN 'removed' THEN 'active' ELSE g.state END
        WHERE g.group_key = key
            AND (g.state = 'removed' OR kind <> coalesce(g.group_type, '')
                OR watch_group.cadence <> coalesce(g.cadence, ''));
    RETURN key;
END
$$;

CREATE FUNCTION receiptd.watch_messages(
    sdk_app_id bigint,
    group_id text,
    msg_seqs bigint[],
    sent_at timestamptz DEFAULT now()
) RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    key integer := receiptd.watch_group(watch_messages.sdk_app_id, watch_messages.group_id);
    added bigint;
    reopened bigint;
BEGIN
    INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at)
        SELECT DISTINCT key, seq, watch_messages.sent_at FROM unnest(watch_messages.msg_seqs) AS seq ORDER BY seq
        ON CONFLICT (group_key, msg_seq) DO NOTHING;
    GET DIAGNOSTICS added = ROW_COUNT;
    IF added = cardinality(watch_messages.msg_seqs) THEN
        RETURN added;
    END IF;
    WITH closed AS (
        SELECT m.msg_seq FROM receiptd.watched_messages m
        WHERE m.group_key = key AND m.msg_seq = ANY (watch_messages.msg_seqs) AND m.state <> 'active'
        -- Who holds the lock of a closed message is opening it just now: to wait for that could be a deadlock.
        ORDER BY m.msg_seq FOR UPDATE SKIP LOCKED
    )
    UPDATE receiptd.watched_messages m
        SET state = 'active', closed_at = NULL, no_receipt_polls = 0, added_at = now(), sent_at = watch_messages.sent_at
        FROM closed WHERE m.group_key = key AND m.msg_seq = closed.msg_seq;
    GET DIAGNOSTICS reopened = ROW_COUNT;
    RETURN added + reopened;
END
$$;

CREATE FUNCTION receiptd.unwatch_messages(
    sdk_app_id bigint,
    group_id text,
    msg_seqs bigint[] DEFAULT NULL
) RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    key integer := (SELECT g.group_key FROM receiptd.watched_groups g
        WHERE g.sdk_app_id = unwatch_messages.sdk_app_id AND g.group_id = unwatch_messages.group_id);
    slots bigint[];
    removed bigint;
BEGIN
    WITH locked AS (
        SELECT s.slot_id FROM receiptd.poll_slots s
        WHERE s.group_key = key AND (unwatch_messages.msg_seqs IS NULL OR s.slot_id IN (
            SELECT m.slot_id FROM receiptd.watched_messages m
            WHERE m.group_key = key AND m.msg_seq = ANY (unwatch_messages.msg_seqs)))
        ORDER BY s.slot_id FOR UPDATE
    )
    SELECT array_agg(slot_id) INTO slots FROM locked;
    WITH leaving AS (
        SELECT m.msg_seq, s.last_polled_at FROM receiptd.watched_messages m
        LEFT JOIN receiptd.poll_slots s ON s.group_key = m.group_key AND s.slot_id = m.slot_id
        WHERE m.group_key = key AND m.state = 'active'
            AND (unwatch_messages.msg_seqs IS NULL OR m.msg_seq = ANY (unwatch_messages.msg_seqs))
        ORDER BY m.msg_seq FOR UPDATE OF m
    )
    UPDATE receiptd.watched_messages m
        SET state = 'removed', closed_at = now(), slot_id = NULL,
            known_until = CASE WHEN m.first_polled_at IS NOT NULL THEN coalesce(m.known_until, leaving.last_polled_at) END
        FROM leaving WHERE m.group_key = key AND m.msg_seq = leaving.msg_seq;
    GET DIAGNOSTICS removed = ROW_COUNT;
    DELETE FROM receiptd.poll_slots s
        WHERE s.group_key = key AND s.slot_id = ANY (slots) AND NOT EXISTS (
            SELECT FROM receiptd.watched_messages m WHERE m.group_key = key AND m.slot_id = s.slot_id);
    RETURN removed;
END
$$;

CREATE FUNCTION receiptd.unwatch_group(sdk_app_id bigint, group_id text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    removed bigint := receiptd.unwatch_messages(unwatch_group.sdk_app_id, unwatch_group.group_id);
BEGIN
    UPDATE receiptd.watched_groups g SET state = 'removed'
        WHERE g.sdk_app_id = unwatch_group.sdk_app_id AND g.group_id = unwatch_group.group_id AND g.state <> 'removed';
    RETURN removed;
END
$$;

CREATE FUNCTION receiptd.pause_group(sdk_app_id bigint, group_id text) RETURNS boolean
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH changed AS (
        UPDATE receiptd.watched_groups g SET state = 'paused'
        WHERE g.sdk_app_id = $1 AND g.group_id = $2 AND g.state IN ('active', 'quarantined') RETURNING 1
    )
    SELECT EXISTS (SELECT FROM changed)
$$;

CREATE FUNCTION receiptd.resume_group(sdk_app_id bigint, group_id text) RETURNS boolean
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH changed AS (
        UPDATE receiptd.watched_groups g SET state = 'active'
        WHERE g.sdk_app_id = $1 AND g.group_id = $2 AND g.state IN ('paused', 'quarantined') RETURNING 1
    )
    SELECT EXISTS (SELECT FROM changed)
$$;

COMMENT ON FUNCTION receiptd.watch_group(bigint, text, text, text) IS 'Watches a group and returns its group_key. Idempotent: a type or cadence that is given replaces the old one, null leaves it. A paused group stays paused.';
COMMENT ON FUNCTION receiptd.watch_messages(bigint, text, bigint[], timestamptz) IS 'Watches messages of a group, and the group with them. Returns how many were not being watched before. Idempotent: active messages are left as they are, closed ones are active again with the sent_at given.';
COMMENT ON FUNCTION receiptd.unwatch_messages(bigint, text, bigint[]) IS 'Stops watching messages of a group, or all of them; their history stays. Returns how many were being watched.';
COMMENT ON FUNCTION receiptd.unwatch_group(bigint, text) IS 'Stops watching a group and all its messages; their history stays. Returns how many messages were being watched.';
COMMENT ON FUNCTION receiptd.pause_group(bigint, text) IS 'Stops polling a group until it is resumed. True if it was being polled or quarantined.';
COMMENT ON FUNCTION receiptd.resume_group(bigint, text) IS 'Polls a paused or quarantined group again. True if it was paused or quarantined.';
