//! Pacing: the right to make one attempt.
//!
//! [`Pacer`] decides, as pure code that is given `now`; [`Pacing`] makes tasks wait for their turn in order. Every
//! HTTP attempt, including retries, takes a permit, reports when its request is written, and returns the permit with
//! or without an answer. Nothing here knows the purpose of a call.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    clock,
    rules::pacer::{Grant, Pacer},
};

/// Additional delay of a permit whose time is known: usually an answer wakes the process meanwhile, and one wake-up
/// serves both. Well within the catch-up of the pacer.
const SLACK: Duration = Duration::from_millis(10);

/// The pacing of an app, shared by all its attempts.
#[derive(Debug)]
pub struct Pacing {
    pacer: Mutex<Pacer>,
    turn: tokio::sync::Mutex<()>,
    ended: Notify,
}

impl Pacing {
    /// Allows at most `limit` attempts in any second, see [`Pacer::new`].
    pub fn new(limit: u32, transit_allowance: Duration) -> Arc<Self> {
        let pacer = Mutex::new(Pacer::new(limit, transit_allowance, now()));
        Arc::new(Self { pacer, turn: tokio::sync::Mutex::new(()), ended: Notify::new() })
    }

    /// Waits for the right to make one attempt. Callers are served in order of arrival.
    pub async fn permit(self: &Arc<Self>) -> Permit {
        let _turn = self.turn.lock().await;
        loop {
            let ended = self.ended.notified();
            let taken = self.pacer().take(now());
            match taken {
                Ok(grant) => return Permit { grant, pacing: self.clone(), is_answered: false },
                Err(None) => ended.await,
                Err(Some(ready_at)) => {
                    let sleep = tokio::time::sleep(ready_at.saturating_duration_since(now()) + SLACK);
                    tokio::select! { () = sleep => {}, () = ended => {} }
                }
            }
        }
    }

    /// Halves the rate because the service answered the attempt of `permit` with a slow-down.
    pub fn slow_down(&self, permit: &Permit) {
        self.pacer().slow_down(&permit.grant, now());
    }

    /// The current rate, in attempts per second.
    pub fn rate(&self) -> u32 {
        self.pacer().rate(now())
    }

    fn pacer(&self) -> MutexGuard<'_, Pacer> {
        self.pacer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one attempt. Dropping it ends the attempt: without an answer, unless [`Permit::answered`] was called,
/// and without a call, unless its request was written.
#[derive(Debug)]
pub struct Permit {
    grant: Grant,
    pacing: Arc<Pacing>,
    is_answered: bool,
}

impl Permit {
    /// A handle for the writer of the request.
    pub fn writing(&self) -> Writing {
        Writing { grant: self.grant, pacing: self.pacing.clone() }
    }

    /// Returns the permit: the attempt was answered, whatever the answer says.
    pub fn answered(mut self) {
        self.is_answered = true;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut pacer = self.pacing.pacer();
        if self.is_answered {
            pacer.answered(&self.grant, now());
        } else {
            pacer.failed(&self.grant, now());
        }
        drop(pacer);
        self.pacing.ended.notify_one();
    }
}

/// The handle by which the writer of a request reports it.
#[derive(Debug)]
pub struct Writing {
    grant: Grant,
    pacing: Arc<Pacing>,
}

impl Writing {
    /// The request is passed to the connection: it may reach the service from now on.
    pub fn begins(&self) {
        self.pacing.pacer().written(&self.grant, now());
    }
}

/// This clock continues while the machine is suspended, so that a suspension counts as a standstill.
fn now() -> std::time::Instant {
    Instant::now().into_std() + clock::suspended()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn call(pacing: &Arc<Pacing>) {
        let permit = pacing.permit().await;
        permit.writing().begins();
        permit.answered();
    }

    #[tokio::test(start_paused = true)]
    async fn permits_come_at_the_rate_and_in_order() {
        let pacing = Pacing::new(10, Duration::ZERO);
        let start = Instant::now();
        for _ in 0..31 {
            call(&pacing).await;
        }
        let took = start.elapsed();
        // A quiet second, the call that finds the network open, a second after that, then 30 permits at 10 per
        // second.
        assert!((Duration::from_millis(4_800)..Duration::from_millis(5_300)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_frees_the_permit_of_its_attempt_a_second_later() {
        let pacing = Pacing::new(1, Duration::from_millis(50));
        call(&pacing).await;
        let permit = pacing.permit().await;
        permit.writing().begins();
        let waiting = tokio::spawn({
            let pacing = pacing.clone();
            async move { pacing.permit().await }
        });
        tokio::time::sleep(Duration::from_secs(7)).await;
        assert!(!waiting.is_finished(), "nothing tells that the first one has arrived");
        permit.answered();
        let answered = Instant::now();
        waiting.await.unwrap();
        assert!((1_000..1_050).contains(&answered.elapsed().as_millis()), "{:?}", answered.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unused_permit_leaves_its_second_to_the_next_attempt() {
        let pacing = Pacing::new(50, Duration::from_millis(50));
        let start = Instant::now();
        let no_calls = (0..13).map(|_| async { drop(pacing.permit().await) });
        futures::future::join_all(no_calls).await;
        call(&pacing).await;
        let took = start.elapsed();
        assert!(took < Duration::from_millis(1_100), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_that_made_no_call_takes_nothing_of_the_limit() {
        let pacing = Pacing::new(5, Duration::from_millis(50));
        call(&pacing).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let start = Instant::now();
        for _ in 0..4 {
            drop(pacing.permit().await);
        }
        for _ in 0..5 {
            call(&pacing).await;
        }
        let took = start.elapsed();
        assert!(took < Duration::from_millis(1_900), "nine permits at 200 ms each, and no second waited for: {took:?}");
    }
}
