//! The reaction to each error code of Tencent Chat. To add a code, add it to [`CODES`] and to docs/operators.md.
//!
//! Public codes, the same for all calls, are 60002 to 79999; those from 10000 are about groups.

use std::fmt;

/// The reaction to the outcome of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// The attempt was answered.
    Success,
    /// Retry with exponential backoff; after some attempts the call returns to the schedule.
    Retry,
    /// Lower the rate of the whole app immediately, and retry.
    SlowDown,
    /// Too many failed signatures: stop for a minute, then check again.
    Wait,
    /// Make a new signature once and retry; a second failure is an [`AppFault`](Self::AppFault), except for 60004 and
    /// 60005, which are retried.
    SignAgain,
    /// No call of this app can succeed: stop, report the reason, and probe occasionally.
    AppFault,
    /// No call for this group can succeed: quarantine it.
    GroupFault,
    /// The call asked for too many messages or for a bad one: halve it.
    Split,
    /// The message has no receipt.
    Message,
    /// The answer leaves out messages that were asked for: the rest counts, and these are asked for again when their
    /// slot is due.
    Incomplete,
    /// An unknown code: retry a few times, then return to the schedule.
    Unknown,
}

/// A documented code.
#[derive(Debug)]
pub struct Code {
    /// The `ErrorCode`.
    pub code: i64,
    /// The reaction to it.
    pub class: Class,
    /// The remedy, if it says more than the `ErrorInfo`.
    pub remedy: Option<&'static str>,
    /// The code may be caused by a wrong clock on the signing machine.
    pub may_be_the_clock: bool,
    /// Transient ("retry later"): retried if a new signature does not help.
    pub passes: bool,
    /// The group doesn't exist any more: it is probed less often than other refused groups.
    pub is_final: bool,
}

impl Code {
    const fn new(code: i64, class: Class) -> Self {
        Self { code, class, remedy: None, may_be_the_clock: false, passes: false, is_final: false }
    }

    const fn remedy(self, remedy: &'static str) -> Self {
        Self { remedy: Some(remedy), ..self }
    }

    const fn may_be_the_clock(self) -> Self {
        Self { may_be_the_clock: true, ..self }
    }

    const fn passes(self) -> Self {
        Self { passes: true, ..self }
    }

    const fn final_for_groups(self) -> Self {
        Self { is_final: true, ..self }
    }

    /// The entry of a code, if it is documented.
    pub fn of(code: i64) -> Option<&'static Self> {
        CODES.iter().find(|known| known.code == code)
    }
}

const ENDPOINT: &str = "the service does not accept receiptd's request: is chat.endpoint right?";
const APP: &str = "chat.sdk_app_id is unknown, forbidden or out of service: see the app's console";
const SIGNATURE: &str = "the signature is wrong: check chat.secret_key, chat.sdk_app_id and chat.identifier";
const ACCOUNT: &str = "the signature belongs to another account or app: check chat.identifier and chat.sdk_app_id";
const ADMIN: &str = "chat.identifier must be an admin account of the app";
const REGION: &str = "the app belongs to another region: correct chat.region";
const EDITION: &str = "read receipts need a paid edition and the console switch \"Group Message Read Receipts\"";

