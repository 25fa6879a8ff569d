//! What a poll makes of its slot: which snapshots are kept, which messages are done, and when the slot is due again.
//!
//! Pure: in go a slot as it was read and the outcome of its poll, out comes what the store has to write in one
//! transaction. A message that an answer leaves out is not known by that answer.

use chrono::TimeDelta;

use crate::{
    cadence::{Cadence, Phase},
    chat::{Attempt, Failure},
    clock::Moment,
    domain::{Counts, MsgSeq, Receipt, Timestamp},
    slot::{GroupState, Slot, SlotKey, SlotMessage},
};

/// So many polls in a row must say that a message has no receipt before it is closed: the first may be early.
pub const NO_RECEIPT_POLLS: i16 = 3;

/// A quarantined group is tried again after this time.
const PROBE_GROUP_AFTER: TimeDelta = TimeDelta::hours(6);

/// The same for a group that is gone (10010, 10015).
const PROBE_GONE_AFTER: TimeDelta = TimeDelta::hours(24);

/// After a failed poll the slot is tried again after this time, doubled for each failure in a row, …
const RETRY_AFTER: TimeDelta = TimeDelta::seconds(10);

/// … up to this time, and no later than its cadence says.
pub(crate) const RETRY_AT_MOST: TimeDelta = TimeDelta::minutes(5);

/// From this many failed polls in a row on, the slot is to blame if others are answered: the time is doubled whatever the cadence
/// says, …
const TO_BLAME_FROM: i32 = 3;

/// … up to this time.
const RETRY_TO_BLAME_AT_MOST: TimeDelta = TimeDelta::hours(6);

/// A message that is refused alone by [`NO_RECEIPT_POLLS`] polls is closed if that goes on for this long: what is wrong for
/// a minute closes nothing.
const REFUSED_FOR: TimeDelta = TimeDelta::minutes(5);

/// The same (some five minutes) for giving up messages of which nothing is known, if nothing is known of others either.
const GIVEN_UP_FROM: i32 = 6;

/// A message whose polls fail is expired this long after the end of its cadence.
const EXPIRED_UNSEEN_AFTER: TimeDelta = TimeDelta::days(1);

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

/// Why a message is polled no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Everybody has read it, and one more poll confirmed it.
    AllRead,
    /// It has no receipt.
    NoReceipt,
    /// It is older than its cadence.
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

/// Everything that is to be written about one poll, in one transaction.
#[derive(Debug, Clone)]
pub struct Recording {
    /// The slot as it was read.
    pub slot: SlotKey,
    /// How many times messages had joined it.
    pub joins: i32,
    /// When the poll was due: by the cadence since the poll before, whatever failed or was held up meanwhile.
    pub due_at: Timestamp,
    /// The slot whose messages move here and which then goes, with its `joins`.
    pub absorbs: Option<(SlotKey, i32)>,
    /// When the slot is due again.
    pub next_poll_at: Timestamp,
    /// When it is due at the latest if messages joined while the poll was under way.
    pub join_due: Timestamp,
    /// When the last answer arrived that told anything, of this poll or of one before.
    pub last_polled_at: Option<Timestamp>,
    /// When the first attempt of that poll was sent that told anything. Messages that are known otherwise say so themselves.
    pub known_until: Option<Timestamp>,
    /// How many polls in a row saw no change.
    pub quiet_polls: i32,
    /// How many polls in a row failed.
    pub failures: i32,
    /// The messages of which something changes.
    pub messages: Vec<MessageChange>,
    /// The rows for the time series.
    pub snapshots: Vec<Snapshot>,
    /// The attempts.
    pub attempts: Vec<Attempt>,
    /// The group enters or leaves quarantine.
    pub group: Option<GroupChange>,
    /// Messages that leave the slot for slots of their own, since their calls fail and those of the others don't.
    pub parts: Vec<Part>,
    /// No active message is left.
    pub is_empty: bool,
}

/// A slot that is made for messages whose calls fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The messages, by rising seq.
    pub seqs: Vec<MsgSeq>,
    /// When they were last answered for.
    pub last_polled_at: Option<Timestamp>,
    /// Until when they are known, as far as they don't say so themselves.
    pub known_until: Option<Timestamp>,
    /// When it is due.
    pub next_poll_at: Timestamp,
    /// How many polls in a row have failed.
    pub failures: i32,
}

impl Part {
    /// The message that is to blame, if it has been found.
    pub fn alone(&self) -> Option<MsgSeq> {
        if let [seq] = self.seqs.as_slice() { Some(*seq) } else { None }
    }
}

