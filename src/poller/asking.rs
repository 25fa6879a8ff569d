//! One poll as decisions: which batch is asked for next, and what the outcome of an attempt calls for. Pure.
//!
//! A call that is refused as too large or bad is halved, so that one bad seq can't wedge its group. In a slot that has failed
//! several times while the service answers others, any call that fails is halved: one message is probably to blame. Whoever
//! drives this takes the permits, makes the attempts and does the waiting; here nothing waits and nothing is sent.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{batch_limit::BatchSizes, retry::Retry};
use crate::{
    chat::{Attempt, Class, Failure},
    domain::{MsgSeq, Receipt},
    recording::{NO_RECEIPT_POLLS, Others, Poll, PollEnd, Told},
    slot::{GroupState, Slot},
};

/// A poll whose attempts have failed for so long in all makes no other: as long as it is under way it takes a place that the
/// polls of other groups need. By default that is two attempts that are not answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// After this many failed polls in a row a poll makes one attempt for each batch, and looks for the messages to blame.
pub(super) const FAILURES_TO_BLAME: i32 = 2;

/// Maximum number of failed calls of a poll that looks for the messages to blame, …
const MAX_FAILED_PARTS: usize = 16;

/// … and of one in which nothing has been answered.
const MAX_FAILED_PARTS_IN_VAIN: usize = 5;

/// Maximum number of refused calls (10004, 10018) of a poll in which nothing has been answered: the messages are probably not
/// to blame. If the poll before failed too, [`MAX_FAILED_PARTS_IN_VAIN`] holds for these as well.
const MAX_REFUSALS_IN_VAIN: usize = 20;

/// The same of a probe of a quarantined group: then the group is still refused.
const MAX_REFUSALS_OF_A_PROBE: usize = 8;

/// A poll under way.
#[derive(Debug)]
pub(super) struct Asking {
    /// What is still to be asked for; the first batch is next.
    batches: VecDeque<Vec<MsgSeq>>,
    retry: Retry,
    /// How many polls of the slot in a row have failed.
    failures: i32,
    signed_again: bool,
    /// Whether it's a probe of a quarantined group.
    is_probe: bool,
    /// Messages without a receipt by the polls before, and how many polls in a row have said so.
    without_receipt: BTreeMap<MsgSeq, i16>,
    /// How long attempts took that failed.
    in_vain: Duration,
    /// Messages whose calls fail for them alone.
    culprits: Vec<MsgSeq>,
    /// Messages that are not asked for any more in this poll, since enough of its calls have failed.
    rest: Vec<MsgSeq>,
    failed_parts: usize,
    refusals: usize,
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
    /// A poll of `slot` in calls of these sizes, while the calls of other slots come to `others`.
    pub(super) fn new(slot: &Slot, sizes: BatchSizes, others: Others) -> Self {
        let without_receipt = slot.messages.iter().filter(|message| message.refused_since.is_none());
        let without_receipt = without_receipt.map(|message| (message.seq, message.no_receipt_polls));
        // Where others fail too, one failure is as good as any number: the next attempt is that of the next poll.
        let fails_with_others = slot.failures > 0 && others == Others::Failing;
        let mut asking = Self {
            batches: VecDeque::new(),
            retry: Retry::default(),
            failures: if fails_with_others { slot.failures.max(FAILURES_TO_BLAME) } else { slot.failures },
            signed_again: false,
            is_probe: slot.group_state == GroupState::Quarantined,
            without_receipt: without_receipt.filter(|(_, polls)| *polls > 0).collect(),
            in_vain: Duration::ZERO,
            culprits: vec![],
            rest: vec![],
            failed_parts: 0,
            refusals: 0,
            poll: Poll { others, ..Poll::ended(PollEnd::Complete) },
        };
        let seqs: Vec<MsgSeq> = slot.messages.iter().map(|message| message.seq).collect();
        // The whole has failed already. If nothing of it was answered, the parts are smaller the next time, and others of them
        // come first: so among many messages to blame the others are found all the same.
        let doublings = u32::try_from(slot.failures - FAILURES_TO_BLAME + 1).unwrap_or_default().min(16);
        let whole = seqs.len().min(sizes.others);
        let (first, part) = if asking.looks_for_culprits() { (0, whole >> doublings) } else { (sizes.first, whole) };
        let (first, rest) = seqs.split_at(first.min(seqs.len()));
        asking.batches.extend((!first.is_empty()).then(|| first.to_vec()));
        asking.batches.extend(rest.chunks(part.max(1)).map(<[MsgSeq]>::to_vec));
        if asking.looks_for_culprits() && !asking.batches.is_empty() {
            let parts = asking.batches.len();
            let offset = usize::try_from(slot.failures).unwrap_or_default() * stride(parts);
            asking.batches.rotate_left(offset % parts);
        }
        asking
    }

