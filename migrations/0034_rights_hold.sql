-- Row-level security that holds: views hide rows before anybody's function sees them, partitions follow their parents, and
-- every start sets right what a later migration has reset.

CREATE FUNCTION receiptd.limit_readers() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '3s' AS $$
DECLARE
    is_on boolean := EXISTS (SELECT FROM receiptd.role_apps);
    changed record;
BEGIN
    -- Without the barrier, a condition that calls a function of the reader's is tried on rows before their group is.
    FOR changed IN
        SELECT c.relname AS name FROM pg_class c
        WHERE c.relnamespace = 'receiptd'::regnamespace AND c.relkind = 'v'
            AND coalesce('security_barrier=true' = ANY (c.reloptions), false) <> is_on
        ORDER BY c.relname
    LOOP
        EXECUTE format('ALTER VIEW receiptd.%I %s', changed.name,
            CASE WHEN is_on THEN 'SET (security_barrier = true)' ELSE 'RESET (security_barrier)' END);
    END LOOP;
    FOR changed IN
        SELECT c.relname AS name, c.relname = 'watched_groups' AS is_groups, c.relispartition AS is_partition
        FROM pg_class c
        WHERE c.relnamespace = 'receiptd'::regnamespace AND c.relkind IN ('r', 'p') AND c.relrowsecurity <> is_on
            AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'group_key' AND NOT a.attisdropped)
        ORDER BY is_groups, c.relname
    LOOP
        IF is_on THEN
            -- A partition has no policy: it is read through its parent, and by itself not at all.
            IF NOT changed.is_partition THEN
                EXECUTE format('CREATE POLICY of_apps ON receiptd.%I USING (%s)', changed.name, CASE
                    WHEN changed.is_groups THEN '(SELECT receiptd.apps_of_caller()) IS NULL
                        OR sdk_app_id = ANY ((SELECT receiptd.apps_of_caller())::bigint[])'
                    ELSE 'group_key IN (SELECT g.group_key FROM receiptd.watched_groups g)' END);
            END IF;
            EXECUTE format('ALTER TABLE receiptd.%I ENABLE ROW LEVEL SECURITY', changed.name);
            IF changed.is_groups THEN
                EXECUTE format('ALTER TABLE receiptd.%I FORCE ROW LEVEL SECURITY', changed.name);
            END IF;
        ELSE
            IF NOT changed.is_partition THEN
                EXECUTE format('DROP POLICY of_apps ON receiptd.%I', changed.name);
            END IF;
            EXECUTE format('ALTER TABLE receiptd.%I DISABLE ROW LEVEL SECURITY', changed.name);
            EXECUTE format('ALTER TABLE receiptd.%I NO FORCE ROW LEVEL SECURITY', changed.name);
        END IF;
    END LOOP;
END
$$;

-- PostgreSQL lets conditions of a query into the branches of a view that is a bare UNION ALL, barrier or not.
DO $$
DECLARE
    view name;
BEGIN
    FOREACH view IN ARRAY ARRAY['latest_receipts', 'hourly_receipts', 'poll_coverage'] LOOP
        EXECUTE format('CREATE OR REPLACE VIEW receiptd.%I AS SELECT * FROM (%s) branches', view,
            rtrim(pg_get_viewdef(format('receiptd.%I', view)::regclass), ';'));
    END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION receiptd.follow_role_apps() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner name := (SELECT r.rolname FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
        WHERE n.nspname = 'receiptd' AND (r.rolsuper OR r.rolbypassrls));
BEGIN
    IF owner IS NOT NULL AND EXISTS (SELECT FROM receiptd.role_apps) THEN
        RAISE EXCEPTION 'the owner of the schema, %, is a superuser or bypasses row-level security', owner
            USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'Views are read with the rights of their owner: let an ordinary role own the schema and all that is in it.';
    END IF;
    PERFORM receiptd.limit_readers();
    RETURN NULL;
