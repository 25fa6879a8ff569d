-- Which cadences the schedule was made by, so that a change of them holds at once and not from each message's next poll.

ALTER TABLE receiptd.poller_leases ADD COLUMN cadences jsonb;

COMMENT ON COLUMN receiptd.poller_leases.cadences IS 'Internal: the cadences by name, in words, that the schedule follows; null before the first poll.';
