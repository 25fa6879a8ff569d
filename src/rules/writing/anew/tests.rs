use std::sync::Arc;

use chrono::TimeDelta;

use super::*;
use crate::{
    domain::{Counts, MsgSeq, Receipt, Timestamp},
    rules::{
        cadence::Cadences,
        polling::poll_progress::tests::slot,
        recording::{Heard, KeepSnapshots, Poll, PollEnd, Told},
        slot::SlotMessage,
    },
};

fn at(millis: i64) -> Timestamp {
    slot(1).next_poll_at + TimeDelta::milliseconds(millis)
}

fn key(slot_id: i64) -> SlotKey {
    SlotKey { group_key: 1, slot_id }
}

fn seq(number: i64) -> MsgSeq {
    number.try_into().unwrap()
}

fn counts(read: i64) -> Counts {
    Counts::new(read, 3 - read).unwrap()
}

/// A message that so many have read, known until this time.
fn known(number: i64, read: i64, millis: i64) -> SlotMessage {
    let time = Some(at(millis));
    SlotMessage {
        receipt: Some(Receipt { code: 0, counts: Some(counts(read)) }),
        changed_at: time,
        first_polled_at: time,
        known_until: time,
        known_apart: true,
        ..SlotMessage::new(seq(number), at(-90_000))
    }
}

fn holding(slot_id: i64, messages: Vec<SlotMessage>) -> Slot {
    Slot { key: key(slot_id), messages, ..slot(1) }
}

#[test]
fn a_slot_that_is_not_absorbed_after_all_returns_to_the_schedule() {
    let mut common = holding(1, vec![known(1, 0, -60_000)]);
    common.absorb(holding(2, vec![known(2, 0, -60_000)]));
    let told = |number| {
        let receipt = Receipt { code: 0, counts: Some(counts(0)) };
        Told { seq: seq(number), receipt, sent_at: at(0), answered_at: at(1_000) }
    };
    let answered = Poll { receipts: [1, 2].map(told).into(), ..Poll::ended(PollEnd::Complete) };
    let cadences = Arc::new(Cadences::of_tiers());
    let poll = Kept::of(common, answered, cadences, 1.0, KeepSnapshots::Changes, at(1_000));
    assert_eq!(poll.slots().count(), 2, "the recorder is responsible for both");
    // Events have told of both messages before the poll is stored: no receipt of it is news.
    let slots = vec![holding(1, vec![known(1, 1, 500)]), holding(2, vec![known(2, 1, 500)])];
    let decided = decide(vec![poll], Present { slots, ..Present::default() });
    assert_eq!(decided.polls.iter().flat_map(Kept::slots).collect::<Vec<_>>(), [key(1)]);
    assert_eq!(decided.committed, [Committed::Due(key(2), slot(1).next_poll_at)]);
}

#[test]
fn events_follow_their_message_into_another_slot() {
    let heard = Heard { seq: seq(1), counts: counts(2), members: 1, happened_at: Some(at(10)), arrived_at: at(20) };
    let before = holding(1, vec![known(1, 1, 0), known(2, 1, 0)]);
    let events = Kept::of_events(before, vec![heard], Arc::new(Cadences::of_tiers()), at(100).into()).unwrap();
    let decided = |slots| decide(vec![events.clone()], Present { slots, ..Present::default() });
    let slots = |decided: &Decided<Kept>| decided.polls.iter().flat_map(Kept::slots).collect::<Vec<_>>();
    let absorbed = decided(vec![holding(7, vec![known(1, 1, 0), known(2, 1, 0), known(3, 1, 0)])]);
    assert_eq!(slots(&absorbed), [key(7)]);
    let parted = decided(vec![holding(1, vec![known(2, 1, 0)]), holding(8, vec![known(1, 1, 0)])]);
    assert_eq!(slots(&parted), [key(8)]);
    let gone = decided(vec![holding(1, vec![known(2, 1, 0)])]);
    assert_eq!((slots(&gone), gone.needless.len()), (vec![], 1));
}

#[test]
fn events_follow_their_message_into_a_slot_that_is_being_absorbed() {
    let mut common = holding(1, vec![known(1, 0, -60_000)]);
    common.absorb(holding(2, vec![known(2, 0, -60_000), known(3, 0, -60_000)]));
    let told = |number| {
        let receipt = Receipt { code: 0, counts: Some(counts(1)) };
        Told { seq: seq(number), receipt, sent_at: at(0), answered_at: at(1_000) }
    };
    let answered = Poll { receipts: [1, 2].map(told).into(), ..Poll::ended(PollEnd::Complete) };
    let cadences = Arc::new(Cadences::of_tiers());
    let poll = Kept::of(common, answered, cadences.clone(), 1.0, KeepSnapshots::Changes, at(1_000));
    let heard = Heard { seq: seq(3), counts: counts(2), members: 2, happened_at: Some(at(10)), arrived_at: at(20) };
    // Slot 9 has been merged into slot 2 since.
    let events = Kept::of_events(holding(9, vec![known(3, 0, -60_000)]), vec![heard], cadences, at(100).into());
    let slots =
        vec![holding(1, vec![known(1, 0, -60_000)]), holding(2, vec![known(2, 0, -60_000), known(3, 0, -60_000)])];
    let decided = decide(vec![poll, events.unwrap()], Present { slots, ..Present::default() });
    assert_eq!((decided.polls.len(), decided.needless.len()), (2, 0), "the events are lost");
}
