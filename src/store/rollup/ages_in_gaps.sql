-- $1 app, $2 from, $3 until, groups from $5 to $6 without $7: messages that reached an age in a gap that ended in the span.
-- Their counts at that age are known by now if the next poll saw the same counts, although nothing about them was written.
WITH aged AS (
    SELECT m.group_key, m.msg_seq
    FROM receiptd.poll_gaps p
    JOIN receiptd.watched_groups g USING (group_key)
    CROSS JOIN unnest(ARRAY[interval '15 minutes', '1 hour', '24 hours', '7 days']) AS age
    JOIN receiptd.watched_messages m
        ON m.group_key = p.group_key AND m.sent_at BETWEEN p.gap_from - age AND p.gap_until - age
    WHERE g.sdk_app_id = $1 AND g.group_key BETWEEN $5 AND $6 AND g.group_key <> ALL ($7)
        AND p.gap_until >= $2 AND p.gap_until < $3
    ORDER BY m.group_key, m.msg_seq FOR NO KEY UPDATE OF m
)
UPDATE receiptd.watched_messages m SET updated_at = clock_timestamp()
FROM aged WHERE m.group_key = aged.group_key AND m.msg_seq = aged.msg_seq
