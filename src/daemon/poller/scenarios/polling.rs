//! The poller of a term. Mirrors the loop in `src/daemon/poller/mod.rs`, the slotter and the claims; the real [`Schedule`] and
//! [`Gate`] decide what is due and whether polls may start.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::{Duration, Instant},
};

use chrono::TimeDelta;

use super::{
    database::{Numbered, wall},
    operation::{Reply, Request, Slotted},
    plan::{Micros, Plan},
    world::{Doing, World},
};
use crate::{
    daemon::poller::{
        call::{Pass, judge},
        starting::{COME_ROUND, LOOK_AGAIN, READ_AGAIN, TRIED, WITNESSES},
    },
    rules::{
        cadence::Following,
        database_clock::Moment,
        pacer::{Grant, Pacer},
        polling::{
            ahead::Ahead,
            batch_limit::BatchLimit,
            brake::Brake,
            failing::{self, FailingCalls},
            gate::{Admission, Gate, Place},
            others::Outcomes,
            poll_progress::PollProgress,
            schedule::{Now, Schedule},
        },
        protocol::Failure,
        recording::{KeepSnapshots, Kept, PollEnd},
        slot::{GroupKey, GroupState, Slot, SlotKey, StoredDue},
        writing::Committed,
    },
};

pub(super) struct Polling {
    max_in_flight: usize,
    pub pacer: Pacer,
    pub gate: Gate,
    pub brake: Brake,
    pub outcomes: Outcomes,
    pub failing: FailingCalls,
    /// Polls of failing slots waiting for their turn, in order.
    pub awaiting_turn: VecDeque<u64>,
    pub limit: BatchLimit,
    pub schedule: Schedule,
    /// Slots for probes of quarantined groups, and those of them being read.
    probes: BTreeSet<SlotKey>,
    claimed_probes: Vec<SlotKey>,
    pub polls: BTreeMap<u64, Polled>,
    /// Polls waiting for a permit, in order.
    pub waiting: VecDeque<u64>,
    /// The poll of each attempt in flight, and when that was sent.
    pub under_way: BTreeMap<u64, (u64, Micros)>,
    last_id: u64,
    is_reading: bool,
    ahead: Ahead,
    /// When the reading began.
    reads_since: Instant,
    unsure_after: Option<SlotKey>,
    /// A page of the schedule was read in this round.
    has_paged: bool,
    wakes_at: Option<Micros>,
    put_off: HashMap<GroupKey, HashSet<SlotKey>>,
    looks_ahead: bool,
    /// The read is for the first call of the term.
    is_first: bool,
    pub turn_at: Option<Micros>,
}

/// A poll.
pub(super) struct Polled {
    pub slot: Slot,
    pub asking: PollProgress,
    pub grant: Option<Grant>,
    pub pass: Pass,
    /// A refusal with a code of the app.
    pub refusal: Option<Failure>,
    /// When the last attempt was sent.
    pub sent: Instant,
    pub has_started: bool,
    /// Whether it was started while the brake was on.
    pub is_let_through: bool,
    /// Its turn among failing slots, if it has one for its next call or the one in flight.
    pub turn: Option<Turn>,
    /// Whether its next call tries a new signature, which the other polls wait for.
    pub tries_signature: bool,
}

/// Mirrors `failing::Turn`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub sent: Option<Instant>,
}

impl Polling {
    pub fn new(plan: &Plan, now: Instant) -> Self {
        let Plan { limit, allowance, batch_size, max_in_flight, .. } = *plan;
        Self {
            max_in_flight,
            pacer: Pacer::new(limit, allowance, now),
            gate: Gate::default(),
            brake: Brake::new(limit),
            outcomes: Outcomes::default(),
            failing: FailingCalls::new(limit, allowance),
            awaiting_turn: VecDeque::new(),
            limit: BatchLimit::new(batch_size, now),
            schedule: Schedule::new(now),
            probes: BTreeSet::new(),
            claimed_probes: vec![],
            polls: BTreeMap::new(),
            waiting: VecDeque::new(),
            under_way: BTreeMap::new(),
            last_id: 0,
            is_reading: false,
            ahead: Ahead::default(),
            reads_since: now,
            unsure_after: Some(SlotKey::MIN),
            has_paged: false,
            wakes_at: None,
            put_off: HashMap::new(),
            looks_ahead: false,
            is_first: false,
            turn_at: None,
        }
    }

    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Mirrors `Poller::hear_committed`.
    pub fn hears_committed(&mut self, committed: Committed, now: Now) {
        match committed {
            Committed::Due(slot, due) => self.schedule.release(slot, due, now),
            Committed::Sooner(slot, due) => self.schedule.sooner(slot, due, now),
            Committed::PutOff(slot, due) => self.schedule.put_off(slot, due, now),
            Committed::Gone(slot) => self.schedule.forget(slot),
            Committed::NewSlot(made) => self.schedule.learn_made(made, now),
        }
    }

