//! The public status of the terms: who polls, how well, and whether the main loop runs.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::time::timeout;

use crate::{
    clock,
    daemon::{
        activity::Activity,
        discovery::{self, DiscoveryReport, DiscoveryStatus},
        events::{Health, Inbox, ReaderGroups},
        poller::PollerStatus,
    },
    rules::{database_clock::Doubt, lease::Lease},
    store::Watched,
};

/// Counts the rounds of the daemon's main loops: standing by, loading the schedule, polling. Everything that such a
/// loop waits for has a deadline of at most two minutes, so a daemon whose count doesn't change for longer hangs.
#[derive(Debug)]
pub struct Heartbeat {
    beats: AtomicU64,
    beaten_at: Mutex<Instant>,
}

/// Time without a round after which a loop counts as hanging.
const HANGS_AFTER: Duration = Duration::from_secs(150);

/// Longer waits count a round this often.
const BEAT_EVERY: Duration = Duration::from_secs(1);

impl Default for Heartbeat {
    fn default() -> Self {
        Self { beats: AtomicU64::new(0), beaten_at: Instant::now().into() }
    }
}

impl Heartbeat {
    /// Counts a round.
    pub(crate) fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
        *self.beaten_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Waits for something that may take longer than any deadline of a loop, without counting as a hang.
    pub(crate) async fn while_waiting<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            self.beat();
            if let Ok(done) = timeout(BEAT_EVERY, &mut work).await {
                return done;
            }
        }
    }

    /// The number of rounds.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// The time since the last round at `now`, if it is long enough to count as a hang.
    pub fn hangs_for(&self, now: Instant) -> Option<Duration> {
        let beaten_at = *self.beaten_at.lock().unwrap_or_else(PoisonError::into_inner);
        Some(now.saturating_duration_since(beaten_at)).filter(|still| *still > HANGS_AFTER)
    }
}

/// The public status of the terms.
#[derive(Debug, Default)]
pub struct DaemonStatus {
    pub(crate) lease: Arc<Lease>,
    pub(crate) storing_blocked: Arc<AtomicBool>,
    pub(crate) heartbeat: Arc<Heartbeat>,
    pub(crate) activity: Arc<Activity>,
    /// Counts of webhooks and their results.
    pub(crate) events: Arc<Health>,
    /// Events that wait to be recorded.
    pub(crate) inbox: Arc<Inbox>,
    /// The groups whose accounts in events are kept.
    pub(crate) reader_groups: Arc<ReaderGroups>,
    listens: AtomicBool,
    pub(crate) discovery: Arc<DiscoveryStatus>,
    /// Announcements for discovery, from webhooks.
    pub(crate) announced: Arc<discovery::Inbox>,
    /// What the start is waiting for, if it is not over.
    wait: Mutex<Option<String>>,
    poller: Mutex<Option<Arc<PollerStatus>>>,
    other: Mutex<Option<String>>,
    watched: Mutex<Option<Watched>>,
    doubt: Mutex<Option<Doubt>>,
}

/// Who polls, as far as this process knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// This process.
    Polling,
    /// This process, but the lease could not be renewed in time: no calls are made.
    LeaseNotRenewed,
    /// Another process, or an unknown one.
    StandingBy(Option<String>),
}

impl DaemonStatus {
    /// Who polls.
    pub fn role(&self) -> Role {
        let elector = self.lease.elector();
        let contender = elector.contender();
        match contender.epoch() {
            Some(_) if contender.is_trusted(clock::uptime()) => Role::Polling,
            Some(_) => Role::LeaseNotRenewed,
            None => Role::StandingBy(self.other.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        }
    }

    /// The epoch of the lease, if this process holds it.
    pub fn epoch(&self) -> Option<i64> {
        self.lease.elector().contender().epoch()
    }

    /// Whether the main loop runs.
    pub fn heartbeat(&self) -> &Heartbeat {
        &self.heartbeat
    }

    /// Recent activity.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// The state of discovery; `None` if it is not running here.
    pub fn discovery(&self) -> Option<DiscoveryReport> {
        self.discovery.report()
    }

    /// Whether results can't be stored.
    pub fn storing_blocked(&self) -> bool {
        self.storing_blocked.load(Ordering::Relaxed)
    }

    /// Why this process is not polling although it should, if so.
    pub fn trouble(&self) -> Option<String> {
        if let Some(wait) = self.wait.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Some(wait);
        }
        let role = self.role();
        if role == Role::LeaseNotRenewed {
            return Some("the lease could not be renewed: no calls are made".to_owned());
        }
        if role == Role::Polling && self.storing_blocked() {
            return Some("results can't be stored: polling waits".to_owned());
        }
        self.poller().and_then(|poller| poller.fault().or_else(|| poller.outage()))
    }

    /// Counts of webhooks and their results; `None` if this process doesn't listen for them.
    pub fn webhooks(&self) -> Option<&Health> {
        self.listens.load(Ordering::Relaxed).then_some(&self.events)
    }

    /// Fraction of changes that only polls find, which decides how rare polls become: from 1 down.
    pub fn untold_share(&self) -> f64 {
        self.events.trust().untold()
    }

    pub(crate) fn receives_webhooks(&self) {
        self.listens.store(true, Ordering::Relaxed);
    }

    /// Notes what the start is waiting for.
    pub(crate) fn waits_for(&self, what: Option<String>) {
        *self.wait.lock().unwrap_or_else(PoisonError::into_inner) = what;
    }

    /// Why nothing irreversible may be decided by the clock, if so.
    pub fn doubt(&self) -> Option<Doubt> {
        *self.doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn doubts(&self, doubt: Option<Doubt>) {
        *self.doubt.lock().unwrap_or_else(PoisonError::into_inner) = doubt;
    }

    /// Watched messages, as last counted.
    pub fn watched(&self) -> Option<Watched> {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counted(&self, watched: Watched) {
        *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = Some(watched);
    }

    /// The poller of the running term.
    pub fn poller(&self) -> Option<Arc<PollerStatus>> {
        self.poller.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_poller(&self, poller: Option<Arc<PollerStatus>>) {
        *self.poller.lock().unwrap_or_else(PoisonError::into_inner) = poller;
    }

    /// Notes the lease holder. True if it has changed.
    pub(crate) fn sees(&self, other: Option<&str>) -> bool {
        let mut seen = self.other.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = seen.as_deref() != other;
        *seen = other.map(str::to_owned);
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_hangs_after_a_pause_longer_than_any_deadline() {
        let heartbeat = Heartbeat::default();
        heartbeat.beat();
        assert_eq!((heartbeat.beats(), heartbeat.hangs_for(Instant::now())), (1, None));
        let later = Instant::now() + HANGS_AFTER + Duration::from_secs(1);
        assert!(heartbeat.hangs_for(later).is_some_and(|still| still > HANGS_AFTER));
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_waits_for_something_long_does_not_hang() {
        let heartbeat = Heartbeat::default();
        heartbeat.while_waiting(tokio::time::sleep(HANGS_AFTER * 2)).await;
        assert!(heartbeat.beats() >= 300, "{}", heartbeat.beats());
    }
}
