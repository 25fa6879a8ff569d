//! Judges the messages of a poll: the state of each, and which are closed.

use chrono::TimeDelta;

use super::{
    changes::{Closed, MessageChange},
    due::{TO_BLAME_FROM, failures},
    poll::{Others, Poll, PollEnd, Told},
};
use crate::{
    domain::{Counts, MsgSeq, Receipt, Timestamp},
    rules::{
        cadence::Cadence,
        database_clock::{APART, Moment},
        slot::{Slot, SlotMessage},
    },
};

/// Number of polls in a row without a receipt after which a message is closed: the first may be early.
pub const NO_RECEIPT_POLLS: i16 = 3;

/// Minimum time over which a message must be refused alone by [`NO_RECEIPT_POLLS`] polls before it is closed: a short
/// fault closes nothing.
const REFUSED_FOR: TimeDelta = TimeDelta::minutes(5);

/// The same (about five minutes) for giving up messages that were never answered, if others are not answered either.
const GIVEN_UP_FROM: i32 = 6;

/// Time after the end of its cadence at which a message whose polls fail expires.
const EXPIRED_UNSEEN_AFTER: TimeDelta = TimeDelta::days(1);

/// Judges the messages of a poll.
pub(super) struct Judge<'a> {
    cadence: &'a Cadence,
    now: Timestamp,
    /// Whether time closes nothing.
    is_doubted: bool,
    /// The receipts of the poll, in rising order of seq, each later than all earlier times of its message. A refusal
    /// that closes its message counts as a receipt with its code.
    pub(super) told: Vec<Told>,
    /// The messages whose refusals can't be blamed on others, with the time since which, and the number of polls in
    /// which, they were refused.
    refused: Vec<(MsgSeq, Timestamp, i16)>,
    /// The messages that are closed for that.
    rejected: Vec<MsgSeq>,
    /// The messages whose calls failed.
    failed: Vec<MsgSeq>,
    pub(super) complete: bool,
    /// Whether the slot has failed often enough to give up messages that were never answered.
    gives_up: bool,
}

impl<'a> Judge<'a> {
    pub(super) fn of(slot: &Slot, poll: &Poll, cadence: &'a Cadence, now: Moment) -> Self {
        let Moment { time: now, is_doubted } = now;
        let complete = poll.end == PollEnd::Complete;
        // If all messages of a slot are refused, the group or the app is refused.
        let counts = complete || slot.messages.iter().filter(|message| !message.has_joined).count() == 1;
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
        if !is_doubted {
            judge.set_beside_events(slot);
        }
        judge.date_after_known(slot);
        judge
    }

    /// Dates each receipt later than all that is known of its message.
    fn date_after_known(&mut self, slot: &Slot) {
        let latest = self.now + APART;
        for message in &slot.messages {
            // A message dated in the future by a wrong clock doesn't count.
            let changed_at = message.changed_at.filter(|changed_at| self.is_doubted || *changed_at <= latest);
            let seen = slot.last_polled_at.max(message.known_until).max(changed_at);
            let Ok(place) = self.told.binary_search_by_key(&message.seq, |told| told.seq) else { continue };
            let told = &mut self.told[place];
            if let Some(seen) = seen.filter(|seen| told.answered_at <= *seen) {
                told.answered_at = seen + TimeDelta::microseconds(1);
            }
        }
    }

    /// Leaves out receipts that were read before an event reported their messages: they are older than the known state.
    /// Receipts read later get later times than the event.
    fn set_beside_events(&mut self, slot: &Slot) {
        for message in slot.messages.iter().filter(|message| message.known_apart) {
            let Ok(place) = self.told.binary_search_by_key(&message.seq, |told| told.seq) else { continue };
            let told = &mut self.told[place];
            let heard_at = message.known_until.filter(|heard_at| *heard_at >= told.sent_at);
            let is_heard = heard_at.is_some() || message.changed_at.is_some_and(|at| at >= told.sent_at);
            let read = |receipt: Receipt| receipt.counts.map(Counts::read);
            let known = message.receipt.and_then(read);
            let is_older = read(told.receipt).zip(known).is_some_and(|(read, known)| read < known);
            // The first answers may be too early to find the receipt.
            let is_early = told.receipt.code != 0 && message.receipt.is_some_and(|known| known.code == 0);
            let is_same = Some(told.receipt) == message.receipt;
            if is_heard && (is_older || is_early)
                || is_same && heard_at.is_some_and(|heard_at| heard_at >= told.answered_at)
            {
                self.told.remove(place);
            } else if let Some(heard_at) = heard_at.filter(|heard_at| *heard_at < told.answered_at) {
                told.sent_at = heard_at + TimeDelta::microseconds(1);
            }
        }
    }

    pub(super) fn told_of(&self, seq: MsgSeq) -> Option<Told> {
        self.told.binary_search_by_key(&seq, |told| told.seq).ok().map(|at| self.told[at])
    }

    /// The change of a message, in a slot that is now known until `slot_known_until`.
    pub(super) fn change(
        &self,
        message: &SlotMessage,
        told: Option<Told>,
        slot_known_until: Option<Timestamp>,
    ) -> MessageChange {
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
            first_at: told.map(|told| told.answered_at),
            differs,
            known_until,
            known_apart: known_until.is_some() && (closed.is_some() || known_until != slot_known_until),
            no_receipt_polls,
            refused_since,
            closed,
        }
    }

    /// A message past the end of its cadence is polled once more. If that fails, it is given a day. If it was never
    /// answered, it is given some more tries.
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

    /// Whether the message's row has to be written: most polls don't change most messages.
    pub(super) fn is_news(&self, change: &MessageChange, message: &SlotMessage) -> bool {
        let says = |until: Option<Timestamp>, apart: bool| until.filter(|_| apart);
        let known_otherwise = !self.told.is_empty()
            && says(change.known_until, change.known_apart) != says(message.known_until, message.known_apart);
        let counts_polls =
            change.no_receipt_polls != message.no_receipt_polls || change.refused_since != message.refused_since;
        change.differs || change.closed.is_some() || known_otherwise || counts_polls
    }
}
