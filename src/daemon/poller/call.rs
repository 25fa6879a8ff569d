//! One poll: asks for the messages of a slot, in as many attempts as it takes.
//!
//! Every attempt takes a permit, innermost. [`crate::rules::polling::poll_progress`] decides the reaction to an outcome.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    failing_share::{FailingShare, Turn},
    metrics::Metrics,
};
use crate::{
    chat::ChatClient,
    clock::{self, Clock},
    daemon::{activity::Activity, pacing::Pacing, poller::failure_log::FailureLog},
    domain::MsgSeq,
    rules::{
        lease::Lease,
        polling::{
            batch_limit::BatchLimit,
            brake::{Brake, News},
            gate::{Blame, Gate, Signature},
            others::Outcomes,
            poll_progress::{PollProgress, Step},
        },
        protocol::{Attempt, Class, Failure},
        recording::{Others, Poll, PollEnd},
        slot::{GroupState, Slot},
    },
};

/// The permission by which a poll calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// None: it ends without a call if its group or the app was refused meanwhile.
    None,
    /// A probe, to find out whether the app or its group is still refused.
    Trial,
}

/// A poll in flight.
struct Polling<'a, F> {
    slot: &'a Slot,
    pass: Pass,
    /// Whether it was started while the brake was on.
    is_let_through: bool,
    asking: PollProgress,
    /// Called when the first attempt goes out.
    started: Option<F>,
    /// When the last attempt was sent.
    sent: Instant,
    /// Whether the next attempt tries a new signature, which the other polls wait for.
    tries_signature: bool,
}

/// The shared state of an app's polls.
#[derive(Debug)]
pub(super) struct Caller {
    pub client: Arc<ChatClient>,
    pub clock: Arc<Clock>,
    pub lease: Arc<Lease>,
    pub pacing: Arc<Pacing>,
    pub gate: Mutex<Gate>,
    pub brake: Mutex<Brake>,
    pub outcomes: Mutex<Outcomes>,
    pub failing: FailingShare,
    pub limit: Mutex<BatchLimit>,
    pub trouble: FailureLog,
    pub activity: Arc<Activity>,
    pub metrics: Metrics,
    /// Wakes the poller when more calls may be made than before.
    pub room: Arc<Notify>,
    /// Cancelled when the poller's term is over: no attempt starts from then on.
    pub stop: CancellationToken,
}

/// A poll that was started while the brake was on, as long as it makes calls.
#[derive(Debug)]
pub(super) struct LetThrough(Arc<Caller>);

impl LetThrough {
    /// `None` if the brake is off.
    pub(super) fn new(caller: &Arc<Caller>) -> Option<Self> {
        let mut brake = caller.brake();
        if !brake.is_on() {
            return None;
        }
        brake.starts(clock::uptime());
        Some(Self(caller.clone()))
    }
}

impl Drop for LetThrough {
    fn drop(&mut self) {
        self.0.brake().ended();
        self.0.room.notify_one();
    }
}

