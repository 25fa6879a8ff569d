//! The poller of a term. Mirrors the loop in `src/poller.rs`, the claims, and the waiting of `src/poller/call.rs` and
//! `src/pacing.rs`; what is due, whether and when an attempt may be made and what its outcome calls for is decided by the
//! real [`Schedule`], [`Gate`], [`Pacer`] and [`Asking`].

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use super::{
    database::Kept,
    plan::Micros,
    service::Heard,
    world::{Doing, Reply, Request, World},
};
use crate::{
    chat::{Attempt, Class},
    domain::Timestamp,
    pacing::{Grant, Pacer},
    poller::{
        AHEAD, LOOK_AGAIN, READ_AGAIN,
        asking::{Asking, Next},
        gate::{Admission, Gate},
        schedule::Schedule,
    },
    recording::{KeepSnapshots, PollEnd, Recording},
    slot::{Slot, SlotId},
};

/// As `pacing::pacer::BEAT` has it.
const BEAT: Duration = Duration::from_millis(40);

/// The most polls at a time.
pub(super) const MAX_IN_FLIGHT: usize = 60;

pub(super) struct Polling {
    pub pacer: Pacer,
    pub gate: Gate,
    pub schedule: Schedule,
    pub polls: BTreeMap<u64, Polled>,
    /// Polls that wait for a permit, in order.
    waiting: VecDeque<u64>,
    /// The poll of each attempt under way, and when that was sent by both clocks.
    under_way: BTreeMap<u64, (u64, Micros, Timestamp)>,
    last_id: u64,
    is_reading: bool,
    is_unsure: bool,
    is_beating: bool,
    wakes_at: Option<Micros>,
    turn_at: Option<Micros>,
}

/// One poll.
pub(super) struct Polled {
    slot: Slot,
    asking: Asking,
    grant: Option<Grant>,
    is_probe: bool,
    has_started: bool,
}

impl Polling {
    pub fn new(limit: u32, allowance: Duration, now: Instant) -> Self {
        Self {
            pacer: Pacer::new(limit, allowance, now),
            gate: Gate::default(),
            schedule: Schedule::new(now),
            polls: BTreeMap::new(),
            waiting: VecDeque::new(),
            under_way: BTreeMap::new(),
            last_id: 0,
            is_reading: false,
            is_unsure: false,
            is_beating: false,
            wakes_at: None,
            turn_at: None,
        }
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn room(&self) -> usize {
        let not_started = self.polls.values().filter(|poll| !poll.has_started).count();
        MAX_IN_FLIGHT.saturating_sub(self.polls.len()).min(AHEAD.saturating_sub(not_started))
    }
}

impl World {
    fn polling(&mut self, daemon: usize) -> &mut Polling {
        &mut self.daemons[daemon].term.as_mut().expect("only a term polls").polling
    }

    pub fn loaded(&mut self, daemon: usize, slots: Vec<(SlotId, Timestamp)>) {
        let now = self.clocks(daemon);
        let Some(term) = self.daemons[daemon].term.as_mut().filter(|term| !term.is_over) else { return };
        slots.into_iter().for_each(|(slot, due)| term.polling.schedule.learn(slot, due, now));
        (term.polling.is_unsure, term.polling.is_reading) = (false, false);
        if !std::mem::replace(&mut term.is_loaded, true) {
            self.after(daemon, Duration::ZERO, Doing::Tick);
        }
        self.wake_in(daemon, Duration::ZERO);
    }

    pub fn not_loaded(&mut self, daemon: usize) {
        let Some(term) = &mut self.daemons[daemon].term else { return };
        term.polling.is_reading = false;
        if term.is_loaded {
            self.wake_in(daemon, READ_AGAIN);
        } else {
            self.after(daemon, READ_AGAIN, Doing::Load);
        }
    }

    /// Mirrors `poller::slotter`.
    pub fn ticks(&mut self, daemon: usize) {
        if self.daemons[daemon].term.as_ref().is_some_and(|term| !term.is_over) {
            self.request(daemon, Request::Slot);
        }
    }

