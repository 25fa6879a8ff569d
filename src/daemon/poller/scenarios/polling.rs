//! The poller of a term: [`Dispatch`] decides which polls start, and the model of the database answers.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    database::{Numbered, wall},
    operation::{Reply, Request, Slotted},
    plan::{Micros, Plan},
    world::{Doing, World},
};
use crate::rules::{
    database_clock::Moment,
    pacer::{Grant, Pacer},
    polling::{
        calls::{Calls, Ended, PollInFlight},
        dispatch::{Claimed, Conditions, Contents, ContentsTask, Dispatch, READ_AGAIN, Round, ScheduleNews, Task, of},
        failing::FailingCalls,
        schedule::Now,
    },
    recording::{KeepSnapshots, Kept},
    slot::{SlotKey, StoredDue},
};

/// Time over which the rate of calls is measured, as in `daemon::activity`.
const RATE_OVER: Duration = Duration::from_secs(10);

pub(super) struct Polling {
    pub pacer: Pacer,
    pub calls: Calls,
    pub failing: FailingCalls,
    pub dispatch: Dispatch,
    /// Polls of failing slots waiting for their turn, in order.
    pub awaiting_turn: VecDeque<u64>,
    pub polls: BTreeMap<u64, Polled>,
    /// Polls waiting for a permit, in order.
    pub waiting: VecDeque<u64>,
    /// The poll of each attempt in flight, and when that was sent.
    pub under_way: BTreeMap<u64, (u64, Micros)>,
    last_id: u64,
    is_loading: bool,
    /// The slots that the round is reading.
    reading: Option<(Claimed, Contents)>,
    wakes_at: Option<Micros>,
    pub turn_at: Option<Micros>,
    /// When the calls of the last ten seconds were sent.
    pub sent: VecDeque<Instant>,
}

/// A poll.
pub(super) struct Polled {
    pub poll: PollInFlight,
    pub grant: Option<Grant>,
    /// Its turn among failing slots, if it has one for its next call or the one in flight.
    pub turn: Option<Turn>,
}

/// A turn, and when its call was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub sent: Option<Instant>,
}

impl Polling {
    pub fn new(plan: &Plan, now: Instant) -> Self {
        let Plan { limit, allowance, batch_size, max_in_flight, .. } = *plan;
        Self {
            pacer: Pacer::new(limit, allowance, now),
            calls: Calls::new(limit, batch_size, now),
            failing: FailingCalls::new(limit, allowance),
            dispatch: Dispatch::new(max_in_flight, now),
            awaiting_turn: VecDeque::new(),
            polls: BTreeMap::new(),
            waiting: VecDeque::new(),
            under_way: BTreeMap::new(),
            last_id: 0,
            is_loading: false,
            reading: None,
            wakes_at: None,
            turn_at: None,
            sent: VecDeque::new(),
        }
    }

    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Adapts the stretch to the calls that were made.
    fn adapt_stretch(&mut self, now: Now) {
        while self.sent.front().is_some_and(|sent| now.monotonic.saturating_duration_since(*sent) >= RATE_OVER) {
            self.sent.pop_front();
        }
        let made = self.sent.len() as f64 / RATE_OVER.as_secs_f64();
        self.dispatch.adapt_stretch(made, self.pacer.rate(now.monotonic), now);
    }

    fn conditions(&mut self, may_poll: bool, now: Instant) -> Conditions {
        let is_failing = |polled: &&Polled| polled.poll.slot().failures > 0;
        let is_waiting = |polled: &&Polled| !polled.poll.has_started() && !is_failing(polled);
        Conditions {
            may_poll,
            rate: self.pacer.rate(now),
            in_flight: self.polls.len(),
            waiting: self.polls.values().filter(is_waiting).count(),
            failing: self.polls.values().filter(is_failing).count(),
        }
    }
}

impl World {
    pub fn polling(&mut self, daemon: usize) -> &mut Polling {
        &mut self.daemons[daemon].term.as_mut().expect("only a term polls").polling
    }

    /// Maximum number of messages of a slot.
    pub fn slot_size(&self, daemon: usize) -> usize {
        let instant = self.instant();
        let term = self.daemons[daemon].term.as_ref();
        term.map_or(self.plan.batch_size, |term| term.polling.calls.limit.slot_size(instant))
    }

