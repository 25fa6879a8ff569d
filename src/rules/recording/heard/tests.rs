use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::rules::{
    cadence::Tier,
    recording::{KeepSnapshots, Poll, PollEnd, Told},
    slot::SlotKey,
};

fn time(millis: i64) -> Timestamp {
    Timestamp::from_timestamp_millis(1_790_000_000_000 + millis).unwrap()
}

fn seq(number: i64) -> MsgSeq {
    MsgSeq::try_from(number).unwrap()
}

fn counted(read: i64, unread: i64) -> Receipt {
    Receipt { code: 0, counts: Counts::new(read, unread) }
}

fn cadence() -> Cadence {
    let hour = Duration::from_secs(3_600);
    Cadence::by_age(vec![Tier { until: hour, every: Duration::from_secs(60) }], true).unwrap()
}

/// A message polled at 10 s, with an answer at 10.1 s.
fn polled(number: i64, receipt: Receipt) -> SlotMessage {
    let (known_until, changed_at) = (Some(time(10_000)), Some(time(10_100)));
    SlotMessage {
        receipt: Some(receipt),
        known_until,
        changed_at,
        first_polled_at: changed_at,
        ..SlotMessage::new(seq(number), time(0))
    }
}

fn slot(messages: Vec<SlotMessage>) -> Slot {
    Slot {
        last_polled_at: Some(time(10_100)),
        known_until: Some(time(10_000)),
        quiet_polls: 3,
        version: 7,
        last_called_at: Some(time(10_000)),
        messages,
        ..Slot::new(SlotKey { group_key: 1, slot_id: 1 }, "g".parse().unwrap(), time(70_000))
    }
}

/// An event that arrives 40 ms after it happened.
fn heard(number: i64, (read, unread): (i64, i64), members: u32, millis: i64) -> Heard {
    let counts = Counts::new(read, unread).unwrap();
    Heard { seq: seq(number), counts, members, happened_at: Some(time(millis)), arrived_at: time(millis + 40) }
}

fn recorded(slot: &Slot, heard: &[Heard]) -> Recording {
    Recording::of_events(slot, heard, &cadence(), time(60_000).into())
}

/// The snapshots added by events: counts, time and previous time, in milliseconds.
fn history(recording: &Recording) -> Vec<(u32, i64, Option<i64>)> {
    let millis = |at: Timestamp| (at - time(0)).num_milliseconds();
    let row = |snapshot: &Snapshot| {
        let read = snapshot.receipt.counts.unwrap().read();
        (read, millis(snapshot.polled_at), snapshot.prior_polled_at.map(millis))
    };
    recording.snapshots.iter().map(row).collect()
}

#[test]
fn an_event_is_exact_if_its_members_are_all_new_readers() {
    for (before, event, members, prior) in [
        ((0, 7), (1, 6), 1, 19_999),
        ((3, 4), (4, 3), 1, 19_999),
        ((3, 4), (4, 3), 4, 19_999),
        ((3, 4), (5, 2), 2, 19_999),
        // Two readers, of whom the event names one: another event was lost.
        ((3, 4), (5, 2), 1, 10_000),
        // The event may contain all readers so far, or the last two.
        ((0, 7), (2, 5), 2, 10_000),
        ((3, 4), (5, 2), 5, 10_000),
        ((3, 4), (4, 3), 0, 10_000),
        // Members have joined or left.
        ((3, 4), (4, 4), 1, 10_000),
    ] {
        let slot = slot(vec![polled(1, counted(before.0, before.1))]);
        let recording = recorded(&slot, &[heard(1, event, members, 20_000)]);
        let read = u32::try_from(event.0).unwrap();
        assert_eq!(history(&recording), [(read, 20_000, Some(prior))], "{before:?} {event:?} {members}");
        let snapshot = recording.snapshots[0];
        assert!(snapshot.is_webhook);
        assert_eq!(snapshot.prior_read_num, u32::try_from(before.0).ok());
    }
}

