//! The database's clock as known to a process: its readings, and the time since.
//!
//! Pure. A reading bounds the time: the server read its clock after it was asked and before it answered. Readings
//! that agree narrow the bounds, so a quick one counts for more than a slow one. A reading that disagrees means that
//! the clock was set, and replaces them.
//!
//! A clock that was set by more than [`APART`] is astray if this machine's clock agreed with it before and was not
//! set: two clocks that agree are trusted over one, and time continues as before until they agree again.

use std::{
    fmt,
    time::{Duration, Instant},
};

use chrono::{SubsecRound, TimeDelta};

use crate::{domain::Timestamp, text::duration};

/// Maximum difference of two clocks that may both be right. A stored time further in the future comes from a wrong
/// clock.
pub const APART: TimeDelta = TimeDelta::minutes(1);

/// Time after which a clock that was set by more than [`APART`] is trusted again, without another step.
const BELIEVED_AFTER: Duration = Duration::from_secs(3_600);

/// Maximum drift between two clocks: 1/2,000, the kernel's maximum slew rate.
const DRIFT: u32 = 2_000;

/// A time on the database's clock to decide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The time.
    pub time: Timestamp,
    /// Whether there is a [`Doubt`]. If so, nothing irreversible is decided.
    pub is_doubted: bool,
}

impl From<Timestamp> for Moment {
    /// A time without doubt.
    fn from(time: Timestamp) -> Self {
        Self { time, is_doubted: false }
    }
}

/// A reading of the database's clock.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Time of the query, by [`crate::clock::uptime`].
    pub asked_at: Instant,
    /// Time of the answer.
    pub answered_at: Instant,
    /// The time in the answer.
    pub database: Timestamp,
}

/// The known state of the database's clock.
#[derive(Debug, Clone, Default)]
pub struct DatabaseClock {
    /// The time.
    known: Option<Bounds>,
    /// The time on the database's clock, if it is astray.
    astray: Option<Bounds>,
    /// The time by which this machine's clock was ahead at the last reading.
    ahead: TimeDelta,
    /// The last step by more than [`APART`] to a time without a witness, and when it was noticed.
    step: Option<(TimeDelta, Instant)>,
}

/// At `at` the database's time was between the other two.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    at: Instant,
    earliest: Timestamp,
    latest: Timestamp,
}

/// Why the time can't be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// This machine's clock is ahead of the database's by this much, or behind it. One of them is wrong.
    Apart(TimeDelta),
    /// The same, and only the database's was set: time continues as before.
    Astray(TimeDelta),
    /// The database's clock was recently set by this much.
    Stepped(TimeDelta),
}

impl Doubt {
    /// The difference of the clocks, or the step, as text.
    pub fn difference(&self) -> String {
        let (Self::Apart(by) | Self::Astray(by) | Self::Stepped(by)) = self;
        let is_forward = *by > TimeDelta::zero();
        let by = duration::roughly((by.abs() + TimeDelta::milliseconds(500)).to_std().unwrap_or_default());
        match (self, is_forward) {
            (Self::Apart(_) | Self::Astray(_), true) => format!("this machine's clock is {by} ahead of the database's"),
            (Self::Apart(_) | Self::Astray(_), false) => format!("this machine's clock is {by} behind the database's"),
            (Self::Stepped(_), true) => format!("the database's clock was set forward by {by} within the last hour"),
            (Self::Stepped(_), false) => format!("the database's clock was set back by {by} within the last hour"),
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let difference = self.difference();
        let dated_by = match self {
            Self::Apart(_) | Self::Stepped(_) => "the database's clock",
            Self::Astray(_) => "this machine's clock, since only the database's was set",
        };
        write!(
            f,
            "{difference}: times are stored by {dated_by}; nothing expires or is removed until the clocks agree: \
             check both clocks (NTP)"
        )
    }
}

impl Bounds {
    fn middle(self) -> Timestamp {
        self.earliest + (self.latest - self.earliest) / 2
    }

    /// The bounds at a later time.
    fn later(self, at: Instant) -> Self {
        let passed = at.saturating_duration_since(self.at);
        let (passed, drift) = (delta(passed), drift(passed));
        Self { at, earliest: self.earliest + passed - drift, latest: self.latest + passed + drift }
    }

