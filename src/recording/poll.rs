//! The outcome of a poll, as whoever made its attempts tells it. It says what was seen, and never what follows from it.

use crate::{
    chat::{Attempt, Failure},
    domain::{MsgSeq, Receipt, Timestamp},
};

/// The outcome of polling one slot, over all its attempts.
#[derive(Debug, Clone)]
pub struct Poll {
    /// Every attempt, in order.
    pub attempts: Vec<Attempt>,
    /// What the answers told.
    pub receipts: Vec<Told>,
    /// Messages that the service refuses even alone, with the code and without counts.
    pub rejected: Vec<Told>,
    /// Messages whose calls failed though others of the slot were answered: those that were found alone each by itself, those
    /// among which there is one to blame together.
    pub failed: Vec<Vec<MsgSeq>>,
    /// What became of the calls of other slots.
    pub others: Others,
    /// How it ended.
    pub end: PollEnd,
}

impl Poll {
    /// A poll without attempts that ended so.
    pub fn ended(end: PollEnd) -> Self {
        let (attempts, receipts, rejected, failed) = (vec![], vec![], vec![], vec![]);
        Self { attempts, receipts, rejected, failed, others: Others::Unknown, end }
    }
}

/// What an attempt told of a message, and its two moments: what it saw held at some time between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The message.
    pub seq: MsgSeq,
    /// What was seen.
    pub receipt: Receipt,
    /// When the attempt was sent.
    pub sent_at: Timestamp,
    /// When its answer arrived.
    pub answered_at: Timestamp,
}

impl Told {
    /// What this attempt told of a message.
    pub fn by(attempt: &Attempt, seq: MsgSeq, receipt: Receipt) -> Self {
        Self { seq, receipt, sent_at: attempt.called_at, answered_at: attempt.ended_at }
    }
}

/// How many messages the service takes in a call, as far as that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownLimit {
    /// The most that a call was answered for.
    pub takes: usize,
    /// The fewest that were refused since there were too many.
    pub refuses: usize,
}

/// What became of the latest calls of the app for other slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// They are answered: a slot that fails is to blame itself.
    Answered,
    /// They fail too: the service or the way to it is to blame.
    Failing,
    /// There were none.
    Unknown,
}

impl Others {
    /// What became of them during a poll, from what was known when it began and when it ended: what fails while an outage
    /// begins or ends is part of that.
    pub fn until(self, end: Self) -> Self {
        if self == Self::Failing { self } else { end }
    }
}

/// How a poll ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PollEnd {
    /// Every message was asked for and the service answered.
    Complete,
    /// The attempts are used up; the rest goes back to the schedule.
    GivenUp,
    /// The service refuses the group.
    GroupFault(Failure),
    /// No more calls are made: the whole app was refused, or the daemon stops.
    Stopped,
}
