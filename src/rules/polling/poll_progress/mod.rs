//! The decisions of one poll: the next batch, and the reaction to the outcome of an attempt. Pure.
//!
//! A call that is refused as too large or bad is halved, so that one bad seq can't block its group. In a slot that
//! has failed several times while the service answers others, any failed call is halved: one message is probably at
//! fault. The caller takes permits, makes attempts and waits; nothing here waits or sends.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{batch_limit::BatchSizes, retry::Retry};
use crate::{
    domain::{MsgSeq, Receipt},
    rules::{
        protocol::{Attempt, Class, Failure},
        recording::{NO_RECEIPT_POLLS, Others, Poll, PollEnd, Told},
        slot::{GroupState, Slot},
    },
};

/// Total duration of failed attempts after which a poll makes no more: while in flight, it occupies a place that other
/// groups need. By default this is two attempts without an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Number of failed polls in a row from which a poll makes only one attempt for each batch, and searches for the
/// messages at fault.
pub(crate) const FAILURES_TO_BLAME: i32 = 2;

/// Maximum number of failed calls of a poll that searches for the messages at fault, …
const MAX_FAILED_PARTS: usize = 16;

/// … and of one without any answer.
const MAX_FAILED_PARTS_IN_VAIN: usize = 5;

/// Maximum number of refused calls (10004, 10018) of a poll without any answer: the messages are probably not at
/// fault. If the poll before failed too, [`MAX_FAILED_PARTS_IN_VAIN`] applies to these as well.
const MAX_REFUSALS_IN_VAIN: usize = 20;

/// The same for a probe of a quarantined group, which is then still refused.
const MAX_REFUSALS_OF_A_PROBE: usize = 8;

/// A poll in flight.
#[derive(Debug)]
pub(crate) struct PollProgress {
    /// The remaining batches, the next one first.
    batches: VecDeque<Vec<MsgSeq>>,
    retry: Retry,
    /// Number of failed polls of the slot in a row.
    failures: i32,
    signed_again: bool,
    /// Whether it's a probe of a quarantined group.
    is_probe: bool,
    /// Messages without a receipt in the polls before, and the number of these polls in a row.
    without_receipt: BTreeMap<MsgSeq, i16>,
    /// Total duration of failed attempts.
    in_vain: Duration,
    /// Messages whose calls fail even when they are asked for alone.
    culprits: Vec<MsgSeq>,
    /// Messages that are left for another poll, since enough calls of this one have failed.
    rest: Vec<MsgSeq>,
    failed_parts: usize,
    refusals: usize,
    poll: Poll,
}

/// The next step, before [`PollProgress::batch`] is called again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing.
    Continue,
    /// Wait for this time.
    Wait(Duration),
    /// The service refuses the whole app: stop it.
    StopApp(Failure),
}

