-- Tables that are updated or deleted from have a primary key: a publication FOR ALL TABLES refuses changes to others.

-- The key is a number of its own. With (sdk_app_id, hour) a flush would wait for a roll-up that has deleted the same hour.
ALTER TABLE receiptd.rollup_redo ADD COLUMN redo_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY;
COMMENT ON COLUMN receiptd.rollup_redo.redo_id IS 'Key of the row.';

-- One row per slot, message and error, counted up: a refusal that repeats must not fill the disk.
ALTER TABLE receiptd.set_aside
    ADD COLUMN set_aside_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ADD COLUMN first_set_aside_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN times bigint NOT NULL DEFAULT 1;

WITH seen AS (
    SELECT max(set_aside_id) AS set_aside_id, min(set_aside_at) AS first_set_aside_at, max(set_aside_at) AS set_aside_at,
        count(*) AS times
    FROM receiptd.set_aside GROUP BY group_key, slot_id, msg_seq, sqlstate
), kept AS (
    UPDATE receiptd.set_aside s SET first_set_aside_at = seen.first_set_aside_at, set_aside_at = seen.set_aside_at,
        times = seen.times
    FROM seen WHERE s.set_aside_id = seen.set_aside_id RETURNING s.set_aside_id
)
DELETE FROM receiptd.set_aside s WHERE s.set_aside_id NOT IN (SELECT set_aside_id FROM seen);

ALTER TABLE receiptd.set_aside ADD CONSTRAINT set_aside_once UNIQUE NULLS NOT DISTINCT (group_key, slot_id, msg_seq, sqlstate);

COMMENT ON TABLE receiptd.set_aside IS 'Results of polls that the tables refused, with the reason: one row per slot, message and error. It should stay empty.';
COMMENT ON COLUMN receiptd.set_aside.set_aside_id IS 'Key of the row.';
COMMENT ON COLUMN receiptd.set_aside.set_aside_at IS 'When it was last refused.';
COMMENT ON COLUMN receiptd.set_aside.first_set_aside_at IS 'When it was first refused.';
COMMENT ON COLUMN receiptd.set_aside.times IS 'How often it was refused.';
COMMENT ON COLUMN receiptd.set_aside.reason IS 'What the database said the last time.';
COMMENT ON COLUMN receiptd.set_aside.content IS 'What was to be stored the last time, with the columns of receipt_snapshots and watched_messages as keys.';

-- The roll-up reads the gaps that ended in the last minutes.
CREATE INDEX poll_gaps_by_end ON receiptd.poll_gaps (gap_until);

-- Sums of two counts exceed an integer when the counts are near its limit.
CREATE OR REPLACE VIEW receiptd.poll_coverage AS
SELECT sdk_app_id, group_id, min(gap_from) AS gap_from, max(gap_until) AS gap_until,
    max(gap_until) - min(gap_from) AS duration, least(sum(messages), 2147483647)::integer AS messages,
    (array_agg(reason ORDER BY gap_until - gap_from DESC, gap_until))[1] AS reason,
    (array_agg(code ORDER BY gap_until - gap_from DESC, gap_until))[1] AS code, group_key
FROM (
    -- Those that overlap are one: each that begins after all before it have ended begins another.
    SELECT *, count(*) FILTER (WHERE is_apart) OVER (PARTITION BY group_key, sdk_app_id, group_id ORDER BY gap_from, gap_until)
        AS number
    FROM (
        SELECT g.sdk_app_id, g.group_id, p.group_key, p.gap_from, p.gap_until, p.messages, p.reason, p.code,
            p.gap_from > max(p.gap_until) OVER (
                PARTITION BY p.group_key, g.sdk_app_id, g.group_id ORDER BY p.gap_from, p.gap_until
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS is_apart
        FROM receiptd.poll_gaps p
        JOIN receiptd.watched_groups g USING (group_key)
    ) seen
) gaps
GROUP BY group_key, sdk_app_id, group_id, number
UNION ALL
SELECT sdk_app_id, group_id, min(since), NULL, now() - min(since), count(*)::integer,
    CASE WHEN state <> 'active' THEN state WHEN max(failures) > 0 THEN 'failing' ELSE 'waiting' END, state_code, group_key
FROM (
    SELECT g.sdk_app_id, g.group_id, g.group_key, g.state, g.state_code, s.failures,
        coalesce(s.last_polled_at, s.next_poll_at) AS since
    FROM receiptd.poll_slots s
    JOIN receiptd.watched_groups g USING (group_key)
    JOIN receiptd.watched_messages m USING (group_key, slot_id)
    WHERE s.next_poll_at < now() - interval '1 minute' OR s.failures > 0 OR g.state <> 'active'
    UNION ALL
    SELECT g.sdk_app_id, g.group_id, g.group_key, g.state, g.state_code, 0, m.added_at
    FROM receiptd.watched_messages m
    JOIN receiptd.watched_groups g USING (group_key)
    WHERE m.slot_id IS NULL AND m.state = 'active' AND m.added_at < now() - interval '1 minute'
) waiting
GROUP BY group_key, sdk_app_id, group_id, state, state_code;

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
        CROSS JOIN generate_series(m.sent_at AT TIME ZONE 'UTC', m.known_until AT TIME ZONE 'UTC', $3) AS s (at)
        UNION ALL
        SELECT m.group_key, m.sent_at, h.polled_at, h.read_num, h.unread_num, false
        FROM message m JOIN receiptd.receipt_snapshots h USING (group_key, msg_seq)
        WHERE h.polled_at BETWEEN m.first_polled_at AND m.known_until AND h.read_num IS NOT NULL
    ), spans AS (
        -- Each snapshot and the steps until the next one.
        SELECT p.*, count(*) FILTER (WHERE NOT is_step) OVER (PARTITION BY group_key ORDER BY p.at, is_step) AS span
        FROM points p
    ), carried AS (
        SELECT s.group_key, s.sent_at, s.at, s.is_step, first_value(s.read_num) OVER span AS read_num,
            first_value(s.unread_num) OVER span AS unread_num
        FROM spans s WINDOW span AS (PARTITION BY s.group_key, s.span ORDER BY s.at, s.is_step)
    )
    SELECT c.at, c.at - c.sent_at, c.read_num, c.unread_num, c.read_num / nullif(c.read_num::bigint + c.unread_num, 0)::real
    FROM carried c WHERE c.is_step ORDER BY c.group_key, c.at
$$;
