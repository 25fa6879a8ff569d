-- $1 app, $2 groups, $3 the end: "class-1" and so on, each with one of two branches. The label `generated` distinguishes them from
-- real groups, so that a seed can be removed again. Readers are stored for "class-1".
INSERT INTO receiptd.watched_groups (sdk_app_id, group_id, group_type, labels, readers, added_at, updated_at)
SELECT $1, 'class-' || g, 'Public', jsonb_build_object('branch', (ARRAY['south', 'north'])[g % 2 + 1], 'generated', true), g = 1,
    $3, $3
FROM generate_series(1, $2::integer) AS g ORDER BY g
