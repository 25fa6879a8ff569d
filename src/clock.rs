//! The clocks, read at the edge and nowhere else. Decisions take `now` as an argument instead.
//!
//! - [`Clock`] tells the time of the **database**. What is stored is dated by it, and what is compared with stored times is
//!   too: so a daemon, a successor on another machine and an analyst's `now()` mean the same. While the database's clock is
//!   astray it goes on as before.
//! - [`uptime`] measures durations. It goes on while the machine is suspended.
//! - [`now`] is the clock of this machine. It is for what the world outside goes by: signatures, certificates, the log.

mod database;

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{SubsecRound, TimeDelta, Utc};
use rustix::time::{ClockId, clock_gettime};

pub use self::database::{APART, DatabaseClock, Doubt, Moment, Reading};
use crate::{domain::Timestamp, log_throttle::LogThrottle};

/// The time of this machine's clock, to the microsecond that Postgres keeps.
#[expect(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
pub fn now() -> Timestamp {
    Utc::now().trunc_subsecs(6)
}

/// The time for measuring durations, which goes on while the machine is suspended. It never goes back.
///
/// `Instant::now` is CLOCK_MONOTONIC on Linux, which stands still meanwhile. The two must not be compared with each other.
pub fn uptime() -> Instant {
    Instant::now() + suspended()
}

/// How long the machine has been suspended since it was started: what CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC. It never
/// goes back.
pub fn suspended() -> Duration {
    static MOST: AtomicU64 = AtomicU64::new(0);
    let micros = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_nsec.unsigned_abs() / 1_000
    };
    // In this order the time between the two readings makes it less and never more, and the largest is the truest.
    let boottime = micros(ClockId::Boottime);
    let ahead = boottime.saturating_sub(micros(ClockId::Monotonic));
    Duration::from_micros(MOST.fetch_max(ahead, Ordering::Relaxed).max(ahead))
}

/// The time of the database, as this process knows it, beside the clock of this machine.
#[derive(Debug)]
pub struct Clock {
    wall: fn() -> Timestamp,
    database: Mutex<DatabaseClock>,
    /// How often the database's clock was set.
    steps: Mutex<LogThrottle>,
}

impl Clock {
    /// A clock that has not heard of the database yet. `wall` reads the clock of this machine: [`now`], but for tests.
    pub fn new(wall: fn() -> Timestamp) -> Self {
        Self { wall, database: Mutex::default(), steps: Mutex::default() }
    }

    /// The database's time. Before the first reading it is that of this machine.
    pub fn now(&self) -> Timestamp {
        self.at(uptime())
    }

    /// The database's time at `uptime`, some moments ago, to the microsecond that Postgres keeps.
    pub fn at(&self, uptime: Instant) -> Timestamp {
        let known = self.database().at(uptime);
        known
            .unwrap_or_else(|| {
                let ago = TimeDelta::from_std(self::uptime().saturating_duration_since(uptime)).unwrap_or_default();
                (self.wall)() - ago
            })
            .trunc_subsecs(6)
    }

    /// The database's times at two moments of an attempt: the first is no later than it was, and the last no earlier. Both by
    /// one view of the clock, however that is set meanwhile.
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

    /// How far this machine's clock is ahead of the database's; negative if it is behind.
    pub fn ahead(&self) -> TimeDelta {
        self.database().ahead((self.wall)(), uptime()).unwrap_or_default()
    }

    /// Why nothing may be decided by the time that can't be undone, if there is a reason.
    pub fn doubt(&self) -> Option<Doubt> {
        self.database().doubt((self.wall)(), uptime())
    }

    /// Takes in a reading of the database's clock.
    pub fn learn(&self, reading: Reading) {
        let step = self.database().learn(reading, (self.wall)());
        if let Some(step) = step
            && let Some(count) = self.steps.lock().unwrap_or_else(PoisonError::into_inner).happened(uptime())
        {
            let seconds = step.as_seconds_f64();
            tracing::warn!(seconds, count, "the clock of the database was set by {seconds:.3} s");
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
    fn uptime_never_goes_back_and_counts_what_the_kernel_counts_of_a_suspension() {
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
    fn before_the_first_reading_the_time_is_that_of_this_machine_and_afterwards_that_of_the_database() {
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
