-- A message that is watched again keeps the time of its sending, by which analysts reckon. The time that whoever watches it
-- again gives is the one from which its age counts for its cadence: so it is polled as if it were as young as they say.
ALTER TABLE receiptd.watched_messages ADD COLUMN aged_from timestamptz,
    ADD CONSTRAINT aged_from_is_later_than_sent_at CHECK (aged_from > sent_at);

-- A session keeps the plans that it makes at its first calls, and those of tables that are empty then read them whole: so ten
-- thousand groups watched in one transaction took four times as long as they should, and a hundred thousand nearly for ever.
ALTER FUNCTION receiptd.watch_group(bigint, text, text, text) SET enable_seqscan = off;

CREATE OR REPLACE FUNCTION receiptd.watch_keys(group_keys integer[], msg_seqs bigint[], sent_at timestamptz[])
RETURNS bigint LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
#variable_conflict use_column
DECLARE
    added bigint;
BEGIN
    -- Messages that are watched are left alone, and so not waited for. The order keeps two calls for the same messages from
    -- waiting for each other.
    INSERT INTO receiptd.watched_messages AS w (group_key, msg_seq, sent_at)
        SELECT DISTINCT ON (u.group_key, u.msg_seq) u.group_key, u.msg_seq, u.sent_at
        FROM unnest(watch_keys.group_keys, watch_keys.msg_seqs, watch_keys.sent_at) AS u (group_key, msg_seq, sent_at)
        LEFT JOIN receiptd.watched_messages k ON k.group_key = u.group_key AND k.msg_seq = u.msg_seq
        WHERE k.state IS DISTINCT FROM 'active'
        ORDER BY u.group_key, u.msg_seq
        ON CONFLICT (group_key, msg_seq) DO UPDATE
            SET state = 'active', closed_at = NULL, no_receipt_polls = 0, added_at = now(),
                sent_at = least(w.sent_at, EXCLUDED.sent_at),
                aged_from = CASE WHEN EXCLUDED.sent_at > w.sent_at THEN EXCLUDED.sent_at END
            WHERE w.state <> 'active';
    GET DIAGNOSTICS added = ROW_COUNT;
    IF added = 0 THEN
        RETURN 0;
    END IF;
    -- Those that were in message_milestones only come back with what is known of them. A statement of its own, so that it
    -- sees what a roll-up has moved there while the one before waited for it.
    WITH back AS (
        SELECT m.*
        FROM unnest(watch_keys.group_keys, watch_keys.msg_seqs) AS u (group_key, msg_seq)
        JOIN receiptd.message_milestones m ON m.group_key = u.group_key AND m.msg_seq = u.msg_seq
        WHERE m.closed_at IS NOT NULL ORDER BY m.group_key, m.msg_seq FOR UPDATE OF m
    ), opened AS (
        UPDATE receiptd.message_milestones m SET state = 'active', closed_at = NULL, known_until = NULL
            FROM back WHERE m.group_key = back.group_key AND m.msg_seq = back.msg_seq
    )
    UPDATE receiptd.watched_messages w SET read_num = back.read_num, unread_num = back.unread_num,
            receipt_code = back.receipt_code, first_polled_at = back.first_polled_at,
            last_changed_at = back.last_changed_at, known_until = back.known_until,
            sent_at = least(back.sent_at, w.sent_at), aged_from = CASE WHEN w.sent_at > back.sent_at THEN w.sent_at END
        FROM back WHERE w.group_key = back.group_key AND w.msg_seq = back.msg_seq;
    RETURN added;
END
$$;

COMMENT ON COLUMN receiptd.watched_messages.sent_at IS 'When the message was sent, as said by whoever watched it; its age decides how often it is polled.';
COMMENT ON COLUMN receiptd.watched_messages.aged_from IS 'Internal: from when its age counts instead, where it was watched again and said to be younger.';
COMMENT ON FUNCTION receiptd.watch_messages(bigint, text, bigint[], timestamptz) IS 'Watches messages of a group, and the group with them. Returns how many were not being watched before. Idempotent: active messages are left as they are; closed ones are active again, polled as if they had been sent at the time given, while their sent_at stays the earliest that was said.';
