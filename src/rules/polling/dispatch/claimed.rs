//! Slots that a round takes from the schedule.

use std::time::Instant;

use super::Dispatch;
use crate::rules::{
    polling::{calls::Calls, schedule::Now},
    slot::SlotKey,
};

/// Maximum number of slots considered as witnesses before any is due.
const WITNESSES: usize = 200;

/// Maximum number of due slots considered for a probe of the app.
const TRIED: usize = 40;

/// Slots taken from the schedule, and for what.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// All of them, also those added while they are read.
    pub slots: Vec<SlotKey>,
    /// The probes of quarantined groups among them.
    pub(super) probes: Vec<SlotKey>,
    /// Maximum number of polls that call.
    pub(super) most: usize,
    /// Whether one of them is polled as a probe of the app.
    pub(super) is_probe: bool,
    /// Whether there is no other witness if none of them can be polled.
    pub(super) is_last_resort: bool,
    /// Number of failing slots that could have been taken.
    pub(super) failing_room: usize,
    /// When the round began.
    pub(super) since: Instant,
}

impl Claimed {
    /// No slots, in a round that began at `since`.
    pub(super) fn none(since: Instant) -> Self {
        let (slots, probes) = (vec![], vec![]);
        Self { slots, probes, most: usize::MAX, is_probe: false, is_last_resort: false, failing_room: 0, since }
    }
}

impl Dispatch {
    /// Takes up to `room` slots from the schedule, of which at most `most` call. At most half of them are probes of
    /// quarantined groups, so that many of them don't delay good groups. The others wait for their turn.
    pub(super) fn claim(&mut self, calls: &Calls, room: usize, most: usize, failing_room: usize, now: Now) -> Claimed {
        // A slot in another poll is probed after that: the poll began before the quarantine, and can't end it.
        let free = self.probes.iter().copied().filter(|slot| self.schedule.claim_unknown(*slot));
        let probes: Vec<SlotKey> = free.take(room.div_ceil(2)).collect();
        probes.iter().for_each(|slot| _ = self.probes.remove(slot));
        let room = room - probes.len();
        // During an outage, the most overdue slots may all be of failing groups, while others are good.
        let due = match calls.brake.is_on() {
            true => self.schedule.claim_drawn(room, fastrand::f64, now),
            false => self.schedule.claim_due(room, failing_room, now),
        };
        Claimed { slots: probes.iter().copied().chain(due).collect(), probes, most, ..Claimed::none(now.monotonic) }
    }

    /// Takes slots for a probe of the app: of groups that aren't held, if there are some.
    pub(super) fn claim_for_probe(&mut self, calls: &mut Calls, failing_room: usize, now: Now) -> Claimed {
        let is_at_fault = calls.gate.fault().is_some();
        let witness = calls.gate.take_witness().filter(|slot| self.schedule.claim(*slot));
        let mut slots: Vec<SlotKey> =
            witness.into_iter().chain(self.schedule.claim_due(TRIED, failing_room, now)).collect();
        let looks_ahead = slots.is_empty() && !is_at_fault;
        if looks_ahead {
            // No other group is due, and a held group waits until a witness was asked.
            slots = self.schedule.claim_soonest(WITNESSES);
        }
        Claimed {
            slots,
            most: 1,
            is_probe: true,
            is_last_resort: looks_ahead || is_at_fault,
            ..Claimed::none(now.monotonic)
        }
    }
}
