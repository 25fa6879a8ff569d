//! One poll: asks for the messages of a slot, in as many attempts as it takes.
//!
//! Every attempt takes a permit, innermost. What an outcome calls for is decided by its class; a call that is refused as
//! too large or bad is halved, so that one bad seq can't wedge its group.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use super::{
    gate::{Gate, Signature},
    retry::Retry,
    trouble::Trouble,
};
use crate::{
    chat::{Attempt, ChatClient, Class, Failure, error_class},
    domain::{GroupId, MsgSeq, Receipt},
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
    pub trouble: Trouble,
    /// Cancelled when the term of the poller is over: no attempt starts from then on.
    pub stop: CancellationToken,
}

/// What to do after an attempt.
enum Next {
    /// The batch is answered: see the last attempt.
    Answered,
    /// This one message has no receipt.
    NoReceipt(i32),
    /// Ask for the halves.
    Halve,
    /// The service refuses this one message.
    Reject(i32),
    /// Go no further.
    End(PollEnd),
}

impl Caller {
    pub(super) fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Polls a slot. A probe calls though the gate is closed, and opens it if the app works again.
    ///
    /// `started` is called when the first attempt goes out.
    pub(super) async fn poll(&self, slot: &Slot, is_probe: bool, started: impl FnOnce()) -> Poll {
        let mut poll = Poll { attempts: vec![], receipts: vec![], rejected: vec![], end: PollEnd::Complete };
        let mut started = Some(started);
        let mut batches = vec![slot.messages.iter().map(|message| message.seq).collect::<Vec<_>>()];
        while let Some(batch) = batches.pop() {
            let next = self.ask(&slot.group_id, &batch, is_probe, &mut started, &mut poll.attempts).await;
            match next {
                Next::Answered => {
                    let answer = poll.attempts.last().and_then(|attempt| attempt.outcome.as_ref().ok());
                    poll.receipts.extend(answer.into_iter().flat_map(|answer| &answer.receipts));
                }
                Next::NoReceipt(code) => {
                    poll.receipts.extend(batch.first().map(|seq| (*seq, Receipt { code, counts: None })));
                }
                Next::Halve => {
                    let (older, younger) = batch.split_at(batch.len() / 2);
                    batches.extend([younger.to_vec(), older.to_vec()]);
                }
                Next::Reject(code) => poll.rejected.extend(batch.first().map(|seq| (*seq, code))),
                Next::End(end) => {
                    poll.end = end;
                    break;
                }
            }
        }
        if is_probe && matches!(poll.end, PollEnd::Complete | PollEnd::GroupFault(_)) && self.gate().open() {
            tracing::info!("Tencent Chat accepts the app's calls again: polling goes on");
        }
        poll
    }

    /// Asks for one batch until it is answered, refused or given up.
    async fn ask(
        &self,
        group: &GroupId,
        batch: &[MsgSeq],
        is_probe: bool,
        started: &mut Option<impl FnOnce()>,
        attempts: &mut Vec<Attempt>,
    ) -> Next {
        let mut retry = Retry::default();
        let mut signed_again = false;
        loop {
            let Some(permit) = self.stop.run_until_cancelled(self.pacing.permit()).await else {
                return Next::End(PollEnd::Stopped);
            };
            started.take().into_iter().for_each(|started| started());
            let is_refused = !is_probe && self.gate().fault().is_some();
            // Looked at last of all: a process that stood still may have lost the lease meanwhile.
            if is_refused || !self.lease.is_trusted() {
                return Next::End(PollEnd::Stopped);
            }
            let sent = Instant::now();
            let attempt = self.client.get_receipts(group, batch).await;
            super::metrics::count(&attempt);
            let failure = attempt.outcome.as_ref().err().cloned();
            attempts.push(attempt);
            let Some(failure) = failure else {
                self.gate().accepted(sent);
                return Next::Answered;
            };
            if failure.class == Class::SlowDown {
                self.pacing.slow_down(&permit);
            }
            drop(permit);
            self.trouble.note(group, &failure);
            if failure.class == Class::SignAgain && !signed_again && self.may_sign_again(sent) {
                signed_again = true;
                continue;
            }
            if let Some(next) = self.without_retry(failure, batch) {
                return next;
            }
            let Some(wait) = retry.next_wait() else { return Next::End(PollEnd::GivenUp) };
            // When the daemon stops meanwhile, no permit is waited for either.
            self.stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
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

    /// What a failure calls for, if it isn't another try.
    fn without_retry(&self, failure: Failure, batch: &[MsgSeq]) -> Option<Next> {
        let code = failure.code.and_then(|code| i32::try_from(code).ok()).unwrap_or_default();
        match failure.class {
            Class::Success | Class::Retry | Class::SlowDown | Class::Unknown => None,
            Class::Split | Class::Message if batch.len() > 1 => Some(Next::Halve),
            Class::Split => Some(Next::Reject(code)),
            Class::Message => Some(Next::NoReceipt(code)),
            Class::GroupFault => Some(Next::End(PollEnd::GroupFault(failure))),
            Class::Wait | Class::SignAgain | Class::AppFault => {
                self.stop(failure);
                Some(Next::End(PollEnd::Stopped))
            }
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
