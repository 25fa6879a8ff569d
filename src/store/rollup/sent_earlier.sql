-- $1 app, $2 from, $3 until, groups from $5 to $6 without $7: messages that were first seen in the span and sent in an earlier hour count there.
WITH late AS MATERIALIZED (
    SELECT DISTINCT m.group_key, date_trunc('hour', m.sent_at, 'UTC') AS hour
    FROM receiptd.receipt_snapshots s
    JOIN receiptd.watched_groups g USING (group_key)
    JOIN receiptd.watched_messages m USING (group_key, msg_seq)
    WHERE g.sdk_app_id = $1 AND g.group_key BETWEEN $5 AND $6 AND g.group_key <> ALL ($7) AND s.polled_at >= $2 AND s.polled_at < $3 AND s.prior_polled_at IS NULL
        AND m.sent_at < date_trunc('hour', $2::timestamptz, 'UTC')
)
INSERT INTO receiptd.group_receipts_hourly AS h (group_key, hour, messages_sent, messages_active, unread_backlog)
SELECT late.group_key, late.hour, count(CASE WHEN m.slot_id IS NULL THEN m.first_polled_at ELSE (
        -- Without the view message_state, which would open all slots for a few messages.
        SELECT (receiptd.spread(s.first_polled_at, cardinality(s.msg_seqs)))[array_position(s.msg_seqs, m.msg_seq)] FROM receiptd.poll_slots s
        WHERE s.group_key = m.group_key AND s.slot_id = m.slot_id
    ) END), coalesce(max(last.messages_active), 0), coalesce(max(last.unread_backlog), 0)
FROM (SELECT DISTINCT hour FROM late) hours
-- With OFFSET the messages of each hour are found by their time, and not among all.
CROSS JOIN LATERAL (
    SELECT m.group_key, m.msg_seq, m.slot_id, m.first_polled_at FROM receiptd.watched_messages m
    WHERE m.sent_at >= hours.hour AND m.sent_at < hours.hour + interval '1 hour' OFFSET 0
) m
JOIN late ON late.hour = hours.hour AND late.group_key = m.group_key
LEFT JOIN LATERAL (
    -- A new row has the values at the end of its hour that applied without a row.
    SELECT l.messages_active, l.unread_backlog FROM receiptd.group_receipts_hourly l
    WHERE l.group_key = late.group_key AND l.hour < late.hour ORDER BY l.hour DESC LIMIT 1
) last ON true
GROUP BY late.group_key, late.hour
ORDER BY late.group_key, late.hour
ON CONFLICT (group_key, hour) DO UPDATE SET messages_sent = EXCLUDED.messages_sent
