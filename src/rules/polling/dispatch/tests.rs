use std::ops::RangeInclusive;

use super::*;
use crate::{
    domain::Timestamp,
    rules::{
        cadence::{Cadences, Next},
        polling::poll_progress::tests::slot as slot_of,
    },
};

/// A dispatcher of an app whose first call was answered, and what it shares with polls.
struct Rig {
    dispatch: Dispatch,
    calls: Calls,
    now: Now,
}

const CONDITIONS: Conditions = Conditions { may_poll: true, rate: 200, in_flight: 0, waiting: 0, failing: 0 };

impl Rig {
    fn new() -> Self {
        let now = Now { time: Timestamp::from_timestamp(1_800_000_000, 0).unwrap(), monotonic: Instant::now() };
        let mut dispatch = Dispatch::new(400, now.monotonic);
        dispatch.loaded(None);
        let mut calls = Calls::new(200, 50, now.monotonic);
        calls.gate.answered(key(1), now.monotonic, now.monotonic);
        Self { dispatch, calls, now }
    }

    fn offer_probes(&mut self, slots: RangeInclusive<i64>) {
        slots.for_each(|slot| self.dispatch.hear(ScheduleNews::Probe(key(slot)), self.now));
    }

    fn offer(&mut self, due: RangeInclusive<i64>) {
        let first = self.now.time - TimeDelta::seconds(1);
        for slot in due {
            self.dispatch.hear(ScheduleNews::Due(key(slot), next(first + TimeDelta::milliseconds(slot))), self.now);
        }
    }

    fn next(&mut self, conditions: Conditions) -> Task {
        self.dispatch.next(&mut self.calls, conditions, self.now)
    }

    /// The slots that are taken while there is room for this number of polls, and which of them are probes.
    fn claim(&mut self, room: usize) -> (Vec<i64>, Vec<i64>) {
        let claimed =
            self.dispatch.claim_due(&self.calls, Room { polls: room, most: usize::MAX, failing: 40 }, self.now);
        (ids(&claimed.slots), ids(&claimed.probes))
    }

    fn start(&mut self, claimed: Claimed, slots: Vec<Slot>) -> Vec<i64> {
        let round = self.dispatch.start(&mut self.calls, claimed, slots, self.now);
        round.polls.iter().map(|poll| poll.slot().key.slot_id).collect()
    }

    /// Reads what the next round claims, and returns the slots that it polls.
    fn read_and_start(&mut self) -> Vec<i64> {
        let Task::Read(claimed) = self.next(CONDITIONS) else { panic!("nothing is read") };
        let slots = claimed.slots.iter().copied().map(slot).collect();
        self.start(claimed, slots)
    }
}

fn next(due: Timestamp) -> Next {
    Next { due, every: Duration::from_secs(60) }
}

fn key(slot_id: i64) -> SlotKey {
    SlotKey { group_key: 1, slot_id }
}

fn ids(slots: &[SlotKey]) -> Vec<i64> {
    slots.iter().map(|slot| slot.slot_id).collect()
}

fn slot(key: SlotKey) -> Slot {
    let group_state = if key.slot_id == 1 { GroupState::Quarantined } else { GroupState::Active };
    Slot { key, group_state, ..slot_of(1) }
}

#[test]
fn group_probes_take_half_of_the_room_and_queue_once_each() {
    let mut rig = Rig::new();
    rig.offer_probes(1..=6);
    rig.offer(301..=400);
    rig.offer_probes(1..=6);
    rig.offer(301..=400);
    assert_eq!(rig.claim(4), (vec![1, 2, 301, 302], vec![1, 2]));
    assert_eq!(rig.claim(4), (vec![3, 4, 303, 304], vec![3, 4]));
    assert_eq!(rig.claim(8), (vec![5, 6, 305, 306, 307, 308, 309, 310], vec![5, 6]));
}

#[test]
fn the_first_call_of_a_term_is_one_of_an_active_group() {
    let mut rig = Rig::new();
    rig.calls = Calls::new(200, 50, rig.now.monotonic);
    rig.offer_probes(1..=1);
    rig.offer(301..=303);
    assert_eq!(rig.read_and_start(), [301]);
    let others: BTreeSet<i64> = rig.claim(40).0.into_iter().collect();
    assert_eq!(others, [1, 302, 303].into(), "the others are due as they were");
}

#[test]
fn the_next_round_makes_the_first_call_if_none_was_made() {
    let mut rig = Rig::new();
    rig.calls = Calls::new(200, 50, rig.now.monotonic);
    for round in 0..2 {
        rig.offer(301..=301);
        let Task::Read(claimed) = rig.next(CONDITIONS) else { panic!("nothing is read in round {round}") };
        assert!(rig.start(claimed, vec![]).is_empty(), "the slot no longer exists");
    }
}

#[test]
fn a_probe_whose_slot_is_in_another_poll_is_made_after_that() {
    let mut rig = Rig::new();
    rig.offer_probes(301..=301);
    rig.offer(301..=301);
    assert_eq!(rig.dispatch.schedule.claim_due(1, 0, rig.now).len(), 1);
    assert_eq!(rig.claim(4), (vec![], vec![]));
    rig.dispatch.hear(ScheduleNews::Returned(key(301)), rig.now);
    assert_eq!(rig.claim(4), (vec![301], vec![301]));
}

