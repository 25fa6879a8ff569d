//! What a poll changes in its slot: which snapshots are kept, which messages are closed, and when the slot is due
//! again.
//!
//! Pure. In: a slot as it was read and the outcome of its poll. Out: what the store has to write in one transaction.
//! A message that an answer leaves out is not known from that answer.

mod due;
mod heard;
mod judge;
mod kept;
mod parts;
mod poll;

use std::time::Duration;

use chrono::TimeDelta;

pub(crate) use self::due::{RETRY_AT_MOST, pause};
use self::{
    due::{carried_until, due, due_by_cadence, failures},
    judge::Judge,
    parts::Parts,
};
pub use self::{
    heard::{Heard, ReadersTold},
    kept::{Anew, Contents, CountsMoved, Kept, Outcome},
    poll::{KnownLimit, Others, Poll, PollEnd, Told},
};
use crate::{
    domain::{Counts, MsgSeq, Receipt, Timestamp},
    rules::{
        cadence::{Following, Known, Next, Phase},
        database_clock::Moment,
        milestones::{self, Milestones},
        protocol::{
            Attempt,
            error_class::{Code, remedy},
        },
        slot::{GroupState, Slot, SlotKey, SlotMessage},
        webhooks::Tally,
    },
};

/// Number of polls in a row without a receipt after which a message is closed: the first may be early.
pub const NO_RECEIPT_POLLS: i16 = 3;

/// Maximum lateness of a poll without a gap; as in src/store/rollup/gaps.sql.
const IN_TIME: TimeDelta = TimeDelta::minutes(1);

/// Delay until a quarantined group is probed.
const PROBE_GROUP_AFTER: TimeDelta = TimeDelta::hours(6);

/// The same for a group that no longer exists.
const PROBE_GONE_AFTER: TimeDelta = TimeDelta::hours(24);

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
    /// The milestones that messages have reached, and what else their changes settle.
    pub milestones: Vec<(MsgSeq, Milestones)>,
    /// The attempts.
    pub attempts: Vec<Attempt>,
    /// The group enters or leaves quarantine.
    pub group: Option<GroupChange>,
    /// Messages that move to their own slots, since calls for them fail and those for the others don't.
    pub parts: Vec<Part>,
    /// No active message is left.
    pub is_empty: bool,
}

/// A slot created for messages whose calls fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The messages, in rising order.
    pub seqs: Vec<MsgSeq>,
    /// When they were last answered.
    pub last_polled_at: Option<Timestamp>,
    /// Until when they are known, unless they have their own time.
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
    /// When the answer of this poll with its receipt arrived, if any.
    pub polled_at: Option<Timestamp>,
    /// Whether the receipt differs from the previous one.
    pub differs: bool,
    /// When the last attempt with its receipt was sent.
    pub known_until: Option<Timestamp>,
    /// Whether that is its own time, because it differs from its slot's or because it leaves the slot.
    pub known_apart: bool,
    /// Number of polls in a row that found no receipt, or refused it.
    pub no_receipt_polls: i16,
    /// Since when polls have refused it.
    pub refused_since: Option<Timestamp>,
    /// Why polling has stopped, if so.
    pub closed: Option<Closed>,
}

impl MessageChange {
    /// Whether all members have read it.
    fn is_read(&self) -> bool {
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
    /// Whether an event told it, and not a poll.
    pub is_webhook: bool,
}

/// The change of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupChange {
    /// It is refused and not polled until a probe succeeds or an operator resumes it.
    Quarantine {
        /// The error code.
        code: i64,
        /// The reason as text.
        reason: String,
        /// When it is probed; `None`: only after it is resumed.
        probe_at: Option<Timestamp>,
    },
    /// A probe succeeded.
    Release,
}

