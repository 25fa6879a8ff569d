//! When each slot is due, in memory: Postgres keeps the same durably in `poll_slots.next_poll_at`.
//!
//! A slot is either waiting for its time or claimed by a poll. Due times are places on a timeline of the monotonic
//! clock, so that a step of the database's clock neither stops polling nor lets everything be due at once. Pure.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Instant,
};

use chrono::TimeDelta;

use crate::{
    domain::Timestamp,
    recording::RETRY_AT_MOST,
    slot::{Made, SlotKey, StoredDue},
};

/// The database's clock, by which due times are stored, and the one that nobody sets, read together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub time: Timestamp,
    pub monotonic: Instant,
}

/// Maximum number of slots that one is drawn from.
const DRAWN_FROM: usize = 10_000;

/// A point on the schedule's timeline, in microseconds.
type Place = i64;

/// In a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Claimed {
    /// When it was due; `None` if the schedule did not know it.
    was: Option<Place>,
    /// Somebody has asked meanwhile for it to be due again then.
    pending: Option<Place>,
}

/// The due times of all slots of an app. Of a million that wait it takes about 100 MiB, so nothing is kept of them but that.
#[derive(Debug)]
pub(super) struct Schedule {
    start: Instant,
    due: BTreeSet<(Place, SlotKey)>,
    /// The same of slots whose last poll failed.
    due_failing: BTreeSet<(Place, SlotKey)>,
    failing: HashSet<SlotKey>,
    waiting: HashMap<SlotKey, Place>,
    claimed: HashMap<SlotKey, Claimed>,
}

impl Schedule {
    pub(super) fn new(start: Instant) -> Self {
        let (due, due_failing, failing) = (BTreeSet::new(), BTreeSet::new(), HashSet::new());
        Self { start, due, due_failing, failing, waiting: HashMap::new(), claimed: HashMap::new() }
    }

    /// Says when a slot is due. While it is claimed that adds to what its poll will say.
    pub(super) fn set(&mut self, slot: SlotKey, due: Timestamp, now: Now) {
        let place = self.place(due, now);
        match self.claimed.get_mut(&slot) {
            Some(claimed) => claimed.pending = Some(claimed.pending.map_or(place, |other| other.min(place))),
            None => self.wait(slot, place),
        }
    }

    /// Says that a slot is due then at the latest: what waits is never put off. So a time that was stored before the wall
    /// clock was set back, and now seems far ahead, does no harm.
    pub(super) fn bring_forward(&mut self, slot: SlotKey, due: Timestamp, now: Now) {
        let place = self.place(due, now);
        if self.waiting.get(&slot).is_none_or(|known| *known > place) {
            self.set(slot, due, now);
        }
    }

    /// Takes in when a slot is due as the database has it. What waits is only brought forward, and what is claimed is left
    /// to its poll, of which the database may not know yet.
    ///
    /// If the last poll lies in the future, the wall clock was set back since, and what was written by it is late by as much;
    /// what has failed is tried again in time, whatever the clock was then.
    pub(super) fn learn(&mut self, slot: SlotKey, stored: StoredDue, now: Now) {
        let ahead = |polled_at: Timestamp| (polled_at - now.time).max(TimeDelta::zero());
        self.set_failing(slot, stored.has_failed);
        let due = stored.next_poll_at - stored.last_polled_at.map_or(TimeDelta::zero(), ahead);
        if !self.claimed.contains_key(&slot) {
            self.bring_forward(slot, if stored.has_failed { due.min(now.time + RETRY_AT_MOST) } else { due }, now);
        }
    }

    /// Takes in a slot that was made just now.
    pub(super) fn learn_made(&mut self, made: Made, now: Now) {
        self.set_failing(made.slot, made.fails);
        if !self.claimed.contains_key(&made.slot) {
            self.bring_forward(made.slot, made.next_poll_at, now);
        }
    }

    /// Notes whether the last poll of a slot failed.
    pub(super) fn set_failing(&mut self, slot: SlotKey, fails: bool) {
        let place = self.unlist(slot);
        _ = if fails { self.failing.insert(slot) } else { self.failing.remove(&slot) };
        if let Some(place) = place {
            self.wait(slot, place);
        }
    }

    /// Claims up to `count` slots that are due, the most overdue first, and among them up to `failing` whose last poll failed.
    pub(super) fn claim_due(&mut self, count: usize, mut failing: usize, now: Now) -> Vec<SlotKey> {
        let present = self.present(now);
        let mut claimed = Vec::with_capacity(count.min(64));
        while claimed.len() < count {
            let next = self.first(failing > 0).filter(|(place, _)| *place <= present);
            let Some((_, slot)) = next.filter(|(_, slot)| self.claim(*slot)) else { break };
            failing -= usize::from(self.failing.contains(&slot));
            claimed.push(slot);
        }
        claimed
    }

