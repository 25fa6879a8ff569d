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
    clock::{self, Clock},
    domain::Timestamp,
    recording::RETRY_AT_MOST,
    slot::{SlotKey, StoredDue},
    store::Made,
};

/// The database's clock, by which due times are stored, and the one that nobody sets, read together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub time: Timestamp,
    pub monotonic: Instant,
}

impl Now {
    pub(super) fn of(clock: &Clock) -> Self {
        let monotonic = clock::uptime();
        Self { time: clock.at(monotonic), monotonic }
    }
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
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn key(slot_id: i64) -> SlotKey {
        SlotKey { group_key: 1, slot_id }
    }

    fn ids(slots: Vec<SlotKey>) -> Vec<i64> {
        slots.into_iter().map(|slot| slot.slot_id).collect()
    }

    fn start() -> Now {
        Now { time: "2026-11-23T12:00:00Z".parse().unwrap(), monotonic: Instant::now() }
    }

    fn after(now: Now, seconds: i64) -> Now {
        let monotonic = now.monotonic + Duration::from_secs(seconds.unsigned_abs());
        Now { time: now.time + TimeDelta::seconds(seconds), monotonic }
    }

    fn secs(now: Now, seconds: i64) -> Timestamp {
        now.time + TimeDelta::seconds(seconds)
    }

    #[test]
    fn due_slots_come_oldest_first_and_only_when_due() {
        let now = start();
        let mut schedule = Schedule::new(now.monotonic);
        for (slot, due) in [(1, 5), (2, -30), (3, 0), (4, -60)] {
            schedule.set(key(slot), secs(now, due), now);
        }
        assert_eq!(ids(schedule.claim_due(2, 2, now)), [4, 2]);
        assert_eq!(ids(schedule.claim_due(9, 9, now)), [3]);
        assert_eq!(schedule.until_next(true, now), Some(5_000_000));
        assert_eq!(ids(schedule.claim_due(9, 9, after(now, 5))), [1]);
    }

    #[test]
    fn a_claimed_slot_is_not_claimed_again_before_it_is_released() {
        let now = start();
        let mut schedule = Schedule::new(now.monotonic);
        schedule.set(key(1), now.time, now);
        assert_eq!(ids(schedule.claim_due(9, 9, now)), [1]);
        schedule.set(key(1), now.time, now);
        assert!(schedule.claim_due(9, 9, now).is_empty() && !schedule.claim(key(1)) && !schedule.claim_unknown(key(1)));
        schedule.release(key(1), secs(now, 60), now);
        assert_eq!(ids(schedule.claim_due(9, 9, now)), [1], "it was asked for while it was claimed");
        schedule.release(key(1), secs(now, 60), now);
        assert_eq!(schedule.until_next(true, now), Some(60_000_000));
    }

    #[test]
    fn a_parked_slot_is_forgotten_unless_it_was_asked_for_meanwhile() {
        let now = start();
        let mut schedule = Schedule::new(now.monotonic);
        schedule.set(key(1), now.time, now);
        schedule.set(key(2), now.time, now);
        schedule.claim_due(9, 9, now);
        schedule.set(key(2), now.time, now);
        schedule.forget(key(1));
        schedule.forget(key(2));
        assert_eq!(ids(schedule.claim_due(9, 9, now)), [2]);
        assert_eq!(schedule.len(), 1);
    }

    #[test]
    fn what_the_database_says_adds_slots_and_brings_them_forward_and_does_nothing_else() {
        let now = start();
        let mut schedule = Schedule::new(now.monotonic);
        for (slot, due) in [(1, 0), (2, 30), (3, 30)] {
            schedule.set(key(slot), secs(now, due), now);
        }
        assert_eq!(ids(schedule.claim_due(9, 9, now)), [1]);
        for (slot, due) in [(1, 0), (2, 60), (3, 20), (4, 10)] {
            schedule.learn(key(slot), stored(now, due, None), now);
        }
        assert_eq!(ids(schedule.claim_due(9, 9, after(now, 29))), [4, 3]);
        assert_eq!(ids(schedule.claim_due(9, 9, after(now, 30))), [2]);
        schedule.release(key(1), secs(now, 60), now);
        assert_eq!(
            schedule.until_next(true, now),
            Some(60_000_000),
            "a poll under way says itself when it is due again"
        );
    }

