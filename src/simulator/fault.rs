//! Faults on demand: what can go wrong with a call. [`rule`] says in which calls and how often; the server and the answer
//! do the damage.

pub(super) mod json;
mod rule;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub(super) use self::rule::FaultRules;
pub use self::rule::{FaultRule, When};

/// What goes wrong with a call. The faults that touch single entries of the answer (missing, repeated, out of range,
/// a code, without counts, written differently) hit the message of a [`When::Message`] rule, else the first entry and
/// every second one after it; the other entries stay good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// `ActionStatus` FAIL with this `ErrorCode`.
    ErrorCode {
        /// Any code.
        code: i32,
    },
    /// This HTTP status with a body of HTML, as a proxy gives it.
    HttpStatus {
        /// 200 to 999; what cannot end a request becomes 502.
        status: u16,
    },
    /// HTTP 200 with a body that is not JSON.
    NotJson,
    /// The first half of a good answer, with a `Content-Length` that fits the half.
    TruncatedJson,
    /// The connection is closed without a byte of answer.
    CutBeforeAnswer,
    /// The connection is closed in the middle of the body.
    CutMidBody,
    /// Nothing happens for so long, then the connection is closed.
    Hang {
        /// How long, such as `"30s"`.
        #[serde(with = "humantime_serde")]
        duration: Duration,
    },
    /// A good answer, so much later. Its counts are those of the moment when the call arrived, as always.
    ExtraDelay {
        /// How much later, such as `"500ms"`.
        #[serde(with = "humantime_serde")]
        duration: Duration,
    },
    /// The request is held up for so long before it is read: a good answer, with the counts of that later moment.
    HeldRequest {
        /// How long, such as `"2s"`.
        #[serde(with = "humantime_serde")]
        duration: Duration,
    },
    /// Valid JSON of at least this size.
    OversizedBody {
        /// Size of the body.
        bytes: usize,
    },
    /// Success without a list of receipts.
    NoList {
        /// What is in its place.
        list: NoList,
    },
    /// Entries are left out.
    MissingEntries,
    /// Entries have no counts, and `Code` 0 all the same.
    MissingCounts,
    /// Entries have this `Code` and no counts.
    EntryCode {
        /// Any code but 0.
        code: i32,
    },
    /// Entries come twice: equal, or with other counts the second time.
    RepeatedEntries {
        /// True: the two contradict each other, and neither counts as answered.
        conflicting: bool,
    },
    /// Two entries more, for messages that were not asked for.
    UnaskedEntries,
    /// The counts are no counts.
    OutOfRange {
        /// What stands in their place.
        number: BadNumber,
    },
    /// The numbers are right but written in an unusual way.
    Written {
        /// How they are written.
        form: NumberForm,
        /// Which of the entry's numbers are written so.
        numbers: Numbers,
    },
    /// The entries come in reverse order.
    ReorderedEntries,
    /// `ActionStatus` FAIL with `ErrorCode` 0, above a list that looks good.
    FailWithoutCode,
    /// A good answer with fields that nobody knows, at the top and in every entry.
    ExtraFields,
}

impl Fault {
    /// The name by which the ledger counts it, the same as `kind` in JSON.
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

    /// How much later than otherwise the counts are read, and the call ends, if at all.
    pub(super) fn wait_before_reading(&self) -> Option<Duration> {
        if let Self::HeldRequest { duration } = self { Some(*duration) } else { None }
    }

    /// How much later than otherwise the call ends, once the counts are read.
    pub(super) fn wait_before_answering(&self) -> Duration {
        match self {
            Self::Hang { duration } | Self::ExtraDelay { duration } => *duration,
            _ => Duration::ZERO,
        }
    }
}

/// What an out-of-range answer carries instead of a count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadNumber {
    /// -1.
    Negative,
    /// 2^31, the first number that is too large.
    TooLarge,
    /// 2^64 - 1.
    Huge,
    /// 2^31 - 1: within the range, but no group has so many members.
    Implausible,
    /// 0.5.
    Fraction,
    /// A string that is no number.
    Text,
    /// null.
    Null,
}

/// What an answer carries instead of a list of receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoList {
    /// The field is left out.
    Absent,
    /// null.
    Null,
    /// A list without entries.
    Empty,
}

/// An unusual way to write a whole number.
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
    /// `Code` and `MsgSeq` as well.
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
