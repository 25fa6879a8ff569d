//! What polling will come to, hour by hour: from the calls on the schedule and the cadences. Pure.
//!
//! A call is made as often as its youngest message asks for, until that is expired. Messages that are yet to be sent come
//! into it as a steady stream. A cadence by cron expression fires as its expression says.

use chrono::TimeDelta;
use serde::Serialize;

use crate::{cadence::Cadences, domain::Timestamp};

/// Calls on the schedule that are alike: of one cadence, with youngest messages sent within the same minutes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cohort {
    /// The cadence that their groups name.
    pub cadence: Option<String>,
    /// When the youngest message of each was sent.
    pub sent_at: Timestamp,
    /// How many calls they are.
    pub calls: u32,
}

/// Messages that are yet to be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stream {
    /// So many calls' worth of messages come each hour: messages over those that share a call.
    pub calls_per_hour: u32,
}

/// What an hour comes to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hour {
    /// When it begins.
    pub from: Timestamp,
    /// Calls a second, on average.
    pub calls_per_second: f64,
    /// The same as a part of the limit.
    pub share: f64,
}

/// The hours from `now` on.
pub fn plan(
    cohorts: &[Cohort],
    stream: Stream,
    cadences: &Cadences,
    limit: u32,
    hours: u32,
    now: Timestamp,
) -> Vec<Hour> {
    // What comes within an hour comes in the middle of it.
    let sent_in = |number: u32| Cohort {
        cadence: None,
        sent_at: now + TimeDelta::hours(number.into()) + TimeDelta::minutes(30),
        calls: stream.calls_per_hour,
    };
    let hour = |number: u32| {
        let from = now + TimeDelta::hours(number.into());
        let calls_of = |cohort: &Cohort| {
            let cadence = cadences.of(cohort.cadence.as_deref());
            f64::from(cohort.calls) * cadence.polls_between(cohort.sent_at, from, from + TimeDelta::hours(1))
        };
        let known: f64 = cohorts.iter().map(calls_of).sum();
        let new: f64 = (0..=number).map(|earlier| calls_of(&sent_in(earlier))).sum();
        let calls_per_second = (known + new) / 3_600.0;
        Hour { from, calls_per_second, share: calls_per_second / f64::from(limit.max(1)) }
    };
    (0..hours).map(hour).collect()
}

/// When the limit is first used up, if it is.
pub fn saturates_at(hours: &[Hour]) -> Option<Timestamp> {
    hours.iter().find(|hour| hour.share >= 1.0).map(|hour| hour.from)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::cadence::Cadence;

    fn now() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn sent(minutes_ago: i64, calls: u32) -> Cohort {
        Cohort { cadence: None, sent_at: now() - TimeDelta::minutes(minutes_ago), calls }
    }

    fn shares(cohorts: &[Cohort], stream: Stream, hours: u32) -> Vec<f64> {
        plan(cohorts, stream, &Cadences::default(), 200, hours, now()).iter().map(|hour| hour.share).collect()
    }

    fn close(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    #[test]
    fn calls_are_made_as_often_as_their_tier_says_until_they_are_expired() {
        let hours = shares(&[sent(0, 12_000)], Stream::default(), 30 * 24 + 2);
        assert!(close(hours[0], 1.0), "12,000 calls a minute are 200 a second: {}", hours[0]);
        assert!(close(hours[1], 0.1) && close(hours[24], 12_000.0 / 3_600.0 / 200.0), "{} {}", hours[1], hours[24]);
        assert!(close(hours[30 * 24 + 1], 0.0), "expired");
    }

    #[test]
    fn a_tier_that_ends_within_an_hour_counts_for_its_part() {
        let hours = shares(&[sent(30, 1_200)], Stream::default(), 1);
        // Half an hour at 20 calls a second, half an hour at 2.
        assert!(close(hours[0], 11.0 / 200.0), "{}", hours[0]);
    }

    #[test]
    fn a_steady_stream_grows_until_as_many_expire_as_come() {
        let stream = Stream { calls_per_hour: 60 };
        let hours = shares(&[], stream, 24 * 31);
        assert!(hours.is_sorted(), "it only grows");
        assert!(close(hours[24 * 31 - 1], hours[24 * 31 - 5]), "and then no more");
        // 60 calls a minute for the first hour, and then less and less often.
        assert!(hours[0] * 200.0 < 1.0 && hours[2] * 200.0 > 1.0, "{:?}", &hours[..3]);
    }

    #[test]
    fn the_limit_is_used_up_from_the_first_hour_that_reaches_it() {
        let stream = Stream { calls_per_hour: 6_000 };
        let hours = plan(&[], stream, &Cadences::default(), 200, 100, now());
        let at = saturates_at(&hours).unwrap();
        assert!(hours.iter().all(|hour| (hour.share >= 1.0) == (hour.from >= at)));
        assert_eq!(saturates_at(&plan(&[], Stream::default(), &Cadences::default(), 200, 100, now())), None);
    }

    #[test]
    fn a_cron_expression_counts_as_often_as_it_fires() {
        let nightly = Cadence::by_cron("*/15 8-11 * * *", Duration::from_secs(86_400), true, now()).unwrap();
        let cadences = Cadences::new(BTreeMap::from([("default".to_owned(), nightly)]));
        let hours = plan(&[sent(0, 900)], Stream::default(), &cadences, 1, 24, now());
        let by_hour: Vec<f64> = hours.iter().map(|hour| hour.calls_per_second).collect();
        assert!(close(by_hour[0], 0.0) && close(by_hour[21], 1.0), "900 calls each quarter of an hour: {by_hour:?}");
    }
}
