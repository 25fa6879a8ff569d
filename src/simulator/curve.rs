//! The number of members who have read a message at a given age: deterministic by a seed, never falling.
//!
//! Delays follow a log-logistic distribution, close to the log-normal one of human reading, with a closed form for
//! the fraction of readers at an age. So a count costs the same for 2 members as for 200, and no state is kept per
//! member. Readers are spread over the n quantiles of the distribution, with a seeded jitter within each.

use fastrand::Rng;

/// Shape of the log-logistic distribution: with 1.5, one in ten reads within a quarter of the median time and one in
/// ten later than four times the median.
const SHAPE: f64 = 1.5;

/// The reading curve of one message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReadingCurve {
    seed: u64,
    audience: u32,
    readers: u32,
    median_seconds: f64,
}

impl ReadingCurve {
    /// `members` includes the sender, who is not counted; `typical_median_seconds` varies per message by a factor
    /// from a quarter to four. Half of the messages are eventually read by all; of the others, up to three in ten
    /// members never read them.
    pub fn new(seed: u64, members: u32, typical_median_seconds: f64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let audience = members.saturating_sub(1);
        let never_share = if rng.bool() { 0.0 } else { 0.3 * rng.f64() };
        let never = (f64::from(audience) * never_share).round() as u32;
        let median_seconds = typical_median_seconds * (4.0 * rng.f64() - 2.0).exp2();
        Self { seed, audience, readers: audience - never, median_seconds }
    }

    /// The numbers of members who have and have not read at an age.
    pub fn counts_at(&self, age_seconds: f64) -> (u32, u32) {
        let read = self.read_at(age_seconds);
        (read, self.audience - read)
    }

    /// The age in seconds at which the `count`-th member reads the message, to the microsecond; `None` if fewer ever
    /// do.
    pub fn age_at(&self, count: u32) -> Option<f64> {
        if count > self.readers {
            return None;
        }
        let (mut before, mut by) = (0.0, 1.0);
        while self.read_at(by) < count {
            (before, by) = (by, by * 2.0);
        }
        while by - before > 1e-7_f64.max(by * f64::EPSILON) {
            let middle = (before + by) / 2.0;
            if self.read_at(middle) < count { before = middle } else { by = middle }
        }
        Some(by)
    }

    fn read_at(&self, age_seconds: f64) -> u32 {
        if age_seconds <= 0.0 {
            return 0;
        }
        let share = 1.0 / (1.0 + (age_seconds / self.median_seconds).powf(-SHAPE));
        let position = share * f64::from(self.readers);
        let passed = (position.floor() as u32).min(self.readers);
        // Never 0, so that nobody reads at the instant of sending.
        let jitter = 1.0 - Rng::with_seed(self.seed ^ (u64::from(passed) + 1)).f64();
        let next_has_read = passed < self.readers && position.fract() >= jitter;
        passed + u32::from(next_has_read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const YEAR: f64 = 365.0 * 86_400.0;

    #[test]
    fn nobody_has_read_at_or_before_sending() {
        for seed in 0..200 {
            let curve = ReadingCurve::new(seed, 200, 300.0);
            assert_eq!(curve.counts_at(0.0), (0, 199));
            assert_eq!(curve.counts_at(-5.0), (0, 199));
        }
    }

    #[test]
    fn about_half_of_the_readers_have_read_at_the_median() {
        let (mut read, mut readers) = (0, 0);
        for seed in 0..200 {
            let curve = ReadingCurve::new(seed, 101, 300.0);
            read += curve.counts_at(curve.median_seconds).0;
            readers += curve.readers;
        }
        let share = f64::from(read) / f64::from(readers);
        assert!((0.48..0.52).contains(&share), "{share}");
    }

    #[test]
    fn half_of_the_messages_are_read_by_all_and_the_others_by_most() {
        let last: Vec<(u32, u32)> =
            (0..1000).map(|seed| ReadingCurve::new(seed, 100, 300.0).counts_at(1000.0 * YEAR)).collect();
        let by_all = last.iter().filter(|(_, unread)| *unread == 0).count();
        assert!((420..=600).contains(&by_all), "{by_all}");
        assert!(last.iter().all(|(read, _)| *read >= 69), "no more than three in ten never read");
    }

    #[test]
    fn the_same_seed_gives_the_same_curve_and_another_gives_another() {
        let counts =
            |seed| (1..50).map(move |minute| ReadingCurve::new(seed, 150, 300.0).counts_at(60.0 * f64::from(minute)));
        assert!(counts(1).eq(counts(1)));
        assert!(!counts(1).eq(counts(2)));
    }

    #[test]
    fn the_smallest_group_has_one_reader_at_most() {
        let curve = ReadingCurve::new(4, 2, 300.0);
        assert_eq!(curve.counts_at(1e-9), (0, 1));
        assert!(curve.counts_at(YEAR).0 <= 1);
    }

    proptest! {
        #[test]
        fn the_age_at_which_a_member_reads_is_when_the_count_rises(seed: u64, members in 2u32..=200, share in 0.0..1.0) {
            let curve = ReadingCurve::new(seed, members, 300.0);
            let count = 1 + (f64::from(curve.readers.saturating_sub(1)) * share) as u32;
            if let Some(age) = curve.age_at(count) {
                prop_assert!(curve.read_at(age) >= count && curve.read_at(age - 1e-6 - age * 1e-12) < count);
            }
            prop_assert_eq!(curve.age_at(curve.readers + 1), None);
        }

        #[test]
        fn counts_never_fall_and_always_add_up(
            seed: u64, members in 2u32..=200, mut ages in prop::collection::vec(0.0..1e6f64, 1..60),
        ) {
            ages.sort_by(f64::total_cmp);
            let curve = ReadingCurve::new(seed, members, 300.0);
            let mut before = 0;
            for age in ages.into_iter().chain([YEAR, f64::MAX]) {
                let (read, unread) = curve.counts_at(age);
                prop_assert!(read >= before && read + unread == members - 1);
                before = read;
            }
        }
    }
}
