-- Rights. receiptd_reader reads what analysts need, receiptd_member_reader only who has read which message; receiptd_writer watches
-- messages, only through functions. Operators create the roles, since roles belong to the server and not to a schema.

-- The first row of role_apps switches row-level security on and the deletion of the last one off, so that it costs nothing if
-- unused. Views join watched_groups as their owner, so there it is forced for the owner too, whose policy shows everything.
-- The tables with a group_key have it for roles that read them directly.
CREATE FUNCTION receiptd.limit_readers() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET lock_timeout = '3s' AS $$
DECLARE
    is_on boolean := EXISTS (SELECT FROM receiptd.role_apps);
    changed record;
BEGIN
    -- Without the barrier, a condition with a function of the reader's could be evaluated on rows of other groups.
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
        SELECT c.oid::regclass AS name, c.relname = 'watched_groups' AS is_groups, c.relispartition AS is_partition
        FROM pg_class c
        LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
        -- Other tables in the partitions' schema are not receiptd's.
        WHERE 'receiptd'::regnamespace IN (c.relnamespace, (SELECT p.relnamespace FROM pg_class p WHERE p.oid = i.inhparent))
            AND c.relkind IN ('r', 'p') AND c.relrowsecurity <> is_on
            AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'group_key' AND NOT a.attisdropped)
        ORDER BY is_groups, c.relname
    LOOP
        IF is_on THEN
            -- A partition has no policy: it can only be read through its parent.
            IF NOT changed.is_partition THEN
                EXECUTE format('CREATE POLICY of_apps ON %s USING (%s)', changed.name, CASE
                    WHEN changed.is_groups THEN '(SELECT receiptd.apps_of_caller()) IS NULL
                        OR sdk_app_id = ANY ((SELECT receiptd.apps_of_caller())::bigint[])'
                    ELSE 'group_key IN (SELECT g.group_key FROM receiptd.watched_groups g)' END);
            END IF;
            EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', changed.name);
            IF changed.is_groups THEN
                EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', changed.name);
            END IF;
        ELSE
            IF NOT changed.is_partition THEN
                EXECUTE format('DROP POLICY of_apps ON %s', changed.name);
            END IF;
            EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', changed.name);
            EXECUTE format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', changed.name);
        END IF;
    END LOOP;
END
$$;

COMMENT ON FUNCTION receiptd.limit_readers() IS 'Internal: switches row-level security and the security barriers of views on if role_apps has rows, else off.';

CREATE FUNCTION receiptd.follow_role_apps() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner name := (SELECT r.rolname FROM pg_namespace n JOIN pg_roles r ON r.oid = n.nspowner
        WHERE n.nspname = 'receiptd' AND (r.rolsuper OR r.rolbypassrls));
BEGIN
    IF owner IS NOT NULL AND EXISTS (SELECT FROM receiptd.role_apps) THEN
        RAISE EXCEPTION 'the owner of the schema, %, is a superuser or bypasses row-level security', owner
            USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'Views run with the rights of their owner: make an ordinary role the owner of the schema and of everything in it.';
    END IF;
    PERFORM receiptd.limit_readers();
    RETURN NULL;
END
$$;

COMMENT ON FUNCTION receiptd.follow_role_apps() IS 'Internal: switches row-level security on when role_apps gets its first row, and off when it loses its last.';

CREATE TRIGGER follow_role_apps AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON receiptd.role_apps
    FOR EACH STATEMENT EXECUTE FUNCTION receiptd.follow_role_apps();

