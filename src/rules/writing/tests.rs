use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;

use super::*;
use crate::rules::{
    cadence::Cadences,
    polling::poll_progress::tests::slot,
    recording::{KeepSnapshots, Poll, PollEnd},
    slot::Slot,
};

/// A poll of the slot with this number. It has no attempt, so that it writes one row.
fn poll(slot_id: i64) -> Kept {
    let slot = Slot { key: SlotKey { group_key: 1, slot_id }, ..slot(1) };
    let (poll, now) = (Poll::ended(PollEnd::Complete), slot.next_poll_at);
    Kept::of(slot, poll, Arc::new(Cadences::of_tiers()), 1.0, KeepSnapshots::Changes, now)
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn id(poll: &Kept) -> i64 {
    poll.recording.slot.slot_id
}

/// A task, in short.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Short {
    Receive,
    Wait(Duration),
    WaitForOthers(usize),
    Write(Vec<i64>),
    SetAside(i64),
    Read(Vec<i64>),
    End(Option<Reason>),
}

fn short(task: &Task<'_, Kept>, now: Instant) -> Short {
    let ids = |polls: &[Kept]| polls.iter().map(id).collect();
    match task {
        Task::Receive(_) => Short::Receive,
        Task::Wait(until) => Short::Wait(*until - now),
        Task::WaitForOthers(_, polls) => Short::WaitForOthers(*polls),
        Task::Write(polls) => Short::Write(ids(polls)),
        Task::SetAside(poll, _) => Short::SetAside(id(poll)),
        Task::Read(polls) => Short::Read(ids(polls)),
        Task::End(reason) => Short::End(*reason),
    }
}

fn next(writing: &mut Writing<Kept>, now: Instant) -> Short {
    short(&writing.next(now), now)
}

/// Polls that are due to be written, and the time.
fn gathered(polls: impl IntoIterator<Item = i64>) -> (Writing<Kept>, Instant) {
    let start = Instant::now();
    let mut writing = Writing::new(start);
    polls.into_iter().for_each(|slot| writing.received(poll(slot), start));
    (writing, start + GATHER)
}

#[test]
fn polls_are_gathered_for_a_moment_and_written_together() {
    let (mut writing, start) = (Writing::new(Instant::now()), Instant::now());
    assert!(matches!(writing.next(start), Task::Receive(None)));
    writing.received(poll(1), start);
    assert!(matches!(writing.next(start), Task::Receive(Some(until)) if until == start + GATHER));
    writing.received(poll(2), start + seconds(0.1));
    assert!(matches!(writing.next(start + seconds(0.1)), Task::Receive(Some(until)) if until == start + GATHER));
    assert_eq!(next(&mut writing, start + GATHER), Short::Write(vec![1, 2]));
    writing.wrote(&HashSet::new());
    assert_eq!(next(&mut writing, start + GATHER), Short::Receive);
}

#[test]
fn a_full_batch_is_written_at_once() {
    let (mut writing, now) = gathered(0..4_000);
    let at = now - GATHER;
    let Short::Write(batch) = next(&mut writing, at) else { panic!("{writing:?}") };
    assert_eq!(batch.len(), MAX_ROWS);
}

#[test]
fn a_failed_batch_is_repeated_with_growing_delays() {
    let (mut writing, mut now) = gathered([1, 2]);
    for wait in [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0] {
        assert_eq!(next(&mut writing, now), Short::Write(vec![1, 2]));
        assert!(writing.failed(Failure::Other, now), "it is logged");
        assert!(writing.is_blocked());
        assert_eq!(next(&mut writing, now), Short::Wait(seconds(wait)));
        now += seconds(wait);
    }
    assert_eq!(next(&mut writing, now), Short::Write(vec![1, 2]));
    writing.wrote(&HashSet::new());
    assert_eq!((next(&mut writing, now), writing.is_blocked()), (Short::Receive, false));
}

#[test]
fn what_takes_too_long_is_written_in_smaller_batches() {
    let (mut writing, now) = gathered(1..=4);
    next(&mut writing, now);
    assert!(writing.failed(Failure::TimedOut, now));
    assert_eq!(next(&mut writing, now), Short::Write(vec![1, 2]));
    writing.wrote(&HashSet::new());
    assert_eq!(next(&mut writing, now), Short::Write(vec![3, 4]), "a success doubles the size");
}

