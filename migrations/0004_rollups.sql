-- Aggregates of snapshots and calls, kept when those are dropped: hourly rows, message days, and gaps.

-- Idle hours of a group have no row. The view hourly_receipts repeats the last row before them.
CREATE TABLE receiptd.group_receipts_hourly (
    group_key            integer NOT NULL,
    hour                 timestamptz NOT NULL,
    messages_sent        integer NOT NULL DEFAULT 0,
    messages_active      integer NOT NULL DEFAULT 0,
    reads_gained         bigint NOT NULL DEFAULT 0,
    gained_by_quarter    bigint[],
    reads_lost           bigint NOT NULL DEFAULT 0,
    reads_found          bigint NOT NULL DEFAULT 0,
    messages_aged_24h    integer NOT NULL DEFAULT 0,
    median_read_rate_24h double precision,
    p90_read_rate_24h    double precision,
    unread_backlog       bigint NOT NULL DEFAULT 0,
    polls                integer NOT NULL DEFAULT 0,
    calls                integer NOT NULL DEFAULT 0,
    coverage             double precision NOT NULL DEFAULT 1,
    reads_carried        bigint NOT NULL DEFAULT 0,
    updated_at           timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (group_key, hour),
    CONSTRAINT an_hour_has_four_quarters CHECK (cardinality(gained_by_quarter) = 4),
    CONSTRAINT hours_are_whole CHECK (hour = date_trunc('hour', hour, 'UTC')),
    CONSTRAINT coverage_is_a_share CHECK (coverage BETWEEN 0 AND 1)
);

COMMENT ON TABLE receiptd.group_receipts_hourly IS 'One row per group and complete UTC hour in which something happened: a call, a message that was sent, observed or became 24 hours old, a gap, or a different number of messages or unread counts at the end. Hours without a row equal the end of the hour before; see the view hourly_receipts. Written by the roll-up, some minutes after the end of the hour.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.group_key IS 'Key of the group; see watched_groups.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.hour IS 'Start of the hour.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.messages_sent IS 'Number of messages sent in this hour that were observed by a poll.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.messages_active IS 'Number of active messages at the end of the hour.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.reads_gained IS 'Increase of read counts between polls. The reads in the first count of a message are in reads_found.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.gained_by_quarter IS 'reads_gained per quarter of the hour, four elements; null if reads_gained is 0. hourly_reads uses it for the hours of any time zone.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.reads_lost IS 'Decrease of read counts between polls: members who had read and left the group.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.reads_found IS 'Reads in the first counts of messages. gained - lost + found, summed over all hours, is the sum of the latest read counts.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.messages_aged_24h IS 'Number of messages that became 24 hours old in this hour and have a read rate at that age.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.median_read_rate_24h IS 'Median of the read rates of the messages that became 24 hours old in this hour.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.p90_read_rate_24h IS '90th percentile of these read rates.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.unread_backlog IS 'Total unread count of the active messages at the end of the hour.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.polls IS 'Number of answered calls.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.calls IS 'Number of attempts, answered or not.';
COMMENT ON COLUMN receiptd.group_receipts_hourly.coverage IS 'Fraction of the hour outside of gaps, see poll_coverage: 1 if every poll was on time.';

COMMENT ON COLUMN receiptd.group_receipts_hourly.reads_carried IS 'Part of reads_gained that may have happened before this hour: found by the first polls after a gap.';

COMMENT ON COLUMN receiptd.group_receipts_hourly.updated_at IS 'When the roll-up last changed the row.';

CREATE TRIGGER note_update BEFORE UPDATE ON receiptd.group_receipts_hourly FOR EACH ROW
    WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION receiptd.note_update();

-- Rows are in order of writing, and few are changed later.
CREATE INDEX group_receipts_hourly_by_update ON receiptd.group_receipts_hourly USING brin (updated_at)
    WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX group_receipts_hourly_by_hour ON receiptd.group_receipts_hourly (hour);

