-- $1 app, $2 the end: assigns the active messages to slots that were just polled.
WITH numbered AS (
    SELECT m.*, (row_number() OVER (PARTITION BY m.group_key ORDER BY m.msg_seq) - 1) / 50 AS part
    FROM receiptd.watched_messages m
    JOIN receiptd.watched_groups g USING (group_key)
    WHERE g.sdk_app_id = $1 AND m.state = 'active' AND m.first_polled_at IS NOT NULL
), parts AS MATERIALIZED (
    SELECT group_key, part, nextval(pg_get_serial_sequence('receiptd.poll_slots', 'slot_id')) AS slot_id
    FROM (SELECT DISTINCT group_key, part FROM numbered ORDER BY 1, 2) AS distinct_parts
), slots AS (
    INSERT INTO receiptd.poll_slots (group_key, slot_id, next_poll_at, last_polled_at, known_until, read_num, changed_at,
        member_num, msg_seqs, sent_at, aged_from, first_polled_at, code, known_apart, no_receipt_polls, refused_since)
    SELECT n.group_key, p.slot_id, $2 + interval '10 minutes', $2, $2, array_agg(n.read_num ORDER BY n.msg_seq),
        array_agg(n.last_changed_at ORDER BY n.msg_seq), array_agg(n.read_num + n.unread_num ORDER BY n.msg_seq),
        array_agg(n.msg_seq ORDER BY n.msg_seq), array_agg(n.sent_at ORDER BY n.msg_seq),
        array_agg(n.aged_from ORDER BY n.msg_seq), array_agg(n.first_polled_at ORDER BY n.msg_seq),
        array_agg(n.receipt_code ORDER BY n.msg_seq), array_agg(NULL::timestamptz), array_agg(0::smallint),
        array_agg(NULL::timestamptz)
    FROM numbered n JOIN parts p USING (group_key, part) GROUP BY n.group_key, p.slot_id
    RETURNING group_key, slot_id
)
UPDATE receiptd.watched_messages m SET slot_id = p.slot_id, read_num = NULL, unread_num = NULL, receipt_code = NULL,
    first_polled_at = NULL, last_changed_at = NULL, known_until = NULL
FROM numbered n JOIN parts p USING (group_key, part)
WHERE m.group_key = n.group_key AND m.msg_seq = n.msg_seq AND EXISTS (SELECT FROM slots)
