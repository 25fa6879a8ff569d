//! The calls of polls. Every attempt takes its permit last. [`Calls`] decides when a poll makes a call, and what
//! follows from the outcome.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
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
    daemon::{
        activity::Activity,
        pacing::{Pacing, Permit},
        poller::failure_log::FailureLog,
    },
    rules::{
        lease::Lease,
        polling::{
            brake::News,
            calls::{Calls, Ended, Heard, Next, PollInFlight},
            gate::Blame,
        },
        protocol::{Attempt, Class, Failure},
        recording::Poll,
        slot::Slot,
    },
};

/// The shared state of an app's polls.
#[derive(Debug)]
pub(super) struct Caller {
    pub client: Arc<ChatClient>,
    pub clock: Arc<Clock>,
    pub lease: Arc<Lease>,
    pub pacing: Arc<Pacing>,
    pub calls: Mutex<Calls>,
    pub failing: FailingShare,
    pub trouble: FailureLog,
    pub activity: Arc<Activity>,
    pub metrics: Metrics,
    /// Wakes the poller when more calls may be made than before.
    pub room: Arc<Notify>,
    /// Cancelled when the poller's term is over: no attempt starts after that.
    pub stop: CancellationToken,
}

/// A poll that was started while the brake was on, as long as it makes calls.
#[derive(Debug)]
pub(super) struct LetThrough(Arc<Caller>);

impl LetThrough {
    /// `None` if the brake was off.
    pub(super) fn of(poll: &PollInFlight, caller: &Arc<Caller>) -> Option<Self> {
        poll.is_let_through().then(|| Self(caller.clone()))
    }
}

impl Drop for LetThrough {
    fn drop(&mut self) {
        self.0.calls().brake.ended();
        self.0.room.notify_one();
    }
}

impl Caller {
    pub(super) fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the calls of a poll. `started` is called when the first one has its permit.
    pub(super) async fn poll(&self, mut poll: PollInFlight, mut started: impl FnMut(&Slot)) -> (Slot, Poll) {
        while let Some((turn, permit)) = self.right_to_call(&mut poll).await {
            if !poll.has_started() {
                started(poll.slot());
            }
            // A process that stood still may have lost the lease meanwhile: checked here, and again when the request
            // is written.
            let (now, is_trusted) = (clock::uptime(), self.lease.is_trusted(clock::uptime()));
            if !self.calls().may_send(&mut poll, is_trusted, now) {
                continue;
            }
            match self.send(&poll, turn, permit).await {
                Some(attempt) => self.hear(&mut poll, attempt),
                // A call that was not made is not an attempt.
                None => poll.stop(),
            }
        }
        self.end(poll)
    }

    /// Waits until a poll may make its next call. `None` if it makes no more.
    async fn right_to_call(&self, poll: &mut PollInFlight) -> Option<(Option<Turn<'_>>, Permit)> {
        loop {
            let next = self.calls().next(poll, clock::uptime());
            match next {
                Next::End => return None,
                Next::Wait(until) => {
                    let wait = tokio::time::sleep(until.saturating_duration_since(clock::uptime()));
                    if self.stop.run_until_cancelled(wait).await.is_none() {
                        poll.stop();
                    }
                }
                Next::Call { is_limited } => {
                    let right = async {
                        let turn = if is_limited { Some(self.failing.turn().await) } else { None };
                        (turn, self.pacing.permit().await)
                    };
                    let right = self.stop.run_until_cancelled(right).await;
                    if right.is_none() {
                        poll.stop();
                    }
                    return right;
                }
            }
        }
    }

    /// Sends an attempt, unless the lease is lost by the time at which its request is written.
    async fn send(&self, poll: &PollInFlight, mut turn: Option<Turn<'_>>, permit: Permit) -> Option<Attempt> {
        self.activity.sent(Instant::now());
        let (sent, lease, writing) = (clock::uptime(), self.lease.clone(), permit.writing());
        let may_send = move || {
            let may_send = lease.is_trusted(clock::uptime());
            if may_send {
                writing.begins();
            }
            may_send
        };
        turn.iter_mut().for_each(|turn| turn.sends(sent));
        let group_id = &poll.slot().group_id;
        let attempt = self.client.get_receipts(group_id, poll.batch(), may_send).await.ok()?;
        self.activity.ended(attempt.class(), attempt.asked, Instant::now());
        self.metrics.count(&attempt);
        attempt.trouble().into_iter().for_each(|trouble| self.trouble.note(group_id, &trouble));
        if !attempt.class().is_answer() {
            turn.take().into_iter().for_each(Turn::failed);
        }
        if attempt.class() == Class::SlowDown {
            self.pacing.slow_down(&permit);
        }
        if attempt.http_status.is_some() {
            permit.answered();
        }
        Some(attempt)
    }

    fn hear(&self, poll: &mut PollInFlight, attempt: Attempt) {
        let renew_signature = || self.client.renew_signature();
        let Heard { resumes, makes_room, outage } = self.calls().heard(poll, attempt, renew_signature, clock::uptime());
        if resumes {
            tracing::info!("Tencent Chat accepts the app's calls again: resuming");
        }
        if makes_room {
            self.room.notify_one();
        }
        match outage {
            Some(News::Begins(failure)) => self.trouble.outage_begins(&failure),
            Some(News::Ends) => self.trouble.outage_ends(),
            None => {}
        }
    }

    fn end(&self, poll: PollInFlight) -> (Slot, Poll) {
        let Ended { slot, poll, limit, renews_signature, blame } = self.calls().end(poll, clock::uptime());
        limit.into_iter().for_each(|limit| self.trouble.takes_only(limit));
        if renews_signature {
            self.client.renew_signature();
        }
        match blame {
            Some((Blame::Group, failure)) => self.trouble.quarantines(&slot.group_id, &failure),
            Some((Blame::App(true), failure)) => self.says_app_is_at_fault(&failure),
            _ => {}
        }
        (slot, poll)
    }

    pub(super) fn says_app_is_at_fault(&self, failure: &Failure) {
        let (code, info, said) = (failure.code, failure.info.as_str(), failure.of_app(self.clock.doubt()));
        tracing::error!(code, info, "{said}; calls are paused except for occasional probes");
    }
}
