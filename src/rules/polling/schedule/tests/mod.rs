mod order;

use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;

use super::*;

fn key(slot_id: i64) -> SlotKey {
    SlotKey { group_key: 1, slot_id }
}

const MINUTE: Duration = Duration::from_secs(60);

fn next(due: Timestamp) -> Next {
    Next { due, every: MINUTE }
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
        schedule.set(key(slot), next(secs(now, due)), now);
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
    schedule.set(key(1), next(now.time), now);
    assert_eq!(ids(schedule.claim_due(9, 9, now)), [1]);
    schedule.set(key(1), next(now.time), now);
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
    schedule.set(key(1), next(now.time), now);
    schedule.set(key(2), next(now.time), now);
    schedule.claim_due(9, 9, now);
    schedule.set(key(2), next(now.time), now);
    schedule.forget(key(1));
    schedule.forget(key(2));
    assert_eq!(ids(schedule.claim_due(9, 9, now)), [2]);
    assert_eq!(schedule.len(), 1);
}

#[test]
fn the_database_only_adds_slots_or_brings_them_forward() {
    let now = start();
    let mut schedule = Schedule::new(now.monotonic);
    for (slot, due) in [(1, 0), (2, 30), (3, 30)] {
        schedule.set(key(slot), next(secs(now, due)), now);
    }
    assert_eq!(ids(schedule.claim_due(9, 9, now)), [1]);
    for (slot, due) in [(1, 0), (2, 60), (3, 20), (4, 10)] {
        schedule.learn(key(slot), stored(now, due, None), MINUTE, now);
    }
    assert_eq!(ids(schedule.claim_due(9, 9, after(now, 29))), [4, 3]);
    assert_eq!(ids(schedule.claim_due(9, 9, after(now, 30))), [2]);
    schedule.release(key(1), secs(now, 60), now);
    assert_eq!(schedule.until_next(true, now), Some(60_000_000), "a poll under way says itself when it is due again");
}

#[test]
fn a_draw_takes_any_due_slot_and_failing_ones_last() {
    let now = start();
    let mut schedule = Schedule::new(now.monotonic);
    (0..10).for_each(|slot| schedule.set(key(slot), next(now.time), now));
    schedule.set(key(10), next(now.time + TimeDelta::minutes(1)), now);
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
        schedule.set(key(slot), next(secs(now, -600)), now);
        schedule.set_failing(key(slot), true);
    }
    (100..300).for_each(|slot| schedule.set(key(slot), next(secs(now, -1)), now));
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
fn a_slot_made_for_a_blamed_message_waits_among_failing_ones() {
    let now = start();
    let mut schedule = Schedule::new(now.monotonic);
    for (slot_id, fails) in [(1, true), (2, false)] {
        schedule.learn_made(NewSlot { slot: key(slot_id), next_poll_at: secs(now, 900), fails }, now);
    }
    assert!(schedule.claim_due(9, 9, after(now, 899)).is_empty());
    assert_eq!(ids(schedule.claim_due(9, 0, after(now, 900))), [2], "the other has no place");
    assert_eq!(ids(schedule.claim_due(9, 1, after(now, 900))), [1]);
}

#[test]
fn a_claim_that_is_given_back_leaves_its_slot_due_when_it_was() {
    let now = start();
    let mut schedule = Schedule::new(now.monotonic);
    schedule.set(key(1), next(secs(now, 300)), now);
    schedule.set(key(2), next(secs(now, 200)), now);
    assert!(schedule.claim(key(1)) && schedule.claim(key(2)) && schedule.claim_unknown(key(3)));
    let later = Now { time: now.time - TimeDelta::hours(1), ..after(now, 10) };
    schedule.set(key(2), next(secs(later, 50)), later);
    (1..=3).for_each(|slot| schedule.give_back(key(slot), later));
    assert_eq!(ids(schedule.claim_due(9, 9, later)), [3], "one that nobody knew is due at once");
    assert_eq!(schedule.until_next(true, later), Some(50_000_000), "asked for meanwhile");
    assert!(schedule.claim(key(2)));
    assert_eq!(schedule.until_next(true, later), Some(290_000_000), "whatever the wall clock does");
}

fn stored(now: Now, due: i64, last_polled_at: Option<i64>) -> StoredDue {
    let last_polled_at = last_polled_at.map(|polled_at| secs(now, polled_at));
    StoredDue { next_poll_at: secs(now, due), last_polled_at, has_failed: false, youngest_sent_at: None }
}

