-- The bound on messages is exact but for calls that are open at the same time: they do not see, and so do not wait for, each
-- other.

-- How many messages were watched in all, in as many rows of an app as calls were open at a time: each adds to one that no
-- other has locked.
CREATE TABLE receiptd.watch_totals (
    sdk_app_id bigint NOT NULL,
    total_id   bigint GENERATED ALWAYS AS IDENTITY,
    messages   bigint NOT NULL,
    PRIMARY KEY (sdk_app_id, total_id),
    CONSTRAINT sdk_app_id_is_a_positive_u32 CHECK (sdk_app_id BETWEEN 1 AND 4294967295)
);

ALTER TABLE receiptd.apps ADD COLUMN watched_at_count bigint NOT NULL DEFAULT 0;

-- What is watched is the daemon's last count and what calls have added since, so that it costs little however much that is.
-- `messages` are those that the call has added.
CREATE OR REPLACE FUNCTION receiptd.refuse_full_app(sdk_app_id bigint, messages integer DEFAULT 0) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off AS $$
DECLARE
    app receiptd.apps;
    new_groups bigint;
    watched bigint;
BEGIN
    SELECT a.* INTO app FROM receiptd.apps a WHERE a.sdk_app_id = refuse_full_app.sdk_app_id;
    SELECT count(*) INTO new_groups FROM receiptd.watched_groups g
        WHERE g.group_key > app.last_group_key AND g.sdk_app_id = refuse_full_app.sdk_app_id;
    IF app.groups + new_groups > app.max_groups THEN
        RAISE EXCEPTION 'app % may watch % groups, and not more', refuse_full_app.sdk_app_id, app.max_groups
            USING ERRCODE = 'program_limit_exceeded',
                HINT = 'Unwatch groups, or raise limits.groups in the configuration of the daemon.';
    END IF;
    IF refuse_full_app.messages > 0 AND app.max_active_messages IS NOT NULL THEN
        WITH free AS (
            SELECT t.total_id FROM receiptd.watch_totals t WHERE t.sdk_app_id = refuse_full_app.sdk_app_id
            LIMIT 1 FOR UPDATE SKIP LOCKED
        )
        UPDATE receiptd.watch_totals t SET messages = t.messages + refuse_full_app.messages
            FROM free WHERE t.sdk_app_id = refuse_full_app.sdk_app_id AND t.total_id = free.total_id;
        IF NOT FOUND THEN
            INSERT INTO receiptd.watch_totals (sdk_app_id, messages)
                VALUES (refuse_full_app.sdk_app_id, refuse_full_app.messages);
        END IF;
        -- One statement, so that both are of one moment.
        SELECT a.active_messages - a.watched_at_count + (
            SELECT sum(t.messages) FROM receiptd.watch_totals t WHERE t.sdk_app_id = a.sdk_app_id
        ) INTO watched FROM receiptd.apps a WHERE a.sdk_app_id = refuse_full_app.sdk_app_id;
        IF watched > app.max_active_messages THEN
            RAISE EXCEPTION 'app % may watch % messages at a time, and not more', refuse_full_app.sdk_app_id,
                    app.max_active_messages
                USING ERRCODE = 'program_limit_exceeded',
                    HINT = 'Unwatch messages, or raise limits.messages in the configuration of the daemon.';
        END IF;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION receiptd.watch_messages(
    sdk_app_id bigint,
    group_id text,
    msg_seqs bigint[],
    sent_at timestamptz DEFAULT now()
) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    n integer := coalesce(cardinality(watch_messages.msg_seqs), 0);
    key integer;
    added bigint;
BEGIN
    PERFORM receiptd.require_app(watch_messages.sdk_app_id, n);
    key := receiptd.watch_group(watch_messages.sdk_app_id, watch_messages.group_id);
    added := receiptd.watch_keys(array_fill(key, ARRAY[n]), watch_messages.msg_seqs, array_fill(watch_messages.sent_at, ARRAY[n]));
    IF added > 0 THEN
        PERFORM receiptd.refuse_full_app(watch_messages.sdk_app_id, added::integer);
    END IF;
    RETURN added;
END
$$;

COMMENT ON TABLE receiptd.watch_totals IS 'Internal: how many messages calls have added to the watch list since the daemon first noted the bounds of the app. The sum over the rows of an app counts.';
COMMENT ON COLUMN receiptd.watch_totals.total_id IS 'Key of the row.';
COMMENT ON COLUMN receiptd.watch_totals.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.watch_totals.messages IS 'Number of messages that calls have added by this row.';
COMMENT ON COLUMN receiptd.apps.active_messages IS 'Number of watched messages at the last count.';
COMMENT ON COLUMN receiptd.apps.watched_at_count IS 'Sum of watch_totals.messages at the last count: what is more was watched since.';
COMMENT ON FUNCTION receiptd.refuse_full_app(bigint, integer) IS 'Internal: raises an error if the app watches more groups or, where messages were added, more messages than the daemon allows.';
