//! The load forecast, hour by hour, from the calls on the schedule and the cadences. Pure.
//!
//! Calls are as frequent as their messages require until they expire, if the messages stay unread. Future messages are
//! a steady stream: each joins its group's newest slot while that has room, so a group has one slot that stays young,
//! and full ones that age. A cron cadence fires as its expression says. In an hour in which more is due than the limit
//! allows, all other intervals are stretched so that everything fits.

use std::time::Duration;

use chrono::TimeDelta;
use serde::Serialize;

use crate::{
    domain::Timestamp,
    rules::{
        cadence::{Cadence, Cadences, Held, Pace},
        polling::stretch,
    },
};

/// Similar calls on the schedule: the same cadence, and youngest messages sent within the same minutes.
#[derive(Debug, Clone, PartialEq)]
pub struct Cohort {
    /// The cadence named by their groups.
    pub cadence: Option<String>,
    /// The messages of each call.
    pub held: Held,
    /// Number of calls.
    pub calls: u32,
}

/// Future messages: a steady stream, evenly spread over groups without messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stream {
    /// Number of messages per hour.
    pub messages_per_hour: u32,
    /// Number of groups.
    pub groups: u32,
    /// Maximum number of messages per call.
    pub batch_size: u32,
}

/// The forecast for an hour.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hour {
    /// Beginning of the hour.
    pub from: Timestamp,
    /// Average number of calls per second.
    pub calls_per_second: f64,
    /// The same as a fraction of the limit.
    pub share: f64,
    /// Factor by which intervals are longer while more is due than the limit allows; 1 if everything fits. Cron
    /// expressions are followed exactly.
    pub stretch: f64,
}

/// The cost and benefit of another pace, as factors.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OtherPace {
    /// The pace, in seconds.
    pub pace_seconds: f64,
    /// Calls in the hours of the plan, without a stretch.
    pub calls: f64,
    /// Width of the intervals in which milestones are reached: the time between two polls.
    pub widths: f64,
}

/// The hours from `now` on.
pub fn plan(
    cohorts: &[Cohort],
    stream: Option<Stream>,
    cadences: &Cadences,
    limit: u32,
    hours: u32,
    now: Timestamp,
) -> Vec<Hour> {
    let hour = |number: u32| {
        let from = now + TimeDelta::hours(number.into());
        let known = cohorts.iter().map(|cohort| {
            let cadence = cadences.of(cohort.cadence.as_deref());
            let polls = cadence.polls_between(&cohort.held, from, from + TimeDelta::hours(1));
            (cadence, f64::from(cohort.calls) * polls)
        });
        let new = stream.map(|stream| (cadences.of(None), stream.calls(number, cadences.of(None), now)));
        let (mut demand, mut by_cron) = (0.0, 0.0);
        for (cadence, calls) in known.chain(new) {
            *(if cadence.is_stretched() { &mut demand } else { &mut by_cron }) += calls / 3_600.0;
        }
        let limit = f64::from(limit.max(1));
        let stretch = stretch::wanted(demand, by_cron, limit);
        let calls_per_second = (demand / stretch + by_cron).min(limit);
        Hour { from, calls_per_second, share: calls_per_second / limit, stretch }
    };
    (0..hours).map(hour).collect()
}

/// The cost and benefit of half and twice the pace of the default cadence, in the hours from `now` on; empty if it has
/// no pace or there are no calls.
pub fn other_paces(
    cohorts: &[Cohort],
    stream: Option<Stream>,
    cadences: &Cadences,
    hours: u32,
    now: Timestamp,
) -> Vec<OtherPace> {
    let Some(pace) = cadences.of(None).pace().copied() else { return vec![] };
    let calls = |cadences: &Cadences| -> f64 {
        plan(cohorts, stream, cadences, u32::MAX, hours, now).iter().map(|hour| hour.calls_per_second).sum()
    };
    let present = calls(cadences);
    let other = |factor: f64| {
        let other = Pace { pace: pace.pace.mul_f64(factor), ..pace };
        let calls = calls(&cadences.with_pace(other).ok()?) / present;
        let other = OtherPace { pace_seconds: other.pace.as_secs_f64(), calls, widths: 1.0 / calls };
        (present > 0.0 && calls > 0.0).then_some(other)
    };
    [0.5, 2.0].into_iter().filter_map(other).collect()
}

