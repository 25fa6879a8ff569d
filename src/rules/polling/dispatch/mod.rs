//! Decides which polls start now, from the schedule, the slots read in a round, and whatever keeps polls from starting.
//!
//! Nothing starts while results can't be stored, the lease is not trusted, or the gate is closed. Pure, given `now`:
//! [`Dispatch::next`] says what to do in a round, and its caller reports the outcome.

mod claimed;
mod contents;
mod news;
mod round;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use chrono::TimeDelta;

use self::claimed::Room;
pub use self::news::ScheduleNews;
pub(crate) use self::{
    claimed::Claimed,
    contents::{Contents, ContentsTask},
    round::{Conditions, Round, Task},
};
use super::{
    ahead::Ahead,
    calls::{Calls, Pass},
    failing,
    gate::{Admission, Place},
    schedule::{Now, Schedule},
    stretch::{Load, Stretch},
};
use crate::rules::{
    cadence::{Cadence, Following},
    protocol::Failure,
    slot::{GroupKey, GroupState, Slot, SlotKey, StoredDue},
};

/// Delay after a failed read of the schedule.
pub(crate) const READ_AGAIN: Duration = Duration::from_secs(1);

/// While no poll may start, how often this is checked.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Maximum time between rounds, whatever they wait for, so that a hang can be noticed.
const COME_ROUND: Duration = Duration::from_secs(1);

/// Delay before the next probe, if this one found no slot to ask.
const PROBE_ON: Duration = Duration::from_millis(1);

/// The future polls of an app.
#[derive(Debug)]
pub(crate) struct Dispatch {
    max_in_flight: usize,
    ahead: Ahead,
    schedule: Schedule,
    stretch: Stretch,
    /// The database may have slots after this one that the schedule lacks.
    unsure_after: Option<SlotKey>,
    /// When this round began, if it has read a page of the schedule.
    paged_since: Option<Instant>,
    /// Slots for probes of quarantined groups.
    probes: BTreeSet<SlotKey>,
    /// Slots that were postponed because the gate holds their groups.
    put_off: HashMap<GroupKey, HashSet<SlotKey>>,
    /// The failure by which the app is at fault, until it has been reported.
    fault: Option<Failure>,
}

impl Dispatch {
    pub(crate) fn new(max_in_flight: usize, now: Instant) -> Self {
        Self {
            max_in_flight,
            ahead: Ahead::default(),
            schedule: Schedule::new(now),
            stretch: Stretch::default(),
            unsure_after: Some(SlotKey::MIN),
            paged_since: None,
            probes: BTreeSet::new(),
            put_off: HashMap::new(),
            fault: None,
        }
    }

    /// What to do at `now`. One page of the schedule is read in a round, so that polls start meanwhile.
    pub(crate) fn next(&mut self, calls: &mut Calls, conditions: Conditions, now: Now) -> Task {
        let ahead = self.ahead(conditions.rate);
        let free = self.max_in_flight.saturating_sub(conditions.in_flight);
        let room = free.min(ahead.saturating_sub(conditions.waiting));
        if room < ahead.div_ceil(2) {
            return Task::Wait(COME_ROUND);
        }
        if !conditions.may_poll {
            return Task::Wait(LOOK_AGAIN);
        }
        if self.unsure_after.is_some() && self.paged_since.is_none() {
            self.paged_since = Some(now.monotonic);
            return Task::Load;
        }
        let since = self.paged_since.take().unwrap_or(now.monotonic);
        self.bring_freed_forward(calls, now);
        calls.brake.has_slots(self.schedule.len());
        let room = match calls.brake.room(now.monotonic) {
            Ok(most) => room.min(most),
            Err(again_at) => return Task::Wait(until(again_at, now)),
        };
        let failing_room = self.failing_room(conditions.failing);
        let claimed = match calls.gate.admit(now.monotonic) {
            Admission::Open => {
                self.claim_due(calls, Room { polls: room, most: usize::MAX, failing: failing_room }, now)
            }
            Admission::First => self.claim_due(calls, Room { polls: room, most: 1, failing: failing_room }, now),
            Admission::Probe => Claimed::for_probe(&mut self.schedule, calls, failing_room, now),
            Admission::Closed(again_at) => return Task::Wait(until(again_at, now)),
        };
        let claimed = Claimed { since, ..claimed };
        match claimed.slots.is_empty() {
            true => Task::Wait(self.ends(calls, &claimed, 0, self.until_next_due(failing_room, now), now)),
            false => Task::Read(claimed),
        }
    }

