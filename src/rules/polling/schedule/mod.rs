//! Due times of slots, in memory; the durable copy is `poll_slots.next_poll_at`.
//!
//! A slot either waits for its time or is claimed by a poll. Due times are places on a timeline of the monotonic clock,
//! so that a step of the database's clock neither stops polling nor makes everything due at once. Pure.
//!
//! When more is due than can be polled, lateness is shared in proportion to the intervals. Slots that an owner has just
//! added or resumed have a queue of their own, so that a million of them delay no slot that was polled before.

mod claims;
mod lane;

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use chrono::TimeDelta;

use self::lane::{Lane, Place, Seconds};
use crate::{
    domain::Timestamp,
    rules::{
        cadence::Next,
        recording::RETRY_AT_MOST,
        slot::{GroupKey, NewSlot, SlotKey, StoredDue},
    },
};

/// The database's clock, by which due times are stored, and the monotonic clock, read together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub time: Timestamp,
    pub monotonic: Instant,
}

/// The interval of slots whose own is unknown.
const USUAL: Seconds = 60.0;

/// Each slot that an owner adds to a group counts as due this much later than the one before, so that slots of other
/// groups get in between.
const ONE_AFTER_ANOTHER: Place = 1_000_000;

/// A slot that waits for its time.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Waiting {
    /// When it is due.
    place: Place,
    every: Seconds,
    /// Its number among the slots that an owner has added to its group; 0 if it is due after a poll.
    added: u32,
}

impl Waiting {
    /// Its place in the order of its lane.
    fn order(&self) -> Place {
        self.place + ONE_AFTER_ANOTHER * Place::from(self.added.saturating_sub(1))
    }

    /// Billionths of a call per second: whole numbers add up exactly.
    fn demand(every: Seconds) -> u64 {
        (1e9 / f64::from(every)) as u64
    }
}

/// In a poll.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Claimed {
    /// How it waited; `None` if the schedule did not know it.
    was: Option<Waiting>,
    /// Time at which it is due again, if that was requested meanwhile.
    pending: Option<Place>,
    every: Seconds,
}

/// The due times of all slots of an app. A million waiting ones take about 100 MiB, so little else is kept about them.
#[derive(Debug)]
pub(crate) struct Schedule {
    start: Instant,
    /// Slots that are due after a poll.
    due: Lane,
    /// The same for slots whose last poll failed.
    due_failing: Lane,
    /// Slots that owners have just added or resumed, and that are due immediately.
    added: Lane,
    /// The number of these by group.
    added_to: HashMap<GroupKey, u32>,
    /// Whether one of these was claimed last.
    was_added: bool,
    failing: HashSet<SlotKey>,
    waiting: HashMap<SlotKey, Waiting>,
    claimed: HashMap<SlotKey, Claimed>,
    /// See [`Waiting::demand`].
    demand: u64,
}

impl Schedule {
    pub(crate) fn new(start: Instant) -> Self {
        Self {
            start,
            due: Lane::default(),
            due_failing: Lane::default(),
            added: Lane::default(),
            added_to: HashMap::new(),
            was_added: false,
            failing: HashSet::new(),
            waiting: HashMap::new(),
            claimed: HashMap::new(),
            demand: 0,
        }
    }

    /// Sets when a slot is due that an owner has changed. While it is claimed, this adds to the result of its poll.
    pub(crate) fn set(&mut self, slot: SlotKey, next: Next, now: Now) {
        let (place, every, present) = (self.place(next.due, now), seconds(next.every), self.present(now));
        match self.claimed.get_mut(&slot) {
            Some(claimed) => claimed.pending = Some(claimed.pending.map_or(place, |other| other.min(place))),
            None if place > present => self.wait(slot, Waiting { place, every, added: 0 }),
            None => self.add(slot, place, every),
        }
    }

