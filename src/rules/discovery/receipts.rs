//! How many of a group's discovered messages have a receipt, and how often messages without one are polled.
//!
//! Only messages sent with `NeedReadReceipt` have a receipt, and only a poll can tell. A message without one must not
//! cost as much as one whose receipt is late.

use crate::rules::recording::NO_RECEIPT_POLLS;

/// How many of a group's latest discovered messages have a receipt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Number of messages with a receipt.
    pub with: i64,
    /// Number of messages without.
    pub without: i64,
}

/// Percentage of messages with a receipt from which a missing one is unexpected.
const EXPECTED_PERCENT: i64 = 90;

/// Minimum number of messages for an expectation.
const TELLING: i64 = 10;

/// Number of polls without a receipt that a new message of such a group starts with: one more closes it. It starts with
/// none if nearly all messages of the group have a receipt, since a missing one may then only be late.
pub fn polls_before(share: Share) -> i16 {
    let known = share.with + share.without;
    let is_expected = known >= TELLING && share.with * 100 >= known * EXPECTED_PERCENT;
    if is_expected { 0 } else { NO_RECEIPT_POLLS - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_receipts_are_retried_only_if_nearly_all_exist() {
        for (with, without, expected) in [
            (0, 0, NO_RECEIPT_POLLS - 1),
            (9, 0, NO_RECEIPT_POLLS - 1),
            (10, 0, 0),
            (90, 10, 0),
            (89, 11, NO_RECEIPT_POLLS - 1),
            (0, 100, NO_RECEIPT_POLLS - 1),
        ] {
            assert_eq!(polls_before(Share { with, without }), expected, "{with} {without}");
        }
    }
}