    /// Claims up to `count` slots that are due, those first whose last poll did not fail. `draw` gives a share from 0 to 1, and
    /// that far down in the order of due times the slot is taken: so slots that fail alike and are due together can't stand
    /// before all others.
    pub(super) fn claim_drawn(&mut self, count: usize, mut draw: impl FnMut() -> f64, now: Now) -> Vec<SlotKey> {
        let present = self.present(now);
        let mut claimed = Vec::with_capacity(count.min(64));
        while claimed.len() < count {
            let drawn = [&self.due, &self.due_failing].into_iter().find_map(|slots| {
                let due = || slots.iter().take_while(|(place, _)| *place <= present).take(DRAWN_FROM);
                let last = due().count().checked_sub(1)?;
                due().nth(((draw() * (last + 1) as f64) as usize).min(last)).map(|(_, slot)| *slot)
            });
            let Some(slot) = drawn.filter(|slot| self.claim(*slot)) else { break };
            claimed.push(slot);
        }
        claimed
    }

    /// Claims up to `count` slots before their time, those that are due first.
    pub(super) fn claim_soonest(&mut self, count: usize) -> Vec<SlotKey> {
        let soonest: Vec<SlotKey> = self.due.iter().take(count).map(|(_, slot)| *slot).collect();
        soonest.into_iter().filter(|slot| self.claim(*slot)).collect()
    }

    /// Claims one slot before its time, if it is waiting.
    pub(super) fn claim(&mut self, slot: SlotKey) -> bool {
        let was = self.unlist(slot);
        was.is_some() && self.claimed.insert(slot, Claimed { was, pending: None }).is_none()
    }

    /// Claims one slot whether it is known or not, unless a poll has it.
    pub(super) fn claim_unknown(&mut self, slot: SlotKey) -> bool {
        if self.claimed.contains_key(&slot) {
            return false;
        }
        let was = self.unlist(slot);
        self.claimed.insert(slot, Claimed { was, pending: None }).is_none()
    }

    /// Ends a claim: the slot is due then, or sooner if somebody asked for that meanwhile.
    pub(super) fn release(&mut self, slot: SlotKey, due: Timestamp, now: Now) {
        let place = self.place(due, now);
        let pending = self.claimed.remove(&slot).and_then(|claimed| claimed.pending);
        self.wait(slot, pending.map_or(place, |pending| pending.min(place)));
    }

    /// Ends a claim without a poll: the slot is due when it was, by whatever clock that was said.
    pub(super) fn give_back(&mut self, slot: SlotKey, now: Now) {
        if let Some(Claimed { was, pending }) = self.claimed.remove(&slot) {
            let was = was.unwrap_or_else(|| self.present(now));
            self.wait(slot, pending.map_or(was, |pending| pending.min(was)));
        }
    }

    /// Ends a claim: the slot is due then and no sooner, also if somebody asked for that meanwhile.
    pub(super) fn put_off(&mut self, slot: SlotKey, due: Timestamp, now: Now) {
        self.claimed.remove(&slot);
        self.wait(slot, self.place(due, now));
    }

    /// Ends a claim of a slot that is not to be polled for now: it is forgotten, unless somebody asked for it meanwhile.
    pub(super) fn forget(&mut self, slot: SlotKey) {
        match self.claimed.remove(&slot).and_then(|claimed| claimed.pending) {
            Some(pending) => self.wait(slot, pending),
            None => {
                self.unlist(slot);
                self.failing.remove(&slot);
            }
        }
    }

    /// How many microseconds until the next slot is due, if `with_failing` also of those whose last poll failed; zero or less
    /// if it is overdue.
    pub(super) fn until_next(&self, with_failing: bool, now: Now) -> Option<i64> {
        self.first(with_failing).map(|(place, _)| place - self.present(now))
    }

    fn first(&self, with_failing: bool) -> Option<(Place, SlotKey)> {
        self.due.first().into_iter().chain(self.due_failing.first().filter(|_| with_failing)).min().copied()
    }

    /// How many slots there are.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.claimed.len()
    }

    fn wait(&mut self, slot: SlotKey, place: Place) {
        self.unlist(slot);
        self.due_of(slot).insert((place, slot));
        self.waiting.insert(slot, place);
    }

    /// Has a slot wait no more. Returns when it was due, if it did.
    fn unlist(&mut self, slot: SlotKey) -> Option<Place> {
        let place = self.waiting.remove(&slot)?;
        self.due_of(slot).remove(&(place, slot));
        Some(place)
    }

    fn due_of(&mut self, slot: SlotKey) -> &mut BTreeSet<(Place, SlotKey)> {
        if self.failing.contains(&slot) { &mut self.due_failing } else { &mut self.due }
    }

    fn present(&self, now: Now) -> Place {
        i64::try_from(now.monotonic.saturating_duration_since(self.start).as_micros()).unwrap_or(i64::MAX)
    }

    fn place(&self, due: Timestamp, now: Now) -> Place {
        let ahead = due.timestamp_micros().saturating_sub(now.time.timestamp_micros());
        self.present(now).saturating_add(ahead)
    }
}

#[cfg(test)]
mod tests;
