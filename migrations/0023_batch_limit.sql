-- How many messages the service takes in a call: found out once and not by every poll.

ALTER TABLE receiptd.poller_leases ADD COLUMN batch_taken integer, ADD COLUMN batch_refused integer,
    ADD CONSTRAINT a_batch_that_is_refused_is_larger_than_one_that_is_taken
        CHECK ((batch_taken IS NULL) = (batch_refused IS NULL) AND batch_taken > 0 AND batch_taken < batch_refused);

COMMENT ON COLUMN receiptd.poller_leases.batch_taken IS 'Largest number of messages that Tencent Chat takes in a call, if it was found to refuse more; null if it takes polling.batch_size.';
COMMENT ON COLUMN receiptd.poller_leases.batch_refused IS 'Smallest number of messages in a call that Tencent Chat was found to refuse.';
