//! Takes the slots that are due, polls them, and hands what comes back to the recorder.
//!
//! One task owns the schedule and starts a task for each poll; the recorder says when a slot is due again, after it has
//! committed. The poller reads slots through the store and knows no SQL; it calls through the chat client and knows no
//! HTTP.

mod ahead;
mod asking;
mod batch_limit;
mod brake;
mod call;
mod claim;
mod contents;
mod failing;
mod failing_share;
mod gate;
mod metrics;
mod others;
mod retry;
#[cfg(test)]
mod scenarios;
mod schedule;
mod slotter;
mod starting;
mod status;
mod trouble;

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

use self::{
    ahead::Ahead,
    batch_limit::BatchLimit,
    brake::Brake,
    call::Caller,
    failing_share::FailingShare,
    gate::Gate,
    metrics::Metrics,
    others::Outcomes,
    schedule::{Now, Schedule},
    trouble::Trouble,
};
pub use self::{
    slotter::Slotter,
    status::{HeldGroup, PollerStatus},
};
use crate::{
    activity::Activity,
    cadence::Cadences,
    chat::ChatClient,
    clock,
    domain::Timestamp,
    lease::Lease,
    log_throttle::LogThrottle,
    pacing::Pacing,
    recording::{KeepSnapshots, Kept},
    slot::{GroupKey, SlotKey},
    store::{Committed, Store, StoreError},
    term::Progress,
};

/// How polls are made.
#[derive(Debug, Clone)]
pub struct PollerSettings {
    /// The most attempts in any second.
    pub max_calls_per_second: u32,
    /// How long after its sending an attempt can still reach the service.
    pub transit_allowance: Duration,
    /// The most messages in a call.
    pub batch_size: usize,
    /// The most polls at a time.
    pub max_in_flight: usize,
    /// What is kept of polls that saw no change.
    pub keep: KeepSnapshots,
}

/// News for the schedule.
#[derive(Debug, Clone, Copy)]
pub enum ScheduleNews {
    /// A slot is due then.
    Due(SlotKey, Timestamp),
    /// A slot was polled, and is due again then.
    Polled {
        /// The slot.
        slot: SlotKey,
        /// When it is due.
        due: Timestamp,
        /// Whether that failed.
        fails: bool,
    },
    /// Messages want to be polled that joined a slot, which is due then at the latest.
    Joined(SlotKey, Timestamp),
    /// A poll of the slot ended without anything to record: it is due as it was.
    Returned(SlotKey),
    /// A quarantined group may be tried with this slot.
    Probe(SlotKey),
    /// Something about slots was written of which no answer came: the database may have more than the schedule.
    Unsure,
}

/// What a poller works with.
#[derive(Debug)]
pub struct PollerParts {
    /// The database.
    pub store: Store,
    /// The way to Tencent Chat.
    pub client: Arc<ChatClient>,
    /// Whether it may call.
    pub lease: Arc<Lease>,
    /// How often messages are polled.
    pub cadences: Arc<Cadences>,
    /// Where what comes back goes.
    pub recorder: mpsc::Sender<Kept>,
    /// How it hears when slots are due again.
    pub committed: mpsc::UnboundedReceiver<Committed>,
    /// Whether nothing can be stored just now.
    pub is_stuck: Arc<AtomicBool>,
    /// What its loop feeds.
    pub progress: Arc<Progress>,
    /// Where calls are noted.
    pub activity: Arc<Activity>,
}

