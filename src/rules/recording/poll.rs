//! The outcome of a poll, from its attempts: facts only, never their consequences.

use crate::{
    domain::{MsgSeq, Receipt, Timestamp},
    rules::protocol::{Attempt, Failure},
};

/// The outcome of polling one slot, over all its attempts.
#[derive(Debug, Clone)]
pub struct Poll {
    /// Every attempt, in order.
    pub attempts: Vec<Attempt>,
    /// The receipts in the answers.
    pub receipts: Vec<Told>,
    /// Messages that the service refuses even alone, with the code and without counts.
    pub rejected: Vec<Told>,
    /// Messages whose calls failed while others of the slot were answered: each one alone if it was found, otherwise
    /// together with those that it was asked for with.
    pub failed: Vec<Vec<MsgSeq>>,
    /// The outcomes of other slots' calls.
    pub others: Others,
    /// How it ended.
    pub end: PollEnd,
}

impl Poll {
    /// A poll without attempts that ended like this.
    pub fn ended(end: PollEnd) -> Self {
        let (attempts, receipts, rejected, failed) = (vec![], vec![], vec![], vec![]);
        Self { attempts, receipts, rejected, failed, others: Others::Unknown, end }
    }

    /// Whether it was stopped before its first attempt: there is nothing to record.
    pub fn has_no_result(&self) -> bool {
        self.attempts.is_empty() && self.end == PollEnd::Stopped
    }
}

/// A message's receipt in an attempt, and the two times between which it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The message.
    pub seq: MsgSeq,
    /// The receipt.
    pub receipt: Receipt,
    /// When the attempt was sent.
    pub sent_at: Timestamp,
    /// When its answer arrived.
    pub answered_at: Timestamp,
}

impl Told {
    /// A message's receipt in this attempt.
    pub fn by(attempt: &Attempt, seq: MsgSeq, receipt: Receipt) -> Self {
        Self { seq, receipt, sent_at: attempt.called_at, answered_at: attempt.ended_at }
    }
}

/// The known batch limit of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownLimit {
    /// Largest number of messages in an answered call.
    pub takes: usize,
    /// Smallest number of messages in a call that was refused for having too many.
    pub refuses: usize,
}

/// The outcomes of the app's latest calls for other slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// They are answered: a failing slot is itself at fault.
    Answered,
    /// They fail too: the service or the network is at fault.
    Failing,
    /// There were none.
    Unknown,
}

impl Others {
    /// The outcomes during a poll, from those known at its beginning and end: a failure while an outage begins or
    /// ends is part of that.
    pub fn until(self, end: Self) -> Self {
        if self == Self::Failing { self } else { end }
    }
}

/// How a poll ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PollEnd {
    /// Every message was asked for and the service answered.
    Complete,
    /// The attempts are used up; the rest returns to the schedule.
    GivenUp,
    /// The service refuses the group.
    GroupFault(Failure),
    /// No more calls are made: the whole app was refused, or the daemon stops.
    Stopped,
}
