//! How many of a group's discovered messages have a receipt, and how often the others are asked for.
//!
//! Only messages sent with `NeedReadReceipt` have one, and nothing tells before they are asked for. A message without
//! must not cost as much as one whose receipt is only late.

use crate::rules::recording::NO_RECEIPT_POLLS;

/// How many of a group's latest discovered messages have a receipt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// Number of messages with a receipt.
    pub with: i64,
    /// Number of messages without.
    pub without: i64,
}

/// Percentage of messages with a receipt from which a missing receipt is unexpected.
const EXPECTED_PERCENT: i64 = 90;

/// Number of messages that tell what to expect.
const TELLING: i64 = 10;

/// The number of polls without a receipt that count as made for a new message of such a group: one more closes it,
/// unless nearly all messages of the group have one. Then a missing receipt may only be late.
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