END
$$;

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
    IF (SELECT relrowsecurity FROM pg_class WHERE oid = to_regclass(format('receiptd.%I', parent))) THEN
        EXECUTE format('ALTER TABLE receiptd.%I ENABLE ROW LEVEL SECURITY', partition);
    END IF;
    EXECUTE format('ALTER TABLE receiptd.%I ADD CONSTRAINT day CHECK (%I >= %L AND %2$I < %4$L)',
        partition, column_name, first_instant, end_instant);
    EXECUTE format('ALTER TABLE receiptd.%I ATTACH PARTITION receiptd.%I FOR VALUES FROM (%L) TO (%L)',
        parent, partition, first_instant, end_instant);
    EXECUTE format('ALTER TABLE receiptd.%I DROP CONSTRAINT day', partition);
    EXECUTE format('COMMENT ON TABLE receiptd.%I IS %L', partition, format('%s of the UTC day %s.', parent, day));
    RETURN true;
END
$$;

CREATE OR REPLACE FUNCTION receiptd.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing text;
BEGIN
    -- A view that is replaced has lost its barrier, and a new one has none.
    PERFORM receiptd.limit_readers();
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

-- PostgreSQL lets everybody call a new function unless ALTER DEFAULT PRIVILEGES says otherwise.
GRANT EXECUTE ON FUNCTION receiptd.apps_of_caller() TO PUBLIC;
REVOKE EXECUTE ON FUNCTION receiptd.limit_readers() FROM PUBLIC;

-- It runs with the caller's search path, so nothing in it may match a function or operator of somebody else's better than
-- PostgreSQL's own: PostgreSQL has no `/` for an integer and a real, and first_value is for any type.
CREATE OR REPLACE FUNCTION receiptd.receipt_curve(group_id text, msg_seq bigint, step interval, sdk_app_id bigint DEFAULT NULL)
RETURNS TABLE (at timestamptz, age interval, read_num integer, unread_num integer, read_rate real)
LANGUAGE sql STABLE AS $$
    WITH message AS (
        SELECT group_key, msg_seq, sent_at, first_polled_at, known_until
        FROM receiptd.latest_receipts l
        WHERE l.group_id = $1 AND l.msg_seq = $2 AND l.sdk_app_id = coalesce($4, l.sdk_app_id)
    ), points AS (
        -- In UTC, where every day has 24 hours.
        SELECT m.group_key, m.sent_at, s.at AT TIME ZONE 'UTC' AS at, NULL::integer AS read_num, NULL::integer AS unread_num,
            true AS is_step
        FROM message m
        CROSS JOIN pg_catalog.generate_series(m.sent_at AT TIME ZONE 'UTC', m.known_until AT TIME ZONE 'UTC', $3) AS s (at)
        UNION ALL
        SELECT m.group_key, m.sent_at, h.polled_at, h.read_num, h.unread_num, false
        FROM message m JOIN receiptd.receipt_snapshots h USING (group_key, msg_seq)
        WHERE h.polled_at BETWEEN m.first_polled_at AND m.known_until AND h.read_num IS NOT NULL
    ), spans AS (
        -- Each snapshot and the steps until the next one.
        SELECT p.*, pg_catalog.count(*) FILTER (WHERE NOT is_step) OVER (PARTITION BY group_key ORDER BY p.at, is_step) AS span
        FROM points p
    ), carried AS (
        SELECT s.group_key, s.sent_at, s.at, s.is_step, pg_catalog.first_value(s.read_num) OVER span AS read_num,
            pg_catalog.first_value(s.unread_num) OVER span AS unread_num
        FROM spans s WINDOW span AS (PARTITION BY s.group_key, s.span ORDER BY s.at, s.is_step)
    )
    SELECT c.at, c.at - c.sent_at, c.read_num, c.unread_num,
        c.read_num OPERATOR(pg_catalog./) nullif(c.read_num::bigint + c.unread_num, 0)::real
    FROM carried c WHERE c.is_step ORDER BY c.group_key, c.at
$$;

COMMENT ON FUNCTION receiptd.limit_readers() IS 'Internal: makes row-level security and the views follow role_apps: on if it has a row, off if not.';
