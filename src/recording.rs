//! What a poll makes of its slot: which snapshots are kept, which messages are done, and when the slot is due again.
//!
//! Pure: in go a slot as it was read and the outcome of its poll, out comes what the store has to write in one
//! transaction. A message that an answer leaves out is not known by that answer.

use chrono::TimeDelta;

use crate::{
    cadence::{Cadence, Phase},
    chat::{Attempt, Failure},
    domain::{Counts, MsgSeq, Receipt, Timestamp},
    slot::{GroupKey, GroupState, Slot, SlotId, SlotMessage},
};

/// So many polls in a row must say that a message has no receipt before it is closed: the first may be early.
pub const NO_RECEIPT_POLLS: i16 = 3;

/// A group without permission (10007) or with too many members (10060) is tried again after this time.
const PROBE_GROUP_AFTER: TimeDelta = TimeDelta::hours(6);

/// After a failed poll the slot is tried again after this time, doubled for each failure in a row, …
const RETRY_AFTER: TimeDelta = TimeDelta::seconds(10);

/// … up to this time, and no later than its cadence says.
pub(crate) const RETRY_AT_MOST: TimeDelta = TimeDelta::minutes(5);

/// The outcome of polling one slot, over all its attempts.
#[derive(Debug, Clone)]
pub struct Poll {
    /// Every attempt, in order.
    pub attempts: Vec<Attempt>,
    /// What the answers told.
    pub receipts: Vec<(MsgSeq, Receipt)>,
    /// Messages that the service refuses even alone, with the code.
    pub rejected: Vec<(MsgSeq, i32)>,
    /// How it ended.
    pub end: PollEnd,
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
    pub slot_id: SlotId,
    /// Its group.
    pub group_key: GroupKey,
    /// How many times messages had joined it.
    pub joins: i32,
    /// When the poll was due: by the cadence since the poll before, whatever failed or was held up meanwhile.
    pub due_at: Timestamp,
    /// The slot whose messages move here and which then goes, with its `joins`.
    pub absorbs: Option<(SlotId, i32)>,
    /// When the slot is due again.
    pub next_poll_at: Timestamp,
    /// When it is due at the latest if messages joined while the poll was under way.
    pub join_due: Timestamp,
    /// The time of this poll if it told anything, else that of the one before.
    pub last_polled_at: Option<Timestamp>,
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
    /// No active message is left.
    pub is_empty: bool,
}

/// What becomes of a watched message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageChange {
    /// The message.
    pub seq: MsgSeq,
    /// Its latest receipt, with the counts that were known last.
    pub receipt: Option<Receipt>,
    /// The poll that told something of it, if this one did.
    pub polled_at: Option<Timestamp>,
    /// Whether the receipt differs from the one before.
    pub differs: bool,
    /// The last poll that told something, where that is not the slot's last poll.
    pub known_until: Option<Timestamp>,
    /// How many polls in a row said that it has no receipt.
    pub no_receipt_polls: i16,
    /// Why it is polled no more, if so.
    pub closed: Option<Closed>,
}

/// A row of `receipt_snapshots`; its time is the recording's `last_polled_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// The message.
    pub seq: MsgSeq,
    /// What was seen.
    pub receipt: Receipt,
    /// When.
    pub polled_at: Timestamp,
    /// The poll before that told something of this message.
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
    pub fn of(slot: Slot, poll: Poll, cadence: &Cadence, keep: KeepSnapshots, now: Timestamp) -> Self {
        let polled_at = polled_at(&slot, &poll);
        let told = told(&poll);
        let judge = Judge { cadence, now, polled_at, complete: poll.end == PollEnd::Complete };
        let (mut messages, mut snapshots) = (Vec::new(), Vec::new());
        let mut next_poll_at: Option<Timestamp> = None;
        let phase = Phase::of_slot(slot.slot_id);
        for message in &slot.messages {
            let told = told.binary_search_by_key(&message.seq, |told| told.0).ok().map(|at| (told[at].1, told[at].2));
            let change = judge.change(message, told);
            let keeps = change.differs || keep == KeepSnapshots::EveryPoll;
            if let Some((polled_at, (receipt, _))) = change.polled_at.zip(told).filter(|_| keeps) {
                let prior_read_num = message.receipt.and_then(|receipt| receipt.counts).map(Counts::read);
                let prior_polled_at = message.known_until;
                snapshots.push(Snapshot { seq: message.seq, receipt, polled_at, prior_polled_at, prior_read_num });
            }
            if change.closed.is_none() {
                let due = cadence.next_poll(phase, message.sent_at, now).unwrap_or(now);
                next_poll_at = Some(next_poll_at.map_or(due, |next| next.min(due)));
            }
            if judge.is_news(&change, message) {
                messages.push(change);
            }
        }
        let is_empty = next_poll_at.is_none();
        let quiet = !messages.iter().any(|change| change.differs);
        let failures = failures(&slot, &poll);
        let due_at = due_by_cadence(&slot, cadence, phase);
        let last_polled_at = polled_at.or(slot.last_polled_at);
        Self {
            next_poll_at: due(&poll.end, next_poll_at.unwrap_or(now), failures, slot.next_poll_at, now),
            join_due: cadence.first_poll(last_polled_at.map(|polled_at| polled_at.min(now)), now, now),
            last_polled_at,
            quiet_polls: match polled_at {
                None => slot.quiet_polls,
                Some(_) if quiet => slot.quiet_polls.saturating_add(1),
                Some(_) => 0,
            },
            failures,
            messages,
            snapshots,
            group: group_change(&slot, &poll, now),
            is_empty,
            due_at,
            attempts: poll.attempts,
            slot_id: slot.slot_id,
            group_key: slot.group_key,
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
            messages: self.messages.iter().filter(|change| change.seq == seq).cloned().collect(),
            snapshots: self.snapshots.iter().filter(|snapshot| snapshot.seq == seq).copied().collect(),
            attempts: vec![],
            ..frame.clone()
        };
        let parts = seqs.into_iter().map(of).collect();
        (frame, parts)
    }
}