    /// The messages that the next attempt asks for; `None` if the poll has ended.
    pub(super) fn batch(&self) -> Option<&[MsgSeq]> {
        self.batches.front().map(Vec::as_slice)
    }

    /// Ends the poll: no attempt may be made any more.
    pub(super) fn stop(&mut self) {
        self.end(PollEnd::Stopped);
    }

    /// Ends the poll: what failed is not tried again before the slot is due the next time.
    pub(super) fn give_up(&mut self) {
        self.end(PollEnd::GivenUp);
    }

    /// Takes in the outcome of an attempt for the batch. `renew_signature` drops the signature for a new one, and tells
    /// whether there can be one.
    pub(super) fn heard(&mut self, attempt: Attempt, renew_signature: impl FnOnce() -> bool) -> Next {
        let failure = match &attempt.outcome {
            Ok(answer) => {
                let told = answer.receipts.iter().map(|(seq, receipt)| Told::by(&attempt, *seq, *receipt));
                self.poll.receipts.extend(told);
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
        let Self { mut poll, culprits, rest, .. } = self;
        if poll.end != PollEnd::Complete {
            return poll;
        }
        if is_answered(&poll) {
            poll.failed = culprits.into_iter().map(|seq| vec![seq]).collect();
            poll.failed.extend((!rest.is_empty()).then_some(rest));
        } else if !culprits.is_empty() || !rest.is_empty() || !poll.rejected.is_empty() {
            // Nobody can tell whether the messages are to blame.
            poll.end = PollEnd::GivenUp;
        }
        poll
    }

    /// Whether it makes one attempt for each batch, and halves those that fail. While others fail too it is not the messages.
    fn looks_for_culprits(&self) -> bool {
        self.failures >= FAILURES_TO_BLAME && self.poll.others != Others::Failing
    }

    fn failed(&mut self, failure: Failure) -> Next {
        let code = failure.code.and_then(|code| i32::try_from(code).ok()).unwrap_or_default();
        let asked = self.batch().unwrap_or_default().to_vec();
        if self.is_probe
            && failure.class == Class::Split
            && self.refusals + 1 >= MAX_REFUSALS_OF_A_PROBE
            && !is_answered(&self.poll)
        {
            self.poll.rejected.clear();
            self.end(PollEnd::GroupFault(failure));
            return Next::GoOn;
        }
        match failure.class {
            Class::Retry | Class::Unknown if self.looks_for_culprits() => return self.part_failed(&asked),
            Class::SignAgain if !failure.is_passing() => return self.stop_app(failure),
            Class::Success | Class::Incomplete | Class::Retry | Class::SlowDown | Class::Unknown | Class::SignAgain => {
                // What failed before gets one attempt a poll: it may fail again, and keep others waiting that fail.
                let tries_again = self.failures == 0 || failure.class == Class::SlowDown;
                match self.retry.next_wait() {
                    Some(wait) if tries_again && self.in_vain < PATIENCE => return Next::Wait(wait),
                    _ => self.end(PollEnd::GivenUp),
                }
            }
            Class::Message if asked.len() == 1 || self.are_known_to_have_no_receipt(&asked) => {
                self.settle();
                let told = self.told(&asked, code);
                self.poll.receipts.extend(told);
            }
            Class::Split | Class::Message if asked.len() > 1 => {
                self.settle();
                self.refusals += 1;
                let parts = self.parts(&asked, failure.class);
                if self.failures == 0 {
                    // There may only be too many: a part that is small enough comes soonest so.
                    parts.into_iter().rev().for_each(|part| self.batches.push_front(part));
                } else {
                    // An answer to any part comes soonest so.
                    self.batches.extend(parts);
                }
            }
            Class::Split | Class::Message => {
                self.settle();
                self.refusals += 1;
                let told = self.told(&asked, code);
                self.poll.rejected.extend(told);
            }
            Class::GroupFault => self.end(PollEnd::GroupFault(failure)),
            Class::Wait | Class::AppFault => return self.stop_app(failure),
        }
        let most_in_vain = if self.failures > 0 { MAX_FAILED_PARTS_IN_VAIN } else { MAX_REFUSALS_IN_VAIN };
        if self.refusals >= most_in_vain && !is_answered(&self.poll) {
            self.end(PollEnd::GivenUp);
        }
        Next::GoOn
    }

    /// What the last attempt told of messages by the code of the whole answer.
    fn told(&self, asked: &[MsgSeq], code: i32) -> Vec<Told> {
        let told = |seq: &MsgSeq| Some(Told::by(self.poll.attempts.last()?, *seq, Receipt { code, counts: None }));
        asked.iter().filter_map(told).collect()
    }

    /// Whether the poll before found each of these messages without a receipt. One that would be closed for it is asked for alone.
    fn are_known_to_have_no_receipt(&self, seqs: &[MsgSeq]) -> bool {
        seqs.iter().all(|seq| self.without_receipt.get(seq).is_some_and(|polls| polls + 1 < NO_RECEIPT_POLLS))
    }

    /// What is asked for instead of a batch that was refused as a whole.
    fn parts(&self, asked: &[MsgSeq], class: Class) -> Vec<Vec<MsgSeq>> {
        let is_suspect = |seq: &MsgSeq| class == Class::Message && self.without_receipt.contains_key(seq);
        let (suspects, others): (Vec<MsgSeq>, Vec<MsgSeq>) = asked.iter().partition(|seq| is_suspect(seq));
        match (suspects.is_empty(), others.is_empty()) {
            (true, _) => asked.rchunks(asked.len().div_ceil(2)).rev().map(<[MsgSeq]>::to_vec).collect(),
            (false, true) => suspects.into_iter().map(|seq| vec![seq]).collect(),
            (false, false) => vec![suspects, others],
        }
    }

    fn stop_app(&mut self, failure: Failure) -> Next {
        self.end(PollEnd::Stopped);
        Next::StopApp(failure)
    }

    /// A call failed that may be the fault of its messages: its halves are asked for when all other parts have been, since one
    /// answer tells that the service is well.
    fn part_failed(&mut self, asked: &[MsgSeq]) -> Next {
        self.settle();
        self.failed_parts += 1;
        if let [seq] = asked {
            self.culprits.push(*seq);
        } else {
            let (older, younger) = asked.split_at(asked.len() / 2);
            self.batches.extend([older.to_vec(), younger.to_vec()]);
        }
        let most = if is_answered(&self.poll) { MAX_FAILED_PARTS } else { MAX_FAILED_PARTS_IN_VAIN };
        if self.failed_parts >= most || self.in_vain >= PATIENCE {
            self.has_enough();
        }
        Next::GoOn
    }

    /// What is left is not asked for in this poll.
    fn has_enough(&mut self) {
        self.rest = self.batches.drain(..).flatten().collect();
        self.rest.sort_unstable();
    }

    /// Nothing is left to do about the batch; the next one has all its attempts yet.
    fn settle(&mut self) {
        self.batches.pop_front();
        self.retry = Retry::default();
        self.signed_again = false;
    }

    fn end(&mut self, end: PollEnd) {
        self.batches.clear();
        self.poll.end = end;
    }
}

/// How many parts further on each poll begins in which nothing is answered. With no common divisor, each part comes first in one
/// of the polls, though two calls that hang end a poll.
fn stride(parts: usize) -> usize {
    let has_common_divisor =
        |stride: usize| (2..=stride).any(|by| stride.is_multiple_of(by) && parts.is_multiple_of(by));
    (1..=MAX_FAILED_PARTS_IN_VAIN).rev().find(|stride| !has_common_divisor(*stride)).unwrap_or(1)
}

/// Whether the service answered any call of it.
fn is_answered(poll: &Poll) -> bool {
    !poll.receipts.is_empty() || poll.attempts.iter().any(|attempt| attempt.outcome.is_ok())
}

/// How many messages the service takes in a call, if `poll` shows that these are fewer than were asked for: what it refused as a
/// whole it answered in parts, so that no message is to blame.
pub(super) fn takes_only(poll: &Poll) -> Option<usize> {
    let is_split = poll.attempts.iter().any(|attempt| attempt.class() == Class::Split);
    if !is_split || !poll.rejected.is_empty() || !poll.failed.is_empty() || poll.end != PollEnd::Complete {
        return None;
    }
    poll.attempts.iter().filter(|attempt| attempt.outcome.is_ok()).map(|attempt| attempt.asked).max()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        cadence::Cadences,
        chat::Answer,
        domain::{Counts, Timestamp},
        poller::retry::MAX_ATTEMPTS,
        recording::{KeepSnapshots, Recording},
        slot::{SlotKey, SlotMessage},
    };

    /// Calls may ask for all messages.
    const ALL: BatchSizes = BatchSizes { first: 200, others: 200 };

    fn now() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    pub fn slot(messages: i64) -> Slot {
        let message = |seq| SlotMessage {
            seq: MsgSeq::try_from(seq).unwrap(),
            sent_at: now(),
            first_sent_at: now(),
            first_polled_at: None,
            receipt: None,
            changed_at: None,
            known_until: None,
            known_apart: false,
            no_receipt_polls: 0,
            refused_since: None,
            has_joined: false,
        };
        Slot {
            key: SlotKey { group_key: 1, slot_id: 1 },
            group_id: "g".parse().unwrap(),
            group_state: GroupState::Active,
            cadence: None,
            next_poll_at: now(),
            last_polled_at: None,
            known_until: None,
            quiet_polls: 0,
            failures: 0,
            version: 0,
            last_called_at: None,
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
        let mut asking = Asking::new(&slot(2), ALL, Others::Answered);
        let batch = asking.batch().unwrap().to_vec();
        assert_eq!(asking.heard(attempt(&batch, 70003), || true), Next::GoOn);
        assert_eq!(asking.batch(), Some(batch.as_slice()), "once more, with a new signature");
        assert!(matches!(asking.heard(attempt(&batch, 70003), || true), Next::StopApp(_)));
        assert!(asking.batch().is_none());
        assert_eq!(asking.into_poll().end, PollEnd::Stopped);
    }

    #[test]
    fn an_account_check_that_fails_is_retried_after_a_new_signature_was_tried() {
        for code in [60004, 60005] {
            let mut asking = Asking::new(&slot(2), ALL, Others::Answered);
            let batch = asking.batch().unwrap().to_vec();
            assert_eq!(asking.heard(attempt(&batch, code), || true), Next::GoOn, "a new signature");
            for _ in 1..MAX_ATTEMPTS {
                assert!(matches!(asking.heard(attempt(&batch, code), || false), Next::Wait(_)), "{code}");
            }
            assert_eq!(asking.heard(attempt(&batch, code), || false), Next::GoOn);
            assert_eq!(asking.into_poll().end, PollEnd::GivenUp);
        }
    }

    #[test]
    fn a_probe_of_a_group_that_refuses_every_message_makes_few_calls() {
        let group = Slot { group_state: GroupState::Quarantined, ..slot(50) };
        let mut asking = Asking::new(&group, ALL, Others::Answered);
        let mut calls = 0;
        while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
            asking.heard(attempt(&batch, 10004), || false);
            calls += 1;
        }
        let poll = asking.into_poll();
        assert_eq!((calls, poll.rejected.len()), (MAX_REFUSALS_OF_A_PROBE, 0));
        assert!(matches!(poll.end, PollEnd::GroupFault(Failure { code: Some(10004), .. })), "{:?}", poll.end);
    }

    #[test]
    fn a_ready_signature_that_is_refused_stops_the_app_at_once() {
        let mut asking = Asking::new(&slot(2), ALL, Others::Answered);
        let batch = asking.batch().unwrap().to_vec();
        assert!(matches!(asking.heard(attempt(&batch, 70003), || false), Next::StopApp(_)));
    }

    #[test]
    fn a_poll_that_is_not_answered_in_time_twice_gives_its_place_to_others() {
        let mut asking = Asking::new(&slot(2), ALL, Others::Answered);
        let batch = asking.batch().unwrap().to_vec();
        let hanging = Attempt { latency: Duration::from_secs(8), ..attempt(&batch, 10002) };
        assert!(matches!(asking.heard(hanging.clone(), || true), Next::Wait(_)));
        assert_eq!(asking.heard(hanging, || true), Next::GoOn);
        assert!(asking.batch().is_none());
        assert_eq!(asking.into_poll().end, PollEnd::GivenUp);
    }

    /// The slots that a slot becomes while calls for `bad` messages fail with `code` after `latency`: each poll asks and
    /// records as the daemon does. Returns the slots, which messages were answered, how many calls failed, and how long it took.
    fn poll_until(
        first: Slot,
        bad: &BTreeSet<u32>,
        (code, latency): (i64, Duration),
        is_over: impl Fn(&[Slot], &BTreeSet<u32>) -> bool,
    ) -> (Vec<Slot>, BTreeSet<u32>, usize, chrono::TimeDelta) {
        let cadences = Cadences::default();
        let (mut slots, mut answered, mut calls, mut now) = (vec![first], BTreeSet::new(), 0, now());
        let mut polls = 0;
        while !is_over(&slots, &answered) {
            polls += 1;
            assert!(polls < 1_000, "some message is never asked for");
            let next = (0..slots.len()).min_by_key(|at| slots[*at].next_poll_at).unwrap();
            let slot = slots.swap_remove(next);
            now = now.max(slot.next_poll_at);
            let mut asking = Asking::new(&slot, ALL, Others::Answered);
            while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
                let fails = batch.iter().any(|seq| bad.contains(&seq.get()));
                let attempt = attempt(&batch, if fails { code } else { 0 });
                let latency = if fails { latency } else { Duration::from_millis(20) };
                now += latency;
                calls += usize::from(fails);
                let attempt = Attempt { latency, called_at: now, ended_at: now, ..attempt };
                if let Next::Wait(wait) = asking.heard(attempt, || true) {
                    now += wait;
                }
            }
            let poll = asking.into_poll();
            answered.extend(poll.receipts.iter().map(|told| told.seq.get()));
            let recording = Recording::of(slot.clone(), poll, cadences.of(None), KeepSnapshots::Changes, now);
            let leaves = |seq| recording.parts.iter().any(|part| part.seqs.contains(seq));
            for part in &recording.parts {
                let messages =
                    slot.messages.iter().filter(|message| part.seqs.contains(&message.seq)).cloned().collect();
                let slot_id =
                    slots.iter().map(|slot| slot.key.slot_id).max().unwrap_or_default().max(slot.key.slot_id) + 1;
                let key = SlotKey { slot_id, ..slot.key };
                let (failures, next_poll_at) = (part.failures, part.next_poll_at);
                slots.push(Slot { key, failures, next_poll_at, messages, ..slot.clone() });
            }
            let messages = slot.messages.iter().filter(|message| !leaves(&message.seq)).cloned().collect();
            let (failures, next_poll_at) = (recording.failures, recording.next_poll_at);
            slots.push(Slot { failures, next_poll_at, messages, ..slot });
        }
        (slots, answered, calls, now - self::now())
    }

