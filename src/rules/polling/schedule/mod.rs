//! Due times of slots, in memory; the durable copy is `poll_slots.next_poll_at`.
//!
//! A slot either waits for its time or is claimed by a poll. Due times are places on a timeline of the monotonic
//! clock, so that a step of the database's clock neither stops polling nor makes everything due at once. Pure.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Instant,
};

use chrono::TimeDelta;

use crate::{
    domain::Timestamp,
    rules::{
        recording::RETRY_AT_MOST,
        slot::{NewSlot, SlotKey, StoredDue},
    },
};

/// The database's clock, by which due times are stored, and the monotonic clock, read together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub time: Timestamp,
    pub monotonic: Instant,
}

/// Maximum number of slots among which one is drawn.
const DRAWN_FROM: usize = 10_000;

/// A time on the schedule's timeline, in microseconds.
type Place = i64;

/// In a poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Claimed {
    /// When it was due; `None` if the schedule did not know it.
    was: Option<Place>,
    /// It was requested meanwhile to be due again at this time.
    pending: Option<Place>,
}

/// The due times of all slots of an app. A million waiting ones take about 100 MiB, so nothing else is kept of them.
#[derive(Debug)]
pub(crate) struct Schedule {
    start: Instant,
    due: BTreeSet<(Place, SlotKey)>,
    /// The same for slots whose last poll failed.
    due_failing: BTreeSet<(Place, SlotKey)>,
    failing: HashSet<SlotKey>,
    waiting: HashMap<SlotKey, Place>,
    claimed: HashMap<SlotKey, Claimed>,
}

impl Schedule {
    pub(crate) fn new(start: Instant) -> Self {
        let (due, due_failing, failing) = (BTreeSet::new(), BTreeSet::new(), HashSet::new());
        Self { start, due, due_failing, failing, waiting: HashMap::new(), claimed: HashMap::new() }
    }

    /// Sets when a slot is due. While it is claimed, this adds to the result of its poll.
    pub(crate) fn set(&mut self, slot: SlotKey, due: Timestamp, now: Now) {
        let place = self.place(due, now);
        match self.claimed.get_mut(&slot) {
            Some(claimed) => claimed.pending = Some(claimed.pending.map_or(place, |other| other.min(place))),
            None => self.wait(slot, place),
        }
    }

    /// Sets when a slot is due at the latest: a waiting slot is never postponed. So a time that was stored before the
    /// wall clock was set back, and now seems far ahead, does no harm.
    pub(crate) fn bring_forward(&mut self, slot: SlotKey, due: Timestamp, now: Now) {
        let place = self.place(due, now);
        if self.waiting.get(&slot).is_none_or(|known| *known > place) {
            self.set(slot, due, now);
        }
    }

    /// Applies a due time from the database. A waiting slot is only moved forward, and a claimed one is left to its
    /// poll, which the database may not know yet.
    ///
    /// If the last poll is in the future, the wall clock was set back since, and times written by it are late by as
    /// much; failed slots are retried in time, whatever the clock was then.
    pub(crate) fn learn(&mut self, slot: SlotKey, stored: StoredDue, now: Now) {
        let ahead = |polled_at: Timestamp| (polled_at - now.time).max(TimeDelta::zero());
        self.set_failing(slot, stored.has_failed);
        let due = stored.next_poll_at - stored.last_polled_at.map_or(TimeDelta::zero(), ahead);
        if !self.claimed.contains_key(&slot) {
            self.bring_forward(slot, if stored.has_failed { due.min(now.time + RETRY_AT_MOST) } else { due }, now);
        }
    }

    /// Adds a newly created slot.
    pub(crate) fn learn_made(&mut self, made: NewSlot, now: Now) {
        self.set_failing(made.slot, made.fails);
        if !self.claimed.contains_key(&made.slot) {
            self.bring_forward(made.slot, made.next_poll_at, now);
        }
    }

    /// Notes whether the last poll of a slot failed.
    pub(crate) fn set_failing(&mut self, slot: SlotKey, fails: bool) {
        let place = self.unlist(slot);
        _ = if fails { self.failing.insert(slot) } else { self.failing.remove(&slot) };
        if let Some(place) = place {
            self.wait(slot, place);
        }
    }