    /// Sets when a slot is due at the latest: a waiting slot is never postponed. So a time that was stored before the
    /// wall clock was set back, and now seems far ahead, does no harm.
    pub(crate) fn bring_forward(&mut self, slot: SlotKey, next: Next, now: Now) {
        let place = self.place(next.due, now);
        if self.waiting.get(&slot).is_none_or(|known| known.place > place) {
            self.set(slot, next, now);
        }
    }

    /// Sets when a slot that was polled before is due at the latest.
    pub(crate) fn sooner(&mut self, slot: SlotKey, due: Timestamp, now: Now) {
        let place = self.place(due, now);
        match (self.claimed.get_mut(&slot), self.waiting.get(&slot).copied()) {
            (Some(claimed), _) => claimed.pending = Some(claimed.pending.map_or(place, |other| other.min(place))),
            (None, Some(waiting)) if waiting.place <= place => {}
            (None, waiting) => {
                let every = waiting.map_or(USUAL, |waiting| waiting.every);
                self.wait(slot, Waiting { place, every, added: 0 });
            }
        }
    }

    /// Sets when a slot is due after a poll that will be stored, and whether the poll failed.
    pub(crate) fn polled(&mut self, slot: SlotKey, next: Next, fails: bool, now: Now) {
        self.set_failing(slot, fails);
        let (place, every) = (self.place(next.due, now), seconds(next.every));
        match self.claimed.get_mut(&slot) {
            Some(claimed) => {
                claimed.pending = Some(claimed.pending.map_or(place, |other| other.min(place)));
                self.demand -= Waiting::demand(std::mem::replace(&mut claimed.every, every));
                self.demand += Waiting::demand(every);
            }
            None => self.wait(slot, Waiting { place, every, added: 0 }),
        }
    }

    /// Applies a due time from the database. A waiting slot is only moved forward. A claimed one is left to its poll,
    /// which the database may not know yet.
    ///
    /// If the last poll is in the future, the wall clock has been set back since. Times written by it are late by as
    /// much, so they are corrected. Failed slots are retried in time, whatever the clock was then.
    pub(crate) fn learn(&mut self, slot: SlotKey, stored: StoredDue, every: Duration, now: Now) {
        let ahead = |polled_at: Timestamp| (polled_at - now.time).max(TimeDelta::zero());
        self.set_failing(slot, stored.has_failed);
        let due = stored.next_poll_at - stored.last_polled_at.map_or(TimeDelta::zero(), ahead);
        let due = if stored.has_failed { due.min(now.time + RETRY_AT_MOST) } else { due };
        let (place, every) = (self.place(due, now), seconds(every));
        let is_late = self.waiting.get(&slot).is_none_or(|known| known.place > place);
        match stored.last_polled_at {
            _ if self.claimed.contains_key(&slot) || !is_late => {}
            None if !stored.has_failed => self.set(slot, Next { due, every: Duration::from_secs_f32(every) }, now),
            _ => self.wait(slot, Waiting { place, every, added: 0 }),
        }
    }

    /// Adds a newly created slot, for messages of one that was polled.
    pub(crate) fn learn_made(&mut self, made: NewSlot, now: Now) {
        self.set_failing(made.slot, made.fails);
        let (place, every) = (self.place(made.next_poll_at, now), self.every(made.slot));
        let is_late = self.waiting.get(&made.slot).is_none_or(|known| known.place > place);
        if is_late && !self.claimed.contains_key(&made.slot) {
            self.wait(made.slot, Waiting { place, every, added: 0 });
        }
    }

    /// Adds a slot that was split from a claimed one.
    pub(crate) fn learn_split(&mut self, made: SlotKey, from: SlotKey, due: Timestamp, now: Now) {
        self.wait(made, Waiting { place: self.place(due, now), every: self.every(from), added: 0 });
    }

