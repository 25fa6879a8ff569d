//! What an error code of Tencent Chat calls for. To teach receiptd a new code, add it to [`CODES`], a line to
//! the test below and one to docs/operators.md.
//!
//! The public codes are 60002 to 79999 and are the same for all calls; those from 10000 belong to groups.

use std::fmt;

/// What is to be done about the outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The attempt was answered.
    Success,
    /// Try again with exponential backoff; after some attempts the call goes back to the schedule.
    Retry,
    /// Lower the rate of the whole app at once, and try again.
    SlowDown,
    /// The signature failed too often: stop for a minute, then check it again.
    Wait,
    /// Make a new signature once and try again; a second failure is an [`AppFault`](Self::AppFault), but for 60004 and 60005,
    /// which are retried.
    SignAgain,
    /// No call of this app can succeed: stop, say why, and probe now and then.
    AppFault,
    /// No call for this group can succeed: quarantine it.
    GroupFault,
    /// The call asked for too much or for something bad: halve it.
    Split,
    /// The message has no receipt.
    Message,
    /// The call was answered, and the answer leaves out messages that were asked for: what it tells of the others counts, and
    /// these are asked for again when their slot is due.
    Incomplete,
    /// A code that nobody has told receiptd about: retry a few times, then back to the schedule.
    Unknown,
}

/// The documented codes of each class.
pub const CODES: [(Class, &[i64]); 9] = [
    (Class::Success, &[0]),
    (Class::Retry, &[10002, 60008, 60013, 60014, 60022, 70169, 70202, 70500]),
    (Class::SlowDown, &[10006, 60007, 60011, 60018, 60019]),
    (Class::Wait, &[70050]),
    (Class::SignAgain, &[70001, 60004, 60005, 70003, 70005]),
    (
        Class::AppFault,
        &[
            10003, 10011, 10012, 10026, 10059, 60002, 60003, 60006, 60009, 60010, 60012, 60015, 60016, 60017, 60020,
            60021, 60025, 60026, 60027, 60028, 70002, 70009, 70013, 70014, 70016, 70020, 70051, 70107, 70402, 70403,
            80005,
        ],
    ),
    (Class::GroupFault, &[10007, 10010, 10015, 10060]),
    (Class::Split, &[10004, 10018]),
    (Class::Message, &[10061, 10062]),
];

/// "Account check failed, retry later". A new signature may help; if it doesn't, these are retried.
pub(super) const ACCOUNT_CHECK_FAILED: [i64; 2] = [60004, 60005];

impl Class {
    /// All classes, in the order of their declaration.
    pub const ALL: [Self; 11] = [
        Self::Success,
        Self::Retry,
        Self::SlowDown,
        Self::Wait,
        Self::SignAgain,
        Self::AppFault,
        Self::GroupFault,
        Self::Split,
        Self::Message,
        Self::Incomplete,
        Self::Unknown,
    ];

    /// The class of an `ErrorCode`.
    pub fn of_code(code: i64) -> Self {
        CODES.iter().find(|(_, codes)| codes.contains(&code)).map_or(Self::Unknown, |(class, _)| *class)
    }

    /// The class of an answer whose HTTP status is not 200. The service answers 200 to everything that reaches it, so
    /// such an answer comes from something in between.
    pub fn of_http_status(status: u16) -> Self {
        match status {
            408 | 429 | 500..=599 => Self::Retry,
            _ => Self::Unknown,
        }
    }

