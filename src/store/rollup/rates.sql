-- $1 app, $2 from, $3 until, $4 rolled up until, groups from $5 to $6 without $7: the read rates of messages that came of age
-- in the span. Of a span that is done again also of those that it has rows of and that have come of age since. Messages that
-- somebody holds get theirs when the hour is done again.
WITH ages (age) AS (VALUES (interval '15 minutes'), ('1 hour'), ('24 hours'), ('7 days')),
of_age AS (
    SELECT m.group_key, m.msg_seq, ages.age
    FROM ages
    JOIN receiptd.message_milestones m ON m.sent_at >= $2 - ages.age AND m.sent_at < $3 - ages.age
    UNION
    SELECT m.group_key, m.msg_seq, ages.age
    FROM receiptd.receipt_snapshots s
    JOIN receiptd.message_milestones m USING (group_key, msg_seq)
    JOIN ages ON m.sent_at + ages.age >= $3 AND m.sent_at + ages.age < $4
    WHERE $3 < $4 AND s.polled_at >= $2 AND s.polled_at < $3
), rated AS MATERIALIZED (
    SELECT m.group_key, m.msg_seq, a.age,
        CASE WHEN m.last_changed_at <= m.sent_at + a.age THEN m.read_num / nullif(m.read_num::bigint + m.unread_num, 0)::real
        ELSE (
            SELECT s.read_num / nullif(s.read_num::bigint + s.unread_num, 0)::real
            FROM receiptd.receipt_snapshots s
            WHERE s.group_key = m.group_key AND s.msg_seq = m.msg_seq AND s.read_num IS NOT NULL
                AND s.polled_at >= m.first_polled_at AND s.polled_at <= m.sent_at + a.age
            ORDER BY s.polled_at DESC LIMIT 1
        ) END AS rate
    FROM of_age a
    JOIN receiptd.message_milestones m USING (group_key, msg_seq)
    JOIN receiptd.watched_groups g USING (group_key)
    WHERE g.sdk_app_id = $1 AND g.group_key BETWEEN $5 AND $6 AND g.group_key <> ALL ($7) AND m.first_polled_at <= m.sent_at + a.age
), rates AS (
    SELECT group_key, msg_seq, max(rate) FILTER (WHERE age = '15 minutes') AS rate_15m,
        max(rate) FILTER (WHERE age = '1 hour') AS rate_1h, max(rate) FILTER (WHERE age = '24 hours') AS rate_24h,
        max(rate) FILTER (WHERE age = '7 days') AS rate_7d
    FROM rated WHERE rate IS NOT NULL GROUP BY group_key, msg_seq
), free AS MATERIALIZED (
    -- Whoever watches messages again locks them in the order of their keys, as the milestones before were: to wait for that
    -- here, where some of them are locked already, could be a deadlock.
    SELECT m.group_key, m.msg_seq FROM receiptd.message_milestones m JOIN rates r USING (group_key, msg_seq)
    FOR NO KEY UPDATE OF m SKIP LOCKED
), held AS (
    INSERT INTO receiptd.rollup_redo (sdk_app_id, hour)
    SELECT $1, date_trunc('hour', $2::timestamptz, 'UTC')
    WHERE EXISTS (SELECT FROM rates r LEFT JOIN free f USING (group_key, msg_seq) WHERE f.group_key IS NULL)
)
UPDATE receiptd.message_milestones m SET
    read_rate_15m = coalesce(r.rate_15m, m.read_rate_15m), read_rate_1h = coalesce(r.rate_1h, m.read_rate_1h),
    read_rate_24h = coalesce(r.rate_24h, m.read_rate_24h), read_rate_7d = coalesce(r.rate_7d, m.read_rate_7d)
FROM rates r JOIN free f USING (group_key, msg_seq)
WHERE m.group_key = r.group_key AND m.msg_seq = r.msg_seq
