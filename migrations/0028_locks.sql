-- Locks that only the owner of the schema can hold. An advisory lock can be held by any role that may connect, and who holds
-- it keeps the daemon from starting, from migrating and from making partitions.

CREATE OR REPLACE FUNCTION receiptd.ensure_partition(parent text, day date) RETURNS boolean
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
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(format('receiptd.%I', partition))) THEN
        RETURN false;
    END IF;
    -- The lock that ATTACH takes anyway: readers and writers go on, and a second call for the same table waits.
    EXECUTE format('LOCK TABLE ONLY receiptd.%I IN SHARE UPDATE EXCLUSIVE MODE', parent);
    IF EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass(format('receiptd.%I', partition))) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE receiptd.%I (LIKE receiptd.%I INCLUDING ALL)', partition, parent);
    EXECUTE format('ALTER TABLE receiptd.%I ADD CONSTRAINT day CHECK (%I >= %L AND %2$I < %4$L)',
        partition, column_name, first_instant, end_instant);
    EXECUTE format('ALTER TABLE receiptd.%I ATTACH PARTITION receiptd.%I FOR VALUES FROM (%L) TO (%L)',
        parent, partition, first_instant, end_instant);
    EXECUTE format('ALTER TABLE receiptd.%I DROP CONSTRAINT day', partition);
    EXECUTE format('COMMENT ON TABLE receiptd.%I IS %L', partition, format('%s of the UTC day %s.', parent, day));
    RETURN true;
END
$$;

CREATE FUNCTION receiptd.missing_grants() RETURNS SETOF text LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('GRANT USAGE ON SCHEMA receiptd TO %I', r.rolname)
    FROM pg_roles r
    WHERE r.rolname IN ('receiptd_reader', 'receiptd_writer') AND NOT has_schema_privilege(r.oid, 'receiptd', 'USAGE')
    UNION ALL
    SELECT format('GRANT SELECT ON receiptd.%I TO receiptd_reader', c.relname)
    FROM pg_class c CROSS JOIN pg_roles r
    WHERE c.relnamespace = 'receiptd'::regnamespace AND r.rolname = 'receiptd_reader'
        AND c.relname IN ('latest_receipts', 'receipt_history', 'read_speed', 'never_read', 'unread_backlog',
            'hourly_receipts', 'group_engagement', 'poll_coverage', 'data_freshness', 'receipt_snapshots', 'api_calls',
            'message_milestones', 'group_receipts_hourly', 'poll_gaps')
        AND NOT has_table_privilege(r.oid, c.oid, 'SELECT')
    UNION ALL
    SELECT format('GRANT SELECT (%s) ON receiptd.watched_groups TO receiptd_reader', string_agg(quote_ident(a.attname), ', '))
    FROM pg_attribute a CROSS JOIN pg_roles r
    WHERE a.attrelid = 'receiptd.watched_groups'::regclass AND r.rolname = 'receiptd_reader'
        AND a.attname IN ('group_key', 'sdk_app_id', 'group_id', 'group_type', 'cadence', 'state', 'state_code',
            'state_reason', 'added_at')
        AND NOT has_column_privilege(r.oid, a.attrelid, a.attnum, 'SELECT')
    HAVING count(*) > 0
    UNION ALL
    SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I', p.oid::regprocedure, r.rolname)
    FROM pg_proc p
    JOIN pg_roles r ON r.rolname = CASE
        WHEN p.proname IN ('receipts_at', 'receipt_curve') THEN 'receiptd_reader'
        WHEN p.proname IN ('watch_group', 'watch_messages', 'unwatch_messages', 'unwatch_group', 'pause_group',
            'resume_group') THEN 'receiptd_writer'
        END
    WHERE p.pronamespace = 'receiptd'::regnamespace AND NOT has_function_privilege(r.oid, p.oid, 'EXECUTE')
$$;

REVOKE EXECUTE ON FUNCTION receiptd.missing_grants() FROM PUBLIC;

CREATE OR REPLACE FUNCTION receiptd.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing text;
BEGIN
    IF NOT EXISTS (SELECT FROM receiptd.missing_grants()) THEN
        RETURN;
    END IF;
    -- Two grants on the same object at a time fail each other.
    LOCK TABLE receiptd.schema_migrations IN SHARE UPDATE EXCLUSIVE MODE;
    FOR missing IN SELECT receiptd.missing_grants() LOOP
        EXECUTE missing;
    END LOOP;
END
$$;

-- A row per app with a daemon: what the functions that applications call can't read in the daemon's configuration. A roll-up
-- locks the row of its app, so that there is one at a time.
CREATE TABLE receiptd.apps (
    sdk_app_id           bigint PRIMARY KEY,
    max_messages_a_call  integer,
    max_active_messages  bigint,
    max_groups           bigint,
    active_messages      bigint NOT NULL DEFAULT 0,
    groups               bigint NOT NULL DEFAULT 0,
    last_group_key       integer NOT NULL DEFAULT 0,
    counted_at           timestamptz,
    CONSTRAINT sdk_app_id_is_a_positive_u32 CHECK (sdk_app_id BETWEEN 1 AND 4294967295)
);

COMMENT ON FUNCTION receiptd.ensure_partition(text, date) IS 'Internal: makes the partition of a UTC day, if it is missing. True if it made it.';
COMMENT ON FUNCTION receiptd.missing_grants() IS 'Internal: the statements that give receiptd_reader and receiptd_writer the rights they lack, for those of the two roles that exist.';
COMMENT ON FUNCTION receiptd.grant_roles() IS 'Gives the roles receiptd_reader and receiptd_writer their rights, if they exist and lack any. receiptd calls it at its start and in migrate.';
COMMENT ON TABLE receiptd.apps IS 'Internal: the apps that a daemon polls, with the bounds of its configuration and its last count. Written by the daemon.';
COMMENT ON COLUMN receiptd.apps.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.apps.max_messages_a_call IS 'Maximum number of messages in one call of watch_messages or unwatch_messages.';
COMMENT ON COLUMN receiptd.apps.max_active_messages IS 'Maximum number of messages that are polled at a time.';
COMMENT ON COLUMN receiptd.apps.max_groups IS 'Maximum number of watched groups.';
COMMENT ON COLUMN receiptd.apps.active_messages IS 'Number of messages with a slot at the last count.';
COMMENT ON COLUMN receiptd.apps.groups IS 'Number of watched groups at the last count, those that were removed left out.';
COMMENT ON COLUMN receiptd.apps.last_group_key IS 'Highest group_key at the last count.';
COMMENT ON COLUMN receiptd.apps.counted_at IS 'Time of the last count that differed from the one before.';
