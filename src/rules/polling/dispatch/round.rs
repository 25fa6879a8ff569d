//! A round: what it depends on, what it requests, and its result.

use std::time::Duration;

use super::claimed::Claimed;
use crate::rules::polling::calls::PollInFlight;

/// The polls in flight, and whether others may start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conditions {
    /// Whether results can be stored and the lease is trusted.
    pub may_poll: bool,
    /// The present rate, in calls per second.
    pub rate: u32,
    /// Number of polls in flight.
    pub in_flight: usize,
    /// Number of those that wait for their first permit, without those of failing slots.
    pub waiting: usize,
    /// Number of those of failing slots.
    pub failing: usize,
}

/// What to do next in a round.
#[derive(Debug)]
pub(crate) enum Task {
    /// Read the page of the schedule that begins after [`unsure_after`](super::Dispatch::unsure_after).
    Load,
    /// Read the slots, as [`Contents`](super::Contents) asks, and start their polls.
    Read(Claimed),
    /// Nothing for this time, since the round is over.
    Wait(Duration),
}

/// The result of a round.
#[derive(Debug)]
pub(crate) struct Round {
    /// The polls to start.
    pub polls: Vec<PollInFlight>,
    /// Delay before the next round.
    pub wait: Duration,
}
