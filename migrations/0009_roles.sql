-- Who may do what. receiptd_reader reads what analysts need, receiptd_writer watches messages: by the functions alone, which
-- therefore run with the rights of their owner. The roles are made by whoever runs the server: they are its, not a schema's.

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA receiptd FROM PUBLIC;

ALTER FUNCTION receiptd.watch_group(bigint, text, text, text) SECURITY DEFINER;
ALTER FUNCTION receiptd.watch_messages(bigint, text, bigint[], timestamptz) SECURITY DEFINER;
ALTER FUNCTION receiptd.unwatch_messages(bigint, text, bigint[]) SECURITY DEFINER;
ALTER FUNCTION receiptd.unwatch_group(bigint, text) SECURITY DEFINER;
ALTER FUNCTION receiptd.pause_group(bigint, text) SECURITY DEFINER;
ALTER FUNCTION receiptd.resume_group(bigint, text) SECURITY DEFINER;

-- Grants what is missing to those of the two roles that exist. Partitions need nothing: they are read through their parents.
CREATE FUNCTION receiptd.grant_roles() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    role name;
    object text;
BEGIN
    FOR role IN SELECT rolname FROM pg_roles WHERE rolname IN ('receiptd_reader', 'receiptd_writer') LOOP
        IF NOT has_schema_privilege(role, 'receiptd', 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA receiptd TO %I', role);
        END IF;
    END LOOP;
    IF to_regrole('receiptd_reader') IS NOT NULL THEN
        FOREACH object IN ARRAY ARRAY['latest_receipts', 'receipt_history', 'read_speed', 'never_read', 'unread_backlog',
            'hourly_receipts', 'group_engagement', 'poll_coverage', 'data_freshness', 'receipt_snapshots', 'api_calls',
            'message_milestones', 'group_receipts_hourly', 'poll_gaps'] LOOP
            IF NOT has_table_privilege('receiptd_reader', format('receiptd.%I', object), 'SELECT') THEN
                EXECUTE format('GRANT SELECT ON receiptd.%I TO receiptd_reader', object);
            END IF;
        END LOOP;
        IF NOT has_column_privilege('receiptd_reader', 'receiptd.watched_groups', 'group_id', 'SELECT') THEN
            GRANT SELECT (group_key, sdk_app_id, group_id, group_type, cadence, state, state_code, state_reason, added_at)
                ON receiptd.watched_groups TO receiptd_reader;
        END IF;
    END IF;
    FOR role, object IN
        SELECT 'receiptd_reader', unnest(ARRAY['receipts_at(timestamptz)', 'receipt_curve(text, bigint, interval, bigint)'])
        UNION ALL
        SELECT 'receiptd_writer', unnest(ARRAY['watch_group(bigint, text, text, text)',
            'watch_messages(bigint, text, bigint[], timestamptz)', 'unwatch_messages(bigint, text, bigint[])',
            'unwatch_group(bigint, text)', 'pause_group(bigint, text)', 'resume_group(bigint, text)'])
    LOOP
        CONTINUE WHEN to_regrole(role) IS NULL OR has_function_privilege(role, 'receiptd.' || object, 'EXECUTE');
        EXECUTE format('GRANT EXECUTE ON FUNCTION receiptd.%s TO %I', object, role);
    END LOOP;
END
$$;

REVOKE EXECUTE ON FUNCTION receiptd.grant_roles() FROM PUBLIC;

COMMENT ON FUNCTION receiptd.grant_roles() IS 'Gives the roles receiptd_reader and receiptd_writer their rights, if they exist and lack any. receiptd calls it at its start and in migrate.';
