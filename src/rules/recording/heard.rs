//! What the events of webhooks change in a slot.
//!
//! An event is a hint with a time. It adds counts to the history and settles milestones like a poll, but it closes and
//! postpones nothing. Counting proves whether its time is exact: if the count rose by the members that the event names,
//! nobody else has read the message since it was last known. If not, events were lost, and the change happened at some
//! time since then.

use chrono::TimeDelta;

use super::{
    Recording,
    changes::{MessageChange, Snapshot},
    due::{carried_until, due_by_cadence},
};
use crate::{
    domain::{Counts, MsgSeq, Receipt, Timestamp},
    rules::{
        cadence::{Cadence, Phase},
        database_clock::{APART, Moment},
        milestones::Milestones,
        slot::{Slot, SlotMessage},
    },
};

/// The precision of an event's time: an exact change happened within this time before it.
const PRECISION: TimeDelta = TimeDelta::milliseconds(1);

/// The counts of a message in an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The message.
    pub seq: MsgSeq,
    /// Its counts.
    pub counts: Counts,
    /// Number of members in the event: those who have just read the message, or all so far.
    pub members: u32,
    /// When it happened, by the service's clock; `None` if unknown.
    pub happened_at: Option<Timestamp>,
    /// When the event arrived, by the database's clock.
    pub arrived_at: Timestamp,
}

/// The members in an event are those who have just read a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadersTold {
    /// The message.
    pub seq: MsgSeq,
    /// Its time of sending.
    pub sent_at: Timestamp,
    /// The moment of reading.
    pub at: Timestamp,
}

impl Recording {
    /// The events of messages of a slot, by their position among those given, that prove who has just read a message:
    /// its count rose by the members in the event since it was last known. Otherwise, some of them may have read it
    /// earlier.
    pub fn readers_told(slot: &Slot, heard: &[Heard], moment: Moment) -> Vec<(usize, ReadersTold)> {
        let mut told = vec![];
        for message in &slot.messages {
            let mut state = message.clone();
            for (place, heard) in heard.iter().enumerate().filter(|(_, heard)| heard.seq == message.seq) {
                let Some(news) = News::of(&state, *heard, moment) else { continue };
                let rise = news.counts.read() - counts(&state).map_or(0, Counts::read);
                if news.is_exact && rise == heard.members {
                    told.push((place, ReadersTold { seq: message.seq, sent_at: message.first_sent_at, at: news.at }));
                }
                state = news.after(state);
            }
        }
        told
    }

    /// Decides what is written about events of messages of a slot, given in order of time. Nothing, if no message
    /// changes. A message that all members have read is closed by the next poll that is due anyway.
    pub fn of_events(slot: &Slot, heard: &[Heard], cadence: &Cadence, moment: Moment) -> Self {
        let (mut messages, mut snapshots, mut milestones) = (vec![], vec![], vec![]);
        for message in &slot.messages {
            let mut state = message.clone();
            let mut settled: Option<Milestones> = None;
            for heard in heard.iter().filter(|heard| heard.seq == message.seq) {
                let Some(news) = News::of(&state, *heard, moment) else { continue };
                snapshots.push(news.snapshot(&state));
                let made = news.settles(&state, slot, cadence);
                settled = settled.into_iter().chain(made).reduce(Milestones::and_later);
                state = news.after(state);
            }
            milestones.extend(settled.map(|settled| (message.seq, settled)));
            if state != *message {
                messages.push(change(&state));
            }
        }
        Self { messages, snapshots, milestones, ..Self::unchanged(slot) }
    }

    /// A recording that leaves the slot unchanged.
    fn unchanged(slot: &Slot) -> Self {
        Self {
            slot: slot.key,
            due_at: slot.next_poll_at,
            absorbs: None,
            next_poll_at: slot.next_poll_at,
            every: slot
                .last_polled_at
                .map_or(TimeDelta::zero(), |at| slot.next_poll_at - at)
                .to_std()
                .unwrap_or_default(),
            last_polled_at: slot.last_polled_at,
            known_until: slot.known_until,
            quiet_polls: slot.quiet_polls,
            failures: slot.failures,
            messages: vec![],
            snapshots: vec![],
            milestones: vec![],
            attempts: vec![],
            group: None,
            parts: vec![],
            is_empty: false,
        }
    }
}

fn change(state: &SlotMessage) -> MessageChange {
    MessageChange {
        seq: state.seq,
        receipt: state.receipt,
        polled_at: state.changed_at,
        first_at: state.first_polled_at,
        differs: true,
        known_until: state.known_until,
        known_apart: true,
        no_receipt_polls: state.no_receipt_polls,
        refused_since: state.refused_since,
        closed: None,
    }
}

