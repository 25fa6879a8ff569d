-- $1 app: the readers of the messages of class-1, for which they are on. Members read each message in a different order, at the
-- times of its snapshots.
WITH messages AS MATERIALIZED (
    SELECT s.group_key, s.msg_seq, s.sent_at, s.known_until, s.last_changed_at, s.read_num, s.unread_num,
        ARRAY(SELECT format('student-%s', lpad(n::text, greatest(2, length(n::text)), '0')) FROM generate_series(1, s.read_num + s.unread_num) AS n
            ORDER BY md5(s.msg_seq || ' ' || n)) AS members
    FROM receiptd.message_state s
    JOIN receiptd.watched_groups g USING (group_key)
    WHERE g.sdk_app_id = $1 AND g.group_id = 'class-1' AND s.read_num IS NOT NULL
), lists AS (
    INSERT INTO receiptd.reader_lists (group_key, msg_seq, sent_at, asked_at, known_until, read_num, unread_num, not_read)
    SELECT m.group_key, m.msg_seq, m.sent_at, m.last_changed_at, m.known_until, m.read_num, m.unread_num,
        m.members[m.read_num + 1:]
    FROM messages m
)
INSERT INTO receiptd.message_readers (group_key, msg_seq, member, read_after, read_by)
SELECT DISTINCT ON (m.group_key, m.msg_seq, place) m.group_key, m.msg_seq, m.members[place], h.prior_polled_at, h.polled_at
FROM messages m
JOIN receiptd.receipt_snapshots h USING (group_key, msg_seq)
CROSS JOIN LATERAL generate_series(coalesce(h.prior_read_num, 0) + 1, least(h.read_num, m.read_num)) AS place
ORDER BY m.group_key, m.msg_seq, place, h.polled_at
