//! What the rest of the process may know about the poller.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{PollerSettings, call::Caller};
use crate::{chat::Failure, clock, recording::KnownLimit, slot::GroupKey, span};

/// Maximum number of held groups that are told by name.
const HELD_SHOWN: usize = 100;

/// A group that isn't asked for now, since it was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldGroup {
    /// Its key in `watched_groups`.
    pub group_key: GroupKey,
    /// The code with which it was refused.
    pub code: Option<i64>,
    /// What the service said.
    pub info: String,
    /// When it is asked again at the earliest, in seconds.
    pub again_in_seconds: u64,
}

/// What the rest of the process may know about the poller.
#[derive(Debug)]
pub struct PollerStatus {
    caller: Arc<Caller>,
    limit: u32,
    pub(super) max_in_flight: usize,
    pub(super) in_flight: AtomicUsize,
    pub(super) waiting: AtomicUsize,
    /// Maximum number of those that wait.
    pub(super) ahead: AtomicUsize,
    /// How many of those in flight are polls of slots that fail.
    pub(super) failing: AtomicUsize,
    pub(super) slots: AtomicUsize,
    pub(super) waiting_to_be_stored: AtomicUsize,
    /// In microseconds.
    pub(super) behind: AtomicU64,
}

impl PollerStatus {
    pub(super) fn new(caller: Arc<Caller>, settings: &PollerSettings) -> Self {
        Self {
            caller,
            limit: settings.max_calls_per_second,
            max_in_flight: settings.max_in_flight,
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            ahead: AtomicUsize::new(0),
            failing: AtomicUsize::new(0),
            slots: AtomicUsize::new(0),
            waiting_to_be_stored: AtomicUsize::new(0),
            behind: AtomicU64::new(0),
        }
    }

    /// Why no calls are made, if a fault of the whole app stopped them, and what helps.
    pub fn fault(&self) -> Option<String> {
        self.caller.gate().fault().map(|failure| failure.of_app(self.caller.clock.doubt()))
    }

    /// Why calls wait, if it isn't known yet who is to blame for a refusal: the app or single groups.
    pub fn doubt(&self) -> Option<String> {
        let gate = self.caller.gate();
        let failure = gate.doubted_for().filter(|_| gate.fault().is_none())?;
        let code = failure.code.map_or_else(String::new, |code| format!(" with code {code}"));
        Some(format!(
            "a call was refused{code}: {}, and other groups are asked first whether the app is to blame",
            failure.info
        ))
    }

    /// What is wrong if the service answers no call.
    pub fn outage(&self) -> Option<String> {
        let outage = self.caller.brake().outage(clock::uptime())?;
        Some(format!("{}, for {}", outage.failure.of_service(), span::roughly(outage.lasts)))
    }

    /// How many groups are held: they were refused, and it isn't known yet whether the group or the app is to blame, or the
    /// group's quarantine can't be stored. And the first of them, in the order of their keys.
    pub fn held(&self) -> (usize, Vec<HeldGroup>) {
        let (gate, now) = (self.caller.gate(), clock::uptime());
        let held = |(group_key, failure, again_at): (GroupKey, &Failure, Instant)| HeldGroup {
            group_key,
            code: failure.code,
            info: failure.info.clone(),
            again_in_seconds: again_at.saturating_duration_since(now).as_secs(),
        };
        let mut groups: Vec<HeldGroup> = gate.held().map(held).collect();
        groups.sort_unstable_by_key(|group| group.group_key);
        let count = groups.len();
        groups.truncate(HELD_SHOWN);
        (count, groups)
    }

    /// How long the most overdue of the polls that have not begun has been due.
    pub fn behind(&self) -> Duration {
        Duration::from_micros(self.behind.load(Ordering::Relaxed))
    }

    /// How many calls are on the schedule.
    pub fn slots(&self) -> usize {
        self.slots.load(Ordering::Relaxed)
    }

    /// How many polls wait for what they brought back to be stored.
    pub fn waiting_to_be_stored(&self) -> usize {
        self.waiting_to_be_stored.load(Ordering::Relaxed)
    }

    /// The most calls that are allowed in any second.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Maximum number of messages that a call asks for: fewer than configured if the service takes fewer.
    pub fn batch_size(&self) -> usize {
        self.caller.limit().size()
    }

    /// What the service takes in a call, if that is known to be less than some call asked for.
    pub(super) fn known_limit(&self) -> Option<KnownLimit> {
        self.caller.limit().known()
    }

    /// Maximum number of messages of a slot.
    pub(super) fn slot_size(&self) -> usize {
        self.caller.limit().slot_size(clock::uptime())
    }

    /// How many polls are under way.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The calls per second that are allowed just now.
    pub fn rate(&self) -> u32 {
        let braked = self.caller.brake().rate().unwrap_or(u32::MAX);
        self.caller.pacing.rate().min(braked)
    }
}
