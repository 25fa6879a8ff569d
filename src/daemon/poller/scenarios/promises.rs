//! The promises, checked after every event of a life and at its end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{
    costs::Costs,
    plan::{Micros, Plan, SECOND},
    world::World,
};
use crate::rules::{
    lease::{LeaseRow, TTL},
    pacer::reserve_of,
    polling::{poll_progress::FAILURES_TO_BLAME, retry::MAX_ATTEMPTS},
    protocol::Class,
    recording::{Closed, Poll, PollEnd},
    slot::Slot,
};

/// How often a closed gate is probed, plus the time for the probe.
const UNTIL_PROBED: Micros = 185 * SECOND;

/// Maximum time until a takeover after the last renewal of the lease.
const UNTIL_TAKEN_OVER: Micros = 12 * SECOND;

/// Maximum time until a takeover after the lease was released.
const UNTIL_FOLLOWED: Micros = 2 * SECOND;

#[derive(Debug)]
pub(super) struct Promises {
    pub broken: Option<String>,
    limit: u32,
    /// When the network is free again after a standstill, and the number of processes killed in it that had called.
    killed: BTreeMap<Micros, usize>,
    calm_from: Micros,
    end: Option<Micros>,
    arrivals: VecDeque<Micros>,
    asked_in_vain: BTreeMap<usize, VecDeque<Micros>>,
    last_recording: u64,
    /// Recordings that were neither stored nor lost, and when they were handed over.
    open: BTreeMap<u64, Micros>,
    lost: BTreeSet<u64>,
    costs: Costs,
    /// When late messages were last searched for.
    looked_at: Micros,
    /// Time since which a process that could take the lease has seen a healthy database without a holder.
    leaderless_since: Option<Micros>,
    released_since: Option<Micros>,
}

impl Promises {
    pub fn of(plan: &Plan) -> Self {
        Self {
            broken: None,
            limit: plan.limit,
            killed: BTreeMap::new(),
            calm_from: plan.calm_from(),
            end: None,
            arrivals: VecDeque::new(),
            asked_in_vain: BTreeMap::new(),
            last_recording: 0,
            open: BTreeMap::new(),
            lost: BTreeSet::new(),
            costs: Costs::of(plan),
            looked_at: 0,
            leaderless_since: None,
            released_since: None,
        }
    }

    fn breaks(&mut self, how: impl FnOnce() -> String) {
        self.broken.get_or_insert_with(how);
    }

    /// When the life is over.
    pub fn end(&self) -> Option<Micros> {
        self.end
    }

    /// 1. No sliding second at the service holds more than the limit.
    pub fn arrived(&mut self, now: Micros) {
        self.arrivals.push_back(now);
        while self.arrivals.front().is_some_and(|first| now - first >= SECOND) {
            self.arrivals.pop_front();
        }
        let (count, limit, left_behind) = (self.arrivals.len(), self.limit, self.left_behind(now));
        if count > limit as usize + left_behind {
            self.breaks(|| {
                format!("{count} calls within a second, the limit is {limit}, and killed processes left {left_behind}")
            });
        }
    }

    /// What processes killed in the standstill that has just ended may have left behind beyond the limit. It is not
    /// visible, and with one of them the limit is not used up; so each further one adds what the next makes until one
    /// is answered.
    fn left_behind(&self, now: Micros) -> usize {
        let ended = self.killed.range(now.saturating_sub(SECOND - 1)..=now);
        ended.map(|(_, killed)| (killed - 1) * reserve_of(self.limit) as usize).sum()
    }

    /// A process that had called was killed while nothing gets through before `free_at`.
    pub fn killed_in_standstill(&mut self, free_at: Micros) {
        *self.killed.entry(free_at).or_default() += 1;
    }

    pub fn arrivals_within_a_second(&self) -> usize {
        self.arrivals.len()
    }