/// What becomes of a watched message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageChange {
    /// The message.
    pub seq: MsgSeq,
    /// Its latest receipt, with the counts that were known last.
    pub receipt: Option<Receipt>,
    /// When the answer of this poll arrived that told something of it, if one did.
    pub polled_at: Option<Timestamp>,
    /// Whether the receipt differs from the one before.
    pub differs: bool,
    /// When the attempt was sent that last told something.
    pub known_until: Option<Timestamp>,
    /// Whether it has to say that itself, since its slot tells another time or it leaves that.
    pub known_apart: bool,
    /// How many polls in a row said that it has no receipt, or refused it.
    pub no_receipt_polls: i16,
    /// Since when polls have refused it.
    pub refused_since: Option<Timestamp>,
    /// Why it is polled no more, if so.
    pub closed: Option<Closed>,
}

/// A row of `receipt_snapshots`: the change happened after `prior_polled_at` and by `polled_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The message.
    pub seq: MsgSeq,
    /// What was seen.
    pub receipt: Receipt,
    /// When the answer arrived that told it: later than all times of this message before, whatever the clock did.
    pub polled_at: Timestamp,
    /// When the attempt was sent that had last told something of this message before.
    pub prior_polled_at: Option<Timestamp>,
    /// The read count that was known then.
    pub prior_read_num: Option<u32>,
}

/// What becomes of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupChange {
    /// It is refused and not polled until a probe succeeds or an operator resumes it.
    Quarantine {
        /// The error code.
        code: i64,
        /// Why, in words.
        reason: String,
        /// When it is tried again; `None`: only when it is resumed.
        probe_at: Option<Timestamp>,
    },
    /// A probe succeeded.
    Release,
}

/// What is kept of a poll that saw the same receipts as the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KeepSnapshots {
    /// Nothing but the time of the poll.
    #[default]
    Changes,
    /// A row for every message.
    EveryPoll,
}

impl Recording {
    /// How many receipts differ from those before.
    pub fn changes(&self) -> usize {
        self.messages.iter().filter(|message| message.differs).count()
    }

    /// Decides what is written about `poll`, which asked for `slot`, at `now`.
    ///
    /// Where the clock is in doubt nothing is closed by it. Where it is not, times in the future were stored by a wrong one: the
    /// first poll that tells of such a message keeps a snapshot with its true time, changed or not.
    pub fn of(mut slot: Slot, poll: Poll, cadence: &Cadence, keep: KeepSnapshots, now: impl Into<Moment>) -> Self {
        let moment @ Moment { time: now, is_doubted } = now.into();
        let (was_polled_at, was_known_until) = (slot.last_polled_at, slot.known_until);
        let dated_ahead = if is_doubted { vec![] } else { slot.forget_future(now) };
        let judge = Judge::of(&slot, &poll, cadence, moment);
        let polled_at = judge.told.iter().map(|told| told.answered_at).max();
        let known_until = judge.told.iter().map(|told| told.sent_at).min().or(was_known_until);
        let (mut messages, mut snapshots) = (Vec::new(), Vec::new());
        let mut parts = Parts::of(&slot, &poll, now);
        let (mut next_poll_at, mut is_empty): (Option<Timestamp>, bool) = (None, true);
        let phase = Phase::of_slot(slot.key.slot_id);
        for message in &slot.messages {
            let told = judge.told_of(message.seq);
            let mut change = judge.change(message, told, known_until);
            let is_dated_ahead = dated_ahead.contains(&message.seq);
            let keeps = change.differs || is_dated_ahead || keep == KeepSnapshots::EveryPoll;
            snapshots.extend(told.filter(|_| keeps).map(|told| Snapshot {
                seq: message.seq,
                receipt: told.receipt,
                polled_at: told.answered_at,
                prior_polled_at: message.known_until,
                prior_read_num: message.receipt.and_then(|receipt| receipt.counts).map(Counts::read),
            }));
            let leaves = change.closed.is_none() && parts.take(message, &mut change);
            if change.closed.is_none() && !leaves {
                is_empty = false;
                let due = cadence.next_poll(phase, message.sent_at, now).or_else(|| match is_doubted {
                    // It seems to be past its end.
                    true => Some(cadence.due_again(phase, message.sent_at, Some(now), None, now)),
                    // One that is past its end is polled for the last time, and then no more.
                    false => judge.complete.then_some(now),
                });
                next_poll_at = next_poll_at.into_iter().chain(due).min();
            }
            let is_healed = is_dated_ahead && change.polled_at.is_some();
            if leaves || is_healed || judge.is_news(&change, message) {
                messages.push(change);
            }
        }
        let quiet = !messages.iter().any(|change| change.differs);
        let failures = failures(&slot, &poll);
        let due_at = due_by_cadence(&slot, cadence, phase);
        let last_polled_at = polled_at.or(was_polled_at);
        let next_poll_at = due(&poll, next_poll_at, failures, slot.next_poll_at, now);
        let first_poll = cadence.first_poll(last_polled_at.map(|polled_at| polled_at.min(now)), now, now);
        Self {
            next_poll_at,
            // Messages that join a slot that fails wait with it.
            join_due: if failures == 0 { first_poll } else { next_poll_at },
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
            group: group_change(&slot, &poll, now),
            parts: parts.filled(),
            is_empty,
            due_at,
            attempts: poll.attempts,
            slot: slot.key,
            joins: slot.joins,
            // A poll that told nothing is no common poll: the slots stay apart.
            absorbs: slot.absorbs.filter(|_| polled_at.is_some()),
        }
    }
}

