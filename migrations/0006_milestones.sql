-- What is kept of a message for good, and where closed messages go: the hot table keeps those that are polled.

-- What the row before said: so that gains are added up without looking for it in another partition.
ALTER TABLE receiptd.receipt_snapshots ADD COLUMN prior_read_num integer;

UPDATE receiptd.receipt_snapshots s SET prior_read_num = before.read_num
FROM (
    SELECT group_key, msg_seq, polled_at,
        lag(read_num) OVER (PARTITION BY group_key, msg_seq ORDER BY polled_at) AS read_num
    FROM receiptd.receipt_snapshots
) before
WHERE s.group_key = before.group_key AND s.msg_seq = before.msg_seq AND s.polled_at = before.polled_at
    AND s.prior_polled_at IS NOT NULL;

-- When the poll should have been made: so that gaps can be told from cadence.
ALTER TABLE receiptd.api_calls ADD COLUMN due_at timestamptz;

CREATE TABLE receiptd.message_milestones (
    group_key        integer NOT NULL,
    msg_seq          bigint NOT NULL,
    sent_at          timestamptz NOT NULL,
    state            text NOT NULL DEFAULT 'active',
    closed_at        timestamptz,
    read_num         integer,
    unread_num       integer,
    receipt_code     integer,
    first_polled_at  timestamptz,
    last_changed_at  timestamptz,
    known_until      timestamptz,
    first_read_after timestamptz,
    first_read_by    timestamptz,
    half_read_after  timestamptz,
    half_read_by     timestamptz,
    p90_read_after   timestamptz,
    p90_read_by      timestamptz,
    all_read_after   timestamptz,
    all_read_by      timestamptz,
    read_rate_15m    real,
    read_rate_1h     real,
    read_rate_24h    real,
    read_rate_7d     real,
    PRIMARY KEY (group_key, msg_seq),
    CONSTRAINT state_is_known
        CHECK (state IN ('active', 'all_read', 'no_receipt', 'expired', 'rejected', 'removed')),
    CONSTRAINT closed_at_says_since_when CHECK ((state = 'active') = (closed_at IS NULL)),
    CONSTRAINT counts_come_in_pairs CHECK ((read_num IS NULL) = (unread_num IS NULL)),
    CONSTRAINT milestones_are_intervals CHECK (first_read_after < first_read_by AND half_read_after < half_read_by
        AND p90_read_after < p90_read_by AND all_read_after < all_read_by),
    CONSTRAINT rates_are_shares CHECK (read_rate_15m BETWEEN 0 AND 1 AND read_rate_1h BETWEEN 0 AND 1
        AND read_rate_24h BETWEEN 0 AND 1 AND read_rate_7d BETWEEN 0 AND 1)
) WITH (fillfactor = 80);

CREATE INDEX message_milestones_by_time ON receiptd.message_milestones (sent_at);
CREATE INDEX message_milestones_open ON receiptd.message_milestones (group_key) WHERE closed_at IS NULL;
CREATE INDEX message_milestones_closed ON receiptd.message_milestones (closed_at) WHERE closed_at IS NOT NULL;

-- Closed messages that have yet to leave.
CREATE INDEX watched_messages_closed ON receiptd.watched_messages (group_key, msg_seq) WHERE state <> 'active';

-- Watches messages of groups that are there. Whoever is in message_milestones only comes back with what is known of it.
CREATE FUNCTION receiptd.watch_keys(group_keys integer[], msg_seqs bigint[], sent_at timestamptz[]) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    added bigint;
    reopened bigint;
BEGIN
    -- The order keeps two calls for the same messages from waiting for each other.
    INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at, read_num, unread_num, receipt_code,
            first_polled_at, last_changed_at, known_until)
        SELECT DISTINCT ON (u.group_key, u.msg_seq) u.group_key, u.msg_seq, u.sent_at, m.read_num, m.unread_num,
            m.receipt_code, m.first_polled_at, m.last_changed_at, m.known_until
        FROM unnest(watch_keys.group_keys, watch_keys.msg_seqs, watch_keys.sent_at) AS u (group_key, msg_seq, sent_at)
        LEFT JOIN receiptd.message_milestones m
            ON m.group_key = u.group_key AND m.msg_seq = u.msg_seq AND m.closed_at IS NOT NULL
        ORDER BY u.group_key, u.msg_seq
        ON CONFLICT (group_key, msg_seq) DO NOTHING;
    GET DIAGNOSTICS added = ROW_COUNT;
    IF added > 0 THEN
        WITH back AS (
            SELECT m.group_key, m.msg_seq
            FROM unnest(watch_keys.group_keys, watch_keys.msg_seqs) AS u (group_key, msg_seq)
            JOIN receiptd.message_milestones m ON m.group_key = u.group_key AND m.msg_seq = u.msg_seq
            WHERE m.closed_at IS NOT NULL ORDER BY m.group_key, m.msg_seq FOR UPDATE OF m
        )
        UPDATE receiptd.message_milestones m SET state = 'active', closed_at = NULL, known_until = NULL
            FROM back WHERE m.group_key = back.group_key AND m.msg_seq = back.msg_seq;
    END IF;
    IF added = cardinality(watch_keys.msg_seqs) THEN
        RETURN added;
    END IF;
    WITH closed AS (
        SELECT m.group_key, m.msg_seq, u.sent_at
        FROM unnest(watch_keys.group_keys, watch_keys.msg_seqs, watch_keys.sent_at) AS u (group_key, msg_seq, sent_at)
        JOIN receiptd.watched_messages m ON m.group_key = u.group_key AND m.msg_seq = u.msg_seq
        WHERE m.state <> 'active'
        -- Who holds the lock of a closed message is opening it just now: to wait for that could be a deadlock.
        ORDER BY m.group_key, m.msg_seq FOR UPDATE OF m SKIP LOCKED
    )
    UPDATE receiptd.watched_messages m
        SET state = 'active', closed_at = NULL, no_receipt_polls = 0, added_at = now(), sent_at = closed.sent_at
        FROM closed WHERE m.group_key = closed.group_key AND m.msg_seq = closed.msg_seq;
    GET DIAGNOSTICS reopened = ROW_COUNT;
    RETURN added + reopened;