#[test]
fn a_refused_poll_is_found_by_halving_and_set_aside() {
    let (mut writing, now) = gathered(1..=4);
    let mut seen = Vec::new();
    loop {
        let task = next(&mut writing, now);
        seen.push(task.clone());
        match task {
            Short::Write(polls) if polls.contains(&3) => assert!(!writing.failed(Failure::Refused, now)),
            Short::Write(_) => writing.wrote(&HashSet::new()),
            Short::SetAside(_) => writing.set_aside(true),
            _ => break,
        }
    }
    let of = |polls: &[i64]| Short::Write(polls.to_vec());
    assert_eq!(seen[..5], [of(&[1, 2, 3, 4]), of(&[1, 2]), of(&[3, 4]), of(&[3]), Short::SetAside(3)]);
    assert_eq!(seen[5..], [of(&[4]), Short::Receive]);
    assert!(!writing.is_blocked());
}

/// Writes what is gathered while the polls of these slots are refused for now, this many times. Returns the slots set
/// aside, and the time that it took.
fn refused_for_now(
    writing: &mut Writing<Kept>,
    start: Instant,
    slots: &[i64],
    mut times: usize,
) -> (Vec<i64>, Duration) {
    let (mut now, mut aside) = (start, Vec::new());
    loop {
        match next(writing, now) {
            Short::Write(polls) if times > 0 && polls.iter().any(|slot| slots.contains(slot)) => {
                writing.failed(Failure::RefusedForNow, now);
                times -= 1;
            }
            Short::Write(_) => writing.wrote(&HashSet::new()),
            Short::SetAside(slot) => {
                aside.push(slot);
                writing.set_aside(true);
            }
            Short::Wait(wait) => now += wait,
            _ => return (aside, now - start),
        }
    }
}

#[test]
fn what_is_refused_for_now_is_repeated_before_it_is_set_aside() {
    let (mut writing, start) = gathered(1..=4);
    let (aside, took) = refused_for_now(&mut writing, start, &[2], 6);
    assert_eq!(aside, Vec::<i64>::new());
    assert!(took < LONGEST_WAIT, "{took:?}");
    let (mut writing, start) = gathered(1..=4);
    let (aside, took) = refused_for_now(&mut writing, start, &[2, 4], usize::MAX);
    assert_eq!(aside, [2, 4]);
    assert!(took < LONGEST_WAIT * 2, "once, and not for each half: {took:?}");
}

#[test]
fn a_group_that_is_always_refused_for_now_does_not_stop_the_others() {
    let (mut writing, mut now) = gathered([1]);
    now += refused_for_now(&mut writing, now, &[1], usize::MAX).1;
    for slot in 2..50 {
        writing.received(poll(slot), now);
        now += GATHER;
        assert_eq!(refused_for_now(&mut writing, now, &[slot], usize::MAX), (vec![slot], Duration::ZERO));
    }
    now += IN_VAIN;
    writing.received(poll(50), now);
    now += GATHER;
    let (aside, took) = refused_for_now(&mut writing, now, &[50], 6);
    assert_eq!((aside, took > Duration::ZERO), (vec![], true), "it may be over by now");
}

#[test]
fn a_slot_that_is_refused_again_waits_longer_each_time() {
    let (mut writing, mut now) = gathered([]);
    let mut pauses = Vec::new();
    for refuses in [true, true, true, false, true] {
        writing.received(poll(1), now);
        now += GATHER;
        assert_eq!(next(&mut writing, now), Short::Write(vec![1]));
        if refuses {
            writing.failed(Failure::Refused, now);
            let Task::SetAside(_, pause) = writing.next(now) else { panic!("it is not set aside") };
            pauses.push(pause);
            writing.set_aside(true);
        } else {
            writing.wrote(&HashSet::new());
        }
        assert_eq!(next(&mut writing, now), Short::Receive);
    }
    assert_eq!(pauses, [1, 2, 3, 1].map(pause));
    assert!(pauses[0] < pauses[1]);
}

#[test]
fn locked_rows_wait_apart_and_are_tried_once_a_second() {
    let (mut writing, now) = gathered([1, 2]);
    next(&mut writing, now);
    writing.found_locked();
    assert_eq!(next(&mut writing, now), Short::Write(vec![1]));
    writing.found_locked();
    assert_eq!(next(&mut writing, now), Short::Write(vec![2]));
    writing.wrote(&HashSet::new());
    assert_eq!(next(&mut writing, now), Short::Write(vec![1]), "the first time at once");
    writing.found_locked();
    assert_eq!((next(&mut writing, now), writing.is_blocked()), (Short::Receive, false), "polling goes on");
    assert_eq!(next(&mut writing, now + seconds(0.9)), Short::Receive);
    assert_eq!(next(&mut writing, now + TRY_LEFT_EVERY), Short::Write(vec![1]));
    writing.wrote(&HashSet::new());
    assert!(matches!(writing.next(now + TRY_LEFT_EVERY), Task::Receive(None)));
}