    /// The factor by which the daemon's intervals are longer.
    pub fn stretch(&self, daemon: usize) -> f64 {
        self.daemons[daemon].term.as_ref().map_or(1.0, |term| term.polling.dispatch.stretch())
    }

    pub fn loads(&mut self, daemon: usize) {
        let after = self.daemons[daemon].term.as_ref().and_then(|term| term.polling.dispatch.unsure_after());
        self.request(daemon, Request::Load(after.unwrap_or(SlotKey::MIN)));
    }

    pub fn loaded(&mut self, daemon: usize, slots: Vec<(SlotKey, StoredDue)>, next: Option<SlotKey>, stretch: f64) {
        let now = self.clocks(daemon);
        let Some(term) = self.daemons[daemon].term.as_mut().filter(|term| !term.is_over) else { return };
        let (polling, cadence) = (&mut term.polling, self.cadences.of(None));
        if !term.is_loaded {
            polling.dispatch.recall_stretch(stretch);
        }
        slots.into_iter().for_each(|(slot, stored)| polling.dispatch.learn(slot, stored, cadence, now));
        polling.dispatch.loaded(next);
        polling.is_loading = false;
        if !term.is_loaded && next.is_some() {
            return self.loads(daemon);
        }
        if !std::mem::replace(&mut term.is_loaded, true) {
            self.after(daemon, Duration::ZERO, Doing::Tick);
        }
        self.wake_in(daemon, Duration::ZERO);
    }

    pub fn not_loaded(&mut self, daemon: usize) {
        let Some(term) = &mut self.daemons[daemon].term else { return };
        term.polling.is_loading = false;
        term.polling.dispatch.not_loaded();
        if term.is_loaded {
            self.wake_in(daemon, READ_AGAIN);
        } else {
            self.after(daemon, READ_AGAIN, Doing::Load);
        }
    }

    /// Lets the slotter look, once a second.
    pub fn ticks(&mut self, daemon: usize) {
        if self.daemons[daemon].term.as_ref().is_some_and(|term| !term.is_over) {
            self.request(daemon, Request::Slot);
        }
    }

    pub fn slotted(&mut self, daemon: usize, reply: Reply) {
        self.after(daemon, Duration::from_secs(1), Doing::Tick);
        let news: Vec<ScheduleNews> = match reply {
            Reply::Slotted(Slotted { changed, probes, joined }) => {
                let changed = changed.into_iter().map(|(slot, next)| ScheduleNews::Due(slot, next));
                let joined = joined.into_iter().map(|(slot, next)| ScheduleNews::Joined(slot, next));
                changed.chain(probes.into_iter().map(ScheduleNews::Probe)).chain(joined).collect()
            }
            Reply::Unanswered => vec![ScheduleNews::Unsure],
            _ => vec![],
        };
        news.into_iter().for_each(|news| self.hears_news(daemon, news));
    }

    fn hears_news(&mut self, daemon: usize, news: ScheduleNews) {
        let now = self.clocks(daemon);
        self.polling(daemon).dispatch.hear(news, now);
        self.wake_in(daemon, Duration::ZERO);
    }

    pub fn wake_in(&mut self, daemon: usize, wait: Duration) {
        let at = self.micros(self.instant() + wait);
        let Some(term) = &mut self.daemons[daemon].term else { return };
        if term.polling.wakes_at.is_none_or(|earlier| earlier > at) {
            term.polling.wakes_at = Some(at);
            self.after(daemon, wait, Doing::Wake);
        }
    }

    /// Begins a round of the poller, or continues it after a page of the schedule.
    pub fn wakes(&mut self, daemon: usize) {
        let (now, clocks) = (self.now, self.clocks(daemon));
        let is_trusted = self.daemons[daemon].elector.contender().is_trusted(clocks.monotonic);
        let Some(term) = &mut self.daemons[daemon].term else { return };
        let polling = &mut term.polling;
        let is_busy = polling.is_loading || polling.reading.is_some();
        if polling.wakes_at.take_if(|at| *at <= now).is_none() || term.is_over || is_busy {
            return;
        }
        polling.adapt_stretch(clocks);
        let conditions = polling.conditions(is_trusted && !term.recorder.is_blocked(), clocks.monotonic);
        match polling.dispatch.next(&mut polling.calls, conditions, clocks) {
            Task::Wait(wait) => self.wake_in(daemon, wait),
            Task::Load => {
                polling.is_loading = true;
                self.loads(daemon);
            }
            Task::Read(claimed) => {
                polling.reading = Some((claimed, Contents::new(polling.calls.limit.slot_size(clocks.monotonic))));
                self.reads_on(daemon);
            }
        }
    }

