//! The order of polls when too much is due.

use std::collections::HashMap;

use super::*;
use crate::rules::polling::stretch::{Load, Stretch};

/// Calls per second.
const LIMIT: usize = 10;

const HOUR: Duration = Duration::from_secs(3_600);

/// A schedule that is polled second by second, with the stretch.
struct Polled {
    schedule: Schedule,
    now: Now,
    stretch: Stretch,
    calls: usize,
    every: HashMap<SlotKey, Duration>,
    polled_at: HashMap<SlotKey, Timestamp>,
    /// The longest wait of each kind of slot, in stretched intervals.
    longest: HashMap<Duration, f64>,
}

fn of(group_key: GroupKey, slot_id: i64) -> SlotKey {
    SlotKey { group_key, slot_id }
}

impl Polled {
    /// Adds this number of slots with an interval of a minute to a group, polled evenly.
    fn of_minutes(slots: i64) -> Self {
        let now = start();
        let mut polled = Self {
            schedule: Schedule::new(now.monotonic),
            now,
            stretch: Stretch::default(),
            calls: 0,
            every: HashMap::new(),
            polled_at: HashMap::new(),
            longest: HashMap::new(),
        };
        for slot in 1..=slots {
            let due = now.time + TimeDelta::milliseconds(60_000 * slot / slots);
            polled.schedule.polled(of(1, slot), Next { due, every: MINUTE }, false, now);
            polled.every.insert(of(1, slot), MINUTE);
        }
        polled
    }

    /// An owner adds slots, which are due immediately.
    fn add(&mut self, slots: impl IntoIterator<Item = SlotKey>, every: Duration) {
        for slot in slots {
            self.schedule.set(slot, Next { due: self.now.time, every }, self.now);
            self.every.insert(slot, every);
        }
    }

    fn runs(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = after(self.now, 1);
            for slot in self.schedule.claim_due(LIMIT, 0, self.now) {
                self.polls(slot);
            }
            if self.stretch.is_due(self.now.monotonic) {
                let behind = self.schedule.until_next(false, self.now).unwrap_or_default().min(0).unsigned_abs();
                let load = Load {
                    demand: self.schedule.demand(),
                    made: std::mem::take(&mut self.calls) as f64 / 10.0,
                    allowed: LIMIT as f64,
                    behind: Duration::from_micros(behind),
                };
                self.stretch.step(&load, self.now.monotonic);
            }
        }
    }

    fn polls(&mut self, slot: SlotKey) {
        let every = self.every[&slot];
        let stretched = every.mul_f64(self.stretch.factor());
        if let Some(before) = self.polled_at.insert(slot, self.now.time) {
            let waited = (self.now.time - before).as_seconds_f64() / stretched.as_secs_f64();
            let longest = self.longest.entry(every).or_default();
            *longest = longest.max(waited);
        }
        self.calls += 1;
        let next = Next { due: self.now.time + TimeDelta::from_std(stretched).unwrap(), every };
        self.schedule.polled(slot, next, false, self.now);
        self.schedule.release(slot, next.due, self.now);
    }

    fn are_polled(&self, slots: impl IntoIterator<Item = SlotKey>) -> bool {
        slots.into_iter().all(|slot| self.polled_at.contains_key(&slot))
    }
}

#[test]
fn lateness_is_shared_in_proportion_to_the_interval() {
    let now = start();
    let mut schedule = Schedule::new(now.monotonic);
    for (slot, late, every) in [(1, 50, 64), (2, 90, 128), (3, 600, 2_048), (4, 30, 64), (5, 20_000, 16_384)] {
        let next = Next { due: secs(now, -late), every: Duration::from_secs(every) };
        schedule.polled(key(slot), next, false, now);
    }
    assert_eq!(ids(schedule.claim_due(9, 0, now)), [5, 1, 2, 4, 3]);
}

#[test]
fn a_bulk_of_old_messages_holds_up_no_slot_of_a_minute_and_ends() {
    let mut polled = Polled::of_minutes(450);
    polled.runs(600);
    let bulk = || (1..=10_000).map(|slot| of(2 + slot % 500, slot.into()));
    polled.add(bulk(), 6 * HOUR);
    polled.runs(6_000);
    assert!(polled.are_polled(bulk()), "five calls a second are left for it");
    assert!(polled.longest[&MINUTE] <= 2.0, "{:?}", polled.longest);
}

#[test]
fn a_resumed_group_delays_no_slot_of_a_minute_and_ends() {
    let mut polled = Polled::of_minutes(450);
    polled.runs(600);
    let resumed = || (1..=1_000).map(|slot| of(2, slot));
    polled.add(resumed(), HOUR);
    polled.runs(600);
    assert!(polled.are_polled(resumed()));
    assert!(polled.longest[&MINUTE] <= 2.0, "{:?}", polled.longest);
}

#[test]
fn many_new_groups_delay_no_slot_of_a_minute_and_end() {
    let mut polled = Polled::of_minutes(300);
    polled.runs(600);
    let new = || (1..=50_000).map(|group| of(1 + group, 1));
    polled.add(new(), MINUTE);
    polled.runs(4 * 3_600);
    assert!(polled.are_polled(new()));
    assert!(polled.longest[&MINUTE] <= 2.0, "{:?}", polled.longest);
}

#[test]
fn first_polls_of_new_messages_come_before_those_of_old_ones() {
    let mut polled = Polled::of_minutes(0);
    polled.add((1..=5_000).map(|group| of(group, 1)), 6 * HOUR);
    polled.runs(10);
    polled.add((1..=20).map(|group| of(group, 2)), MINUTE);
    polled.runs(4);
    assert!(polled.are_polled((1..=20).map(|group| of(group, 2))));
}

#[test]
fn a_group_with_very_many_messages_holds_up_no_other() {
    let mut polled = Polled::of_minutes(300);
    let many = || (1..=2_000).map(|slot| of(2, slot));
    polled.add(many(), MINUTE);
    for group in 3..100 {
        polled.add([of(group, 1)], MINUTE);
        polled.runs(3);
        assert!(polled.are_polled([of(group, 1)]), "group {group}");
    }
    polled.runs(1_200);
    assert!(polled.are_polled(many()) && polled.longest[&MINUTE] <= 2.0, "{:?}", polled.longest);
}

#[test]
fn nobody_is_forgotten_while_three_times_too_much_is_due() {
    let mut polled = Polled::of_minutes(900);
    let tens = || (1..=6_000).map(|slot| of(2, slot));
    let hours = || (1..=18_000).map(|slot| of(3 + slot % 50, slot.into()));
    polled.add(tens(), 10 * MINUTE);
    polled.add(hours(), HOUR);
    polled.runs(6 * 3_600);
    assert!(polled.are_polled(tens()) && polled.are_polled(hours()));
    polled.longest.clear();
    polled.runs(6 * 3_600);
    assert!((2.9..3.7).contains(&polled.stretch.factor()), "{}", polled.stretch.factor());
    assert!(
        polled.longest.len() == 3 && polled.longest.values().all(|longest| *longest <= 2.0),
        "{:?}",
        polled.longest
    );
}