#[test]
fn when_many_rows_are_locked_everything_waits() {
    let count = i64::try_from(MAX_LEFT).unwrap() + 1;
    let (mut writing, now) = gathered(1..=count);
    let mut tried = 0;
    while let Short::Write(_) = next(&mut writing, now) {
        writing.found_locked();
        tried += 1;
        assert!(tried < 20_000, "it goes on trying");
    }
    assert_eq!((next(&mut writing, now), writing.is_blocked()), (Short::WaitForOthers(MAX_LEFT + 1), true));
}

#[test]
fn polls_of_changed_slots_are_decided_again() {
    let (mut writing, now) = gathered([1, 2, 3]);
    next(&mut writing, now);
    writing.wrote(&HashSet::from([poll(2), poll(3)].map(|poll| poll.recording.slot)));
    assert_eq!(next(&mut writing, now), Short::Read(vec![2, 3]));
    let here = Slot { key: poll(2).recording.slot, version: 7, ..slot(1) };
    let decided = writing.read(Present { slots: vec![here], of_groups: vec![] });
    let gone = decided.needless.iter().map(id).collect::<Vec<_>>();
    assert_eq!((decided.stored.len(), gone), (0, vec![3]), "the slot of the third one was empty and is gone");
    assert_eq!(next(&mut writing, now), Short::Write(vec![2]));
    assert_eq!(writing.unwritten().map(Kept::version).collect::<Vec<_>>(), [7]);
}

#[test]
fn at_the_deadline_nothing_is_repeated_and_all_the_rest_counts() {
    let (mut writing, now) = gathered([1, 2]);
    next(&mut writing, now);
    writing.failed(Failure::Other, now);
    writing.received(poll(3), now);
    writing.give_up();
    assert_eq!(next(&mut writing, now), Short::End(Some(Reason::Stopped)));
    assert_eq!(writing.unwritten().count(), 3);
}

#[test]
fn without_the_lease_nothing_is_written() {
    let (mut writing, now) = gathered([1, 2]);
    next(&mut writing, now);
    assert!(!writing.failed(Failure::LeaseLost, now));
    assert_eq!(next(&mut writing, now), Short::End(Some(Reason::LeaseLost)));
    assert_eq!(writing.unwritten().count(), 2);
}

proptest! {
    #[test]
    fn whatever_happens_each_poll_is_written_once(
        count in 1..40_i64, bad in prop::collection::btree_set(1..40_i64, 0..5), seed in any::<u64>(),
    ) {
        let (mut random, (mut writing, mut now)) = (fastrand::Rng::with_seed(seed), gathered(1..=count));
        writing.closed();
        let mut done: BTreeMap<i64, u32> = BTreeMap::new();
        for _ in 0..20_000 {
            match next(&mut writing, now) {
                Short::Receive => prop_assert!(false, "nothing more comes"),
                Short::Wait(wait) => now += wait,
                Short::WaitForOthers(_) => now += TRY_LEFT_EVERY,
                Short::End(reason) => {
                    prop_assert_eq!((reason, writing.unwritten().count()), (None, 0));
                    prop_assert_eq!(done.into_iter().collect::<Vec<_>>(), (1..=count).map(|slot| (slot, 1)).collect::<Vec<_>>());
                    return Ok(());
                }
                Short::SetAside(slot) => {
                    prop_assert!(bad.contains(&slot), "{slot} is not refused");
                    *done.entry(slot).or_default() += 1;
                    writing.set_aside(random.bool());
                }
                Short::Read(polls) => {
                    let slots = polls.iter().map(|slot| Slot { key: poll(*slot).recording.slot, ..super::tests::slot(1) });
                    writing.read(Present { slots: slots.collect(), of_groups: vec![] });
                }
                Short::Write(polls) => match random.u8(0..8) {
                    0 => writing.found_locked(),
                    1 => writing.found_changed(),
                    2 => _ = writing.failed(Failure::TimedOut, now),
                    3 => _ = writing.failed(Failure::Other, now),
                    4 => _ = writing.failed(Failure::Mended, now),
                    _ if polls.iter().any(|slot| bad.contains(slot)) => _ = writing.failed(Failure::Refused, now),
                    _ => {
                        let changed: BTreeSet<i64> = polls.iter().copied().filter(|_| random.u8(0..6) == 0).collect();
                        let written = polls.iter().filter(|slot| !changed.contains(slot));
                        written.for_each(|slot| *done.entry(*slot).or_default() += 1);
                        writing.wrote(&changed.into_iter().map(|slot| poll(slot).recording.slot).collect());
                    }
                },
            }
            now += seconds(random.f64() / 50.0);
        }
        prop_assert!(false, "it never ends");
    }
}
