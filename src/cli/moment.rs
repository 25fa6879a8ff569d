//! Moments as people write them on the command line.

use std::time::Duration;

use anyhow::Context;
use chrono::{NaiveDate, NaiveTime};
use receiptd::{domain::Timestamp, import::time};

/// Longer ago is a slip of the pen.
const LONGEST_AGO: Duration = Duration::from_secs(20 * 365 * 86_400);

/// Reads a moment: how long ago, as 2h; a UTC day, as 2026-11-23; or what [`time`] reads. `option` is where it stands.
pub fn moment(option: &str, text: &str, now: Timestamp) -> anyhow::Result<Timestamp> {
    let ago = humantime::parse_duration(text).ok().filter(|ago| *ago < LONGEST_AGO);
    let day = || text.parse::<NaiveDate>().ok().map(|day| day.and_time(NaiveTime::MIN).and_utc());
    match ago.map(|ago| now - ago).or_else(day) {
        Some(moment) => Ok(moment),
        None => time(text).with_context(|| format!("{option} can't be read")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_day_or_how_long_ago() {
        let now = "2026-11-23T12:00:00Z".parse().unwrap();
        let read =
            |text| moment("--from", text, now).map(|time| time.to_rfc3339()).map_err(|error| format!("{error:#}"));
        assert_eq!(read("2h"), Ok("2026-11-23T10:00:00+00:00".to_owned()));
        assert_eq!(read("2026-11-23T08:00:00+08:00"), Ok("2026-11-23T00:00:00+00:00".to_owned()));
        assert_eq!(read("2026-11-20"), Ok("2026-11-20T00:00:00+00:00".to_owned()));
        let error = read("yesterday").unwrap_err();
        assert!(error.contains("--from can't be read") && error.contains("RFC 3339"), "{error}");
        assert!(read("9999-99-99").is_err() && read("300000y").is_err());
    }
}
