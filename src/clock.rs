//! The clocks, which only this module reads. Decisions take `now` as an argument instead.
//!
//! - [`Clock`] has the time of the **database**. Everything that is stored or compared with stored times uses it, so
//!   that a daemon, its successor on another machine and an analyst's `now()` agree. While the database's clock is
//!   astray, it continues as before.
//! - [`uptime`] measures durations. It continues while the machine is suspended.
//! - [`now`] is this machine's clock, for the outside world: signatures, certificates, the log.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{SubsecRound, TimeDelta, Utc};
use rustix::time::{ClockId, clock_gettime};

use crate::{
    domain::Timestamp,
    logging::log_throttle::LogThrottle,
    rules::database_clock::{DatabaseClock, Doubt, Moment, Reading},
};

/// The time on this machine's clock, in microseconds like PostgreSQL's.
#[expect(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
pub fn now() -> Timestamp {
    Utc::now().trunc_subsecs(6)
}

/// The clock for durations, which continues while the machine is suspended. It never goes back.
///
/// `Instant::now` is CLOCK_MONOTONIC on Linux, which stops during a suspension. The two must not be compared with
/// each other.
pub fn uptime() -> Instant {
    Instant::now() + suspended()
}

/// Total time of suspensions since boot: the difference between CLOCK_BOOTTIME and CLOCK_MONOTONIC. It never
/// decreases.
pub fn suspended() -> Duration {
    static MOST: AtomicU64 = AtomicU64::new(0);
    let micros = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
    };
    // In this order, the time between the two readings can only decrease the difference, so the largest one is the
    // most accurate.
    let boottime = micros(ClockId::Boottime);
    let ahead = boottime.saturating_sub(micros(ClockId::Monotonic));
    Duration::from_micros(MOST.fetch_max(ahead, Ordering::Relaxed).max(ahead))
}

/// The database's time, as this process knows it, and this machine's clock.
#[derive(Debug)]
pub struct Clock {
    wall: fn() -> Timestamp,
    database: Mutex<DatabaseClock>,
    /// Throttles the log of clock steps.
    steps: Mutex<LogThrottle>,
}

impl Clock {
    /// A clock without a reading of the database's. `wall` reads this machine's clock: [`now`], except in tests.
    pub fn new(wall: fn() -> Timestamp) -> Self {
        Self { wall, database: Mutex::default(), steps: Mutex::default() }
    }

    /// The database's time. Before the first reading it is this machine's.
    pub fn now(&self) -> Timestamp {
        self.at(uptime())
    }

    /// The database's time at `uptime`, a moment ago, in microseconds like PostgreSQL's.
    pub fn at(&self, uptime: Instant) -> Timestamp {
        let known = self.database().at(uptime);
        known
            .unwrap_or_else(|| {
                let ago = TimeDelta::from_std(self::uptime().saturating_duration_since(uptime)).unwrap_or_default();
                (self.wall)() - ago
            })
            .trunc_subsecs(6)
    }

    /// The database's times at the two times of an attempt: the earliest possible for the first, the latest possible
    /// for the second. Both use the same state of the clock.
    pub fn interval(&self, from: Instant, until: Instant) -> (Timestamp, Timestamp) {
        let bounds = {
            let database = self.database();
            database.bounds(from).zip(database.bounds(until))
        };
        bounds.map_or_else(|| (self.at(from), self.at(until)), |((earliest, _), (_, latest))| (earliest, latest))
    }

    /// The database's time, and whether it is in doubt.
    pub fn moment(&self) -> Moment {
        Moment { time: self.now(), is_doubted: self.doubt().is_some() }
    }

    /// The time by which this machine's clock is ahead of the database's; negative if it is behind.
    pub fn ahead(&self) -> TimeDelta {
        self.database().ahead((self.wall)(), uptime()).unwrap_or_default()
    }

    /// Why nothing irreversible may be decided by the time, if so.
    pub fn doubt(&self) -> Option<Doubt> {
        self.database().doubt((self.wall)(), uptime())
    }

    /// Adds a reading of the database's clock.
    pub fn learn(&self, reading: Reading) {
        let step = self.database().learn(reading, (self.wall)());
        if let Some(step) = step
            && let Some(count) = self.steps.lock().unwrap_or_else(PoisonError::into_inner).happened(uptime())
        {
            let seconds = step.as_seconds_f64();
            tracing::warn!(seconds, count, "the database's clock was set by {seconds:.3} s");
        }
    }

    fn database(&self) -> MutexGuard<'_, DatabaseClock> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_never_goes_back_and_includes_suspension() {
        let mut last = uptime();
        for _ in 0..10_000 {
            let next = uptime();
            assert!(next >= last);
            last = next;
        }
        let time = |clock| {
            let time = clock_gettime(clock);
            Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
        };
        let truth = time(ClockId::Boottime).saturating_sub(time(ClockId::Monotonic));
        assert!(suspended().abs_diff(truth) < Duration::from_secs(1), "{:?} and {truth:?}", suspended());
    }

    #[test]
    fn the_first_database_reading_replaces_the_local_clock() {
        let clock = Clock::new(|| now() + TimeDelta::days(100));
        assert!((clock.now() - now() - TimeDelta::days(100)).abs() < TimeDelta::minutes(1));
        assert_eq!(clock.doubt(), None, "nothing to compare with");
        let (asked_at, database) = (uptime(), now());
        clock.learn(Reading { asked_at, answered_at: uptime(), database });
        assert!((clock.now() - now()).abs() < TimeDelta::minutes(1));
        assert!((clock.ahead() - TimeDelta::days(100)).abs() < TimeDelta::minutes(1));
        assert!(matches!(clock.doubt(), Some(Doubt::Apart(_))));
    }
}