/// The poller of one app.
#[derive(Debug)]
pub struct Poller {
    store: Store,
    cadences: Arc<Cadences>,
    settings: PollerSettings,
    caller: Arc<Caller>,
    status: Arc<PollerStatus>,
    recorder: mpsc::Sender<Kept>,
    is_stuck: Arc<AtomicBool>,
    progress: Arc<Progress>,
    trouble: LogThrottle,
    ahead: Ahead,
    schedule: Schedule,
    /// After this slot the database may have some that the schedule lacks.
    unsure_after: Option<SlotKey>,
    /// Slots with which quarantined groups may be tried.
    probes: BTreeSet<SlotKey>,
    /// Slots that were put off since their groups are held by the gate.
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
        let PollerParts { store, client, lease, cadences, recorder, committed, is_stuck, progress, activity } = parts;
        let pacing = Pacing::new(settings.max_calls_per_second, settings.transit_allowance);
        let (gate, outcomes, trouble) = (Gate::default().into(), Outcomes::default().into(), Trouble::default());
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
            cadences,
            settings,
            caller,
            status,
            recorder,
            is_stuck,
            progress,
            trouble: LogThrottle::default(),
            ahead: Ahead::default(),
            schedule: Schedule::new(clock::uptime()),
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

    /// Where news for the schedule go.
    pub fn news(&self) -> mpsc::UnboundedSender<ScheduleNews> {
        self.news_sender.clone()
    }

    /// What others may know.
    pub fn status(&self) -> Arc<PollerStatus> {
        self.status.clone()
    }

    /// Recalls how many messages the service takes in a call, as an earlier poller has found out.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn recall_batch_limit(&self) -> Result<(), StoreError> {
        let known = self.store.batch_limit().await?;
        self.caller.limit().recall(known, clock::uptime());
        Ok(())
    }

    /// Loads the beginning of the schedule; what is left follows while polls go on. Returns how many slots that are, and
    /// whether there are more.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn load(&mut self) -> Result<(usize, bool), StoreError> {
        let is_partial = self.load_page().await?;
        Ok((self.schedule.len(), is_partial))
    }

    /// Loads a page of what the schedule may lack. Returns whether there is more.
    async fn load_page(&mut self) -> Result<bool, StoreError> {
        let Some(after) = self.unsure_after else { return Ok(false) };
        let now = self.now();
        let schedule = &mut self.schedule;
        let next = self.store.load_schedule(after, |slot, stored| schedule.learn(slot, stored, now)).await?;
        self.unsure_after = next;
        Ok(next.is_some())
    }

    /// Polls until it is told to stop, then waits until the polls in flight have ended, for `grace` at most.
    pub async fn run(mut self, grace: Duration) {
        let stop = self.caller.stop.clone();
        loop {
            self.hear_news();
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
                "polls are still in flight: what they bring back too late to be stored will be asked for again"
            );
        }
    }

    fn tell_progress(&self) {
        self.progress.beat();
        let ahead = self.schedule.until_next(true, self.now()).unwrap_or_default();
        self.status.behind.store(ahead.min(0).unsigned_abs(), Ordering::Relaxed);
        self.status.slots.store(self.schedule.len(), Ordering::Relaxed);
        self.caller.brake().has_slots(self.schedule.len());
        let waiting = self.recorder.max_capacity() - self.recorder.capacity();
        self.status.waiting_to_be_stored.store(waiting, Ordering::Relaxed);
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
            ScheduleNews::Due(slot, due) => self.schedule.set(slot, due, now),
            ScheduleNews::Polled { slot, due, fails } => {
                self.schedule.set_failing(slot, fails);
                self.schedule.set(slot, due, now);
            }
            ScheduleNews::Joined(slot, due) => self.schedule.bring_forward(slot, due, now),
            ScheduleNews::Returned(slot) => self.schedule.give_back(slot, now),
            ScheduleNews::Probe(slot) => _ = self.probes.insert(slot),
            ScheduleNews::Unsure => self.unsure_after = Some(SlotKey::MIN),
        }
    }

    fn hear_committed(&mut self, committed: Committed) {
        match committed {
            Committed::Due(slot, due) => self.schedule.release(slot, due, self.now()),
            Committed::PutOff(slot, due) => self.schedule.put_off(slot, due, self.now()),
            Committed::Gone(slot) => self.schedule.forget(slot),
            Committed::Made(made) => self.schedule.learn_made(made, self.now()),
        }
    }

    fn now(&self) -> Now {
        let monotonic = clock::uptime();
        Now { time: self.store.clock().at(monotonic), monotonic }
    }
}
