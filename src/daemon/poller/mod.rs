//! Takes due slots, polls them, and passes the results to the recorder.
//!
//! One task owns the schedule and starts a task for each poll; the recorder reports when a slot is due again, after
//! it has committed. The poller reads slots through the store and knows no SQL; it calls through the chat client and
//! knows no HTTP.

mod call;
mod claim;
mod failing_share;
mod failure_log;
mod life;
mod metrics;
pub mod replay;
mod round;
#[cfg(test)]
mod scenarios;
mod slotter;
mod status;

use std::{
    collections::HashSet,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{call::Caller, failing_share::FailingShare, life::PollLife, metrics::Metrics};
pub use self::{
    slotter::Slotter,
    status::{HeldGroup, PollerStatus},
};
use crate::{
    chat::ChatClient,
    clock,
    config::Polling,
    daemon::{activity::Activity, events::Health, pacing::Pacing, poller::failure_log::FailureLog, status::Heartbeat},
    logging::log_throttle::LogThrottle,
    rules::{
        cadence::Cadences,
        lease::Lease,
        polling::{
            calls::Calls,
            dispatch::{Dispatch, ScheduleNews},
            schedule::Now,
        },
        recording::{KeepSnapshots, Kept},
        slot::{GroupKey, StoredDue},
        writing::Committed,
    },
    store::{Store, StoreError},
};

/// Minimum change of the share of unreported changes that is applied to the cadences.
const GIVES_WAY_BY: f64 = 0.02;

/// The parts that a poller uses.
#[derive(Debug)]
pub struct PollerParts {
    /// The database.
    pub store: Store,
    /// The client for Tencent Chat.
    pub client: Arc<ChatClient>,
    /// Whether it may call.
    pub lease: Arc<Lease>,
    /// How often messages are polled.
    pub cadences: Arc<Cadences>,
    /// The queue for results.
    pub recorder: mpsc::Sender<Kept>,
    /// Due times of slots, after commits.
    pub committed: mpsc::UnboundedReceiver<Committed>,
    /// Whether results can't be stored.
    pub storing_blocked: Arc<AtomicBool>,
    /// Counts the rounds of the loop.
    pub heartbeat: Arc<Heartbeat>,
    /// Records the calls.
    pub activity: Arc<Activity>,
    /// The trust in events, which decides how rare polls become.
    pub events: Arc<Health>,
}

/// The poller of one app.
#[derive(Debug)]
pub struct Poller {
    store: Store,
    configured: Arc<Cadences>,
    events: Arc<Health>,
    /// The share of changes that only polls find, as applied to the cadences.
    untold: f64,
    caller: Arc<Caller>,
    status: Arc<PollerStatus>,
    life: PollLife,
    storing_blocked: Arc<AtomicBool>,
    heartbeat: Arc<Heartbeat>,
    trouble: LogThrottle,
    /// Slots whose splitting the tables refuse.
    refusals: LogThrottle,
    dispatch: Dispatch,
    news: mpsc::UnboundedReceiver<ScheduleNews>,
    news_sender: mpsc::UnboundedSender<ScheduleNews>,
    committed: mpsc::UnboundedReceiver<Committed>,
    polls: TaskTracker,
    room: Arc<Notify>,
    warned: HashSet<(GroupKey, String)>,
}

impl Poller {
    /// A poller that starts no attempt after `stop`. `keep` says which polls add snapshots.
    pub fn new(parts: PollerParts, polling: &Polling, keep: KeepSnapshots, stop: CancellationToken) -> Self {
        let Polling { max_calls_per_second, transit_allowance, batch_size, max_in_flight, .. } = *polling;
        let room = Arc::new(Notify::new());
        let caller = Caller {
            client: parts.client,
            clock: parts.store.clock().clone(),
            lease: parts.lease,
            pacing: Pacing::new(max_calls_per_second, transit_allowance),
            calls: Calls::new(max_calls_per_second, batch_size, clock::uptime()).into(),
            failing: FailingShare::new(max_calls_per_second, transit_allowance),
            trouble: FailureLog::default(),
            activity: parts.activity,
            metrics: Metrics::new(),
            room: room.clone(),
            stop,
        };
        let caller = Arc::new(caller);
        let status = Arc::new(PollerStatus::new(caller.clone(), polling));
        let life = PollLife { caller: caller.clone(), recorder: parts.recorder, cadences: parts.cadences, keep };
        let (news_sender, news) = mpsc::unbounded_channel();
        Self {
            store: parts.store,
            configured: life.cadences.clone(),
            events: parts.events,
            untold: 1.0,
            caller,
            status,
            life,
            storing_blocked: parts.storing_blocked,
            heartbeat: parts.heartbeat,
            trouble: LogThrottle::default(),
            refusals: LogThrottle::default(),
            dispatch: Dispatch::new(max_in_flight, clock::uptime()),
            news,
            news_sender,
            committed: parts.committed,
            polls: TaskTracker::new(),
            room,
            warned: HashSet::new(),
        }
    }

    /// The queue for news.
    pub fn news(&self) -> mpsc::UnboundedSender<ScheduleNews> {
        self.news_sender.clone()
    }

    /// The queue for results.
    pub fn recorder(&self) -> mpsc::Sender<Kept> {
        self.life.recorder.clone()
    }

    /// Its public status.
    pub fn status(&self) -> Arc<PollerStatus> {
        self.status.clone()
    }

    /// Restores the findings of an earlier poller: the batch limit and the stretch.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn recall(&mut self) -> Result<(), StoreError> {
        let known = self.store.batch_limit().await?;
        self.caller.calls().limit.recall(known, clock::uptime());
        self.dispatch.recall_stretch(self.store.stretch().await?);
        self.status.set_stretch(self.dispatch.stretch());
        Ok(())
    }

    /// Loads the beginning of the schedule; the rest follows while polling. Returns the number of loaded slots, and
    /// whether there are more.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn load(&mut self) -> Result<(usize, bool), StoreError> {
        let is_partial = self.load_page().await?;
        Ok((self.dispatch.len(), is_partial))
    }

    /// Loads a page of slots that the schedule may lack. Returns whether there are more.
    async fn load_page(&mut self) -> Result<bool, StoreError> {
        let Some(after) = self.dispatch.unsure_after() else { return Ok(false) };
        let (now, dispatch, cadences) = (self.now(), &mut self.dispatch, &self.life.cadences);
        let learn = |slot, stored: StoredDue, cadence: Option<&str>| {
            dispatch.learn(slot, stored, cadences.of(cadence), now);
        };
        let next = self.store.load_schedule(after, learn).await?;
        self.dispatch.loaded(next);
        Ok(next.is_some())
    }

    /// Polls until it has to stop, then waits for the polls in flight to end, for at most `grace`.
    pub async fn run(mut self, grace: Duration) {
        let stop = self.caller.stop.clone();
        loop {
            self.hear_news();
            self.give_way();
            let Some(wake_in) = stop.run_until_cancelled(self.round()).await else { break };
            self.tell_progress();
            if stop.run_until_cancelled(self.rest(wake_in)).await.is_none() {
                break;
            }
        }
        self.polls.close();
        if tokio::time::timeout(grace, self.polls.wait()).await.is_err() {
            let left = self.status.in_flight.load(Ordering::Relaxed);
            tracing::warn!(
                left,
                "polls are still in flight: results that arrive too late to be stored will be polled again"
            );
        }
    }

    /// Waits for a reason for the next round. The end of a poll is no reason: its slot is not due before its results
    /// are stored.
    async fn rest(&mut self, wake_in: Duration) {
        let mut sleep = pin!(tokio::time::sleep(wake_in));
        loop {
            tokio::select! {
                biased;
                Some(news) = self.news.recv() => {
                    self.dispatch.hear(news, self.now());
                    if !matches!(news, ScheduleNews::Polled { .. }) {
                        return;
                    }
                }
                Some(committed) = self.committed.recv() => {
                    return self.dispatch.hear_committed(committed, self.now());
                }
                () = self.room.notified() => return,
                () = &mut sleep => return,
            }
        }
    }

    fn tell_progress(&mut self) {
        self.heartbeat.beat();
        let now = self.now();
        self.status.set_behind(self.dispatch.behind(now));
        if self.dispatch.is_stretch_due(now) {
            let (made, allowed) = (self.caller.activity.rate(now.monotonic), self.caller.pacing.rate());
            self.dispatch.adapt_stretch(made, allowed, now);
            self.status.set_stretch(self.dispatch.stretch());
        }
        self.status.slots.store(self.dispatch.len(), Ordering::Relaxed);
        let waiting = self.life.recorder.max_capacity() - self.life.recorder.capacity();
        self.status.waiting_to_be_stored.store(waiting, Ordering::Relaxed);
    }

    /// Makes polls rarer while events report what they would find, and frequent again when they don't.
    fn give_way(&mut self) {
        let untold = self.events.trust().untold();
        if (untold / self.untold - 1.0).abs() > GIVES_WAY_BY {
            self.life.cadences = self.configured.giving_way(untold).into();
            self.untold = untold;
        }
    }

    fn hear_news(&mut self) {
        while let Ok(news) = self.news.try_recv() {
            self.dispatch.hear(news, self.now());
        }
        while let Ok(committed) = self.committed.try_recv() {
            self.dispatch.hear_committed(committed, self.now());
        }
    }

    fn now(&self) -> Now {
        let monotonic = clock::uptime();
        Now { time: self.store.clock().at(monotonic), monotonic }
    }
}
