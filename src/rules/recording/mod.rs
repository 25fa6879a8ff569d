//! The changes that a poll makes to its slot: which snapshots are kept, which messages are closed, and when the slot is
//! due again.
//!
//! Pure. In: a slot as it was read, and the outcome of its poll. Out: everything that the store has to write in one
//! transaction. A message that an answer leaves out is not known from that answer.

mod changes;
mod due;
mod heard;
mod judge;
mod kept;
mod messages;
mod outcome;
mod parts;
mod poll;
mod quarantine;

use std::{borrow::Cow, time::Duration};

pub(crate) use self::due::{RETRY_AT_MOST, pause};
pub use self::{
    changes::{Closed, KeepSnapshots, MessageChange, Part, Snapshot},
    heard::{Heard, ReadersTold},
    judge::NO_RECEIPT_POLLS,
    kept::{Anew, CountsMoved, Kept},
    outcome::{Contents, Outcome},
    poll::{KnownLimit, Others, Poll, PollEnd, Told},
    quarantine::GroupChange,
};
use self::{
    due::{due, due_by_cadence, failures},
    judge::Judge,
    messages::{Circumstances, Messages},
    quarantine::group_change,
};
use crate::{
    domain::{Counts, MsgSeq, Timestamp},
    rules::{
        cadence::{Following, Next, Phase},
        database_clock::Moment,
        milestones::Milestones,
        protocol::Attempt,
        slot::{Slot, SlotKey},
        webhooks::Tally,
    },
};

/// Everything to be written about one poll, in one transaction.
#[derive(Debug, Clone)]
pub struct Recording {
    /// The slot.
    pub slot: SlotKey,
    /// When the poll was due by the cadence since the previous poll, regardless of failures and delays.
    pub due_at: Timestamp,
    /// The slot whose messages move here and which is then deleted, with the version that was read.
    pub absorbs: Option<(SlotKey, i64)>,
    /// When the slot is due again.
    pub next_poll_at: Timestamp,
    /// The time between two polls by the cadence, without the stretch.
    pub every: Duration,
    /// When the last answer with a receipt arrived, of this poll or an earlier one.
    pub last_polled_at: Option<Timestamp>,
    /// When the first attempt of that poll with a receipt was sent. Messages with other times have their own.
    pub known_until: Option<Timestamp>,
    /// Number of polls in a row without a change.
    pub quiet_polls: i32,
    /// Number of failed polls in a row.
    pub failures: i32,
    /// The messages that change.
    pub messages: Vec<MessageChange>,
    /// The rows for `receipt_snapshots`.
    pub snapshots: Vec<Snapshot>,
    /// The milestones reached by messages, and everything else settled by their changes.
    pub milestones: Vec<(MsgSeq, Milestones)>,
    /// The attempts.
    pub attempts: Vec<Attempt>,
    /// The group enters or leaves quarantine.
    pub group: Option<GroupChange>,
    /// Messages that move to their own slots, since their calls fail while those for others don't.
    pub parts: Vec<Part>,
    /// Whether no active message is left.
    pub is_empty: bool,
}

impl Recording {
    /// Number of receipts that differ from the previous ones.
    pub fn changes(&self) -> usize {
        self.messages.iter().filter(|message| message.differs).count()
    }

    /// Number of read counts that have changed, by who found them.
    pub fn tally(&self) -> Tally {
        let is_change = |snapshot: &&Snapshot| {
            let read = snapshot.receipt.counts.map(Counts::read);
            snapshot.is_webhook || snapshot.prior_read_num.zip(read).is_some_and(|(prior, read)| prior != read)
        };
        let changes = self.snapshots.iter().filter(is_change);
        let (told, untold): (Vec<&Snapshot>, Vec<&Snapshot>) = changes.partition(|snapshot| snapshot.is_webhook);
        let count = |snapshots: Vec<&Snapshot>| u32::try_from(snapshots.len()).unwrap_or(u32::MAX);
        Tally { told: count(told), untold: count(untold) }
    }