    /// 5. An unavailable database is not hammered.
    pub fn asked_in_vain(&mut self, daemon: usize, now: Micros) {
        let asked = self.asked_in_vain.entry(daemon).or_default();
        asked.push_back(now);
        while asked.front().is_some_and(|first| now - first >= SECOND) {
            asked.pop_front();
        }
        // The parts of a daemon have their own delays, the shortest doubled from 50 ms on; and each poll that ends
        // checks once for due slots.
        let (count, most) = (asked.len(), 12 + self.limit as usize);
        if count > most {
            self.breaks(|| format!("daemon {daemon} queried an unavailable database {count} times in a second"));
        }
    }

    pub fn polled(&mut self, slot: &Slot, poll: &Poll, now: Micros) {
        let asked = slot.messages.iter().map(|message| message.seq).filter(|_| poll.end == PollEnd::Complete);
        let told = poll.receipts.iter().map(|told| told.seq);
        let late = asked.chain(told).filter_map(|seq| self.costs.told((slot.key.group_key, seq), now).err()).last();
        late.into_iter().for_each(|late| self.breaks(|| late));
        // 5. A service that fails is not hammered.
        let is_in_parts = slot.failures >= FAILURES_TO_BLAME
            || poll.attempts.iter().any(|attempt| {
                matches!(attempt.class(), Class::Split | Class::Message) || attempt.asked < slot.messages.len()
            });
        let batches = if is_in_parts { 2 * slot.messages.len() } else { 1 };
        // One more for a new signature.
        let most = batches * (MAX_ATTEMPTS as usize + 1);
        let count = poll.attempts.len();
        if count > most {
            self.breaks(|| format!("{count} attempts for slot {}", slot.key.slot_id));
        }
    }

    /// 7. A permanent flaw is not polled again and again.
    pub fn failed(&mut self, now: Micros) {
        let many = self.costs.failed(now).err();
        many.into_iter().for_each(|many| self.breaks(|| many));
    }

    pub fn handed_over(&mut self, now: Micros) -> u64 {
        self.last_recording += 1;
        self.open.insert(self.last_recording, now);
        self.last_recording
    }

    pub fn killed_with(&mut self, recordings: Vec<u64>) {
        recordings.iter().for_each(|id| _ = self.open.remove(id));
    }

    /// 2. Nothing is lost unless the lease has passed, or the shutdown deadline is over.
    pub fn lost(&mut self, recordings: Vec<u64>, is_excused: bool) {
        if !is_excused && !recordings.is_empty() {
            self.breaks(|| format!("{} recordings were lost without a reason", recordings.len()));
        }
        for id in recordings {
            self.open.remove(&id);
            self.lost.insert(id);
        }
    }

    /// 4. A daemon that is stopped gives the lease back.
    pub fn stopped(&mut self, name: &str, lease: Option<&LeaseRow>) {
        if lease.is_some_and(|row| row.holder.as_deref() == Some(name)) {
            self.breaks(|| format!("{name} has stopped and still holds the lease"));
        }
    }

    /// A daemon has started: it has seen nothing yet.
    pub fn stirred(&mut self, _now: Micros) {
        (self.leaderless_since, self.released_since) = (None, None);
    }

    fn look_at_the_lease(&mut self, world: &Seen) {
        if world.trusting > 1 {
            self.breaks(|| format!("{} daemons trust their lease", world.trusting));
        }
        let is_open = world.trusting == 0 && world.can_follow && !world.is_database_faulty;
        self.leaderless_since = self.leaderless_since.filter(|_| is_open).or(is_open.then_some(world.now));
        let is_released = is_open && world.is_released;
        self.released_since = self.released_since.filter(|_| is_released).or(is_released.then_some(world.now));
        let over = |since: Option<Micros>, most| since.is_some_and(|since| world.now > since + most);
        if over(self.leaderless_since, UNTIL_TAKEN_OVER) {
            self.breaks(|| format!("nobody took over within {TTL:?} and 2 s"));
        }
        if over(self.released_since, UNTIL_FOLLOWED) {
            self.breaks(|| "nobody took the lease within 2 s after it was released".into());
        }
    }
}