#[test]
fn readers_are_told_by_events_that_name_only_new_ones() {
    let slot = slot(vec![polled(1, counted(0, 7)), polled(2, counted(3, 4))]);
    let events = [
        heard(1, (1, 6), 1, 20_000),
        heard(2, (4, 3), 4, 20_001), // all so far
        heard(1, (3, 4), 2, 20_002),
        heard(2, (6, 1), 1, 20_003), // an event was lost
        heard(2, (6, 1), 1, 20_004), // nothing new
        heard(2, (7, 0), 1, 20_005),
        heard(3, (1, 6), 1, 20_006), // of another slot
    ];
    let told = Recording::readers_told(&slot, &events, time(60_000).into());
    let told: Vec<_> = told.iter().map(|(place, read)| (*place, read.seq, read.at)).collect();
    assert_eq!(told, [(0, seq(1), time(20_000)), (2, seq(1), time(20_002)), (5, seq(2), time(20_005))]);
}

#[test]
fn an_event_changes_its_message_and_nothing_else() {
    let slot = slot(vec![polled(1, counted(0, 3)), polled(2, counted(1, 2))]);
    let recording = recorded(&slot, &[heard(2, (2, 1), 1, 20_000), heard(9, (1, 1), 1, 20_000)]);
    let [change] = &recording.messages[..] else { panic!("{recording:?}") };
    assert_eq!((change.seq, change.receipt, change.closed), (seq(2), Some(counted(2, 1)), None));
    assert_eq!((change.polled_at, change.known_until), (Some(time(20_000)), Some(time(20_000))));
    assert!(change.known_apart);
    assert_eq!(recording.next_poll_at, slot.next_poll_at);
    assert_eq!((recording.last_polled_at, recording.known_until), (slot.last_polled_at, slot.known_until));
    assert_eq!((recording.quiet_polls, recording.failures, recording.group.is_none()), (3, 0, true));
}

#[test]
fn an_event_closes_nothing_and_leaves_a_slot_due_when_it_was() {
    let slot = slot(vec![polled(1, counted(2, 1)), polled(2, counted(3, 0))]);
    let recording = recorded(&slot, &[heard(1, (3, 0), 1, 20_000)]);
    assert!(recording.messages[0].closed.is_none() && recording.next_poll_at == slot.next_poll_at);
}

#[test]
fn duplicates_and_what_is_known_change_nothing() {
    let slot = slot(vec![polled(1, counted(3, 4))]);
    let twice = [heard(1, (4, 3), 1, 20_000), heard(1, (4, 3), 1, 20_000), heard(1, (3, 4), 1, 19_000)];
    assert_eq!(history(&recorded(&slot, &twice)).len(), 1);
    for known in [heard(1, (3, 4), 1, 20_000), heard(1, (2, 5), 1, 20_000), heard(1, (2, 5), 1, 5_000)] {
        let recording = recorded(&slot, &[known]);
        assert!(recording.messages.is_empty() && recording.snapshots.is_empty(), "{known:?}");
    }
}

#[test]
fn events_of_one_message_follow_each_other() {
    let slot = slot(vec![polled(1, counted(0, 7))]);
    let events = [heard(1, (1, 6), 1, 20_000), heard(1, (2, 5), 1, 20_000), heard(1, (5, 2), 1, 25_000)];
    let recording = recorded(&slot, &events);
    assert_eq!(history(&recording)[0], (1, 20_000, Some(19_999)));
    let [_, second, third] = &recording.snapshots[..] else { panic!("{recording:?}") };
    let just_after = time(20_000) + TimeDelta::microseconds(1);
    assert_eq!((second.prior_polled_at, second.polled_at), (Some(time(20_000)), just_after));
    assert_eq!((third.prior_polled_at, third.polled_at), (Some(time(20_000)), time(25_000)));
    assert_eq!(recording.messages.len(), 1);
}

