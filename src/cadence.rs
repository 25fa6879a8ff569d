//! When is a message due again: a pure function of its age, its slot's phase and the named policy.
//!
//! A cadence is a list of tiers by age, or a cron expression in UTC. Nothing here reads a clock: `now` comes in
//! as an argument. Stretching the interval after quiet polls or under overload belongs into the function `interval`, the
//! one place that says how long a step is.

mod cron_expression;
mod display;
mod named;

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;

pub use self::{
    cron_expression::{Cron, InvalidCron},
    named::{Cadences, DEFAULT},
};
use crate::{domain::Timestamp, span};

/// One step of a cadence by age: messages younger than `until` are polled once per `every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// The age at which the tier ends.
    pub until: Duration,
    /// The time between two polls.
    pub every: Duration,
}

/// Why a cadence can't be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCadence {
    /// There is no tier at all.
    #[error("has no tiers: give at least one {{ until, every }}, or a cron expression")]
    NoTiers,
    /// The tiers do not grow in age.
    #[error("has a tier until {} that does not end after the tier before it: list tiers by rising `until`", span::exactly(*.0))]
    TiersNotRising(Duration),
    /// Polling more often than once a second is never sensible.
    #[error("polls every {}: the shortest interval is 1s", span::exactly(*.0))]
    TooOften(Duration),
    /// A span is longer than the dates of the database can hold.
    #[error("has a span of {}: the longest is 3650d", span::exactly(*.0))]
    TooLong(Duration),
    /// The cron expression can't be read or never fires.
    #[error(transparent)]
    Cron(#[from] InvalidCron),
}

#[derive(Debug, Clone)]
enum Rule {
    Tiers(Vec<Tier>),
    Cron { cron: Cron, expire_after: Duration },
}

/// A named policy of how often messages are polled and when polling stops.
#[derive(Debug, Clone)]
pub struct Cadence {
    rule: Rule,
    stop_when_all_read: bool,
    /// See [`Cadence::tier_name`]: each poll asks for one.
    tier_names: Vec<Arc<str>>,
}