    #[test]
    fn slots_are_drawn_from_anywhere_among_those_that_are_due_and_do_not_fail() {
        let now = start();
        let mut schedule = Schedule::new(now.monotonic);
        (0..10).for_each(|slot| schedule.set(key(slot), now.time, now));
        schedule.set(key(10), now.time + TimeDelta::minutes(1), now);
        schedule.set_failing(key(0), true);
        assert_eq!(ids(schedule.claim_drawn(1, || 0.999, now)), [9]);
        assert_eq!(ids(schedule.claim_drawn(2, || 0.0, now)), [1, 2]);
        assert_eq!(ids(schedule.claim_drawn(9, || 1.0, now)), [8, 7, 6, 5, 4, 3, 0], "what fails comes last");
        assert!(schedule.claim_drawn(1, || 0.5, now).is_empty(), "nothing else is due");
    }

    #[test]
    fn no_more_slots_that_fail_are_claimed_than_have_a_place() {
        let now = start();
        let mut schedule = Schedule::new(now.monotonic);
        for slot in 1..=10 {
            schedule.set(key(slot), secs(now, -600), now);
            schedule.set_failing(key(slot), true);
        }
        (100..300).for_each(|slot| schedule.set(key(slot), secs(now, -1), now));
        let claimed = ids(schedule.claim_due(104, 3, now));
        assert_eq!((&claimed[..4], claimed.len()), (&[1, 2, 3, 100][..], 104), "three find a place, and all others do");
        assert_eq!(schedule.claim_due(1_000, 0, now).len(), 99);
        assert_eq!((schedule.until_next(false, now), schedule.until_next(true, now)), (None, Some(-600_000_000)));
        assert_eq!(ids(schedule.claim_due(9, 2, now)), [4, 5]);
        schedule.set_failing(key(1), false);
        (1..=2).for_each(|slot| schedule.release(key(slot), secs(now, -5), now));
        assert_eq!(ids(schedule.claim_due(9, 0, now)), [1]);
    }

    #[test]
    fn a_slot_that_was_made_for_a_message_to_blame_is_one_that_fails_and_waits_its_time() {
        let now = start();
        let mut schedule = Schedule::new(now.monotonic);
        for (slot_id, fails) in [(1, true), (2, false)] {
            schedule.learn_made(Made { slot: key(slot_id), next_poll_at: secs(now, 900), fails }, now);
        }
        assert!(schedule.claim_due(9, 9, after(now, 899)).is_empty());
        assert_eq!(ids(schedule.claim_due(9, 0, after(now, 900))), [2], "the other has no place");
        assert_eq!(ids(schedule.claim_due(9, 1, after(now, 900))), [1]);
    }

    #[test]
    fn a_claim_that_is_given_back_leaves_its_slot_due_when_it_was() {
        let now = start();
        let mut schedule = Schedule::new(now.monotonic);
        schedule.set(key(1), secs(now, 300), now);
        schedule.set(key(2), secs(now, 200), now);
        assert!(schedule.claim(key(1)) && schedule.claim(key(2)) && schedule.claim_unknown(key(3)));
        let later = Now { time: now.time - TimeDelta::hours(1), ..after(now, 10) };
        schedule.set(key(2), secs(later, 50), later);
        (1..=3).for_each(|slot| schedule.give_back(key(slot), later));
        assert_eq!(ids(schedule.claim_due(9, 9, later)), [3], "one that nobody knew is due at once");
        assert_eq!(schedule.until_next(true, later), Some(50_000_000), "asked for meanwhile");
        assert!(schedule.claim(key(2)));
        assert_eq!(schedule.until_next(true, later), Some(290_000_000), "whatever the wall clock does");
    }

