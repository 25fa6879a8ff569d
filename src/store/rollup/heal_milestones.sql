-- $1 app, $2 the latest time that is not in the future, $3 now: what was seen at times in the future was seen by now.
UPDATE receiptd.message_milestones m SET
    first_polled_at = least(m.first_polled_at, $3), last_changed_at = least(m.last_changed_at, $3),
    known_until = least(m.known_until, $3),
    first_read_by = least(m.first_read_by, $3), first_read_after = CASE WHEN m.first_read_after < $3 THEN m.first_read_after END,
    half_read_by = least(m.half_read_by, $3), half_read_after = CASE WHEN m.half_read_after < $3 THEN m.half_read_after END,
    p90_read_by = least(m.p90_read_by, $3), p90_read_after = CASE WHEN m.p90_read_after < $3 THEN m.p90_read_after END,
    all_read_by = least(m.all_read_by, $3), all_read_after = CASE WHEN m.all_read_after < $3 THEN m.all_read_after END
FROM receiptd.watched_groups g
WHERE m.group_key = g.group_key AND g.sdk_app_id = $1
    AND greatest(m.first_polled_at, m.last_changed_at, m.known_until) > $2