impl PollProgress {
    /// Begins a poll of `slot` with these batch sizes, while the calls of other slots have the outcomes `others`.
    pub(crate) fn new(slot: &Slot, sizes: BatchSizes, others: Others) -> Self {
        let without_receipt = slot.messages.iter().filter(|message| message.refused_since.is_none());
        let without_receipt = without_receipt.map(|message| (message.seq, message.no_receipt_polls));
        // If others fail too, one failure is enough: the next attempt is made by the next poll.
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
        // The whole has failed already. If nothing of it was answered, the parts are smaller the next time, and
        // others of them come first: so the others are found even among many messages at fault.
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

    /// The messages of the next attempt; `None` if the poll has ended.
    pub(crate) fn batch(&self) -> Option<&[MsgSeq]> {
        self.batches.front().map(Vec::as_slice)
    }

    /// Ends the poll: no attempt may be made any more.
    pub(crate) fn stop(&mut self) {
        self.end(PollEnd::Stopped);
    }

    /// Ends the poll: failed batches are not retried before the slot is due again.
    pub(crate) fn give_up(&mut self) {
        self.end(PollEnd::GivenUp);
    }

    /// Makes no further call, since another slot has to be asked: the rest waits for the next poll.
    pub(crate) fn gives_way(&mut self) {
        if !self.batches.is_empty() {
            self.has_enough();
        }
    }

    /// Notes the present outcomes of other slots' calls.
    pub(crate) fn others_are(&mut self, others: Others) {
        self.poll.others = self.poll.others.until(others);
    }

    /// Adds the outcome of an attempt for the batch. `renew_signature` replaces the signature, and returns false if
    /// it can't.
    pub(crate) fn record(&mut self, attempt: Attempt, renew_signature: impl FnOnce() -> bool) -> Step {
        let failure = match &attempt.outcome {
            Ok(answer) => {
                if self.poll.others == Others::Failing && !is_answered(&self.poll) {
                    self.asks_again();
                }
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
            return Step::Continue;
        };
        if failure.class == Class::SignAgain && !self.signed_again && renew_signature() {
            self.signed_again = true;
            return Step::Continue;
        }
        self.failed(failure)
    }

    /// Notes that the service answers after an outage: messages that failed alone before may have failed because of it.
    fn asks_again(&mut self) {
        let rejected = self.poll.rejected.drain(..).map(|told| told.seq);
        self.batches.extend(rejected.chain(self.culprits.drain(..)).map(|seq| vec![seq]));
    }

    /// The outcome.
    pub(crate) fn into_poll(self) -> Poll {
        let Self { mut poll, culprits, rest, .. } = self;
        if poll.end != PollEnd::Complete {
            return poll;
        }
        if is_answered(&poll) {
            poll.failed = culprits.into_iter().map(|seq| vec![seq]).collect();
            poll.failed.extend((!rest.is_empty()).then_some(rest));
        } else if !culprits.is_empty() || !rest.is_empty() || !poll.rejected.is_empty() {
            // It is impossible to know whether the messages are at fault.
            poll.end = PollEnd::GivenUp;
        }
        poll
    }

    /// Whether it makes one attempt for each batch, and halves failed ones. While others fail too it is not the
    /// messages' fault.
    fn looks_for_culprits(&self) -> bool {
        self.failures >= FAILURES_TO_BLAME && self.poll.others != Others::Failing
    }

    fn failed(&mut self, failure: Failure) -> Step {
        let code = failure.code.and_then(|code| i32::try_from(code).ok()).unwrap_or_default();
        let asked = self.batch().unwrap_or_default().to_vec();
        if self.is_probe_refused_for_good(failure.class) {
            self.poll.rejected.clear();
            self.end(PollEnd::GroupFault(failure));
            return Step::Continue;
        }
        match failure.class {
            Class::Retry | Class::Unknown if self.looks_for_culprits() => return self.part_failed(&asked),
            Class::SignAgain if !failure.is_passing() => return self.stop_app(failure),
            Class::Success | Class::Incomplete | Class::Retry | Class::SlowDown | Class::Unknown | Class::SignAgain => {
                // A batch that failed before gets one attempt per poll: it may fail again, and delay other failing
                // slots.
                let tries_again = self.failures == 0 || failure.class == Class::SlowDown;
                match self.retry.next_wait() {
                    Some(wait) if tries_again && self.in_vain < PATIENCE => return Step::Wait(wait),
                    _ => self.end(PollEnd::GivenUp),
                }
            }
            Class::Message if asked.len() == 1 || self.are_known_to_have_no_receipt(&asked) => {
                self.settle();
                let told = self.told(&asked, code);
                self.poll.receipts.extend(told);
            }
            Class::Split | Class::Message if asked.len() > 1 => self.halve(&asked, failure.class),
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
        Step::Continue
    }

    /// Whether a probe of a quarantined group has now been refused as often as it may be, without any answer.
    fn is_probe_refused_for_good(&self, class: Class) -> bool {
        let is_last = class == Class::Split && self.refusals + 1 >= MAX_REFUSALS_OF_A_PROBE;
        self.is_probe && is_last && !is_answered(&self.poll)
    }

    /// Replaces a batch that was refused as a whole by its parts.
    fn halve(&mut self, asked: &[MsgSeq], class: Class) {
        self.settle();
        self.refusals += 1;
        let parts = self.parts(asked, class);
        if self.failures == 0 {
            // There may just be too many: this reaches a small enough part soonest.
            parts.into_iter().rev().for_each(|part| self.batches.push_front(part));
        } else {
            // This gets an answer to any part soonest.
            self.batches.extend(parts);
        }
    }

    /// The receipts in the last attempt, from the code of the whole answer.
    fn told(&self, asked: &[MsgSeq], code: i32) -> Vec<Told> {
        let told = |seq: &MsgSeq| Some(Told::by(self.poll.attempts.last()?, *seq, Receipt { code, counts: None }));
        asked.iter().filter_map(told).collect()
    }

    /// Whether the previous poll found no receipt for each of these messages. A message that would be closed for that
    /// is asked for alone.
    fn are_known_to_have_no_receipt(&self, seqs: &[MsgSeq]) -> bool {
        seqs.iter().all(|seq| self.without_receipt.get(seq).is_some_and(|polls| polls + 1 < NO_RECEIPT_POLLS))
    }

    /// The parts of a batch that was refused as a whole.
    fn parts(&self, asked: &[MsgSeq], class: Class) -> Vec<Vec<MsgSeq>> {
        let is_suspect = |seq: &MsgSeq| class == Class::Message && self.without_receipt.contains_key(seq);
        let (suspects, others): (Vec<MsgSeq>, Vec<MsgSeq>) = asked.iter().partition(|seq| is_suspect(seq));
        match (suspects.is_empty(), others.is_empty()) {
            (true, _) => asked.rchunks(asked.len().div_ceil(2)).rev().map(<[MsgSeq]>::to_vec).collect(),
            (false, true) => suspects.into_iter().map(|seq| vec![seq]).collect(),
            (false, false) => vec![suspects, others],
        }
    }

    fn stop_app(&mut self, failure: Failure) -> Step {
        self.end(PollEnd::Stopped);
        Step::StopApp(failure)
    }

    /// Notes that a call failed, possibly because of its messages. Its halves are asked for after all other parts,
    /// since one answer proves that the service is up.
    fn part_failed(&mut self, asked: &[MsgSeq]) -> Step {
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
        Step::Continue
    }

    /// Leaves the remaining batches for another poll.
    fn has_enough(&mut self) {
        self.rest = self.batches.drain(..).flatten().collect();
        self.rest.sort_unstable();
    }

    /// Ends the batch; the next one has all its attempts.
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

/// Offset in parts of each next poll without an answer. It has no common divisor with the number of parts, so each
/// part comes first in one of the polls, even if two hanging calls end a poll.
fn stride(parts: usize) -> usize {
    let has_common_divisor =
        |stride: usize| (2..=stride).any(|by| stride.is_multiple_of(by) && parts.is_multiple_of(by));
    (1..=MAX_FAILED_PARTS_IN_VAIN).rev().find(|stride| !has_common_divisor(*stride)).unwrap_or(1)
}

/// Whether the service answered any of its calls.
fn is_answered(poll: &Poll) -> bool {
    !poll.receipts.is_empty() || poll.attempts.iter().any(|attempt| attempt.outcome.is_ok())
}

#[cfg(test)]
pub(crate) mod tests;