/// The documented codes.
pub const CODES: &[Code] = &[
    Code::new(0, Class::Success),
    Code::new(10002, Class::Retry),
    Code::new(60008, Class::Retry),
    Code::new(60013, Class::Retry),
    Code::new(60014, Class::Retry),
    Code::new(60022, Class::Retry),
    Code::new(70169, Class::Retry),
    Code::new(70202, Class::Retry),
    Code::new(70500, Class::Retry),
    Code::new(10006, Class::SlowDown),
    Code::new(60007, Class::SlowDown),
    Code::new(60011, Class::SlowDown),
    Code::new(60018, Class::SlowDown),
    Code::new(60019, Class::SlowDown),
    Code::new(70050, Class::Wait).remedy("too many failed signatures: check chat.secret_key"),
    Code::new(70001, Class::SignAgain)
        .remedy("the signature has expired: is this machine's clock right (NTP)?")
        .may_be_the_clock(),
    Code::new(60004, Class::SignAgain).passes(),
    Code::new(60005, Class::SignAgain).passes(),
    Code::new(70003, Class::SignAgain)
        .remedy(
            "the signature is refused: is this machine's clock right (NTP)? Also \
        check chat.secret_key, chat.sdk_app_id and chat.identifier",
        )
        .may_be_the_clock(),
    Code::new(70005, Class::SignAgain).remedy(SIGNATURE),
    Code::new(10003, Class::AppFault).remedy(EDITION),
    Code::new(10011, Class::AppFault).remedy(ENDPOINT),
    Code::new(10012, Class::AppFault).remedy(ENDPOINT),
    Code::new(10026, Class::AppFault).remedy(EDITION),
    Code::new(10059, Class::AppFault).remedy(EDITION),
    Code::new(60002, Class::AppFault).remedy(ENDPOINT),
    Code::new(60003, Class::AppFault).remedy(ENDPOINT),
    Code::new(60006, Class::AppFault).remedy(APP),
    Code::new(60009, Class::AppFault).remedy(ADMIN),
    Code::new(60010, Class::AppFault).remedy(APP),
    Code::new(60012, Class::AppFault).remedy(APP),
    Code::new(60015, Class::AppFault).remedy(ENDPOINT),
    Code::new(60016, Class::AppFault).remedy(ENDPOINT),
    Code::new(60017, Class::AppFault).remedy(ENDPOINT),
    Code::new(60020, Class::AppFault).remedy(APP),
    Code::new(60021, Class::AppFault)
        .remedy("this machine's IP address is not on the app's allow-list: add it in the console"),
    Code::new(60025, Class::AppFault).remedy(APP),
    Code::new(60026, Class::AppFault).remedy(REGION),
    Code::new(60027, Class::AppFault).remedy(APP),
    Code::new(60028, Class::AppFault).remedy(
        "the trial's daily volume is used up: wait until tomorrow, or upgrade \
        the app's edition",
    ),
    Code::new(70002, Class::AppFault).remedy(SIGNATURE),
    Code::new(70009, Class::AppFault).remedy(SIGNATURE),
    Code::new(70013, Class::AppFault).remedy(ACCOUNT),
    Code::new(70014, Class::AppFault).remedy(ACCOUNT),
    Code::new(70016, Class::AppFault).remedy(REGION),
    Code::new(70020, Class::AppFault).remedy(REGION),
    Code::new(70051, Class::AppFault),
    Code::new(70107, Class::AppFault).remedy(ADMIN),
    Code::new(70402, Class::AppFault).remedy(ADMIN),
    Code::new(70403, Class::AppFault).remedy(ADMIN),
    Code::new(80005, Class::AppFault).remedy(APP),
    Code::new(10007, Class::GroupFault).remedy(
        "groups of this type have no read receipts, or the app may not read \
        them",
    ),
    Code::new(10010, Class::GroupFault).remedy("the group doesn't exist any more").final_for_groups(),
    Code::new(10015, Class::GroupFault).remedy("the group id is wrong").final_for_groups(),
    Code::new(10060, Class::GroupFault).remedy("the group has more members than read receipts allow (200)"),
    Code::new(10004, Class::Split),
    Code::new(10018, Class::Split),
    Code::new(10061, Class::Message),
    Code::new(10062, Class::Message),
];

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
        Code::of(code).map_or(Self::Unknown, |known| known.class)
    }

    /// Whether no calls of the app are made except probes.
    pub fn stops_app(self) -> bool {
        match self {
            Self::Wait | Self::SignAgain | Self::AppFault => true,
            Self::Success
            | Self::Retry
            | Self::SlowDown
            | Self::GroupFault
            | Self::Split
            | Self::Message
            | Self::Incomplete
            | Self::Unknown => false,
        }
    }

    /// Whether the service answered for the group.
    pub fn is_answer(self) -> bool {
        match self {
            Self::Success | Self::Message | Self::Incomplete => true,
            Self::Retry
            | Self::SlowDown
            | Self::Wait
            | Self::SignAgain
            | Self::AppFault
            | Self::GroupFault
            | Self::Split
            | Self::Unknown => false,
        }
    }

    /// The class of an answer whose HTTP status is not 200. The service answers everything with 200, so such an
    /// answer comes from something in between.
    pub fn of_http_status(status: u16) -> Self {
        match status {
            408 | 429 | 500..=599 => Self::Retry,
            _ => Self::Unknown,
        }
    }

    /// The value of `api_calls.class` and of the metrics' label.
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

/// The remedy for a code, if it says more than its `ErrorInfo`.
pub fn remedy(code: i64) -> Option<&'static str> {
    Code::of(code)?.remedy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_listed_once_and_any_other_is_unknown() {
        for known in CODES {
            assert_eq!(CODES.iter().filter(|other| other.code == known.code).count(), 1, "{}", known.code);
        }
        for code in [-1, 1, 10001, 59999, 60001, 99999, i64::MIN, i64::MAX] {
            assert_eq!(Class::of_code(code), Class::Unknown, "{code}");
        }
    }

    #[test]
    fn every_documented_code_is_in_the_docs_with_its_class() {
        let docs = include_str!("../../../docs/operators.md");
        for Code { code, class, .. } in CODES {
            let row = docs.lines().find(|line| {
                let mut cells = line.split('|').skip(1);
                cells.next().is_some_and(|cell| cell.split(',').any(|listed| listed.trim() == code.to_string()))
            });
            assert!(row.is_some_and(|row| row.contains(&format!("`{class}`"))), "{code} {class}: {row:?}");
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
    fn codes_of_possible_clock_faults_advise_checking_the_clock() {
        let codes: Vec<&Code> = CODES.iter().filter(|known| known.may_be_the_clock).collect();
        assert!(
            codes.len() == 2 && codes.iter().all(|known| known.remedy.is_some_and(|remedy| remedy.contains("clock")))
        );
    }

    #[test]
    fn every_app_or_group_fault_with_a_known_cause_has_a_remedy() {
        for code in [
            60021, 60025, 60026, 60027, 60028, 70016, 70020, 80005, 10011, 10012, 10059, 10007, 10010, 10015, 10060,
            70001, 70009,
        ] {
            assert!(remedy(code).is_some(), "{code}");
        }
    }
}
