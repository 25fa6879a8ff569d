//! One poll as decisions: which batch is asked for next, and what the outcome of an attempt calls for. Pure.
//!
//! A call that is refused as too large or bad is halved, so that one bad seq can't wedge its group. Whoever drives this
//! takes the permits, makes the attempts and does the waiting; here nothing waits and nothing is sent.

use std::time::Duration;

use super::retry::Retry;
use crate::{
    chat::{Attempt, Class, Failure},
    domain::{MsgSeq, Receipt},
    recording::{Poll, PollEnd},
    slot::Slot,
};

/// A poll whose attempts have failed for so long in all makes no other: as long as it is under way it takes a place that the
/// polls of other groups need. By default that is two attempts that are not answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// A poll under way.
#[derive(Debug)]
pub(super) struct Asking {
    /// What is still to be asked for; the last batch is next.
    batches: Vec<Vec<MsgSeq>>,
    retry: Retry,
    signed_again: bool,
    /// How long attempts took that failed.
    in_vain: Duration,
    poll: Poll,
}

/// What is to be done before [`Asking::batch`] is looked at again.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing.
    GoOn,
    /// Wait so long.
    Wait(Duration),
    /// The service refuses the whole app: stop it.
    StopApp(Failure),
}

impl Asking {
    pub(super) fn new(slot: &Slot) -> Self {
        let batches = vec![slot.messages.iter().map(|message| message.seq).collect()];
        let poll = Poll { attempts: vec![], receipts: vec![], rejected: vec![], end: PollEnd::Complete };
        Self { batches, retry: Retry::default(), signed_again: false, in_vain: Duration::ZERO, poll }
    }

    /// The messages that the next attempt asks for; `None` if the poll has ended.
    pub(super) fn batch(&self) -> Option<&[MsgSeq]> {
        self.batches.last().map(Vec::as_slice).filter(|batch| !batch.is_empty())
    }

    /// Ends the poll: no attempt may be made any more.
    pub(super) fn stop(&mut self) {
        self.end(PollEnd::Stopped);
    }

    /// Takes in the outcome of an attempt for the batch. `renew_signature` drops the signature for a new one, and tells
    /// whether there can be one.
    pub(super) fn heard(&mut self, attempt: Attempt, renew_signature: impl FnOnce() -> bool) -> Next {
        let failure = match &attempt.outcome {
            Ok(answer) => {
                self.poll.receipts.extend(&answer.receipts);
                None
            }
            Err(failure) => {
                self.in_vain += attempt.latency;
                Some(failure.clone())
            }
        };
        self.poll.attempts.push(attempt);
        let Some(failure) = failure else {
            self.settle();
            return Next::GoOn;
        };
        if failure.class == Class::SignAgain && !self.signed_again && renew_signature() {
            self.signed_again = true;
            return Next::GoOn;
        }
        self.failed(failure)
    }

    /// What came of it.
    pub(super) fn into_poll(self) -> Poll {
        self.poll
    }

    fn failed(&mut self, failure: Failure) -> Next {
        let code = failure.code.and_then(|code| i32::try_from(code).ok()).unwrap_or_default();
        let asked = self.batch().unwrap_or_default().to_vec();
        match failure.class {
            Class::Success | Class::Incomplete | Class::Retry | Class::SlowDown | Class::Unknown => {
                match self.retry.next_wait() {
                    Some(wait) if self.in_vain < PATIENCE => return Next::Wait(wait),
                    _ => self.end(PollEnd::GivenUp),
                }
            }
            Class::Split | Class::Message if asked.len() > 1 => {
                self.settle();
                let (older, younger) = asked.split_at(asked.len() / 2);
                self.batches.extend([younger.to_vec(), older.to_vec()]);
            }
            Class::Split => {
                self.settle();
                self.poll.rejected.extend(asked.first().map(|seq| (*seq, code)));
            }
            Class::Message => {
                self.settle();
                self.poll.receipts.extend(asked.first().map(|seq| (*seq, Receipt { code, counts: None })));
            }
            Class::GroupFault => self.end(PollEnd::GroupFault(failure)),
            Class::Wait | Class::SignAgain | Class::AppFault => {
                self.end(PollEnd::Stopped);
                return Next::StopApp(failure);
            }
        }
        Next::GoOn
    }

    /// Nothing is left to do about the batch; the next one has all its attempts yet.
    fn settle(&mut self) {
        self.batches.pop();
        self.retry = Retry::default();
        self.signed_again = false;
    }

    fn end(&mut self, end: PollEnd) {
        self.batches.clear();
        self.poll.end = end;
    }
}