#[test]
fn due_times_stored_before_a_clock_step_back_stay_correct() {
    let now = start();
    let until_next = |stored: StoredDue| {
        let mut schedule = Schedule::new(now.monotonic);
        schedule.learn(key(1), stored, MINUTE, now);
        schedule.until_next(true, now).unwrap() / 1_000_000
    };
    assert_eq!(until_next(stored(now, 3_660, Some(3_600))), 60, "a minute after its last poll");
    assert_eq!(until_next(stored(now, 60, Some(-5))), 60);
    assert_eq!(until_next(stored(now, 7, None)), 7);
    let failed = StoredDue { has_failed: true, ..stored(now, 3_660, Some(-5)) };
    assert_eq!(until_next(failed), 300, "it is tried again within five minutes");
}

#[test]
fn messages_that_join_after_a_step_back_do_not_delay_the_slot() {
    let now = start();
    let mut schedule = Schedule::new(now.monotonic);
    schedule.set(key(1), next(secs(now, 60)), now);
    let back = Now { time: now.time - TimeDelta::hours(1), ..now };
    schedule.bring_forward(key(1), next(secs(now, 60)), back);
    assert_eq!(schedule.until_next(true, back), Some(60_000_000));
    schedule.bring_forward(key(1), next(secs(back, 5)), back);
    assert_eq!(schedule.until_next(true, back), Some(5_000_000));
}

#[test]
fn a_step_of_the_wall_clock_moves_nothing() {
    let now = start();
    let mut schedule = Schedule::new(now.monotonic);
    schedule.set(key(1), next(secs(now, 60)), now);
    let stepped = |hours| Now { time: now.time + TimeDelta::hours(hours), ..after(now, 30) };
    for hours in [-3, 3] {
        assert_eq!(schedule.until_next(true, stepped(hours)), Some(30_000_000), "{hours} h");
    }
    let back = stepped(-3);
    schedule.set(key(2), next(back.time + TimeDelta::seconds(1)), back);
    assert_eq!(schedule.until_next(true, back), Some(1_000_000), "new times are read by the clock as it is");
}

proptest! {
    #[test]
    fn a_slot_is_always_either_waiting_once_or_claimed(
        steps in proptest::collection::vec((0_u8..10, 1_i64..6, -50_i64..50), 1..200),
    ) {
        let now = start();
        let mut schedule = Schedule::new(now.monotonic);
        let known = |schedule: &Schedule| -> BTreeSet<SlotKey> {
            schedule.waiting.keys().chain(schedule.claimed.keys()).copied().collect()
        };
        for (step, slot, due) in steps {
            let before = known(&schedule);
            match step {
                0 => schedule.set(key(slot), next(secs(now, due)), now),
                1 => _ = schedule.claim_due(2, 2, now),
                2 => _ = schedule.claim(key(slot)),
                3 => schedule.release(key(slot), secs(now, due), now),
                4 => schedule.give_back(key(slot), now),
                5 => schedule.set_failing(key(slot), due < 0),
                6 => schedule.polled(key(slot), Next { every: MINUTE * 3, ..next(secs(now, due)) }, due < 9, now),
                7 => schedule.learn(key(slot), stored(now, due, None), MINUTE * 2, now),
                _ => schedule.forget(key(slot)),
            }
            prop_assert!(step > 7 || known(&schedule).is_superset(&before), "only forget() forgets a slot");
            prop_assert!(schedule.claimed.keys().all(|slot| !schedule.waiting.contains_key(slot)));
            let listed = |lane: &Lane, is_of: &dyn Fn(&SlotKey, &Waiting) -> bool| {
                let waiting = schedule.waiting.iter().filter(|(slot, waiting)| is_of(slot, waiting));
                let expected: BTreeSet<_> = waiting.map(|(slot, waiting)| (waiting.order(), *slot)).collect();
                lane.all() == expected
            };
            let fails = |slot: &SlotKey| schedule.failing.contains(slot);
            prop_assert!(listed(&schedule.due_failing, &|slot, _| fails(slot)));
            prop_assert!(listed(&schedule.due, &|slot, waiting| !fails(slot) && waiting.added == 0));
            prop_assert!(listed(&schedule.added, &|slot, waiting| !fails(slot) && waiting.added > 0));
            let added = schedule.waiting.values().filter(|waiting| waiting.added > 0).count();
            prop_assert_eq!(schedule.added_to.values().sum::<u32>() as usize, added);
            let every = schedule.waiting.values().map(|waiting| waiting.every);
            let every = every.chain(schedule.claimed.values().map(|claimed| claimed.every));
            prop_assert_eq!(schedule.demand, every.map(Waiting::demand).sum::<u64>());
        }
    }
}