    /// The intersection of the bounds, unless they contradict each other.
    fn and(self, other: Self) -> Option<Self> {
        let (earliest, latest) = (self.earliest.max(other.earliest), self.latest.min(other.latest));
        (earliest <= latest).then_some(Self { earliest, latest, ..self })
    }

    /// The time at `at`.
    fn time(self, at: Instant) -> Timestamp {
        let (passed, ago) = (at.saturating_duration_since(self.at), self.at.saturating_duration_since(at));
        self.middle() + delta(passed) - delta(ago)
    }
}

impl DatabaseClock {
    /// Adds a reading, at which this machine's clock showed `wall`. Returns by how much the database's clock was set
    /// since the previous one, if it was.
    pub fn learn(&mut self, reading: Reading, wall: Timestamp) -> Option<TimeDelta> {
        let Reading { asked_at, answered_at: at, database } = reading;
        let took = at.saturating_duration_since(asked_at);
        let read = Bounds { at, earliest: database, latest: database + delta(took + took / DRIFT) };
        let Some(known) = self.known else {
            (self.known, self.ahead) = (Some(read), wall - read.middle());
            return None;
        };
        if at < known.at {
            return None;
        }
        let known = known.later(at);
        let shown = self.astray.map_or(known, |astray| astray.later(at));
        let same = shown.and(read);
        let step = if same.is_some() { TimeDelta::zero() } else { read.middle() - shown.middle() };
        self.astray = None;
        if let Some(agreed) = known.and(read) {
            self.known = Some(agreed);
        } else if (read.middle() - known.middle()).abs() > APART && (wall - known.middle()).abs() <= APART {
            (self.known, self.astray) = (Some(known), Some(same.unwrap_or(read)));
        } else {
            self.known = Some(read);
            self.note_step(read.middle() - known.middle(), wall - read.middle(), at);
        }
        self.ahead = wall - self.at(at)?;
        (!step.is_zero()).then_some(step)
    }

    /// Notes that the time has changed by `step` at `at`, and that this machine's clock is `ahead` of it now. If that
    /// clock was not set and shows the new time, it is a witness: the time is right now, and was wrong before.
    fn note_step(&mut self, step: TimeDelta, ahead: TimeDelta, at: Instant) {
        let is_witness = (ahead - (self.ahead - step)).abs() <= APART && ahead.abs() <= APART;
        if step.abs() > APART {
            self.step = (!is_witness).then_some((step, at));
        }
    }

    /// The time at `at`, if there was a reading, in microseconds like PostgreSQL's.
    pub fn at(&self, at: Instant) -> Option<Timestamp> {
        Some(self.known?.time(at).trunc_subsecs(6))
    }

    /// The time by which a clock that shows `wall` at `at` is ahead of the database's, if there was a reading;
    /// negative if it is behind.
    pub fn ahead(&self, wall: Timestamp, at: Instant) -> Option<TimeDelta> {
        Some(wall - self.astray.or(self.known)?.time(at))
    }

    /// The earliest and latest possible time of the database at `at`, if there was a reading.
    pub fn bounds(&self, at: Instant) -> Option<(Timestamp, Timestamp)> {
        let known = self.known?;
        let (passed, ago) = (at.saturating_duration_since(known.at), known.at.saturating_duration_since(at));
        let (shift, drift) = (delta(passed) - delta(ago), drift(passed + ago));
        Some((known.earliest + shift - drift, known.latest + shift + drift))
    }

