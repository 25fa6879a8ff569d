//! Decides how many polls are read ahead of their permits. Pure.
//!
//! With too few, permits wait for the database. With too many, an owner's change in SQL misses the next poll. So the
//! number depends on the rate of calls and on the duration of reads.

use std::time::Duration;

/// How long the polls read ahead should last, beyond the duration of a read.
const SLACK: Duration = Duration::from_millis(200);

/// Maximum duration of a read that is compensated.
const LONGEST: Duration = Duration::from_secs(1);

/// Minimum number of polls, since some wait for other things than a permit.
const FEWEST: usize = 10;

/// Decides how many polls are read ahead.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ahead {
    /// Duration of recent reads: the longest, slowly decreasing.
    took: Duration,
}

impl Ahead {
    /// Notes how long reading and starting polls took.
    pub(crate) fn took(&mut self, took: Duration) {
        let took = took.min(LONGEST);
        self.took = took.max((7 * self.took + took) / 8);
    }

    /// Maximum number of polls waiting for their permit, at this rate of calls per second and with this maximum
    /// number of polls in flight.
    ///
    /// Polls are read when there is room for half of them, so the other half has to last for a read.
    pub(crate) fn polls(&self, rate: u32, max_in_flight: usize) -> usize {
        let millis = (SLACK + 2 * self.took).as_millis() * u128::from(rate);
        usize::try_from(millis.div_ceil(1_000)).unwrap_or(usize::MAX).max(FEWEST).min(max_in_flight)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(reads: impl IntoIterator<Item = u64>) -> Ahead {
        let mut ahead = Ahead::default();
        reads.into_iter().for_each(|millis| ahead.took(Duration::from_millis(millis)));
        ahead
    }

    #[test]
    fn read_ahead_grows_with_the_rate_and_the_database_latency() {
        for (rate, took, expected) in [
            (200, 0, 40),
            (200, 2, 41),
            (200, 30, 52),
            (200, 240, 136),
            (200, 100_000, 400),
            (50, 0, 10),
            (50, 400, 50),
            (1, 0, 10),
        ] {
            assert_eq!(after([took]).polls(rate, 400), expected, "{rate} calls a second, {took} ms");
        }
        assert_eq!(after([240]).polls(200, 7), 7, "never more than may be under way");
    }

    #[test]
    fn a_slow_read_counts_at_once_and_is_forgotten_by_and_by() {
        assert_eq!(after([2, 100, 2]).polls(200, 400), 75);
        assert_eq!(after([100].into_iter().chain([2; 40])).polls(200, 400), 41);
    }

    proptest! {
        /// A poller that reads as soon as there is room for half.
        #[test]
        fn no_permit_waits_for_a_read_of_usual_duration(
            rate in 1_u32..500, takes in prop::collection::vec(0_u64..300, 1..50),
        ) {
            let longest = *takes.iter().max().unwrap();
            let mut ahead = after([longest]);
            for took in takes {
                let polls = ahead.polls(rate, usize::MAX);
                // Once more than half have gone, a read begins that replaces them.
                let left = polls - polls.div_ceil(2);
                let used = u64::from(rate) * took / 1_000;
                prop_assert!(left as u64 >= used, "{left} are left, and {used} are used in {took} ms");
                ahead.took(Duration::from_millis(longest));
            }
        }
    }
}
