mod blame;

use std::collections::BTreeSet;

use proptest::prelude::*;

use self::blame::{all_but, poll_until};
use super::*;
use crate::{
    domain::{Counts, Timestamp},
    rules::{
        cadence::Cadences,
        polling::{batch_limit::takes_only, retry::MAX_ATTEMPTS},
        protocol::Answer,
        recording::{KeepSnapshots, Recording},
        slot::{SlotKey, SlotMessage},
    },
};

/// Calls may ask for all messages.
const ALL: BatchSizes = BatchSizes { first: 200, others: 200 };

fn now() -> Timestamp {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

pub fn slot(messages: i64) -> Slot {
    let message = |seq| SlotMessage::new(MsgSeq::try_from(seq).unwrap(), now());
    Slot {
        messages: (1..=messages).map(message).collect(),
        ..Slot::new(SlotKey { group_key: 1, slot_id: 1 }, "g".parse().unwrap(), now())
    }
}

fn attempt(batch: &[MsgSeq], code: i64) -> Attempt {
    let receipt = Receipt { code: 0, counts: Counts::new(1, 1) };
    let answer = Answer { receipts: batch.iter().map(|seq| (*seq, receipt)).collect(), bad_entries: 0 };
    let failure = |class| Failure { class, code: Some(code), info: String::new() };
    let (called_at, ended_at, latency) = (now(), now(), Duration::ZERO);
    let outcome = if code == 0 { Ok(answer) } else { Err(failure(Class::of_code(code))) };
    Attempt { called_at, ended_at, latency, http_status: Some(200), asked: batch.len(), outcome }
}

#[test]
fn a_second_refusal_of_the_signature_stops_the_app() {
    let mut asking = PollProgress::new(&slot(2), ALL, Others::Answered);
    let batch = asking.batch().unwrap().to_vec();
    assert_eq!(asking.record(attempt(&batch, 70003), || true), Step::Continue);
    assert_eq!(asking.batch(), Some(batch.as_slice()), "once more, with a new signature");
    assert!(matches!(asking.record(attempt(&batch, 70003), || true), Step::StopApp(_)));
    assert!(asking.batch().is_none());
    assert_eq!(asking.into_poll().end, PollEnd::Stopped);
}

#[test]
fn a_failed_account_check_is_retried_after_a_new_signature() {
    for code in [60004, 60005] {
        let mut asking = PollProgress::new(&slot(2), ALL, Others::Answered);
        let batch = asking.batch().unwrap().to_vec();
        assert_eq!(asking.record(attempt(&batch, code), || true), Step::Continue, "a new signature");
        for _ in 1..MAX_ATTEMPTS {
            assert!(matches!(asking.record(attempt(&batch, code), || false), Step::Wait(_)), "{code}");
        }
        assert_eq!(asking.record(attempt(&batch, code), || false), Step::Continue);
        assert_eq!(asking.into_poll().end, PollEnd::GivenUp);
    }
}

#[test]
fn a_probe_of_a_group_that_refuses_everything_makes_few_calls() {
    let group = Slot { group_state: GroupState::Quarantined, ..slot(50) };
    let mut asking = PollProgress::new(&group, ALL, Others::Answered);
    let mut calls = 0;
    while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
        asking.record(attempt(&batch, 10004), || false);
        calls += 1;
    }
    let poll = asking.into_poll();
    assert_eq!((calls, poll.rejected.len()), (MAX_REFUSALS_OF_A_PROBE, 0));
    assert!(matches!(poll.end, PollEnd::GroupFault(Failure { code: Some(10004), .. })), "{:?}", poll.end);
}

#[test]
fn a_ready_signature_that_is_refused_stops_the_app_at_once() {
    let mut asking = PollProgress::new(&slot(2), ALL, Others::Answered);
    let batch = asking.batch().unwrap().to_vec();
    assert!(matches!(asking.record(attempt(&batch, 70003), || false), Step::StopApp(_)));
}

#[test]
fn a_poll_that_times_out_twice_gives_up_its_place() {
    let mut asking = PollProgress::new(&slot(2), ALL, Others::Answered);
    let batch = asking.batch().unwrap().to_vec();
    let hanging = Attempt { latency: Duration::from_secs(8), ..attempt(&batch, 10002) };
    assert!(matches!(asking.record(hanging.clone(), || true), Step::Wait(_)));
    assert_eq!(asking.record(hanging, || true), Step::Continue);
    assert!(asking.batch().is_none());
    assert_eq!(asking.into_poll().end, PollEnd::GivenUp);
}