impl Stream {
    /// The calls in the hour with this number from `now` on, for the slot that each group is filling and for full
    /// slots.
    fn calls(&self, number: u32, cadence: &Cadence, now: Timestamp) -> f64 {
        let from = now + TimeDelta::hours(number.into());
        let until = from + TimeDelta::hours(1);
        let filling = f64::from(self.groups) * cadence.polls_while_joined(self.gap(), self.batch_size, from, until);
        let full = (0..=number).map(|earlier| {
            let Some((slots, filled_at)) = self.filled_in(earlier, cadence) else { return 0.0 };
            let filled_at = now + seconds(filled_at);
            // The next message has just come, into a slot of its own: the youngest one here is as old as the gap.
            let youngest = filled_at - TimeDelta::from_std(self.gap()).unwrap_or(TimeDelta::MAX);
            let oldest = filled_at - seconds(self.gap().as_secs_f64() * f64::from(self.batch_size));
            let held = Held { youngest, oldest, unread: self.batch_size.into() };
            slots * cadence.polls_between(&held, from.max(filled_at), until)
        });
        filling + full.sum::<f64>()
    }

    /// The number of slots that become full in the hour with this number, and when, in seconds: averages, since
    /// groups fill theirs at different times.
    fn filled_in(&self, number: u32, cadence: &Cadence) -> Option<(f64, f64)> {
        let to_fill = self.gap().as_secs_f64() * f64::from(self.batch_size);
        let (begin, end) = (to_fill.max(f64::from(number) * 3_600.0), f64::from(number + 1) * 3_600.0);
        // If messages expire before their slot is full, it always has room.
        let is_filled = begin < end && to_fill <= cadence.expires_after().as_secs_f64();
        let slots = f64::from(self.groups) * (end - begin) / to_fill;
        is_filled.then_some((slots, (begin + end) / 2.0))
    }

    /// Time between two messages of a group.
    fn gap(&self) -> Duration {
        Duration::from_secs_f64(3_600.0 * f64::from(self.groups) / f64::from(self.messages_per_hour.max(1)))
    }
}

fn seconds(seconds: f64) -> TimeDelta {
    TimeDelta::microseconds((seconds * 1e6) as i64)
}

