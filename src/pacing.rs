//! How fast: the right to make one attempt.
//!
//! [`Pacer`] decides, as pure code fed with `now`; [`Pacing`] makes tasks wait their turn in order. Every HTTP attempt
//! takes a permit, retries included, and gives it back when it ended. Nothing here knows what a call is for.

mod pacer;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use self::pacer::BEAT;
pub use self::pacer::{Grant, Pacer};
use crate::clock;

/// The pacing of one app, shared by all its attempts.
#[derive(Debug)]
pub struct Pacing {
    pacer: Mutex<Pacer>,
    turn: tokio::sync::Mutex<()>,
    freed: Notify,
    started: Arc<Notify>,
}

impl Pacing {
    /// Pacing of at most `limit` attempts in any second, see [`Pacer::new`]. Must be called in a tokio runtime.
    pub fn new(limit: u32, transit_allowance: Duration) -> Arc<Self> {
        let pacer = Mutex::new(Pacer::new(limit, transit_allowance, now()));
        let (turn, freed, started) = (tokio::sync::Mutex::new(()), Notify::new(), Arc::new(Notify::new()));
        let pacing = Arc::new(Self { pacer, turn, freed, started: started.clone() });
        tokio::spawn(beat(Arc::downgrade(&pacing), started));
        pacing
    }

    /// Waits for the right to make one attempt. Callers are served in the order in which they came.
    pub async fn permit(self: &Arc<Self>) -> Permit {
        let _turn = self.turn.lock().await;
        loop {
            let freed = self.freed.notified();
            let taken = self.pacer().take(now());
            match taken {
                Ok(grant) => {
                    self.started.notify_one();
                    return Permit { grant, pacing: self.clone() };
                }
                Err(ready_at) => {
                    let sleep = tokio::time::sleep(ready_at.saturating_duration_since(now()));
                    // An attempt that ends from now on frees its permit a second later at the earliest.
                    if ready_at <= now() + Duration::from_secs(1) {
                        sleep.await;
                    } else {
                        tokio::select! { () = sleep => {}, () = freed => {} }
                    }
                }
            }
        }
    }

    /// Halves the rate because the service asked the attempt of `permit` to slow down.
    pub fn slow_down(&self, permit: &Permit) {
        self.pacer().slow_down(&permit.grant, now());
    }

    /// The attempts per second that are allowed just now.
    pub fn rate(&self) -> u32 {
        self.pacer().rate(now())
    }

    fn pacer(&self) -> MutexGuard<'_, Pacer> {
        self.pacer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pacing {
    fn drop(&mut self) {
        self.started.notify_one();
    }
}

/// Tells the pacer the time while attempts are under way, so that it notices when the process has stood still.
async fn beat(pacing: Weak<Pacing>, started: Arc<Notify>) {
    while let Some(is_needed) = pacing.upgrade().map(|pacing| pacing.pacer().beat(now())) {
        if is_needed { tokio::time::sleep(BEAT).await } else { started.notified().await }
    }
}

/// The right to one attempt. Dropping it says that the attempt has ended.
#[derive(Debug)]
pub struct Permit {
    grant: Grant,
    pacing: Arc<Pacing>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.pacing.pacer().ended(&self.grant, now());
        self.pacing.freed.notify_one();
    }
}

/// Goes on while the machine is suspended, so that this counts as a standstill.
fn now() -> std::time::Instant {
    Instant::now().into_std() + clock::suspended()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn permits_come_at_the_rate_and_in_order() {
        let pacing = Pacing::new(10, Duration::ZERO);
        let start = Instant::now();
        for _ in 0..30 {
            drop(pacing.permit().await);
        }
        let took = start.elapsed();
        // One quiet second, then 30 permits at 10 a second.
        assert!((Duration::from_millis(3_800)..Duration::from_millis(4_300)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_ends_early_frees_its_permit_early() {
        let pacing = Pacing::new(1, Duration::from_millis(500));
        let start = Instant::now();
        let permit = pacing.permit().await;
        let first = start.elapsed();
        let waiting = tokio::spawn({
            let pacing = pacing.clone();
            async move { pacing.permit().await }
        });
        tokio::task::yield_now().await;
        drop(permit);
        waiting.await.unwrap();
        let gap = start.elapsed() - first;
        assert!(
            gap < Duration::from_millis(1_050),
            "it waits for the end and a second, not for the allowance: {gap:?}"
        );
    }
}
