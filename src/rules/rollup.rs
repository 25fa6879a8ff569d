//! The roll-up: aggregates snapshots and calls into hourly rows and gaps.
//!
//! It advances in stretches that end with the hour at the latest, each in one transaction that also moves the mark.
//! So it resumes where it stopped, after seconds or days. A flush that stores late data notes its hour, which is
//! rolled up again. Pure: [`crate::daemon::jobs`] decides the order, and the SQL is in [`crate::store`].

use chrono::{DurationRound, NaiveTime, TimeDelta};

use crate::domain::Timestamp;

/// Minimum age of data to roll up. Younger data may still be on its way into the database, since a poll with all its
/// retries takes a minute. That only saves work, since late data is noted.
pub const SETTLED_AFTER: TimeDelta = TimeDelta::minutes(2);

/// A time span within one hour: from (inclusive) until (exclusive).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Its beginning.
    pub from: Timestamp,
    /// Its end.
    pub until: Timestamp,
}

impl Stretch {
    /// The next stretch after `done`, up to `until`.
    pub fn next(done: Timestamp, until: Timestamp) -> Option<Self> {
        let next = Self { from: done, until: until.min(hour_of(done) + TimeDelta::hours(1)) };
        (next.from < next.until).then_some(next)
    }

    /// The hour that the stretch completes, if any.
    pub fn completes(&self) -> Option<Self> {
        (hour_of(self.until) == self.until).then(|| Self { from: self.until - TimeDelta::hours(1), until: self.until })
    }

    /// The UTC day that the stretch completes, if any.
    pub fn completes_day(&self) -> Option<Self> {
        let is_midnight = self.until.time() == NaiveTime::MIN;
        is_midnight.then(|| Self { from: self.until - TimeDelta::days(1), until: self.until })
    }
}

/// The beginning of the UTC hour.
pub fn hour_of(time: Timestamp) -> Timestamp {
    time.duration_trunc(TimeDelta::hours(1)).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_timestamp(1_790_000_000 + second, 0).unwrap()
    }

    proptest! {
        #[test]
        fn stretches_cover_all_time_once_and_never_cross_an_hour(start in 0..100_000_i64, length in 0..100_000_i64) {
            let (mut done, until) = (at(start), at(start + length));
            let mut hours = 0;
            while let Some(stretch) = Stretch::next(done, until) {
                prop_assert_eq!(stretch.from, done);
                prop_assert!(stretch.until <= hour_of(stretch.from) + TimeDelta::hours(1));
                if let Some(hour) = stretch.completes() {
                    prop_assert_eq!(hour.from, hour_of(stretch.from));
                    hours += 1;
                }
                done = stretch.until;
            }
            prop_assert_eq!(done, until);
            prop_assert_eq!(hours, (hour_of(until) - hour_of(at(start))).num_hours());
        }
    }
}