/// The time of the poll if it told anything: that of the last answer, and later than all that its messages have seen,
/// whatever the clock did.
fn polled_at(slot: &Slot, poll: &Poll) -> Option<Timestamp> {
    if poll.receipts.is_empty() && poll.rejected.is_empty() {
        return None;
    }
    let answered_at = poll.attempts.iter().map(|attempt| attempt.ended_at).max()?;
    let known = slot.messages.iter().filter_map(|message| message.known_until).max();
    let seen = known.max(slot.last_polled_at).map(|seen| seen + TimeDelta::microseconds(1));
    Some(seen.map_or(answered_at, |seen| seen.max(answered_at)))
}

/// What the poll told of each message, by rising seq, and whether that is a refusal, which counts as a receipt with its code.
fn told(poll: &Poll) -> Vec<(MsgSeq, Receipt, bool)> {
    let receipts = poll.receipts.iter().map(|(seq, receipt)| (*seq, *receipt, false));
    let rejected = poll.rejected.iter().map(|(seq, code)| (*seq, Receipt { code: *code, counts: None }, true));
    let mut told: Vec<_> = receipts.chain(rejected).collect();
    told.sort_unstable_by_key(|told| told.0);
    told
}

/// Judges the messages of one poll.
struct Judge<'a> {
    cadence: &'a Cadence,
    now: Timestamp,
    polled_at: Option<Timestamp>,
    complete: bool,
}

impl Judge<'_> {
    fn change(&self, message: &SlotMessage, told: Option<(Receipt, bool)>) -> MessageChange {
        let receipt = told.map(|(receipt, _)| receipt.after(message.receipt));
        let differs = receipt.is_some() && receipt != message.receipt;
        let no_receipt_polls = match receipt {
            Some(Receipt { code: 10061 | 10062, .. }) => message.no_receipt_polls.saturating_add(1),
            Some(_) => 0,
            None => message.no_receipt_polls,
        };
        let closed = if told.is_some_and(|(_, rejected)| rejected) {
            Some(Closed::Rejected)
        } else if no_receipt_polls >= NO_RECEIPT_POLLS && receipt.is_some() {
            Some(Closed::NoReceipt)
        } else if receipt.is_some_and(Receipt::all_read) && !differs && self.cadence.stop_when_all_read() {
            Some(Closed::AllRead)
        } else if self.complete && self.cadence.is_expired(message.sent_at, self.now) {
            Some(Closed::Expired)
        } else {
            None
        };
        let polled_at = self.polled_at.filter(|_| receipt.is_some());
        // Where the slot's last poll does not tell until when the message is known, it has to say so itself.
        let slot_tells = polled_at.is_some() && closed.is_none();
        let known_until = if slot_tells { None } else { polled_at.or(message.known_until) };
        let receipt = receipt.or(message.receipt);
        MessageChange { seq: message.seq, receipt, polled_at, differs, known_until, no_receipt_polls, closed }
    }

    /// Whether the row of the message has to be written: most polls change nothing about most messages.
    fn is_news(&self, change: &MessageChange, message: &SlotMessage) -> bool {
        let was_told = change.polled_at.is_some();
        let left_out = self.polled_at.is_some() && !was_told && message.known_until.is_some() && !message.known_apart;
        let rejoins = was_told && message.known_apart;
        let counts_polls = change.no_receipt_polls != message.no_receipt_polls;
        change.differs || change.closed.is_some() || left_out || rejoins || counts_polls
    }
}

/// When the slot was due after its last poll. What moved the schedule since, a failure or an owner's pause, counts for
/// nothing: the messages were to be observed then. Those that joined since were not there yet.
fn due_by_cadence(slot: &Slot, cadence: &Cadence, phase: Phase) -> Timestamp {
    let was_there = |message: &&SlotMessage| message.known_until.is_some() && !message.known_apart;
    let due = |last| {
        let there = slot.messages.iter().filter(was_there);
        there.filter_map(|message| cadence.next_poll(phase, message.sent_at, last)).min()
    };
    slot.last_polled_at.and_then(due).unwrap_or(slot.next_poll_at)
}

fn failures(slot: &Slot, poll: &Poll) -> i32 {
    match poll.end {
        PollEnd::Complete => 0,
        PollEnd::GivenUp => slot.failures.saturating_add(1),
        PollEnd::GroupFault(_) | PollEnd::Stopped => slot.failures,
    }
}

fn due(end: &PollEnd, by_cadence: Timestamp, failures: i32, was_due: Timestamp, now: Timestamp) -> Timestamp {
    match end {
        PollEnd::Complete => by_cadence,
        PollEnd::GivenUp => {
            let doublings = u32::try_from(failures.clamp(1, 10) - 1).unwrap_or(0);
            by_cadence.min(now + (RETRY_AFTER * 2_i32.pow(doublings)).min(RETRY_AT_MOST))
        }
        // Due as it was: at once when the group is resumed, or the app calls again.
        PollEnd::GroupFault(_) | PollEnd::Stopped => was_due.min(now),
    }
}

fn group_change(slot: &Slot, poll: &Poll, now: Timestamp) -> Option<GroupChange> {
    match &poll.end {
        PollEnd::GroupFault(failure) => {
            let code = failure.code.unwrap_or_default();
            let probe_at = matches!(code, 10007 | 10060).then(|| now + PROBE_GROUP_AFTER);
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
