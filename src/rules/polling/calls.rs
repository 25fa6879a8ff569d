//! The life of a poll: when it makes its next call, whether it still may when its turn comes, what follows from the
//! outcome, and what is at fault for a refusal.
//!
//! Pure, given `now`. The caller waits, takes permits and sends. The state that the polls of an app share is here.

use std::time::Instant;

use super::{
    batch_limit::BatchLimit,
    brake::{Brake, News},
    gate::{Blame, Gate, Signature},
    others::Outcomes,
    poll_progress::{PollProgress, Step},
};
use crate::{
    domain::MsgSeq,
    rules::{
        protocol::{Attempt, Failure},
        recording::{KnownLimit, Others, Poll, PollEnd},
        slot::{GroupState, Slot},
    },
};

/// The permission by which a poll calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// None: it ends without a call if its group or the app was refused meanwhile.
    None,
    /// A probe, to find out whether the app or its group is still refused.
    Trial,
}

/// The shared state of an app's polls.
#[derive(Debug)]
pub(crate) struct Calls {
    pub gate: Gate,
    pub brake: Brake,
    pub outcomes: Outcomes,
    pub limit: BatchLimit,
}

/// A poll in flight.
#[derive(Debug)]
pub(crate) struct PollInFlight {
    slot: Slot,
    pass: Pass,
    /// Whether it was started while the brake was on.
    is_let_through: bool,
    progress: PollProgress,
    /// Whether it no longer waits for its first permit.
    has_started: bool,
    /// When the last attempt was sent.
    sent: Instant,
    /// Whether the next attempt tries a new signature, which the other polls wait for.
    tries_signature: bool,
    /// When the failed attempt is repeated.
    repeats_at: Option<Instant>,
    /// A refusal with a code of the app.
    refusal: Option<Failure>,
}

/// What a poll does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing: it has ended.
    End,
    /// A wait until then.
    Wait(Instant),
    /// A call, as soon as it has a permit, and a turn among failing slots if it is limited.
    Call {
        /// Whether its calls count as those of a failing slot.
        is_limited: bool,
    },
}

/// What the outcome of an attempt has changed for other polls.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// The app's calls are accepted again.
    pub resumes: bool,
    /// More calls may be made than before.
    pub makes_room: bool,
    /// An outage begins or ends.
    pub outage: Option<News>,
}

/// A poll that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub slot: Slot,
    pub poll: Poll,
    /// The batch limit of the service, if it has changed.
    pub limit: Option<Option<KnownLimit>>,
    /// Whether the next probe has to use a new signature.
    pub renews_signature: bool,
    /// What is at fault for a refusal.
    pub blame: Option<(Blame, Failure)>,
}

impl PollInFlight {
    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Whether it was started while the brake was on: then the brake has to be told of its end.
    pub(crate) fn is_let_through(&self) -> bool {
        self.is_let_through
    }

    /// Whether it no longer waits for its first permit.
    pub(crate) fn has_started(&self) -> bool {
        self.has_started
    }

    /// The messages of its next attempt.
    pub(crate) fn batch(&self) -> &[MsgSeq] {
        self.progress.batch().unwrap_or_default()
    }

    /// Ends the poll: no attempt may be made any more.
    pub(crate) fn stop(&mut self) {
        if self.progress.batch().is_some() {
            self.progress.stop();
        }
    }
}

impl Calls {
    /// The shared state of an app whose limit is `max_calls_per_second`, with calls for up to `batch_size` messages.
    pub(crate) fn new(max_calls_per_second: u32, batch_size: usize, now: Instant) -> Self {
        Self {
            gate: Gate::default(),
            brake: Brake::new(max_calls_per_second),
            outcomes: Outcomes::default(),
            limit: BatchLimit::new(batch_size, now),
        }
    }

    /// Starts a poll.
    pub(crate) fn begin(&mut self, slot: Slot, pass: Pass, now: Instant) -> PollInFlight {
        let is_let_through = !slot.messages.is_empty() && self.brake.is_on();
        if is_let_through {
            self.brake.starts(now);
        }
        let others = self.outcomes.of_others(slot.key.slot_id, now);
        let progress = PollProgress::new(&slot, self.limit.sizes(slot.messages.len(), now), others);
        PollInFlight {
            slot,
            pass,
            is_let_through,
            progress,
            has_started: false,
            sent: now,
            tries_signature: false,
            repeats_at: None,
            refusal: None,
        }
    }

    /// The next step of a poll at `now`. During an outage no attempt is repeated: the poll makes room for others, and
    /// each of its calls is one of those that the brake lets through.
    pub(crate) fn next(&mut self, poll: &mut PollInFlight, now: Instant) -> Next {
        poll.progress.others_are(self.outcomes.of_others(poll.slot.key.slot_id, now));
        if let Some(at) = poll.repeats_at {
            if now < at && !self.brake.is_on() && poll.progress.batch().is_some() {
                return Next::Wait(at);
            }
            poll.repeats_at = None;
            if self.brake.is_on() {
                poll.progress.give_up();
            }
        }
        if poll.progress.batch().is_none() {
            return Next::End;
        }
        if poll.is_let_through && poll.has_started {
            if let Err(again_at) = self.brake.next_call(now) {
                return Next::Wait(again_at);
            }
            self.brake.calls(now);
        }
        Next::Call { is_limited: poll.slot.failures > 0 && poll.pass == Pass::None && !poll.is_let_through }
    }

