//! One term after the other: stand by until the lease of the app can be had, poll under it, until it is lost or the daemon
//! stops.
//!
//! Everything that polls or writes lives within a term and ends with it. Nothing here decides who may have the lease: see
//! [`crate::lease`].

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    cadence::Cadences,
    chat::ChatClient,
    jobs::{self, JobSettings},
    lease::{Holder, LOOK_EVERY, Lease, LeaseRow, RENEW_EVERY, Verdict},
    poller::{Poller, PollerParts, PollerSettings, PollerStatus, Slotter},
    repeated::Repeated,
    store::{Recorder, RecorderSettings, Store, StoreError},
};

/// Polls in flight have this long to end after the daemon was told to stop.
const GRACE_FOR_POLLS: Duration = Duration::from_secs(10);

/// Then the recorder has this long to write what they brought back.
const GRACE_FOR_FLUSH: Duration = Duration::from_secs(10);

/// What the database did not answer is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What others may know of the terms.
#[derive(Debug, Default)]
pub struct TermStatus {
    lease: Arc<Lease>,
    is_stuck: Arc<AtomicBool>,
    poller: Mutex<Option<Arc<PollerStatus>>>,
    other: Mutex<Option<String>>,
}

/// Who polls, as this process knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// This process.
    Polling,
    /// This process, but the lease could not be renewed in time: nobody calls.
    LeaseNotRenewed,
    /// Somebody else, or nobody known yet.
    StandingBy(Option<String>),
}

impl TermStatus {
    /// Who polls.
    pub fn role(&self) -> Role {
        let contender = self.lease.contender();
        match contender.epoch() {
            Some(_) if contender.is_trusted(Instant::now()) => Role::Polling,
            Some(_) => Role::LeaseNotRenewed,
            None => Role::StandingBy(self.other.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        }
    }

    /// Whether what polls brought back can't be stored just now.
    pub fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed)
    }

    /// The poller of the running term.
    pub fn poller(&self) -> Option<Arc<PollerStatus>> {
        self.poller.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_poller(&self, poller: Option<Arc<PollerStatus>>) {
        *self.poller.lock().unwrap_or_else(PoisonError::into_inner) = poller;
    }

    /// Notes who else polls. True if that is news.
    fn sees(&self, other: Option<&str>) -> bool {
        let mut seen = self.other.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = seen.as_deref() != other;
        *seen = other.map(str::to_owned);
        is_news
    }
}

/// What the terms of one daemon have in common.
#[derive(Debug)]
pub(crate) struct Terms {
    pub store: Store,
    pub client: Arc<ChatClient>,
    pub poller: PollerSettings,
    pub cadences: Arc<Cadences>,
    pub jobs: JobSettings,
    pub status: Arc<TermStatus>,
    /// Cancelled once it is known who polls.
    pub decided: CancellationToken,
    pub holder: Holder,
}

/// How a term ended.
struct Ended {
    /// So many polls could not be stored.
    lost: usize,
    /// A part ended that never should.
    has_failed: bool,
}

