//! When a slot is due again: a pure function of the known state of its messages, its phase and the named policy.
//!
//! A cadence is a list of tiers by age, with or without a pace that follows unread messages, or a cron expression in
//! UTC. Nothing here reads a clock: `now` is an argument.

mod cron_expression;
mod display;
mod due;
mod forecast;
mod named;
mod pace;

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;

pub use self::{
    cron_expression::{Cron, InvalidCron},
    due::{Following, Known, Next, Reason},
    forecast::Held,
    named::{Cadences, DEFAULT},
    pace::Pace,
};
use crate::{domain::Timestamp, text::duration};

/// A step of a cadence by age: messages younger than `until` are polled once per `every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// The age at which the tier ends.
    pub until: Duration,
    /// Time between two polls, at least 1s.
    pub every: Duration,
}

/// Why a cadence is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCadence {
    /// There are no tiers.
    #[error("has no tiers: give at least one {{ until, every }}, or a cron expression")]
    NoTiers,
    /// The tiers are not in rising order.
    #[error("has a tier until {} that does not end after the tier before it: list tiers by rising `until`", duration::exactly(*.0))]
    TiersNotRising(Duration),
    /// More than one poll per second.
    #[error("polls every {}: the shortest interval is 1s", duration::exactly(*.0))]
    TooOften(Duration),
    /// A pace was combined with a cron expression.
    #[error("follows a cron expression: a pace requires tiers")]
    PaceOfCron,
    /// The patience is out of range: a message could be forgotten.
    #[error("has a patience of {0}: give 1 to 1000 intervals of a tier")]
    Patience(u32),
    /// A duration is longer than the database's dates can express.
    #[error("has a duration of {}: the longest is 3650d", duration::exactly(*.0))]
    TooLong(Duration),
    /// The cron expression is invalid or never fires.
    #[error(transparent)]
    Cron(#[from] InvalidCron),
}

#[derive(Debug, Clone)]
enum Rule {
    Tiers { tiers: Vec<Tier>, pace: Option<Pace> },
    Cron { cron: Cron, expire_after: Duration },
}

/// A named policy of how often messages are polled and when polling stops.
#[derive(Debug, Clone)]
pub struct Cadence {
    rule: Rule,
    stop_when_all_read: bool,
    /// The share of changes that only polls find. The weight of unread messages is multiplied by it.
    untold: f64,
    /// See [`Cadence::tier_name`]; shared, since each poll uses one.
    tier_names: Vec<Arc<str>>,
}

/// Minimum of that share: however much events report, polls become at most 20 times rarer.
const LEAST_UNTOLD: f64 = 1.0 / 400.0;

/// The shortest time between two polls.
const SHORTEST: Duration = Duration::from_secs(1);

/// Maximum duration in a cadence: far beyond any message's life, and well within the range of dates.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 86_400);

impl Cadence {
    /// A cadence by age. Messages older than the last tier's `until` expire.
    ///
    /// # Errors
    /// If there are no tiers, the ages do not rise, or a duration is out of range.
    pub fn by_age(tiers: Vec<Tier>, stop_when_all_read: bool) -> Result<Self, InvalidCadence> {
        if tiers.is_empty() {
            return Err(InvalidCadence::NoTiers);
        }
        let mut end = Duration::ZERO;
        for tier in &tiers {
            if tier.until <= end {
                return Err(InvalidCadence::TiersNotRising(tier.until));
            }
            if tier.every < SHORTEST {
                return Err(InvalidCadence::TooOften(tier.every));
            }
            check_span(tier.every.max(tier.until))?;
            end = tier.until;
        }
        Ok(Self::of(Rule::Tiers { tiers, pace: None }, stop_when_all_read))
    }

    /// The same, with a pace that follows unread messages. Its tiers are the unit of `patience`, and decide when a
    /// message expires.
    ///
    /// # Errors
    /// If this is a cadence by cron expression, or the pace is out of range.
    pub fn at_pace(mut self, new: Pace) -> Result<Self, InvalidCadence> {
        let Rule::Tiers { pace, .. } = &mut self.rule else { return Err(InvalidCadence::PaceOfCron) };
        if new.fastest < SHORTEST || new.pace < SHORTEST {
            return Err(InvalidCadence::TooOften(new.fastest.min(new.pace)));
        }
        check_span(new.pace.max(new.fastest))?;
        if !Pace::PATIENCE.contains(&new.patience) {
            return Err(InvalidCadence::Patience(new.patience));
        }
        *pace = Some(new);
        Ok(self)
    }

    /// The same, while polls find only the share `untold` of all changes and events report the others: at a pace,
    /// unread messages weigh that much less. New slots are still polled immediately.
    pub fn giving_way(self, untold: f64) -> Self {
        Self { untold: untold.clamp(LEAST_UNTOLD, 1.0), ..self }
    }