    /// Claims up to `count` due slots, the most overdue first, and among them up to `failing` whose last poll failed.
    pub(crate) fn claim_due(&mut self, count: usize, mut failing: usize, now: Now) -> Vec<SlotKey> {
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

    /// Claims up to `count` due slots, first those whose last poll did not fail. `draw` returns a fraction from 0 to
    /// 1, at which a slot is taken from the order of due times: so failing slots that are due together can't block
    /// all others.
    pub(crate) fn claim_drawn(&mut self, count: usize, mut draw: impl FnMut() -> f64, now: Now) -> Vec<SlotKey> {
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

    /// Claims up to `count` slots before their time, those due first.
    pub(crate) fn claim_soonest(&mut self, count: usize) -> Vec<SlotKey> {
        let soonest: Vec<SlotKey> = self.due.iter().take(count).map(|(_, slot)| *slot).collect();
        soonest.into_iter().filter(|slot| self.claim(*slot)).collect()
    }

    /// Claims one slot before its time, if it is waiting.
    pub(crate) fn claim(&mut self, slot: SlotKey) -> bool {
        let was = self.unlist(slot);
        was.is_some() && self.claimed.insert(slot, Claimed { was, pending: None }).is_none()
    }

    /// Claims a slot whether it is known or not, unless a poll has it.
    pub(crate) fn claim_unknown(&mut self, slot: SlotKey) -> bool {
        if self.claimed.contains_key(&slot) {
            return false;
        }
        let was = self.unlist(slot);
        self.claimed.insert(slot, Claimed { was, pending: None }).is_none()
    }

    /// Ends a claim: the slot is due at this time, or sooner if that was requested meanwhile.
    pub(crate) fn release(&mut self, slot: SlotKey, due: Timestamp, now: Now) {
        let place = self.place(due, now);
        let pending = self.claimed.remove(&slot).and_then(|claimed| claimed.pending);
        self.wait(slot, pending.map_or(place, |pending| pending.min(place)));
    }

    /// Ends a claim without a poll: the slot's due time is unchanged, on its original clock.
    pub(crate) fn give_back(&mut self, slot: SlotKey, now: Now) {
        if let Some(Claimed { was, pending }) = self.claimed.remove(&slot) {
            let was = was.unwrap_or_else(|| self.present(now));
            self.wait(slot, pending.map_or(was, |pending| pending.min(was)));
        }
    }

    /// Ends a claim: the slot is due at this time and no sooner, also if that was requested meanwhile.
    pub(crate) fn put_off(&mut self, slot: SlotKey, due: Timestamp, now: Now) {
        self.claimed.remove(&slot);
        self.wait(slot, self.place(due, now));
    }

    /// Ends a claim of a slot that must not be polled for now: it is forgotten, unless it was requested meanwhile.
    pub(crate) fn forget(&mut self, slot: SlotKey) {
        match self.claimed.remove(&slot).and_then(|claimed| claimed.pending) {
            Some(pending) => self.wait(slot, pending),
            None => {
                self.unlist(slot);
                self.failing.remove(&slot);
            }
        }
    }

    /// Microseconds until the next slot is due, with `with_failing` also of those whose last poll failed; zero or
    /// less if it is overdue.
    pub(crate) fn until_next(&self, with_failing: bool, now: Now) -> Option<i64> {
        self.first(with_failing).map(|(place, _)| place - self.present(now))
    }

    fn first(&self, with_failing: bool) -> Option<(Place, SlotKey)> {
        self.due.first().into_iter().chain(self.due_failing.first().filter(|_| with_failing)).min().copied()
    }

    /// The number of slots.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.claimed.len()
    }

    fn wait(&mut self, slot: SlotKey, place: Place) {
        self.unlist(slot);
        self.due_of(slot).insert((place, slot));
        self.waiting.insert(slot, place);
    }

    /// Removes a waiting slot. Returns when it was due, if it waited.
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
