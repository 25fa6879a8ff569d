-- Groups that are gone are probed too: once a day, not only when they are resumed.

UPDATE receiptd.watched_groups SET probe_at = now() + random() * interval '1 day'
WHERE state = 'quarantined' AND probe_at IS NULL;

COMMENT ON COLUMN receiptd.watched_groups.probe_at IS 'When a quarantined group is tried again; null while it is not quarantined.';
