//! Leadership: stands by until this process gets the app's lease, and polls under it until the lease is lost or the
//! daemon stops.
//!
//! Everything that polls or writes lives within a term and ends with it. Nothing is decided here: [`Elector`] says what
//! to do next.

mod session;

use std::{
    sync::{Arc, MutexGuard},
    time::Instant,
};

use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

pub use self::session::{SessionParts, SessionSettings};
use crate::{
    clock,
    daemon::{
        leadership::session::{Ended, PollingSession},
        status::DaemonStatus,
    },
    host::Holder,
    logging::log_throttle::LogThrottle,
    rules::lease::{Elector, LeaseRow, Task},
    store::{Store, StoreError},
};

/// The common state of all terms of a daemon.
#[derive(Debug)]
pub(crate) struct Leadership {
    pub store: Store,
    /// What to poll with; a change starts a new session.
    pub parts: watch::Receiver<Arc<SessionParts>>,
    pub status: Arc<DaemonStatus>,
    /// Cancelled once the lease holder is known.
    pub leader_known: CancellationToken,
    pub holder: Holder,
}

impl Leadership {
    /// Runs until `stop`, or until a part fails. Returns the number of polls that could not be stored.
    pub async fn run(self, stop: CancellationToken) -> usize {
        let (mut lost, mut trouble) = (0, LogThrottle::default());
        loop {
            self.status.heartbeat.beat();
            if stop.is_cancelled() {
                self.elector().stop();
            }
            let task = self.elector().next(clock::uptime());
            match task {
                Task::End => return lost,
                Task::Lead(epoch) => {
                    self.status.sees(None);
                    self.leader_known.cancel();
                    lost += self.lead(&self.store.under_lease(&self.holder, epoch), &stop).await;
                }
                task => _ = stop.run_until_cancelled(self.stand_by(task, &mut trouble)).await,
            }
        }
    }

    fn elector(&self) -> MutexGuard<'_, Elector> {
        self.status.lease.elector()
    }

    /// Does what has to be done without the lease.
    async fn stand_by(&self, task: Task, trouble: &mut LogThrottle) {
        let done = match task {
            Task::Look => self.look().await,
            Task::Take(row) => self.take(row).await,
            Task::Wait(until) => return wait(until).await,
            _ => return,
        };
        match done {
            Ok(()) if trouble.is_over() => tracing::info!("the lease can be read again"),
            Ok(()) => {}
            Err(error) => {
                self.elector().failed(clock::uptime());
                error.log(trouble, "the lease can't be read: standing by");
            }
        }
    }

    async fn look(&self) -> Result<(), StoreError> {
        let row = self.store.look_at_lease().await?;
        let own = self.holder.to_string();
        // A lease taken by an unanswered query turns out to be ours.
        let is_free = |holder: &str| holder == own || self.holder.is_dead(holder);
        let is_taken = self.elector().saw(row.as_ref(), is_free, clock::uptime());
        if is_taken {
            self.tell_who_polls(row.as_ref()).await?;
            self.leader_known.cancel();
        }
        Ok(())
    }

    async fn take(&self, row: Option<LeaseRow>) -> Result<(), StoreError> {
        let asked_at = clock::uptime();
        let epoch = self.store.take_lease(&self.holder, row.as_ref()).await?;
        self.elector().took(epoch, asked_at, clock::uptime());
        self.leader_known.cancel();
        Ok(())
    }

    async fn tell_who_polls(&self, row: Option<&LeaseRow>) -> Result<(), StoreError> {
        let holder = row.and_then(|row| row.holder.as_deref());
        if !self.status.sees(holder) {
            return Ok(());
        }
        tracing::info!(holder, "standing by: another receiptd polls this app");
        // Nobody else would report it before this process has to take over.
        if let Some(why) = self.store.read_only().await? {
            tracing::error!("this receiptd can't take over: {why}");
        }
        Ok(())
    }

    /// Polls under the lease of `store`, session after session, until `stop`, or until the lease is lost or a part
    /// fails. Returns the number of polls that could not be stored.
    async fn lead(&self, store: &Store, stop: &CancellationToken) -> usize {
        let (term_over, polling_ended) = (stop.child_token(), CancellationToken::new());
        let polling = async {
            let ended = self.sessions(store, &term_over).await;
            polling_ended.cancel();
            ended
        };
        let (ended, ()) = tokio::join!(polling, self.keep(store, &term_over, &polling_ended));
        self.elector().polling_ended(ended.has_failed);
        let task = self.elector().next(clock::uptime());
        if task == Task::Release {
            if let Err(error) = store.release_lease().await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the lease could not be released: another receiptd has to wait until it ends");
            }
            self.elector().released();
        }
        ended.lost
    }

    /// Renews the lease until polling has ended. If another process has it, the term is over.
    async fn keep(&self, store: &Store, term_over: &CancellationToken, polling_ended: &CancellationToken) {
        let mut trouble = LogThrottle::default();
        while !polling_ended.is_cancelled() {
            let task = self.elector().next(clock::uptime());
            match task {
                // Not cancelled: a process that releases the lease must not mistake it for its own again.
                Task::Renew => self.renew(store, &mut trouble).await,
                Task::Wait(until) => _ = polling_ended.run_until_cancelled(wait(until)).await,
                _ => {
                    term_over.cancel();
                    polling_ended.cancelled().await;
                }
            }
        }
    }

    async fn renew(&self, store: &Store, trouble: &mut LogThrottle) {
        let asked_at = clock::uptime();
        match store.renew_lease().await {
            Ok(is_held) => {
                self.elector().renewed(is_held, asked_at, clock::uptime());
                if !is_held {
                    tracing::warn!("another receiptd has taken over: standing by");
                } else if trouble.is_over() {
                    tracing::info!("lease renewed again");
                }
            }
            Err(error) => {
                self.elector().failed(clock::uptime());
                error.log(trouble, "the lease can't be renewed: polling stops before it ends");
            }
        }
    }

    /// Polls session after session, until the term is over or a part fails.
    async fn sessions(&self, store: &Store, term_over: &CancellationToken) -> Ended {
        let mut sum = Ended::default();
        while !term_over.is_cancelled() && !sum.has_failed {
            let session = self.session(store, term_over).await;
            sum = Ended { lost: sum.lost + session.lost, has_failed: session.has_failed };
        }
        sum
    }

    /// Polls until the term is over, a part fails or the settings change.
    async fn session(&self, store: &Store, term_over: &CancellationToken) -> Ended {
        let mut changes = self.parts.clone();
        let parts = changes.borrow_and_update().clone();
        let session_over = term_over.child_token();
        let session =
            PollingSession { parts, store, status: &self.status, term_over, session_over: session_over.clone() };
        let change = tokio::spawn(async move {
            tokio::select! {
                () = session_over.cancelled() => {}
                // Without a sender there are no more changes.
                Ok(()) = changes.changed() => {
                    tracing::info!("settings changed: draining in-flight calls, then resuming with the new settings");
                    session_over.cancel();
                }
            }
        });
        let ended = session.run().await;
        change.abort();
        ended
    }
}

/// Waits until this time.
async fn wait(until: Instant) {
    sleep(until.saturating_duration_since(clock::uptime())).await;
}