/// Counts that were not known before.
#[derive(Debug, Clone, Copy)]
struct News {
    counts: Counts,
    /// Time by which they had been reached, later than all earlier times of the message.
    at: Timestamp,
    /// Time at which they were reached, if the event has one that fits the known state.
    happened_at: Option<Timestamp>,
    /// Whether nobody else has read the message since it was last known.
    is_exact: bool,
}

impl News {
    /// `None` if the event is no news, or if a wrong clock has dated the known state.
    fn of(known: &SlotMessage, heard: Heard, moment: Moment) -> Option<Self> {
        let before = counts(known);
        if before.is_some_and(|before| heard.counts.read() <= before.read()) {
            return None;
        }
        // A poll that was in flight when the event arrived may have read the counts before.
        let is_dated_ahead = known.changed_at.is_some_and(|at| at > moment.time + APART);
        if known.known_until.is_some_and(|until| until >= heard.arrived_at) || is_dated_ahead {
            return None;
        }
        let seen = known.changed_at.max(known.known_until);
        // It can't have happened after the event arrived, whatever the service's clock says.
        let happened_at = heard.happened_at.map(|at| at.min(heard.arrived_at)).filter(|at| {
            let fits = known.known_until.is_none_or(|until| until < *at + PRECISION);
            !moment.is_doubted && known.first_sent_at <= *at && fits
        });
        let later = seen.map(|seen| seen + TimeDelta::microseconds(1));
        let at = happened_at.unwrap_or(heard.arrived_at).max(later.unwrap_or_default());
        let start = match known.receipt {
            None => Counts::new(0, i64::from(heard.counts.read()) + i64::from(heard.counts.unread())),
            Some(_) => before,
        };
        let is_exact = happened_at.is_some() && start.is_some_and(|start| proves(start, heard));
        Some(Self { counts: heard.counts, at, happened_at, is_exact })
    }

    /// Time after which the change happened.
    fn after_time(self, known: &SlotMessage) -> Option<Timestamp> {
        let exactly = self.happened_at.filter(|_| self.is_exact).map(|at| at - PRECISION);
        known.known_until.max(exactly)
    }

    fn snapshot(self, known: &SlotMessage) -> Snapshot {
        Snapshot {
            seq: known.seq,
            receipt: self.receipt(),
            polled_at: self.at,
            prior_polled_at: known.receipt.and(self.after_time(known)),
            prior_read_num: counts(known).map(Counts::read),
            prior_unread_num: counts(known).map(Counts::unread),
            is_webhook: true,
        }
    }

    /// The milestones reached by these counts. Nobody had read a message when it was sent.
    fn settles(self, known: &SlotMessage, slot: &Slot, cadence: &Cadence) -> Option<Milestones> {
        let phase = Phase::of_slot(slot.key.slot_id);
        let due = carried_until(known, cadence, phase, due_by_cadence(slot, cadence, phase));
        let snapshot = Snapshot { prior_polled_at: self.after_time(known), ..self.snapshot(known) };
        let mut known = known.clone();
        if known.receipt.is_none() && self.is_exact {
            let members = i64::from(self.counts.read()) + i64::from(self.counts.unread());
            known.receipt = Some(Receipt { code: 0, counts: Counts::new(0, members) });
            known.changed_at = Some(known.first_sent_at);
        }
        snapshot.settles(&known, due, false)
    }

    fn receipt(self) -> Receipt {
        Receipt { code: 0, counts: Some(self.counts) }
    }

    fn after(self, known: SlotMessage) -> SlotMessage {
        SlotMessage {
            receipt: Some(self.receipt()),
            changed_at: Some(self.at),
            first_polled_at: known.first_polled_at.or(Some(self.at)),
            // By the time the event arrived, others may have read the message too.
            known_until: self.happened_at.max(known.known_until).or(Some(known.first_sent_at)),
            known_apart: true,
            // A message with readers has a receipt.
            no_receipt_polls: if known.refused_since.is_some() { known.no_receipt_polls } else { 0 },
            ..known
        }
    }
}

fn counts(message: &SlotMessage) -> Option<Counts> {
    message.receipt.and_then(|receipt| receipt.counts)
}

/// Whether the members in the event are all those who have read the message since it had the counts `before`.
///
/// It isn't documented whether an event contains the members who have just read the message, or all so far. The count
/// tells, unless several members are the first readers.
fn proves(before: Counts, heard: Heard) -> bool {
    let members = |counts: Counts| u64::from(counts.read()) + u64::from(counts.unread());
    let rise = heard.counts.read() - before.read();
    let is_one = rise == 1 && (heard.members == 1 || heard.members == heard.counts.read());
    let are_several = rise == heard.members && before.read() > 0;
    // If members have joined or left, some readers may be among them.
    members(before) == members(heard.counts) && (is_one || are_several)
}

#[cfg(test)]
mod tests;