-- The summary of a message's snapshots, kept when those are dropped. A day without snapshots has no row: it ends like the last row
-- before it.
CREATE TABLE receiptd.message_receipts_daily (
    group_key     integer NOT NULL,
    day           date NOT NULL,
    msg_seq       bigint NOT NULL,
    first_seen_at timestamptz NOT NULL,
    last_seen_at  timestamptz NOT NULL,
    reads_gained  bigint NOT NULL,
    reads_lost    bigint NOT NULL,
    reads_found   integer NOT NULL,
    read_num      integer,
    unread_num    integer,
    code          integer NOT NULL,
    known_before  timestamptz,
    updated_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (group_key, msg_seq, day),
    CONSTRAINT counts_come_in_pairs CHECK ((read_num IS NULL) = (unread_num IS NULL)),
    CONSTRAINT the_first_is_not_after_the_last CHECK (first_seen_at <= last_seen_at)
);

COMMENT ON TABLE receiptd.message_receipts_daily IS 'One row per message and UTC day with snapshots, kept when those are dropped. Written by the roll-up when the day is over. Analysts read the view message_days instead.';
COMMENT ON COLUMN receiptd.message_receipts_daily.group_key IS 'Group of the message; see watched_groups.';
COMMENT ON COLUMN receiptd.message_receipts_daily.day IS 'UTC day.';
COMMENT ON COLUMN receiptd.message_receipts_daily.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.message_receipts_daily.first_seen_at IS 'polled_at of the first snapshot of the day.';
COMMENT ON COLUMN receiptd.message_receipts_daily.last_seen_at IS 'polled_at of the last snapshot of the day.';
COMMENT ON COLUMN receiptd.message_receipts_daily.reads_gained IS 'Increase of the read count between polls.';
COMMENT ON COLUMN receiptd.message_receipts_daily.reads_lost IS 'Decrease of the read count between polls: members who had read and left the group.';
COMMENT ON COLUMN receiptd.message_receipts_daily.reads_found IS 'Reads in the first count of the message, if that was on this day.';
COMMENT ON COLUMN receiptd.message_receipts_daily.read_num IS 'Number of members who had read it at the end of the day, as far as known; null if no count was known.';
COMMENT ON COLUMN receiptd.message_receipts_daily.unread_num IS 'Number of members who had not read it at the end of the day, as far as known.';
COMMENT ON COLUMN receiptd.message_receipts_daily.code IS 'Code of the last snapshot of the day: 0 is success, 10062 no receipt.';
COMMENT ON COLUMN receiptd.message_receipts_daily.known_before IS 'prior_polled_at of the first snapshot of the day: all its reads happened after that. Null if that is the first observation.';
COMMENT ON COLUMN receiptd.message_receipts_daily.updated_at IS 'Time when the roll-up last changed the row.';

CREATE TRIGGER note_update BEFORE UPDATE ON receiptd.message_receipts_daily FOR EACH ROW
    WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION receiptd.note_update();

-- Trends read days of all messages. Rows are inserted day by day, so a BRIN index finds them.
CREATE INDEX message_receipts_daily_by_day ON receiptd.message_receipts_daily USING brin (day)
    WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX message_receipts_daily_by_update ON receiptd.message_receipts_daily USING brin (updated_at)
    WITH (pages_per_range = 32, autosummarize = on);

CREATE TABLE receiptd.poll_gaps (
    group_key  integer NOT NULL,
    gap_from   timestamptz NOT NULL,
    gap_until  timestamptz NOT NULL,
    messages   integer NOT NULL,
    reason     text NOT NULL,
    code       bigint,
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (group_key, gap_until),
    CONSTRAINT gaps_last CHECK (gap_from < gap_until)
);