    /// Whether a poll with a permit may send its attempt. If not, it has ended.
    pub(crate) fn may_send(&self, poll: &mut PollInFlight, is_lease_trusted: bool, now: Instant) -> bool {
        poll.has_started = true;
        let is_trial = std::mem::take(&mut poll.tries_signature) || poll.pass == Pass::Trial;
        let may_call = is_trial || self.gate.may_call(poll.slot.key.group_key, now);
        let may_send = may_call && is_lease_trusted && (poll.is_let_through || !self.brake.is_on());
        if may_send {
            poll.sent = now;
        } else {
            poll.stop();
        }
        may_send
    }

    /// Adds the outcome of an attempt. `renew_signature` makes a new signature, if possible.
    pub(crate) fn heard(
        &mut self,
        poll: &mut PollInFlight,
        attempt: Attempt,
        renew_signature: impl FnOnce() -> bool,
        now: Instant,
    ) -> Heard {
        let (key, sent) = (poll.slot.key, poll.sent);
        let (was_held_up, was_on) = (self.gate.holds_up(now), self.brake.is_on());
        let resumes = attempt.class().is_answer() && self.gate.answered(key, sent, now);
        self.outcomes.note(key.slot_id, attempt.class(), now);
        let outage = self.brake.note(key.slot_id, &attempt, sent, now);
        let makes_room = was_on && attempt.outcome.is_ok() || was_held_up && !self.gate.holds_up(now);
        let has_failed = attempt.has_failed_for_now();
        let (gate, tries_signature) = (&mut self.gate, &mut poll.tries_signature);
        // If there is no newer signature, one is made, and this poll tries it.
        let step = poll.progress.record(attempt, || match gate.signature_refused(sent, now) {
            Signature::Renew => {
                *tries_signature = true;
                renew_signature()
            }
            Signature::TryNewer => true,
            Signature::IsHopeless => false,
        });
        match step {
            // The next call is for another slot: this one may have a fault of its own.
            Step::Continue if has_failed && self.brake.is_on() => poll.progress.gives_way(),
            Step::Continue => {}
            Step::Wait(wait) => poll.repeats_at = Some(now + wait),
            Step::StopApp(failure) => poll.refusal = Some(failure),
        }
        Heard { resumes, makes_room, outage }
    }

    /// Ends a poll, and decides what is at fault if it was refused.
    pub(crate) fn end(&mut self, poll: PollInFlight, now: Instant) -> Ended {
        let PollInFlight { slot, pass, progress, sent, refusal, .. } = poll;
        let mut poll = progress.into_poll();
        let limit = self.limit.learn(&poll, now).then(|| self.limit.known());
        let renews_signature = refusal.is_some();
        let blame = match refusal.or_else(|| refusal_of_group(&slot, &poll)) {
            Some(failure) => self.blame(&slot, &mut poll, failure, sent, now),
            None => {
                if pass == Pass::Trial {
                    self.gate.is_unclear(slot.key.group_key, now);
                }
                None
            }
        };
        Ended { slot, poll, limit, renews_signature, blame }
    }

    /// Decides what is at fault for a refusal of the attempt sent at `sent`, and ends the poll accordingly.
    fn blame(
        &mut self,
        slot: &Slot,
        poll: &mut Poll,
        failure: Failure,
        sent: Instant,
        now: Instant,
    ) -> Option<(Blame, Failure)> {
        let is_quarantined = slot.group_state == GroupState::Quarantined;
        let blame =
            if is_quarantined { None } else { Some(self.gate.refused(slot.key.group_key, &failure, sent, now)) };
        if blame != Some(Blame::Messages) {
            let is_group = blame.is_none_or(|blame| blame == Blame::Group);
            poll.end = if is_group { PollEnd::GroupFault(failure.clone()) } else { PollEnd::Stopped };
            poll.rejected.clear();
        }
        Some((blame?, failure))
    }
}

/// The refusal of a slot's group, if any: with a code of the group, or of each of its messages alone.
fn refusal_of_group(slot: &Slot, poll: &Poll) -> Option<Failure> {
    if let PollEnd::GroupFault(failure) = &poll.end {
        return Some(failure.clone());
    }
    // While others fail too, refusals of single messages say nothing about the group.
    let is_alone = poll.others != Others::Failing;
    let are_all_refused = is_alone && slot.messages.len() > 1 && poll.rejected.len() == slot.messages.len();
    poll.attempts.last().filter(|_| are_all_refused)?.outcome.as_ref().err().cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::polling::poll_progress::tests::slot;

    #[test]
    fn without_the_lease_no_attempt_is_sent_and_the_poll_ends() {
        let now = Instant::now();
        let mut calls = Calls::new(200, 50, now);
        let mut begin = || {
            let mut poll = calls.begin(slot(3), Pass::None, now);
            assert!(matches!(calls.next(&mut poll, now), Next::Call { .. }));
            poll
        };
        let (mut held, mut lost) = (begin(), begin());
        assert!(calls.may_send(&mut held, true, now));
        assert!(!calls.may_send(&mut lost, false, now));
        assert!(matches!(calls.next(&mut lost, now), Next::End));
    }
}
