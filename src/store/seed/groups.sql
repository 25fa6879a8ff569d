-- $1 app, $2 groups: "class-1" and so on.
INSERT INTO receiptd.watched_groups (sdk_app_id, group_id, group_type, added_at)
SELECT $1, 'class-' || g, 'Public', $3 FROM generate_series(1, $2::integer) AS g ORDER BY g
