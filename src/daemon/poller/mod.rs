//! Takes due slots, polls them, and passes the results to the recorder.
//!
//! One task owns the schedule and starts a task for each poll; the recorder reports when a slot is due again, after
//! it has committed. The poller reads slots through the store and knows no SQL; it calls through the chat client and
//! knows no HTTP.

mod call;
mod claim;
mod contents;
mod failing_share;
mod failure_log;
mod metrics;
pub mod replay;
#[cfg(test)]
mod scenarios;
mod slotter;
mod starting;
mod status;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{call::Caller, failing_share::FailingShare, metrics::Metrics};
pub use self::{
    slotter::Slotter,
    status::{HeldGroup, PollerStatus},
};
use crate::{
    chat::ChatClient,
    clock,
    daemon::{activity::Activity, events::Health, pacing::Pacing, poller::failure_log::FailureLog, status::Heartbeat},
    domain::Timestamp,
    logging::log_throttle::LogThrottle,
    rules::{
        cadence::{Cadences, Following, Next},
        lease::Lease,
        polling::{
            ahead::Ahead,
            batch_limit::BatchLimit,
            brake::Brake,
            gate::Gate,
            others::Outcomes,
            schedule::{Now, Schedule},
            stretch::{Load, Stretch},
        },
        recording::{KeepSnapshots, Kept},
        slot::{GroupKey, SlotKey, StoredDue},
        writing::Committed,
    },
    store::{Store, StoreError},
};

/// Minimum change of the share of untold changes that cadences follow.
const GIVES_WAY_BY: f64 = 0.02;

/// Rate, batch size and timeouts of polls.
#[derive(Debug, Clone)]
pub struct PollerSettings {
    /// Maximum number of attempts in any second.
    pub max_calls_per_second: u32,
    /// How long after its sending an attempt can still reach the service.
    pub transit_allowance: Duration,
    /// Maximum number of messages per call.
    pub batch_size: usize,
    /// Maximum number of polls in flight.
    pub max_in_flight: usize,
    /// Which polls add snapshots.
    pub keep: KeepSnapshots,
}

/// News for the schedule.
#[derive(Debug, Clone, Copy)]
pub enum ScheduleNews {
    /// A slot is due then: its owner has changed it.
    Due(SlotKey, Next),
    /// A slot that was polled before is due at this time, unless it is due sooner anyway.
    Sooner(SlotKey, Timestamp),
    /// A slot was polled, and is due again.
    Polled {
        /// The slot.
        slot: SlotKey,
        /// When it is due.
        next: Next,
        /// Whether the poll failed.
        fails: bool,
    },
    /// Messages that joined a slot have to be polled: it is due no later than then.
    Joined(SlotKey, Next),
    /// A poll of the slot ended with nothing to record: its due time is unchanged.
    Returned(SlotKey),
    /// A quarantined group may be probed with this slot.
    Probe(SlotKey),
    /// A write of slots got no answer: the database may have more than the schedule.
    Unsure,
}

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
    /// How far polls give way to events.
    pub events: Arc<Health>,
}

/// The poller of one app.
#[derive(Debug)]
pub struct Poller {
    store: Store,
    configured: Arc<Cadences>,
    /// The same, as far as they give way to events.
    cadences: Arc<Cadences>,
    events: Arc<Health>,
    /// The share of changes that only polls find, by which the cadences give way.
    untold: f64,
    settings: PollerSettings,
    caller: Arc<Caller>,
    status: Arc<PollerStatus>,
    recorder: mpsc::Sender<Kept>,
    storing_blocked: Arc<AtomicBool>,
    heartbeat: Arc<Heartbeat>,
    trouble: LogThrottle,
    ahead: Ahead,
    schedule: Schedule,
    stretch: Stretch,
    /// The database may have slots after this one that the schedule lacks.
    unsure_after: Option<SlotKey>,
    /// Slots for probes of quarantined groups.
    probes: BTreeSet<SlotKey>,
    /// Slots that were postponed because the gate holds their groups.
    put_off: HashMap<GroupKey, HashSet<SlotKey>>,
    news: mpsc::UnboundedReceiver<ScheduleNews>,
    news_sender: mpsc::UnboundedSender<ScheduleNews>,
    committed: mpsc::UnboundedReceiver<Committed>,
    polls: TaskTracker,
    room: Arc<Notify>,
    warned: HashSet<(GroupKey, String)>,
}

impl Poller {
    /// A poller that starts no attempt after `stop`.
    pub fn new(parts: PollerParts, settings: PollerSettings, stop: CancellationToken) -> Self {
        let PollerParts {
            store,
            client,
            lease,
            cadences,
            recorder,
            committed,
            storing_blocked,
            heartbeat,
            activity,
            events,
        } = parts;
        let pacing = Pacing::new(settings.max_calls_per_second, settings.transit_allowance);
        let (gate, outcomes, trouble) = (Gate::default().into(), Outcomes::default().into(), FailureLog::default());
        let limit = BatchLimit::new(settings.batch_size, clock::uptime()).into();
        let brake = Brake::new(settings.max_calls_per_second).into();
        let room = Arc::new(Notify::new());
        let failing = FailingShare::new(settings.max_calls_per_second, settings.transit_allowance);
        let clock = store.clock().clone();
        let caller = Caller {
            client,
            clock,
            lease,
            pacing,
            gate,
            brake,
            outcomes,
            failing,
            limit,
            trouble,
            activity,
            metrics: Metrics::new(),
            room: room.clone(),
            stop,
        };
        let caller = Arc::new(caller);
        let status = Arc::new(PollerStatus::new(caller.clone(), &settings));
        let (news_sender, news) = mpsc::unbounded_channel();
        Self {
            store,
            configured: cadences.clone(),
            cadences,
            events,
            untold: 1.0,
            settings,
            caller,
            status,
            recorder,
            storing_blocked,
            heartbeat,
            trouble: LogThrottle::default(),
            ahead: Ahead::default(),
            schedule: Schedule::new(clock::uptime()),
            stretch: Stretch::default(),
            unsure_after: Some(SlotKey::MIN),
            probes: BTreeSet::new(),
            put_off: HashMap::new(),
            news,
            news_sender,
            committed,
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
        self.recorder.clone()
    }

    /// Its public status.
    pub fn status(&self) -> Arc<PollerStatus> {
        self.status.clone()
    }

    /// Loads what an earlier poller has found: the batch limit, and by how much intervals are stretched.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn recall(&mut self) -> Result<(), StoreError> {
        let known = self.store.batch_limit().await?;
        self.caller.limit().recall(known, clock::uptime());
        self.stretch = Stretch::recalled(self.store.stretch().await?);
        self.status.set_stretch(self.stretch.factor());
        Ok(())
    }

