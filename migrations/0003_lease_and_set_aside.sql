-- The lease, and results that could not be stored.

-- The end of the roll-up is stored in the row that every flush reads before its commit. So a flush knows whether it writes to
-- an hour that was rolled up already, and a roll-up that moves the mark sees every earlier flush.
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
    stretch          double precision NOT NULL DEFAULT 1,
    changes_told     double precision NOT NULL DEFAULT 0,
    changes_untold   double precision NOT NULL DEFAULT 0,
    CONSTRAINT sdk_app_id_is_a_positive_u32 CHECK (sdk_app_id BETWEEN 1 AND 4294967295),
    CONSTRAINT a_batch_that_is_refused_is_larger_than_one_that_is_taken
        CHECK ((batch_taken IS NULL) = (batch_refused IS NULL) AND batch_taken > 0 AND batch_taken < batch_refused),
    CONSTRAINT intervals_are_never_shortened CHECK (stretch BETWEEN 1 AND 1e9)
) WITH (fillfactor = 50);

COMMENT ON TABLE receiptd.poller_leases IS 'Leases: one receiptd polls each app, and any number of others stand by.';
COMMENT ON COLUMN receiptd.poller_leases.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.poller_leases.holder IS 'Host and process of the lease holder; null after a clean stop.';
COMMENT ON COLUMN receiptd.poller_leases.epoch IS 'Increases with each holder. Transactions of an older epoch are refused.';
COMMENT ON COLUMN receiptd.poller_leases.acquired_at IS 'Time when the holder took the lease.';
COMMENT ON COLUMN receiptd.poller_leases.expires_at IS 'Time when the lease ends unless it is renewed, by the database''s clock. For people: standbys don''t use it.';
COMMENT ON COLUMN receiptd.poller_leases.rolling_up_until IS 'Internal: older data is rolled up or being rolled up. A flush that writes older rows notes their hour in rollup_redo.';
COMMENT ON COLUMN receiptd.poller_leases.rolled_up_until IS 'Time up to which the app''s roll-ups are complete.';
COMMENT ON COLUMN receiptd.poller_leases.cadences IS 'Internal: the cadences of the current schedule, by name, as text; null before the first poll.';
COMMENT ON COLUMN receiptd.poller_leases.batch_taken IS 'Maximum number of messages per call that Tencent Chat has accepted, if it has refused more; null if it accepts polling.batch_size.';
COMMENT ON COLUMN receiptd.poller_leases.stretch IS 'Factor by which all intervals are longer, since more is due than the rate limit allows; 1 while everything fits.';
COMMENT ON COLUMN receiptd.poller_leases.batch_refused IS 'Smallest number of messages per call that Tencent Chat has refused.';
COMMENT ON COLUMN receiptd.poller_leases.changes_told IS 'Internal: number of recent changes that webhooks reported; older ones count less.';
COMMENT ON COLUMN receiptd.poller_leases.changes_untold IS 'Internal: the same for changes that only polls found. Their share decides how rare polls become.';

-- Sent together with the commit, so that the lease row isn't locked during a round trip.
CREATE FUNCTION receiptd.end_under_lease(app bigint, held_epoch bigint, held_by text, wrote timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    mark timestamptz;
BEGIN
    -- Without a transaction id nothing was written, so there is nothing to protect, and the lock would be the only write.
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
        -- Its own hour and all later ones, since they carry counts forward. Limited to 7 days, in case a clock is years behind.
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

COMMENT ON FUNCTION receiptd.end_under_lease(bigint, bigint, text, timestamptz) IS 'Internal: fails a transaction whose lease has passed to another holder, and notes the rolled-up hours it wrote to, to be rolled up again.';

-- One row with a count per slot, message and error, so that a repeated refusal can't fill the disk.
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
COMMENT ON COLUMN receiptd.set_aside.group_key IS 'Group of the message; see watched_groups.';
COMMENT ON COLUMN receiptd.set_aside.set_aside_id IS 'Key of the row.';
COMMENT ON COLUMN receiptd.set_aside.slot_id IS 'Internal: slot of the poll.';
COMMENT ON COLUMN receiptd.set_aside.msg_seq IS 'Number of the message within its group; null if the whole poll is affected.';
COMMENT ON COLUMN receiptd.set_aside.sqlstate IS 'SQLSTATE of the refusal.';
COMMENT ON COLUMN receiptd.set_aside.reason IS 'Error message of the latest refusal.';
COMMENT ON COLUMN receiptd.set_aside.content IS 'Refused rows (the latest), with the columns of receipt_snapshots and watched_messages as keys.';
COMMENT ON COLUMN receiptd.set_aside.times IS 'Number of refusals.';
COMMENT ON COLUMN receiptd.set_aside.first_set_aside_at IS 'Time of the first refusal.';
COMMENT ON COLUMN receiptd.set_aside.set_aside_at IS 'Time of the latest refusal.';

CREATE INDEX set_aside_by_time ON receiptd.set_aside USING brin (set_aside_at);
