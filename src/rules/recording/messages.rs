//! The messages of a polled slot, one by one: how each one changes, and when they are due together.

use std::time::Duration;

use super::{
    changes::{KeepSnapshots, MessageChange, Part, Snapshot},
    due::carried_until,
    judge::Judge,
    parts::Parts,
    poll::{Poll, Told},
};
use crate::{
    domain::{Counts, MsgSeq, Timestamp},
    rules::{
        cadence::{Following, Known, Next, Phase},
        database_clock::Moment,
        milestones::Milestones,
        slot::{Slot, SlotMessage},
    },
};

/// The circumstances of all messages of a slot.
pub(super) struct Circumstances<'a> {
    pub following: Following<'a>,
    pub keep: KeepSnapshots,
    pub moment: Moment,
    pub phase: Phase,
    /// When the slot was due by its cadence.
    pub due_at: Timestamp,
    /// When the last answer with a receipt arrived, of this poll or an earlier one.
    pub last_polled_at: Option<Timestamp>,
    /// The time at which the first attempt of that poll with a receipt was sent.
    pub known_until: Option<Timestamp>,
    /// Number of failed polls in a row.
    pub failures: i32,
    /// Messages with a time in the future, which a wrong clock has stored.
    pub dated_ahead: Vec<MsgSeq>,
}

/// The changes of the messages decided so far.
pub(super) struct Messages<'a> {
    circumstances: &'a Circumstances<'a>,
    judge: Judge<'a>,
    parts: Parts,
    pub changes: Vec<MessageChange>,
    pub snapshots: Vec<Snapshot>,
    pub milestones: Vec<(MsgSeq, Milestones)>,
    /// The messages that stay and are due by the cadence.
    held: Vec<Known>,
    /// The earliest due time of the other messages.
    first_due: Option<Timestamp>,
    every: Duration,
    /// Whether no active message is left.
    pub is_empty: bool,
}

impl<'a> Messages<'a> {
    pub fn of(circumstances: &'a Circumstances<'a>, judge: Judge<'a>, slot: &Slot, poll: &Poll) -> Self {
        Self {
            circumstances,
            judge,
            parts: Parts::of(slot, poll, circumstances.moment.time),
            changes: vec![],
            snapshots: vec![],
            milestones: vec![],
            held: Vec::with_capacity(slot.messages.len()),
            first_due: None,
            every: circumstances.following.cadence.expires_after(),
            is_empty: true,
        }
    }

    /// Decides about the next message.
    pub fn decide(&mut self, message: &SlotMessage) {
        if message.has_joined {
            return self.join(message);
        }
        let told = self.judge.told_of(message.seq);
        let mut change = self.judge.change(message, told, self.circumstances.known_until);
        let is_dated_ahead = self.circumstances.dated_ahead.contains(&message.seq);
        if let Some(told) = told {
            self.keep(message, told, change.differs, is_dated_ahead);
        }
        let leaves = change.closed.is_none() && self.parts.take(message, &mut change);
        if change.closed.is_none() && !leaves {
            self.stay(message, &change);
        }
        let is_healed = is_dated_ahead && change.polled_at.is_some();
        if leaves || is_healed || self.judge.is_news(&change, message) {
            self.changes.push(change);
        }
    }

    /// The message has joined during the poll, which did not ask for it.
    fn join(&mut self, message: &SlotMessage) {
        let Circumstances { following, moment: Moment { time: now, .. }, last_polled_at, failures, .. } =
            self.circumstances;
        let last_polled_at = last_polled_at.map(|polled_at| polled_at.min(*now));
        let first = following.first_poll(last_polled_at, message.sent_at, *now);
        self.is_empty = false;
        self.every = self.every.min(first.every);
        // Messages that join a failing slot wait with it.
        if *failures == 0 {
            self.is_due(first.due);
        }
    }

    /// Keeps the receipt in the history if it is news, with the results that it settles.
    fn keep(&mut self, message: &SlotMessage, told: Told, differs: bool, is_dated_ahead: bool) {
        let Circumstances { following, keep, phase, due_at, .. } = *self.circumstances;
        let is_news = differs || is_dated_ahead;
        if !is_news && keep != KeepSnapshots::EveryPoll {
            return;
        }
        let prior_counts = message.receipt.and_then(|receipt| receipt.counts);
        let snapshot = Snapshot {
            seq: message.seq,
            receipt: told.receipt,
            polled_at: told.answered_at,
            prior_polled_at: message.known_before(told.sent_at),
            prior_read_num: prior_counts.map(Counts::read),
            prior_unread_num: prior_counts.map(Counts::unread),
            is_webhook: false,
        };
        if is_news {
            let due = carried_until(message, following.cadence, phase, due_at);
            let settled = snapshot.settles(message, due, is_dated_ahead);
            self.milestones.extend(settled.map(|settled| (message.seq, settled)));
        }
        self.snapshots.push(snapshot);
    }

    /// The message stays in the slot.
    fn stay(&mut self, message: &SlotMessage, change: &MessageChange) {
        let Circumstances { following, moment: Moment { time: now, is_doubted }, phase, .. } = *self.circumstances;
        self.is_empty = false;
        if !following.cadence.is_expired(message.sent_at, now) {
            self.held.push(Known { until: change.known_until, is_read: change.is_read(), ..message.known() });
        } else if is_doubted {
            // The message seems to be past its end.
            self.is_due(following.after(phase, message.sent_at, now));
        } else if self.judge.complete {
            // A message past its end is polled for the last time.
            self.is_due(now);
        }
    }

    fn is_due(&mut self, at: Timestamp) {
        self.first_due = self.first_due.into_iter().chain([at]).min();
    }

    /// When the slot is due by its cadence, if at all, and the time between two polls.
    pub fn next(&mut self) -> (Option<Timestamp>, Duration) {
        let Circumstances { following, moment, phase, .. } = self.circumstances;
        let next = following.next(*phase, moment.time, std::mem::take(&mut self.held));
        let due = self.first_due.into_iter().chain(next.map(|next: Next| next.due)).min();
        (due, next.map_or(self.every, |next| self.every.min(next.every)))
    }

    /// The slots created for messages that leave.
    pub fn parts(self) -> Vec<Part> {
        self.parts.filled()
    }
}
