-- Groups that the roll-up passed over, so that one of them does not stop all others.

CREATE TABLE receiptd.rollup_passed_over (
    group_key integer NOT NULL,
    hour      timestamptz NOT NULL,
    sqlstate  text NOT NULL,
    reason    text NOT NULL,
    times     integer NOT NULL DEFAULT 1,
    first_at  timestamptz NOT NULL DEFAULT now(),
    last_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (group_key, hour)
);

COMMENT ON TABLE receiptd.rollup_passed_over IS 'Groups and hours that the database refused to roll up, with the reason: milestones, gaps and hourly rows may lack something of them. They are tried again every hour. It should stay empty.';
COMMENT ON COLUMN receiptd.rollup_passed_over.group_key IS 'The group, see watched_groups.';
COMMENT ON COLUMN receiptd.rollup_passed_over.hour IS 'Beginning of the hour.';
COMMENT ON COLUMN receiptd.rollup_passed_over.sqlstate IS 'Error code of the database.';
COMMENT ON COLUMN receiptd.rollup_passed_over.reason IS 'What the database said the last time.';
COMMENT ON COLUMN receiptd.rollup_passed_over.times IS 'How often it was refused.';
COMMENT ON COLUMN receiptd.rollup_passed_over.first_at IS 'When it was first refused.';
COMMENT ON COLUMN receiptd.rollup_passed_over.last_at IS 'When it was last refused.';
