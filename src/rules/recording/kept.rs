//! A poll or events, from their end until they are stored: the decision, and everything needed to decide again.
//!
//! A decision holds for the version of the slot that it is based on. If another writer has changed the slot in the
//! meantime, the decision is made again on the present slot, by the same rules and for the same time. Pure.

use std::sync::Arc;

use super::{Heard, KeepSnapshots, Poll, Recording};
use crate::{
    domain::{Counts, GroupId, MsgSeq, Timestamp},
    rules::{
        cadence::{Cadences, Following},
        database_clock::Moment,
        slot::{Slot, SlotKey, SlotMessage},
    },
};

/// A poll or events to be stored.
#[derive(Debug, Clone)]
pub struct Kept {
    /// The decision.
    pub recording: Recording,
    /// Whether its slot no longer exists: then only its calls and the change of its group are stored.
    pub is_slot_gone: bool,
    /// The decision about messages that were asked for, but have left the slot since because their owner unwatched
    /// them.
    pub of_unwatched: Option<Box<Recording>>,
    /// These messages, as known when they were asked for.
    unwatched: Vec<SlotMessage>,
    pub(super) slot: Slot,
    source: Source,
    cadences: Arc<Cadences>,
    moment: Moment,
}

/// A change of a message's counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountsMoved {
    /// The message.
    pub seq: MsgSeq,
    /// Its time of sending.
    pub sent_at: Timestamp,
    /// Its counts.
    pub counts: Counts,
    /// Time at which the attempt that saw them was sent.
    pub asked_at: Option<Timestamp>,
    /// Time at which its answer arrived.
    pub polled_at: Timestamp,
    /// The counts before, if any were known.
    pub prior: Option<Counts>,
    /// Time until which those held.
    pub prior_until: Option<Timestamp>,
}

/// The subject of the decision.
#[derive(Debug, Clone)]
enum Source {
    Poll {
        poll: Poll,
        stretch: f64,
        keep: KeepSnapshots,
    },
    /// Counts in events, in order of time.
    Events(Vec<Heard>),
}

/// The result of deciding again about a poll that could not be stored as it was.
#[derive(Debug)]
pub enum Anew {
    /// The poll was already stored by a commit whose answer was lost. Its slot is due then, and so is the absorbed one
    /// if it exists.
    Stored(Vec<(SlotKey, Timestamp)>),
    /// It has been decided again.
    Decided(Box<Kept>),
    /// Nothing is left to be stored: the counts of the events are known, or their slot no longer exists.
    Nothing,
}

impl Kept {
    /// Decides about a poll of `slot` that ended at `moment`, with all intervals multiplied by `stretch`.
    pub fn of(
        slot: Slot,
        poll: Poll,
        cadences: Arc<Cadences>,
        stretch: f64,
        keep: KeepSnapshots,
        moment: impl Into<Moment>,
    ) -> Self {
        let moment = moment.into();
        let following = Following { cadence: cadences.of(slot.cadence.as_deref()), stretch };
        let recording = Recording::of(&slot, &poll, following, keep, moment);
        Self {
            recording,
            is_slot_gone: false,
            of_unwatched: None,
            unwatched: vec![],
            slot,
            source: Source::Poll { poll, stretch, keep },
            cadences,
            moment,
        }
    }

    /// Decides about events of messages of `slot`, given in order of time. `None` if they are no news.
    pub fn of_events(slot: Slot, heard: Vec<Heard>, cadences: Arc<Cadences>, moment: Moment) -> Option<Self> {
        let recording = Recording::of_events(&slot, &heard, cadences.of(slot.cadence.as_deref()), moment);
        let source = Source::Events(heard);
        let kept = Self {
            recording,
            is_slot_gone: false,
            of_unwatched: None,
            unwatched: vec![],
            slot,
            source,
            cadences,
            moment,
        };
        (!kept.recording.messages.is_empty()).then_some(kept)
    }

    /// Whether this is about events rather than a poll: the slot may be in a poll meanwhile.
    pub fn is_of_events(&self) -> bool {
        matches!(self.source, Source::Events(_))
    }

    /// The messages of events, by their group; nothing for a poll.
    pub fn heard(&self) -> impl Iterator<Item = (&GroupId, MsgSeq)> {
        let heard = if let Source::Events(heard) = &self.source { &heard[..] } else { &[] };
        heard.iter().map(|heard| (&self.slot.group_id, heard.seq))
    }

    /// Whether it is about events of a message in this slot.
    pub fn hears_of(&self, slot: &Slot) -> bool {
        let is_there = |seq| slot.messages.iter().any(|message| message.seq == seq);
        slot.key.group_key == self.slot.key.group_key && self.heard().any(|(_, seq)| is_there(seq))
    }

    /// When the slot was due before.
    pub fn was_due_at(&self) -> Timestamp {
        self.slot.next_poll_at
    }

    /// The time of its first attempt, which the slot stores and which thus shows whether the poll was stored. `None` if
    /// it made no attempt.
    fn called_at(&self) -> Option<Timestamp> {
        match &self.source {
            Source::Poll { poll, .. } => poll.attempts.first().map(|attempt| attempt.called_at),
            Source::Events(_) => None,
        }
    }

    /// The same for the last poll of the slot, when this is stored.
    pub fn last_called_at(&self) -> Option<Timestamp> {
        if self.is_of_events() { self.slot.last_called_at } else { self.called_at() }
    }

    /// The version of its slot that the decision is based on.
    pub fn version(&self) -> i64 {
        self.slot.version
    }

