//! Whether the service answers at all. If not, a few calls at a time are let through until one is answered. Pure, given
//! `now`.
//!
//! The brake is applied when attempts of several slots in a row were not answered. From then on polls start at
//! [`TRIALS_PER_SECOND`], each of another slot, and no call is repeated. With the first answer, the rate doubles
//! twice a second while most calls are answered. If none is, it falls back to trials. At the full rate the brake is
//! released.
//!
//! It must never keep a slot: polls that may not call end, and their slots return to the schedule.

use std::time::{Duration, Instant};

use crate::rules::{
    protocol::{Attempt, Class, Failure},
    slot::SlotId,
};

/// Number of consecutive attempts without an answer …
const ATTEMPTS: usize = 10;

/// … and of different slots among them, or all slots if there are fewer, …
const SLOTS: usize = 5;

/// … but at least two: with a single slot, its messages may be at fault.
const SLOTS_AT_LEAST: usize = 2;

/// Minimum duration of this: failing groups may be due one after the other, between others that are answered.
const QUIET: Duration = Duration::from_secs(1);

/// Calls per second while none is answered.
const TRIALS_PER_SECOND: f64 = 1.0;

/// Maximum number of polls in flight while none is answered: calls that hang for some seconds leave no gap between
/// trials.
const TRIALS_IN_FLIGHT: usize = 10;

/// How often the rate changes.
const STEP: Duration = Duration::from_millis(500);

/// Calls due within this time may be made immediately, …
const CATCH_UP: Duration = Duration::from_millis(100);

/// … and while none may be made, the delay before the next check.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// An outage of the service, for reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outage {
    /// The latest failure.
    pub failure: Failure,
    /// Time without an answered call.
    pub lasts: Duration,
}

/// A change caused by an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum News {
    /// No call is answered.
    Begins(Failure),
    /// Calls are answered again, at the full rate.
    Ends,
}

/// The state of the brake.
#[derive(Debug)]
pub(crate) struct Brake {
    /// The full rate, in calls per second.
    limit: f64,
    /// Number of slots on the schedule.
    slots: usize,
    /// Attempts since the last answer.
    unanswered: usize,
    /// Different slots among these.
    failing: Vec<SlotId>,
    /// When the first of these attempts ended.
    since: Option<Instant>,
    /// When the latest answered attempt was sent.
    answered: Option<Instant>,
    /// Polls that were started while the brake was on.
    under_way: usize,
    on: Option<On>,
}

/// The brake is on.
#[derive(Debug)]
struct On {
    /// The latest failure.
    failure: Failure,
    /// Time since which there has been no answer.
    since: Instant,
    /// In calls per second.
    rate: f64,
    /// When another call may be made.
    next_at: Instant,
    /// Attempts of the present step.
    step: Step,
}

#[derive(Debug)]
struct Step {
    ends_at: Instant,
    answered: usize,
    failed: usize,
}

impl Step {
    fn new(now: Instant) -> Self {
        Self { ends_at: now + STEP, answered: 0, failed: 0 }
    }
}

impl Brake {
    /// The brake of an app with this limit, in calls per second.
    pub(crate) fn new(limit: u32) -> Self {
        let (slots, failing) = (0, Vec::with_capacity(SLOTS));
        let (unanswered, since, answered, under_way, on) = (0, None, None, 0, None);
        Self { limit: f64::from(limit), slots, unanswered, failing, since, answered, under_way, on }
    }

    /// Sets the number of slots.
    pub(crate) fn has_slots(&mut self, slots: usize) {
        self.slots = slots;
    }

    /// Whether calls are held back. Meanwhile no call is repeated.
    pub(crate) fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Time since which no call has been answered, and the reason. `None` if calls are answered.
    pub(crate) fn outage(&self, now: Instant) -> Option<Outage> {
        let on = self.on.as_ref().filter(|on| on.rate <= TRIALS_PER_SECOND)?;
        Some(Outage { failure: on.failure.clone(), lasts: now.saturating_duration_since(on.since) })
    }

    /// Calls per second let through, if the brake is on.
    pub(crate) fn rate(&self) -> Option<u32> {
        self.on.as_ref().map(|on| on.rate as u32)
    }

