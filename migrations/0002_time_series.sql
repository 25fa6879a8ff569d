-- Snapshots and calls, both partitioned by UTC day. There is never a DEFAULT partition: it would have to be scanned at every
-- ATTACH, and forbids DETACH CONCURRENTLY.

-- Partitions have their own schema, so that lists of tables show what people query and not every day of it. receiptd creates
-- it before it applies the first migration.
COMMENT ON SCHEMA receiptd_partitions IS 'Internal: the daily partitions of receiptd.receipt_snapshots and receiptd.api_calls. Query those tables instead.';

-- prior_read_num and prior_unread_num repeat the counts of the previous row, so that gains and the unread backlog can be added up
-- without a lookup in another partition. The order of the columns leaves no padding between them.
CREATE TABLE receiptd.receipt_snapshots (
    group_key        integer NOT NULL,
    read_num         integer,
    msg_seq          bigint NOT NULL,
    polled_at        timestamptz NOT NULL,
    prior_polled_at  timestamptz,
    unread_num       integer,
    prior_read_num   integer,
    prior_unread_num integer,
    code             integer NOT NULL,
    is_webhook       boolean NOT NULL DEFAULT false,
    PRIMARY KEY (group_key, msg_seq, polled_at),
    CONSTRAINT counts_come_in_pairs CHECK ((read_num IS NULL) = (unread_num IS NULL)),
    CONSTRAINT counts_are_not_negative CHECK (read_num >= 0 AND unread_num >= 0),
    CONSTRAINT success_has_counts CHECK (code <> 0 OR read_num IS NOT NULL),
    CONSTRAINT the_prior_poll_is_earlier CHECK (prior_polled_at < polled_at)
) PARTITION BY RANGE (polled_at);

COMMENT ON TABLE receiptd.receipt_snapshots IS 'The time series: one row for each poll that saw different counts or a different code than known before, or webhook that reported different counts (or for every poll, if configured). Partitioned by UTC day of polled_at.';
COMMENT ON COLUMN receiptd.receipt_snapshots.group_key IS 'Group of the message; see watched_groups.';
COMMENT ON COLUMN receiptd.receipt_snapshots.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.receipt_snapshots.polled_at IS 'Time when the answer with these counts arrived, or the moment of the change according to a webhook. Strictly increasing for each message, even if a clock is set back.';
COMMENT ON COLUMN receiptd.receipt_snapshots.prior_polled_at IS 'Time when the last attempt that saw the previous row''s counts was sent, or until when a webhook proves them: the change happened after that and by polled_at. Null for the first observation.';
COMMENT ON COLUMN receiptd.receipt_snapshots.read_num IS 'Members who had read the message; null if the code is not 0 and there was no count.';
COMMENT ON COLUMN receiptd.receipt_snapshots.unread_num IS 'Members who had not read the message; null if the code is not 0 and there was no count.';
COMMENT ON COLUMN receiptd.receipt_snapshots.code IS 'Code for the message: 0 is success, 10062 no receipt.';
COMMENT ON COLUMN receiptd.receipt_snapshots.prior_read_num IS 'Read count of the previous row; the difference is the number of reads in between. Null for the first count.';
COMMENT ON COLUMN receiptd.receipt_snapshots.prior_unread_num IS 'Unread count of the previous row. Null for the first count.';
COMMENT ON COLUMN receiptd.receipt_snapshots.is_webhook IS 'Whether the counts come from a webhook and not from a poll.';

-- Rows arrive in order of time, so a BRIN index is enough to find some minutes of a day.
CREATE INDEX receipt_snapshots_by_time ON receiptd.receipt_snapshots USING brin (polled_at)
    WITH (pages_per_range = 32, autosummarize = on);

-- A log without a key: rows are only inserted, and removed with their partition.
CREATE TABLE receiptd.api_calls (
    called_at         timestamptz NOT NULL,
    due_at            timestamptz,
    group_key         integer NOT NULL,
    attempt           smallint NOT NULL,
    messages_asked    integer NOT NULL,
    messages_answered integer NOT NULL,
    entries_bad       integer NOT NULL,
    class             text NOT NULL,
    code              bigint,
    http_status       smallint,
    latency_ms        real NOT NULL,
    error             text
) PARTITION BY RANGE (called_at);

