//! The poller's public status.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;

use super::call::Caller;
use crate::{
    clock,
    config::Polling,
    rules::{protocol::Failure, recording::KnownLimit, slot::GroupKey},
    text::duration,
};

/// Maximum number of held groups reported by name.
const HELD_SHOWN: usize = 100;

/// A group that is not asked for now, since it was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HeldGroup {
    /// Its key in `watched_groups`.
    pub group_key: GroupKey,
    /// The code of the refusal.
    pub code: Option<i64>,
    /// The service's text.
    pub info: String,
    /// Seconds until it is asked again at the earliest.
    pub again_in_seconds: u64,
}

/// The poller's public status.
#[derive(Debug)]
pub struct PollerStatus {
    caller: Arc<Caller>,
    limit: u32,
    pub(super) max_in_flight: usize,
    pub(super) in_flight: AtomicUsize,
    pub(super) waiting: AtomicUsize,
    /// Maximum number of waiting polls.
    pub(super) ahead: AtomicUsize,
    /// Number of polls in flight of failing slots.
    pub(super) failing: AtomicUsize,
    pub(super) slots: AtomicUsize,
    /// The bits of the factor.
    stretch: AtomicU64,
    pub(super) waiting_to_be_stored: AtomicUsize,
    /// In microseconds.
    behind: AtomicU64,
}

impl PollerStatus {
    pub(super) fn new(caller: Arc<Caller>, polling: &Polling) -> Self {
        Self {
            caller,
            limit: polling.max_calls_per_second,
            max_in_flight: polling.max_in_flight,
            in_flight: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            ahead: AtomicUsize::new(0),
            failing: AtomicUsize::new(0),
            slots: AtomicUsize::new(0),
            stretch: AtomicU64::new(1.0_f64.to_bits()),
            waiting_to_be_stored: AtomicUsize::new(0),
            behind: AtomicU64::new(0),
        }
    }

    /// Why no calls are made, with the remedy, if the whole app is at fault.
    pub fn fault(&self) -> Option<String> {
        self.caller.calls().gate.fault().map(|failure| failure.of_app(self.caller.clock.doubt()))
    }

    /// Whether the service has accepted or refused the app's signature since polling began.
    pub fn is_judged(&self) -> bool {
        self.caller.calls().gate.signature_is_known()
    }

    /// Why calls are paused, while it is not known whether the app or single groups are at fault.
    pub fn doubt(&self) -> Option<String> {
        let calls = self.caller.calls();
        let failure = calls.gate.doubted_for().filter(|_| calls.gate.fault().is_none())?;
        let code = failure.code.map_or_else(String::new, |code| format!(" with code {code}"));
        Some(format!("a call was refused{code}: {}; asking other groups whether the app is at fault", failure.info))
    }

    /// Why the service counts as down, if no calls are answered.
    pub fn outage(&self) -> Option<String> {
        let outage = self.caller.calls().brake.outage(clock::uptime())?;
        Some(format!("{}, for {}", outage.failure.of_service(), duration::roughly(outage.lasts)))
    }

    /// The number of held groups, and the first of them in the order of their keys. They were refused, and either it
    /// isn't known yet whether the group or the app is at fault, or the group's quarantine can't be stored.
    pub fn held(&self) -> (usize, Vec<HeldGroup>) {
        let (calls, now) = (self.caller.calls(), clock::uptime());
        let held = |(group_key, failure, again_at): (GroupKey, &Failure, Instant)| HeldGroup {
            group_key,
            code: failure.code,
            info: failure.info.clone(),
            again_in_seconds: again_at.saturating_duration_since(now).as_secs(),
        };
        let mut groups: Vec<HeldGroup> = calls.gate.held().map(held).collect();
        groups.sort_unstable_by_key(|group| group.group_key);
        let count = groups.len();
        groups.truncate(HELD_SHOWN);
        (count, groups)
    }

    /// Time for which the most overdue poll that has not started has been due.
    pub fn behind(&self) -> Duration {
        Duration::from_micros(self.behind.load(Ordering::Relaxed))
    }

    pub(super) fn set_behind(&self, behind: Duration) {
        self.behind.store(u64::try_from(behind.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The factor by which all intervals are longer while more is due than the limit allows; 1 if everything fits.
    pub fn stretch(&self) -> f64 {
        f64::from_bits(self.stretch.load(Ordering::Relaxed))
    }

    pub(super) fn set_stretch(&self, factor: f64) {
        self.stretch.store(factor.to_bits(), Ordering::Relaxed);
    }

    /// The number of calls on the schedule.
    pub fn slots(&self) -> usize {
        self.slots.load(Ordering::Relaxed)
    }

    /// The number of polls whose results wait to be stored.
    pub fn waiting_to_be_stored(&self) -> usize {
        self.waiting_to_be_stored.load(Ordering::Relaxed)
    }

    /// Maximum number of calls in any second.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// Maximum number of messages per call, lower than configured if the service accepts fewer.
    pub fn batch_size(&self) -> usize {
        self.caller.calls().limit.size()
    }

    /// The service's batch limit, if it is known to be less than a call asked for.
    pub(super) fn known_limit(&self) -> Option<KnownLimit> {
        self.caller.calls().limit.known()
    }

    /// Maximum number of messages of a slot.
    pub(super) fn slot_size(&self) -> usize {
        self.caller.calls().limit.slot_size(clock::uptime())
    }

    /// The number of polls in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The current rate, in calls per second.
    pub fn rate(&self) -> u32 {
        let braked = self.caller.calls().brake.rate().unwrap_or(u32::MAX);
        self.caller.pacing.rate().min(braked)
    }
}