    /// Why the time at `at` can't be trusted, if this machine's clock shows `wall` then.
    pub fn doubt(&self, wall: Timestamp, at: Instant) -> Option<Doubt> {
        let ahead = self.ahead(wall, at)?;
        if ahead.abs() > APART {
            return Some(if self.astray.is_some() { Doubt::Astray(ahead) } else { Doubt::Apart(ahead) });
        }
        let (step, stepped_at) = self.step?;
        (at.saturating_duration_since(stepped_at) < BELIEVED_AFTER).then_some(Doubt::Stepped(step))
    }
}

/// Maximum drift between two clocks in this time.
fn drift(span: Duration) -> TimeDelta {
    delta(span / DRIFT) + TimeDelta::microseconds(1)
}

/// In microseconds, like stored times.
fn delta(span: Duration) -> TimeDelta {
    TimeDelta::microseconds(i64::try_from(span.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noon() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn millis(millis: i64) -> TimeDelta {
        TimeDelta::milliseconds(millis)
    }

    /// A reading asked for at `asked` ms after the start, which takes `took` ms.
    fn reading(start: Instant, asked: u64, took: u64, database: Timestamp) -> Reading {
        let asked_at = start + Duration::from_millis(asked);
        Reading { asked_at, answered_at: asked_at + Duration::from_millis(took), database }
    }

    /// Adds a reading while this machine's clock shows the same time.
    fn learn(clock: &mut DatabaseClock, reading: Reading) -> Option<TimeDelta> {
        clock.learn(reading, reading.database)
    }

    #[test]
    fn a_quick_reading_counts_for_more_than_a_slow_one() {
        let (start, mut clock) = (Instant::now(), DatabaseClock::default());
        assert_eq!(clock.at(start), None);
        learn(&mut clock, reading(start, 0, 10, noon() + millis(4)));
        learn(&mut clock, reading(start, 2_000, 1_000, noon() + millis(2_900)));
        let at = clock.at(start + Duration::from_secs(4)).unwrap();
        assert!((at - noon() - millis(4_000)).abs() < millis(10), "{at}");
    }

    #[test]
    fn a_step_of_both_clocks_is_trusted_after_an_hour() {
        for (step, said) in [(TimeDelta::days(100), "set forward by 100d"), (-TimeDelta::days(100), "set back by 100d")]
        {
            let (start, mut clock) = (Instant::now(), DatabaseClock::default());
            learn(&mut clock, reading(start, 0, 2, noon()));
            let stepped = learn(&mut clock, reading(start, 2_000, 2, noon() + millis(2_000) + step)).unwrap();
            assert!((stepped - step).abs() < millis(10), "{stepped}");
            let at = start + Duration::from_millis(2_010);
            let now = clock.at(at).unwrap();
            assert!((now - noon() - millis(2_010) - step).abs() < millis(10));
            learn(&mut clock, reading(start, 2_020, 2, noon() + millis(2_020) + step));
            let doubt = clock.doubt(now, at).expect("it was just set");
            assert!(doubt.to_string().contains(said), "{doubt}");
            let later = at + BELIEVED_AFTER;
            assert_eq!(clock.doubt(clock.at(later).unwrap(), later), None);
        }
    }

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn wall(seconds: i64) -> Timestamp {
        noon() + TimeDelta::seconds(seconds)
    }

    #[test]
    fn a_step_to_the_local_time_is_trusted_at_once() {
        for wrong in [TimeDelta::days(20), -TimeDelta::days(20)] {
            let (start, mut clock) = (Instant::now(), DatabaseClock::default());
            clock.learn(reading(start, 0, 2, noon() + wrong), wall(0));
            assert!(matches!(clock.doubt(wall(3), at(start, 3)), Some(Doubt::Apart(_))));
            assert!((clock.at(start).unwrap() - noon() - wrong).abs() < millis(10), "there is no other witness");
            assert!(clock.learn(reading(start, 4_000, 2, wall(4)), wall(4)).is_some());
            assert_eq!(clock.doubt(wall(5), at(start, 5)), None);
        }
    }

    #[test]
    fn steps_of_the_database_clock_alone_are_not_followed() {
        let (start, mut clock) = (Instant::now(), DatabaseClock::default());
        clock.learn(reading(start, 0, 2, noon()), wall(0));
        for (seconds, days) in [(2, 100), (4, -100), (6, -100), (8, 20)] {
            let shows = wall(seconds) + TimeDelta::days(days);
            let was_set = clock.learn(reading(start, seconds.unsigned_abs() * 1_000, 2, shows), wall(seconds));
            assert_eq!(was_set.is_some(), seconds != 6);
            let (at, now) = (at(start, seconds.unsigned_abs()), wall(seconds));
            assert!((clock.at(at).unwrap() - now).abs() < millis(20));
            let Some(Doubt::Astray(ahead)) = clock.doubt(now, at) else { panic!("{days} days off") };
            assert!((ahead + TimeDelta::days(days)).abs() < millis(20), "{ahead}");
        }
        let said = clock.doubt(wall(9), at(start, 9)).unwrap().to_string();
        assert!(
            said.starts_with("this machine's clock is 20d behind the database's: times are stored by this"),
            "{said}"
        );
        assert!(clock.learn(reading(start, 10_000, 2, wall(10)), wall(10)).is_some());
        assert_eq!(clock.doubt(wall(11), at(start, 11)), None);
    }

    #[test]
    fn an_astray_clock_is_followed_once_the_local_one_agrees() {
        let (start, mut clock, step) = (Instant::now(), DatabaseClock::default(), TimeDelta::days(-3));
        clock.learn(reading(start, 0, 2, noon()), wall(0));
        clock.learn(reading(start, 2_000, 2, wall(2) + step), wall(2));
        clock.learn(reading(start, 4_000, 2, wall(4) + step), wall(4) + step);
        assert!((clock.at(at(start, 4)).unwrap() - wall(4) - step).abs() < millis(10));
        assert!(matches!(clock.doubt(wall(4) + step, at(start, 4)), Some(Doubt::Stepped(_))));
    }

    #[test]
    fn a_step_of_seconds_is_followed_and_no_reason_for_doubt() {
        let (start, mut clock) = (Instant::now(), DatabaseClock::default());
        learn(&mut clock, reading(start, 0, 2, noon()));
        assert!(learn(&mut clock, reading(start, 2_000, 2, noon() + millis(-1_000))).is_some());
        let at = start + Duration::from_secs(3);
        let now = clock.at(at).unwrap();
        assert!((now - noon()).abs() < millis(10), "{now}");
        assert_eq!(clock.doubt(now, at), None);
    }

    #[test]
    fn clocks_over_a_minute_apart_are_doubted() {
        let (start, mut clock) = (Instant::now(), DatabaseClock::default());
        assert_eq!(clock.doubt(noon(), start), None, "nothing was read yet");
        learn(&mut clock, reading(start, 0, 0, noon()));
        for (ahead, doubted) in [(59, false), (-59, false), (61, true), (-61, true), (8_640_000, true)] {
            let ahead = TimeDelta::seconds(ahead);
            assert_eq!(clock.doubt(noon() + ahead, start), doubted.then_some(Doubt::Apart(ahead)));
        }
        let said = Doubt::Apart(TimeDelta::days(-100)).to_string();
        assert!(said.starts_with("this machine's clock is 100d behind the database's: "), "{said}");
    }

    #[test]
    fn a_late_reading_is_not_taken_for_a_step() {
        let (start, mut clock) = (Instant::now(), DatabaseClock::default());
        learn(&mut clock, reading(start, 5_000, 2, noon()));
        assert_eq!(learn(&mut clock, reading(start, 1_000, 2, noon() - millis(4_000))), None);
        assert_eq!(clock.at(start + Duration::from_millis(5_002)), Some(noon() + millis(1)));
    }

    proptest! {
        #[test]
        fn the_time_errs_by_at_most_half_of_the_last_round_trip(
            readings in proptest::collection::vec((0_u64..5_000, 0_u64..3_000, 0.0..=1.0), 1..50),
            ppm in -400_i64..=400,
        ) {
            let (start, mut clock, mut passed) = (Instant::now(), DatabaseClock::default(), 0_u64);
            let truth = |millis: u64| {
                let micros = i64::try_from(millis * 1_000).unwrap();
                noon() + TimeDelta::microseconds(micros + micros * ppm / 1_000_000)
            };
            for (pause, took, read_at) in readings {
                passed += pause;
                let read_at = (took as f64 * read_at) as u64;
                prop_assert_eq!(learn(&mut clock, reading(start, passed, took, truth(passed + read_at))), None);
                passed += took;
                let now = clock.at(start + Duration::from_millis(passed)).unwrap();
                for at in [passed, passed + pause, passed.saturating_sub(pause)] {
                    let (earliest, latest) = clock.bounds(start + Duration::from_millis(at)).unwrap();
                    prop_assert!(earliest <= truth(at) && truth(at) <= latest);
                }
                prop_assert_eq!(now.timestamp_subsec_nanos() % 1_000, 0, "what is stored and read again is the same");
                let most = TimeDelta::microseconds(i64::try_from(took * 500 + 10).unwrap() + took as i64);
                prop_assert!((now - truth(passed)).abs() <= most, "{} of {most}", now - truth(passed));
            }
        }
    }
}
