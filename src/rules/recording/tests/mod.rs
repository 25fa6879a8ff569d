mod anew;
mod closing;
mod failing;
mod times;

use std::time::Duration;

use chrono::TimeDelta;

use super::*;
use crate::{
    domain::Receipt,
    rules::{
        cadence::Cadences,
        protocol::Answer,
        slot::{GroupState, SlotMessage},
    },
};

fn noon() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

fn minutes(count: i64) -> TimeDelta {
    TimeDelta::minutes(count)
}

fn seq(number: i64) -> MsgSeq {
    MsgSeq::try_from(number).unwrap()
}

fn counted(read: i64, unread: i64) -> Receipt {
    Receipt { code: 0, counts: Counts::new(read, unread) }
}

const NO_RECEIPT: Receipt = Receipt { code: 10062, counts: None };

/// Duration of an attempt, from its sending to its answer.
fn answer_time() -> TimeDelta {
    TimeDelta::seconds(2)
}

/// A message that the slot's last poll, sent a minute ago, saw with 1 read and 2 unread.
fn message(number: i64) -> SlotMessage {
    SlotMessage {
        seq: seq(number),
        sent_at: noon() - minutes(30),
        first_sent_at: noon() - minutes(30),
        first_polled_at: Some(noon() - minutes(25)),
        receipt: Some(counted(1, 2)),
        changed_at: Some(noon() - minutes(20)),
        known_until: Some(noon() - minutes(1)),
        known_apart: false,
        no_receipt_polls: 0,
        refused_since: None,
        has_joined: false,
    }
}

fn never_polled(number: i64) -> SlotMessage {
    SlotMessage { receipt: None, first_polled_at: None, changed_at: None, known_until: None, ..message(number) }
}

fn slot(messages: Vec<SlotMessage>) -> Slot {
    Slot {
        last_polled_at: Some(noon() - minutes(1) + answer_time()),
        known_until: Some(noon() - minutes(1)),
        quiet_polls: 2,
        failures: 1,
        version: 7,
        messages,
        ..Slot::new(SlotKey { group_key: 3, slot_id: 5 }, "group".parse().unwrap(), noon())
    }
}

fn attempt(ended_at: Timestamp) -> Attempt {
    Attempt {
        called_at: ended_at - answer_time(),
        ended_at,
        latency: Duration::from_secs(2),
        http_status: Some(200),
        asked: 1,
        outcome: Ok(Answer::default()),
    }
}

fn answered(receipts: Vec<(MsgSeq, Receipt)>) -> Poll {
    answered_in(vec![(noon(), receipts)])
}

/// A poll of several attempts, with the times of their answers.
fn answered_in(parts: Vec<(Timestamp, Vec<(MsgSeq, Receipt)>)>) -> Poll {
    let mut poll = Poll::ended(PollEnd::Complete);
    for (answered_at, receipts) in parts {
        let attempt = attempt(answered_at);
        poll.receipts.extend(receipts.into_iter().map(|(seq, receipt)| Told::by(&attempt, seq, receipt)));
        poll.attempts.push(attempt);
    }
    poll
}

fn refusal(number: i64) -> Told {
    Told::by(&attempt(noon()), seq(number), Receipt { code: 10004, counts: None })
}

fn record(slot: Slot, poll: Poll) -> Recording {
    record_at(slot, poll, noon())
}

fn record_at(slot: Slot, poll: Poll, now: impl Into<Moment>) -> Recording {
    Recording::of(&slot, &poll, Cadences::of_tiers().of(None), KeepSnapshots::Changes, now)
}

#[test]
fn counts_that_differ_are_kept_with_the_poll_before() {
    let recording =
        record(slot(vec![message(1), message(2)]), answered(vec![(seq(1), counted(2, 1)), (seq(2), counted(1, 2))]));
    let prior_polled_at = Some(noon() - minutes(1));
    let snapshot = Snapshot {
        seq: seq(1),
        receipt: counted(2, 1),
        polled_at: noon(),
        prior_polled_at,
        prior_read_num: Some(1),
        prior_unread_num: Some(2),
        is_webhook: false,
    };
    assert_eq!(recording.snapshots, [snapshot]);
    assert_eq!(recording.messages.len(), 1, "nothing is written about the other");
    assert_eq!(recording.messages[0].receipt, Some(counted(2, 1)));
    assert_eq!((recording.last_polled_at, recording.quiet_polls, recording.failures), (Some(noon()), 0, 0));
    assert_eq!(recording.known_until, Some(noon() - answer_time()), "what the answer saw may have changed since");
}

#[test]
fn a_poll_that_saw_the_same_moves_nothing_but_the_slot() {
    let recording = record(slot(vec![message(1)]), answered(vec![(seq(1), counted(1, 2))]));
    assert!(recording.snapshots.is_empty() && recording.messages.is_empty());
    assert_eq!((recording.last_polled_at, recording.quiet_polls), (Some(noon()), 3));
    assert!(recording.next_poll_at > noon() && recording.next_poll_at <= noon() + minutes(1));
}

