-- $1 app, $2 the latest time that is not in the future, $3 the latest end of the roll-up. Gaps that end in the future mean
-- that nothing was polled since they began: the roll-up continues from there, including the hours noted for repetition.
WITH future_gaps AS (
    DELETE FROM receiptd.poll_gaps p USING receiptd.watched_groups g
    WHERE p.group_key = g.group_key AND g.sdk_app_id = $1 AND p.gap_until > $2
    RETURNING p.gap_from
), late AS (
    DELETE FROM receiptd.rollup_redo WHERE sdk_app_id = $1 AND hour > $3
)
UPDATE receiptd.poller_leases SET
    rolled_up_until = least(rolled_up_until, $3, (SELECT date_trunc('hour', min(gap_from), 'UTC') FROM future_gaps)),
    rolling_up_until = $3
WHERE sdk_app_id = $1
