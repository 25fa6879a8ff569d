//! When polls were made, until when messages are known, and when slots are due.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[test]
fn each_half_of_a_split_poll_has_its_own_interval() {
    let later = noon() + TimeDelta::seconds(7);
    let poll = answered_in(vec![
        (noon(), vec![(seq(1), counted(1, 2)), (seq(2), counted(2, 1))]),
        (later, vec![(seq(3), counted(1, 2)), (seq(4), counted(2, 1))]),
    ]);
    let recording = record_at(slot((1..=4).map(message).collect()), poll, later);
    let bounds: Vec<_> = recording.snapshots.iter().map(|kept| (kept.prior_polled_at, kept.polled_at)).collect();
    let prior = Some(noon() - minutes(1));
    assert_eq!(bounds, [(prior, noon()), (prior, later)]);
    assert_eq!((recording.last_polled_at, recording.known_until), (Some(later), Some(noon() - answer_time())));
    let apart: Vec<_> = recording
        .messages
        .iter()
        .filter(|change| change.known_apart)
        .map(|change| (change.seq, change.known_until))
        .collect();
    let known_until = Some(later - answer_time());
    assert_eq!(apart, [(seq(3), known_until), (seq(4), known_until)], "the slot tells of the first half");
    assert_eq!(recording.messages.len(), 3, "nothing is written about the one that did not change in the first half");
}

#[test]
fn every_message_of_a_split_poll_counts_for_the_next_due_time() {
    let young = SlotMessage {
        sent_at: noon() - minutes(2),
        known_until: Some(noon() - minutes(1) + TimeDelta::seconds(1)),
        known_apart: true,
        ..message(2)
    };
    let old = SlotMessage { sent_at: noon() - TimeDelta::days(10), ..message(1) };
    let poll = || answered(vec![(seq(1), counted(1, 2)), (seq(2), counted(1, 2))]);
    let both = record(slot(vec![old.clone(), young.clone()]), poll());
    assert!(both.due_at <= noon() + TimeDelta::seconds(2), "by the younger one, and not {}", both.due_at);
    let joined = SlotMessage { known_until: Some(noon() - minutes(5)), ..young };
    assert!(record(slot(vec![old, joined]), poll()).due_at > noon() + minutes(1));
}

#[test]
fn a_failed_common_poll_keeps_the_known_times_of_both_slots() {
    let mut common = slot(vec![message(1)]);
    let other = SlotMessage { known_until: Some(noon() - TimeDelta::seconds(10)), ..message(9) };
    let times = Some(noon() - TimeDelta::seconds(10));
    let key = SlotKey { group_key: 3, slot_id: 6 };
    common.absorb(Slot { key, last_polled_at: times, known_until: times, ..slot(vec![other]) });
    let recording = record(common, Poll::ended(PollEnd::GivenUp));
    assert_eq!((recording.absorbs, recording.known_until), (None, Some(noon() - minutes(1))));
}

#[test]
fn the_next_answered_poll_corrects_times_in_the_future() {
    let ahead = noon() + TimeDelta::days(20);
    let dated_ahead = || SlotMessage { known_until: Some(ahead), ..message(1) };
    let (last_polled_at, known_until) = (Some(ahead), Some(ahead));
    let held = || Slot { last_polled_at, known_until, ..slot(vec![dated_ahead(), never_polled(2)]) };
    let same = vec![(seq(1), counted(1, 2)), (seq(2), counted(1, 2))];
    let recording = record(held(), answered(same.clone()));
    assert_eq!(recording.last_polled_at, Some(noon()));
    let snapshot = Snapshot {
        seq: seq(1),
        receipt: counted(1, 2),
        polled_at: noon(),
        prior_polled_at: Some(message(1).sent_at),
        prior_read_num: Some(1),
        prior_unread_num: Some(2),
        is_webhook: false,
    };
    assert_eq!(recording.snapshots[0], snapshot, "though nothing has changed");
    assert!(!recording.messages[0].differs && recording.messages[0].seq == seq(1));

    let left_out = record(held(), answered(vec![(seq(2), counted(1, 2))]));
    let known_until = left_out.messages.iter().find(|change| change.seq == seq(1)).unwrap().known_until;
    assert_eq!(known_until, Some(message(1).sent_at), "it was known then or later");

    let failed = record(held(), Poll { receipts: vec![], end: PollEnd::GivenUp, ..answered(vec![]) });
    assert_eq!(failed.last_polled_at, Some(ahead), "a poll that told nothing heals nothing");

    let doubted = Moment { time: noon(), is_doubted: true };
    let of = |now| {
        Recording::of(&held(), &answered(same.clone()), Cadences::of_tiers().of(None), KeepSnapshots::Changes, now)
    };
    assert_eq!(
        of(doubted).last_polled_at,
        Some(ahead + TimeDelta::microseconds(1)),
        "it may be the clock that is wrong"
    );
}

