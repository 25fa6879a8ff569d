//! The roll-up: aggregates snapshots and calls into hourly rows and gaps.
//!
//! It advances in stretches, each in one transaction that also moves the mark. A stretch ends at the end of the hour at
//! the latest. If the roll-up is further behind, a stretch has several whole hours of a day, which need only one pass
//! over the day's snapshots. So the roll-up resumes where it stopped, after seconds or days. A flush that stores late
//! data marks its hour, which is rolled up again. Pure: [`crate::daemon::jobs`] decides the order, and the SQL is in
//! [`crate::store`].

use chrono::{Days, DurationRound, NaiveTime, TimeDelta};

use crate::domain::Timestamp;

/// Minimum age of data to roll up. Younger data may still be on its way into the database, since a poll with all its
/// retries takes a minute. This only saves work: late data is rolled up in any case.
pub const SETTLED_AFTER: TimeDelta = TimeDelta::minutes(2);

/// Maximum length of a stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Until the hour ends.
    Hour,
    /// Until the UTC day ends.
    Day,
}

/// A time span within one hour, or of several whole hours within one UTC day: from (inclusive) until (exclusive).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// Its beginning.
    pub from: Timestamp,
    /// Its end.
    pub until: Timestamp,
}

impl Stretch {
    /// The next stretch after `done`, up to `until`. The last whole hour before `until` is always a stretch by itself,
    /// since its active messages are counted.
    pub fn next(done: Timestamp, until: Timestamp, reach: Reach) -> Option<Self> {
        let hour = hour_of(done) + TimeDelta::hours(1);
        let midnight = (done.date_naive() + Days::new(1)).and_time(NaiveTime::MIN).and_utc();
        let hours = midnight.min(hour_of(until) - TimeDelta::hours(1));
        let end = if reach == Reach::Day && done == hour_of(done) { hours.max(hour) } else { hour };
        let next = Self { from: done, until: end.min(until) };
        (next.from < next.until).then_some(next)
    }

    /// The whole hour from `hour` on.
    pub fn of_hour(hour: Timestamp) -> Self {
        Self { from: hour, until: hour + TimeDelta::hours(1) }
    }

    /// Consecutive hours of a day as stretches, given hours in ascending order.
    pub fn of_hours(hours: &[Timestamp]) -> Vec<Self> {
        let mut stretches: Vec<Self> = Vec::new();
        for hour in hours.iter().copied().map(Self::of_hour) {
            match stretches.last_mut() {
                Some(last) if last.until == hour.from && hour.from.time() != NaiveTime::MIN => last.until = hour.until,
                _ => stretches.push(hour),
            }
        }
        stretches
    }

    /// The same up to the end of its first hour.
    pub fn first_hour(self) -> Self {
        Self { until: self.until.min(hour_of(self.from) + TimeDelta::hours(1)), ..self }
    }

    /// The stretches in which these hours are rolled up again, as far as they are `done`.
    pub fn again(self, done: Timestamp, reach: Reach) -> impl Iterator<Item = Self> {
        let next = move |from| {
            let next = Self::next(from, done, reach)?;
            (from < self.until).then(|| Self { until: next.until.min(self.until), ..next })
        };
        std::iter::successors(next(self.from), move |last| next(last.until))
    }

    /// The hours that the stretch completes, if any.
    pub fn completes(&self) -> Option<Self> {
        (hour_of(self.until) == self.until).then(|| Self { from: hour_of(self.from), until: self.until })
    }

    /// The hours of the stretch, the last of which may be incomplete.
    pub fn hours(self) -> impl Iterator<Item = Self> {
        self.again(self.until, Reach::Hour)
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
        fn stretches_cover_all_time_once_within_hours_or_days(
            start in 0..300_000_i64, length in 0..300_000_i64, in_days in any::<bool>()
        ) {
            let (mut done, until) = (at(start), at(start + length));
            let reach = if in_days { Reach::Day } else { Reach::Hour };
            let mut hours = 0;
            while let Some(stretch) = Stretch::next(done, until, reach) {
                prop_assert_eq!(stretch.from, done);
                let last = stretch.until - TimeDelta::microseconds(1);
                prop_assert_eq!(stretch.from.date_naive(), last.date_naive());
                let is_one_hour = hour_of(stretch.from) == hour_of(last);
                prop_assert!(is_one_hour || in_days && stretch.completes() == Some(stretch));
                if let Some(completed) = stretch.completes() {
                    prop_assert_eq!(completed.from, hour_of(stretch.from));
                    let number = (completed.until - completed.from).num_hours();
                    prop_assert_eq!(completed.hours().count() as i64, number);
                    prop_assert!(completed.until < hour_of(until) || is_one_hour, "the last hour is counted");
                    hours += number;
                }
                done = stretch.until;
            }
            prop_assert_eq!(done, until);
            prop_assert_eq!(hours, (hour_of(until) - hour_of(at(start))).num_hours());
        }

        #[test]
        fn days_behind_take_a_few_stretches_each(days in 1..20_i64) {
            let (mut done, until) = (hour_of(at(0)), hour_of(at(0)) + TimeDelta::days(days));
            let mut stretches = 0;
            while let Some(stretch) = Stretch::next(done, until, Reach::Day) {
                (done, stretches) = (stretch.until, stretches + 1);
            }
            prop_assert!(stretches <= days + 2);
        }
    }
}