COMMENT ON TABLE receiptd.poll_gaps IS 'Ended time spans in which messages of a group were due but not observed in time. Late polls within 15 minutes of each other, without one in time between them, form one gap, with a row for each hour of such polls. See the view poll_coverage.';
COMMENT ON COLUMN receiptd.poll_gaps.group_key IS 'Key of the group; see watched_groups.';
COMMENT ON COLUMN receiptd.poll_gaps.gap_from IS 'Time when the first of its polls was due, or the end of the previous hour''s row if it continues that.';
COMMENT ON COLUMN receiptd.poll_gaps.gap_until IS 'Time of the last of these polls.';
COMMENT ON COLUMN receiptd.poll_gaps.messages IS 'Maximum number of messages that were late at the same time.';
COMMENT ON COLUMN receiptd.poll_gaps.reason IS 'Class of the group''s last failed call in the gap, as in api_calls; not_polling: no call of the app was answered; waiting: other groups were polled, because the group was paused or more was due than the rate limit allows; unwatched: no poll ended the gap, since the messages were unwatched.';
COMMENT ON COLUMN receiptd.poll_gaps.code IS 'Error code of that failed call.';
COMMENT ON COLUMN receiptd.poll_gaps.updated_at IS 'Time when the roll-up wrote the row. It writes a group''s gaps of an hour again if polls later in that hour are late, and whenever it repeats the hour.';

-- The roll-up reads the gaps that ended in the last minutes.
CREATE INDEX poll_gaps_by_end ON receiptd.poll_gaps (gap_until);
CREATE INDEX poll_gaps_by_update ON receiptd.poll_gaps USING brin (updated_at) WITH (pages_per_range = 32, autosummarize = on);

-- Flushes append to it. The key is a separate number, so that there are no waits: with (sdk_app_id, hour) a flush would wait
-- for a roll-up that has deleted the same hour.
CREATE TABLE receiptd.rollup_redo (
    redo_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sdk_app_id bigint NOT NULL,
    hour       timestamptz NOT NULL
);

COMMENT ON TABLE receiptd.rollup_redo IS 'Internal: rolled-up hours with data stored later. The next roll-up repeats them.';
COMMENT ON COLUMN receiptd.rollup_redo.redo_id IS 'Key of the row.';
COMMENT ON COLUMN receiptd.rollup_redo.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.rollup_redo.hour IS 'Start of the hour.';

-- Groups skipped by the roll-up, so that one of them does not stop all others.
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

COMMENT ON TABLE receiptd.rollup_passed_over IS 'Groups and hours that the database refused to roll up, with the reason: their gaps and hourly rows may be incomplete. They are retried every hour. It should stay empty.';
COMMENT ON COLUMN receiptd.rollup_passed_over.group_key IS 'Key of the group; see watched_groups.';
COMMENT ON COLUMN receiptd.rollup_passed_over.hour IS 'Start of the hour.';
COMMENT ON COLUMN receiptd.rollup_passed_over.sqlstate IS 'SQLSTATE of the refusal.';
COMMENT ON COLUMN receiptd.rollup_passed_over.reason IS 'Error message of the latest refusal.';
COMMENT ON COLUMN receiptd.rollup_passed_over.times IS 'Number of refusals.';
COMMENT ON COLUMN receiptd.rollup_passed_over.first_at IS 'Time of the first refusal.';
COMMENT ON COLUMN receiptd.rollup_passed_over.last_at IS 'Time of the latest refusal.';

-- All tables with rows of a group, in the order of deletion, including those of later migrations.
CREATE FUNCTION receiptd.tables_of_groups() RETURNS TABLE (name regclass, parent regclass)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(i.inhrelid, c.oid)::regclass, c.oid::regclass
    FROM pg_class c
    LEFT JOIN pg_inherits i ON i.inhparent = c.oid
    WHERE c.relnamespace = 'receiptd'::regnamespace AND (c.relkind = 'r' OR (c.relkind = 'p' AND i.inhrelid IS NOT NULL))
        AND c.relname <> 'watched_groups'
        AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'group_key' AND NOT a.attisdropped)
    -- Slots first, so that no poll writes any more; messages last, since all other rows belong to them. Calls have no index.
    ORDER BY c.relname <> 'poll_slots', c.relname = 'watched_messages', c.relname = 'api_calls', c.relname, i.inhrelid
$$;

COMMENT ON FUNCTION receiptd.tables_of_groups() IS 'Internal: the tables and partitions with rows of groups, except watched_groups, each with its parent table.';