    fn all_but(messages: i64, bad: &BTreeSet<u32>) -> BTreeSet<u32> {
        (1..=u32::try_from(messages).unwrap()).filter(|seq| !bad.contains(seq)).collect()
    }

    #[test]
    fn one_bad_message_among_others_is_put_off_alone_whatever_its_calls_fail_with() {
        let quick = Duration::from_millis(20);
        for (messages, bad) in [(16, 1), (16, 9), (16, 16), (50, 37), (2, 1), (3, 3)] {
            for (code, latency) in [(10002, quick), (12345, quick), (10002, Duration::from_secs(5))] {
                let bad = BTreeSet::from([bad]);
                let is_over = |slots: &[Slot], answered: &BTreeSet<u32>| {
                    *answered == all_but(messages, &bad)
                        && slots.iter().any(|slot| slot.messages.len() == 1 && slot.failures > 0)
                };
                let (slots, _, calls, took) = poll_until(slot(messages), &bad, (code, latency), is_over);
                let alone: Vec<&Slot> = slots.iter().filter(|slot| slot.failures > 0).collect();
                assert!(
                    matches!(alone.as_slice(), [slot] if slot.messages[0].seq.get() == *bad.first().unwrap()),
                    "{alone:?}"
                );
                assert!(calls <= 20, "{calls} calls failed for {messages} messages and {bad:?}");
                assert!(took <= chrono::TimeDelta::seconds(110), "{took} for {messages} messages and {bad:?}");
            }
        }
    }

