-- Who may poll, and what could not be stored.

CREATE TABLE receiptd.poller_leases (
    sdk_app_id  bigint PRIMARY KEY,
    holder      text,
    epoch       bigint NOT NULL,
    acquired_at timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    CONSTRAINT sdk_app_id_is_a_positive_u32 CHECK (sdk_app_id BETWEEN 1 AND 4294967295)
) WITH (fillfactor = 50);

COMMENT ON TABLE receiptd.poller_leases IS 'Who may poll: one receiptd for each app, while any number of others stand by.';
COMMENT ON COLUMN receiptd.poller_leases.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.poller_leases.holder IS 'Host and process that polls; null after a clean stop.';
COMMENT ON COLUMN receiptd.poller_leases.epoch IS 'Counts up with every holder. Whatever is written under an older one has no effect.';
COMMENT ON COLUMN receiptd.poller_leases.acquired_at IS 'Since when this holder polls.';
COMMENT ON COLUMN receiptd.poller_leases.expires_at IS 'Until when the lease holds if it is not renewed, by the clock of the database.';

-- No primary key and a BRIN index: it is a log, as api_calls is, and should stay empty.
CREATE TABLE receiptd.set_aside (
    set_aside_at timestamptz NOT NULL DEFAULT now(),
    group_key    integer NOT NULL,
    slot_id      bigint NOT NULL,
    msg_seq      bigint,
    sqlstate     text NOT NULL,
    reason       text NOT NULL,
    content      jsonb NOT NULL
);

CREATE INDEX set_aside_by_time ON receiptd.set_aside USING brin (set_aside_at);

COMMENT ON TABLE receiptd.set_aside IS 'What polls brought back and the tables refused, each with the reason: nothing is lost. It should stay empty.';
COMMENT ON COLUMN receiptd.set_aside.set_aside_at IS 'When it was refused.';
COMMENT ON COLUMN receiptd.set_aside.group_key IS 'The group, as in watched_groups.';
COMMENT ON COLUMN receiptd.set_aside.slot_id IS 'Internal: the call that brought it.';
COMMENT ON COLUMN receiptd.set_aside.msg_seq IS 'The message; null for what belongs to the whole poll.';
COMMENT ON COLUMN receiptd.set_aside.sqlstate IS 'Error code of the database.';
COMMENT ON COLUMN receiptd.set_aside.reason IS 'What the database said.';
COMMENT ON COLUMN receiptd.set_aside.content IS 'What was to be stored, with the columns of receipt_snapshots and watched_messages as keys.';
