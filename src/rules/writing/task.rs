//! The tasks of writing, and their outcomes.

use std::time::Instant;

use chrono::TimeDelta;

use crate::{
    domain::Timestamp,
    rules::slot::{NewSlot, SlotKey},
};

/// The result for a slot, after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// Its poll is stored, and it is due again at this time.
    Due(SlotKey, Timestamp),
    /// Events make it due at this time at the latest.
    Sooner(SlotKey, Timestamp),
    /// It is due again at this time and no sooner, whatever was requested before: the tables refuse it.
    PutOff(SlotKey, Timestamp),
    /// It no longer exists: its messages are closed or have moved.
    Gone(SlotKey),
    /// It was created.
    NewSlot(NewSlot),
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Task<'a, T> {
    /// Wait for a poll, until then if there is a time.
    Receive(Option<Instant>),
    /// Wait until then: a failed batch is repeated.
    Wait(Instant),
    /// Wait until then: other sessions hold locks on rows of this number of polls.
    WaitForOthers(Instant, usize),
    /// Write these polls in one transaction.
    Write(&'a [T]),
    /// Write as much of this poll as possible, and set aside the rest. If that includes its slot, the slot waits for
    /// this time.
    SetAside(&'a T, TimeDelta),
    /// Read the slots named by [`to_read`](super::to_read).
    Read(&'a [T]),
    /// Nothing more: everything is written, or can't be, for this reason.
    End(Option<Reason>),
}

/// Why results can't be written any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The shutdown deadline is over.
    Stopped,
    /// Another process has the lease.
    LeaseLost,
}

/// Why a task failed. Nothing was written, unless an answer was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Another process has the lease.
    LeaseLost,
    /// The tables refuse a row.
    Refused,
    /// A trigger refuses a row, with a code that asks for another attempt.
    RefusedForNow,
    /// It exceeded its deadline.
    TimedOut,
    /// The cause has been removed.
    Mended,
    /// Anything else.
    Other,
}
