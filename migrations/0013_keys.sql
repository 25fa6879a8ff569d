-- Every unique key of what is of a group begins with group_key, so that such tables can be spread by it. slot_id is unique by
-- where it comes from.
ALTER TABLE receiptd.poll_slots DROP CONSTRAINT poll_slots_slot_id_key;
CREATE INDEX poll_slots_by_id ON receiptd.poll_slots (slot_id);

-- Calls that failed are few: by this the roll-up finds why nothing was observed in a gap of days.
CREATE INDEX api_calls_failed ON receiptd.api_calls (group_key, called_at) WHERE class <> 'success';
