//! Discovery: finds groups and their new messages, and watches them. [`crate::rules::discovery`] decides which and
//! when; nothing here keeps texts or names.
//!
//! It runs beside polling, with calls of its own, and never delays it. Whatever could not be stored is found again.

mod hearing;
mod inbox;
mod listing;
mod looking;
mod status;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use self::{
    inbox::{Announced, Inbox},
    status::{DiscoveryReport, DiscoveryStatus},
};
use crate::{
    clock,
    daemon::other_calls::OtherCalls,
    domain::{GroupId, GroupType, Timestamp},
    logging::log_throttle::LogThrottle,
    rules::discovery::{Discovery, Pattern, Rounds},
    store::{Followed, GroupRead, RefusedGroup, Room, Store, StoreError, Watching},
};

/// Delay after a failure of the database or the service.
const AGAIN: Duration = Duration::from_secs(10);

/// How often discovered messages and totals are counted.
const COUNT_EVERY: Duration = Duration::from_secs(60);

/// The parts that discovery uses.
#[derive(Debug)]
pub struct DiscoveryParts {
    /// The database, under the lease.
    pub store: Store,
    /// The calls.
    pub calls: Arc<OtherCalls>,
    /// What is watched.
    pub rules: Arc<Discovery>,
    /// Patterns of the groups whose readers are turned on when they are added.
    pub readers: Vec<Pattern>,
    /// Announcements from webhooks.
    pub inbox: Arc<Inbox>,
    /// The public status.
    pub status: Arc<DiscoveryStatus>,
}

/// The state of a followed group.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    group_type: Option<GroupType>,
    next_seq: Option<u32>,
    /// Whether it has to be looked at again immediately.
    is_hurried: bool,
}

/// The followed groups.
#[derive(Debug, Default)]
struct Groups {
    known: HashMap<GroupId, Known>,
    rounds: Rounds,
    /// Number of discovered messages that are polled, including those added since the last count.
    active: i64,
}

/// The discovery of a session.
#[derive(Debug)]
pub(crate) struct Discoverer {
    parts: DiscoveryParts,
    began: Timestamp,
    groups: Mutex<Groups>,
    /// Wakes the task that looks at due groups.
    due: Notify,
    trouble: Mutex<LogThrottle>,
    /// Groups that the tables refuse.
    refusals: Mutex<LogThrottle>,
}

