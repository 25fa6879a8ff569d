//! Faults on demand: what can go wrong with a call. [`rule`] selects the calls; the server and the answer apply the
//! fault.

pub(super) mod json;
mod rule;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(super) use self::rule::{Asked, FaultRules};
pub use self::rule::{FaultRule, When};

/// A fault of a call. Faults of single entries (missing, repeated, out of range, a code, without counts, written
/// differently) apply to the message of a [`When::Message`] rule, otherwise to every second entry from the first; the
/// other entries stay correct.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// `ActionStatus` FAIL with this `ErrorCode`.
    ErrorCode {
        /// Any code.
        code: i32,
    },
    /// This HTTP status with an HTML body, like a proxy's.
    HttpStatus {
        /// 200 to 999; a status that can't end a request becomes 502.
        status: u16,
    },
    /// HTTP 200 with a body that is not JSON.
    NotJson,
    /// The first half of a correct answer, with a `Content-Length` for that half.
    TruncatedJson,
    /// The connection is closed without a byte of answer.
    CutBeforeAnswer,
    /// The connection is closed in the middle of the body.
    CutMidBody,
    /// Nothing happens for this duration, then the connection is closed.
    Hang {
        /// Duration, such as `"30s"`.
        #[serde(with = "humantime_serde")]
        duration: Duration,
    },
    /// A correct answer, delayed. Its counts are those at the call's arrival, as always.
    ExtraDelay {
        /// Delay, such as `"500ms"`.
        #[serde(with = "humantime_serde")]
        duration: Duration,
    },
    /// The request is delayed before it is read: a correct answer, with the counts of that later time.
    HeldRequest {
        /// Delay, such as `"2s"`.
        #[serde(with = "humantime_serde")]
        duration: Duration,
    },
    /// Valid JSON of at least this size.
    OversizedBody {
        /// Size of the body, in bytes.
        bytes: usize,
    },
    /// Success without a list of receipts.
    NoList {
        /// What replaces it.
        list: NoList,
    },
    /// Entries are left out.
    MissingEntries,
    /// Entries have no counts, but `Code` 0.
    MissingCounts,
    /// Entries have this `Code` and no counts.
    EntryCode {
        /// Any code except 0.
        code: i32,
    },
    /// Entries are repeated, equal or with other counts.
    RepeatedEntries {
        /// True: the two contradict each other, and neither counts as answered.
        conflicting: bool,
    },
    /// Two additional entries, for messages that were not asked for.
    UnaskedEntries,
    /// The counts are invalid.
    OutOfRange {
        /// What replaces them.
        number: BadNumber,
    },
    /// The numbers are correct but in an unusual form.
    Written {
        /// The form.
        form: NumberForm,
        /// Which of the entry's numbers have this form.
        numbers: Numbers,
    },
    /// The entries come in reverse order.
    ReorderedEntries,
    /// `ActionStatus` FAIL with `ErrorCode` 0, above a list that looks good.
    FailWithoutCode,
    /// A correct answer with unknown fields, at the top and in every entry.
    ExtraFields,
}

impl Fault {
    /// The name in the ledger, the same as `kind` in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ErrorCode { .. } => "error_code",
            Self::HttpStatus { .. } => "http_status",
            Self::NotJson => "not_json",
            Self::TruncatedJson => "truncated_json",
            Self::CutBeforeAnswer => "cut_before_answer",
            Self::CutMidBody => "cut_mid_body",
            Self::Hang { .. } => "hang",
            Self::ExtraDelay { .. } => "extra_delay",
            Self::HeldRequest { .. } => "held_request",
            Self::OversizedBody { .. } => "oversized_body",
            Self::NoList { .. } => "no_list",
            Self::MissingEntries => "missing_entries",
            Self::MissingCounts => "missing_counts",
            Self::EntryCode { .. } => "entry_code",
            Self::RepeatedEntries { .. } => "repeated_entries",
            Self::UnaskedEntries => "unasked_entries",
            Self::OutOfRange { .. } => "out_of_range",
            Self::Written { .. } => "written",
            Self::ReorderedEntries => "reordered_entries",
            Self::FailWithoutCode => "fail_without_code",
            Self::ExtraFields => "extra_fields",
        }
    }

    /// Delay before the counts are read; `None` if the call never ends.
    pub(super) fn wait_before_reading(&self) -> Option<Duration> {
        if let Self::HeldRequest { duration } = self { Some(*duration) } else { None }
    }

    /// Delay of the end of the call after the counts are read.
    pub(super) fn wait_before_answering(&self) -> Duration {
        match self {
            Self::Hang { duration } | Self::ExtraDelay { duration } => *duration,
            _ => Duration::ZERO,
        }
    }
}

/// What replaces a count in an out-of-range answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadNumber {
    /// -1.
    Negative,
    /// 2^31, the first number that is too large.
    TooLarge,
    /// 2^64 - 1.
    Huge,
    /// 2^31 - 1: within the range, but more members than any group has.
    Implausible,
    /// 0.5.
    Fraction,
    /// A string that is not a number.
    Text,
    /// null.
    Null,
}

/// What replaces the list of receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoList {
    /// The field is missing.
    Absent,
    /// null.
    Null,
    /// An empty list.
    Empty,
}

/// An unusual form of a whole number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NumberForm {
    /// A string, such as `"3"`.
    Text,
    /// With a fraction of zero, such as `3.0`.
    Float,
}

/// Which numbers of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Numbers {
    /// `ReadNum` and `UnreadNum`.
    Counts,
    /// Also `Code` and `MsgSeq`.
    All,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_every_fault_is_its_name_in_json() {
        let duration = Duration::from_secs(1);
        for fault in [
            Fault::ErrorCode { code: 1 },
            Fault::HttpStatus { status: 502 },
            Fault::NotJson,
            Fault::TruncatedJson,
            Fault::CutBeforeAnswer,
            Fault::CutMidBody,
            Fault::Hang { duration },
            Fault::ExtraDelay { duration },
            Fault::HeldRequest { duration },
            Fault::OversizedBody { bytes: 1 },
            Fault::NoList { list: NoList::Null },
            Fault::MissingEntries,
            Fault::MissingCounts,
            Fault::EntryCode { code: 10004 },
            Fault::RepeatedEntries { conflicting: true },
            Fault::UnaskedEntries,
            Fault::OutOfRange { number: BadNumber::Huge },
            Fault::Written { form: NumberForm::Text, numbers: Numbers::All },
            Fault::ReorderedEntries,
            Fault::FailWithoutCode,
            Fault::ExtraFields,
        ] {
            let written = serde_json::to_value(&fault).unwrap();
            assert_eq!(written["kind"], fault.kind());
            assert_eq!(serde_json::from_value::<Fault>(written).unwrap(), fault);
        }
    }
}