/// Which polls add rows to `receipt_snapshots`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepSnapshots {
    /// Only polls that saw a change.
    #[default]
    Changes,
    /// Every poll, with a row for every message.
    EveryPoll,
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
        mut slot: Slot,
        poll: Poll,
        cadence: impl Into<Following<'a>>,
        keep: KeepSnapshots,
        now: impl Into<Moment>,
    ) -> Self {
        let (following, moment @ Moment { time: now, is_doubted }) = (cadence.into(), now.into());
        let cadence = following.cadence;
        let (was_polled_at, was_known_until) = (slot.last_polled_at, slot.known_until);
        let dated_ahead = if is_doubted { vec![] } else { slot.forget_future(now) };
        let judge = Judge::of(&slot, &poll, cadence, moment);
        let polled_at = judge.told.iter().map(|told| told.answered_at).max();
        let failures = failures(&slot, &poll);
        if polled_at.is_none() {
            // A poll without receipts is not a common poll: the slots stay separate.
            slot.leave_absorbed();
        }
        let known_until = judge.told.iter().map(|told| told.sent_at).min().or(was_known_until);
        let (mut messages, mut snapshots, mut milestones) = (Vec::new(), Vec::new(), Vec::new());
        let mut parts = Parts::of(&slot, &poll, now);
        let (mut next_poll_at, mut is_empty): (Option<Timestamp>, bool) = (None, true);
        let mut every = cadence.expires_after();
        let phase = Phase::of_slot(slot.key.slot_id);
        let due_at = due_by_cadence(&slot, cadence, phase);
        let mut held = Vec::with_capacity(slot.messages.len());
        for message in &slot.messages {
            if message.has_joined {
                is_empty = false;
                let last_polled_at = polled_at.or(was_polled_at).map(|polled_at| polled_at.min(now));
                let first = following.first_poll(last_polled_at, message.sent_at, now);
                // Messages that join a failing slot wait with it.
                next_poll_at = next_poll_at.into_iter().chain((failures == 0).then_some(first.due)).min();
                every = every.min(first.every);
                continue;
            }
            let told = judge.told_of(message.seq);
            let mut change = judge.change(message, told, known_until);
            let is_dated_ahead = dated_ahead.contains(&message.seq);
            let keeps = change.differs || is_dated_ahead || keep == KeepSnapshots::EveryPoll;
            let prior_counts = message.receipt.and_then(|receipt| receipt.counts);
            let snapshot = told.filter(|_| keeps).map(|told| Snapshot {
                seq: message.seq,
                receipt: told.receipt,
                polled_at: told.answered_at,
                prior_polled_at: message.known_before(told.sent_at),
                prior_read_num: prior_counts.map(Counts::read),
                prior_unread_num: prior_counts.map(Counts::unread),
                is_webhook: false,
            });
            if change.differs || is_dated_ahead {
                milestones.extend(snapshot.and_then(|snapshot| {
                    let due = carried_until(message, cadence, phase, due_at);
                    made_known(message, snapshot, due, is_dated_ahead)
                }));
            }
            snapshots.extend(snapshot);
            let leaves = change.closed.is_none() && parts.take(message, &mut change);
            if change.closed.is_none() && !leaves {
                is_empty = false;
                let due = match cadence.is_expired(message.sent_at, now) {
                    false => {
                        held.push(Known { until: change.known_until, is_read: change.is_read(), ..message.known() });
                        None
                    }
                    // It seems to be past its end.
                    true if is_doubted => Some(following.after(phase, message.sent_at, now)),
                    // A message past its end is polled for the last time.
                    true => judge.complete.then_some(now),
                };
                next_poll_at = next_poll_at.into_iter().chain(due).min();
            }
            let is_healed = is_dated_ahead && change.polled_at.is_some();
            if leaves || is_healed || judge.is_news(&change, message) {
                messages.push(change);
            }
        }
        let quiet = !messages.iter().any(|change| change.differs);
        let next = following.next(phase, now, held);
        let every = next.map_or(every, |next| every.min(next.every));
        let next_poll_at = next_poll_at.into_iter().chain(next.map(|next| next.due)).min();
        let last_polled_at = polled_at.or(was_polled_at);
        let next_poll_at = due(&poll, next_poll_at, failures, slot.next_poll_at, now);
        Self {
            next_poll_at,
            every,
            last_polled_at,
            known_until,
            quiet_polls: match polled_at {
                None => slot.quiet_polls,
                Some(_) if quiet => slot.quiet_polls.saturating_add(1),
                Some(_) => 0,
            },
            failures,
            messages,
            snapshots,
            milestones,
            group: group_change(&slot, &poll, now),
            parts: parts.filled(),
            is_empty,
            due_at,
            attempts: poll.attempts,
            slot: slot.key,
            absorbs: slot.absorbs.map(|absorbed| (absorbed.key, absorbed.version)),
        }
    }

    /// The same without its messages, and those as parts with one message each, for when the whole can't be stored.
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

    /// When the slot is due again, and why then.
    pub fn next(&self) -> Next {
        Next { due: self.next_poll_at, every: self.every }
    }

    /// Only the part about messages with a receipt in the poll.
    fn told(self) -> Self {
        self.only(|seq| self.messages.iter().any(|change| change.seq == seq && change.polled_at.is_some()))
    }
}

/// What a snapshot of the message settles, if the poll was `due` then.
fn made_known(
    message: &SlotMessage,
    snapshot: Snapshot,
    due: Option<Timestamp>,
    is_redated: bool,
) -> Option<(MsgSeq, Milestones)> {
    let change = milestones::Change {
        sent_at: message.first_sent_at,
        before: message.receipt.and_then(|receipt| receipt.counts),
        since: message.changed_at,
        known_until: snapshot.prior_polled_at,
        is_counted: message.receipt.is_some_and(|receipt| receipt.code == 0),
        carried_until: due.map(|due| due + IN_TIME),
        seen: snapshot.receipt.counts,
        polled_at: snapshot.polled_at,
        is_redated,
    };
    Milestones::of(&change).map(|made| (message.seq, made))
}

fn group_change(slot: &Slot, poll: &Poll, now: Timestamp) -> Option<GroupChange> {
    match &poll.end {
        PollEnd::GroupFault(failure) => {
            let code = failure.code.unwrap_or_default();
            let after =
                if Code::of(code).is_some_and(|known| known.is_final) { PROBE_GONE_AFTER } else { PROBE_GROUP_AFTER };
            let probe_at = Some(now + after);
            let remedy = remedy(code).unwrap_or("Tencent Chat refuses the group");
            Some(GroupChange::Quarantine { code, reason: format!("{remedy} ({})", failure.info), probe_at })
        }
        // Without an attempt the slot was empty, and nothing is known about the group.
        PollEnd::Complete if slot.group_state == GroupState::Quarantined && !poll.attempts.is_empty() => {
            Some(GroupChange::Release)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
