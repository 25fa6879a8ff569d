//! Which messages of a followed group are watched.

use chrono::TimeDelta;

use crate::{
    domain::Timestamp,
    rules::protocol::others::{HistoryMessage, MessageKind},
};

/// Maximum time by which a message may be dated ahead, since clocks differ.
const AHEAD: TimeDelta = TimeDelta::hours(1);

/// Which messages are watched, by their time of sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// How long before the beginning of discovery a message may have been sent; zero for new ones only.
    pub since: TimeDelta,
    /// Messages sent before this time are not watched.
    pub not_before: Option<Timestamp>,
}

/// Why a message is not watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Passed {
    /// A notice of the service.
    System,
    /// Recalled.
    Recalled,
    /// Deleted, expired, or without a time.
    Gone,
    /// Sent without a receipt.
    WithoutReceipt,
    /// Sent before the earliest time that discovery covers.
    TooOld,
    /// The group or the app has reached its maximum number of discovered messages.
    Bound,
    /// Its owner has stopped watching the group.
    Removed,
    /// The database refuses its row, for example because of an owner's trigger.
    Refused,
}

impl Passed {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::System,
        Self::Recalled,
        Self::Gone,
        Self::WithoutReceipt,
        Self::TooOld,
        Self::Bound,
        Self::Removed,
        Self::Refused,
    ];

    /// The name in `discovered_groups.passed_reasons` and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Recalled => "recalled",
            Self::Gone => "gone",
            Self::WithoutReceipt => "without_receipt",
            Self::TooOld => "too_old",
            Self::Bound => "bound",
            Self::Removed => "removed",
            Self::Refused => "refused",
        }
    }

    /// The reason in words, by its name.
    pub fn in_words(name: &str) -> Option<&'static str> {
        Some(match Self::ALL.into_iter().find(|passed| passed.name() == name)? {
            Self::System => "it is a notice of Tencent Chat",
            Self::Recalled => "it was recalled",
            Self::Gone => "it was deleted or has expired",
            Self::WithoutReceipt => "it was sent without a receipt",
            Self::TooOld => "it was sent before discovery begins",
            Self::Bound => "discovery.messages or discovery.messages_per_group was reached",
            Self::Removed => "its group had been removed from the watch list",
            Self::Refused => "the database refused its row, possibly by a trigger or a constraint",
        })
    }
}

impl Wanted {
    /// The earliest time of sending, if discovery began at `began`.
    pub fn from(self, began: Timestamp) -> Timestamp {
        let since = began - self.since;
        self.not_before.map_or(since, |not_before| not_before.max(since))
    }

    /// The time of sending, if the message is watched; otherwise the reason.
    ///
    /// # Errors
    /// If it is not watched.
    pub fn judge(self, message: &HistoryMessage, began: Timestamp, now: Timestamp) -> Result<Timestamp, Passed> {
        // The service's times are in whole seconds.
        let is_old = |sent_at| sent_at + TimeDelta::seconds(1) <= self.from(began);
        if message.sent_at.is_some_and(is_old) {
            return Err(Passed::TooOld);
        }
        match message.kind {
            MessageKind::System => return Err(Passed::System),
            MessageKind::Recalled => return Err(Passed::Recalled),
            MessageKind::Gone => return Err(Passed::Gone),
            MessageKind::WithoutReceipt => return Err(Passed::WithoutReceipt),
            MessageKind::Ordinary => {}
        }
        message.sent_at.filter(|sent_at| *sent_at <= now + AHEAD).map(|sent_at| sent_at.min(now)).ok_or(Passed::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::MsgSeq;

    fn noon() -> Timestamp {
        "2026-11-26T12:00:00.5Z".parse().unwrap()
    }

    fn message(kind: MessageKind, seconds: i64) -> HistoryMessage {
        let sent_at = Timestamp::from_timestamp(noon().timestamp() + seconds, 0);
        HistoryMessage { seq: MsgSeq::try_from(1).unwrap(), sent_at, kind }
    }

    fn judge(wanted: Wanted, message: HistoryMessage) -> Result<i64, Passed> {
        wanted.judge(&message, noon(), noon() + TimeDelta::hours(2)).map(|sent_at| (sent_at - noon()).num_seconds())
    }

    #[test]
    fn only_ordinary_messages_since_the_beginning_are_watched() {
        let new = Wanted { since: TimeDelta::zero(), not_before: None };
        for (seconds, expected) in [(0, Ok(0)), (-1, Err(Passed::TooOld)), (60, Ok(59)), (3_600 * 4, Err(Passed::Gone))]
        {
            assert_eq!(judge(new, message(MessageKind::Ordinary, seconds)), expected, "{seconds}");
        }
        for (kind, passed) in [
            (MessageKind::System, Passed::System),
            (MessageKind::Recalled, Passed::Recalled),
            (MessageKind::Gone, Passed::Gone),
            (MessageKind::WithoutReceipt, Passed::WithoutReceipt),
        ] {
            assert_eq!(judge(new, message(kind, 60)), Err(passed));
        }
        let undated = HistoryMessage { sent_at: None, ..message(MessageKind::Ordinary, 0) };
        assert_eq!(judge(new, undated), Err(Passed::Gone));
    }

    #[test]
    fn older_messages_are_watched_back_to_since_and_not_before() {
        let since = Wanted { since: TimeDelta::hours(1), not_before: None };
        let bounded = Wanted { not_before: Some(noon() - TimeDelta::minutes(30)), ..since };
        for (wanted, seconds, is_watched) in
            [(since, -3_600, true), (since, -3_602, false), (bounded, -1_800, true), (bounded, -1_802, false)]
        {
            assert_eq!(judge(wanted, message(MessageKind::Ordinary, seconds)).is_ok(), is_watched, "{seconds}");
        }
        let later = Wanted { not_before: Some(noon() + TimeDelta::minutes(30)), ..since };
        assert_eq!(judge(later, message(MessageKind::Ordinary, 1_700)), Err(Passed::TooOld));
    }

    #[test]
    fn every_reason_has_a_name_and_words() {
        for passed in Passed::ALL {
            assert!(Passed::in_words(passed.name()).is_some(), "{passed:?}");
        }
        assert_eq!(Passed::in_words("x"), None);
    }
}