END
$$;

CREATE OR REPLACE FUNCTION receiptd.watch_messages(
    sdk_app_id bigint,
    group_id text,
    msg_seqs bigint[],
    sent_at timestamptz DEFAULT now()
) RETURNS bigint LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    WITH keys AS MATERIALIZED (SELECT receiptd.watch_group($1, $2) AS key)
    SELECT receiptd.watch_keys(array_fill(key, ARRAY[n]), $3, array_fill($4, ARRAY[n]))
    FROM keys, coalesce(cardinality($3), 0) AS n
$$;

COMMENT ON COLUMN receiptd.receipt_snapshots.prior_read_num IS 'read_num of the row before: the difference is what was read in between. Null for the first observation.';
COMMENT ON COLUMN receiptd.api_calls.due_at IS 'When the poll was due by its cadence: called later than that, it left a gap.';

COMMENT ON FUNCTION receiptd.watch_keys(integer[], bigint[], timestamptz[]) IS 'Internal: watches messages of groups that are watched, given by their keys; see watch_messages. The arrays are of one length.';

COMMENT ON TABLE receiptd.message_milestones IS 'One row per message, kept when its snapshots are dropped: how fast it was read, how far, and how its watching ended. Written by the roll-up, some minutes behind. Each milestone is the interval that polling can prove: it was reached after …_after and by …_by.';
COMMENT ON COLUMN receiptd.message_milestones.group_key IS 'Group of the message, see watched_groups.';
COMMENT ON COLUMN receiptd.message_milestones.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.message_milestones.sent_at IS 'When the message was sent, as first said by whoever watched it.';
COMMENT ON COLUMN receiptd.message_milestones.state IS 'active, or why polling ended: all_read, no_receipt, expired, rejected, removed.';
COMMENT ON COLUMN receiptd.message_milestones.closed_at IS 'When polling ended; null while the message is polled.';
COMMENT ON COLUMN receiptd.message_milestones.read_num IS 'Last known count of members who have read it.';
COMMENT ON COLUMN receiptd.message_milestones.unread_num IS 'Last known count of members who have not read it.';
COMMENT ON COLUMN receiptd.message_milestones.receipt_code IS 'Last per-message code: 0 is success, 10062 no receipt.';
COMMENT ON COLUMN receiptd.message_milestones.first_polled_at IS 'First poll that told something of the message.';
COMMENT ON COLUMN receiptd.message_milestones.last_changed_at IS 'Poll at which these counts were first seen (with snapshots.record = "every_poll", while it is polled: last seen).';
COMMENT ON COLUMN receiptd.message_milestones.known_until IS 'Last poll that still saw these counts; null while the message is polled, see latest_receipts.';
COMMENT ON COLUMN receiptd.message_milestones.first_read_after IS 'Last poll before anybody was seen to have read it; null if the first poll saw it already.';
COMMENT ON COLUMN receiptd.message_milestones.first_read_by IS 'First poll that saw it read by anybody; null if none did.';
COMMENT ON COLUMN receiptd.message_milestones.half_read_after IS 'Last poll before half of the members were seen to have read it; null if the first poll saw that already.';
COMMENT ON COLUMN receiptd.message_milestones.half_read_by IS 'First poll that saw it read by half of read_num + unread_num; null if none did.';
COMMENT ON COLUMN receiptd.message_milestones.p90_read_after IS 'Last poll before 90 % of the members were seen to have read it; null if the first poll saw that already.';
COMMENT ON COLUMN receiptd.message_milestones.p90_read_by IS 'First poll that saw it read by 90 % of read_num + unread_num; null if none did.';
COMMENT ON COLUMN receiptd.message_milestones.all_read_after IS 'Last poll before all members were seen to have read it; null if the first poll saw that already.';
COMMENT ON COLUMN receiptd.message_milestones.all_read_by IS 'First poll that saw it read by all; null if none did.';
COMMENT ON COLUMN receiptd.message_milestones.read_rate_15m IS 'Share of members who had read it 15 minutes after it was sent, by the last observation until then; null if there was none, or the time has not come.';
COMMENT ON COLUMN receiptd.message_milestones.read_rate_1h IS 'The same an hour after it was sent.';
COMMENT ON COLUMN receiptd.message_milestones.read_rate_24h IS 'The same a day after it was sent.';
COMMENT ON COLUMN receiptd.message_milestones.read_rate_7d IS 'The same seven days after it was sent.';
