//! Recent activity, for people: the last hour by minute, and single calls of the last seconds.
//! [`Ring`] is pure, given `now`, and bounded. Metrics are separate, for machines. Nothing here decides anything.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::rules::protocol::Class;

/// Number of minutes kept.
pub const MINUTES: usize = 60;

/// Number of seconds for which single calls are kept, for the rate.
const RECENT: Duration = Duration::from_secs(10);

const SECOND: Duration = Duration::from_secs(1);

/// Activity in one minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Minute {
    /// Attempts by class of their outcome, in the order of [`Class::ALL`].
    pub calls: [u64; Class::ALL.len()],
    /// Messages asked for.
    pub messages: u64,
    /// Receipts that differed from the previous ones.
    pub changes: u64,
    /// Rows written to `receipt_snapshots`.
    pub snapshots: u64,
    /// Maximum number of attempts sent within any second.
    pub highest_second: usize,
    /// Lateness of the latest poll.
    pub latest_by: Duration,
}

impl Minute {
    /// Number of attempts.
    pub fn attempts(&self) -> u64 {
        self.calls.iter().sum()
    }

    fn add(&mut self, other: &Self) {
        self.calls.iter_mut().zip(other.calls).for_each(|(sum, calls)| *sum += calls);
        self.messages += other.messages;
        self.changes += other.changes;
        self.snapshots += other.snapshots;
        self.highest_second = self.highest_second.max(other.highest_second);
        self.latest_by = self.latest_by.max(other.latest_by);
    }
}

/// The last hour.
#[derive(Debug)]
pub struct Ring {
    /// In order; the last one is the current minute.
    minutes: VecDeque<Minute>,
    /// Start of the current minute.
    minute_began: Instant,
    sent: VecDeque<Instant>,
    /// How many of the last ones were sent within a second.
    in_second: usize,
}

impl Ring {
    /// An hour without activity.
    pub fn new(now: Instant) -> Self {
        Self { minutes: VecDeque::from([Minute::default()]), minute_began: now, sent: VecDeque::new(), in_second: 0 }
    }

    /// The minute of `now`, after closing earlier ones.
    fn minute(&mut self, now: Instant) -> &mut Minute {
        let minute = Duration::from_secs(60);
        let passed = now.saturating_duration_since(self.minute_began).as_secs() / 60;
        for _ in 0..passed.min(MINUTES as u64) {
            self.minutes.push_back(Minute::default());
        }
        while self.minutes.len() > MINUTES {
            self.minutes.pop_front();
        }
        self.minute_began += minute * u32::try_from(passed).unwrap_or(u32::MAX);
        let last = self.minutes.len() - 1;
        &mut self.minutes[last]
    }

    fn sent(&mut self, now: Instant) {
        self.sent.push_back(now);
        self.in_second += 1;
        while self.sent[self.sent.len() - self.in_second] + SECOND <= now {
            self.in_second -= 1;
        }
        // Afterwards, since none of these may be counted any longer.
        while self.sent.front().is_some_and(|sent| *sent + RECENT < now) {
            self.sent.pop_front();
        }
        let in_second = self.in_second;
        let minute = self.minute(now);
        minute.highest_second = minute.highest_second.max(in_second);
    }

    /// Calls per second, over the last ten seconds.
    fn rate(&self, now: Instant) -> f64 {
        let recent = self.sent.len() - self.sent.partition_point(|sent| *sent + RECENT <= now);
        recent as f64 / RECENT.as_secs_f64()
    }
}

/// The last hour of a daemon, shared by its parts.
#[derive(Debug)]
pub struct Activity(Mutex<Ring>);

impl Default for Activity {
    fn default() -> Self {
        Self(Ring::new(Instant::now()).into())
    }
}

impl Activity {
    /// A poll began, this late.
    pub(crate) fn began(&self, late_by: Duration, now: Instant) {
        let mut ring = self.ring();
        let minute = ring.minute(now);
        minute.latest_by = minute.latest_by.max(late_by);
    }

    /// An attempt was sent.
    pub(crate) fn sent(&self, now: Instant) {
        self.ring().sent(now);
    }

    /// An attempt with this number of messages ended.
    pub(crate) fn ended(&self, class: Class, messages: usize, now: Instant) {
        let mut ring = self.ring();
        let minute = ring.minute(now);
        minute.calls[class as usize] += 1;
        minute.messages += messages as u64;
    }

    /// Results were stored.
    pub(crate) fn stored(&self, snapshots: u64, changes: u64, now: Instant) {
        let mut ring = self.ring();
        let minute = ring.minute(now);
        minute.snapshots += snapshots;
        minute.changes += changes;
    }

    /// Calls per second, over the last ten seconds.
    pub fn rate(&self, now: Instant) -> f64 {
        self.ring().rate(now)
    }

    /// The minutes of the last hour since the start, oldest first. The last one is not complete.
    pub fn minutes(&self, now: Instant) -> Vec<Minute> {
        let mut ring = self.ring();
        ring.minute(now);
        ring.minutes.iter().copied().collect()
    }

    /// Totals of the last hour.
    pub fn hour(&self, now: Instant) -> Minute {
        self.minutes(now).iter().fold(Minute::default(), |mut sum, minute| {
            sum.add(minute);
            sum
        })
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn activity(start: Instant) -> Activity {
        Activity(Ring::new(start).into())
    }

    #[test]
    fn the_hour_sums_its_minutes_and_forgets_older_ones() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let activity = activity(start);
        activity.ended(Class::Success, 50, at(1));
        activity.ended(Class::Retry, 20, at(61));
        activity.stored(7, 5, at(62));
        activity.began(Duration::from_secs(3), at(62));
        let hour = activity.hour(at(100));
        assert_eq!((hour.attempts(), hour.messages, hour.snapshots, hour.changes), (2, 70, 7, 5));
        assert_eq!((hour.calls[Class::Retry as usize], hour.latest_by), (1, Duration::from_secs(3)));
        assert_eq!(activity.minutes(at(100)).len(), 2);
        assert_eq!(activity.hour(at(3_600)).attempts(), 1, "the first minute is over an hour old");
        assert_eq!(activity.hour(at(9_999_999)), Minute::default());
        assert_eq!(activity.minutes(at(9_999_999)).len(), MINUTES);
    }

    #[test]
    fn the_rate_is_that_of_the_last_ten_seconds() {
        let start = Instant::now();
        let activity = activity(start);
        (0..100).for_each(|call| activity.sent(start + Duration::from_millis(call * 100)));
        assert!((activity.rate(start + Duration::from_millis(9_999)) - 10.0).abs() < 0.11);
        assert!(activity.rate(start + Duration::from_secs(30)).abs() < f64::EPSILON);
    }

    proptest! {
        #[test]
        fn the_highest_second_is_that_of_all_windows(
            gaps in proptest::collection::vec(prop_oneof![9 => 0_u64..400, 1 => 9_000_u64..20_000], 1..80),
        ) {
            let start = Instant::now();
            let activity = activity(start);
            let times: Vec<Instant> = gaps.iter().scan(start, |at, gap| {
                *at += Duration::from_millis(*gap);
                Some(*at)
            }).collect();
            times.iter().for_each(|at| activity.sent(*at));
            let in_window = |end: &Instant| times.iter().filter(|at| **at <= *end && **at + SECOND > *end).count();
            let highest = times.iter().map(in_window).max().unwrap();
            prop_assert_eq!(activity.hour(*times.last().unwrap()).highest_second, highest);
        }
    }
}