    /// Mirrors `Poller::put_off`.
    fn puts_off(&mut self, slot: &Slot, until: Instant, now: Now) {
        let wait = TimeDelta::from_std(until.saturating_duration_since(now.monotonic)).unwrap_or_default();
        for id in std::iter::once(slot.key).chain(slot.absorbs.as_ref().map(|other| other.key)) {
            if wait.is_zero() {
                self.schedule.give_back(id, now);
            } else {
                self.put_off.entry(slot.key.group_key).or_default().insert(id);
                self.schedule.release(id, slot.next_poll_at.max(now.time + wait), now);
            }
        }
    }

    /// Mirrors `Poller::claim`.
    fn claim(&mut self, room: usize, now: Now) -> Vec<SlotKey> {
        let free = self.probes.iter().copied().filter(|slot| self.schedule.claim_unknown(*slot));
        self.claimed_probes = free.take(room.div_ceil(2)).collect();
        self.claimed_probes.iter().for_each(|slot| _ = self.probes.remove(slot));
        let room = room - self.claimed_probes.len();
        let due = match self.brake.is_on() {
            true => self.schedule.claim_drawn(room, fastrand::f64, now),
            false => self.schedule.claim_due(room, self.failing_room(), now),
        };
        self.claimed_probes.iter().copied().chain(due).collect()
    }

    fn failing_room(&self) -> usize {
        let failing = self.polls.values().filter(|poll| poll.slot.failures > 0).count();
        failing::places(self.max_in_flight).saturating_sub(failing)
    }

    fn room(&self, ahead: usize) -> usize {
        let not_started = self.polls.values().filter(|poll| !poll.has_started && poll.slot.failures == 0).count();
        self.max_in_flight.saturating_sub(self.polls.len()).min(ahead.saturating_sub(not_started))
    }
}

impl Polled {
    /// Whether its calls count as those of a failing slot.
    pub fn is_limited(&self) -> bool {
        self.slot.failures > 0 && self.pass == Pass::None && !self.is_let_through
    }
}

impl World {
    pub fn polling(&mut self, daemon: usize) -> &mut Polling {
        &mut self.daemons[daemon].term.as_mut().expect("only a term polls").polling
    }

    /// Mirrors `Poller::load_page`.
    pub fn loads(&mut self, daemon: usize) {
        let after = self.daemons[daemon].term.as_ref().and_then(|term| term.polling.unsure_after);
        self.request(daemon, Request::Load(after.unwrap_or(SlotKey::MIN)));
    }