/// The facts on which the promises about the lease depend.
struct Seen {
    now: Micros,
    trusting: usize,
    can_follow: bool,
    is_released: bool,
    is_database_faulty: bool,
}

impl World {
    pub fn look_at_promises(&mut self) {
        let (now, instant) = (self.now, self.instant());
        let alive = || self.daemons.iter().filter(|daemon| daemon.is_alive);
        let seen = Seen {
            now,
            trusting: alive().filter(|daemon| daemon.elector.contender().is_trusted(instant)).count(),
            // A process that can take the lease must do so; one in its own term has to end that first.
            can_follow: alive().any(|daemon| daemon.term.is_none() && !daemon.is_stopping && daemon.paused_until < now)
                && alive().all(|daemon| daemon.paused_until < now),
            is_released: self.database.lease.as_ref().is_some_and(|row| row.holder.is_none()),
            is_database_faulty: self.database_is_unsteady(),
        };
        let terms = self.daemons.iter().filter_map(|daemon| daemon.term.as_ref());
        let unwritten = terms.map(|term| term.recorder.unwritten().len()).max().unwrap_or(0);
        // 6. What a flush can delay: ten seconds of polls, and those in flight.
        let most = self.plan.max_in_flight + 12 * self.plan.limit as usize;
        if unwritten > most {
            self.promises.breaks(|| format!("{unwritten} recordings wait to be written"));
        }
        self.promises.look_at_the_lease(&seen);
        if seen.trusting > 0 {
            self.promises.costs.is_stretched(self.database.stretch);
        }
        if let Some(odd) = self.database.odd.take() {
            self.promises.breaks(|| odd);
        }
        self.look_for_the_end(seen.trusting > 0);
        if now >= self.promises.looked_at + SECOND {
            self.promises.looked_at = now;
            self.look_for_late_messages(now.min(self.promises.end.unwrap_or(now)));
        }
    }

    fn look_for_the_end(&mut self, is_held: bool) {
        if self.promises.end.is_some() || self.now < self.promises.calm_from {
            return;
        }
        let mut terms = self.daemons.iter().filter_map(|daemon| daemon.term.as_ref());
        let is_closed = self.plan.refuses_app() && terms.any(|term| term.polling.calls.gate.doubted_for().is_some());
        let wait = if is_closed { UNTIL_PROBED } else { 0 } + if is_held { 0 } else { 2 * UNTIL_TAKEN_OVER };
        self.promises.end = Some(self.promises.costs.works_from(self.now + wait));
    }

    pub fn look_at_promises_at_the_end(&mut self) {
        let promises = &mut self.promises;
        for (id, times) in &self.database.stored {
            promises.open.remove(id);
            if *times != 1 {
                promises.breaks(|| format!("recording {id} was stored {times} times"));
            }
        }
        // 2. What was handed over is stored, or counted as lost.
        let recent = promises.end.unwrap_or(0).saturating_sub(SECOND);
        if let Some((id, at)) = promises.open.iter().find(|(_, at)| **at < recent) {
            let how = format!("recording {id} of {at} µs was neither stored nor lost");
            promises.breaks(|| how);
        }
        let end = promises.end.unwrap_or(self.now);
        self.look_for_late_messages(end);
    }

    /// 3. No watched message is forgotten, if the limit allows them all: none waits for longer than its patience.
    fn look_for_late_messages(&mut self, now: Micros) {
        for (key, message) in &self.database.messages {
            if message.closed == Some(Closed::Rejected) && !self.promises.costs.is_bad(*key) {
                self.promises.breaks(|| format!("{key:?} was closed as rejected, and nothing is wrong with it"));
            }
            if !message.is_active {
                continue;
            }
            if let Err(late) = self.promises.costs.is_known(*key, now) {
                self.promises.breaks(|| format!("{late}; it is in slot {:?}", message.slot_id));
            }
        }
    }
}