#[test]
fn the_services_clock_is_not_believed_beyond_what_is_known() {
    let slot = slot(vec![polled(1, counted(3, 4))]);
    let arrived_at = time(20_000);
    for (happened, moment, at, prior) in [
        // The clock is ahead: the event can't have happened after it arrived.
        (Some(50_000), Moment::from(time(60_000)), 20_000, 19_999),
        // The clock is behind: the poll at 10 s saw the previous counts.
        (Some(9_000), time(60_000).into(), 20_000, 10_000),
        (Some(-5_000), time(60_000).into(), 20_000, 10_000),
        (None, time(60_000).into(), 20_000, 10_000),
        (Some(15_000), Moment { time: time(60_000), is_doubted: true }, 20_000, 10_000),
    ] {
        let event = Heard { happened_at: happened.map(time), arrived_at, ..heard(1, (4, 3), 1, 0) };
        let recording = Recording::of_events(&slot, &[event], &cadence(), moment);
        assert_eq!(history(&recording), [(4, at, Some(prior))], "{happened:?}");
    }
    let ahead =
        Slot { messages: vec![SlotMessage { known_until: Some(time(90_000)), ..polled(1, counted(3, 4)) }], ..slot };
    assert!(recorded(&ahead, &[heard(1, (4, 3), 1, 20_000)]).messages.is_empty(), "dated by a wrong clock");
}

#[test]
fn an_event_without_a_usable_time_is_dated_by_its_arrival() {
    let slot = slot(vec![polled(1, counted(3, 4))]);
    let late = Heard { happened_at: Some(time(9_000)), arrived_at: time(30_000), ..heard(1, (4, 3), 1, 0) };
    let next = Heard { arrived_at: time(31_000), ..heard(1, (5, 2), 1, 20_000) };
    let recording = recorded(&slot, &[late, next]);
    // The next member had read it before the first event arrived.
    let just_after = time(30_000) + TimeDelta::microseconds(1);
    assert_eq!(history(&recording), [(4, 30_000, Some(10_000)), (5, 30_000, Some(19_999))]);
    assert_eq!(recording.snapshots[1].polled_at, just_after);
}

#[test]
fn the_first_reader_of_a_message_that_was_never_polled_is_exact() {
    let slot = slot(vec![SlotMessage::new(seq(1), time(0))]);
    let recording = recorded(&slot, &[heard(1, (1, 6), 1, 20_000)]);
    assert_eq!(history(&recording), [(1, 20_000, None)], "the first observation has no earlier one");
    let (_, made) = recording.milestones[0];
    let first = made.reached[0].unwrap();
    assert_eq!((first.after, first.by), (Some(time(19_999)), time(20_000)));
    let jump = recorded(&slot, &[heard(1, (2, 5), 1, 20_000)]);
    assert_eq!(jump.milestones[0].1.reached[0].unwrap().after, None);
}

#[test]
fn the_first_event_that_reaches_a_milestone_counts() {
    let slot = slot(vec![polled(1, counted(0, 2))]);
    let recording = recorded(&slot, &[heard(1, (1, 1), 1, 20_000), heard(1, (2, 0), 1, 30_000)]);
    let [(_, made)] = &recording.milestones[..] else { panic!("{recording:?}") };
    let by: Vec<Timestamp> = made.reached.iter().map(|reached| reached.unwrap().by).collect();
    assert_eq!(by, [20_000, 20_000, 30_000, 30_000, 30_000].map(time));
}

/// A poll sent at 19.9 s and answered at 20.2 s. In between, an event has reported one of its messages.
fn poll_beside_event(read: i64, event_at: i64) -> Recording {
    poll_beside(polled(1, counted(1, 6)), heard(1, (2, 5), 1, event_at), counted(read, 7 - read))
}

/// A poll of a message of which an event was recorded before. It was sent at 19.9 s and answered at 20.2 s.
fn poll_beside(before: SlotMessage, event: Heard, answer: Receipt) -> Recording {
    let before = slot(vec![before]);
    let event = recorded(&before, &[event]);
    let state = SlotMessage {
        receipt: event.messages[0].receipt,
        changed_at: event.messages[0].polled_at,
        known_until: event.messages[0].known_until,
        known_apart: true,
        ..before.messages[0].clone()
    };
    let mut poll = Poll::ended(PollEnd::Complete);
    let (sent_at, answered_at) = (time(19_900), time(20_200));
    poll.receipts.push(Told { seq: seq(1), receipt: answer, sent_at, answered_at });
    let slot = Slot { messages: vec![state], ..before };
    Recording::of(&slot, &poll, &cadence(), KeepSnapshots::Changes, time(21_000))
}

