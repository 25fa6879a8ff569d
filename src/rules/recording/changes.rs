//! The rows that a poll changes.

use chrono::TimeDelta;

use crate::{
    domain::{MsgSeq, Receipt, Timestamp},
    rules::{
        milestones::{self, Milestones},
        slot::SlotMessage,
    },
};

/// Maximum lateness of a poll without a gap; as in src/store/rollup/gaps.sql.
const IN_TIME: TimeDelta = TimeDelta::minutes(1);

/// Why polling of a message has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// All members have read it, and one more poll confirmed it.
    AllRead,
    /// It has no receipt.
    NoReceipt,
    /// It is older than the end of its cadence.
    Expired,
    /// The service refuses it.
    Rejected,
}

impl Closed {
    /// The value of `watched_messages.state`.
    pub fn state(self) -> &'static str {
        match self {
            Self::AllRead => "all_read",
            Self::NoReceipt => "no_receipt",
            Self::Expired => "expired",
            Self::Rejected => "rejected",
        }
    }
}

/// A slot created for messages whose calls fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The messages, in rising order.
    pub seqs: Vec<MsgSeq>,
    /// The time of their last answer.
    pub last_polled_at: Option<Timestamp>,
    /// Time until which their counts are known, unless they have their own.
    pub known_until: Option<Timestamp>,
    /// When it is due.
    pub next_poll_at: Timestamp,
    /// Number of failed polls in a row.
    pub failures: i32,
}

impl Part {
    /// The message at fault, if it has been found.
    pub fn alone(&self) -> Option<MsgSeq> {
        if let [seq] = self.seqs.as_slice() { Some(*seq) } else { None }
    }
}

/// The change of a watched message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageChange {
    /// The message.
    pub seq: MsgSeq,
    /// Its latest receipt, with the last known counts.
    pub receipt: Option<Receipt>,
    /// The time at which the answer with its receipt arrived in this poll, if any.
    pub polled_at: Option<Timestamp>,
    /// The time of its first receipt in this poll or these events, if any.
    pub first_at: Option<Timestamp>,
    /// Whether the receipt differs from the previous one.
    pub differs: bool,
    /// When the last attempt with its receipt was sent.
    pub known_until: Option<Timestamp>,
    /// Whether that is its own time, because it differs from its slot's or because it leaves the slot.
    pub known_apart: bool,
    /// Number of polls in a row that found no receipt or refused it.
    pub no_receipt_polls: i16,
    /// Time since which polls have refused it.
    pub refused_since: Option<Timestamp>,
    /// Why polling has stopped, if so.
    pub closed: Option<Closed>,
}

impl MessageChange {
    /// Whether all members have read it.
    pub(super) fn is_read(&self) -> bool {
        self.receipt.is_some_and(Receipt::all_read)
    }
}

/// A row of `receipt_snapshots`: the change happened after `prior_polled_at` and by `polled_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The message.
    pub seq: MsgSeq,
    /// The receipt.
    pub receipt: Receipt,
    /// When its answer arrived: later than all earlier times of this message, even if a clock was set back.
    pub polled_at: Timestamp,
    /// When the last attempt that saw the previous receipt was sent.
    pub prior_polled_at: Option<Timestamp>,
    /// The previous read count.
    pub prior_read_num: Option<u32>,
    /// The previous unread count.
    pub prior_unread_num: Option<u32>,
    /// Whether the change comes from an event rather than a poll.
    pub is_webhook: bool,
}

impl Snapshot {
    /// The results that it settles for its message, as it was known before, if the poll was `due` then.
    pub(super) fn settles(
        &self,
        message: &SlotMessage,
        due: Option<Timestamp>,
        is_redated: bool,
    ) -> Option<Milestones> {
        Milestones::of(&milestones::Change {
            sent_at: message.first_sent_at,
            before: message.receipt.and_then(|receipt| receipt.counts),
            since: message.changed_at,
            known_until: self.prior_polled_at,
            is_counted: message.receipt.is_some_and(|receipt| receipt.code == 0),
            carried_until: due.map(|due| due + IN_TIME),
            seen: self.receipt.counts,
            polled_at: self.polled_at,
            is_redated,
        })
    }
}

/// The polls that add rows to `receipt_snapshots`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepSnapshots {
    /// Only polls that saw a change.
    #[default]
    Changes,
    /// Every poll, with a row for every message.
    EveryPoll,
}