#[test]
fn a_failed_read_releases_its_slots_and_keeps_the_schedule() {
    let mut rig = Rig::new();
    rig.offer(301..=303);
    for is_unanswered in [false, true] {
        let Task::Read(claimed) = rig.next(CONDITIONS) else { panic!("nothing is read") };
        assert_eq!(claimed.slots.len(), 3);
        let round = rig.dispatch.not_read(&mut rig.calls, claimed, is_unanswered, rig.now);
        assert_eq!((round.polls.len(), round.wait), (0, READ_AGAIN));
        assert_eq!(rig.dispatch.unsure_after().is_some(), is_unanswered, "a slot may have been split");
    }
}

#[test]
fn polls_start_only_if_there_is_room_for_half_of_those_ahead() {
    let mut rig = Rig::new();
    rig.offer(301..=400);
    let ahead = rig.dispatch.ahead(200);
    let of = |waiting| Conditions { waiting, in_flight: waiting, ..CONDITIONS };
    assert!(matches!(rig.next(of(ahead / 2 + 1)), Task::Wait(COME_ROUND)));
    let Task::Read(claimed) = rig.next(of(ahead / 2)) else { panic!("nothing is read") };
    assert_eq!(claimed.slots.len(), ahead.div_ceil(2));
}

#[test]
fn nothing_starts_while_nothing_can_be_stored() {
    let mut rig = Rig::new();
    rig.offer(301..=301);
    assert!(matches!(rig.next(Conditions { may_poll: false, ..CONDITIONS }), Task::Wait(LOOK_AGAIN)));
    assert!(matches!(rig.next(CONDITIONS), Task::Read(_)));
}

#[test]
fn a_round_reads_one_page_of_the_schedule_and_polls_what_is_due() {
    let mut rig = Rig::new();
    rig.dispatch.hear(ScheduleNews::Unsure, rig.now);
    for slot in 1..=3 {
        assert!(matches!(rig.next(CONDITIONS), Task::Load));
        assert!(rig.dispatch.unsure_after().is_some_and(|after| after < key(slot)));
        let due =
            StoredDue { next_poll_at: rig.now.time, last_polled_at: None, has_failed: false, youngest_sent_at: None };
        rig.dispatch.learn(key(slot), due, Cadences::of_tiers().of(None), rig.now);
        rig.dispatch.loaded((slot < 3).then_some(key(slot)));
        assert!(matches!(rig.next(CONDITIONS), Task::Read(claimed) if ids(&claimed.slots) == [slot]));
    }
    assert!(matches!(rig.next(CONDITIONS), Task::Wait(_)), "all is read, and nothing else is due");
}

#[test]
fn thin_slots_absorb_a_neighbour_that_waits_and_fits() {
    let mut rig = Rig::new();
    rig.offer(301..=301);
    let later = rig.now.time + TimeDelta::hours(1);
    rig.dispatch.hear(ScheduleNews::Due(key(302), next(later)), rig.now);
    let Task::Read(mut claimed) = rig.next(CONDITIONS) else { panic!("nothing is read") };
    let mut contents = Contents::new(50);
    let mut asked = Vec::new();
    let slots = loop {
        match rig.dispatch.read_next(&mut contents, &mut claimed, rig.now) {
            Ok(ContentsTask::Read(slots)) => {
                asked.push(ids(&slots));
                let read = slots.into_iter().map(slot).collect();
                rig.dispatch.has_read(&mut contents, &mut claimed, read, rig.now);
            }
            Ok(ContentsTask::FindNeighbours(slots, 50)) => {
                let pairs = slots.into_iter().map(|slot| (slot, key(302))).collect();
                rig.dispatch.has_found(&mut contents, pairs);
            }
            Ok(task) => panic!("{task:?}"),
            Err(slots) => break slots,
        }
    };
    assert_eq!(asked, [[301], [302]]);
    assert_eq!((ids(&claimed.slots), slots.len()), (vec![301, 302], 1));
    assert_eq!(slots[0].absorbs.as_ref().map(|other| other.key), Some(key(302)));
}

#[test]
fn slots_that_a_round_does_not_split_are_split_by_the_next() {
    let mut rig = Rig::new();
    rig.offer(301..=306);
    let large = |slot: SlotKey| Slot { key: slot, ..slot_of(11) };
    let mut split = Vec::new();
    for _ in 0..2 {
        let Task::Read(mut claimed) = rig.next(CONDITIONS) else { panic!("nothing is read") };
        let mut contents = Contents::new(10);
        let read = claimed.slots.iter().copied().map(large).collect();
        rig.dispatch.has_read(&mut contents, &mut claimed, read, rig.now);
        while let Ok(ContentsTask::Split(slot, 10)) = rig.dispatch.read_next(&mut contents, &mut claimed, rig.now) {
            split.push(slot.key.slot_id);
            rig.dispatch.has_split(&mut contents, vec![], rig.now);
        }
    }
    assert_eq!(split, [301, 302, 303, 304, 305, 306]);
}

#[test]
fn probes_that_the_first_call_of_a_term_leaves_over_are_made_by_a_later_round() {
    let mut rig = Rig::new();
    rig.calls = Calls::new(200, 50, rig.now.monotonic);
    rig.offer_probes(1..=1);
    rig.offer(301..=301);
    assert_eq!(rig.read_and_start(), [301]);
    rig.calls.gate.answered(key(301), rig.now.monotonic, rig.now.monotonic);
    assert_eq!(rig.read_and_start(), [1], "the probe");
}

#[test]
fn a_failed_read_loses_no_probe() {
    let mut rig = Rig::new();
    rig.offer_probes(1..=1);
    let Task::Read(claimed) = rig.next(CONDITIONS) else { panic!("nothing is read") };
    rig.dispatch.not_read(&mut rig.calls, claimed, false, rig.now);
    assert_eq!(rig.read_and_start(), [1], "the probe");
}