proptest! {
    #[test]
    fn bad_messages_do_not_keep_good_ones_from_being_observed(
        messages in 1_i64..60,
        bad in proptest::collection::btree_set(1_u32..60, 0..12),
        hangs in any::<bool>(),
    ) {
        let bad: BTreeSet<u32> = bad.into_iter().filter(|seq| i64::from(*seq) <= messages).collect();
        let latency = if hangs { Duration::from_secs(5) } else { Duration::from_millis(20) };
        let good = all_but(messages, &bad);
        let (_, _, calls, took) = poll_until(slot(messages), &bad, (10002, latency), |_, answered| *answered == good);
        prop_assert!(calls <= 20 + 14 * bad.len(), "{calls} calls failed");
        prop_assert!(took <= chrono::TimeDelta::minutes(40), "{took}");
    }

    #[test]
    fn halving_rejects_only_bad_messages_and_reports_each_once(
        messages in 1_i64..130,
        bad in proptest::collection::btree_set(1_u32..130, 0..6),
        gone in proptest::collection::btree_set(1_u32..130, 0..6),
    ) {
        let mut asking = PollProgress::new(&slot(messages), ALL, Others::Answered);
        let mut calls = 0;
        while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
            calls += 1;
            let holds = |seqs: &BTreeSet<u32>| batch.iter().any(|seq| seqs.contains(&seq.get()));
            let code = if holds(&bad) { 10004 } else if holds(&gone) { 10062 } else { 0 };
            prop_assert_eq!(asking.record(attempt(&batch, code), || true), Step::Continue);
        }
        let poll = asking.into_poll();
        let rejected: BTreeSet<u32> = poll.rejected.iter().map(|told| told.seq.get()).collect();
        let mut told: Vec<u32> = poll.receipts.iter().map(|told| told.seq.get()).collect();
        told.extend(&rejected);
        told.sort_unstable();
        let all: Vec<u32> = (1..=u32::try_from(messages).unwrap()).collect();
        prop_assert_eq!(told, all.clone());
        prop_assert_eq!(rejected, bad.into_iter().filter(|seq| all.contains(seq)).collect());
        prop_assert!(calls < 2 * messages, "{calls} calls for {messages} messages");
        let all_are_bad = poll.rejected.len() == usize::try_from(messages).unwrap();
        prop_assert_eq!(poll.end, if all_are_bad { PollEnd::GivenUp } else { PollEnd::Complete });
    }

    #[test]
    fn a_poll_tells_a_batch_limit_from_a_bad_message(
        messages in 1_i64..130,
        limit in 1_usize..130,
        bad in proptest::option::of(1_u32..130),
    ) {
        let mut asking = PollProgress::new(&slot(messages), ALL, Others::Answered);
        while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
            let is_refused = batch.len() > limit || batch.iter().any(|seq| Some(seq.get()) == bad);
            asking.record(attempt(&batch, if is_refused { 10004 } else { 0 }), || true);
        }
        let asked = usize::try_from(messages).unwrap();
        let is_bad = bad.is_some_and(|bad| i64::from(bad) <= messages);
        match takes_only(&asking.into_poll()) {
            Some(most) => prop_assert!(!is_bad && asked > limit && most <= limit && most > limit / 2),
            None => prop_assert!(is_bad || asked <= limit),
        }
    }

    #[test]
    fn any_outcomes_end_within_the_attempts_of_every_batch(
        messages in 1_i64..20,
        codes in proptest::collection::vec(prop_oneof![
            Just(0_i64), Just(10002), Just(10004), Just(10062), Just(60007), Just(70003), Just(10010), Just(-7),
        ], 1..20),
        renews in any::<bool>(),
    ) {
        let mut asking = PollProgress::new(&slot(messages), ALL, Others::Answered);
        let mut codes = codes.into_iter().cycle();
        let mut calls = 0;
        while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
            calls += 1;
            asking.record(attempt(&batch, codes.next().unwrap()), || renews);
        }
        prop_assert!(calls <= 2 * messages * (i64::from(MAX_ATTEMPTS) + 1), "{calls} calls");
        prop_assert_eq!(asking.into_poll().attempts.len(), usize::try_from(calls).unwrap());
    }
}