impl Recording {
    /// The same without what it says of messages, and that in parts of one message each: for when the whole can't be
    /// stored.
    pub fn apart(&self) -> (Self, Vec<Self>) {
        let frame = Self { messages: vec![], snapshots: vec![], ..self.clone() };
        let mut seqs: Vec<MsgSeq> = self.messages.iter().map(|change| change.seq).collect();
        seqs.extend(self.snapshots.iter().map(|snapshot| snapshot.seq));
        seqs.sort_unstable();
        seqs.dedup();
        let of = |seq: MsgSeq| Self {
            parts: vec![],
            messages: self.messages.iter().filter(|change| change.seq == seq).cloned().collect(),
            snapshots: self.snapshots.iter().filter(|snapshot| snapshot.seq == seq).copied().collect(),
            attempts: vec![],
            ..frame.clone()
        };
        let parts = seqs.into_iter().map(of).collect();
        (frame, parts)
    }
}

/// Sorts out messages whose calls fail though others of their slot are answered.
struct Parts {
    known_until: Option<Timestamp>,
    parts: Vec<(Vec<MsgSeq>, Part)>,
}

impl Parts {
    fn of(slot: &Slot, poll: &Poll, now: Timestamp) -> Self {
        let is_answered = poll.end == PollEnd::Complete && !poll.attempts.is_empty();
        let refused = poll.rejected.iter().filter(|_| is_answered).map(|told| vec![told.seq]);
        let (last_polled_at, known_until) = (slot.last_polled_at, slot.known_until);
        let part = |seqs: Vec<MsgSeq>| {
            let failures = slot.failures.saturating_add(1).max(TO_BLAME_FROM);
            // Most of several are not to blame, and the next poll tells which: each finds less left to look for, or fails.
            let (failures, wait) = match seqs.len() {
                1 => (failures, wait_of_one_to_blame(failures)),
                _ => (TO_BLAME_FROM - 1, TimeDelta::zero()),
            };
            (seqs, Part { seqs: vec![], last_polled_at, known_until, next_poll_at: now + wait, failures })
        };
        Self { known_until, parts: poll.failed.iter().cloned().chain(refused).map(part).collect() }
    }

    /// Takes the message out of its slot if it is to leave that.
    fn take(&mut self, message: &SlotMessage, change: &mut MessageChange) -> bool {
        let Some((_, part)) = self.parts.iter_mut().find(|(seqs, _)| seqs.contains(&message.seq)) else { return false };
        part.seqs.push(message.seq);
        // As long as it is known as its new slot has it, that tells.
        change.known_apart = message.known_until.is_some() && message.known_until != self.known_until;
        true
    }

    fn filled(self) -> Vec<Part> {
        self.parts.into_iter().map(|(_, part)| part).filter(|part| !part.seqs.is_empty()).collect()
    }
}

/// Judges the messages of one poll.
struct Judge<'a> {
    cadence: &'a Cadence,
    now: Timestamp,
    /// Whether nothing is closed by the time.
    is_doubted: bool,
    /// What the poll told, by rising seq, each later than all that its message has seen. A refusal that closes its message
    /// counts as a receipt with its code.
    told: Vec<Told>,
    /// The messages that were refused and can't be blamed on others, with since when, and how many polls that are.
    refused: Vec<(MsgSeq, Timestamp, i16)>,
    /// Those that are closed for it.
    rejected: Vec<MsgSeq>,
    /// The messages whose calls failed.
    failed: Vec<MsgSeq>,
    complete: bool,
    /// The slot has failed often enough to give up messages of which nothing is known.
    gives_up: bool,
}