    pub fn slotted(&mut self, daemon: usize, reply: Reply) {
        self.after(daemon, Duration::from_secs(1), Doing::Tick);
        let now = self.clocks(daemon);
        if let Reply::Schedule(slots) = reply {
            let schedule = &mut self.polling(daemon).schedule;
            let is_news = !slots.is_empty();
            slots.into_iter().for_each(|(slot, due)| schedule.bring_forward(slot, due, now));
            if is_news {
                self.wake_in(daemon, Duration::ZERO);
            }
        } else {
            self.polling(daemon).is_unsure = true;
            self.wake_in(daemon, Duration::ZERO);
        }
    }

    pub fn wake_in(&mut self, daemon: usize, wait: Duration) {
        let at = self.now + u64::try_from(wait.as_micros()).unwrap();
        let Some(term) = &mut self.daemons[daemon].term else { return };
        if term.polling.wakes_at.is_none_or(|earlier| earlier > at) {
            term.polling.wakes_at = Some(at);
            self.after(daemon, wait, Doing::Wake);
        }
    }

    /// Mirrors `Poller::start_polls`.
    pub fn wakes(&mut self, daemon: usize) {
        let (now, clocks) = (self.now, self.clocks(daemon));
        let is_trusted = self.daemons[daemon].contender.is_trusted(clocks.monotonic);
        let Some(term) = &mut self.daemons[daemon].term else { return };
        let polling = &mut term.polling;
        if polling.wakes_at.take_if(|at| *at <= now).is_none() || term.is_over || polling.is_reading {
            return;
        }
        let room = polling.room();
        if room < AHEAD / 2 {
            return self.wake_in(daemon, Duration::from_secs(1));
        }
        if term.writing.is_stuck || !is_trusted {
            return self.wake_in(daemon, LOOK_AGAIN);
        }
        if polling.is_unsure {
            polling.is_reading = true;
            return self.request(daemon, Request::Load);
        }
        let (room, is_probe) = match polling.gate.admit(clocks.monotonic) {
            Admission::Open => (room, false),
            Admission::Probe => (1, true),
            Admission::Closed(until) => {
                return self.wake_in(daemon, until.saturating_duration_since(clocks.monotonic));
            }
        };
        let claimed = polling.schedule.claim_due(room, clocks);
        if claimed.is_empty() {
            if is_probe {
                polling.gate.probe_again(clocks.monotonic);
            }
            let micros = polling.schedule.until_next(clocks).unwrap_or(i64::MAX).clamp(1_000, 1_000_000);
            return self.wake_in(daemon, Duration::from_micros(micros.unsigned_abs()));
        }
        polling.is_reading = true;
        self.request(daemon, Request::Read(claimed, is_probe));
    }

    pub fn has_read(&mut self, daemon: usize, claimed: Vec<SlotId>, is_probe: bool, reply: Reply) {
        let clocks = self.clocks(daemon);
        let is_over = self.daemons[daemon].term.as_ref().is_none_or(|term| term.is_over);
        let polling = self.polling(daemon);
        polling.is_reading = false;
        if is_over {
            return;
        }
        let Reply::Slots(mut slots) = reply else {
            claimed.into_iter().for_each(|slot| polling.schedule.release(slot, clocks.wall, clocks));
            polling.is_unsure = true;
            return self.wake_in(daemon, READ_AGAIN);
        };
        self.merges(daemon, &mut slots);
        let mut missing: HashSet<SlotId> = claimed.into_iter().collect();
        let mut calling = 0;
        for slot in slots {
            missing.remove(&slot.slot_id);
            slot.absorbs.iter().for_each(|(other, _)| _ = missing.remove(other));
            calling += usize::from(!slot.messages.is_empty());
            let polling = self.polling(daemon);
            let (id, asking) = (polling.next_id(), Asking::new(&slot));
            polling.polls.insert(id, Polled { slot, asking, grant: None, is_probe, has_started: false });
            self.queues(daemon, id);
        }
        let polling = self.polling(daemon);
        missing.into_iter().for_each(|slot| polling.schedule.forget(slot));
        if is_probe && calling == 0 {
            polling.gate.probe_again(clocks.monotonic);
        }
        self.wake_in(daemon, Duration::ZERO);
    }

