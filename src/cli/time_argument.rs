//! A point in time on the command line. Never reads the clock.

use std::{str::FromStr, time::Duration};

use chrono::{NaiveDate, NaiveTime};
use receiptd::{domain::Timestamp, import::time};

/// Maximum age; anything older is a typo.
const OLDEST: Duration = Duration::from_secs(20 * 365 * 86_400);

/// A point in time, absolute or relative to now.
#[derive(Debug, Clone, Copy)]
pub enum TimeArgument {
    At(Timestamp),
    Ago(Duration),
}

impl TimeArgument {
    pub fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(time) => time,
            Self::Ago(age) => now - age,
        }
    }
}

impl FromStr for TimeArgument {
    type Err = String;

    /// Parses an age such as 30d, a date such as 2026-11-23 (midnight in UTC), or the formats of [`time`].
    fn from_str(text: &str) -> Result<Self, String> {
        let age = || humantime::parse_duration(text).ok().filter(|age| *age < OLDEST).map(Self::Ago);
        let date = || text.parse::<NaiveDate>().ok().map(|date| date.and_time(NaiveTime::MIN).and_utc().to_rfc3339());
        match age() {
            Some(age) => Ok(age),
            None => match time(&date().unwrap_or_else(|| text.to_owned())) {
                Ok(time) => Ok(Self::At(time)),
                Err(error) => Err(format!("{error}; or a day such as 2026-11-23, or an age such as 30d")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_day_or_an_age() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let read = |text: &str| text.parse::<TimeArgument>().map(|moment| moment.at(now).to_rfc3339());
        for (text, expected) in [
            ("2026-11-20T08:00:00+08:00", "2026-11-20T00:00:00+00:00"),
            ("2026-11-20", "2026-11-20T00:00:00+00:00"),
            ("1790000000", "2026-09-21T14:13:20+00:00"),
            ("30d", "2026-10-24T12:00:00+00:00"),
            ("1h 30m", "2026-11-23T10:30:00+00:00"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
        for bad in ["1000years", "+12026-11-20", "2026-13-01", "soon", ""] {
            assert!(read(bad).unwrap_err().contains("RFC 3339"), "{bad}");
        }
    }
}
