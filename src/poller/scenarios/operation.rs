//! The way to the database and back: slow, without effect or without an answer, as the faults of the moment have it.

use std::collections::BTreeSet;

use super::{
    daemon::Daemon,
    database::{Fence, Numbered, wall},
    plan::{Fault, LEASE_PATIENCE, MILLISECOND, Micros, PATIENCE, SECOND},
    world::{Address, Doing, Event, World},
};
use crate::{
    domain::Timestamp,
    lease::LeaseRow,
    slot::{Slot, SlotKey, StoredDue},
    store::Committed,
};

/// One operation on the database.
#[derive(Debug, Clone)]
pub(super) enum Request {
    Look,
    Take(Option<LeaseRow>),
    Renew,
    Release,
    Load(SlotKey),
    Read(Vec<SlotKey>, bool),
    Slot,
    Flush(Vec<Numbered>),
    ReadAgain(Vec<SlotKey>),
}

/// What the slotter has found.
#[derive(Debug, Clone)]
pub(super) struct Slotted {
    pub changed: Vec<(SlotKey, Timestamp)>,
    pub probes: Vec<SlotKey>,
    pub joined: Vec<(SlotKey, Timestamp)>,
}

/// What the database says to it.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    Row(Option<LeaseRow>),
    Taken(Option<i64>),
    IsHeld(bool),
    Released,
    Schedule(Vec<(SlotKey, StoredDue)>, Option<SlotKey>),
    Slotted(Slotted),
    Slots(Vec<Slot>),
    /// What became of the slots, and the polls of which nothing was written.
    Committed(Vec<Committed>, BTreeSet<u64>),
    LeaseLost,
    Failed,
}

impl World {
    /// Asks the database for something; the answer comes as [`Doing::Told`].
    pub fn request(&mut self, daemon: usize, request: Request) {
        let (from, fence) = (self.address(daemon), self.daemons[daemon].fence());
        let patience = match request {
            Request::Look | Request::Take(_) | Request::Renew | Request::Release => LEASE_PATIENCE,
            _ => PATIENCE,
        };
        let (now, asked_at) = (self.now, self.now);
        let fails = Doing::Told(request.clone(), Reply::Failed, asked_at);
        let way = self.database_way();
        match self.database_fault() {
            Some(Fault::DatabaseDown) => {
                self.promises.asked_in_vain(daemon, now);
                self.at(now + way, Event::At(from, fails));
            }
            Some(Fault::DatabaseHangs) => self.at(now + patience, Event::At(from, fails)),
            Some(Fault::Unanswered) if self.random.bool() => {
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
        let (now, batch_size) = (wall(self.now, self.database.clock_offset), self.plan.batch_size);
        let database = &mut self.database;
        let is_held = fence.is_some_and(|fence| database.holds(fence));
        match request {
            Request::Look => Reply::Row(database.look()),
            Request::Take(seen) => {
                Reply::Taken(database.take(&Daemon::name(from.daemon, from.life), seen.as_ref(), now))
            }
            Request::Renew => Reply::IsHeld(fence.is_some_and(|fence| database.renew(fence, now))),
            Request::Release => {
                fence.into_iter().for_each(|fence| database.release(fence, now));
                Reply::Released
            }
            Request::Load(after) => {
                let (slots, next) = database.load(*after);
                Reply::Schedule(slots, next)
            }
            Request::Read(slots, _) => Reply::Slots(database.read(slots)),
            Request::Slot | Request::Flush(..) if !is_held => Reply::LeaseLost,
            Request::Slot => {
                let now = wall(self.now, self.daemons[from.daemon].wall_offset);
                let (changed, probes) = database.changed_and_to_probe(now);
                let joined = database.slot_new_messages(batch_size, &self.cadences, now);
                Reply::Slotted(Slotted { changed, probes, joined })
            }
            Request::ReadAgain(slots) => Reply::Slots(database.read(slots)),
            Request::Flush(polls) => {
                let (committed, changed) = database.flush(polls);
                Reply::Committed(committed, changed)
            }
        }
    }

    /// Whether the database fails, or has until just now: what was asked meanwhile still waits in vain.
    pub fn database_is_unsteady(&self) -> bool {
        let is_on = |(at, fault, span): &(Micros, Fault, Micros)| {
            fault.is_of_database() && (*at..at + span + LEASE_PATIENCE + 2 * SECOND).contains(&self.now)
        };
        self.plan.faults.iter().any(is_on)
    }
}