    /// Decides what is written about `poll`, which asked for `slot`, at `now`.
    ///
    /// While the clock is in doubt, it closes nothing. Otherwise, times in the future were stored by a wrong clock:
    /// the first poll with a receipt for such a message keeps a snapshot with its true time, changed or not.
    pub fn of<'a>(
        slot: &Slot,
        poll: &Poll,
        cadence: impl Into<Following<'a>>,
        keep: KeepSnapshots,
        now: impl Into<Moment>,
    ) -> Self {
        let (following, moment) = (cadence.into(), now.into());
        let (mut was_polled_at, was_known_until) = (slot.last_polled_at, slot.known_until);
        // Nearly all slots are used as they are.
        let mut slot = Cow::Borrowed(slot);
        let dated_ahead = match !moment.is_doubted && slot.is_dated_ahead(moment.time) {
            true => slot.to_mut().forget_future(moment.time),
            false => vec![],
        };
        let judge = Judge::of(&slot, poll, following.cadence, moment);
        let polled_at = judge.told.iter().map(|told| told.answered_at).max();
        let failures = failures(&slot, poll);
        if let Some(absorbed) = slot.absorbs.as_ref().filter(|_| polled_at.is_none()) {
            // A poll without receipts is not a common poll: the slots stay separate.
            was_polled_at = absorbed.own_polled_at;
            slot.to_mut().leave_absorbed();
        }
        let phase = Phase::of_slot(slot.key.slot_id);
        let circumstances = Circumstances {
            following,
            keep,
            moment,
            phase,
            due_at: due_by_cadence(&slot, following.cadence, phase),
            last_polled_at: polled_at.or(was_polled_at),
            known_until: judge.told.iter().map(|told| told.sent_at).min().or(was_known_until),
            failures,
            dated_ahead,
        };
        Self::decided(&slot, poll, &circumstances, judge)
    }

    /// Decides, message by message.
    fn decided(slot: &Slot, poll: &Poll, circumstances: &Circumstances<'_>, judge: Judge<'_>) -> Self {
        let has_receipts = !judge.told.is_empty();
        let mut messages = Messages::of(circumstances, judge, slot, poll);
        slot.messages.iter().for_each(|message| messages.decide(message));
        let (by_cadence, every) = messages.next();
        let quiet = !messages.changes.iter().any(|change| change.differs);
        let Circumstances { moment, failures, .. } = *circumstances;
        Self {
            next_poll_at: due(poll, by_cadence, failures, slot.next_poll_at, moment.time),
            every,
            last_polled_at: circumstances.last_polled_at,
            known_until: circumstances.known_until,
            quiet_polls: match has_receipts {
                false => slot.quiet_polls,
                true if quiet => slot.quiet_polls.saturating_add(1),
                true => 0,
            },
            failures,
            messages: std::mem::take(&mut messages.changes),
            snapshots: std::mem::take(&mut messages.snapshots),
            milestones: std::mem::take(&mut messages.milestones),
            group: group_change(slot, poll, moment.time),
            is_empty: messages.is_empty,
            parts: messages.parts(),
            due_at: circumstances.due_at,
            attempts: poll.attempts.clone(),
            slot: slot.key,
            absorbs: slot.absorbs.as_ref().map(|absorbed| (absorbed.key, absorbed.version)),
        }
    }

    /// The recording without its messages, and those as parts with one message each, for when the whole can't be
    /// stored.
    pub fn apart(&self) -> (Self, Vec<(MsgSeq, Self)>) {
        let frame = Self { messages: vec![], snapshots: vec![], milestones: vec![], ..self.clone() };
        let mut seqs: Vec<MsgSeq> = self.messages.iter().map(|change| change.seq).collect();
        seqs.extend(self.snapshots.iter().map(|snapshot| snapshot.seq));
        seqs.sort_unstable();
        seqs.dedup();
        (frame, seqs.into_iter().map(|seq| (seq, self.only(|of| of == seq))).collect())
    }

    /// Only the part about these messages.
    pub fn only(&self, is_of: impl Fn(MsgSeq) -> bool) -> Self {
        Self {
            parts: vec![],
            group: None,
            messages: self.messages.iter().filter(|change| is_of(change.seq)).cloned().collect(),
            snapshots: self.snapshots.iter().filter(|snapshot| is_of(snapshot.seq)).copied().collect(),
            milestones: self.milestones.iter().filter(|(of, _)| is_of(*of)).copied().collect(),
            attempts: vec![],
            ..self.clone()
        }
    }

    /// When the slot is due again, and the reason.
    pub fn next(&self) -> Next {
        Next { due: self.next_poll_at, every: self.every }
    }

    /// Only the part about messages with a receipt in the poll.
    fn told(self) -> Self {
        self.only(|seq| self.messages.iter().any(|change| change.seq == seq && change.polled_at.is_some()))
    }
}

#[cfg(test)]
mod tests;