/// Runs discovery until the session is over. Without rules, notes that it is switched off.
pub(crate) async fn run(store: Store, parts: Option<DiscoveryParts>, session_over: CancellationToken) {
    let mut trouble = LogThrottle::default();
    let begin = async {
        loop {
            let begun = match &parts {
                Some(parts) => parts.store.begin_discovery().await.map(Some),
                None => store.end_discovery().await.map(|()| None),
            };
            match begun {
                Ok(began) => return began,
                Err(error) => error.log(&mut trouble, "discovery can't begin: it waits"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    let Some(begun) = session_over.run_until_cancelled(begin).await else { return };
    let (Some(began), Some(parts)) = (begun, parts) else { return session_over.cancelled().await };
    let (groups, due, trouble) = (Mutex::default(), Notify::new(), Mutex::new(trouble));
    let discoverer = Arc::new(Discoverer { parts, began, groups, due, trouble, refusals: Mutex::default() });
    let work = async {
        discoverer.load().await;
        tokio::join!(discoverer.list(), discoverer.look(), discoverer.hear(), discoverer.count());
    };
    discoverer.parts.status.runs(true);
    session_over.run_until_cancelled(work).await;
    discoverer.parts.status.runs(false);
}

impl Discoverer {
    /// Loads the followed groups, and follows those that are configured by id.
    async fn load(&self) {
        while let Err(error) = self.try_to_load().await {
            self.failed(&error);
            tokio::time::sleep(AGAIN).await;
        }
        tracing::info!(groups = self.groups().known.len(), "discovery follows groups of the app");
    }

    async fn try_to_load(&self) -> Result<(), StoreError> {
        let DiscoveryParts { store, rules, .. } = &self.parts;
        let named: Vec<GroupId> = rules.selection.ids.iter().cloned().collect();
        self.refused(&store.follow_groups(None, &named).await?);
        let mut after = None;
        loop {
            let page = store.followed_groups(after.as_ref()).await?;
            let Some(last) = page.last().map(|followed| followed.group.clone()) else { return Ok(()) };
            for Followed { group, group_type, next_seq } in page {
                // Rows of groups that are no longer wanted stay, with their places.
                if rules.selection.refuses(&group, group_type).is_none() {
                    self.follow(group, Known { group_type, next_seq, is_hurried: false });
                }
            }
            after = Some(last);
        }
    }

    /// Counts watched messages, now and then.
    async fn count(&self) {
        loop {
            let counted = async {
                let active = self.parts.store.count_discovered().await?;
                self.groups().active = active;
                self.parts.status.counted(self.parts.store.discovery_totals().await?, active);
                Ok::<(), StoreError>(())
            };
            if let Err(error) = counted.await {
                self.failed(&error);
            }
            tokio::time::sleep(COUNT_EVERY).await;
        }
    }

    /// Follows a group from now on, due immediately. False if the maximum number is reached.
    fn follow(&self, group: GroupId, known: Known) -> bool {
        let mut groups = self.groups();
        if groups.known.contains_key(&group) {
            return true;
        }
        if groups.known.len() >= self.parts.rules.groups {
            self.parts.status.is_full();
            return false;
        }
        groups.known.insert(group.clone(), known);
        groups.rounds.set(group, clock::uptime());
        self.parts.status.follows(groups.known.len());
        drop(groups);
        self.due.notify_one();
        true
    }

    fn leave(&self, group: &GroupId) {
        let mut groups = self.groups();
        groups.known.remove(group);
        groups.rounds.forget(group);
        self.parts.status.follows(groups.known.len());
    }

    /// Stores the results of reading groups, and watches their messages. Groups in neither list of the result have to
    /// be read again.
    async fn store(&self, reads: Vec<GroupRead>) -> Watching {
        let DiscoveryParts { store, rules, readers, status, .. } = &self.parts;
        let active = self.groups().active;
        let room = Room {
            cadence: rules.cadence.as_deref(),
            readers,
            groups: true,
            messages: (rules.messages - active).max(0),
            messages_per_group: rules.messages_per_group,
        };
        match store.watch_discovered(reads, room).await {
            Ok(watching) => {
                let watched: u64 = watching.stored.iter().map(|(_, watched)| watched).sum();
                self.groups().active += i64::try_from(watched).unwrap_or(i64::MAX);
                status.watched(watched, &watching.passed);
                self.refused(&watching.refused);
                watching
            }
            Err(error) => {
                self.failed(&error);
                Watching::default()
            }
        }
    }

    /// Counts and logs groups whose rows the tables refuse.
    fn refused(&self, refused: &[RefusedGroup]) {
        for RefusedGroup { group, sqlstate } in refused {
            metrics::counter!("receiptd_discovery_refusals_total").increment(1);
            if let Some(times) = lock(&self.refusals).happened(clock::uptime()) {
                let what = "the database refuses a discovered group, possibly by a trigger or a constraint: trying again later";
                tracing::error!(%group, sqlstate, times, "{what}");
            }
        }
    }

    fn failed(&self, error: &StoreError) {
        // The task that renews the lease notices and logs that it is lost.
        if !matches!(error, StoreError::LeaseLost { .. }) {
            metrics::counter!("receiptd_discovery_failures_total").increment(1);
            error.log(&mut lock(&self.trouble), "discovered messages can't be stored: reading them again later");
        }
    }

    fn groups(&self) -> MutexGuard<'_, Groups> {
        lock(&self.groups)
    }

    fn now(&self) -> (Timestamp, Instant) {
        let uptime = clock::uptime();
        (self.parts.store.clock().at(uptime), uptime)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
