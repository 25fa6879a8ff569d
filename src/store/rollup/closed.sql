-- $1 app, $3 until, groups from $5 to $6 without $7: messages whose watching has ended leave the hot table, once all that is known of them is folded.
-- One that somebody holds, for instance to watch it again, has time until the next roll-up.
WITH free AS (
    SELECT w.group_key, w.msg_seq FROM receiptd.watched_messages w JOIN receiptd.watched_groups g USING (group_key)
    WHERE g.sdk_app_id = $1 AND g.group_key BETWEEN $5 AND $6 AND g.group_key <> ALL ($7) AND w.state <> 'active' AND w.closed_at < $3
        AND (w.first_polled_at IS NULL OR greatest(w.known_until, w.last_changed_at) < $3)
    FOR UPDATE OF w SKIP LOCKED
), leaving AS (
    DELETE FROM receiptd.watched_messages w USING free f
    WHERE w.group_key = f.group_key AND w.msg_seq = f.msg_seq
    RETURNING w.*
)
INSERT INTO receiptd.message_milestones AS m (group_key, msg_seq, sent_at, state, closed_at, read_num, unread_num,
    receipt_code, first_polled_at, last_changed_at, known_until)
SELECT group_key, msg_seq, sent_at, state, closed_at, read_num, unread_num, receipt_code, first_polled_at,
    last_changed_at, known_until
FROM leaving ORDER BY group_key, msg_seq
ON CONFLICT (group_key, msg_seq) DO UPDATE SET sent_at = least(m.sent_at, EXCLUDED.sent_at), state = EXCLUDED.state,
    closed_at = EXCLUDED.closed_at, read_num = EXCLUDED.read_num, unread_num = EXCLUDED.unread_num,
    receipt_code = EXCLUDED.receipt_code, first_polled_at = EXCLUDED.first_polled_at,
    last_changed_at = EXCLUDED.last_changed_at, known_until = EXCLUDED.known_until