COMMENT ON TABLE receiptd.api_calls IS 'One row per attempt to call Tencent Chat. Partitioned by UTC day of called_at.';
COMMENT ON COLUMN receiptd.api_calls.called_at IS 'Time when the request was sent; if it was not sent, when the attempt began.';
COMMENT ON COLUMN receiptd.api_calls.due_at IS 'Time when the poll was due by its cadence. A later call leaves a gap.';
COMMENT ON COLUMN receiptd.api_calls.group_key IS 'Group that was asked for; see watched_groups.';
COMMENT ON COLUMN receiptd.api_calls.attempt IS 'Number of the attempt within its poll, from 1.';
COMMENT ON COLUMN receiptd.api_calls.messages_asked IS 'Number of messages the attempt asked for.';
COMMENT ON COLUMN receiptd.api_calls.messages_answered IS 'Number of them with a usable receipt in the answer.';
COMMENT ON COLUMN receiptd.api_calls.entries_bad IS 'Number of entries in the answer that were repeated, not asked for, or had numbers out of range.';
COMMENT ON COLUMN receiptd.api_calls.class IS 'success, or the reaction to the failure: retry, slow_down, wait, sign_again, app_fault, group_fault, split, message, incomplete (the answer leaves out messages that were asked for), unknown.';
COMMENT ON COLUMN receiptd.api_calls.code IS 'ErrorCode of the answer; null if there was none.';
COMMENT ON COLUMN receiptd.api_calls.http_status IS 'HTTP status; null if there was no answer.';
COMMENT ON COLUMN receiptd.api_calls.latency_ms IS 'Milliseconds from the beginning of the attempt, including connecting, to the end of the answer or to the timeout.';
COMMENT ON COLUMN receiptd.api_calls.error IS 'Error, if any: why there was no answer, or how many messages the answer covered.';

CREATE INDEX api_calls_by_time ON receiptd.api_calls USING brin (called_at)
    WITH (pages_per_range = 32, autosummarize = on);
-- Failed calls are few. The roll-up uses this index to find the reasons for gaps of days.
CREATE INDEX api_calls_failed ON receiptd.api_calls (group_key, called_at) WHERE class <> 'success';

-- Each partition is created as a separate table and then attached: ATTACH doesn't block readers and writers of the other
-- days, while CREATE TABLE ... PARTITION OF would queue everything behind any open reader.
CREATE FUNCTION receiptd.ensure_partition(parent text, day date) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition text := parent || to_char(day, '"_"YYYYMMDD');
    first_instant timestamptz := day::timestamp AT TIME ZONE 'UTC';
    end_instant timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
    column_name name := CASE parent WHEN 'receipt_snapshots' THEN 'polled_at' WHEN 'api_calls' THEN 'called_at' END;
BEGIN
    IF column_name IS NULL THEN
        RAISE EXCEPTION 'receiptd has no table % that is partitioned by day', parent USING ERRCODE = 'undefined_table';
    END IF;
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(format('receiptd_partitions.%I', partition))) THEN
        RETURN false;
    END IF;
    -- The lock that ATTACH takes anyway: it doesn't block readers and writers, and a second call for the same table waits.
    EXECUTE format('LOCK TABLE ONLY receiptd.%I IN SHARE UPDATE EXCLUSIVE MODE', parent);
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(format('receiptd_partitions.%I', partition))) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE receiptd_partitions.%I (LIKE receiptd.%I INCLUDING ALL)', partition, parent);
    IF (SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass(format('receiptd.%I', parent))) THEN
        EXECUTE format('ALTER TABLE receiptd_partitions.%I ENABLE ROW LEVEL SECURITY', partition);
    END IF;
    EXECUTE format('ALTER TABLE receiptd_partitions.%I ADD CONSTRAINT day CHECK (%I >= %L AND %2$I < %4$L)',
        partition, column_name, first_instant, end_instant);
    EXECUTE format('ALTER TABLE receiptd.%I ATTACH PARTITION receiptd_partitions.%I FOR VALUES FROM (%L) TO (%L)',
        parent, partition, first_instant, end_instant);
    EXECUTE format('ALTER TABLE receiptd_partitions.%I DROP CONSTRAINT day', partition);
    EXECUTE format('COMMENT ON TABLE receiptd_partitions.%I IS %L', partition, format('%s of the UTC day %s.', parent, day));
    RETURN true;