#[test]
fn every_poll_is_kept_where_the_config_says_so() {
    let poll = answered(vec![(seq(1), counted(1, 2))]);
    let recording =
        Recording::of(&slot(vec![message(1)]), &poll, Cadences::of_tiers().of(None), KeepSnapshots::EveryPoll, noon());
    assert_eq!(recording.snapshots.len(), 1);
    assert!(recording.messages.is_empty(), "the latest counts are what they were");
}

#[test]
fn a_first_observation_has_no_prior_poll_in_a_polled_slot() {
    let recording = record(slot(vec![message(1), never_polled(2)]), answered(vec![(seq(2), counted(0, 3))]));
    let first = recording.snapshots.iter().find(|snapshot| snapshot.seq == seq(2)).unwrap();
    assert_eq!(first.prior_polled_at, None);
}

#[test]
fn a_message_left_out_stays_known_until_the_poll_before() {
    let recording = record(slot(vec![message(1), message(2)]), answered(vec![(seq(1), counted(1, 2))]));
    let [change] = recording.messages.as_slice() else { panic!("{:?}", recording.messages) };
    assert_eq!((change.seq, change.polled_at, change.known_until), (seq(2), None, Some(noon() - minutes(1))));
    assert!(change.known_apart);
    assert_eq!(change.receipt, Some(counted(1, 2)));
    assert!(recording.snapshots.is_empty());
}

#[test]
fn a_returning_message_has_its_last_observation_as_prior_poll() {
    let hour_ago = noon() - minutes(60);
    let apart = SlotMessage { known_until: Some(hour_ago), known_apart: true, ..message(2) };
    let recording = record(slot(vec![apart.clone()]), answered(vec![(seq(2), counted(3, 0))]));
    assert_eq!(recording.snapshots[0].prior_polled_at, Some(hour_ago));
    assert!(!recording.messages[0].known_apart, "from now on its slot tells");
    let unchanged = record(slot(vec![apart]), answered(vec![(seq(2), counted(1, 2))]));
    assert!(!unchanged.messages[0].known_apart, "also when nothing else changed");
    assert!(unchanged.snapshots.is_empty());
}

#[test]
fn a_receipt_that_ends_leaves_the_counts_that_were_known_last() {
    let ended = record(slot(vec![message(1)]), answered(vec![(seq(1), NO_RECEIPT)]));
    let change = ended.messages[0].clone();
    assert_eq!(change.receipt, Some(Receipt { code: 10062, ..counted(1, 2) }));
    assert_eq!(
        (ended.snapshots[0].receipt, ended.snapshots[0].prior_read_num),
        (NO_RECEIPT, Some(1)),
        "as it was seen"
    );
    let held = SlotMessage { receipt: change.receipt, ..message(1) };
    let again = record(slot(vec![held.clone()]), answered(vec![(seq(1), NO_RECEIPT)]));
    assert!(again.snapshots.is_empty(), "the same once more is no change");
    let back = record(slot(vec![held]), answered(vec![(seq(1), counted(2, 1))]));
    assert_eq!((back.snapshots[0].receipt, back.snapshots[0].prior_read_num), (counted(2, 1), Some(1)));
}

#[test]
fn a_milestone_reached_without_a_receipt_has_no_lower_bound() {
    let reached = |code| {
        let held = SlotMessage { receipt: Some(Receipt { code, ..counted(1, 9) }), ..message(1) };
        let recording = record(slot(vec![held]), answered(vec![(seq(1), counted(6, 4))]));
        recording.milestones[0].1.reached.into_iter().flatten().map(|reached| reached.after).collect::<Vec<_>>()
    };
    assert_eq!(reached(0), [Some(noon() - minutes(1))]);
    assert_eq!(reached(10062), [None], "it may have been reached before the last poll");
}

#[test]
fn slots_are_merged_only_by_a_poll_that_told_something() {
    let mut common = slot(vec![message(1)]);
    let other = SlotMessage { known_until: Some(noon() - minutes(7)), ..message(9) };
    let other = Slot {
        key: SlotKey { group_key: 3, slot_id: 6 },
        version: 4,
        last_polled_at: Some(noon() - minutes(7)),
        ..slot(vec![other])
    };
    common.absorb(other);
    let both = vec![(seq(1), counted(1, 2)), (seq(9), counted(2, 1))];
    let recording = record(common.clone(), answered(both));
    assert_eq!(recording.absorbs, Some((SlotKey { group_key: 3, slot_id: 6 }, 4)));
    assert_eq!(recording.snapshots[0].prior_polled_at, Some(noon() - minutes(7)), "each has its own poll before");
    let failed = Poll::ended(PollEnd::GivenUp);
    assert_eq!(record(common, failed).absorbs, None);
}
