-- Hours in which nothing happened in a group have no row. The view carries on what the last row before them says.

-- Rows are few enough now for an index that also finds the first hour at once.
DROP INDEX receiptd.group_receipts_hourly_by_time;
CREATE INDEX group_receipts_hourly_by_hour ON receiptd.group_receipts_hourly (hour);

-- Rows that were written before say that watching ended without a call by their absence.
INSERT INTO receiptd.group_receipts_hourly (group_key, hour)
SELECT h.group_key, h.hour + interval '1 hour'
FROM receiptd.group_receipts_hourly h
JOIN receiptd.watched_groups g USING (group_key)
JOIN receiptd.poller_leases l USING (sdk_app_id)
WHERE h.messages_active > 0 AND h.hour + interval '1 hour' < date_trunc('hour', l.rolled_up_until, 'UTC')
    AND NOT EXISTS (
        SELECT FROM receiptd.group_receipts_hourly n WHERE n.group_key = h.group_key AND n.hour = h.hour + interval '1 hour'
    );

-- Two parts, so that filters reach an index in each: by hour in the first, by group in both; the hours of the second are
-- few, and each looks up one row of a group. Where a query asks for hours in which something happened (reads_gained > 0), the
-- planner leaves out the second.
CREATE OR REPLACE VIEW receiptd.hourly_receipts AS
SELECT g.sdk_app_id, g.group_id, h.hour, h.messages_sent, h.messages_active, h.reads_gained, h.reads_lost,
    h.reads_found, h.messages_aged_24h, h.median_read_rate_24h, h.p90_read_rate_24h, h.unread_backlog, h.polls, h.calls,
    h.coverage, h.group_key
FROM receiptd.group_receipts_hourly h
JOIN receiptd.watched_groups g USING (group_key)
UNION ALL
SELECT g.sdk_app_id, g.group_id, hours.hour, 0, last.messages_active, 0::bigint, 0::bigint, 0::bigint, 0, NULL::real, NULL::real,
    last.unread_backlog, 0, 0, 1::real, g.group_key
FROM generate_series(
    (SELECT min(hour) FROM receiptd.group_receipts_hourly), (SELECT max(rolled_up_until) FROM receiptd.poller_leases),
    interval '1 hour'
) AS hours (hour)
JOIN receiptd.poller_leases l ON hours.hour < date_trunc('hour', l.rolled_up_until, 'UTC')
JOIN receiptd.watched_groups g USING (sdk_app_id)
CROSS JOIN LATERAL (
    SELECT h.hour, h.messages_active, h.unread_backlog
    FROM receiptd.group_receipts_hourly h
    WHERE h.group_key = g.group_key AND h.hour <= hours.hour
    ORDER BY h.hour DESC LIMIT 1
) last
WHERE last.hour < hours.hour AND last.messages_active > 0
    -- What happened in such an hour is not known yet.
    AND NOT EXISTS (SELECT FROM receiptd.rollup_passed_over p WHERE p.group_key = g.group_key AND p.hour = hours.hour);

-- A group without rows in the last seven days had no reads in them.
CREATE OR REPLACE VIEW receiptd.group_engagement AS
SELECT sdk_app_id, group_id, l.rolled_up_until AS as_of,
    coalesce(h.messages_sent_7d, 0) AS messages_sent_7d, coalesce(h.reads_7d, 0) AS reads_7d,
    coalesce(m.messages_aged_7d, 0) AS messages_aged_7d, m.read_rate_7d::real, m.read_rate_before::real,
    (m.read_rate_7d - m.read_rate_before)::real AS trend, m.half_read_7d, newest.sent_at AS last_sent_at, group_key
FROM receiptd.watched_groups g
JOIN receiptd.poller_leases l USING (sdk_app_id)
-- Seqs count up with time.
CROSS JOIN LATERAL (
    SELECT n.sent_at FROM receiptd.message_milestones n WHERE n.group_key = g.group_key ORDER BY n.msg_seq DESC LIMIT 1
) newest
LEFT JOIN (
    -- Read rates are those of messages a day old: so the last seven days are those sent until a day ago.
    SELECT g.sdk_app_id, g.group_id, g.group_key,
        count(m.read_rate_24h) FILTER (WHERE is_recent) AS messages_aged_7d,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY m.read_rate_24h) FILTER (WHERE is_recent) AS read_rate_7d,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY m.read_rate_24h) FILTER (WHERE NOT is_recent) AS read_rate_before,
        percentile_cont(0.5) WITHIN GROUP (ORDER BY m.half_read_by - m.sent_at) FILTER (WHERE is_recent) AS half_read_7d
    FROM receiptd.message_milestones m
    JOIN receiptd.watched_groups g USING (group_key)
    JOIN receiptd.poller_leases l USING (sdk_app_id)
    CROSS JOIN LATERAL (SELECT m.sent_at >= l.rolled_up_until - interval '8 days' AS is_recent) AS age
    WHERE m.sent_at >= l.rolled_up_until - interval '15 days' AND m.sent_at < l.rolled_up_until
    GROUP BY g.group_key, g.sdk_app_id, g.group_id
) m USING (sdk_app_id, group_id, group_key)
LEFT JOIN (
    SELECT g.sdk_app_id, g.group_id, g.group_key, sum(h.messages_sent) AS messages_sent_7d, sum(h.reads_gained) AS reads_7d
    FROM receiptd.group_receipts_hourly h
    JOIN receiptd.watched_groups g USING (group_key)
    JOIN receiptd.poller_leases l USING (sdk_app_id)
    WHERE h.hour >= l.rolled_up_until - interval '7 days'
    GROUP BY g.group_key, g.sdk_app_id, g.group_id
) h USING (sdk_app_id, group_id, group_key)
WHERE g.state <> 'removed' OR m.group_key IS NOT NULL;

COMMENT ON TABLE receiptd.group_receipts_hourly IS 'One row per group and complete UTC hour in which something happened: a call, a message that was sent, observed or became 24 hours old, a gap, or another number of messages or unread counts at the end. Hours without a row are like the end of the one before, see the view hourly_receipts. Written by the roll-up, some minutes after the end of the hour.';
COMMENT ON VIEW receiptd.hourly_receipts IS 'One row per group and complete UTC hour in which it had watched messages or calls: group_receipts_hourly with app and group spelt out, and with the hours in which nothing happened. Example: SELECT hour, reads_gained, coverage FROM receiptd.hourly_receipts WHERE group_id = ''@TGS#2TTV7VSII'' ORDER BY hour.';
