//! Whether the service answers at all. If it doesn't, calls are let through a few at a time until one is answered. Pure, fed
//! with `now`.
//!
//! The brake goes on when attempts of several slots in a row weren't answered. From then on polls are started at
//! [`TRIALS_PER_SECOND`], each of another slot, and none repeats a call. With the first answer the rate is doubled twice a
//! second, as long as most calls are answered. If none is, it falls back to trials. At the full rate the brake is off.
//!
//! It must never keep a slot: polls that may not call end, and their slots go back to the schedule.

use std::time::{Duration, Instant};

use crate::{
    chat::{Attempt, Class, Failure},
    slot::SlotId,
};

/// Number of attempts in a row without an answer …
const ATTEMPTS: usize = 10;

/// … and of different slots among them, or all slots if there are fewer, …
const SLOTS: usize = 5;

/// … but two at least: if there is one slot only, its messages may be to blame.
const SLOTS_AT_LEAST: usize = 2;

/// They have to go on for this long: groups that fail may be due one after the other, between others that are answered.
const QUIET: Duration = Duration::from_secs(1);

/// Number of calls a second while none is answered.
const TRIALS_PER_SECOND: f64 = 1.0;

/// Maximum number of polls under way while none is answered: calls that hang for some seconds leave no gap between trials.
const TRIALS_IN_FLIGHT: usize = 10;

/// The rate is changed this often.
const STEP: Duration = Duration::from_millis(500);

/// What was due within this time may be started at once, …
const CATCH_UP: Duration = Duration::from_millis(100);

/// … and while no more may be started, it is looked again after this time.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// That the service answers no call, for whoever is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outage {
    /// The latest failure.
    pub failure: Failure,
    /// How long no call was answered.
    pub lasts: Duration,
}

/// What has changed with an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// No call is answered.
    Begins(Failure),
    /// Calls are answered again, and the rate is the full one.
    Ends,
}

/// The state of the brake.
#[derive(Debug)]
pub(super) struct Brake {
    /// The full rate, in calls a second.
    limit: f64,
    /// Number of slots on the schedule.
    slots: usize,
    /// Attempts since the last answer.
    unanswered: usize,
    /// Different slots of these.
    failing: Vec<SlotId>,
    /// When the first of these attempts ended.
    since: Option<Instant>,
    /// When the latest attempt was sent that was answered.
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
    /// Since when there has been no answer.
    since: Instant,
    /// In calls a second.
    rate: f64,
    /// When there may be another call.
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
    /// A brake of an app with this limit of calls a second.
    pub(super) fn new(limit: u32) -> Self {
        let (slots, failing) = (0, Vec::with_capacity(SLOTS));
        let (unanswered, since, answered, under_way, on) = (0, None, None, 0, None);
        Self { limit: f64::from(limit), slots, unanswered, failing, since, answered, under_way, on }
    }

    /// Takes note of how many slots there are.
    pub(super) fn has_slots(&mut self, slots: usize) {
        self.slots = slots;
    }

    /// Whether calls are held back. While they are, no call is repeated.
    pub(super) fn is_on(&self) -> bool {
        self.on.is_some()
    }

    /// Since when no call has been answered, and why. `None` if calls are answered.
    pub(super) fn outage(&self, now: Instant) -> Option<Outage> {
        let on = self.on.as_ref().filter(|on| on.rate <= TRIALS_PER_SECOND)?;
        Some(Outage { failure: on.failure.clone(), lasts: now.saturating_duration_since(on.since) })
    }

    /// Calls a second that are let through, if the brake is on.
    pub(super) fn rate(&self) -> Option<u32> {
        self.on.as_ref().map(|on| on.rate as u32)
    }

    /// Whether a poll under way may make its next call now: it has its place already.
    ///
    /// # Errors
    /// With the time from which it may.
    pub(super) fn next_call(&self, now: Instant) -> Result<(), Instant> {
        self.on.as_ref().filter(|on| now < on.next_at).map_or(Ok(()), |on| Err(on.next_at))
    }

    /// How many polls may be started now.
    ///
    /// # Errors
    /// If there may be none, with the time at which to look again.
    pub(super) fn room(&self, now: Instant) -> Result<usize, Instant> {
        self.next_call(now)?;
        let Some(on) = &self.on else { return Ok(usize::MAX) };
        let free = TRIALS_IN_FLIGHT.max(on.rate as usize).saturating_sub(self.under_way);
        let due = (now - on.next_at.max(now.checked_sub(CATCH_UP).unwrap_or(now))).as_secs_f64() * on.rate;
        match free.min(1 + due as usize) {
            0 => Err(now + LOOK_AGAIN),
            room => Ok(room),
        }
    }

    /// A call is made that there was room for.
    pub(super) fn calls(&mut self, now: Instant) {
        if let Some(on) = &mut self.on {
            let from = on.next_at.max(now.checked_sub(CATCH_UP).unwrap_or(now));
            on.next_at = from + Duration::from_secs_f64(1.0 / on.rate);
        }
    }

    /// A poll is started that there was room for.
    pub(super) fn starts(&mut self, now: Instant) {
        self.calls(now);
        self.under_way += 1;
    }

    /// A poll that was started while the brake was on has ended.
    pub(super) fn ended(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Takes in the outcome of an attempt that was sent at `sent`.
    pub(super) fn note(&mut self, slot: SlotId, attempt: &Attempt, sent: Instant, now: Instant) -> Option<News> {
        match &attempt.outcome {
            Err(failure) if failure.is_passing() => self.failed(slot, failure, sent, now),
            // It says nothing of the service but that it has too much to do.
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
            // The first answer: the rate is doubled at once.
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
