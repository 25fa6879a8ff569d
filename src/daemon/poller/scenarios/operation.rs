//! Operations on the database: slow, without effect or without an answer, according to the present faults.

use std::collections::{BTreeSet, HashSet};

use chrono::TimeDelta;

use super::{
    daemon::Daemon,
    database::{Fence, Numbered, wall},
    flaw::Flaw,
    plan::{Fault, LEASE_PATIENCE, MILLISECOND, Micros, PATIENCE, SECOND},
    world::{Address, Doing, Event, World},
};
use crate::{
    domain::Timestamp,
    rules::{
        cadence::Next,
        lease::LeaseRow,
        slot::{GroupKey, Slot, SlotKey, StoredDue},
        writing::{Committed, Present},
    },
};

/// An operation on the database.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Look,
    Take(Option<LeaseRow>),
    Renew,
    Release,
    Load(SlotKey),
    Read(Vec<SlotKey>),
    Split(SlotKey, usize),
    FindNeighbours(Vec<SlotKey>, usize),
    Slot,
    Flush(Vec<Numbered>),
    SetAside(Box<Numbered>, TimeDelta),
    ReadAgain(Vec<SlotKey>, BTreeSet<GroupKey>),
}

/// What the slotter has found.
#[derive(Debug, Clone)]
pub(super) struct Slotted {
    pub changed: Vec<(SlotKey, Next)>,
    pub probes: Vec<SlotKey>,
    pub joined: Vec<(SlotKey, Next)>,
}

/// The database's answer.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Row(Option<LeaseRow>, Timestamp),
    Taken(Option<i64>),
    IsHeld(bool, Timestamp),
    Released,
    /// A page of the schedule, where the next one begins, and the stored stretch.
    Schedule(Vec<(SlotKey, StoredDue)>, Option<SlotKey>, f64),
    Slotted(Slotted),
    Slots(Vec<Slot>),
    /// The created slots with their due times.
    Split(Vec<(SlotKey, Timestamp)>),
    Neighbours(Vec<(SlotKey, SlotKey)>),
    /// The results for the slots, and the changed slots, of whose polls nothing was written.
    Committed(Vec<Committed>, HashSet<SlotKey>),
    SetAside(Vec<Committed>),
    Present(Present),
    /// Another session has locked one of the rows.
    Locked,
    /// The tables refuse one of the rows.
    Refused,
    LeaseLost,
    TimedOut,
    /// It may have been done.
    Unanswered,
    Failed,
}

impl World {
    /// Sends a request to the database; the answer comes as [`Doing::Told`].
    pub fn request(&mut self, daemon: usize, request: Request) {
        let (from, fence) = (self.address(daemon), self.daemons[daemon].fence());
        let patience = match request {
            Request::Look | Request::Take(_) | Request::Renew | Request::Release => LEASE_PATIENCE,
            _ => PATIENCE,
        };
        let (now, asked_at) = (self.now, self.now);
        let fails = |why| Doing::Told(request.clone(), why, asked_at);
        let way = self.database_way();
        match self.database_fault() {
            Some(Fault::DatabaseDown) => {
                self.promises.asked_in_vain(daemon, now);
                self.at(now + way, Event::At(from, fails(Reply::Failed)));
            }
            Some(Fault::DatabaseHangs) => self.at(now + patience, Event::At(from, fails(Reply::TimedOut))),
            Some(Fault::Unanswered) if self.random.bool() => {
                let fails = fails(Reply::Unanswered);
                self.at(now + way, Event::AtDatabase(from, request, fence, asked_at, false));
                let fails_at = if self.random.bool() { now + patience } else { now + 2 * way };
                self.at(fails_at, Event::At(from, fails));
            }
            _ => self.at(now + way, Event::AtDatabase(from, request, fence, asked_at, true)),
        }
    }

    pub fn database_fault(&self) -> Option<Fault> {
        self.faults().find(|fault| fault.is_of_database())
    }

    pub fn database_way(&mut self) -> Micros {
        let longest = if self.database_fault() == Some(Fault::DatabaseSlow) { 500 * MILLISECOND } else { 3_000 };
        self.random.u64(200..longest)
    }

