-- Who may poll, and what could not be stored.

-- How far the roll-up is stands in the row that every flush looks at before its commit: so a flush knows whether it writes what
-- has been rolled up already, and a roll-up that moves the mark has every earlier flush before it.
CREATE TABLE receiptd.poller_leases (
    sdk_app_id       bigint PRIMARY KEY,
    holder           text,
    epoch            bigint NOT NULL,
    acquired_at      timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL,
    rolling_up_until timestamptz,
    rolled_up_until  timestamptz,
    cadences         jsonb,
    batch_taken      integer,
    batch_refused    integer,
    CONSTRAINT sdk_app_id_is_a_positive_u32 CHECK (sdk_app_id BETWEEN 1 AND 4294967295),
    CONSTRAINT a_batch_that_is_refused_is_larger_than_one_that_is_taken
        CHECK ((batch_taken IS NULL) = (batch_refused IS NULL) AND batch_taken > 0 AND batch_taken < batch_refused)
) WITH (fillfactor = 50);

COMMENT ON TABLE receiptd.poller_leases IS 'Who may poll: one receiptd for each app, while any number of others stand by.';
COMMENT ON COLUMN receiptd.poller_leases.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.poller_leases.holder IS 'Host and process that polls; null after a clean stop.';
COMMENT ON COLUMN receiptd.poller_leases.epoch IS 'Counts up with every holder. Whatever is written under an older one has no effect.';
COMMENT ON COLUMN receiptd.poller_leases.acquired_at IS 'Since when this holder polls.';
COMMENT ON COLUMN receiptd.poller_leases.expires_at IS 'Until when the lease holds if it is not renewed, by the clock of the database.';
COMMENT ON COLUMN receiptd.poller_leases.rolling_up_until IS 'Internal: what is older than this is rolled up or being so. A flush that writes something older notes its hour in rollup_redo.';
COMMENT ON COLUMN receiptd.poller_leases.rolled_up_until IS 'Until when roll-ups of this app are complete.';
COMMENT ON COLUMN receiptd.poller_leases.cadences IS 'Internal: the cadences by name, in words, that the schedule follows; null before the first poll.';
COMMENT ON COLUMN receiptd.poller_leases.batch_taken IS 'Largest number of messages that Tencent Chat takes in a call, if it was found to refuse more; null if it takes polling.batch_size.';
COMMENT ON COLUMN receiptd.poller_leases.batch_refused IS 'Smallest number of messages in a call that Tencent Chat was found to refuse.';

-- Sent together with the commit, so that the row of the lease is locked for no round trip.
CREATE FUNCTION receiptd.end_under_lease(app bigint, held_epoch bigint, held_by text, wrote timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    mark timestamptz;
BEGIN
    -- Without a transaction id nothing was written: there is nothing to protect, and locking the row would be the only write.
    IF pg_current_xact_id_if_assigned() IS NULL THEN
        PERFORM FROM receiptd.poller_leases l
            WHERE l.sdk_app_id = app AND l.epoch = held_epoch AND l.holder = held_by;
    ELSE
        SELECT l.rolling_up_until INTO mark FROM receiptd.poller_leases l
            WHERE l.sdk_app_id = app AND l.epoch = held_epoch AND l.holder = held_by FOR SHARE;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the lease of app % has passed to another receiptd', app USING ERRCODE = 'RC001';
    END IF;
    IF wrote < mark THEN
        -- Its own hour, and those since, at the end of which something else was known. A clock that is years behind is not
        -- followed over all of them.
        INSERT INTO receiptd.rollup_redo (sdk_app_id, hour)
            SELECT app, date_trunc('hour', wrote, 'UTC')
            UNION
            SELECT app, generate_series(date_trunc('hour', greatest(wrote, mark - interval '7 days'), 'UTC'),
                mark - interval '1 microsecond', '1 hour')
            UNION
            -- With its last hour a day is done again.
            SELECT app, date_trunc('day', wrote, 'UTC') + interval '23 hours'
            WHERE date_trunc('day', wrote, 'UTC') + interval '24 hours' <= mark;
    END IF;
END
$$;

COMMENT ON FUNCTION receiptd.end_under_lease(bigint, bigint, text, timestamptz) IS 'Internal: lets a transaction be committed only under the lease that it was begun under, and notes hours that were rolled up before what it wrote.';

-- One row per slot, message and error, counted up: a refusal that repeats must not fill the disk.
CREATE TABLE receiptd.set_aside (
    group_key          integer NOT NULL,
    set_aside_id       bigint GENERATED ALWAYS AS IDENTITY,
    slot_id            bigint NOT NULL,
    msg_seq            bigint,
    sqlstate           text NOT NULL,
    reason             text NOT NULL,
    content            jsonb NOT NULL,
    times              bigint NOT NULL DEFAULT 1,
    first_set_aside_at timestamptz NOT NULL DEFAULT now(),
    set_aside_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (group_key, set_aside_id),
    CONSTRAINT a_message_is_set_aside_once_an_error UNIQUE NULLS NOT DISTINCT (group_key, slot_id, msg_seq, sqlstate)
);

COMMENT ON TABLE receiptd.set_aside IS 'Results of polls that the tables refused, with the reason: one row per slot, message and error. It should stay empty.';
COMMENT ON COLUMN receiptd.set_aside.group_key IS 'The group, as in watched_groups.';
COMMENT ON COLUMN receiptd.set_aside.set_aside_id IS 'Key of the row.';
COMMENT ON COLUMN receiptd.set_aside.slot_id IS 'Internal: the call that brought it.';
COMMENT ON COLUMN receiptd.set_aside.msg_seq IS 'The message; null for what belongs to the whole poll.';
COMMENT ON COLUMN receiptd.set_aside.sqlstate IS 'Error code of the database.';
COMMENT ON COLUMN receiptd.set_aside.reason IS 'What the database said the last time.';
COMMENT ON COLUMN receiptd.set_aside.content IS 'What was to be stored the last time, with the columns of receipt_snapshots and watched_messages as keys.';
COMMENT ON COLUMN receiptd.set_aside.times IS 'How often it was refused.';
COMMENT ON COLUMN receiptd.set_aside.first_set_aside_at IS 'When it was first refused.';
COMMENT ON COLUMN receiptd.set_aside.set_aside_at IS 'When it was last refused.';

CREATE INDEX set_aside_by_time ON receiptd.set_aside USING brin (set_aside_at);