    /// Loads the beginning of the schedule; the rest follows while polling. Returns the number of loaded slots, and
    /// whether there are more.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn load(&mut self) -> Result<(usize, bool), StoreError> {
        let is_partial = self.load_page().await?;
        Ok((self.schedule.len(), is_partial))
    }

    /// Loads a page of slots that the schedule may lack. Returns whether there are more.
    async fn load_page(&mut self) -> Result<bool, StoreError> {
        let Some(after) = self.unsure_after else { return Ok(false) };
        let now = self.now();
        let (schedule, cadences, stretch) = (&mut self.schedule, &self.cadences, self.stretch.factor());
        let learn = |slot, stored: StoredDue, cadence: Option<&str>| {
            let following = Following { cadence: cadences.of(cadence), stretch };
            schedule.learn(slot, stored, stored.every(&following, now.time), now);
        };
        let next = self.store.load_schedule(after, learn).await?;
        self.unsure_after = next;
        Ok(next.is_some())
    }

    /// Polls until it is told to stop, then waits for the polls in flight to end, for at most `grace`.
    pub async fn run(mut self, grace: Duration) {
        let stop = self.caller.stop.clone();
        loop {
            self.hear_news();
            self.give_way();
            let Some(wake_in) = stop.run_until_cancelled(self.start_polls()).await else { break };
            self.tell_progress();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(news) = self.news.recv() => self.hear(news),
                Some(committed) = self.committed.recv() => self.hear_committed(committed),
                () = self.room.notified() => {}
                () = tokio::time::sleep(wake_in) => {}
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

    fn tell_progress(&mut self) {
        self.heartbeat.beat();
        let now = self.now();
        let ahead = self.schedule.until_next(true, now).unwrap_or_default();
        self.status.behind.store(ahead.min(0).unsigned_abs(), Ordering::Relaxed);
        if self.stretch.is_due(now.monotonic) {
            let load = Load {
                demand: self.schedule.demand(),
                made: self.caller.activity.rate(now.monotonic),
                allowed: self.caller.pacing.rate(),
                behind: self.status.behind(),
            };
            self.stretch.step(&load, now.monotonic);
            self.status.set_stretch(self.stretch.factor());
        }
        self.status.slots.store(self.schedule.len(), Ordering::Relaxed);
        self.caller.brake().has_slots(self.schedule.len());
        let waiting = self.recorder.max_capacity() - self.recorder.capacity();
        self.status.waiting_to_be_stored.store(waiting, Ordering::Relaxed);
    }

    /// Polls become rarer while events tell what they would find, and frequent again when they don't.
    fn give_way(&mut self) {
        let untold = self.events.trust().untold();
        if (untold / self.untold - 1.0).abs() > GIVES_WAY_BY {
            self.cadences = self.configured.giving_way(untold).into();
            self.untold = untold;
        }
    }

    fn hear_news(&mut self) {
        while let Ok(news) = self.news.try_recv() {
            self.hear(news);
        }
        while let Ok(committed) = self.committed.try_recv() {
            self.hear_committed(committed);
        }
    }

    fn hear(&mut self, news: ScheduleNews) {
        let now = self.now();
        match news {
            ScheduleNews::Due(slot, next) => self.schedule.set(slot, next, now),
            ScheduleNews::Polled { slot, next, fails } => self.schedule.polled(slot, next, fails, now),
            ScheduleNews::Joined(slot, next) => self.schedule.bring_forward(slot, next, now),
            ScheduleNews::Sooner(slot, due) => self.schedule.sooner(slot, due, now),
            ScheduleNews::Returned(slot) => self.schedule.give_back(slot, now),
            ScheduleNews::Probe(slot) => _ = self.probes.insert(slot),
            ScheduleNews::Unsure => self.unsure_after = Some(SlotKey::MIN),
        }
    }

    fn hear_committed(&mut self, committed: Committed) {
        match committed {
            Committed::Due(slot, due) => self.schedule.release(slot, due, self.now()),
            Committed::Sooner(slot, due) => self.schedule.sooner(slot, due, self.now()),
            Committed::PutOff(slot, due) => self.schedule.put_off(slot, due, self.now()),
            Committed::Gone(slot) => self.schedule.forget(slot),
            Committed::NewSlot(made) => self.schedule.learn_made(made, self.now()),
        }
    }

    fn now(&self) -> Now {
        let monotonic = clock::uptime();
        Now { time: self.store.clock().at(monotonic), monotonic }
    }
}