impl<'a> Judge<'a> {
    fn of(slot: &Slot, poll: &Poll, cadence: &'a Cadence, now: Moment) -> Self {
        let Moment { time: now, is_doubted } = now;
        let complete = poll.end == PollEnd::Complete;
        // Where all messages of a slot are refused, it is their group that is refused, or the app.
        let counts = complete || slot.messages.len() == 1;
        let mut judge = Self {
            cadence,
            now,
            is_doubted,
            told: poll.receipts.clone(),
            refused: vec![],
            rejected: vec![],
            failed: poll.failed.iter().flatten().copied().collect(),
            complete,
            gives_up: failures(slot, poll)
                >= if poll.others == Others::Answered { TO_BLAME_FROM } else { GIVEN_UP_FROM },
        };
        for told in poll.rejected.iter().filter(|_| counts) {
            let Some(message) = slot.messages.iter().find(|message| message.seq == told.seq) else { continue };
            let since = message.refused_since.unwrap_or(now).min(now);
            let polls = message.refused_since.map_or(0, |_| message.no_receipt_polls).saturating_add(1);
            judge.refused.push((told.seq, since, polls));
            if polls >= NO_RECEIPT_POLLS && now - since >= REFUSED_FOR && !is_doubted {
                judge.rejected.push(told.seq);
                judge.told.push(*told);
            }
        }
        judge.told.sort_unstable_by_key(|told| told.seq);
        for message in &slot.messages {
            let seen = slot.last_polled_at.max(message.known_until).map(|seen| seen + TimeDelta::microseconds(1));
            let told = judge.told.binary_search_by_key(&message.seq, |told| told.seq);
            if let Some((told, seen)) = told.ok().map(|at| &mut judge.told[at]).zip(seen) {
                told.answered_at = told.answered_at.max(seen);
            }
        }
        judge
    }

    fn told_of(&self, seq: MsgSeq) -> Option<Told> {
        self.told.binary_search_by_key(&seq, |told| told.seq).ok().map(|at| self.told[at])
    }

    /// What becomes of a message, in a slot that is known until `slot_known_until` by now.
    fn change(&self, message: &SlotMessage, told: Option<Told>, slot_known_until: Option<Timestamp>) -> MessageChange {
        let receipt = told.map(|told| told.receipt.after(message.receipt));
        let differs = receipt.is_some() && receipt != message.receipt;
        let refused = self.refused.iter().find(|(seq, ..)| *seq == message.seq);
        let (no_receipt_polls, mut refused_since) = match (refused, receipt) {
            (Some((_, since, polls)), _) => (*polls, Some(*since)),
            (None, Some(Receipt { code: 10061 | 10062, .. })) => {
                (message.refused_since.map_or(message.no_receipt_polls, |_| 0).saturating_add(1), None)
            }
            (None, Some(_)) => (0, None),
            (None, None) => (message.no_receipt_polls, message.refused_since),
        };
        let closed = if self.rejected.contains(&message.seq) {
            Some(Closed::Rejected)
        } else if refused.is_none() && no_receipt_polls >= NO_RECEIPT_POLLS && receipt.is_some() {
            Some(Closed::NoReceipt)
        } else if receipt.is_some_and(Receipt::all_read) && !differs && self.cadence.stop_when_all_read() {
            Some(Closed::AllRead)
        } else if self.expires(message) {
            Some(Closed::Expired)
        } else {
            None
        };
        if closed.is_some() {
            refused_since = None;
        }
        let known_until = told.map(|told| told.sent_at).or(message.known_until);
        MessageChange {
            seq: message.seq,
            receipt: receipt.or(message.receipt),
            polled_at: told.map(|told| told.answered_at),
            differs,
            known_until,
            known_apart: known_until.is_some() && (closed.is_some() || known_until != slot_known_until),
            no_receipt_polls,
            refused_since,
            closed,
        }
    }