    pub fn loaded(&mut self, daemon: usize, slots: Vec<(SlotKey, StoredDue)>, next: Option<SlotKey>) {
        let now = self.clocks(daemon);
        let Some(term) = self.daemons[daemon].term.as_mut().filter(|term| !term.is_over) else { return };
        let (polling, following) = (&mut term.polling, Following::from(self.cadences.of(None)));
        for (slot, stored) in slots {
            polling.schedule.learn(slot, stored, stored.every(&following, now.time), now);
        }
        (polling.unsure_after, polling.is_reading, polling.has_paged) = (next, false, true);
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
        if let Reply::Slotted(Slotted { changed, probes, joined }) = reply {
            let polling = self.polling(daemon);
            let is_news = !changed.is_empty() || !probes.is_empty() || !joined.is_empty();
            changed.into_iter().for_each(|(slot, next)| polling.schedule.set(slot, next, now));
            polling.probes.extend(probes);
            joined.into_iter().for_each(|(slot, next)| polling.schedule.bring_forward(slot, next, now));
            if is_news {
                self.wake_in(daemon, Duration::ZERO);
            }
        } else {
            self.polling(daemon).unsure_after = Some(SlotKey::MIN);
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
        let is_trusted = self.daemons[daemon].elector.contender().is_trusted(clocks.monotonic);
        let Some(term) = &mut self.daemons[daemon].term else { return };
        let polling = &mut term.polling;
        if polling.wakes_at.take_if(|at| *at <= now).is_none() || term.is_over || polling.is_reading {
            return;
        }
        let ahead = polling.ahead.polls(polling.pacer.rate(clocks.monotonic), polling.max_in_flight);
        let room = polling.room(ahead);
        if room < ahead.div_ceil(2) {
            return self.wake_in(daemon, COME_ROUND);
        }
        if term.recorder.is_blocked() || !is_trusted {
            return self.wake_in(daemon, LOOK_AGAIN);
        }
        if polling.unsure_after.is_some() && !std::mem::take(&mut polling.has_paged) {
            polling.is_reading = true;
            return self.loads(daemon);
        }
        for slot in polling.gate.take_freed().iter().filter_map(|group| polling.put_off.remove(group)).flatten() {
            polling.schedule.sooner(slot, clocks.time, clocks);
        }
        polling.brake.has_slots(polling.schedule.len());
        let room = match polling.brake.room(clocks.monotonic) {
            Ok(most) => room.min(most),
            Err(again_at) => {
                let wait = again_at.saturating_duration_since(clocks.monotonic).min(COME_ROUND);
                return self.wake_in(daemon, wait);
            }
        };
        let admission = polling.gate.admit(clocks.monotonic);
        let is_probe = match admission {
            Admission::Open | Admission::First => false,
            Admission::Probe => true,
            Admission::Closed(until) => {
                return self.wake_in(daemon, until.saturating_duration_since(clocks.monotonic).min(COME_ROUND));
            }
        };
        let mut claimed = Vec::new();
        if is_probe {
            claimed.extend(polling.gate.take_witness().filter(|slot| polling.schedule.claim(*slot)));
        }
        claimed.extend(match is_probe {
            true => polling.schedule.claim_due(TRIED, polling.failing_room(), clocks),
            false => polling.claim(room, clocks),
        });
        polling.looks_ahead = is_probe && claimed.is_empty() && polling.gate.fault().is_none();
        if polling.looks_ahead {
            claimed = polling.schedule.claim_soonest(WITNESSES);
        }
        if claimed.is_empty() {
            if is_probe {
                polling.gate.no_witness(clocks.monotonic);
            } else if admission == Admission::First {
                polling.gate.has_not_called();
            }
            let most = if polling.unsure_after.is_some() { 1_000 } else { 1_000_000 };
            let until_next = polling.schedule.until_next(polling.failing_room() > 0, clocks);
            let micros = until_next.unwrap_or(i64::MAX).clamp(1_000, most);
            return self.wake_in(daemon, Duration::from_micros(micros.unsigned_abs()));
        }
        (polling.is_reading, polling.reads_since) = (true, clocks.monotonic);
        polling.is_first = admission == Admission::First;
        self.request(daemon, Request::Read(claimed, is_probe));
    }

    pub fn has_read(&mut self, daemon: usize, mut claimed: Vec<SlotKey>, is_probe: bool, reply: Reply) {
        let clocks = self.clocks(daemon);
        let is_over = self.daemons[daemon].term.as_ref().is_none_or(|term| term.is_over);
        let polling = self.polling(daemon);
        polling.is_reading = false;
        if !is_probe {
            polling.ahead.took(clocks.monotonic.saturating_duration_since(polling.reads_since));
        }
        if is_over {
            return;
        }
        let slots = match reply {
            Reply::Slots(slots) => self.splits(daemon, slots, &mut claimed),
            _ => None,
        };
        let slots = slots.and_then(|slots| self.merges(daemon, slots, &mut claimed));
        let Some(mut slots) = slots else {
            let polling = self.polling(daemon);
            claimed.into_iter().for_each(|slot| polling.schedule.release(slot, clocks.time, clocks));
            if is_probe {
                polling.gate.probe_again(clocks.monotonic);
            } else if polling.is_first {
                polling.gate.has_not_called();
            }
            return self.wake_in(daemon, READ_AGAIN);
        };
        let mut missing: HashSet<SlotKey> = claimed.into_iter().collect();
        let mut calling = 0;
        let is_one = is_probe || self.polling(daemon).is_first;
        if is_one {
            let gate = &self.polling(daemon).gate;
            let is_refused =
                |slot: &Slot| slot.group_state == GroupState::Quarantined || gate.holds(slot.key.group_key);
            slots.sort_by_key(is_refused);
        }
        for slot in slots {
            missing.remove(&slot.key);
            slot.absorbs.iter().for_each(|other| _ = missing.remove(&other.key));
            let polling = self.polling(daemon);
            let is_tried = !is_probe && polling.claimed_probes.contains(&slot.key);
            if slot.group_state == GroupState::Quarantined {
                polling.gate.is_quarantined(slot.key.group_key);
            }
            let is_empty = slot.messages.is_empty();
            if slot.group_state != GroupState::Active && !is_tried && !is_empty {
                slot.absorbs.into_iter().for_each(|other| polling.schedule.forget(other.key));
                polling.schedule.forget(slot.key);
                continue;
            }
            let place = match is_one && calling > 0 {
                _ if is_empty => Place::Free,
                true => Place::Until(clocks.monotonic),
                false if is_tried => Place::Free,
                false => polling.gate.place(slot.key.group_key, clocks.monotonic),
            };
            if let Place::Until(until) = place {
                polling.puts_off(&slot, until, clocks);
                continue;
            }
            calling += usize::from(!slot.messages.is_empty());
            let pass = if is_probe || place == Place::OnTrial { Pass::Trial } else { Pass::None };
            let others = polling.outcomes.of_others(slot.key.slot_id, clocks.monotonic);
            let sizes = polling.limit.sizes(slot.messages.len(), clocks.monotonic);
            let (id, asking) = (polling.next_id(), PollProgress::new(&slot, sizes, others));
            let is_let_through = !slot.messages.is_empty() && polling.brake.is_on();
            if is_let_through {
                polling.brake.starts(clocks.monotonic);
            }
            polling.polls.insert(
                id,
                Polled {
                    slot,
                    asking,
                    grant: None,
                    pass,
                    refusal: None,
                    sent: clocks.monotonic,
                    has_started: false,
                    is_let_through,
                    turn: None,
                    tries_signature: false,
                },
            );
            self.queues(daemon, id);
        }
        let polling = self.polling(daemon);
        missing.into_iter().for_each(|slot| polling.schedule.forget(slot));
        if polling.is_first && calling == 0 {
            polling.gate.has_not_called();
        }
        if is_probe && calling == 0 {
            let is_anybody_due =
                polling.schedule.until_next(polling.failing_room() > 0, clocks).is_some_and(|until| until <= 0);
            if is_anybody_due || !(polling.looks_ahead || polling.gate.fault().is_some()) {
                polling.gate.probe_again(clocks.monotonic);
            } else {
                polling.gate.no_witness(clocks.monotonic);
            }
        }
        self.wake_in(daemon, Duration::from_millis(u64::from(is_probe)));
    }

    /// Mirrors the end of the task in `Poller::spawn`, and `poller::claim`.
    pub fn poll_has_ended(&mut self, daemon: usize, id: u64) {
        let clocks = self.clocks(daemon);
        let polling = self.polling(daemon);
        let Some(poll) = polling.polls.remove(&id) else { return };
        let Polled { slot, asking, pass, refusal, sent, is_let_through, .. } = poll;
        if is_let_through {
            polling.brake.ended();
        }
        let mut poll = asking.into_poll();
        polling.limit.learn(&poll, clocks.monotonic);
        judge(&mut polling.gate, &slot, &mut poll, refusal, pass, (sent, clocks.monotonic));
        let mut back: Vec<SlotKey> = slot.absorbs.iter().map(|other| other.key).collect();
        if poll.attempts.is_empty() && poll.end == PollEnd::Stopped {
            back.push(slot.key);
        } else {
            self.promises.polled(&slot, &poll, self.now);
            let wall = wall(self.now, self.daemons[daemon].wall_offset);
            let is_doubted = self.daemons[daemon].clock.doubt(wall, clocks.monotonic).is_some();
            let now = Moment { time: clocks.time, is_doubted };
            let kept = Kept::of(slot, poll, self.cadences.clone(), 1.0, KeepSnapshots::Changes, now);
            let recording = &kept.recording;
            back.retain(|other| recording.absorbs.is_none_or(|(absorbed, _)| absorbed != *other));
            if !recording.is_empty {
                let (slot, next, fails) = (recording.slot, recording.next(), recording.failures > 0);
                self.polling(daemon).schedule.polled(slot, next, fails, clocks);
            }
            let id = self.promises.handed_over(self.now);
            self.records(daemon, Numbered { id, kept });
        }
        let schedule = &mut self.polling(daemon).schedule;
        back.into_iter().for_each(|slot| schedule.give_back(slot, clocks));
        self.wake_in(daemon, Duration::ZERO);
        self.polls_have_ended(daemon);
    }
}
