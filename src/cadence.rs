//! When a message is due again: a pure function of its age, its slot's phase and the named policy.
//!
//! A cadence is a list of tiers by age, or a cron expression in UTC. Nothing here reads a clock: `now` is an
//! argument. Longer intervals after quiet polls or under overload belong in the function `interval`, the only place
//! that decides the length of a step.

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
    #[error("has a tier until {} that does not end after the tier before it: list tiers by rising `until`", span::exactly(*.0))]
    TiersNotRising(Duration),
    /// More than one poll per second.
    #[error("polls every {}: the shortest interval is 1s", span::exactly(*.0))]
    TooOften(Duration),
    /// A duration is longer than the database's dates can express.
    #[error("has a duration of {}: the longest is 3650d", span::exactly(*.0))]
    TooLong(Duration),
    /// The cron expression is invalid or never fires.
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
    /// See [`Cadence::tier_name`]; shared, since each poll uses one.
    tier_names: Vec<Arc<str>>,
}

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
            if tier.every < Duration::from_secs(1) {
                return Err(InvalidCadence::TooOften(tier.every));
            }
            check_span(tier.every.max(tier.until))?;
            end = tier.until;
        }
        Ok(Self::of(Rule::Tiers(tiers), stop_when_all_read))
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
            Rule::Tiers(tiers) => tiers.iter().map(|tier| span::exactly(tier.until).replace(' ', "").into()).collect(),
            Rule::Cron { .. } => vec!["cron".into()],
        };
        Self { rule, stop_when_all_read, tier_names }
    }

    /// Whether to stop polling a message that all members have read.
    pub fn stop_when_all_read(&self) -> bool {
        self.stop_when_all_read
    }

    /// The age at which a message expires.
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

    /// When a message polled at `now` is due again; `None` if it has expired.
    ///
    /// Steps by age end on a grid of the interval, shifted by the slot's own `phase`. So the steps of many slots
    /// spread over the interval, however they started, and the lateness of polls does not accumulate.
    pub fn next_poll(&self, phase: Phase, sent_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if self.is_expired(sent_at, now) {
            return None;
        }
        Some(self.after(phase, sent_at, now))
    }

    /// When a message last known at `known_until` (`None`: never) is due, in a slot last polled at `slot_polled_at`:
    /// for a slot whose group has a new cadence, or is polled again after a pause.
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

    /// When a message that was never polled is due, in a slot last polled at `slot_polled_at`.
    ///
    /// Immediately in a new slot; in a slot that is being polled, no sooner than the interval allows, so that a group
    /// whose messages trickle in is not polled for each of them. A cron expression is followed exactly.
    pub fn first_poll(&self, slot_polled_at: Option<Timestamp>, sent_at: Timestamp, now: Timestamp) -> Timestamp {
        match (&self.rule, slot_polled_at) {
            (Rule::Cron { .. }, _) => self.after(Phase::default(), sent_at, now),
            (Rule::Tiers(_), None) => now,
            (Rule::Tiers(tiers), Some(polled_at)) => {
                now.max(polled_at.min(now) + delta(interval(tiers, age(sent_at, now))))
            }
        }
    }

    /// Average number of polls of a message sent at `sent_at` between two times, by its cadence alone.
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

    /// Average number of polls, between two times, of a slot that a new message joins after every `gap`: its youngest
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

    /// The name of the message's tier: the age at which it ends, such as `1h`; `cron` without tiers.
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
                // After the last date of an expression, only the end of the message's life remains.
                cron.next_after(now).unwrap_or(now + delta(*expire_after))
            }
        }
    }
}

/// The index of the tier at this age; there is at least one.
fn tier(tiers: &[Tier], age: Duration) -> usize {
    tiers.iter().position(|tier| age < tier.until).unwrap_or(tiers.len() - 1)
}

/// Time between two polls at this age: the tier's own interval. Factors that lengthen a step multiply here.
fn interval(tiers: &[Tier], age: Duration) -> Duration {
    tiers[tier(tiers, age)].every
}

fn check_span(span: Duration) -> Result<(), InvalidCadence> {
    if span > LONGEST { Err(InvalidCadence::TooLong(span)) } else { Ok(()) }
}

/// The age of a message; zero if it was sent in the future.
fn age(sent_at: Timestamp, now: Timestamp) -> Duration {
    (now - sent_at).to_std().unwrap_or(Duration::ZERO)
}

fn delta(span: Duration) -> TimeDelta {
    TimeDelta::from_std(span).unwrap_or(TimeDelta::MAX)
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