CREATE FUNCTION receiptd.count_group(sdk_app_id bigint, group_id text) RETURNS TABLE (table_name text, rows bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    key integer := (SELECT g.group_key FROM receiptd.watched_groups g
        WHERE g.sdk_app_id = count_group.sdk_app_id AND g.group_id = count_group.group_id);
BEGIN
    PERFORM receiptd.require_app(count_group.sdk_app_id);
    FOR count_group.table_name IN
        SELECT DISTINCT t.parent::text FROM receiptd.tables_of_groups() t UNION SELECT 'receiptd.watched_groups' ORDER BY 1
    LOOP
        EXECUTE format('SELECT count(*) FROM %s WHERE group_key = $1', count_group.table_name) INTO count_group.rows USING key;
        RETURN NEXT;
    END LOOP;
    count_group.table_name := 'receiptd.discovered_groups';
    SELECT count(*) INTO count_group.rows FROM receiptd.discovered_groups d
        WHERE d.sdk_app_id = count_group.sdk_app_id AND d.group_id = count_group.group_id;
    RETURN NEXT;
END
$$;

COMMENT ON FUNCTION receiptd.count_group(bigint, text) IS 'Number of rows of a group in each table, which forget_group would delete. Example: SELECT * FROM receiptd.count_group(1400000000, ''@TGS#2TTV7VSII'') WHERE rows > 0.';

-- A call deletes a bounded number of rows, so that it doesn't hold locks for long or write much WAL at once.
CREATE FUNCTION receiptd.forget_group(sdk_app_id bigint, group_id text, at_most integer DEFAULT 10000) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    key integer := (SELECT g.group_key FROM receiptd.watched_groups g
        WHERE g.sdk_app_id = forget_group.sdk_app_id AND g.group_id = forget_group.group_id);
    total bigint := 0;
    deleted bigint;
    part regclass;
BEGIN
    PERFORM receiptd.require_app(forget_group.sdk_app_id);
    DELETE FROM receiptd.discovered_groups d
        WHERE d.sdk_app_id = forget_group.sdk_app_id AND d.group_id = forget_group.group_id;
    GET DIAGNOSTICS total = ROW_COUNT;
    IF key IS NULL THEN
        RETURN total;
    END IF;
    PERFORM receiptd.unwatch_group(forget_group.sdk_app_id, forget_group.group_id);
    FOR part IN SELECT t.name FROM receiptd.tables_of_groups() t LOOP
        EXECUTE format('DELETE FROM %s WHERE ctid = ANY (ARRAY(SELECT ctid FROM %1$s WHERE group_key = $1 LIMIT $2))', part)
            USING key, forget_group.at_most - total;
        GET DIAGNOSTICS deleted = ROW_COUNT;
        total := total + deleted;
        IF total >= forget_group.at_most THEN
            RETURN total;
        END IF;
    END LOOP;
    -- The last call leaves nothing: it waits for a roll-up that may be writing a row, and for a poll in flight, which locks the group
    -- before it writes its calls.
    PERFORM FROM receiptd.apps a WHERE a.sdk_app_id = forget_group.sdk_app_id FOR UPDATE;
    PERFORM FROM receiptd.watched_groups g WHERE g.group_key = key FOR UPDATE;
    FOR part IN SELECT t.name FROM receiptd.tables_of_groups() t LOOP
        EXECUTE format('DELETE FROM %s WHERE group_key = $1', part) USING key;
        GET DIAGNOSTICS deleted = ROW_COUNT;
        total := total + deleted;
    END LOOP;
    DELETE FROM receiptd.watched_groups g WHERE g.group_key = key;
    RETURN total + 1;
END
$$;

COMMENT ON FUNCTION receiptd.forget_group(bigint, text, integer) IS 'Deletes everything about a group for good, a limited number of rows per call: call it until it returns 0. The group is unwatched first. Returns the number of deleted rows. Only the owner of the schema may call it. `receiptd forget` calls it until everything is deleted. Example: SELECT receiptd.forget_group(1400000000, ''@TGS#2TTV7VSII'').';