impl Caller {
    pub(super) fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limit(&self) -> MutexGuard<'_, BatchLimit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn brake(&self) -> MutexGuard<'_, Brake> {
        self.brake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outcomes(&self) -> MutexGuard<'_, Outcomes> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls a slot. `started` is called when the first attempt goes out.
    pub(super) async fn poll(&self, slot: &Slot, pass: Pass, is_let_through: bool, started: impl FnOnce()) -> Poll {
        let sizes = self.limit().sizes(slot.messages.len(), clock::uptime());
        let asking = PollProgress::new(slot, sizes, self.outcomes().of_others(slot.key.slot_id, Instant::now()));
        let (started, sent) = (Some(started), clock::uptime());
        let mut polling = Polling { slot, pass, is_let_through, asking, started, sent, tries_signature: false };
        let mut refusal = None;
        while let Some(batch) = polling.asking.batch() {
            let batch = batch.to_vec();
            let Some(next) = self.attempt(&mut polling, batch).await else {
                polling.asking.stop();
                break;
            };
            match next {
                Step::Continue => {}
                Step::Wait(wait) => self.wait(&mut polling.asking, wait).await,
                Step::StopApp(failure) => refusal = Some(failure),
            }
            polling.asking.others_are(self.outcomes().of_others(slot.key.slot_id, Instant::now()));
        }
        let (sent, mut poll) = (polling.sent, polling.asking.into_poll());
        let mut limit = self.limit();
        if limit.learn(&poll, clock::uptime()) {
            self.trouble.takes_only(limit.known());
        }
        drop(limit);
        if refusal.is_some() {
            // Whatever was wrong with the signature, the next probe uses a new one.
            self.client.renew_signature();
        }
        let blame = judge(&mut self.gate(), slot, &mut poll, refusal, pass, (sent, clock::uptime()));
        match blame {
            Some((Blame::Group, failure)) => self.trouble.quarantines(&slot.group_id, &failure),
            Some((Blame::App(true), failure)) => self.says_app_is_at_fault(&failure),
            _ => {}
        }
        poll
    }

    /// Waits before an attempt is repeated. During an outage none is: the poll makes room for others.
    async fn wait(&self, asking: &mut PollProgress, wait: Duration) {
        if !self.brake().is_on() {
            // When the daemon stops meanwhile, no permit is waited for either.
            _ = self.stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
        if self.brake().is_on() {
            asking.give_up();
        }
    }

    /// Waits until the brake lets another call of the poll through.
    async fn let_through(&self) {
        loop {
            let now = clock::uptime();
            let again_at = {
                let mut brake = self.brake();
                match brake.next_call(now) {
                    Ok(()) => return brake.calls(now),
                    Err(again_at) => again_at,
                }
            };
            tokio::time::sleep(again_at.saturating_duration_since(now)).await;
        }
    }

    /// Makes one attempt for `batch`. `None` if no more may be made.
    async fn attempt(&self, polling: &mut Polling<'_, impl FnOnce()>, batch: Vec<MsgSeq>) -> Option<Step> {
        let slot = polling.slot;
        if polling.is_let_through && polling.started.is_none() {
            self.stop.run_until_cancelled(self.let_through()).await?;
        }
        let is_limited = slot.failures > 0 && polling.pass == Pass::None && !polling.is_let_through;
        let mut turn = if is_limited { Some(self.stop.run_until_cancelled(self.failing.turn()).await?) } else { None };
        let permit = self.stop.run_until_cancelled(self.pacing.permit()).await?;
        polling.started.take().into_iter().for_each(|started| started());
        let is_trial = std::mem::take(&mut polling.tries_signature) || polling.pass == Pass::Trial;
        let may_call = is_trial || self.gate().may_call(slot.key.group_key, clock::uptime());
        let may_call = may_call && (polling.is_let_through || !self.brake().is_on());
        // A process that stood still may have lost the lease meanwhile: checked here, and again when the request is
        // written.
        if !may_call || !self.lease.is_trusted(clock::uptime()) {
            return None;
        }
        self.activity.sent(Instant::now());
        polling.sent = clock::uptime();
        let (sent, lease, writing) = (polling.sent, self.lease.clone(), permit.writing());
        let may_send = move || {
            let may_send = lease.is_trusted(clock::uptime());
            if may_send {
                writing.begins();
            }
            may_send
        };
        turn.iter_mut().for_each(|turn| turn.sends(sent));
        // A call that was not made is not an attempt.
        let attempt = self.client.get_receipts(&slot.group_id, &batch, may_send).await.ok()?;
        self.activity.ended(attempt.class(), attempt.asked, Instant::now());
        self.metrics.count(&attempt);
        if attempt.class().is_answer() {
            self.answered(slot, sent);
        } else {
            turn.take().into_iter().for_each(Turn::failed);
        }
        if attempt.class() == Class::SlowDown {
            self.pacing.slow_down(&permit);
        }
        self.outcomes().note(slot.key.slot_id, attempt.class(), Instant::now());
        self.brakes(slot, &attempt, sent);
        attempt.trouble().into_iter().for_each(|trouble| self.trouble.note(&slot.group_id, &trouble));
        if attempt.http_status.is_some() {
            permit.answered();
        } else {
            drop(permit);
        }
        let (tries_signature, has_failed) = (&mut polling.tries_signature, attempt.has_failed_for_now());
        let next = polling.asking.record(attempt, || self.may_sign_again(sent, tries_signature));
        if has_failed && next == Step::Continue && self.brake().is_on() {
            // The next call is for another slot: this one may have a fault of its own.
            polling.asking.gives_way();
        }
        Some(next)
    }

    fn answered(&self, slot: &Slot, sent: Instant) {
        let (mut gate, now) = (self.gate(), clock::uptime());
        let held_up = gate.holds_up(now);
        if gate.answered(slot.key, sent, now) {
            tracing::info!("Tencent Chat accepts the app's calls again: resuming");
        }
        if held_up && !gate.holds_up(now) {
            self.room.notify_one();
        }
    }

    /// Reports an attempt to the brake.
    fn brakes(&self, slot: &Slot, attempt: &Attempt, sent: Instant) {
        let (was_on, news) = {
            let mut brake = self.brake();
            (brake.is_on(), brake.note(slot.key.slot_id, attempt, sent, clock::uptime()))
        };
        if was_on && attempt.outcome.is_ok() {
            self.room.notify_one();
        }
        match news {
            Some(News::Begins(failure)) => self.trouble.outage_begins(&failure),
            Some(News::Ends) => self.trouble.outage_ends(),
            None => {}
        }
    }

    pub(super) fn says_app_is_at_fault(&self, failure: &Failure) {
        let (code, info, said) = (failure.code, failure.info.as_str(), failure.of_app(self.clock.doubt()));
        tracing::error!(code, info, "{said}; calls are paused except for occasional probes");
    }

    /// Whether a call whose signature was refused should be repeated with a newer one. If there is none, one is made,
    /// and this poll tries it.
    fn may_sign_again(&self, sent: Instant, tries_signature: &mut bool) -> bool {
        let verdict = self.gate().signature_refused(sent, clock::uptime());
        *tries_signature = verdict == Signature::Renew;
        match verdict {
            Signature::Renew => self.client.renew_signature(),
            Signature::TryNewer => true,
            Signature::IsHopeless => false,
        }
    }
}

/// Decides what is at fault if the poll was refused, and ends it accordingly. `refusal` is a refusal with a code of
/// the app. The last attempt was sent at the first of `times`; the second is now.
pub(super) fn judge(
    gate: &mut Gate,
    slot: &Slot,
    poll: &mut Poll,
    refusal: Option<Failure>,
    pass: Pass,
    (sent, now): (Instant, Instant),
) -> Option<(Blame, Failure)> {
    let Some(failure) = refusal.or_else(|| refusal_of_group(slot, poll)) else {
        if pass == Pass::Trial {
            gate.is_unclear(slot.key.group_key, now);
        }
        return None;
    };
    let is_quarantined = slot.group_state == GroupState::Quarantined;
    let blame = if is_quarantined { None } else { Some(gate.refused(slot.key.group_key, &failure, sent, now)) };
    if blame != Some(Blame::Messages) {
        let is_group = blame.is_none_or(|blame| blame == Blame::Group);
        poll.end = if is_group { PollEnd::GroupFault(failure.clone()) } else { PollEnd::Stopped };
        poll.rejected.clear();
    }
    Some((blame?, failure))
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