    fn reads_on(&mut self, daemon: usize) {
        let clocks = self.clocks(daemon);
        let polling = self.polling(daemon);
        let Some((mut claimed, mut contents)) = polling.reading.take() else { return };
        let request = match polling.dispatch.read_next(&mut contents, &mut claimed, clocks) {
            Ok(ContentsTask::Read(slots)) => Request::Read(slots),
            Ok(ContentsTask::Split(slot, size)) => Request::Split(slot.key, size),
            Ok(ContentsTask::FindNeighbours(slots, size)) => Request::FindNeighbours(slots, size),
            Err(slots) => {
                let round = polling.dispatch.start(&mut polling.calls, claimed, slots, clocks);
                return self.starts_polls(daemon, round);
            }
        };
        polling.reading = Some((claimed, contents));
        self.request(daemon, request);
    }

    /// Requests what a round asks for.
    pub fn has_read(&mut self, daemon: usize, reply: Reply) {
        let clocks = self.clocks(daemon);
        let is_over = self.daemons[daemon].term.as_ref().is_none_or(|term| term.is_over);
        if is_over {
            return;
        }
        let polling = self.polling(daemon);
        let Some((mut claimed, mut contents)) = polling.reading.take() else { return };
        match reply {
            Reply::Slots(slots) => polling.dispatch.has_read(&mut contents, &mut claimed, slots, clocks),
            Reply::Split(made) => polling.dispatch.has_split(&mut contents, made, clocks),
            Reply::Neighbours(pairs) => polling.dispatch.has_found(&mut contents, pairs),
            reply => {
                let is_unanswered = matches!(reply, Reply::Unanswered);
                let round = polling.dispatch.not_read(&mut polling.calls, claimed, is_unanswered, clocks);
                return self.starts_polls(daemon, round);
            }
        }
        polling.reading = Some((claimed, contents));
        self.reads_on(daemon);
    }

    fn starts_polls(&mut self, daemon: usize, round: Round) {
        for poll in round.polls {
            let polling = self.polling(daemon);
            let id = polling.next_id();
            polling.polls.insert(id, Polled { poll, grant: None, turn: None });
            self.queues(daemon, id);
        }
        self.wake_in(daemon, round.wait);
    }

    /// Ends a poll: its result is handed over to the recorder, or its slots return to the schedule.
    pub fn poll_has_ended(&mut self, daemon: usize, id: u64) {
        let clocks = self.clocks(daemon);
        let polling = self.polling(daemon);
        let Some(Polled { poll, .. }) = polling.polls.remove(&id) else { return };
        if poll.is_let_through() {
            polling.calls.brake.ended();
        }
        let Ended { slot, poll, .. } = polling.calls.end(poll, clocks.monotonic);
        let stretch = polling.dispatch.stretch();
        let mut back: Vec<SlotKey> = of(&slot).collect();
        if !poll.has_no_result() {
            self.promises.polled(&slot, &poll, self.now);
            let wall = wall(self.now, self.daemons[daemon].wall_offset);
            let is_doubted = self.daemons[daemon].clock.doubt(wall, clocks.monotonic).is_some();
            let now = Moment { time: clocks.time, is_doubted };
            let kept = Kept::of(slot, poll, self.cadences.clone(), stretch, KeepSnapshots::Changes, now);
            back.retain(|slot| !kept.slots().any(|kept| kept == *slot));
            ScheduleNews::of(&kept.recording).into_iter().for_each(|news| self.hears_news(daemon, news));
            let id = self.promises.handed_over(self.now);
            self.records(daemon, Numbered { id, kept });
        }
        back.into_iter().for_each(|slot| self.hears_news(daemon, ScheduleNews::Returned(slot)));
        self.wake_in(daemon, Duration::ZERO);
        self.polls_have_ended(daemon);
    }
}