    /// Whether its slot was found damaged, so that messages may name it although it lacks them.
    pub fn is_slot_wrong(&self) -> bool {
        self.slot.is_wrong
    }

    /// Whether only the deletion of the slot has to be written: it was empty.
    pub fn drops_slot(&self) -> bool {
        let is_uncalled = matches!(&self.source, Source::Poll { poll, .. } if poll.attempts.is_empty());
        is_uncalled && self.recording.is_empty && !self.slot.is_wrong
    }

    /// Its slot and the absorbed one.
    pub fn slots(&self) -> impl Iterator<Item = SlotKey> + use<> {
        std::iter::once(self.recording.slot).chain(self.recording.absorbs.map(|(slot, _)| slot))
    }

    /// Writes as little of it as necessary: its slot, and messages that have left it.
    pub fn recordings(&self) -> impl Iterator<Item = &Recording> {
        std::iter::once(&self.recording).chain(self.of_unwatched.as_deref())
    }

    /// The changes of counts in the poll or events, if the group's readers are stored. One for each message, from the
    /// earlier counts to the latest ones.
    pub fn counts_moved(&self) -> impl Iterator<Item = CountsMoved> {
        let messages = self.slot.messages.iter().filter(|_| self.slot.has_readers);
        messages.filter_map(|message| {
            let snapshots = || self.recording.snapshots.iter().filter(|snapshot| snapshot.seq == message.seq);
            let (first, last) = (snapshots().next()?, snapshots().next_back()?);
            let change = self.recording.messages.iter().find(|change| change.seq == message.seq);
            let prior = message.receipt.and_then(|receipt| receipt.counts);
            let counts = last.receipt.counts.filter(|counts| last.receipt.code == 0 && prior != Some(*counts))?;
            Some(CountsMoved {
                seq: message.seq,
                sent_at: message.first_sent_at,
                counts,
                asked_at: change.and_then(|change| change.known_until),
                polled_at: last.polled_at,
                prior,
                prior_until: first.prior_polled_at,
            })
        })
    }

    /// Messages with a receipt that have left since they were asked for: the time until which they were known before,
    /// and their present state.
    pub fn unwatched(&self) -> impl Iterator<Item = (Option<Timestamp>, SlotMessage)> {
        let changes = self.of_unwatched.iter().flat_map(|recording| &recording.messages);
        changes.filter_map(|change| {
            let before = self.unwatched.iter().find(|message| message.seq == change.seq)?;
            Some((before.known_until, before.after(change)))
        })
    }

    /// Maximum number of rows that it writes.
    pub fn rows(&self) -> usize {
        let of = |recording: &Recording| recording.snapshots.len() + recording.attempts.len();
        let closed = self.recording.messages.iter().filter(|change| change.closed.is_some()).count();
        1 + closed + self.unwatched().count() + self.recordings().map(of).sum::<usize>()
    }

    /// Decides again on the present slots. Messages that joined in the meantime were not asked for. The receipts of
    /// messages that left are decided on their states when they were asked for.
    pub fn anew(mut self, now: Option<Slot>, absorbed: Option<Slot>) -> Anew {
        if self.is_of_events() {
            let again = now.and_then(|slot| {
                let Source::Events(heard) = self.source else { return None };
                Self::of_events(slot, heard, self.cadences, self.moment)
            });
            return again.map_or(Anew::Nothing, |again| Anew::Decided(Box::new(again)));
        }
        let Some(mut slot) = now else {
            self.unwatched.extend(self.slot.messages.drain(..).filter(|message| !message.has_joined));
            self.slot.absorbs = None;
            self.is_slot_gone = true;
            return self.decided();
        };
        if slot.last_called_at.is_some() && slot.last_called_at == self.called_at() {
            return Anew::Stored(
                [Some(slot), absorbed].into_iter().flatten().map(|slot| (slot.key, slot.next_poll_at)).collect(),
            );
        }
        absorbed.into_iter().for_each(|absorbed| slot.absorb(absorbed));
        let was_asked = |seq: MsgSeq| {
            let asked = self.slot.messages.iter().find(|message| message.seq == seq);
            asked.is_some_and(|message| !message.has_joined)
        };
        slot.messages.iter_mut().for_each(|message| message.has_joined = !was_asked(message.seq));
        let stays = |seq: MsgSeq| slot.messages.iter().any(|message| message.seq == seq);
        let left = self.slot.messages.drain(..).filter(|message| !message.has_joined && !stays(message.seq));
        self.unwatched.extend(left);
        self.slot = slot;
        self.decided()
    }

    fn decided(mut self) -> Anew {
        let Source::Poll { poll, stretch, keep } = &self.source else { return Anew::Nothing };
        let following = Following { cadence: self.cadences.of(self.slot.cadence.as_deref()), stretch: *stretch };
        let of = |slot: &Slot| Recording::of(slot, poll, following, *keep, self.moment);
        self.recording = of(&self.slot);
        // No slot has their time, so each poll with their receipts changes it.
        let apart =
            |message: &SlotMessage| SlotMessage { known_apart: message.known_until.is_some(), ..message.clone() };
        let messages: Vec<SlotMessage> = self.unwatched.iter().map(apart).collect();
        self.of_unwatched = (!messages.is_empty()).then(|| {
            let slot = Slot { messages, absorbs: None, ..self.slot.clone() };
            of(&slot).told().into()
        });
        Anew::Decided(Box::new(self))
    }
}