    #[test]
    fn a_message_that_makes_its_call_fail_is_asked_for_less_and_less_often() {
        let bad = BTreeSet::from([3]);
        let failing = |slots: &[Slot]| slots.iter().map(|slot| slot.failures).max().unwrap();
        let run = |until| {
            // The retries of the first two polls take a random time: the same in each run.
            fastrand::seed(7);
            poll_until(slot(16), &bad, (10002, Duration::ZERO), |slots, _| failing(slots) >= until).3.num_seconds()
        };
        let at: Vec<i64> = [3, 4, 5, 6, 7].map(run).to_vec();
        let waits: Vec<i64> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let is_as_expected = |(wait, expected): (&i64, i64)| (wait - expected).abs() <= 2;
        assert!(waits.iter().zip([10, 20, 40, 80]).all(is_as_expected), "{waits:?}");
    }

    #[test]
    fn while_other_calls_fail_too_no_message_is_blamed_and_each_poll_makes_one_attempt() {
        for failures in [1, 5] {
            let mut asking = Asking::new(&Slot { failures, ..slot(16) }, ALL, Others::Failing);
            let batch = asking.batch().unwrap().to_vec();
            assert_eq!(batch.len(), 16);
            assert_eq!(asking.heard(attempt(&batch, 10002), || true), Next::GoOn);
            assert!(asking.batch().is_none());
            let poll = asking.into_poll();
            assert_eq!((poll.end, poll.failed.len()), (PollEnd::GivenUp, 0));
        }
    }