    fn stored(now: Now, due: i64, last_polled_at: Option<i64>) -> StoredDue {
        let last_polled_at = last_polled_at.map(|polled_at| secs(now, polled_at));
        StoredDue { next_poll_at: secs(now, due), last_polled_at, has_failed: false }
    }

    #[test]
    fn what_was_stored_before_the_wall_clock_was_set_back_is_read_by_the_clock_as_it_was() {
        let now = start();
        let until_next = |stored: StoredDue| {
            let mut schedule = Schedule::new(now.monotonic);
            schedule.learn(key(1), stored, now);
            schedule.until_next(true, now).unwrap() / 1_000_000
        };
        assert_eq!(until_next(stored(now, 3_660, Some(3_600))), 60, "a minute after its last poll");
        assert_eq!(until_next(stored(now, 60, Some(-5))), 60);
        assert_eq!(until_next(stored(now, 7, None)), 7);
        let failed = StoredDue { has_failed: true, ..stored(now, 3_660, Some(-5)) };
        assert_eq!(until_next(failed), 300, "it is tried again within five minutes");
    }

    #[test]
    fn messages_that_join_after_the_wall_clock_was_set_back_do_not_put_their_slot_off() {
        let now = start();
        let mut schedule = Schedule::new(now.monotonic);
        schedule.set(key(1), secs(now, 60), now);
        let back = Now { time: now.time - TimeDelta::hours(1), ..now };
        schedule.bring_forward(key(1), secs(now, 60), back);
        assert_eq!(schedule.until_next(true, back), Some(60_000_000));
        schedule.bring_forward(key(1), secs(back, 5), back);
        assert_eq!(schedule.until_next(true, back), Some(5_000_000));
    }

    #[test]
    fn a_step_of_the_wall_clock_moves_nothing() {
        let now = start();
        let mut schedule = Schedule::new(now.monotonic);
        schedule.set(key(1), secs(now, 60), now);
        let stepped = |hours| Now { time: now.time + TimeDelta::hours(hours), ..after(now, 30) };
        for hours in [-3, 3] {
            assert_eq!(schedule.until_next(true, stepped(hours)), Some(30_000_000), "{hours} h");
        }
        let back = stepped(-3);
        schedule.set(key(2), back.time + TimeDelta::seconds(1), back);
        assert_eq!(schedule.until_next(true, back), Some(1_000_000), "new times are read by the clock as it is");
    }

    proptest! {
        #[test]
        fn a_slot_is_always_either_waiting_once_or_claimed(
            steps in proptest::collection::vec((0_u8..8, 1_i64..6, -50_i64..50), 1..200),
        ) {
            let now = start();
            let mut schedule = Schedule::new(now.monotonic);
            for (step, slot, due) in steps {
                match step {
                    0 => schedule.set(key(slot), secs(now, due), now),
                    1 => _ = schedule.claim_due(2, 2, now),
                    2 => _ = schedule.claim(key(slot)),
                    3 => schedule.release(key(slot), secs(now, due), now),
                    4 => schedule.give_back(key(slot), now),
                    5 => schedule.set_failing(key(slot), due < 0),
                    _ => schedule.forget(key(slot)),
                }
                prop_assert!(schedule.claimed.keys().all(|slot| !schedule.waiting.contains_key(slot)));
                let waiting: BTreeSet<_> = schedule.waiting.iter().map(|(slot, place)| (*place, *slot)).collect();
                let (failing, well): (BTreeSet<_>, BTreeSet<_>) =
                    waiting.into_iter().partition(|(_, slot)| schedule.failing.contains(slot));
                prop_assert_eq!((&well, &failing), (&schedule.due, &schedule.due_failing));
            }
        }
    }
}