/// The time from which more is due than the limit allows, if any.
pub fn saturates_at(hours: &[Hour]) -> Option<Timestamp> {
    hours.iter().find(|hour| hour.stretch > 1.0 || hour.share >= 1.0).map(|hour| hour.from)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    fn sent(minutes_ago: i64, calls: u32) -> Cohort {
        let sent_at = now() - TimeDelta::minutes(minutes_ago);
        Cohort { cadence: None, held: Held { youngest: sent_at, oldest: sent_at, unread: 1.0 }, calls }
    }

    fn shares(cohorts: &[Cohort], hours: u32) -> Vec<f64> {
        plan(cohorts, None, &Cadences::of_tiers(), 200, hours, now())
            .iter()
            .map(|hour| hour.share * hour.stretch)
            .collect()
    }

    /// The calls of each hour, for messages sent to this many groups.
    fn stream(messages_per_hour: u32, groups: u32, hours: u32) -> Vec<f64> {
        let stream = Stream { messages_per_hour, groups, batch_size: 50 };
        let hours = plan(&[], Some(stream), &Cadences::of_tiers(), 200, hours, now());
        hours.iter().map(|hour| hour.calls_per_second * 3_600.0).collect()
    }

    fn close(one: f64, other: f64) -> bool {
        (one - other).abs() < 1e-9
    }

    #[test]
    fn the_plan_follows_the_tiers_until_messages_expire() {
        let hours = shares(&[sent(0, 12_000)], 30 * 24 + 2);
        assert!(close(hours[0], 1.0), "12,000 calls a minute are 200 a second: {}", hours[0]);
        assert!(close(hours[1], 0.1) && close(hours[24], 12_000.0 / 3_600.0 / 200.0), "{} {}", hours[1], hours[24]);
        assert!(close(hours[30 * 24 + 1], 0.0), "expired");
    }

    #[test]
    fn a_tier_that_ends_within_an_hour_counts_for_its_part() {
        let hours = shares(&[sent(30, 1_200)], 1);
        // Half an hour at 20 calls per second, half an hour at 2.
        assert!(close(hours[0], 11.0 / 200.0), "{}", hours[0]);
    }

    #[test]
    fn hourly_messages_fill_one_young_slot_and_slots_that_age() {
        // The young slot is polled every minute for 720 hours. From hour 50 on, 1 slot is filled in 50 hours, with a
        // youngest message that is an hour old; such a slot has 374 polls left, of which those within the 30 days are
        // made, 194,756 / 50 in all: 43,200 + 3,895 polls in 720 hours.
        let a_second = |groups| stream(groups, groups, 720).iter().sum::<f64>() / 720.0 / 3_600.0;
        assert!((a_second(20) - 20.0 * 47_095.0 / 720.0 / 3_600.0).abs() < 0.002, "0.363 and not {}", a_second(20));
        assert!((a_second(1_000) - 18.2).abs() < 0.1, "{}", a_second(1_000));
    }

    #[test]
    fn where_messages_are_many_full_slots_are_most_of_it() {
        let hours = stream(3_000, 1, 31 * 24);
        // 60 slots per hour. In the first hour the young slot is polled 60 times, and the slots filled meanwhile from
        // then on, for half an hour on average except in the first minute.
        assert!((hours[0] - (60.0 + 60.0 * 30.0)).abs() < 70.0, "{}", hours[0]);
        // In the end as many slots expire as are filled, each after 60 + 138 + 144 + 92 polls.
        assert!((hours[31 * 24 - 1] - (60.0 + 60.0 * 434.0)).abs() < 70.0, "{}", hours[31 * 24 - 1]);
        assert!(hours.is_sorted_by(|one, next| one <= &(next + 1e-6)), "it only grows");
    }

    #[test]
    fn a_slot_of_rare_messages_ages_between_them_and_never_fills() {
        // One in two hours: an hour with a poll per minute, and one with a poll per ten minutes.
        assert!(stream(10, 20, 50).iter().all(|calls| close(*calls, 20.0 * 33.0)));
        // One in 20 hours: after 30 days the slot has 36 messages, and they begin to expire.
        let hours = stream(1, 20, 31 * 24);
        assert!(hours.iter().all(|calls| close(*calls, 60.0 + 19.0 * 6.0)), "{hours:?}");
    }

    #[test]
    fn the_limit_is_used_up_from_the_first_hour_that_reaches_it() {
        let stream = Stream { messages_per_hour: 300_000, groups: 100, batch_size: 50 };
        let hours = plan(&[], Some(stream), &Cadences::of_tiers(), 200, 100, now());
        let at = saturates_at(&hours).unwrap();
        assert!(hours.iter().all(|hour| (hour.stretch > 1.0) == (hour.from >= at)));
        assert_eq!(saturates_at(&plan(&[], None, &Cadences::of_tiers(), 200, 100, now())), None);
    }

    #[test]
    fn what_does_not_fit_is_stretched_until_it_does() {
        // 12,000 calls a minute in the first hour, a tenth of that in the second.
        let hours = plan(&[sent(0, 12_000)], None, &Cadences::of_tiers(), 50, 2, now());
        assert!(close(hours[0].stretch, 4.0 / 0.95) && close(hours[0].calls_per_second, 47.5), "{hours:?}");
        assert!(close(hours[0].share, 0.95) && close(hours[1].stretch, 1.0), "{hours:?}");
    }

    #[test]
    fn cron_expressions_are_not_stretched() {
        let often = Cadence::by_cron("* * * * *", Duration::from_secs(86_400), true, now()).unwrap();
        let tiers = Cadences::of_tiers().of(None).clone();
        let cadences = Cadences::new([("default".to_owned(), tiers), ("often".to_owned(), often)].into());
        let by_cron = |calls| Cohort { cadence: Some("often".to_owned()), ..sent(0, calls) };
        let first = |cohorts: &[Cohort], limit| plan(cohorts, None, &cadences, limit, 1, now()).remove(0);
        // 10 calls a second by the expression and 40 by tiers, with 38 to plan with.
        let mixed = first(&[by_cron(600), sent(0, 2_400)], 40);
        assert!(close(mixed.stretch, 40.0 / 28.0) && close(mixed.calls_per_second, 38.0), "{mixed:?}");
        let fits = first(&[by_cron(600)], 11);
        assert!(close(fits.stretch, 1.0) && saturates_at(&[fits]).is_none());
        let alone = first(&[by_cron(600)], 5);
        assert!(close(alone.stretch, 1.0) && close(alone.share, 1.0), "{alone:?}");
        assert_eq!(saturates_at(&[alone]), Some(now()));
    }

    #[test]
    fn another_pace_costs_and_gives_in_proportion() {
        let mut cohort = sent(120, 100);
        cohort.held.unread = 1.0;
        let [half, twice] = other_paces(&[cohort], None, &Cadences::default(), 10, now())[..] else { panic!() };
        assert!(close(half.pace_seconds, 360.0) && close(half.calls, 2.0) && close(half.widths, 0.5), "{half:?}");
        assert!((0.5..0.65).contains(&twice.calls) && close(twice.widths * twice.calls, 1.0), "{twice:?}");
        assert!(other_paces(&[sent(0, 1)], None, &Cadences::of_tiers(), 10, now()).is_empty());
        assert!(other_paces(&[], None, &Cadences::default(), 10, now()).is_empty());
    }

    #[test]
    fn twice_the_pace_halves_the_calls() {
        let calls = |cadences: &Cadences, unread| {
            let mut cohort = sent(120, 100);
            cohort.held.unread = unread;
            plan(&[cohort], None, cadences, 200, 10, now()).iter().map(|hour| hour.calls_per_second).sum::<f64>() * 36.0
        };
        let one = calls(&Cadences::default(), 1.0);
        // Between 2 and 12 hours old a lone message is asked for after 20 minutes to 78.
        assert!((600.0 / 78.0..600.0 / 20.0).contains(&one), "{one}");
        assert!(close(calls(&Cadences::default(), 4.0), 2.0 * one), "a slot of four is worth twice the calls");
        let slower = Pace { pace: 2 * Pace::DEFAULT_PACE, patience: 1_000, fastest: Duration::from_secs(60) };
        let slower = Cadence::built_in(true).at_pace(slower).unwrap();
        assert!(close(calls(&Cadences::new(BTreeMap::from([("default".to_owned(), slower)])), 1.0), one / 2.0));
    }

    #[test]
    fn the_plan_polls_a_steady_stream_when_its_cron_fires() {
        let nightly = Cadence::by_cron("*/15 8-11 * * *", Duration::from_secs(86_400), true, now()).unwrap();
        let cadences = Cadences::new(BTreeMap::from([("default".to_owned(), nightly)]));
        let stream = Stream { messages_per_hour: 6, groups: 6, batch_size: 50 };
        let hours = plan(&[], Some(stream), &cadences, 1, 24, now());
        let calls: Vec<f64> = hours.iter().map(|hour| hour.calls_per_second * 3_600.0).collect();
        assert!(close(calls[0], 0.0) && close(calls[21], 6.0 * 4.0), "{calls:?}");
    }

    #[test]
    fn a_cron_expression_counts_as_often_as_it_fires() {
        let nightly = Cadence::by_cron("*/15 8-11 * * *", Duration::from_secs(86_400), true, now()).unwrap();
        let cadences = Cadences::new(BTreeMap::from([("default".to_owned(), nightly)]));
        let hours = plan(&[sent(0, 900)], None, &cadences, 200, 24, now());
        let by_hour: Vec<f64> = hours.iter().map(|hour| hour.calls_per_second).collect();
        assert!(close(by_hour[0], 0.0) && close(by_hour[21], 1.0), "900 calls each quarter of an hour: {by_hour:?}");
    }
}