#[test]
fn a_future_answer_time_after_a_right_call_time_is_corrected() {
    let ahead = Slot { last_polled_at: Some(noon() + TimeDelta::days(20)), ..slot(vec![message(1), never_polled(2)]) };
    let recording = record(ahead, answered(vec![(seq(1), counted(1, 2))]));
    let [snapshot] = recording.snapshots.as_slice() else { panic!("{:?}", recording.snapshots) };
    assert_eq!((snapshot.seq, snapshot.polled_at), (seq(1), noon()));
    assert_eq!(snapshot.prior_polled_at, Some(noon() - minutes(1)));
    assert_eq!((recording.last_polled_at, recording.known_until), (Some(noon()), Some(noon() - answer_time())));
}

#[test]
fn a_poll_is_due_by_its_cadence_despite_schedule_changes() {
    let due_at = |slot: Slot| {
        let answers = slot.messages.iter().map(|message| (message.seq, counted(1, 2))).collect();
        record_at(slot, answered(answers), noon() + minutes(200)).due_at
    };
    let held_up = Slot { next_poll_at: noon() + minutes(190), failures: 3, ..slot(vec![message(1)]) };
    let due = due_at(held_up.clone());
    assert!(due > noon() - minutes(1) && due <= noon(), "a minute after the last poll at the latest, not at {due}");
    let joined = SlotMessage { sent_at: noon() + minutes(199), ..never_polled(2) };
    assert_eq!(due_at(Slot { messages: vec![message(1), joined.clone()], ..held_up.clone() }), due);
    let only_joined = Slot { messages: vec![joined], ..held_up.clone() };
    assert_eq!(due_at(only_joined), noon() + minutes(190));
    assert_eq!(
        due_at(Slot { last_polled_at: None, messages: vec![never_polled(1)], ..held_up }),
        noon() + minutes(190)
    );
}

#[test]
fn a_clock_that_steps_back_moves_no_poll_back_and_delays_none() {
    for (back, is_doubted) in [(TimeDelta::seconds(90), false), (TimeDelta::hours(3), true)] {
        steps_back(noon() - back, is_doubted);
    }
}

#[test]
fn a_change_after_a_clock_step_back_may_date_from_the_sending() {
    for (back, is_seen) in [(30, false), (59, true), (90, true)] {
        let answered_at = noon() - minutes(1) + answer_time() + TimeDelta::seconds(58 - back);
        let recording = record(slot(vec![message(1)]), answered_in(vec![(answered_at, vec![(seq(1), counted(2, 1))])]));
        let [snapshot] = recording.snapshots.as_slice() else { panic!("{:?}", recording.snapshots) };
        let prior = if is_seen { message(1).sent_at } else { noon() - minutes(1) };
        assert_eq!(snapshot.prior_polled_at, Some(prior), "back by {back} s");
    }
}

#[test]
fn a_moved_message_is_not_seen_before_its_last_change() {
    let moved = |changed_at| SlotMessage { changed_at: Some(changed_at), known_apart: true, ..message(1) };
    let polled_at = |changed_at| {
        let held = Slot { last_polled_at: None, known_until: None, ..slot(vec![moved(changed_at)]) };
        let poll = answered_in(vec![(noon() - TimeDelta::seconds(50), vec![(seq(1), counted(2, 1))])]);
        record(held, poll).snapshots[0].polled_at
    };
    let changed_at = noon() - TimeDelta::seconds(30);
    assert_eq!(polled_at(changed_at), changed_at + TimeDelta::microseconds(1));
    assert_eq!(polled_at(noon() + TimeDelta::days(20)), noon() - TimeDelta::seconds(50), "a clock was wrong");
}

fn steps_back(stepped: Timestamp, is_doubted: bool) {
    let poll = answered_in(vec![(stepped, vec![(seq(1), counted(2, 1))])]);
    let recording = record_at(slot(vec![message(1)]), poll, Moment { time: stepped, is_doubted });
    let polled_at = recording.snapshots[0].polled_at;
    assert_eq!(polled_at, noon() - minutes(1) + answer_time() + TimeDelta::microseconds(1));
    assert_eq!(recording.last_polled_at, Some(polled_at));
    assert_eq!(recording.known_until, Some(stepped - answer_time()), "by the clock as it is now");
    assert!(recording.next_poll_at <= stepped + minutes(1), "the next poll goes by the clock as it is");
}

