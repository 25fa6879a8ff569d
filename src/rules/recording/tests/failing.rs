//! The consequences of failed polls.

use super::*;
use crate::rules::{
    protocol::{Class, Failure},
    recording::quarantine::{PROBE_GONE_AFTER, PROBE_GROUP_AFTER},
};

#[test]
fn a_failed_poll_moves_no_times_and_retries_before_its_cadence() {
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
        let cadences = Cadences::of_tiers();
        let following = Following::from(cadences.of(None));
        let by_cadence = following.due(Phase::of_slot(5), noon(), [old.known()]).unwrap();
        let due = record(slot, poll).next_poll_at;
        assert_eq!(due, by_cadence.min(noon() + TimeDelta::seconds(expected)), "after {failures} failures");
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
fn a_slot_failing_alone_backs_off_whatever_its_cadence() {
    for (failures, expected) in [(2, 10), (3, 20), (5, 80), (13, 20_480), (14, 21_600), (500, 21_600)] {
        let slot = Slot { failures, ..slot(vec![message(1)]) };
        let poll = Poll { others: Others::Answered, ..Poll::ended(PollEnd::GivenUp) };
        let recording = record(slot, poll);
        let due = noon() + TimeDelta::seconds(expected);
        assert_eq!(recording.next_poll_at, due, "after {failures} failures");
    }
}

#[test]
fn repeated_failures_in_an_outage_count_once() {
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
fn a_message_known_apart_keeps_its_own_time_when_it_leaves() {
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

fn group_fault(code: i64) -> Poll {
    let failure = Failure { class: Class::GroupFault, code: Some(code), info: "no".into() };
    Poll { attempts: vec![attempt(noon())], ..Poll::ended(PollEnd::GroupFault(failure)) }
}

#[test]
fn a_gone_group_is_probed_later_than_another_quarantined_one() {
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
fn a_probe_of_an_empty_slot_tells_nothing_of_its_group() {
    let quarantined = Slot { group_state: GroupState::Quarantined, ..slot(vec![]) };
    let recording = record(quarantined, Poll { attempts: vec![], ..answered(vec![]) });
    assert_eq!(recording.group, None);
}
