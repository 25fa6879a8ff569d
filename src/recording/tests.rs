use std::{collections::HashMap, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    cadence::{Cadences, Tier},
    chat::{Answer, Class},
    domain::Counts,
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

/// So long an attempt took, from its sending to its answer.
fn answer_time() -> TimeDelta {
    TimeDelta::seconds(2)
}

/// A message that the slot's last poll, sent a minute ago, saw with 1 read and 2 unread.
fn message(number: i64) -> SlotMessage {
    SlotMessage {
        seq: seq(number),
        sent_at: noon() - minutes(30),
        receipt: Some(counted(1, 2)),
        known_until: Some(noon() - minutes(1)),
        known_apart: false,
        no_receipt_polls: 0,
        refused_since: None,
    }
}

fn never_polled(number: i64) -> SlotMessage {
    SlotMessage { receipt: None, known_until: None, ..message(number) }
}

fn slot(messages: Vec<SlotMessage>) -> Slot {
    Slot {
        key: SlotKey { group_key: 3, slot_id: 5 },
        group_id: "group".parse().unwrap(),
        group_state: GroupState::Active,
        cadence: None,
        next_poll_at: noon(),
        last_polled_at: Some(noon() - minutes(1) + answer_time()),
        known_until: Some(noon() - minutes(1)),
        quiet_polls: 2,
        failures: 1,
        joins: 7,
        messages,
        absorbs: None,
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
    Recording::of(slot, poll, Cadences::default().of(None), KeepSnapshots::Changes, now)
}

#[test]
fn counts_that_differ_are_kept_with_the_poll_before() {
    let recording =
        record(slot(vec![message(1), message(2)]), answered(vec![(seq(1), counted(2, 1)), (seq(2), counted(1, 2))]));
    let prior_polled_at = Some(noon() - minutes(1));
    let snapshot =
        Snapshot { seq: seq(1), receipt: counted(2, 1), polled_at: noon(), prior_polled_at, prior_read_num: Some(1) };
    assert_eq!(recording.snapshots, [snapshot]);
    assert_eq!(recording.messages.len(), 1, "nothing is written about the other");
    assert_eq!(recording.messages[0].receipt, Some(counted(2, 1)));
    assert_eq!((recording.last_polled_at, recording.quiet_polls, recording.failures), (Some(noon()), 0, 0));
    assert_eq!(recording.known_until, Some(noon() - answer_time()), "what the answer saw may have changed since");
}

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
fn the_messages_of_a_split_poll_were_all_there_when_the_next_one_is_due() {
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
fn a_common_poll_that_told_nothing_leaves_each_known_until_its_own_last_poll() {
    let mut common = slot(vec![message(1)]);
    let other = SlotMessage { known_until: Some(noon() - TimeDelta::seconds(10)), ..message(9) };
    let times = Some(noon() - TimeDelta::seconds(10));
    let key = SlotKey { group_key: 3, slot_id: 6 };
    common.absorb(Slot { key, last_polled_at: times, known_until: times, ..slot(vec![other]) });
    let recording = record(common, Poll::ended(PollEnd::GivenUp));
    assert_eq!((recording.absorbs, recording.known_until), (None, Some(noon() - minutes(1))));
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
        Recording::of(slot(vec![message(1)]), poll, Cadences::default().of(None), KeepSnapshots::EveryPoll, noon());
    assert_eq!(recording.snapshots.len(), 1);
    assert!(recording.messages.is_empty(), "the latest counts are what they were");
}

#[test]
fn the_first_observation_has_no_prior_poll_even_in_a_slot_that_was_polled_before() {
    let recording = record(slot(vec![message(1), never_polled(2)]), answered(vec![(seq(2), counted(0, 3))]));
    let first = recording.snapshots.iter().find(|snapshot| snapshot.seq == seq(2)).unwrap();
    assert_eq!(first.prior_polled_at, None);
}

#[test]
fn a_message_that_an_answer_leaves_out_stays_known_until_the_poll_before() {
    let recording = record(slot(vec![message(1), message(2)]), answered(vec![(seq(1), counted(1, 2))]));
    let [change] = recording.messages.as_slice() else { panic!("{:?}", recording.messages) };
    assert_eq!((change.seq, change.polled_at, change.known_until), (seq(2), None, Some(noon() - minutes(1))));
    assert!(change.known_apart);
    assert_eq!(change.receipt, Some(counted(1, 2)));
    assert!(recording.snapshots.is_empty());
}

#[test]
fn when_it_is_answered_again_its_prior_poll_is_the_one_that_last_told_of_it() {
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
fn a_poll_that_told_nothing_moves_no_times_and_is_tried_again_sooner_than_the_cadence_says() {
    let end = PollEnd::GivenUp;
    let poll = Poll { attempts: vec![attempt(noon())], ..Poll::ended(end) };
    let recording = record(slot(vec![message(1), never_polled(2)]), poll);
    assert!(recording.messages.is_empty() && recording.snapshots.is_empty());
    let before = slot(vec![]);
    assert_eq!((recording.last_polled_at, recording.known_until), (before.last_polled_at, before.known_until));
    assert_eq!((recording.failures, recording.quiet_polls), (2, 2));
    assert!(recording.next_poll_at <= noon() + TimeDelta::seconds(20));
}

#[test]
fn retries_grow_apart_but_never_beyond_the_cadence() {
    let old = SlotMessage { sent_at: noon() - TimeDelta::days(10), ..message(1) };
    for (failures, expected) in [(0, 10), (1, 20), (2, 40), (4, 160), (5, 300), (30, 300)] {
        let poll = Poll::ended(PollEnd::GivenUp);
        let slot = Slot { failures, ..slot(vec![old.clone()]) };
        let by_cadence = Cadences::default().of(None).next_poll(Phase::of_slot(5), old.sent_at, noon()).unwrap();
        let due = record(slot, poll).next_poll_at;
        assert_eq!(due, by_cadence.min(noon() + TimeDelta::seconds(expected)), "after {failures} failures");
    }
}

#[test]
fn nothing_expires_while_the_clock_is_in_doubt() {
    let old = SlotMessage { sent_at: noon() - TimeDelta::days(40), ..message(1) };
    let record = |is_doubted| {
        let (poll, now) = (answered(vec![(seq(1), counted(1, 2))]), Moment { time: noon(), is_doubted });
        Recording::of(slot(vec![old.clone()]), poll, Cadences::default().of(None), KeepSnapshots::Changes, now)
    };
    assert_eq!(record(false).messages[0].closed, Some(Closed::Expired));
    let recording = record(true);
    assert!(recording.messages.is_empty() && !recording.is_empty);
    let wait = recording.next_poll_at - noon();
    assert!(wait > TimeDelta::zero() && wait <= TimeDelta::hours(6), "as often as in its last tier: {wait}");
}

#[test]
fn what_was_dated_into_the_future_gets_its_true_time_by_the_next_poll_that_tells() {
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
    };
    assert_eq!(recording.snapshots[0], snapshot, "though nothing has changed");
    assert!(!recording.messages[0].differs && recording.messages[0].seq == seq(1));

    let left_out = record(held(), answered(vec![(seq(2), counted(1, 2))]));
    let known_until = left_out.messages.iter().find(|change| change.seq == seq(1)).unwrap().known_until;
    assert_eq!(known_until, Some(message(1).sent_at), "it was known then or later");

    let failed = record(held(), Poll { receipts: vec![], end: PollEnd::GivenUp, ..answered(vec![]) });
    assert_eq!(failed.last_polled_at, Some(ahead), "a poll that told nothing heals nothing");

    let doubted = Moment { time: noon(), is_doubted: true };
    let of =
        |now| Recording::of(held(), answered(same.clone()), Cadences::default().of(None), KeepSnapshots::Changes, now);
    assert_eq!(
        of(doubted).last_polled_at,
        Some(ahead + TimeDelta::microseconds(1)),
        "it may be the clock that is wrong"
    );
}

#[test]
fn an_answer_that_was_dated_into_the_future_though_it_was_asked_for_by_a_right_clock_gets_its_true_time() {
    let ahead = Slot { last_polled_at: Some(noon() + TimeDelta::days(20)), ..slot(vec![message(1), never_polled(2)]) };
    let recording = record(ahead, answered(vec![(seq(1), counted(1, 2))]));
    let [snapshot] = recording.snapshots.as_slice() else { panic!("{:?}", recording.snapshots) };
    assert_eq!((snapshot.seq, snapshot.polled_at), (seq(1), noon()));
    assert_eq!(snapshot.prior_polled_at, Some(noon() - minutes(1)));
    assert_eq!((recording.last_polled_at, recording.known_until), (Some(noon()), Some(noon() - answer_time())));
}

#[test]
fn all_read_closes_a_message_after_one_confirming_poll() {
    let first = record(slot(vec![message(1)]), answered(vec![(seq(1), counted(3, 0))]));
    assert_eq!(first.messages[0].closed, None);
    let seen = SlotMessage { receipt: Some(counted(3, 0)), ..message(1) };
    let confirmed = record(slot(vec![seen]), answered(vec![(seq(1), counted(3, 0))]));
    assert_eq!(confirmed.messages[0].closed, Some(Closed::AllRead));
    let change = &confirmed.messages[0];
    assert!(change.known_apart, "a closed message says itself until when it is known");
    assert_eq!(change.known_until, Some(noon() - answer_time()));
    assert!(confirmed.is_empty && !first.is_empty);
}

#[test]
fn a_cadence_may_go_on_after_all_have_read() {
    let tier = Tier { until: Duration::from_secs(86_400), every: Duration::from_secs(60) };
    let cadence = Cadence::by_age(vec![tier], false).unwrap();
    let seen = SlotMessage { receipt: Some(counted(3, 0)), ..message(1) };
    let poll = answered(vec![(seq(1), counted(3, 0))]);
    let recording = Recording::of(slot(vec![seen]), poll, &cadence, KeepSnapshots::Changes, noon());
    assert!(recording.messages.is_empty() && !recording.is_empty);
}

#[test]
fn a_message_without_receipt_is_closed_when_several_polls_have_said_so() {
    let mut held = never_polled(1);
    for round in 1..=NO_RECEIPT_POLLS {
        let recording = record(slot(vec![held.clone()]), answered(vec![(seq(1), NO_RECEIPT)]));
        let change = &recording.messages[0];
        assert_eq!(change.closed, (round == NO_RECEIPT_POLLS).then_some(Closed::NoReceipt), "round {round}");
        assert_eq!(recording.snapshots.len(), usize::from(round == 1), "one row for the change to 10062");
        held = SlotMessage { no_receipt_polls: change.no_receipt_polls, receipt: change.receipt, ..held };
    }
    let early = SlotMessage { no_receipt_polls: 2, receipt: Some(NO_RECEIPT), ..message(1) };
    let recording = record(slot(vec![early]), answered(vec![(seq(1), counted(0, 3))]));
    assert_eq!((recording.messages[0].no_receipt_polls, recording.messages[0].closed), (0, None));
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
fn an_old_message_is_polled_once_more_and_then_expired() {
    let old = SlotMessage { sent_at: noon() - TimeDelta::days(30), ..message(1) };
    let recording = record(slot(vec![old.clone(), message(2)]), answered(vec![(seq(1), counted(2, 1))]));
    let closed: Vec<_> = recording.messages.iter().filter_map(|change| change.closed).collect();
    assert_eq!(closed, [Closed::Expired]);
    assert_eq!(recording.snapshots.len(), 1, "what it saw last is kept");
    let failed = Poll::ended(PollEnd::GivenUp);
    assert!(record(slot(vec![old]), failed).messages.is_empty(), "not by a poll that failed");
}

#[test]
fn a_message_a_day_past_its_end_is_expired_by_a_poll_that_failed_and_one_never_seen_after_several() {
    let sent = |days| SlotMessage { sent_at: noon() - TimeDelta::days(days), ..message(1) };
    let unseen = |days| SlotMessage { sent_at: noon() - TimeDelta::days(days), ..never_polled(1) };
    for (message, failures, others, is_expired) in [
        (sent(40), 0, Others::Unknown, true),
        (sent(31), 0, Others::Failing, true),
        (sent(30), 9, Others::Answered, false),
        (unseen(40), 0, Others::Answered, false),
        (unseen(40), 2, Others::Answered, true),
        (unseen(40), 2, Others::Failing, false),
        (unseen(40), 5, Others::Failing, false),
        (unseen(40), 4, Others::Unknown, false),
        (unseen(40), 5, Others::Unknown, true),
    ] {
        let slot = Slot { failures, ..slot(vec![message.clone()]) };
        let recording = record(slot, Poll { others, ..Poll::ended(PollEnd::GivenUp) });
        let closed: Vec<_> = recording.messages.iter().filter_map(|change| change.closed).collect();
        assert_eq!(closed.contains(&Closed::Expired), is_expired, "{message:?} after {failures} failures");
        assert_eq!(recording.is_empty, is_expired);
    }
}

#[test]
fn a_failing_slot_with_an_expired_message_waits_like_any_other() {
    let old = SlotMessage { sent_at: noon() - TimeDelta::days(40), ..never_polled(1) };
    for (failures, seconds) in [(0, 10), (1, 20), (4, 160)] {
        let slot = Slot { failures, ..slot(vec![old.clone()]) };
        let recording = record(slot, Poll::ended(PollEnd::GivenUp));
        assert_eq!(recording.next_poll_at, noon() + TimeDelta::seconds(seconds));
    }
}

#[test]
fn a_slot_that_fails_while_others_are_answered_waits_longer_each_time_whatever_its_cadence() {
    for (failures, expected) in [(2, 10), (3, 20), (5, 80), (13, 20_480), (14, 21_600), (500, 21_600)] {
        let slot = Slot { failures, ..slot(vec![message(1)]) };
        let poll = Poll { others: Others::Answered, ..Poll::ended(PollEnd::GivenUp) };
        let recording = record(slot, poll);
        let due = noon() + TimeDelta::seconds(expected);
        assert_eq!((recording.next_poll_at, recording.join_due), (due, due), "after {failures} failures");
    }
}

#[test]
fn what_fails_while_others_fail_counts_once_whoever_was_to_blame_before() {
    for (others, failures, expected) in [
        (Others::Failing, 0, 1),
        (Others::Failing, 1, 1),
        (Others::Failing, 7, 7),
        (Others::Answered, 1, 2),
        (Others::Unknown, 1, 2),
        (Others::Failing.until(Others::Answered), 1, 1),
        (Others::Answered.until(Others::Failing), 1, 1),
        (Others::Unknown.until(Others::Answered), 1, 2),
    ] {
        let slot = Slot { failures, ..slot(vec![message(1)]) };
        let recording = record(slot, Poll { others, ..Poll::ended(PollEnd::GivenUp) });
        assert_eq!(recording.failures, expected, "{failures} failures, others {others:?}");
        let next_minute = noon() + TimeDelta::minutes(1);
        assert!(recording.next_poll_at <= next_minute || others != Others::Failing, "back by its cadence");
    }
}

#[test]
fn messages_whose_calls_fail_leave_for_slots_of_their_own() {
    let held = slot((1..=6).map(message).collect());
    let (last_polled_at, known_until) = (held.last_polled_at, held.known_until);
    let mut poll = answered([1, 2, 5].map(|number| (seq(number), counted(1, 2))).to_vec());
    poll.failed = vec![vec![seq(3)], vec![seq(4), seq(6)]];
    let recording = record(Slot { failures: 2, ..held }, poll);
    let part = |seqs: &[i64], wait, failures| Part {
        seqs: seqs.iter().map(|number| seq(*number)).collect(),
        last_polled_at,
        known_until,
        next_poll_at: noon() + TimeDelta::seconds(wait),
        failures,
    };
    assert_eq!(recording.parts, [part(&[3], 10, 3), part(&[4, 6], 0, 2)]);
    let left: Vec<_> =
        recording.messages.iter().map(|change| (change.seq, change.known_apart, change.polled_at)).collect();
    assert_eq!(left, [3, 4, 6].map(|number| (seq(number), false, None)), "known as their new slot has it");
    assert_eq!((recording.failures, recording.last_polled_at), (0, Some(noon())), "the others go on");
    assert!(recording.next_poll_at > noon() && recording.next_poll_at <= noon() + minutes(1));
}

#[test]
fn a_message_that_is_known_otherwise_than_its_slot_says_so_when_it_leaves() {
    let known_until = Some(noon() - minutes(7));
    let apart = SlotMessage { known_until, known_apart: true, ..message(2) };
    let poll = Poll { failed: vec![vec![seq(2)]], ..answered(vec![(seq(1), counted(1, 2))]) };
    let recording = record(slot(vec![message(1), apart]), poll);
    assert_eq!((recording.messages[0].known_until, recording.messages[0].known_apart), (known_until, true));
}

#[test]
fn a_slot_that_keeps_nothing_but_messages_that_leave_is_empty() {
    let done = SlotMessage { receipt: Some(counted(3, 0)), ..message(1) };
    let poll = Poll { failed: vec![vec![seq(2)]], ..answered(vec![(seq(1), counted(3, 0))]) };
    let recording = record(slot(vec![done, message(2)]), poll);
    assert!(recording.is_empty && recording.parts.len() == 1);
}

#[test]
fn a_refused_message_leaves_for_a_slot_of_its_own_and_is_closed_when_it_is_refused_for_long() {
    let mut poll = answered(vec![(seq(1), counted(1, 2))]);
    poll.rejected.push(refusal(2));
    let recording = record(slot(vec![message(1), message(2)]), poll.clone());
    let [change] = recording.messages.as_slice() else { panic!("{:?}", recording.messages) };
    assert_eq!((change.seq, change.closed, change.receipt), (seq(2), None, Some(counted(1, 2))));
    assert_eq!((change.no_receipt_polls, change.refused_since), (1, Some(noon())));
    assert_eq!(recording.parts[0].seqs, [seq(2)]);
    assert!(!recording.is_empty && recording.snapshots.is_empty());

    let again = |polls, minutes_ago| {
        let held =
            SlotMessage { no_receipt_polls: polls, refused_since: Some(noon() - minutes(minutes_ago)), ..message(2) };
        let rejected = vec![refusal(2)];
        record(
            Slot { failures: 4, ..slot(vec![held]) },
            Poll { attempts: vec![attempt(noon())], rejected, ..Poll::ended(PollEnd::GivenUp) },
        )
    };
    for (polls, minutes_ago, is_closed) in [(1, 60, false), (2, 4, false), (200, 4, false), (2, 5, true)] {
        let recording = again(polls, minutes_ago);
        let [change] = recording.messages.as_slice() else { panic!("{:?}", recording.messages) };
        assert_eq!(change.closed, is_closed.then_some(Closed::Rejected), "{polls} polls, {minutes_ago} min");
        assert_eq!(change.no_receipt_polls, polls + 1);
        assert_eq!(recording.is_empty, is_closed);
    }
    let closed = again(2, 5);
    assert_eq!(
        closed.messages[0].receipt,
        Some(Receipt { code: 10004, ..counted(1, 2) }),
        "what was known stays known"
    );
    assert_eq!((closed.messages[0].refused_since, closed.snapshots.len()), (None, 1));
}

#[test]
fn a_minute_in_which_every_message_is_refused_closes_none_and_counts_for_none() {
    let rejected: Vec<_> = (1..=3).map(refusal).collect();
    let held = (1..=3).map(|number| SlotMessage {
        no_receipt_polls: 9,
        refused_since: Some(noon() - minutes(60)),
        ..message(number)
    });
    let poll = Poll { attempts: vec![attempt(noon())], rejected, ..Poll::ended(PollEnd::GivenUp) };
    let recording = record(slot(held.collect()), poll);
    assert!(recording.messages.is_empty() && recording.parts.is_empty());
    assert_eq!(recording.failures, 2);
}

#[test]
fn an_answer_ends_what_a_refusal_began_and_the_two_counts_are_not_mixed() {
    let refused = SlotMessage { no_receipt_polls: 2, refused_since: Some(noon() - minutes(60)), ..message(1) };
    let told = |receipt| {
        let change = record(slot(vec![refused.clone()]), answered(vec![(seq(1), receipt)])).messages.remove(0);
        (change.no_receipt_polls, change.refused_since, change.closed)
    };
    assert_eq!(told(counted(2, 1)), (0, None, None));
    assert_eq!(told(NO_RECEIPT), (1, None, None), "the first poll that says so");
    let without = SlotMessage { no_receipt_polls: 2, receipt: Some(NO_RECEIPT), ..message(1) };
    let rejected = vec![refusal(1)];
    let poll = Poll { attempts: vec![attempt(noon())], rejected, ..Poll::ended(PollEnd::GivenUp) };
    let change = record(slot(vec![without]), poll).messages.remove(0);
    assert_eq!((change.no_receipt_polls, change.refused_since, change.closed), (1, Some(noon()), None));
}

fn group_fault(code: i64) -> Poll {
    let failure = Failure { class: Class::GroupFault, code: Some(code), info: "no".into() };
    Poll { attempts: vec![attempt(noon())], ..Poll::ended(PollEnd::GroupFault(failure)) }
}

#[test]
fn a_quarantined_group_is_probed_after_hours_and_one_that_is_gone_after_a_day() {
    for (code, probe_at) in [
        (10007, Some(noon() + PROBE_GROUP_AFTER)),
        (10060, Some(noon() + PROBE_GROUP_AFTER)),
        (10026, Some(noon() + PROBE_GROUP_AFTER)),
        (10010, Some(noon() + PROBE_GONE_AFTER)),
        (10015, Some(noon() + PROBE_GONE_AFTER)),
    ] {
        let recording = record(slot(vec![message(1)]), group_fault(code));
        let Some(GroupChange::Quarantine { code: kept, probe_at: kept_probe, reason }) = recording.group else {
            panic!("{code} makes no quarantine");
        };
        assert_eq!((kept, kept_probe), (code, probe_at));
        assert!(reason.ends_with("(no)") && reason.len() > 20, "{reason}");
        assert_eq!(recording.failures, 1, "the slot is not to blame");
    }
}

#[test]
fn a_probe_that_succeeds_ends_the_quarantine() {
    let quarantined = Slot { group_state: GroupState::Quarantined, ..slot(vec![message(1)]) };
    let recording = record(quarantined, answered(vec![(seq(1), counted(1, 2))]));
    assert_eq!(recording.group, Some(GroupChange::Release));
}

#[test]
fn a_probe_of_a_slot_that_is_empty_by_now_tells_nothing_of_its_group() {
    let quarantined = Slot { group_state: GroupState::Quarantined, ..slot(vec![]) };
    let recording = record(quarantined, Poll { attempts: vec![], ..answered(vec![]) });
    assert_eq!(recording.group, None);
}

#[test]
fn slots_are_merged_only_by_a_poll_that_told_something() {
    let mut common = slot(vec![message(1)]);
    let other = SlotMessage { known_until: Some(noon() - minutes(7)), ..message(9) };
    let other = Slot {
        key: SlotKey { group_key: 3, slot_id: 6 },
        joins: 4,
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

#[test]
fn a_poll_was_due_by_its_cadence_whatever_has_moved_the_schedule_since() {
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
fn messages_that_join_meanwhile_are_due_after_the_interval_of_a_new_message() {
    let recording = record(slot(vec![message(1)]), answered(vec![(seq(1), counted(1, 2))]));
    assert_eq!(recording.join_due, noon() + minutes(1));
}

#[test]
fn a_clock_that_steps_back_moves_no_poll_back_and_delays_none() {
    for (back, is_doubted) in [(TimeDelta::seconds(90), false), (TimeDelta::hours(3), true)] {
        steps_back(noon() - back, is_doubted);
    }
}

fn steps_back(stepped: Timestamp, is_doubted: bool) {
    let poll = answered_in(vec![(stepped, vec![(seq(1), counted(2, 1))])]);
    let recording = record_at(slot(vec![message(1)]), poll, Moment { time: stepped, is_doubted });
    let polled_at = recording.snapshots[0].polled_at;
    assert_eq!(polled_at, noon() - minutes(1) + answer_time() + TimeDelta::microseconds(1));
    assert_eq!(recording.last_polled_at, Some(polled_at));
    assert_eq!(recording.known_until, Some(stepped - answer_time()), "by the clock as it is now");
    assert!(recording.next_poll_at <= stepped + minutes(1), "the next poll goes by the clock as it is");
    assert!(recording.join_due <= stepped + minutes(1));
}

proptest! {
    #[test]
    fn polls_of_a_message_rise_strictly_whatever_the_clock_does_while_it_is_doubted(
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