    fn claim_due(&mut self, calls: &Calls, room: Room, now: Now) -> Claimed {
        Claimed::due(&mut self.schedule, &mut self.probes, calls, room, now)
    }

    /// Number of polls to start before their permits are there, at this rate.
    pub(crate) fn ahead(&self, rate: u32) -> usize {
        self.ahead.polls(rate, self.max_in_flight)
    }

    /// Adds a slot from a page of the schedule, of a group with this cadence.
    pub(crate) fn learn(&mut self, slot: SlotKey, stored: StoredDue, cadence: &Cadence, now: Now) {
        let following = Following { cadence, stretch: self.stretch.factor() };
        self.schedule.learn(slot, stored, stored.every(&following, now.time), now);
    }

    /// Ends a page of the schedule; the next one begins after the slot `next`.
    pub(crate) fn loaded(&mut self, next: Option<SlotKey>) {
        self.unsure_after = next;
    }

    /// Reports that a page of the schedule could not be read: polling waits for [`READ_AGAIN`].
    pub(crate) fn not_loaded(&mut self) {
        self.paged_since = None;
    }

    /// The slot after which the database may have slots that the schedule lacks.
    pub(crate) fn unsure_after(&self) -> Option<SlotKey> {
        self.unsure_after
    }

    /// The number of slots on the schedule.
    pub(crate) fn len(&self) -> usize {
        self.schedule.len()
    }

    /// How long the most overdue slot has been due.
    pub(crate) fn behind(&self, now: Now) -> Duration {
        Duration::from_micros(self.schedule.until_next(true, now).unwrap_or_default().min(0).unsigned_abs())
    }

    /// Adopts the stretch that an earlier poller has left.
    pub(crate) fn recall_stretch(&mut self, factor: f64) {
        self.stretch = Stretch::recalled(factor);
    }

    /// The factor by which all intervals are longer.
    pub(crate) fn stretch(&self) -> f64 {
        self.stretch.factor()
    }

    /// Whether it is time to adapt the stretch.
    pub(crate) fn is_stretch_due(&self, now: Now) -> bool {
        self.stretch.is_due(now.monotonic)
    }

    /// Adapts the stretch to what is due. Calls are `made` and `allowed` per second.
    pub(crate) fn adapt_stretch(&mut self, made: f64, allowed: u32, now: Now) {
        let allowed = allowed.into();
        let load = Load { demand: self.schedule.demand(), made, allowed, behind: self.behind(now) };
        self.stretch.step(&load, now.monotonic);
    }

    /// The failure by which the app is at fault. Returned once.
    pub(crate) fn take_fault(&mut self) -> Option<Failure> {
        self.fault.take()
    }

    /// Reports that the slots are read. Starts a poll for each one that may be polled. The others are postponed, or
    /// leave the schedule until they are requested again.
    pub(crate) fn start(&mut self, calls: &mut Calls, claimed: Claimed, mut slots: Vec<Slot>, now: Now) -> Round {
        let mut missing: HashSet<SlotKey> = claimed.slots.iter().copied().collect();
        let (mut polls, mut calling) = (Vec::new(), 0);
        if claimed.most == 1 {
            // A refused group is a worse witness than others.
            let is_refused =
                |slot: &Slot| slot.group_state == GroupState::Quarantined || calls.gate.holds(slot.key.group_key);
            slots.sort_by_key(is_refused);
        }
        for slot in slots {
            of(&slot).for_each(|slot| _ = missing.remove(&slot));
            match place(calls, &claimed, &slot, calling, now.monotonic) {
                Some(Place::Until(until)) => self.put_off(&claimed, &slot, until, now),
                Some(place) => {
                    calling += usize::from(!slot.messages.is_empty());
                    let is_trial = claimed.is_probe || place == Place::OnTrial;
                    let pass = if is_trial { Pass::Trial } else { Pass::None };
                    polls.push(calls.begin(slot, pass, now.monotonic));
                }
                None => of(&slot).for_each(|slot| self.schedule.forget(slot)),
            }
        }
        // Slots that no longer exist.
        missing.into_iter().for_each(|slot| self.schedule.forget(slot));
        Round { polls, wait: self.ends(calls, &claimed, calling, Duration::ZERO, now) }
    }