impl Terms {
    /// Serves until `stop`, or until a part fails. Returns how many polls could not be stored.
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
        let mut trouble = Repeated::default();
        loop {
            let wait = match stop.run_until_cancelled(self.try_to_take()).await? {
                Ok(Some(epoch)) => {
                    self.status.sees(None);
                    self.decided.cancel();
                    return Some(self.store.under_lease(&self.holder, epoch));
                }
                Ok(None) => {
                    self.decided.cancel();
                    LOOK_EVERY
                }
                Err(error) => {
                    self.status.lease.contender().lost_sight();
                    say(&mut trouble, &error, "it can't be seen who polls this app: standing by");
                    ASK_AGAIN
                }
            };
            stop.run_until_cancelled(sleep(wait)).await?;
        }
    }

    async fn try_to_take(&self) -> Result<Option<i64>, StoreError> {
        let row = self.store.look_at_lease().await?;
        let own = self.holder.to_string();
        // What was taken without an answer is found to be one's own.
        let is_free = |holder: &str| holder == own || self.holder.is_dead(holder);
        let verdict = self.status.lease.contender().saw(row.as_ref(), is_free, Instant::now());
        if verdict == Verdict::Wait {
            self.tell_who_polls(row.as_ref());
            return Ok(None);
        }
        let asked_at = Instant::now();
        let epoch = self.store.take_lease(&self.holder, row.as_ref()).await?;
        if let Some(epoch) = epoch {
            self.status.lease.contender().holds(epoch, asked_at);
        }
        Ok(epoch)
    }

    fn tell_who_polls(&self, row: Option<&LeaseRow>) {
        let holder = row.and_then(|row| row.holder.as_deref());
        if self.status.sees(holder) {
            tracing::info!(holder, "standing by: another receiptd polls this app");
        }
    }

    /// Polls under the lease of `store` until `stop`, or until the lease is lost or a part fails.
    async fn serve(&self, store: Store, stop: &CancellationToken) -> Ended {
        // Cancelled when no more polls are to start.
        let over = stop.child_token();
        let ended = CancellationToken::new();
        let renewing = tokio::spawn(renew(store.clone(), self.status.lease.clone(), over.clone(), ended.clone()));
        let ended_as = match self.load(&store, &over).await {
            Some((poller, recorder, give_up)) => self.poll(&store, poller, recorder, give_up, &over).await,
            None => Ended { lost: 0, has_failed: false },
        };
        ended.cancel();
        let is_held = renewing.await.unwrap_or(false);
        self.status.lease.contender().lost();
        self.status.set_poller(None);
        if is_held && let Err(error) = store.release_lease().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the lease could not be given back: another receiptd has to wait until it ends");
        }
        ended_as
    }

    /// Sets up the poller with its schedule, and the recorder. `None` if the term is over before the schedule is there.
    async fn load(&self, store: &Store, over: &CancellationToken) -> Option<(Poller, Recorder, CancellationToken)> {
        let (committed_sender, committed) = mpsc::unbounded_channel();
        let (give_up, is_stuck) = (CancellationToken::new(), self.status.is_stuck.clone());
        is_stuck.store(false, Ordering::Relaxed);
        let settings = RecorderSettings {
            committed: committed_sender,
            over: over.clone(),
            give_up: give_up.clone(),
            is_stuck: is_stuck.clone(),
        };
        let (recorder, recordings) = Recorder::new(store.clone(), settings);
        let parts = PollerParts {
            store: store.clone(),
            client: self.client.clone(),
            lease: self.status.lease.clone(),
            cadences: self.cadences.clone(),
            recorder: recordings,
            committed,
            is_stuck,
        };
        let mut poller = Poller::new(parts, self.poller.clone(), over.clone());
        let mut trouble = Repeated::default();
        loop {
            match over.run_until_cancelled(poller.load()).await? {
                Ok(slots) => {
                    tracing::info!(slots, "polling, with {slots} calls on the schedule");
                    return Some((poller, recorder, give_up));
                }
                Err(error) => say(&mut trouble, &error, "the schedule can't be loaded: polling waits"),
            }
            over.run_until_cancelled(sleep(ASK_AGAIN)).await?;
        }
    }

    /// Polls until the term is over, then lets the polls in flight end and what they brought back be stored.
    async fn poll(
        &self,
        store: &Store,
        poller: Poller,
        recorder: Recorder,
        give_up: CancellationToken,
        over: &CancellationToken,
    ) -> Ended {
        self.status.set_poller(Some(poller.status()));
        let (cadences, batch_size) = (self.cadences.clone(), self.poller.batch_size);
        let slotter = Slotter { store: store.clone(), cadences, batch_size, news: poller.news() };
        let failed = CancellationToken::new();
        let poller = spawn_noted(&failed, poller.run(GRACE_FOR_POLLS));
        let slotter = spawn_noted(&failed, slotter.run(over.clone()));
        let jobs = spawn_noted(&failed, jobs::run(store.clone(), self.jobs.clone(), over.clone()));
        let recorder = spawn_noted(&failed, recorder.run());
        tokio::select! { () = over.cancelled() => {} () = failed.cancelled() => {} }
        let has_failed = !over.is_cancelled();
        over.cancel();
        for part in [poller.await, slotter.await, jobs.await] {
            if let Err(error) = part {
                tracing::error!(error = &error as &dyn std::error::Error, "a part of the daemon had failed");
            }
        }
        let deadline = tokio::spawn(async move {
            sleep(GRACE_FOR_FLUSH).await;
            give_up.cancel();
        });
        let lost = recorder.await.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "the recorder had failed");
            0
        });
        deadline.abort();
        Ended { lost, has_failed }
    }
}

/// Renews the lease until `ended`. Returns whether it is still held; if it is not, the term is `over`.
async fn renew(store: Store, lease: Arc<Lease>, over: CancellationToken, ended: CancellationToken) -> bool {
    let mut trouble = Repeated::default();
    let mut wait = RENEW_EVERY;
    while ended.run_until_cancelled(sleep(wait)).await.is_some() {
        let (epoch, asked_at) = (lease.contender().epoch(), Instant::now());
        wait = match (store.renew_lease().await, epoch) {
            (Ok(true), Some(epoch)) => {
                lease.contender().holds(epoch, asked_at);
                RENEW_EVERY
            }
            (Ok(_), _) => {
                tracing::warn!("another receiptd has taken over: this one polls no more and stands by");
                lease.contender().lost();
                over.cancel();
                return false;
            }
            (Err(error), _) => {
                say(&mut trouble, &error, "the lease can't be renewed: polling stops before it ends");
                ASK_AGAIN
            }
        };
    }
    true
}

fn say(trouble: &mut Repeated, error: &StoreError, what: &'static str) {
    if trouble.is_due() {
        let (cause, advice) = (error as &dyn std::error::Error, error.advice());
        tracing::error!(error = cause, advice, "{what}");
    }
}

/// Starts a part whose end, by a panic too, is noted.
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
