-- What analysts read: everything with the app and the group spelt out.

CREATE VIEW receiptd.latest_receipts AS
SELECT g.sdk_app_id, g.group_id, m.msg_seq, m.sent_at, m.state, m.read_num, m.unread_num, m.receipt_code,
    m.first_polled_at, m.last_changed_at,
    CASE WHEN m.first_polled_at IS NOT NULL THEN coalesce(m.known_until, s.last_polled_at) END AS known_until,
    m.closed_at, m.group_key
FROM receiptd.watched_messages m
JOIN receiptd.watched_groups g USING (group_key)
LEFT JOIN receiptd.poll_slots s ON s.group_key = m.group_key AND s.slot_id = m.slot_id;

CREATE VIEW receiptd.receipt_history AS
SELECT g.sdk_app_id, g.group_id, h.msg_seq, h.polled_at, h.read_num, h.unread_num, h.code, h.prior_polled_at, h.source,
    h.group_key
FROM receiptd.receipt_snapshots h
JOIN receiptd.watched_groups g USING (group_key);

COMMENT ON VIEW receiptd.latest_receipts IS 'The latest counts of every watched message, and until when they are known to hold.';
COMMENT ON COLUMN receiptd.latest_receipts.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.latest_receipts.group_id IS 'Group id as Tencent Chat writes it.';
COMMENT ON COLUMN receiptd.latest_receipts.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.latest_receipts.sent_at IS 'When the message was sent, as said by whoever watched it.';
COMMENT ON COLUMN receiptd.latest_receipts.state IS 'active, or why polling ended: all_read, no_receipt, expired, rejected, removed.';
COMMENT ON COLUMN receiptd.latest_receipts.read_num IS 'Members who have read the message; null if not known.';
COMMENT ON COLUMN receiptd.latest_receipts.unread_num IS 'Members who have not read the message; null if not known.';
COMMENT ON COLUMN receiptd.latest_receipts.receipt_code IS 'Per-message code: 0 is success, 10062 no receipt; null before the first poll.';
COMMENT ON COLUMN receiptd.latest_receipts.first_polled_at IS 'First poll that told something of the message.';
COMMENT ON COLUMN receiptd.latest_receipts.last_changed_at IS 'Poll at which these counts were first seen.';
COMMENT ON COLUMN receiptd.latest_receipts.known_until IS 'Last poll that still saw these counts: they held from last_changed_at until then.';
COMMENT ON COLUMN receiptd.latest_receipts.closed_at IS 'When polling of the message ended; null while it is active.';
COMMENT ON COLUMN receiptd.latest_receipts.group_key IS 'Short key of the group, for joins with the tables.';

COMMENT ON VIEW receiptd.receipt_history IS 'Every change of counts that was seen, of every message: receipt_snapshots with app and group spelt out.';
COMMENT ON COLUMN receiptd.receipt_history.sdk_app_id IS 'SDKAppID of the Tencent Chat app.';
COMMENT ON COLUMN receiptd.receipt_history.group_id IS 'Group id as Tencent Chat writes it.';
COMMENT ON COLUMN receiptd.receipt_history.msg_seq IS 'Number of the message within its group.';
COMMENT ON COLUMN receiptd.receipt_history.polled_at IS 'When these counts were first seen.';
COMMENT ON COLUMN receiptd.receipt_history.read_num IS 'Members who had read the message.';
COMMENT ON COLUMN receiptd.receipt_history.unread_num IS 'Members who had not read the message.';
COMMENT ON COLUMN receiptd.receipt_history.code IS 'Per-message code: 0 is success, 10062 no receipt.';
COMMENT ON COLUMN receiptd.receipt_history.prior_polled_at IS 'The poll before: the change happened after it and by polled_at. Null for the first observation.';
COMMENT ON COLUMN receiptd.receipt_history.source IS 'poll or webhook.';
COMMENT ON COLUMN receiptd.receipt_history.group_key IS 'Short key of the group, for joins with the tables.';

COMMENT ON TABLE receiptd.schema_migrations IS 'Internal: the migrations that receiptd has applied to this schema.';
COMMENT ON COLUMN receiptd.schema_migrations.version IS 'Number of the migration.';
COMMENT ON COLUMN receiptd.schema_migrations.description IS 'What the migration is about.';
COMMENT ON COLUMN receiptd.schema_migrations.installed_on IS 'When it was applied.';
COMMENT ON COLUMN receiptd.schema_migrations.success IS 'Whether it was applied to the end.';
COMMENT ON COLUMN receiptd.schema_migrations.checksum IS 'Checksum of its text: an applied migration is never edited.';
COMMENT ON COLUMN receiptd.schema_migrations.execution_time IS 'Nanoseconds it took.';