/// The longest span a cadence may name: far beyond any message's life, far within what dates can hold.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Cadence {
    /// A cadence by age. Messages older than the last tier's `until` are expired.
    ///
    /// # Errors
    /// If there is no tier, the ages do not rise, or a span is out of range.
    pub fn by_age(tiers: Vec<Tier>, stop_when_all_read: bool) -> Result<Self, InvalidCadence> {
        if tiers.is_empty() {
            return Err(InvalidCadence::NoTiers);
        }
        let mut end = Duration::ZERO;
        for tier in &tiers {
            if tier.until <= end {
                return Err(InvalidCadence::TiersNotRising(tier.until));
            }
            if tier.every < Duration::from_secs(1) {
                return Err(InvalidCadence::TooOften(tier.every));
            }
            check_span(tier.every.max(tier.until))?;
            end = tier.until;
        }
        Ok(Self::of(Rule::Tiers(tiers), stop_when_all_read))
    }

    /// A cadence by a cron expression of five fields, or six with seconds first, evaluated in UTC. Messages are
    /// expired once they are older than `expire_after`.
    ///
    /// # Errors
    /// If the expression can't be read, never fires after `now`, or the span is out of range.
    pub fn by_cron(
        expression: &str,
        expire_after: Duration,
        stop_when_all_read: bool,
        now: Timestamp,
    ) -> Result<Self, InvalidCadence> {
        check_span(expire_after)?;
        Ok(Self::of(Rule::Cron { cron: Cron::parse(expression, now)?, expire_after }, stop_when_all_read))
    }

    fn of(rule: Rule, stop_when_all_read: bool) -> Self {
        let tier_names = match &rule {
            Rule::Tiers(tiers) => tiers.iter().map(|tier| span::exactly(tier.until).replace(' ', "").into()).collect(),
            Rule::Cron { .. } => vec!["cron".into()],
        };
        Self { rule, stop_when_all_read, tier_names }
    }

    /// Whether a message that all have read is done.
    pub fn stop_when_all_read(&self) -> bool {
        self.stop_when_all_read
    }

    /// The age at which a message is expired.
    pub fn expires_after(&self) -> Duration {
        match &self.rule {
            Rule::Tiers(tiers) => tiers.last().map_or(Duration::ZERO, |tier| tier.until),
            Rule::Cron { expire_after, .. } => *expire_after,
        }
    }

    /// Whether a message sent at `sent_at` is past the end of its cadence at `now`.
    pub fn is_expired(&self, sent_at: Timestamp, now: Timestamp) -> bool {
        age(sent_at, now) >= self.expires_after()
    }

    /// When a message that was just polled at `now` is due again; `None` if it is expired.
    ///
    /// Steps by age end on a grid of the interval, moved by the slot's own `phase`. So the steps of many slots
    /// spread over the interval, whatever made them start together, and lateness of one poll never adds up.
    pub fn next_poll(&self, phase: Phase, sent_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if self.is_expired(sent_at, now) {
            return None;
        }
        Some(self.after(phase, sent_at, now))
    }

    /// When a message is due that was last known at `known_until` (`None`: never), in a slot whose last poll was at
    /// `slot_polled_at`: for a slot whose group has a new cadence, or is polled again after a pause.
    pub fn due_again(
        &self,
        phase: Phase,
        sent_at: Timestamp,
        known_until: Option<Timestamp>,
        slot_polled_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Timestamp {
        match known_until {
            None => self.first_poll(slot_polled_at, sent_at, now),
            Some(known_until) => self.after(phase, sent_at, known_until.min(now)).max(now),
        }
    }

    /// When a message that was never polled is due in a slot whose last poll was at `slot_polled_at`.
    ///
    /// At once in a new slot; in a slot that is already being polled no sooner than the interval allows, so that a
    /// group whose messages trickle in is not polled for each of them. A cron expression is followed to the letter.
    pub fn first_poll(&self, slot_polled_at: Option<Timestamp>, sent_at: Timestamp, now: Timestamp) -> Timestamp {
        match (&self.rule, slot_polled_at) {
            (Rule::Cron { .. }, _) => self.after(Phase::default(), sent_at, now),
            (Rule::Tiers(_), None) => now,
            (Rule::Tiers(tiers), Some(polled_at)) => {
                now.max(polled_at.min(now) + delta(interval(tiers, age(sent_at, now))))
            }
        }
    }

    /// How often a message that was sent at `sent_at` is polled between two times, on average: it is polled by its cadence
    /// and nothing else.
    pub fn polls_between(&self, sent_at: Timestamp, from: Timestamp, until: Timestamp) -> f64 {
        let from = from.max(sent_at);
        match &self.rule {
            Rule::Tiers(tiers) => {
                let (youngest, oldest) = (age(sent_at, from), age(sent_at, until));
                let begins = std::iter::once(Duration::ZERO).chain(tiers.iter().map(|tier| tier.until));
                let within = |(begin, tier): (Duration, &Tier)| {
                    let time = oldest.min(tier.until).saturating_sub(youngest.max(begin));
                    time.as_secs_f64() / tier.every.as_secs_f64()
                };
                begins.zip(tiers).map(within).sum()
            }
            Rule::Cron { cron, expire_after } => {
                let until = until.min(sent_at + delta(*expire_after));
                let fires = std::iter::successors(cron.next_after(from), |last| cron.next_after(*last));
                fires.take_while(|fires_at| *fires_at <= until).count() as f64
            }
        }
    }

    /// How often a slot is polled between two times, on average, that a new message joins after every `gap`: its youngest
    /// message is never older.
    pub fn polls_while_joined(&self, gap: Duration, from: Timestamp, until: Timestamp) -> f64 {
        match &self.rule {
            Rule::Tiers(_) => {
                let span = (until - from).to_std().unwrap_or_default();
                self.polls_between(from, from, from + delta(gap)) * span.as_secs_f64() / gap.as_secs_f64()
            }
            Rule::Cron { expire_after, .. } => {
                let alive = (expire_after.as_secs_f64() / gap.as_secs_f64()).min(1.0);
                self.polls_between(from, from, until) * alive
            }
        }
    }

    /// What the tier of a message is called: the age at which it ends, as in `1h`; `cron` where there are none.
    pub fn tier_name(&self, sent_at: Timestamp, now: Timestamp) -> &Arc<str> {
        let place = match &self.rule {
            Rule::Tiers(tiers) => tier(tiers, age(sent_at, now)),
            Rule::Cron { .. } => 0,
        };
        &self.tier_names[place]
    }

    fn after(&self, phase: Phase, sent_at: Timestamp, now: Timestamp) -> Timestamp {
        match &self.rule {
            Rule::Tiers(tiers) => phase.next_after(now, interval(tiers, age(sent_at, now))),
            Rule::Cron { cron, expire_after } => {
                // An expression with its last date behind it leaves nothing but the end of the message's life.
                cron.next_after(now).unwrap_or(now + delta(*expire_after))
            }
        }
    }
}

/// The place of the tier at this age; there is one at least.
fn tier(tiers: &[Tier], age: Duration) -> usize {
    tiers.iter().position(|tier| age < tier.until).unwrap_or(tiers.len() - 1)
}

/// The time between two polls at this age: the tier's own interval. What later lengthens a step multiplies here.
fn interval(tiers: &[Tier], age: Duration) -> Duration {
    tiers[tier(tiers, age)].every
}

fn check_span(span: Duration) -> Result<(), InvalidCadence> {
    if span > LONGEST { Err(InvalidCadence::TooLong(span)) } else { Ok(()) }
}

/// The age of a message; zero for one that claims to be sent in the future.
fn age(sent_at: Timestamp, now: Timestamp) -> Duration {
    (now - sent_at).to_std().unwrap_or(Duration::ZERO)
}

fn delta(span: Duration) -> TimeDelta {
    TimeDelta::from_std(span).unwrap_or(TimeDelta::MAX)
}

/// Where in each interval a slot is polled: a fixed, evenly spread property of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Phase(u64);

impl Phase {
    /// The phase of a slot, by its id.
    pub fn of_slot(slot_id: i64) -> Self {
        // SplitMix64's finalizer: neighbouring ids land far apart. https://prng.di.unimi.it/splitmix64.c
        let mut bits = slot_id.cast_unsigned().wrapping_add(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(bits ^ (bits >> 31))
    }

    /// The first point of this phase's grid that is later than `now`, at most one interval away.
    fn next_after(self, now: Timestamp, interval: Duration) -> Timestamp {
        let step = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX).max(1);
        let offset = (self.0 % step.cast_unsigned()).cast_signed();
        let since_grid = (now.timestamp_micros() - offset).rem_euclid(step);
        now + TimeDelta::microseconds(step - since_grid)
    }
}

#[cfg(test)]
mod tests;
