//! One term after the other: stands by until it gets the app's lease, and polls under it until it is lost or the
//! daemon stops.
//!
//! Everything that polls or writes lives within a term and ends with it. Nothing here decides who may have the lease:
//! see [`crate::rules::lease`].

mod session;

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

pub use self::session::SessionSettings;
use crate::{
    clock,
    daemon::{
        leadership::session::{Ended, PollingSession},
        status::DaemonStatus,
    },
    host::Holder,
    logging::log_throttle::LogThrottle,
    rules::lease::{LOOK_EVERY, Lease, LeaseRow, RENEW_EVERY, Verdict},
    store::{Store, StoreError},
};

/// Delay before an unanswered database query is repeated.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The common state of all terms of a daemon.
#[derive(Debug)]
pub(crate) struct Leadership {
    pub store: Store,
    /// The current settings; a change starts a new session.
    pub work: watch::Receiver<Arc<SessionSettings>>,
    pub status: Arc<DaemonStatus>,
    /// Cancelled once the lease holder is known.
    pub leader_known: CancellationToken,
    pub holder: Holder,
}

impl Leadership {
    /// Runs until `stop`, or until a part fails. Returns the number of polls that could not be stored.
    pub async fn run(self, stop: CancellationToken) -> usize {
        let mut lost = 0;
        while let Some(store) = self.stand_by(&stop).await {
            let ended = self.serve(store, &stop).await;
            lost += ended.lost;
            if ended.has_failed {
                break;
            }
        }
        lost
    }

    /// Waits for the lease. `None` if it is time to stop.
    async fn stand_by(&self, stop: &CancellationToken) -> Option<Store> {
        let mut trouble = LogThrottle::default();
        loop {
            self.status.heartbeat.beat();
            let wait = match stop.run_until_cancelled(self.try_to_take()).await? {
                Ok(Some(epoch)) => {
                    self.status.sees(None);
                    self.leader_known.cancel();
                    return Some(self.store.under_lease(&self.holder, epoch));
                }
                Ok(None) => {
                    if trouble.is_over() {
                        tracing::info!("the lease can be read again");
                    }
                    self.leader_known.cancel();
                    LOOK_EVERY
                }
                Err(error) => {
                    self.status.lease.contender().lost_sight();
                    error.log(&mut trouble, "the lease can't be read: standing by");
                    ASK_AGAIN
                }
            };
            stop.run_until_cancelled(sleep(wait)).await?;
        }
    }

    async fn try_to_take(&self) -> Result<Option<i64>, StoreError> {
        let row = self.store.look_at_lease().await?;
        let own = self.holder.to_string();
        // A lease taken by an unanswered query turns out to be ours.
        let is_free = |holder: &str| holder == own || self.holder.is_dead(holder);
        let verdict = self.status.lease.contender().saw(row.as_ref(), is_free, clock::uptime());
        if verdict == Verdict::Wait {
            self.tell_who_polls(row.as_ref()).await?;
            return Ok(None);
        }
        let asked_at = clock::uptime();
        let epoch = self.store.take_lease(&self.holder, row.as_ref()).await?;
        if let Some(epoch) = epoch {
            self.status.lease.contender().holds(epoch, asked_at);
        }
        Ok(epoch)
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

    /// Polls under the lease of `store`, session after session, until `stop`, or until the lease is lost or a part fails.
    async fn serve(&self, store: Store, stop: &CancellationToken) -> Ended {
        let term_over = stop.child_token();
        let term_ended = CancellationToken::new();
        let renewing =
            tokio::spawn(renew(store.clone(), self.status.lease.clone(), term_over.clone(), term_ended.clone()));
        let mut sum = Ended::default();
        while !term_over.is_cancelled() && !sum.has_failed {
            let session = self.session(&store, &term_over).await;
            sum = Ended { lost: sum.lost + session.lost, has_failed: session.has_failed };
        }
        term_ended.cancel();
        let is_held = renewing.await.unwrap_or(false);
        self.status.lease.contender().lost();
        if is_held && let Err(error) = store.release_lease().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the lease could not be released: another receiptd has to wait until it ends");
        }
        sum
    }

    /// Polls until the term is over, a part fails or the settings change.
    async fn session(&self, store: &Store, term_over: &CancellationToken) -> Ended {
        let mut changes = self.work.clone();
        let work = changes.borrow_and_update().clone();
        let session_over = term_over.child_token();
        let session =
            PollingSession { work, store, status: &self.status, term_over, session_over: session_over.clone() };
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

/// Renews the lease until `term_ended`. Returns whether it is still held; if it is not, the term is over.
async fn renew(store: Store, lease: Arc<Lease>, term_over: CancellationToken, term_ended: CancellationToken) -> bool {
    let mut trouble = LogThrottle::default();
    let mut wait = RENEW_EVERY;
    while term_ended.run_until_cancelled(sleep(wait)).await.is_some() {
        let (epoch, asked_at) = (lease.contender().epoch(), clock::uptime());
        wait = match (store.renew_lease().await, epoch) {
            (Ok(true), Some(epoch)) => {
                lease.contender().holds(epoch, asked_at);
                if trouble.is_over() {
                    tracing::info!("lease renewed again");
                }
                RENEW_EVERY
            }
            (Ok(_), _) => {
                tracing::warn!("another receiptd has taken over: standing by");
                lease.contender().lost();
                term_over.cancel();
                return false;
            }
            (Err(error), _) => {
                error.log(&mut trouble, "the lease can't be renewed: polling stops before it ends");
                ASK_AGAIN
            }
        };
    }
    true
}

/// Starts a part whose end, even by a panic, is noted.
pub(crate) fn spawn_noted<T: Send + 'static>(
    ended: &CancellationToken,
    part: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let guard = ended.clone().drop_guard();
    tokio::spawn(async move {
        let _guard = guard;
        part.await
    })
}