    pub fn at_database(&mut self, from: Address, request: &Request, fence: Option<&Fence>) -> Reply {
        let now = wall(self.now, self.database.clock_offset);
        let database = &mut self.database;
        let is_held = fence.is_some_and(|fence| database.holds(fence));
        match request {
            Request::Look => Reply::Row(database.look(), now),
            Request::Take(seen) => {
                Reply::Taken(database.take(&Daemon::name(from.daemon, from.life), seen.as_ref(), now))
            }
            Request::Renew => Reply::IsHeld(fence.is_some_and(|fence| database.renew(fence, now)), now),
            Request::Release => {
                fence.into_iter().for_each(|fence| database.release(fence, now));
                Reply::Released
            }
            Request::Load(after) => {
                let (slots, next) = database.load(*after);
                Reply::Schedule(slots, next, database.stretch)
            }
            Request::Read(slots) => Reply::Slots(database.read(slots)),
            Request::FindNeighbours(slots, size) => Reply::Neighbours(database.neighbours(slots, *size)),
            Request::Slot | Request::Split(..) | Request::Flush(_) | Request::SetAside(..) if !is_held => {
                Reply::LeaseLost
            }
            Request::Split(slot, size) if !self.is_locked(slot.group_key) => {
                Reply::Split(self.database.split(*slot, *size))
            }
            Request::Split(..) => Reply::Split(vec![]),
            Request::Slot => {
                let (changed, probes) = self.database.changed_and_to_probe(&self.cadences, now);
                let (now, size) = (self.clocks(from.daemon).time, self.slot_size(from.daemon));
                let stretch = self.stretch(from.daemon);
                let joined = self.database.slot_new_messages(size, &self.cadences, stretch, now);
                Reply::Slotted(Slotted { changed, probes, joined })
            }
            Request::ReadAgain(slots, groups) => Reply::Present(Present {
                slots: self.database.read(slots),
                of_groups: groups.iter().flat_map(|group| self.database.slots_of_group(*group)).collect(),
            }),
            Request::Flush(polls) => self.at_flush(polls),
            Request::SetAside(poll, _) if self.is_locked(poll.kept.recording.slot.group_key) => Reply::Locked,
            Request::SetAside(poll, pause) => Reply::SetAside(self.sets_aside(from.daemon, poll, *pause)),
        }
    }

    fn at_flush(&mut self, polls: &[Numbered]) -> Reply {
        let groups = || polls.iter().map(|poll| poll.kept.recording.slot.group_key);
        if groups().any(|group| self.is_locked(group)) {
            return Reply::Locked;
        }
        if groups().any(|group| self.is_unstorable(group)) {
            return Reply::Refused;
        }
        let (committed, changed) = self.database.flush(polls);
        Reply::Committed(committed, changed)
    }

    /// Whether the open transaction of another session holds rows of the group.
    fn is_locked(&self, group: GroupKey) -> bool {
        self.faults().any(|fault| fault == Fault::Locked(group))
    }

    pub fn is_unstorable(&self, group: GroupKey) -> bool {
        self.plan.flaws.iter().any(|(from, flaw)| *from <= self.now && *flaw == Flaw::Unstorable(group))
    }

    /// As in `store::set_aside`, for a slot whose row is refused: it waits as after failed polls, as far as the daemon
    /// knows.
    fn sets_aside(&mut self, daemon: usize, poll: &Numbered, pause: TimeDelta) -> Vec<Committed> {
        // Refused rows are looked up like stored ones, so each exists once however often it is tried.
        self.database.stored.insert(poll.id, 1);
        let due = poll.kept.recording.next_poll_at.max(self.clocks(daemon).time + pause);
        poll.kept.slots().map(|slot| Committed::PutOff(slot, due)).collect()
    }

    /// Whether the database fails, or did until just now: earlier requests still wait in vain.
    pub fn database_is_unsteady(&self) -> bool {
        let is_on = |(at, fault, span): &(Micros, Fault, Micros)| {
            fault.is_of_database() && (*at..at + span + LEASE_PATIENCE + 2 * SECOND).contains(&self.now)
        };
        self.plan.faults.iter().any(is_on)
    }
}
