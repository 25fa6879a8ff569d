//! A point in time as people write it on the command line. It never reads the clock.

use std::{str::FromStr, time::Duration};

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime};
use receiptd::domain::Timestamp;

/// No age is longer.
const OLDEST: Duration = Duration::from_secs(50 * 365 * 86_400);

/// A point in time, or how long ago it was.
#[derive(Debug, Clone, Copy)]
pub enum Moment {
    At(Timestamp),
    Ago(Duration),
}

impl Moment {
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(age) => now - age,
        }
    }
}

impl FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let age = || humantime::parse_duration(text).ok().filter(|age| *age < OLDEST).map(Self::Ago);
        let date = || text.parse::<NaiveDate>().ok().map(|date| Self::At(date.and_time(NaiveTime::MIN).and_utc()));
        let time = || DateTime::parse_from_rfc3339(text).ok().map(|time| Self::At(time.to_utc()));
        // Years of four digits are those that files and the database can both hold.
        let is_usual = |moment: &Self| match moment {
            Self::At(time) => (1..=9_999).contains(&time.year()),
            Self::Ago(_) => true,
        };
        time()
            .or_else(date)
            .or_else(age)
            .filter(is_usual)
            .ok_or("give RFC 3339, as 2026-11-23T08:00:00Z, a date, as 2026-11-23, or an age, as 30d")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_date_or_an_age() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let read = |text: &str| text.parse::<Moment>().map(|moment| moment.at(now).to_rfc3339()).ok();
        for (text, expected) in [
            ("2026-11-20T08:00:00+08:00", Some("2026-11-20T00:00:00+00:00")),
            ("2026-11-20", Some("2026-11-20T00:00:00+00:00")),
            ("30d", Some("2026-10-24T12:00:00+00:00")),
            ("1h 30m", Some("2026-11-23T10:30:00+00:00")),
            ("1000years", None),
            ("+12026-11-20", None),
            ("2026-13-01", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(read(text).as_deref(), expected, "{text}");
        }
    }
}
