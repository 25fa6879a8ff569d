//! Which messages are closed.

use super::*;
use crate::rules::cadence::{Cadence, Tier};

#[test]
fn nothing_expires_while_the_clock_is_in_doubt() {
    let old = SlotMessage { sent_at: noon() - TimeDelta::days(40), ..message(1) };
    let record = |is_doubted| {
        let (poll, now) = (answered(vec![(seq(1), counted(1, 2))]), Moment { time: noon(), is_doubted });
        Recording::of(&slot(vec![old.clone()]), &poll, Cadences::of_tiers().of(None), KeepSnapshots::Changes, now)
    };
    assert_eq!(record(false).messages[0].closed, Some(Closed::Expired));
    let recording = record(true);
    assert!(recording.messages.is_empty() && !recording.is_empty);
    let wait = recording.next_poll_at - noon();
    assert!(wait > TimeDelta::zero() && wait <= TimeDelta::hours(6), "as often as in its last tier: {wait}");
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
    let recording = Recording::of(&slot(vec![seen]), &poll, &cadence, KeepSnapshots::Changes, noon());
    assert!(recording.messages.is_empty() && !recording.is_empty);
}

#[test]
fn several_polls_without_a_receipt_close_a_message() {
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
fn a_failed_poll_expires_seen_messages_and_unseen_ones_later() {
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
fn a_refused_message_gets_its_own_slot_and_is_closed_later() {
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
fn a_poll_with_every_message_refused_closes_none() {
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
fn an_answer_resets_refusals_and_the_counts_stay_separate() {
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