    /// Mirrors `poller::contents`.
    fn merges(&mut self, daemon: usize, slots: &mut Vec<Slot>) {
        let (batch_size, clocks) = (self.plan.batch_size, self.clocks(daemon));
        let is_thin = |slot: &&Slot| !slot.messages.is_empty() && slot.messages.len() <= batch_size / 2;
        let thin: Vec<SlotId> = slots.iter().filter(is_thin).map(|slot| slot.slot_id).collect();
        for id in thin {
            let free = |slots: &[Slot], id| slots.iter().position(|slot| slot.slot_id == id && slot.absorbs.is_none());
            let Some(at) = free(slots, id) else { continue };
            let Some(other) = self.database.merge_candidate(&slots[at], batch_size) else { continue };
            let absorbed = if let Some(at) = free(slots, other) {
                Some(slots.remove(at))
            } else if self.polling(daemon).schedule.claim(other) {
                self.database.read(&[other]).pop()
            } else {
                None
            };
            let Some(absorbed) = absorbed else { continue };
            match slots.iter_mut().find(|slot| slot.slot_id == id) {
                Some(slot) if slot.messages.len() + absorbed.messages.len() <= batch_size => slot.absorb(absorbed),
                _ => self.polling(daemon).schedule.release(absorbed.slot_id, absorbed.next_poll_at, clocks),
            }
        }
    }

    /// A poll waits for its next permit, or has ended.
    pub fn queues(&mut self, daemon: usize, id: u64) {
        let is_over = self.daemons[daemon].term.as_ref().is_none_or(|term| term.is_over);
        let Some(poll) = self.polling(daemon).polls.get_mut(&id) else { return };
        if is_over && !poll.slot.messages.is_empty() {
            poll.asking.stop();
        }
        if poll.asking.batch().is_none() {
            return self.poll_has_ended(daemon, id);
        }
        self.polling(daemon).waiting.push_back(id);
        self.turn_at(daemon, self.now);
    }

    fn turn_at(&mut self, daemon: usize, at: Micros) {
        let now = self.now;
        let polling = self.polling(daemon);
        if polling.turn_at.is_none_or(|earlier| earlier > at) {
            polling.turn_at = Some(at);
            self.after(daemon, Duration::from_micros(at.saturating_sub(now)), Doing::Turn);
        }
    }

    /// Mirrors `Pacing::permit` and what `Caller` looks at before it sends.
    pub fn takes_turns(&mut self, daemon: usize) {
        let (now, instant) = (self.now, self.instant());
        if self.polling(daemon).turn_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        while let Some(id) = self.polling(daemon).waiting.front().copied() {
            match self.polling(daemon).pacer.take(instant) {
                Ok(grant) => {
                    self.polling(daemon).waiting.pop_front();
                    self.may_send(daemon, id, grant);
                }
                Err(ready_at) => {
                    let late = self.random.u64(0..1_100);
                    return self.turn_at(daemon, self.micros(ready_at) + late);
                }
            }
        }
    }

    fn may_send(&mut self, daemon: usize, id: u64, grant: Grant) {
        let instant = self.instant();
        let is_trusted = self.daemons[daemon].contender.is_trusted(instant);
        let polling = self.polling(daemon);
        let Some(poll) = polling.polls.get_mut(&id) else { return polling.pacer.ended(&grant, instant) };
        poll.has_started = true;
        if (!poll.is_probe && polling.gate.fault().is_some()) || !is_trusted {
            poll.asking.stop();
            polling.pacer.ended(&grant, instant);
            return self.poll_has_ended(daemon, id);
        }
        poll.grant = Some(grant);
        if !std::mem::replace(&mut polling.is_beating, true) {
            self.beats(daemon);
        }
        // The process may be stopped just here.
        let wait = Duration::from_micros(self.random.u64(0..300));
        self.after(daemon, wait, Doing::Send(id));
        self.wake_in(daemon, Duration::ZERO);
    }

    pub fn beats(&mut self, daemon: usize) {
        let instant = self.instant();
        let polling = self.polling(daemon);
        polling.is_beating = polling.pacer.beat(instant);
        if polling.is_beating {
            self.after(daemon, BEAT, Doing::Beat);
        }
    }