proptest! {
    #[test]
    fn poll_times_of_a_message_rise_strictly_under_a_doubted_clock(
        steps in proptest::collection::vec((-100_000_i64..100_000, 0_i64..3, any::<bool>()), 1..40),
    ) {
        let mut held = slot(vec![never_polled(1), never_polled(2)]);
        let mut now = noon();
        let mut last: HashMap<MsgSeq, Timestamp> = HashMap::new();
        for (step, read, leave_out) in steps {
            now += TimeDelta::seconds(step);
            let mut receipts = vec![(seq(1), counted(read, 3 - read))];
            if !leave_out { receipts.push((seq(2), counted(read, 4))); }
            let recording = record_at(held.clone(), answered_in(vec![(now, receipts)]), Moment { time: now, is_doubted: true });
            for snapshot in &recording.snapshots {
                prop_assert!(last.get(&snapshot.seq).is_none_or(|last| *last < snapshot.polled_at));
                prop_assert!(snapshot.prior_polled_at.is_none_or(|prior| prior < snapshot.polled_at));
                prop_assert_eq!(snapshot.prior_polled_at.is_none(), !last.contains_key(&snapshot.seq));
                last.insert(snapshot.seq, snapshot.polled_at);
            }
            (held.last_polled_at, held.known_until) = (recording.last_polled_at, recording.known_until);
            for message in &mut held.messages {
                let change = recording.messages.iter().find(|change| change.seq == message.seq);
                if let Some(change) = change {
                    message.receipt = change.receipt;
                    message.known_apart = change.known_apart;
                    message.known_until = change.known_until;
                }
                if !message.known_apart && message.receipt.is_some() {
                    message.known_until = recording.known_until;
                }
            }
        }
    }
}

/// A poll of the slot by the default cadence, with its pace.
fn at_pace(slot: Slot, poll: Poll, stretch: f64) -> Recording {
    let cadences = Cadences::default();
    Recording::of(&slot, &poll, Following { cadence: cadences.of(None), stretch }, KeepSnapshots::Changes, noon())
}

#[test]
fn at_a_pace_slots_with_more_unread_are_due_sooner() {
    let hour = |number| SlotMessage { sent_at: noon() - minutes(61), ..message(number) };
    let wait = |recording: &Recording| (recording.next_poll_at - noon()).as_seconds_f64();
    let told = |read, unread| answered((1..=4).map(|number| (seq(number), counted(read, unread))).collect());
    let four = || slot((1..=4).map(hour).collect());
    let unread = at_pace(four(), told(1, 2), 1.0);
    assert!((360.0..=420.0).contains(&wait(&unread)), "{}", wait(&unread));
    let one = at_pace(slot(vec![hour(1)]), answered(vec![(seq(1), counted(1, 2))]), 1.0);
    assert!((wait(&one) / wait(&unread) - 2.0).abs() < 0.01, "one of them is worth half the calls of four");
    let stretched = at_pace(four(), told(1, 2), 3.0);
    assert!((wait(&stretched) / wait(&unread) - 3.0).abs() < 0.01);
    // All members have read two more: these are confirmed along with the others.
    let mut receipts: Vec<_> = (1..=2).map(|number| (seq(number), counted(1, 2))).collect();
    receipts.extend((3..=4).map(|number| (seq(number), counted(3, 0))));
    let some = at_pace(four(), answered(receipts), 1.0);
    assert!(wait(&some) > 1.4 * wait(&unread) && some.messages.iter().all(|change| change.closed.is_none()));
    let all = at_pace(four(), told(3, 0), 1.0);
    assert!((4_790.0..=4_800.0).contains(&wait(&all)), "8 intervals of 10 minutes: {}", wait(&all));
}

#[test]
fn a_poll_was_due_by_the_unread_count_not_the_stretch() {
    let old = SlotMessage { sent_at: noon() - minutes(120), known_until: Some(noon() - minutes(9)), ..message(1) };
    let held =
        Slot { last_polled_at: Some(noon() - minutes(9)), known_until: Some(noon() - minutes(9)), ..slot(vec![old]) };
    let of = |stretch| at_pace(held.clone(), answered(vec![(seq(1), counted(1, 2))]), stretch).due_at;
    assert_eq!(of(1.0), of(5.0), "a later poll ends a gap, whatever its cause");
    let after = (of(1.0) - (noon() - minutes(9))).as_seconds_f64();
    assert!((1_100.0..1_260.0).contains(&after), "a lone message of nearly two hours: {after}");
}
