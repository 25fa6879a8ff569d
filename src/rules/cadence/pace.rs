//! The cadence that follows what is unread: a slot is polled when what is not known about it has grown to the price of
//! a call.
//!
//! What is not known grows with the messages that somebody may read, the faster the younger they are. It must never put
//! off a message for longer than `patience` allows, whatever the others of its slot are like. Pure, in seconds.

use std::{ops::RangeInclusive, time::Duration};

/// How a slot is polled by its unread messages.
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

    /// The patience, unless another is configured.
    pub const DEFAULT_PATIENCE: u32 = 8;

    /// Between these, no message is forgotten and no tier is passed over.
    pub const PATIENCE: RangeInclusive<u32> = 1..=1_000;

    /// The time between two polls of a slot, in seconds; infinite if nothing of it is unread.
    pub(super) fn interval(&self, unread: Unread) -> f64 {
        let lone = Unread::of_age(3_600.0).0;
        (self.pace.as_secs_f64() * (lone / unread.0).sqrt()).max(self.fastest.as_secs_f64())
    }
}

/// How much there is to learn about messages that somebody may read, discounted by their age.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Unread(f64);

impl Unread {
    /// Of one message of this age in seconds: how soon it is likely to be read by another member, of which half a
    /// minute matters more in its first hour than in its third week. The constants are those of reading times that have
    /// a long tail; three times more or less of either changes the errors by an eighth.
    pub fn of_age(age: f64) -> Self {
        Self(1.0 / ((age + 500.0) * (1.0 + age / 60.0).sqrt()))
    }
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
