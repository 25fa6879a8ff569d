//! One poll: asks for the messages of a slot, in as many attempts as it takes.
//!
//! Every attempt takes a permit, innermost. What an outcome calls for is decided in [`super::asking`].

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use super::{
    asking::{Asking, Next},
    batch_limit::BatchLimit,
    gate::{Gate, Signature},
    others::Outcomes,
    trouble::Trouble,
};
use crate::{
    activity::Activity,
    chat::{ChatClient, Class, Failure, error_class},
    clock,
    domain::MsgSeq,
    lease::Lease,
    pacing::Pacing,
    recording::{Poll, PollEnd},
    slot::Slot,
};

/// What all polls of an app share.
#[derive(Debug)]
pub(super) struct Caller {
    pub client: Arc<ChatClient>,
    pub lease: Arc<Lease>,
    pub pacing: Arc<Pacing>,
    pub gate: Mutex<Gate>,
    pub outcomes: Mutex<Outcomes>,
    pub limit: Mutex<BatchLimit>,
    pub trouble: Trouble,
    pub activity: Arc<Activity>,
    /// Cancelled when the term of the poller is over: no attempt starts from then on.
    pub stop: CancellationToken,
}

impl Caller {
    pub(super) fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn limit(&self) -> MutexGuard<'_, BatchLimit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outcomes(&self) -> MutexGuard<'_, Outcomes> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls a slot. A probe calls though the gate is closed, and opens it if the app works again.
    ///
    /// `started` is called when the first attempt goes out.
    pub(super) async fn poll(&self, slot: &Slot, is_probe: bool, started: impl FnOnce()) -> Poll {
        let sizes = self.limit().sizes(slot.messages.len(), clock::uptime());
        let mut asking = Asking::new(slot, sizes, self.outcomes().of_others(slot.slot_id, Instant::now()));
        let mut started = Some(started);
        while let Some(batch) = asking.batch() {
            let Some(next) = self.attempt(slot, batch.to_vec(), is_probe, &mut started, &mut asking).await else {
                asking.stop();
                break;
            };
            match next {
                Next::GoOn => {}
                // When the daemon stops meanwhile, no permit is waited for either.
                Next::Wait(wait) => _ = self.stop.run_until_cancelled(tokio::time::sleep(wait)).await,
                Next::StopApp(failure) => self.stop(failure),
            }
        }
        let poll = asking.into_poll();
        let mut limit = self.limit();
        if limit.learn(&poll, clock::uptime()) {
            self.trouble.takes_only(limit.known());
        }
        drop(limit);
        if is_probe && matches!(poll.end, PollEnd::Complete | PollEnd::GroupFault(_)) && self.gate().open() {
            tracing::info!("Tencent Chat accepts the app's calls again: polling goes on");
        }
        poll
    }

    /// Makes one attempt for `batch`. `None` if none may be made any more.
    async fn attempt(
        &self,
        slot: &Slot,
        batch: Vec<MsgSeq>,
        is_probe: bool,
        started: &mut Option<impl FnOnce()>,
        asking: &mut Asking,
    ) -> Option<Next> {
        let permit = self.stop.run_until_cancelled(self.pacing.permit()).await?;
        started.take().into_iter().for_each(|started| started());
        let is_refused = !is_probe && self.gate().fault().is_some();
        // A process that stood still may have lost the lease meanwhile: looked at here, and again when the request is written.
        if is_refused || !self.lease.is_trusted() {
            return None;
        }
        let sent = Instant::now();
        self.activity.sent(sent);
        let (lease, writing) = (self.lease.clone(), permit.writing());
        let may_send = move || {
            let may_send = lease.is_trusted();
            if may_send {
                writing.begins();
            }
            may_send
        };
        // A call that was not made is no attempt.
        let attempt = self.client.get_receipts(&slot.group_id, &batch, may_send).await.ok()?;
        self.activity.ended(attempt.class(), attempt.asked, Instant::now());
        super::metrics::count(&attempt);
        if attempt.outcome.is_ok() {
            self.gate().accepted(sent);
        }
        if attempt.class() == Class::SlowDown {
            self.pacing.slow_down(&permit);
        }
        self.outcomes().note(slot.slot_id, attempt.class(), Instant::now());
        attempt.trouble().into_iter().for_each(|trouble| self.trouble.note(&slot.group_id, &trouble));
        if attempt.http_status.is_some() {
            permit.answered();
        } else {
            drop(permit);
        }
        Some(asking.heard(attempt, || self.may_sign_again(sent)))
    }

    /// Whether a call whose signature was refused is worth another try with a newer one, which is made if there is none.
    fn may_sign_again(&self, sent: Instant) -> bool {
        let verdict = self.gate().signature_refused(sent, Instant::now());
        match verdict {
            Signature::Renew => self.client.renew_signature(),
            Signature::TryNewer => true,
            Signature::IsHopeless => false,
        }
    }

    /// Stops the whole app and says why.
    fn stop(&self, failure: Failure) {
        // Whatever was wrong with the signature, the next probe brings a new one.
        self.client.renew_signature();
        let remedy = failure.code.and_then(error_class::remedy).unwrap_or("see the error code in the service's docs");
        let (code, info) = (failure.code, failure.info.clone());
        if self.gate().close(failure, Instant::now()) {
            tracing::error!(
                code,
                info,
                "Tencent Chat refuses the app's calls, so none is made but a probe now and then: {remedy}"
            );
        }
    }
}