    /// Whether a poll in flight may make its next call now: it has its place already.
    ///
    /// # Errors
    /// With the earliest time for it.
    pub(crate) fn next_call(&self, now: Instant) -> Result<(), Instant> {
        self.on.as_ref().filter(|on| now < on.next_at).map_or(Ok(()), |on| Err(on.next_at))
    }

    /// The number of polls that may start now.
    ///
    /// # Errors
    /// If there is none, with the time of the next check.
    pub(crate) fn room(&self, now: Instant) -> Result<usize, Instant> {
        self.next_call(now)?;
        let Some(on) = &self.on else { return Ok(usize::MAX) };
        let free = TRIALS_IN_FLIGHT.max(on.rate as usize).saturating_sub(self.under_way);
        let due = (now - on.next_at.max(now.checked_sub(CATCH_UP).unwrap_or(now))).as_secs_f64() * on.rate;
        match free.min(1 + due as usize) {
            0 => Err(now + LOOK_AGAIN),
            room => Ok(room),
        }
    }

    /// A call is made in this room.
    pub(crate) fn calls(&mut self, now: Instant) {
        if let Some(on) = &mut self.on {
            let from = on.next_at.max(now.checked_sub(CATCH_UP).unwrap_or(now));
            on.next_at = from + Duration::from_secs_f64(1.0 / on.rate);
        }
    }

    /// A poll is started in this room.
    pub(crate) fn starts(&mut self, now: Instant) {
        self.calls(now);
        self.under_way += 1;
    }

    /// A poll that was started while the brake was on has ended.
    pub(crate) fn ended(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Adds the outcome of an attempt sent at `sent`.
    pub(crate) fn note(&mut self, slot: SlotId, attempt: &Attempt, sent: Instant, now: Instant) -> Option<News> {
        match &attempt.outcome {
            Err(failure) if failure.is_passing() => self.failed(slot, failure, sent, now),
            // It only says that the service is overloaded.
            Err(failure) if failure.class == Class::SlowDown => None,
            _ => self.was_answered(sent, now),
        }
    }

    fn failed(&mut self, slot: SlotId, failure: &Failure, sent: Instant, now: Instant) -> Option<News> {
        // The service has answered a later call already.
        if self.answered.is_some_and(|answered| sent < answered) {
            return None;
        }
        if let Some(on) = &mut self.on {
            on.failure = failure.clone();
            on.step.failed += 1;
            self.steps(now);
            return None;
        }
        self.unanswered += 1;
        let since = *self.since.get_or_insert(now);
        if self.failing.len() < SLOTS && !self.failing.contains(&slot) {
            self.failing.push(slot);
        }
        let enough = SLOTS.min(self.slots.max(SLOTS_AT_LEAST));
        let is_short = now.saturating_duration_since(since) < QUIET;
        if self.unanswered < ATTEMPTS || self.failing.len() < enough || is_short || self.limit <= TRIALS_PER_SECOND {
            return None;
        }
        let (failure, rate, next_at, step) = (failure.clone(), TRIALS_PER_SECOND, now, Step::new(now));
        self.on = Some(On { failure: failure.clone(), since, rate, next_at, step });
        Some(News::Begins(failure))
    }

    fn was_answered(&mut self, sent: Instant, now: Instant) -> Option<News> {
        self.answered = self.answered.max(Some(sent));
        (self.unanswered, self.since) = (0, None);
        self.failing.clear();
        let on = self.on.as_mut()?;
        if on.rate <= TRIALS_PER_SECOND && on.step.answered == 0 {
            // The first answer: the rate doubles immediately.
            (on.step, on.next_at) = (Step { ends_at: now, ..Step::new(now) }, now);
        }
        on.step.answered += 1;
        self.steps(now)
    }

    /// Changes the rate if it is time.
    fn steps(&mut self, now: Instant) -> Option<News> {
        let on = self.on.as_mut().filter(|on| now >= on.step.ends_at)?;
        let Step { answered, failed, .. } = std::mem::replace(&mut on.step, Step::new(now));
        on.rate = match (answered, failed) {
            (0, _) => TRIALS_PER_SECOND,
            _ if answered > failed => on.rate * 2.0,
            _ => (on.rate / 2.0).max(2.0 * TRIALS_PER_SECOND),
        };
        if on.rate < self.limit {
            return None;
        }
        self.on = None;
        Some(News::Ends)
    }
}

#[cfg(test)]
mod tests;
