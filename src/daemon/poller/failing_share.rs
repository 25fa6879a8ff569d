//! Turns for calls of failing slots: [`FailingCalls`] decides, and polls wait here. Nothing here knows the purpose of
//! a call.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::{clock, rules::polling::failing::FailingCalls};

/// The calls of failing slots, of all polls of a poller.
#[derive(Debug)]
pub(super) struct FailingShare {
    calls: Mutex<FailingCalls>,
    /// Notified when a call was sent or given back.
    changed: Notify,
}

/// The right to make one call.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    share: &'a FailingShare,
    sent: Option<Instant>,
    has_failed: bool,
}

impl FailingShare {
    /// See [`FailingCalls::new`].
    pub(super) fn new(limit: u32, allowance: Duration) -> Self {
        Self { calls: FailingCalls::new(limit, allowance).into(), changed: Notify::new() }
    }

    /// Waits for the right to make one call.
    pub(super) async fn turn(&self) -> Turn<'_> {
        loop {
            // Before checking, so that no change is missed.
            let changed = self.changed.notified();
            let taken = self.calls().take(clock::uptime());
            match taken {
                Ok(()) => return Turn { share: self, sent: None, has_failed: false },
                Err(Some(from)) => {
                    let wait = from.saturating_duration_since(clock::uptime());
                    _ = tokio::time::timeout(wait, changed).await;
                }
                Err(None) => changed.await,
            }
        }
    }

    fn calls(&self) -> MutexGuard<'_, FailingCalls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Notes that the call is sent now.
    pub(super) fn sends(&mut self, now: Instant) {
        self.share.calls().sends(now);
        self.sent = Some(now);
        self.share.changed.notify_waiters();
    }

    /// Notes that the call has failed, so that it counts.
    pub(super) fn failed(mut self) {
        self.has_failed = true;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.has_failed {
            self.share.calls().give_back(self.sent);
            self.share.changed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_waiting_poll_gets_its_turn_whatever_the_others_do() {
        let share = FailingShare::new(1_000, Duration::ZERO);
        let poll = |fails: bool, is_sent: bool| {
            let share = &share;
            async move {
                let mut turn = share.turn().await;
                tokio::task::yield_now().await;
                if is_sent {
                    turn.sends(clock::uptime());
                }
                if fails {
                    turn.failed();
                }
            }
        };
        let polls = (0..250).map(|number| poll(number % 3 == 0, number % 3 != 1));
        futures::future::join_all(polls).await;
        let (waiting, failed) = share.calls().counts();
        assert_eq!(waiting, 0);
        assert!(failed <= 84, "{:?}", share.calls());
    }
}