/// How many messages the service takes in a call, if `poll` shows that these are fewer than were asked for: what it refused as a
/// whole it answered in parts, so that no message is to blame.
pub(super) fn takes_only(poll: &Poll) -> Option<usize> {
    let is_split = poll.attempts.iter().any(|attempt| attempt.class() == Class::Split);
    if !is_split || !poll.rejected.is_empty() || poll.end != PollEnd::Complete {
        return None;
    }
    poll.attempts.iter().filter(|attempt| attempt.outcome.is_ok()).map(|attempt| attempt.asked).max()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        chat::Answer,
        domain::{Counts, Timestamp},
        poller::retry::MAX_ATTEMPTS,
        slot::{GroupState, SlotMessage},
    };

    fn now() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn slot(messages: i64) -> Slot {
        let message = |seq| SlotMessage {
            seq: MsgSeq::try_from(seq).unwrap(),
            sent_at: now(),
            receipt: None,
            known_until: None,
            known_apart: false,
            no_receipt_polls: 0,
        };
        Slot {
            slot_id: 1,
            group_key: 1,
            group_id: "g".parse().unwrap(),
            group_state: GroupState::Active,
            cadence: None,
            next_poll_at: now(),
            last_polled_at: None,
            quiet_polls: 0,
            failures: 0,
            joins: 0,
            messages: (1..=messages).map(message).collect(),
            absorbs: None,
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
        let mut asking = Asking::new(&slot(2));
        let batch = asking.batch().unwrap().to_vec();
        assert_eq!(asking.heard(attempt(&batch, 70003), || true), Next::GoOn);
        assert_eq!(asking.batch(), Some(batch.as_slice()), "once more, with a new signature");
        assert!(matches!(asking.heard(attempt(&batch, 70003), || true), Next::StopApp(_)));
        assert!(asking.batch().is_none());
        assert_eq!(asking.into_poll().end, PollEnd::Stopped);
    }

    #[test]
    fn a_ready_signature_that_is_refused_stops_the_app_at_once() {
        let mut asking = Asking::new(&slot(2));
        let batch = asking.batch().unwrap().to_vec();
        assert!(matches!(asking.heard(attempt(&batch, 70003), || false), Next::StopApp(_)));
    }

    #[test]
    fn a_poll_that_is_not_answered_in_time_twice_gives_its_place_to_others() {
        let mut asking = Asking::new(&slot(2));
        let batch = asking.batch().unwrap().to_vec();
        let hanging = Attempt { latency: Duration::from_secs(8), ..attempt(&batch, 10002) };
        assert!(matches!(asking.heard(hanging.clone(), || true), Next::Wait(_)));
        assert_eq!(asking.heard(hanging, || true), Next::GoOn);
        assert!(asking.batch().is_none());
        assert_eq!(asking.into_poll().end, PollEnd::GivenUp);
    }

    proptest! {
        #[test]
        fn halving_rejects_the_bad_messages_alone_and_tells_of_each_message_once(
            messages in 1_i64..130,
            bad in proptest::collection::btree_set(1_u32..130, 0..6),
            gone in proptest::collection::btree_set(1_u32..130, 0..6),
        ) {
            let mut asking = Asking::new(&slot(messages));
            let mut calls = 0;
            while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
                calls += 1;
                let holds = |seqs: &BTreeSet<u32>| batch.iter().any(|seq| seqs.contains(&seq.get()));
                let code = if holds(&bad) { 10004 } else if holds(&gone) { 10062 } else { 0 };
                prop_assert_eq!(asking.heard(attempt(&batch, code), || true), Next::GoOn);
            }
            let poll = asking.into_poll();
            let rejected: BTreeSet<u32> = poll.rejected.iter().map(|(seq, _)| seq.get()).collect();
            let mut told: Vec<u32> = poll.receipts.iter().map(|(seq, _)| seq.get()).collect();
            told.extend(&rejected);
            told.sort_unstable();
            let all: Vec<u32> = (1..=u32::try_from(messages).unwrap()).collect();
            prop_assert_eq!(told, all.clone());
            prop_assert_eq!(rejected, bad.into_iter().filter(|seq| all.contains(seq)).collect());
            prop_assert!(calls < 2 * messages, "{calls} calls for {messages} messages");
            prop_assert_eq!(poll.end, PollEnd::Complete);
        }

        #[test]
        fn a_service_that_takes_fewer_messages_than_are_asked_for_is_told_from_a_bad_message(
            messages in 1_i64..130,
            limit in 1_usize..130,
            bad in proptest::option::of(1_u32..130),
        ) {
            let mut asking = Asking::new(&slot(messages));
            while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
                let is_refused = batch.len() > limit || batch.iter().any(|seq| Some(seq.get()) == bad);
                asking.heard(attempt(&batch, if is_refused { 10004 } else { 0 }), || true);
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
            let mut asking = Asking::new(&slot(messages));
            let mut codes = codes.into_iter().cycle();
            let mut calls = 0;
            while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
                calls += 1;
                asking.heard(attempt(&batch, codes.next().unwrap()), || renews);
            }
            prop_assert!(calls <= 2 * messages * (i64::from(MAX_ATTEMPTS) + 1), "{calls} calls");
            prop_assert_eq!(asking.into_poll().attempts.len(), usize::try_from(calls).unwrap());
        }
    }
}
