-- $1 app, $2 the latest time that is not in the future, $3 now: observations of closed messages in the future are
-- dated by now. Active messages get their true times from the next poll with a receipt.
UPDATE receiptd.watched_messages m SET
    first_polled_at = least(m.first_polled_at, $3), last_changed_at = least(m.last_changed_at, $3),
    known_until = least(m.known_until, $3),
    first_read_by = CASE WHEN m.first_read_by > $3 THEN $3 ELSE m.first_read_by END,
    first_read_after = CASE WHEN m.first_read_after < $3 THEN m.first_read_after END,
    half_read_by = CASE WHEN m.half_read_by > $3 THEN $3 ELSE m.half_read_by END,
    half_read_after = CASE WHEN m.half_read_after < $3 THEN m.half_read_after END,
    p80_read_by = CASE WHEN m.p80_read_by > $3 THEN $3 ELSE m.p80_read_by END,
    p80_read_after = CASE WHEN m.p80_read_after < $3 THEN m.p80_read_after END,
    p90_read_by = CASE WHEN m.p90_read_by > $3 THEN $3 ELSE m.p90_read_by END,
    p90_read_after = CASE WHEN m.p90_read_after < $3 THEN m.p90_read_after END,
    all_read_by = CASE WHEN m.all_read_by > $3 THEN $3 ELSE m.all_read_by END,
    all_read_after = CASE WHEN m.all_read_after < $3 THEN m.all_read_after END
FROM receiptd.watched_groups g
WHERE m.group_key = g.group_key AND g.sdk_app_id = $1 AND m.closed_at IS NOT NULL
    AND greatest(m.first_polled_at, m.last_changed_at, m.known_until) > $2