    /// The name in `api_calls.class` and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Retry => "retry",
            Self::SlowDown => "slow_down",
            Self::Wait => "wait",
            Self::SignAgain => "sign_again",
            Self::AppFault => "app_fault",
            Self::GroupFault => "group_fault",
            Self::Split => "split",
            Self::Message => "message",
            Self::Incomplete => "incomplete",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether the service answers like this where the clock of whoever signed is wrong.
pub fn may_be_clocks_fault(code: i64) -> bool {
    matches!(code, 70001 | 70003)
}

/// What the operator can do about a code, where the code says more than its `ErrorInfo`.
pub fn remedy(code: i64) -> Option<&'static str> {
    Some(match code {
        10011 | 10012 | 60002 | 60003 | 60015 | 60016 | 60017 => {
            "the service does not accept receiptd's request: is chat.endpoint right?"
        }
        60006 | 60010 | 60012 | 60020 | 60025 | 60027 | 80005 => {
            "chat.sdk_app_id is unknown, forbidden or out of service: see the app's console"
        }
        60021 => "this machine's IP address is not on the app's allow-list: add it in the console",
        70001 => "the signature has expired: is this machine's clock right (NTP)?",
        60028 => "the trial's volume of today is used up: wait until tomorrow, or upgrade the app's edition",
        70016 | 70020 | 60026 => "the app is not at home here: chat.region is probably another one",
        70003 => {
            "the signature is refused: is this machine's clock right (NTP)? Check chat.secret_key, chat.sdk_app_id and \
             chat.identifier too"
        }
        70002 | 70009 | 70005 => "the signature is wrong: check chat.secret_key, chat.sdk_app_id and chat.identifier",
        70013 | 70014 => "the signature is another account's or app's: check chat.identifier and chat.sdk_app_id",
        70050 => "the signature failed too often: check chat.secret_key",
        70107 | 70402 | 70403 | 60009 => "chat.identifier must be an admin account of the app",
        10003 | 10026 | 10059 => {
            "read receipts need a paid edition and the console switch \"Group Message Read Receipts\""
        }
        10007 => "the group is of a kind without read receipts, or the app may not read it",
        10010 => "the group does not exist any more",
        10015 => "the group id is wrong",
        10060 => "the group has more members than read receipts allow (200)",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_documented_code_has_its_class() {
        let table: [(Class, &[i64]); 9] = [
            (Class::Success, &[0]),
            (Class::Retry, &[10002, 60008, 60013, 60014, 60022, 70169, 70202, 70500]),
            (Class::SlowDown, &[10006, 60007, 60011, 60018, 60019]),
            (Class::Wait, &[70050]),
            (Class::SignAgain, &[70001, 60004, 60005, 70003, 70005]),
            (
                Class::AppFault,
                &[
                    60002, 60003, 60006, 60009, 60010, 60012, 60015, 60016, 60017, 60020, 60021, 60025, 60026, 60027,
                    60028, 70002, 70009, 70013, 70014, 70016, 70020, 70051, 70107, 70402, 70403, 80005, 10003, 10011,
                    10012, 10026, 10059,
                ],
            ),
            (Class::GroupFault, &[10007, 10010, 10015, 10060]),
            (Class::Split, &[10004, 10018]),
            (Class::Message, &[10061, 10062]),
        ];
        for (class, codes) in table {
            for code in codes {
                assert_eq!(Class::of_code(*code), class, "{code}");
            }
        }
        for code in [-1, 1, 10001, 59999, 60001, 99999, i64::MIN, i64::MAX] {
            assert_eq!(Class::of_code(code), Class::Unknown, "{code}");
        }
    }

    #[test]
    fn every_documented_code_is_in_the_docs_with_its_class() {
        let docs = include_str!("../../docs/operators.md");
        for (class, codes) in CODES {
            for code in codes {
                let row = docs.lines().find(|line| {
                    let mut cells = line.split('|').skip(1);
                    cells.next().is_some_and(|cell| cell.split(',').any(|listed| listed.trim() == code.to_string()))
                });
                assert!(row.is_some_and(|row| row.contains(&format!("`{class}`"))), "{code} {class}: {row:?}");
            }
        }
    }

    #[test]
    fn all_classes_are_in_the_order_of_their_declaration() {
        assert!(Class::ALL.iter().enumerate().all(|(index, class)| *class as usize == index));
    }

    #[test]
    fn http_errors_that_pass_are_retried() {
        for status in [408, 429, 500, 502, 503, 504, 599] {
            assert_eq!(Class::of_http_status(status), Class::Retry, "{status}");
        }
        for status in [204, 301, 400, 403, 404] {
            assert_eq!(Class::of_http_status(status), Class::Unknown, "{status}");
        }
    }

    #[test]
    fn a_signature_that_a_wrong_clock_may_have_made_sends_the_operator_to_the_clock() {
        for code in [70001, 70003] {
            assert!(may_be_clocks_fault(code) && remedy(code).unwrap().contains("clock"), "{code}");
        }
        assert!(!may_be_clocks_fault(70009));
    }

    #[test]
    fn every_fault_of_an_app_or_a_group_that_names_a_cause_has_a_remedy() {
        for code in [
            60021, 60025, 60026, 60027, 60028, 70016, 70020, 80005, 10011, 10012, 10059, 10007, 10010, 10015, 10060,
            70001, 70009,
        ] {
            assert!(remedy(code).is_some(), "{code}");
        }
    }
}