    pub fn sends(&mut self, daemon: usize, id: u64) {
        let (now, wall) = (self.now, self.clocks(daemon).wall);
        let polling = self.polling(daemon);
        let attempt = polling.next_id();
        let Some(poll) = polling.polls.get(&id) else { return };
        let (group, batch) = (poll.slot.group_key, poll.asking.batch().unwrap_or_default().to_vec());
        polling.under_way.insert(attempt, (id, now, wall));
        self.send(daemon, attempt, group, batch);
    }

    /// An attempt has ended.
    pub fn hears(&mut self, daemon: usize, attempt: u64, heard: Heard) {
        let (now, instant, ended_at) = (self.now, self.instant(), self.clocks(daemon).wall);
        let polling = self.polling(daemon);
        let Some((id, sent_at, called_at)) = polling.under_way.remove(&attempt) else { return };
        let Some(poll) = polling.polls.get_mut(&id) else { return };
        let latency = Duration::from_micros(now - sent_at);
        let asked = poll.asking.batch().unwrap_or_default().len();
        let Heard { http_status, outcome } = heard;
        let attempt = Attempt { called_at, ended_at, latency, http_status, asked, outcome };
        let grant = poll.grant.take().expect("an attempt holds a permit");
        if attempt.class() == Class::SlowDown {
            polling.pacer.slow_down(&grant, instant);
        }
        polling.pacer.ended(&grant, instant);
        let next = poll.asking.heard(attempt, || true);
        if polling.turn_at.is_some_and(|at| at > now + 1_000_000) {
            self.turn_at(daemon, now);
        }
        match next {
            Next::GoOn => self.queues(daemon, id),
            Next::Wait(wait) if self.daemons[daemon].term.as_ref().is_some_and(|term| !term.is_over) => {
                self.after(daemon, wait, Doing::Again(id));
            }
            Next::Wait(_) => self.queues(daemon, id),
            Next::StopApp(failure) => {
                self.polling(daemon).gate.close(failure, instant);
                self.queues(daemon, id);
            }
        }
    }

    /// No attempt starts any more.
    pub fn stops_polls(&mut self, daemon: usize) {
        let polling = self.polling(daemon);
        polling.waiting.clear();
        let idle: Vec<u64> = polling.polls.iter().filter(|poll| poll.1.grant.is_none()).map(|poll| *poll.0).collect();
        idle.into_iter().for_each(|id| self.queues(daemon, id));
    }

    /// Mirrors the end of the task in `Poller::spawn`, and `poller::claim`.
    fn poll_has_ended(&mut self, daemon: usize, id: u64) {
        let clocks = self.clocks(daemon);
        let polling = self.polling(daemon);
        let Some(Polled { slot, asking, is_probe, .. }) = polling.polls.remove(&id) else { return };
        let poll = asking.into_poll();
        if is_probe && matches!(poll.end, PollEnd::Complete | PollEnd::GroupFault(_)) {
            polling.gate.open();
        }
        let due = slot.next_poll_at;
        let mut back: Vec<SlotId> = slot.absorbs.iter().map(|(other, _)| *other).collect();
        if poll.attempts.is_empty() && poll.end == PollEnd::Stopped {
            back.push(slot.slot_id);
        } else {
            self.promises.polled(&slot, &poll, self.now);
            let recording = Recording::of(slot, poll, self.cadences.of(None), KeepSnapshots::Changes, clocks.wall);
            back.retain(|other| recording.absorbs.is_none_or(|(absorbed, _)| absorbed != *other));
            if !recording.is_empty {
                self.polling(daemon).schedule.set(recording.slot_id, recording.next_poll_at, clocks);
            }
            let id = self.promises.handed_over(self.now);
            self.records(daemon, Kept { id, recording });
        }
        let schedule = &mut self.polling(daemon).schedule;
        back.into_iter().for_each(|slot| schedule.release(slot, due, clocks));
        self.wake_in(daemon, Duration::ZERO);
        self.polls_have_ended(daemon);
    }
}