    /// A message past the end of its cadence is polled once more. If that fails, it is given a day; one of which nothing is
    /// known at all is given some more tries.
    fn expires(&self, message: &SlotMessage) -> bool {
        if self.is_doubted {
            return false;
        }
        let has_failed = !self.complete
            || self.failed.contains(&message.seq)
            || self.refused.iter().any(|(seq, ..)| *seq == message.seq);
        if !has_failed {
            return self.cadence.is_expired(message.sent_at, self.now);
        }
        let is_known = message.known_until.is_some();
        (is_known || self.gives_up) && self.cadence.is_expired(message.sent_at, self.now - EXPIRED_UNSEEN_AFTER)
    }

    /// Whether the row of the message has to be written: most polls change nothing about most messages.
    fn is_news(&self, change: &MessageChange, message: &SlotMessage) -> bool {
        let says = |until: Option<Timestamp>, apart: bool| until.filter(|_| apart);
        let known_otherwise = !self.told.is_empty()
            && says(change.known_until, change.known_apart) != says(message.known_until, message.known_apart);
        let counts_polls =
            change.no_receipt_polls != message.no_receipt_polls || change.refused_since != message.refused_since;
        change.differs || change.closed.is_some() || known_otherwise || counts_polls
    }
}

/// When the slot was due after its last poll. What moved the schedule since, a failure or an owner's pause, counts for
/// nothing: the messages were to be observed then. Those that joined since were not there yet.
fn due_by_cadence(slot: &Slot, cadence: &Cadence, phase: Phase) -> Timestamp {
    let was_there = |message: &&SlotMessage| {
        message.known_until.is_some() && (!message.known_apart || message.known_until >= slot.known_until)
    };
    let due = |last| {
        let there = slot.messages.iter().filter(was_there);
        there.filter_map(|message| cadence.next_poll(phase, message.sent_at, last)).min()
    };
    slot.last_polled_at.and_then(due).unwrap_or(slot.next_poll_at)
}

/// How many polls in a row have failed. A poll that fails while others fail too counts for no more than the first, which is
/// enough for the pause: nobody is to blame for an outage, however long it is.
fn failures(slot: &Slot, poll: &Poll) -> i32 {
    match poll.end {
        PollEnd::Complete => 0,
        PollEnd::GivenUp if poll.others == Others::Failing => slot.failures.max(1),
        PollEnd::GivenUp => slot.failures.saturating_add(1),
        PollEnd::GroupFault(_) | PollEnd::Stopped => slot.failures,
    }
}

/// The pause after so many failures in a row.
pub(crate) fn pause(failures: i32) -> TimeDelta {
    doubled(failures - 1).min(RETRY_AT_MOST)
}

/// When a slot is due again after `poll`, if its messages are due by their cadence then; `None` if all are past their end.
fn due(poll: &Poll, by_cadence: Option<Timestamp>, failures: i32, was_due: Timestamp, now: Timestamp) -> Timestamp {
    match poll.end {
        PollEnd::Complete => by_cadence.unwrap_or(now),
        PollEnd::GivenUp if failures >= TO_BLAME_FROM && poll.others == Others::Answered => {
            now + wait_of_one_to_blame(failures)
        }
        PollEnd::GivenUp => {
            let retry = now + pause(failures);
            by_cadence.map_or(retry, |due| due.min(retry))
        }
        // Due as it was: at once when the group is resumed, or the app calls again.
        PollEnd::GroupFault(_) | PollEnd::Stopped => was_due.min(now),
    }
}

/// How long a slot waits that fails while others are answered.
fn wait_of_one_to_blame(failures: i32) -> TimeDelta {
    doubled(failures - TO_BLAME_FROM).min(RETRY_TO_BLAME_AT_MOST)
}

fn doubled(times: i32) -> TimeDelta {
    RETRY_AFTER * 2_i32.pow(times.clamp(0, 12).unsigned_abs())
}

fn group_change(slot: &Slot, poll: &Poll, now: Timestamp) -> Option<GroupChange> {
    match &poll.end {
        PollEnd::GroupFault(failure) => {
            let code = failure.code.unwrap_or_default();
            let after = if matches!(code, 10010 | 10015) { PROBE_GONE_AFTER } else { PROBE_GROUP_AFTER };
            let probe_at = Some(now + after);
            let remedy = crate::chat::error_class::remedy(code).unwrap_or("Tencent Chat refuses the group");
            Some(GroupChange::Quarantine { code, reason: format!("{remedy} ({})", failure.info), probe_at })
        }
        // Without an attempt the slot was empty, and nothing is known of the group.
        PollEnd::Complete if slot.group_state == GroupState::Quarantined && !poll.attempts.is_empty() => {
            Some(GroupChange::Release)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
