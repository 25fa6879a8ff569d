-- What the roll-up makes of snapshots and calls, and how far it is.

-- Rows come in the order of time, so that a summary of each stretch of pages is enough to find some minutes of a day.
CREATE INDEX receipt_snapshots_by_time ON receiptd.receipt_snapshots USING brin (polled_at)
    WITH (pages_per_range = 32, autosummarize = on);
DROP INDEX receiptd.api_calls_by_time;
CREATE INDEX api_calls_by_time ON receiptd.api_calls USING brin (called_at)
    WITH (pages_per_range = 32, autosummarize = on);

-- In the row that every flush looks at before its commit: so a flush knows whether it writes what has been rolled up
-- already, and a roll-up that moves the mark has every earlier flush before it.
ALTER TABLE receiptd.poller_leases
    ADD COLUMN rolling_up_until timestamptz,
    ADD COLUMN rolled_up_until timestamptz;

-- Appended to by flushes, so without a key: nobody waits for anybody here.
CREATE TABLE receiptd.rollup_redo (
    sdk_app_id bigint NOT NULL,
    hour       timestamptz NOT NULL
);

CREATE TABLE receiptd.group_receipts_hourly (
    group_key             integer NOT NULL,
    hour                  timestamptz NOT NULL,
    messages_sent         integer NOT NULL DEFAULT 0,
    messages_active       integer NOT NULL DEFAULT 0,
    reads_gained          bigint NOT NULL DEFAULT 0,
    reads_lost            bigint NOT NULL DEFAULT 0,
    reads_found           bigint NOT NULL DEFAULT 0,
    messages_aged_24h     integer NOT NULL DEFAULT 0,
    median_read_rate_24h  real,
    p90_read_rate_24h     real,
    unread_backlog        bigint NOT NULL DEFAULT 0,
    polls                 integer NOT NULL DEFAULT 0,
    calls                 integer NOT NULL DEFAULT 0,
    coverage              real NOT NULL DEFAULT 1,
    PRIMARY KEY (group_key, hour),
    CONSTRAINT hours_are_whole CHECK (hour = date_trunc('hour', hour, 'UTC')),
    CONSTRAINT coverage_is_a_share CHECK (coverage BETWEEN 0 AND 1)
);

CREATE INDEX group_receipts_hourly_by_time ON receiptd.group_receipts_hourly USING brin (hour);

CREATE TABLE receiptd.poll_gaps (
    group_key integer NOT NULL,
    gap_from  timestamptz NOT NULL,
    gap_until timestamptz NOT NULL,
    messages  integer NOT NULL,
    reason    text NOT NULL,
    code      bigint,
    PRIMARY KEY (group_key, gap_until),
    CONSTRAINT gaps_last CHECK (gap_from < gap_until)
);

COMMENT ON COLUMN receiptd.poller_leases.rolling_up_until IS 'Internal: what is older than this is rolled up or being so. A flush that writes something older notes its hour in rollup_redo.';
COMMENT ON COLUMN receiptd.poller_leases.rolled_up_until IS 'Until when milestones and roll-ups of this app are complete.';

COMMENT ON TABLE receiptd.rollup_redo IS 'Internal: hours in which something was stored after they had been rolled up. The next roll-up does them again.';
COMMENT ON COLUMN receiptd.rollup_redo.sdk_app_id IS 'The app.';
COMMENT ON COLUMN receiptd.rollup_redo.hour IS 'Beginning of the hour.';

COMMENT ON TABLE receiptd.group_receipts_hourly IS 'One row per group and complete UTC hour in which it had watched messages or calls. Written by the roll-up, some minutes after the end of the hour.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.group_key IS 'The group, see watched_groups.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.hour IS 'Beginning of the hour.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.messages_sent IS 'Messages that were sent in this hour, as far as a poll has told of them.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.messages_active IS 'Messages that were being polled at the end of the hour.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.reads_gained IS 'By how much read counts were seen to rise between two polls. A message first polled with reads counts in reads_found.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.reads_lost IS 'By how much read counts were seen to fall: members who had read and left the group.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.reads_found IS 'Reads that the first poll of a message found. gained - lost + found, added up over all hours, is the sum of the latest read counts.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.messages_aged_24h IS 'Messages that became 24 hours old in this hour and have a read rate at that age.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.median_read_rate_24h IS 'Median of the read rates of the messages that became 24 hours old in this hour.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.p90_read_rate_24h IS '90th percentile of the same.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.unread_backlog IS 'Sum of the unread counts of the messages that were being polled at the end of the hour.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.polls IS 'Calls that were answered.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.calls IS 'Attempts to call, answered or not.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.coverage IS 'Share of the hour that lies in no gap, see poll_coverage: 1 where every poll came when its cadence wanted it.';

COMMENT ON TABLE receiptd.poll_gaps IS 'Spans in which messages of a group were due and nothing was observed of them, once they have ended. See the view poll_coverage.';
COMMENT ON COLUMN receiptd.poll_gaps.group_key IS 'The group, see watched_groups.';
COMMENT ON COLUMN receiptd.poll_gaps.gap_from IS 'When the first of its polls was due.';
COMMENT ON COLUMN receiptd.poll_gaps.gap_until IS 'When the last of them was made.';
COMMENT ON COLUMN receiptd.poll_gaps.messages IS 'How many messages it concerns.';
COMMENT ON COLUMN receiptd.poll_gaps.reason IS 'Class of the last failed call of the group in it, as in api_calls; not_polling: no call of the app was answered; waiting: others were polled, for the group was paused or more was due than the limit carries.';
COMMENT ON COLUMN receiptd.poll_gaps.code IS 'Error code of that failed call.';