#[test]
fn a_poll_that_read_before_an_event_takes_nothing_back() {
    for event_at in [20_100, 20_500] {
        let stale = poll_beside_event(1, event_at);
        assert!(stale.snapshots.is_empty() && stale.messages.iter().all(|change| !change.differs), "{stale:?}");
        let confirms = poll_beside_event(2, event_at);
        assert!(confirms.snapshots.is_empty(), "{confirms:?}");
        let known = confirms.messages.iter().filter_map(|change| change.known_until).min();
        assert!(known.is_none_or(|known| known >= time(event_at)), "it stays known since the event: {confirms:?}");
    }
}

#[test]
fn a_poll_that_read_after_an_event_continues_from_it() {
    let recording = poll_beside_event(3, 20_100);
    let [snapshot] = recording.snapshots[..] else { panic!("{recording:?}") };
    assert_eq!((snapshot.prior_polled_at, snapshot.polled_at), (Some(time(20_100)), time(20_200)));
    assert_eq!(snapshot.prior_read_num, Some(2));
}

proptest! {
    #[test]
    fn whatever_arrives_in_whatever_order_the_history_rises(
        events in proptest::collection::vec((1_i64..12, 0_u32..4, -5_000_i64..50_000, 0_i64..5_000), 0..30),
    ) {
        let slot = slot(vec![polled(1, counted(2, 9))]);
        let heard: Vec<Heard> = events.iter().map(|(read, members, happened, delay)| Heard {
            seq: seq(1),
            counts: Counts::new(*read, 11 - read).unwrap(),
            members: *members,
            happened_at: Some(time(*happened)),
            arrived_at: time(happened + delay),
        }).collect();
        let recording = recorded(&slot, &heard);
        let (mut read, mut at) = (2, time(10_100));
        for snapshot in &recording.snapshots {
            let now = snapshot.receipt.counts.unwrap().read();
            prop_assert!(now > read && snapshot.polled_at > at && snapshot.prior_read_num == Some(read));
            prop_assert!(snapshot.prior_polled_at.is_some_and(|prior| prior < snapshot.polled_at && prior >= time(10_000)));
            (read, at) = (now, snapshot.polled_at);
        }
        prop_assert_eq!(recording.messages.len(), usize::from(!recording.snapshots.is_empty()));
    }
}

#[test]
fn an_event_beside_a_poll_that_found_a_change_is_news() {
    // The poll was sent at 10 s, read 3 at once, and its answer arrived at 10.1 s. The next member read at 10.05 s.
    let event = |number| Heard { arrived_at: time(10_090), ..heard(number, (4, 3), 1, 10_050) };
    let quiet = SlotMessage { changed_at: Some(time(5_000)), ..polled(1, counted(3, 4)) };
    assert_eq!(recorded(&slot(vec![quiet]), &[event(1)]).snapshots.len(), 1, "the poll found no change");
    assert_eq!(
        recorded(&slot(vec![polled(1, counted(3, 4))]), &[event(1)]).snapshots.len(),
        1,
        "the poll found a change"
    );
}

#[test]
fn first_polled_at_is_that_of_the_first_event() {
    let slot = slot(vec![SlotMessage::new(seq(1), time(0))]);
    let heard = vec![heard(1, (1, 6), 1, 20_000), heard(1, (2, 5), 1, 50_000)];
    let cadences = std::sync::Arc::new(crate::rules::cadence::Cadences::of_tiers());
    let kept = crate::rules::recording::Kept::of_events(slot, heard, cadences, time(60_000).into()).unwrap();
    assert_eq!(kept.recording.snapshots[0].polled_at, time(20_000));
    let outcome = kept.outcome(&[]);
    assert_eq!(outcome.contents.messages()[0].first_polled_at, Some(time(20_000)));
}

#[test]
fn an_early_answer_without_receipt_does_not_replace_a_later_event() {
    // There is no receipt yet at 20.2 s; read at 20.5 s.
    let none = Receipt { code: 10062, counts: None };
    let recording = poll_beside(SlotMessage::new(seq(1), time(0)), heard(1, (1, 6), 1, 20_500), none);
    assert!(recording.snapshots.is_empty(), "{:?}", recording.snapshots);
}