CREATE FUNCTION receiptd.missing_grants() RETURNS SETOF text LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    SELECT format('GRANT USAGE ON SCHEMA receiptd TO %I', r.rolname)
    FROM pg_roles r
    WHERE r.rolname IN ('receiptd_reader', 'receiptd_member_reader', 'receiptd_writer') AND NOT has_schema_privilege(r.oid, 'receiptd', 'USAGE')
    UNION ALL
    SELECT format('GRANT SELECT ON receiptd.%I TO receiptd_reader', c.relname)
    FROM pg_class c CROSS JOIN pg_roles r
    WHERE c.relnamespace = 'receiptd'::regnamespace AND r.rolname = 'receiptd_reader'
        AND c.relname IN ('messages', 'groups', 'age_at_read', 'latest_receipts', 'receipt_history', 'read_speed', 'never_read', 'unread_backlog',
            'hourly_receipts', 'group_engagement', 'poll_coverage', 'data_freshness', 'receipt_snapshots', 'api_calls',
            'message_milestones', 'message_days', 'group_receipts_hourly', 'message_receipts_daily', 'poll_gaps')
        AND NOT has_table_privilege(r.oid, c.oid, 'SELECT')
    UNION ALL
    SELECT format('GRANT SELECT ON receiptd.%I TO receiptd_member_reader', c.relname)
    FROM pg_class c CROSS JOIN pg_roles r
    WHERE c.relnamespace = 'receiptd'::regnamespace AND r.rolname = 'receiptd_member_reader'
        AND c.relname IN ('message_readers', 'member_reads', 'members_not_read', 'member_latency')
        AND NOT has_table_privilege(r.oid, c.oid, 'SELECT')
    UNION ALL
    SELECT format('GRANT SELECT (%s) ON receiptd.watched_groups TO receiptd_reader', string_agg(quote_ident(a.attname), ', '))
    FROM pg_attribute a CROSS JOIN pg_roles r
    WHERE a.attrelid = 'receiptd.watched_groups'::regclass AND r.rolname = 'receiptd_reader'
        AND a.attname IN ('group_key', 'sdk_app_id', 'group_id', 'group_type', 'cadence', 'state', 'state_code',
            'state_reason', 'added_at', 'labels', 'readers', 'updated_at', 'discovered_at')
        AND NOT has_column_privilege(r.oid, a.attrelid, a.attnum, 'SELECT')
    HAVING count(*) > 0
    UNION ALL
    -- The names of groups, by which row-level security finds those of the reader's apps.
    SELECT 'GRANT SELECT (group_key, sdk_app_id, group_id) ON receiptd.watched_groups TO receiptd_member_reader'
    FROM pg_roles r
    WHERE r.rolname = 'receiptd_member_reader' AND NOT has_column_privilege(r.oid, 'receiptd.watched_groups', 'group_id', 'SELECT')
    UNION ALL
    SELECT format('GRANT EXECUTE ON FUNCTION %s TO %I', p.oid::regprocedure, r.rolname)
    FROM pg_proc p
    JOIN pg_roles r ON r.rolname = CASE
        WHEN p.proname IN ('receipts_at', 'read_at_age', 'receipt_curve', 'messages_since', 'hourly_reads', 'time_until')
            THEN 'receiptd_reader'
        WHEN p.proname IN ('readers_of', 'not_read_by', 'acknowledged_by') THEN 'receiptd_member_reader'
        WHEN p.proname IN ('watch_group', 'watch_messages', 'unwatch_messages', 'unwatch_group', 'pause_group',
            'resume_group') THEN 'receiptd_writer'
        END
    WHERE p.pronamespace = 'receiptd'::regnamespace AND NOT has_function_privilege(r.oid, p.oid, 'EXECUTE')
$$;

COMMENT ON FUNCTION receiptd.missing_grants() IS 'Internal: the GRANT statements for rights that receiptd_reader, receiptd_member_reader and receiptd_writer lack, if the roles exist.';

CREATE FUNCTION receiptd.grant_roles() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    missing text;
BEGIN
    -- A replaced view has lost its barrier, and a new one has none.
    PERFORM receiptd.limit_readers();
    IF NOT EXISTS (SELECT FROM receiptd.missing_grants()) THEN
        RETURN;
    END IF;
    -- Concurrent grants on the same object fail.
    LOCK TABLE receiptd.schema_migrations IN SHARE UPDATE EXCLUSIVE MODE;
    FOR missing IN SELECT receiptd.missing_grants() LOOP
        EXECUTE missing;
    END LOOP;
END
$$;

COMMENT ON FUNCTION receiptd.grant_roles() IS 'Grants the roles receiptd_reader, receiptd_member_reader and receiptd_writer their rights, if they exist. Called by the daemon at its start and by receiptd migrate.';

-- By default, PostgreSQL lets every role call a new function.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA receiptd FROM PUBLIC;
GRANT EXECUTE ON FUNCTION receiptd.apps_of_caller() TO PUBLIC;
