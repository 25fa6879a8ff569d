//! The slots that a round takes from the schedule.

use std::{collections::BTreeSet, time::Instant};

use crate::rules::{
    polling::{
        calls::Calls,
        schedule::{Now, Schedule},
    },
    slot::SlotKey,
};

/// Maximum number of slots considered as witnesses before any is due.
const WITNESSES: usize = 200;

/// Maximum number of due slots considered for a probe of the app.
const TRIED: usize = 40;

/// Slots taken from the schedule, and their purpose.
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

/// How many polls may start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Total number of polls.
    pub polls: usize,
    /// Maximum number of them that call.
    pub most: usize,
    /// Maximum number of them for failing slots.
    pub failing: usize,
}

impl Claimed {
    /// No slots, in a round that began at `since`.
    pub(super) fn none(since: Instant) -> Self {
        let (slots, probes) = (vec![], vec![]);
        Self { slots, probes, most: usize::MAX, is_probe: false, is_last_resort: false, failing_room: 0, since }
    }

    /// Takes slots from the schedule. At most half of them are `probes` of quarantined groups, so that many probes
    /// don't delay good groups. The other probes wait for their turn.
    pub(super) fn due(
        schedule: &mut Schedule,
        probes: &mut BTreeSet<SlotKey>,
        calls: &Calls,
        room: Room,
        now: Now,
    ) -> Self {
        // A slot that is in a poll is probed afterwards: that poll began before the quarantine and can't end it.
        let free = probes.iter().copied().filter(|slot| schedule.claim_unknown(*slot));
        let probed: Vec<SlotKey> = free.take(room.polls.div_ceil(2)).collect();
        probed.iter().for_each(|slot| _ = probes.remove(slot));
        let polls = room.polls - probed.len();
        // During an outage, the most overdue slots may all be of failing groups, while others are good.
        let due = match calls.brake.is_on() {
            true => schedule.claim_drawn(polls, fastrand::f64, now),
            false => schedule.claim_due(polls, room.failing, now),
        };
        let slots = probed.iter().copied().chain(due).collect();
        Self { slots, probes: probed, most: room.most, failing_room: room.failing, ..Self::none(now.monotonic) }
    }

    /// Takes slots for a probe of the app: of groups that aren't held, if there are some.
    pub(super) fn for_probe(schedule: &mut Schedule, calls: &mut Calls, failing_room: usize, now: Now) -> Self {
        let is_at_fault = calls.gate.fault().is_some();
        let witness = calls.gate.take_witness().filter(|slot| schedule.claim(*slot));
        let mut slots: Vec<SlotKey> = witness.into_iter().chain(schedule.claim_due(TRIED, failing_room, now)).collect();
        let looks_ahead = slots.is_empty() && !is_at_fault;
        if looks_ahead {
            // No other group is due, and a held group waits until a witness was asked.
            slots = schedule.claim_soonest(WITNESSES);
        }
        let is_last_resort = looks_ahead || is_at_fault;
        Self { slots, most: 1, is_probe: true, is_last_resort, failing_room, ..Self::none(now.monotonic) }
    }
}
