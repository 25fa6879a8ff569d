//! The cadence that follows unread messages: a slot is polled when what is unknown about it has grown to the price of a
//! call.
//!
//! The unknown grows with every message that somebody may still read, and faster for younger ones. No message may ever
//! wait longer than `patience` allows, whatever else is in its slot. Pure, in seconds.

use std::{ops::RangeInclusive, time::Duration};

/// How often a slot is polled, by its unread messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The time between two polls of a slot with a single unread message that is an hour old.
    pub pace: Duration,
    /// Maximum wait of a message, in intervals of its tier.
    pub patience: u32,
    /// The shortest time between two polls.
    pub fastest: Duration,
}

impl Pace {
    /// The pace of the built-in default cadence.
    pub const DEFAULT_PACE: Duration = Duration::from_secs(12 * 60);

    /// The default patience.
    pub const DEFAULT_PATIENCE: u32 = 8;

    /// Range of the patience, in which no message is forgotten and no tier is skipped.
    pub const PATIENCE: RangeInclusive<u32> = 1..=1_000;

    /// The time between two polls of a slot, in seconds; infinite if none of its messages is unread.
    pub(super) fn interval(&self, unread: Unread) -> f64 {
        let lone = Unread::of_age(3_600.0).0;
        (self.pace.as_secs_f64() * (lone / unread.0).sqrt()).max(self.fastest.as_secs_f64())
    }
}

/// The age in seconds from which on there is less and less to learn about a message, …
const SOON: f64 = 60.0;

/// … and the age from which on there is even less.
const LATER: f64 = 500.0;

/// How much there is to learn about unread messages, discounted by their age.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Unread(f64);

impl Unread {
    /// For a message of this age in seconds: how likely another member is to read it soon, discounted, since half a
    /// minute matters more in its first hour than in its third week. The constants suit reading times with a long tail.
    /// Making either three times larger or smaller changes the errors by an eighth.
    pub fn of_age(age: f64) -> Self {
        Self(1.0 / ((age + LATER) * (1.0 + age / SOON).sqrt()))
    }

    /// Of so many messages, at least one, whose ages are evenly between two.
    pub fn evenly(youngest: f64, oldest: f64, messages: f64) -> Self {
        let (first, last) = (Self::of_age(youngest).0, Self::of_age(oldest).0);
        let step = (oldest - youngest) / (messages - 1.0);
        if messages <= 2.0 || step <= 0.0 {
            return Self(first + (messages - 1.0).max(0.0) * last);
        }
        // The youngest counts far more than those after it, whose sum is that of a smooth curve.
        let second = youngest + step;
        Self(first + f64::midpoint(Self::of_age(second).0, last) + (integral(oldest) - integral(second)) / step)
    }
}

/// The integral of what there is to learn of a message, up to this age.
fn integral(age: f64) -> f64 {
    let root = (LATER / SOON - 1.0).sqrt();
    2.0 / root * ((1.0 + age / SOON).sqrt() / root).atan()
}

impl std::ops::AddAssign for Unread {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl std::ops::Mul<f64> for Unread {
    type Output = Self;

    fn mul(self, factor: f64) -> Self {
        Self(self.0 * factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_evenly_apart_count_as_much_as_one_by_one() {
        for (youngest, step, messages) in
            [(0.0, 0.0, 1), (5.0, 0.0, 50), (0.0, 10.0, 50), (300.0, 3_600.0, 2), (0.0, 3_600.0, 50), (1e6, 1e4, 7)]
        {
            let mut sum = Unread::default();
            let ages = (0..messages).map(|number| youngest + step * f64::from(number));
            ages.for_each(|age| sum += Unread::of_age(age));
            let oldest = youngest + step * f64::from(messages - 1);
            let Unread(evenly) = Unread::evenly(youngest, oldest, messages.into());
            assert!((evenly / sum.0 - 1.0).abs() < 0.01, "{youngest} {step} {messages}: {evenly} {sum:?}");
        }
    }
}