    #[test]
    fn a_slot_whose_last_poll_failed_gets_one_attempt_and_then_leaves_its_place_to_others() {
        let mut asking = Asking::new(&Slot { failures: 1, ..slot(16) }, ALL, Others::Answered);
        let batch = asking.batch().unwrap().to_vec();
        assert_eq!((batch.len(), asking.heard(attempt(&batch, 10002), || true)), (16, Next::GoOn));
        assert_eq!(asking.batch(), None);
        assert_eq!(asking.into_poll().end, PollEnd::GivenUp);
    }

    #[test]
    fn after_an_outage_a_slot_is_asked_for_as_a_whole_and_a_message_that_fails_is_put_off_for_seconds() {
        for code in [10002, 10004] {
            let mut slot = slot(50);
            for poll in 0..60 {
                let mut asking = Asking::new(&slot, ALL, Others::Failing);
                while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
                    asking.heard(attempt(&batch, code), || true);
                }
                let (cadences, keep) = (Cadences::default(), KeepSnapshots::Changes);
                slot.failures =
                    Recording::of(slot.clone(), asking.into_poll(), cadences.of(None), keep, now()).failures;
                assert_eq!(slot.failures, 1, "after poll {poll} of an outage with {code}");
            }
            let asking = Asking::new(&slot, ALL, Others::Answered);
            assert_eq!(asking.batch().map(<[MsgSeq]>::len), Some(50));
            let is_over = |slots: &[Slot], _: &BTreeSet<u32>| slots.iter().any(|slot| slot.messages.len() == 1);
            let bad = BTreeSet::from([7]);
            let (slots, .., took) = poll_until(slot, &bad, (code, Duration::ZERO), is_over);
            let alone = slots.iter().find(|slot| slot.messages.len() == 1).unwrap();
            let wait = (alone.next_poll_at - now()) - took;
            assert!(wait <= chrono::TimeDelta::seconds(10), "{wait} after an outage with {code}");
        }
    }

    #[test]
    fn where_no_part_is_answered_no_message_is_blamed_and_few_calls_are_made() {
        for failures in 2..20 {
            let mut asking = Asking::new(&Slot { failures, ..slot(50) }, ALL, Others::Answered);
            let mut calls = 0;
            while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
                calls += 1;
                assert_eq!(asking.heard(attempt(&batch, 10002), || true), Next::GoOn);
            }
            let poll = asking.into_poll();
            assert_eq!((poll.end, poll.failed.len()), (PollEnd::GivenUp, 0));
            assert!(calls <= MAX_FAILED_PARTS_IN_VAIN, "{calls}");
        }
    }

    #[test]
    fn messages_without_a_receipt_are_found_once_and_asked_for_alone_once_more_before_they_are_closed() {
        let bad: BTreeSet<u32> = (1..=40).collect();
        for (messages, calls) in [(40, [79, 1, 41]), (50, [99, 3, 43])] {
            let (mut slot, cadences) = (slot(messages), Cadences::default());
            for (most, closes) in calls.into_iter().zip([0, 0, 40]) {
                let mut asking = Asking::new(&slot, ALL, Others::Answered);
                let mut calls = 0;
                while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
                    calls += 1;
                    let is_refused = batch.iter().any(|seq| bad.contains(&seq.get()));
                    asking.heard(attempt(&batch, if is_refused { 10062 } else { 0 }), || true);
                }
                assert!(calls <= most, "{calls} calls instead of {most} for {messages} messages");
                let poll = asking.into_poll();
                assert_eq!(poll.receipts.len(), usize::try_from(messages).unwrap());
                let recording = Recording::of(slot.clone(), poll, cadences.of(None), KeepSnapshots::Changes, now());
                for change in &recording.messages {
                    let message = slot.messages.iter_mut().find(|message| message.seq == change.seq).unwrap();
                    message.no_receipt_polls = change.no_receipt_polls;
                }
                let closed = recording.messages.iter().filter(|change| change.closed.is_some()).count();
                assert_eq!(closed, closes);
            }
        }
    }

    #[test]
    fn a_service_that_refuses_every_message_is_not_asked_for_each() {
        let mut asking = Asking::new(&slot(200), ALL, Others::Answered);
        let mut calls = 0;
        while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
            calls += 1;
            asking.heard(attempt(&batch, 10004), || true);
        }
        assert!(calls <= MAX_REFUSALS_IN_VAIN, "{calls}");
        assert_eq!(asking.into_poll().end, PollEnd::GivenUp);
    }

    #[test]
    fn a_slot_that_is_refused_again_and_again_makes_as_few_calls_as_one_that_fails_otherwise() {
        for (messages, failures) in [(50, 1), (50, 2), (12, 1), (200, 9)] {
            let mut asking = Asking::new(&Slot { failures, ..slot(messages) }, ALL, Others::Answered);
            let mut calls = 0;
            while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
                calls += 1;
                asking.heard(attempt(&batch, 10004), || true);
            }
            assert!(calls <= MAX_FAILED_PARTS_IN_VAIN, "{calls} calls after {failures} failures");
            assert_eq!(asking.into_poll().end, PollEnd::GivenUp);
        }
    }

    #[test]
    fn after_an_outage_one_message_that_is_refused_is_found_at_once() {
        for (others, bad) in
            [Others::Failing, Others::Answered].into_iter().flat_map(|others| [(others, 1), (others, 200)])
        {
            let mut asking = Asking::new(&Slot { failures: 1, ..slot(200) }, ALL, others);
            while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
                let is_refused = batch.iter().any(|seq| seq.get() == bad);
                asking.heard(attempt(&batch, if is_refused { 10004 } else { 0 }), || true);
            }
            let poll = asking.into_poll();
            assert_eq!((poll.end, poll.receipts.len(), poll.rejected.len()), (PollEnd::Complete, 199, 1), "{others:?}");
        }
    }

    #[test]
    fn good_messages_among_many_that_are_refused_are_observed() {
        let bad: BTreeSet<u32> = (1..=30).collect();
        let good = all_but(46, &bad);
        poll_until(slot(46), &bad, (10004, Duration::from_millis(20)), |_, answered| *answered == good);
    }

    #[test]
    fn messages_that_are_all_refused_alone_are_not_to_blame() {
        for (messages, end) in [(1, PollEnd::GivenUp), (3, PollEnd::GivenUp)] {
            let mut asking = Asking::new(&slot(messages), ALL, Others::Answered);
            while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
                asking.heard(attempt(&batch, 10004), || true);
            }
            let poll = asking.into_poll();
            assert_eq!((poll.end, poll.rejected.len()), (end, usize::try_from(messages).unwrap()));
        }
    }

    #[test]
    fn each_part_of_a_slot_comes_first_in_one_of_the_polls_in_which_nothing_is_answered() {
        for parts in 1..=200 {
            let first: BTreeSet<usize> = (0..parts).map(|poll| poll * stride(parts) % parts).collect();
            assert_eq!(first.len(), parts, "{parts} parts");
        }
    }

    #[test]
    fn good_messages_among_many_that_hang_are_observed() {
        let bad: BTreeSet<u32> = [4, 7, 10, 14, 36, 37, 38, 41].into();
        let good = all_but(46, &bad);
        poll_until(slot(46), &bad, (10002, Duration::from_secs(5)), |_, answered| *answered == good);
    }

    proptest! {
        #[test]
        fn however_many_messages_are_bad_the_others_are_observed_and_no_poll_takes_long(
            messages in 1_i64..60,
            bad in proptest::collection::btree_set(1_u32..60, 0..12),
            hangs in any::<bool>(),
        ) {
            let bad: BTreeSet<u32> = bad.into_iter().filter(|seq| i64::from(*seq) <= messages).collect();
            let latency = if hangs { Duration::from_secs(5) } else { Duration::from_millis(20) };
            let good = all_but(messages, &bad);
            let (_, _, calls, took) = poll_until(slot(messages), &bad, (10002, latency), |_, answered| *answered == good);
            prop_assert!(calls <= 20 + 14 * bad.len(), "{calls} calls failed");
            prop_assert!(took <= chrono::TimeDelta::minutes(30), "{took}");
        }

        #[test]
        fn halving_rejects_the_bad_messages_alone_and_tells_of_each_message_once(
            messages in 1_i64..130,
            bad in proptest::collection::btree_set(1_u32..130, 0..6),
            gone in proptest::collection::btree_set(1_u32..130, 0..6),
        ) {
            let mut asking = Asking::new(&slot(messages), ALL, Others::Answered);
            let mut calls = 0;
            while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
                calls += 1;
                let holds = |seqs: &BTreeSet<u32>| batch.iter().any(|seq| seqs.contains(&seq.get()));
                let code = if holds(&bad) { 10004 } else if holds(&gone) { 10062 } else { 0 };
                prop_assert_eq!(asking.heard(attempt(&batch, code), || true), Next::GoOn);
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
        fn a_service_that_takes_fewer_messages_than_are_asked_for_is_told_from_a_bad_message(
            messages in 1_i64..130,
            limit in 1_usize..130,
            bad in proptest::option::of(1_u32..130),
        ) {
            let mut asking = Asking::new(&slot(messages), ALL, Others::Answered);
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
            let mut asking = Asking::new(&slot(messages), ALL, Others::Answered);
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