    /// Reports that the slots could not be read. If an answer is missing, some may have been split.
    pub(crate) fn not_read(&mut self, calls: &mut Calls, claimed: Claimed, is_unanswered: bool, now: Now) -> Round {
        if is_unanswered {
            self.unsure_after = Some(SlotKey::MIN);
        }
        claimed.slots.iter().for_each(|slot| self.schedule.release(*slot, now.time, now));
        self.probes.extend(&claimed.probes);
        Round { polls: vec![], wait: self.ends(calls, &claimed, 0, READ_AGAIN, now) }
    }

    /// Ends a round in which this number of polls will call. Returns the delay before the next one, at least `wait`.
    fn ends(&mut self, calls: &mut Calls, claimed: &Claimed, calling: usize, wait: Duration, now: Now) -> Duration {
        if !claimed.is_probe {
            if calling == 0 && claimed.most == 1 {
                calls.gate.has_not_called();
            }
            if !claimed.slots.is_empty() {
                self.ahead.took(now.monotonic.saturating_duration_since(claimed.since));
            }
            return wait;
        }
        if calling > 0 {
            return wait;
        }
        let is_anybody_due = self.schedule.until_next(claimed.failing_room > 0, now).is_some_and(|until| until <= 0);
        if is_anybody_due || !claimed.is_last_resort {
            calls.gate.probe_again(now.monotonic);
            return if claimed.slots.is_empty() { PROBE_ON } else { wait.max(PROBE_ON) };
        }
        self.fault = calls.gate.no_witness(now.monotonic).or(self.fault.take());
        self.until_next_due(claimed.failing_room, now)
    }

    /// Makes slots due again that were postponed for groups no longer held.
    fn bring_freed_forward(&mut self, calls: &mut Calls, now: Now) {
        for slot in calls.gate.take_freed().into_iter().filter_map(|group| self.put_off.remove(&group)).flatten() {
            self.schedule.sooner(slot, now.time, now);
        }
    }

    /// Number of additional polls of failing slots that may start.
    fn failing_room(&self, failing: usize) -> usize {
        failing::places(self.max_in_flight).saturating_sub(failing)
    }

    fn until_next_due(&self, failing_room: usize, now: Now) -> Duration {
        let most = if self.unsure_after.is_some() { 1_000 } else { 1_000_000 };
        let until_next = self.schedule.until_next(failing_room > 0, now);
        Duration::from_micros(until_next.unwrap_or(i64::MAX).clamp(1_000, most).unsigned_abs())
    }

    /// Returns a claimed slot as it was: a probe is still to be made.
    fn give_back(&mut self, claimed: &Claimed, slot: SlotKey, now: Now) {
        self.schedule.give_back(slot, now);
        if claimed.probes.contains(&slot) {
            self.probes.insert(slot);
        }
    }

    /// Returns a slot to the schedule: its group is held until then, or another slot is polled instead.
    fn put_off(&mut self, claimed: &Claimed, slot: &Slot, until: Instant, now: Now) {
        let wait = TimeDelta::from_std(until.saturating_duration_since(now.monotonic)).unwrap_or_default();
        for id in of(slot) {
            if wait.is_zero() {
                self.give_back(claimed, id, now);
            } else {
                self.put_off.entry(slot.key.group_key).or_default().insert(id);
                self.schedule.release(id, slot.next_poll_at.max(now.time + wait), now);
            }
        }
    }
}

/// A slot and the absorbed one.
pub(crate) fn of(slot: &Slot) -> impl Iterator<Item = SlotKey> + use<> {
    std::iter::once(slot.key).chain(slot.absorbs.as_ref().map(|other| other.key))
}

/// Whether a slot is polled now, after `calling` others that call; `None` if it leaves the schedule.
fn place(calls: &mut Calls, claimed: &Claimed, slot: &Slot, calling: usize, now: Instant) -> Option<Place> {
    let may_call = calling < claimed.most;
    match slot.group_state {
        // Nothing to ask: the slot has to be deleted.
        _ if slot.messages.is_empty() => Some(Place::Free),
        GroupState::Active if may_call => Some(calls.gate.place(slot.key.group_key, now)),
        GroupState::Active => Some(Place::Until(now)),
        GroupState::Quarantined => {
            calls.gate.is_quarantined(slot.key.group_key);
            let place = if may_call { Place::Free } else { Place::Until(now) };
            claimed.probes.contains(&slot.key).then_some(place)
        }
        GroupState::Stopped => None,
    }
}

fn until(again_at: Instant, now: Now) -> Duration {
    again_at.saturating_duration_since(now.monotonic).min(COME_ROUND)
}

#[cfg(test)]
mod tests;