END
$$;

COMMENT ON FUNCTION receiptd.ensure_partition(text, date) IS 'Internal: creates the partition of a UTC day if it is missing. Returns whether it did.';

-- Rows arrive in order of time, so the rows of a message are scattered over the whole day and the leaf pages of the primary
-- key end up half full. A finished day is therefore copied in the order of its key to a second table, which then replaces it.
-- Readers and writers only wait for the exchange, for milliseconds. If rows of the day are written during the copying, the
-- copy is dropped.
CREATE SEQUENCE receiptd.late_writes;

COMMENT ON SEQUENCE receiptd.late_writes IS 'Internal: increases with each row that is written to a day while the day is being rewritten.';

CREATE FUNCTION receiptd.note_late_write() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM nextval('receiptd.late_writes');
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION receiptd.note_late_write() IS 'Internal: notes a write to a day that is being rewritten.';

CREATE FUNCTION receiptd.begin_rewrite(day date) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition text := to_char(day, '"receipt_snapshots_"YYYYMMDD');
    copy text := partition || '_copy';
    number bigint;
BEGIN
    -- Drops the copy of an interrupted run, but no table of somebody else.
    IF obj_description(to_regclass(format('receiptd_partitions.%I', copy)), 'pg_class') LIKE 'Copy of a day by receiptd%' THEN
        EXECUTE format('DROP TABLE receiptd_partitions.%I', copy);
    END IF;
    -- Unlogged while it is filled: it is in no publication, and costs half.
    EXECUTE format('CREATE UNLOGGED TABLE receiptd_partitions.%I (LIKE receiptd.receipt_snapshots INCLUDING DEFAULTS INCLUDING CONSTRAINTS
        INCLUDING COMMENTS)', copy);
    EXECUTE format('CREATE OR REPLACE TRIGGER note_late_write AFTER INSERT OR UPDATE OR DELETE ON receiptd_partitions.%I FOR EACH ROW
        EXECUTE FUNCTION receiptd.note_late_write()', partition);
    -- The lock for the trigger excludes writers of the day until the commit: later writes increase the number.
    number := nextval('receiptd.late_writes');
    EXECUTE format('COMMENT ON TABLE receiptd_partitions.%I IS %L', copy, format('Copy of a day by receiptd, begun: %s', number));
    RETURN number;
END
$$;

COMMENT ON FUNCTION receiptd.begin_rewrite(date) IS 'Internal: creates an empty copy of a day of receipt_snapshots. Returns its number, the present value of late_writes.';

CREATE FUNCTION receiptd.fill_rewrite(day date, number bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET jit = off AS $$
DECLARE
    partition text := to_char(day, '"receipt_snapshots_"YYYYMMDD');
    copy text := partition || '_copy';
    columns text := (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
        WHERE attrelid = 'receiptd.receipt_snapshots'::regclass AND attnum > 0 AND NOT attisdropped);
    definition text;
    copied bigint;
BEGIN
    EXECUTE format('LOCK TABLE receiptd_partitions.%I IN ACCESS EXCLUSIVE MODE', copy);
    IF obj_description(to_regclass(format('receiptd_partitions.%I', copy)), 'pg_class') <> format('Copy of a day by receiptd, begun: %s', number) THEN
        RAISE EXCEPTION 'another process rewrites the day %', day USING ERRCODE = 'lock_not_available';
    END IF;
    EXECUTE format('INSERT INTO receiptd_partitions.%I (%s) SELECT %2$s FROM receiptd_partitions.%I ORDER BY group_key, msg_seq, polled_at',
        copy, columns, partition);
    GET DIAGNOSTICS copied = ROW_COUNT;
    EXECUTE format('ALTER TABLE receiptd_partitions.%I SET LOGGED', copy);
    EXECUTE format('ALTER TABLE receiptd_partitions.%I ADD PRIMARY KEY (group_key, msg_seq, polled_at) WITH (fillfactor = 100)', copy);
    -- All other indexes of the day, including those of the owner: a missing one would be built under the lock for ATTACH.
    FOR definition IN SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i
        WHERE i.indrelid = to_regclass(format('receiptd_partitions.%I', partition)) AND NOT i.indisprimary
    LOOP
        EXECUTE regexp_replace(definition, 'INDEX .+? USING', format('INDEX ON receiptd_partitions.%I USING', copy));
    END LOOP;
    EXECUTE format('ALTER TABLE receiptd_partitions.%I ADD CONSTRAINT day CHECK (polled_at >= %L AND polled_at < %L)', copy,
        day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
    EXECUTE format('ANALYZE receiptd_partitions.%I', copy);
    EXECUTE format('COMMENT ON TABLE receiptd_partitions.%I IS %L', copy, format('Copy of a day by receiptd, filled: %s', number));
    RETURN copied;
END
$$;

COMMENT ON FUNCTION receiptd.fill_rewrite(date, bigint) IS 'Internal: fills the copy of a day of receipt_snapshots, in the order of its key. Returns the number of rows.';

-- The lock on the table is held for milliseconds; lock_timeout bounds the wait for it.
CREATE FUNCTION receiptd.end_rewrite(day date, number bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    partition text := to_char(day, '"receipt_snapshots_"YYYYMMDD');
    copy text := partition || '_copy';
    is_ours boolean;
BEGIN
    LOCK TABLE ONLY receiptd.receipt_snapshots IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('LOCK TABLE receiptd_partitions.%I IN ACCESS EXCLUSIVE MODE', partition);
    is_ours := coalesce(obj_description(to_regclass(format('receiptd_partitions.%I', copy)), 'pg_class')
        = format('Copy of a day by receiptd, filled: %s', number), false);
    -- Under the locks, all writers of the day have finished.
    IF NOT is_ours OR number <> (SELECT last_value FROM receiptd.late_writes) THEN
        IF is_ours THEN
            EXECUTE format('DROP TABLE receiptd_partitions.%I', copy);
        END IF;
        RETURN false;
    END IF;
    EXECUTE format('ALTER TABLE receiptd.receipt_snapshots DETACH PARTITION receiptd_partitions.%I', partition);
    EXECUTE format('DROP TABLE receiptd_partitions.%I', partition);
    EXECUTE format('ALTER TABLE receiptd_partitions.%I RENAME TO %I', copy, partition);
    IF (SELECT relrowsecurity FROM pg_class WHERE oid = 'receiptd.receipt_snapshots'::regclass) THEN
        EXECUTE format('ALTER TABLE receiptd_partitions.%I ENABLE ROW LEVEL SECURITY', partition);
    END IF;
    EXECUTE format('ALTER TABLE receiptd.receipt_snapshots ATTACH PARTITION receiptd_partitions.%I FOR VALUES FROM (%L) TO (%L)',
        partition, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
    EXECUTE format('ALTER TABLE receiptd_partitions.%I DROP CONSTRAINT day', partition);
    EXECUTE format('COMMENT ON TABLE receiptd_partitions.%I IS %L', partition,
        format('receipt_snapshots of the UTC day %s, in the order of messages.', day));
    RETURN true;
END
$$;

COMMENT ON FUNCTION receiptd.end_rewrite(date, bigint) IS 'Internal: replaces a day of receipt_snapshots by its filled copy. Drops the copy and returns false if the day was written to since the copy was begun.';