    /// Notes whether the last poll of a slot failed.
    pub(crate) fn set_failing(&mut self, slot: SlotKey, fails: bool) {
        let waiting = self.unlist(slot);
        _ = if fails { self.failing.insert(slot) } else { self.failing.remove(&slot) };
        if let Some(waiting) = waiting {
            self.wait(slot, waiting);
        }
    }

    /// Microseconds until the next slot is due; zero or less if it is overdue. Slots whose last poll failed only count
    /// with `with_failing`.
    pub(crate) fn until_next(&self, with_failing: bool, now: Now) -> Option<i64> {
        let present = self.present(now);
        let failing = self.due_failing.first().filter(|_| with_failing);
        // Added slots are due, whatever their place in the order.
        let added = self.added.first().map(|place| place.min(present));
        self.due.first().into_iter().chain(failing).chain(added).min().map(|place| place - present)
    }

    /// The number of slots.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.claimed.len()
    }

    /// Number of calls per second that the slots need, without a stretch.
    pub(crate) fn demand(&self) -> f64 {
        self.demand as f64 / 1e9
    }

    fn every(&self, slot: SlotKey) -> Seconds {
        let claimed = self.claimed.get(&slot).map(|claimed| claimed.every);
        claimed.or(self.waiting.get(&slot).map(|waiting| waiting.every)).unwrap_or(USUAL)
    }

    /// Adds a slot from an owner: it is due after those that its group has got already.
    fn add(&mut self, slot: SlotKey, place: Place, every: Seconds) {
        self.unlist(slot);
        let added = self.added_to.get(&slot.group_key).copied().unwrap_or_default().saturating_add(1);
        self.wait(slot, Waiting { place, every, added });
    }

    fn wait(&mut self, slot: SlotKey, waiting: Waiting) {
        self.unlist(slot);
        let waiting = if self.failing.contains(&slot) { Waiting { added: 0, ..waiting } } else { waiting };
        if waiting.added > 0 {
            *self.added_to.entry(slot.group_key).or_default() += 1;
        }
        self.lane(slot, &waiting).insert(waiting.every, waiting.order(), slot);
        self.demand += Waiting::demand(waiting.every);
        self.waiting.insert(slot, waiting);
    }

    /// Removes a waiting slot. Returns how it waited, if it did.
    fn unlist(&mut self, slot: SlotKey) -> Option<Waiting> {
        let waiting = self.waiting.remove(&slot)?;
        self.lane(slot, &waiting).remove(waiting.every, waiting.order(), slot);
        self.demand -= Waiting::demand(waiting.every);
        if waiting.added > 0
            && let Some(count) = self.added_to.get_mut(&slot.group_key)
        {
            *count -= 1;
            if *count == 0 {
                self.added_to.remove(&slot.group_key);
            }
        }
        Some(waiting)
    }

    fn lane(&mut self, slot: SlotKey, waiting: &Waiting) -> &mut Lane {
        match waiting.added {
            _ if self.failing.contains(&slot) => &mut self.due_failing,
            0 => &mut self.due,
            _ => &mut self.added,
        }
    }

    fn insert_claimed(&mut self, slot: SlotKey, claimed: Claimed) {
        self.demand += Waiting::demand(claimed.every);
        self.claimed.insert(slot, claimed);
    }

    fn remove_claimed(&mut self, slot: SlotKey) -> Option<Claimed> {
        let claimed = self.claimed.remove(&slot)?;
        self.demand -= Waiting::demand(claimed.every);
        Some(claimed)
    }

    fn present(&self, now: Now) -> Place {
        i64::try_from(now.monotonic.saturating_duration_since(self.start).as_micros()).unwrap_or(i64::MAX)
    }

    fn place(&self, due: Timestamp, now: Now) -> Place {
        let ahead = due.timestamp_micros().saturating_sub(now.time.timestamp_micros());
        self.present(now).saturating_add(ahead)
    }
}

fn seconds(every: Duration) -> Seconds {
    every.as_secs_f32().max(1e-3)
}

#[cfg(test)]
mod tests;