    /// A cadence by a cron expression of five fields, or six with seconds first, evaluated in UTC. Messages older
    /// than `expire_after` expire.
    ///
    /// # Errors
    /// If the expression is invalid or never fires after `now`, or the duration is out of range.
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
            Rule::Tiers { tiers, .. } => {
                tiers.iter().map(|tier| duration::exactly(tier.until).replace(' ', "").into()).collect()
            }
            Rule::Cron { .. } => vec!["cron".into()],
        };
        Self { rule, stop_when_all_read, untold: 1.0, tier_names }
    }

    /// The time between two polls of the youngest messages: their tier's, or the shortest one of the cron expression.
    pub fn first_step(&self) -> Duration {
        if let Rule::Tiers { tiers, .. } = &self.rule { tiers[0].every } else { SHORTEST }
    }

    /// The default for the shortest time between two polls at a pace: half of the first tier's interval.
    pub fn usual_fastest(&self) -> Duration {
        (self.first_step() / 2).max(SHORTEST)
    }

    /// The pace that follows unread messages, if there is one.
    pub fn pace(&self) -> Option<&Pace> {
        if let Rule::Tiers { pace, .. } = &self.rule { pace.as_ref() } else { None }
    }

    /// Whether its intervals are longer while more is due than the limit allows. A cron expression is followed exactly.
    pub fn is_stretched(&self) -> bool {
        matches!(self.rule, Rule::Tiers { .. })
    }

    /// Whether to stop polling a message that all members have read.
    pub fn stop_when_all_read(&self) -> bool {
        self.stop_when_all_read
    }

    /// The age at which a message expires.
    pub fn expires_after(&self) -> Duration {
        match &self.rule {
            Rule::Tiers { tiers, .. } => tiers.last().map_or(Duration::ZERO, |tier| tier.until),
            Rule::Cron { expire_after, .. } => *expire_after,
        }
    }

    /// Whether a message sent at `sent_at` is past the end of its cadence at `now`.
    pub fn is_expired(&self, sent_at: Timestamp, now: Timestamp) -> bool {
        age(sent_at, now) >= self.expires_after()
    }

    /// The time between two polls of a message by its tier alone; with a cron expression, the message's whole life.
    pub fn every(&self, sent_at: Timestamp, now: Timestamp) -> Duration {
        self.step(age(sent_at, now))
    }

    /// The same at this age.
    fn step(&self, age: Duration) -> Duration {
        match &self.rule {
            Rule::Tiers { tiers, .. } => interval(tiers, age),
            Rule::Cron { expire_after, .. } => *expire_after,
        }
    }

    /// The name of the message's tier: the age at which it ends, such as `1h`; `cron` without tiers.
    pub fn tier_name(&self, sent_at: Timestamp, now: Timestamp) -> &Arc<str> {
        let place = match &self.rule {
            Rule::Tiers { tiers, .. } => tier(tiers, age(sent_at, now)),
            Rule::Cron { .. } => 0,
        };
        &self.tier_names[place]
    }
}

/// The index of the tier at this age; there is at least one.
fn tier(tiers: &[Tier], age: Duration) -> usize {
    tiers.iter().position(|tier| age < tier.until).unwrap_or(tiers.len() - 1)
}

/// The time between two polls at this age: the tier's own interval.
fn interval(tiers: &[Tier], age: Duration) -> Duration {
    tiers[tier(tiers, age)].every
}

fn check_span(span: Duration) -> Result<(), InvalidCadence> {
    if span > LONGEST { Err(InvalidCadence::TooLong(span)) } else { Ok(()) }
}

/// The age of a message; zero if it was sent in the future. As numbers, since a poll needs it several times for each
/// message.
fn age(sent_at: Timestamp, now: Timestamp) -> Duration {
    let micros = now.timestamp_micros() - sent_at.timestamp_micros();
    u64::try_from(micros).map_or(Duration::ZERO, Duration::from_micros)
}

fn delta(span: Duration) -> TimeDelta {
    TimeDelta::from_std(span).unwrap_or(TimeDelta::MAX)
}

/// Turns an infinite number into the longest span by which a date can be moved.
fn seconds(seconds: f64) -> TimeDelta {
    delta(span(seconds))
}

fn span(seconds: f64) -> Duration {
    Duration::from_micros((seconds.min(LONGEST.as_secs_f64()) * 1e6) as u64)
}

/// A slot's offset within each interval: a fixed, evenly distributed property.
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

    /// The same as a number from 0 to 1.
    fn share(self) -> f64 {
        self.0 as f64 / u64::MAX as f64
    }

    /// The next point of this phase's grid after `now`, at most one interval away.
    fn next_after(self, now: Timestamp, interval: Duration) -> Timestamp {
        let step = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX).max(1);
        let offset = (self.0 % step.cast_unsigned()).cast_signed();
        let since_grid = (now.timestamp_micros() - offset).rem_euclid(step);
        now + TimeDelta::microseconds(step - since_grid)
    }
}

#[cfg(test)]
mod tests;
