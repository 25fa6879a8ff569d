-- A class for answers that leave out what was asked, and since when a message is refused.

COMMENT ON COLUMN receiptd.api_calls.class IS 'success, or what the outcome calls for: retry, slow_down, wait, sign_again, app_fault, group_fault, split, message, incomplete (the answer leaves out messages that were asked for), unknown.';
COMMENT ON COLUMN receiptd.api_calls.error IS 'What went wrong: why there was no answer, or how many messages the answer told of.';

ALTER TABLE receiptd.watched_messages ADD COLUMN refused_since timestamptz;

COMMENT ON COLUMN receiptd.watched_messages.refused_since IS 'Internal: since when each poll that asked for this message alone was refused; null if the last one was not.';
COMMENT ON COLUMN receiptd.watched_messages.no_receipt_polls IS 'Internal: how many polls in a row said that there is no receipt or, where refused_since is set, refused the message.';
COMMENT ON COLUMN receiptd.watched_messages.state IS 'active: polled. all_read: everybody has read it. no_receipt: it has no receipt. expired: older than its cadence. rejected: refused by Tencent Chat with receipt_code in several polls. removed: no longer watched.';
