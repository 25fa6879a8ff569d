mod pace;

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;

/// Only the tiers of the built-in cadence.
fn tiers_alone() -> Cadence {
    let tiers = [(HOUR, MINUTE), (DAY, 10 * MINUTE), (7 * DAY, HOUR), (30 * DAY, 6 * HOUR)];
    let tiers = tiers.map(|(until, every)| Tier { until: secs(until), every: secs(every) });
    Cadence::by_age(tiers.to_vec(), true).unwrap()
}

/// A message whose counts are known until `now`, and that somebody may still read.
fn unread(sent_at: Timestamp, now: Timestamp) -> Known {
    Known { sent_at, until: Some(now), is_read: false }
}

/// When a slot with one message is due after a poll at `now`.
fn next_poll(cadence: &Cadence, phase: Phase, sent_at: Timestamp, now: Timestamp) -> Option<Timestamp> {
    Following::from(cadence).due(phase, now, [unread(sent_at, now)])
}

#[test]
fn each_age_has_the_interval_of_its_tier() {
    let cadence = tiers_alone();
    let sent_at = at("2026-11-23T00:00:00Z");
    for (age, every) in [
        (0, MINUTE),
        (HOUR - 1, MINUTE),
        (HOUR, 10 * MINUTE),
        (DAY - 1, 10 * MINUTE),
        (DAY, HOUR),
        (7 * DAY, 6 * HOUR),
        (30 * DAY - 1, 6 * HOUR),
    ] {
        let now = sent_at + delta(secs(age));
        let first = next_poll(&cadence, Phase::of_slot(7), sent_at, now).unwrap();
        assert!(first > now && first <= now + delta(secs(every)), "age {age}: {first}");
        // From a point of its own grid, the whole interval passes.
        let sent_at = sent_at + (first - now);
        assert_eq!(
            next_poll(&cadence, Phase::of_slot(7), sent_at, first),
            Some(first + delta(secs(every))),
            "age {age}"
        );
    }
}

#[test]
fn a_message_past_its_last_tier_is_expired() {
    let cadence = tiers_alone();
    let sent_at = at("2026-11-23T00:00:00Z");
    let end = sent_at + delta(secs(30 * DAY));
    assert!(!cadence.is_expired(sent_at, end - TimeDelta::microseconds(1)));
    assert!(cadence.is_expired(sent_at, end));
    assert_eq!(next_poll(&cadence, Phase::default(), sent_at, end), None);
}

#[test]
fn a_message_from_the_future_counts_as_new() {
    let now = at("2026-11-23T00:00:00Z");
    let due = next_poll(&tiers_alone(), Phase::default(), now + TimeDelta::days(400), now).unwrap();
    assert!(due <= now + TimeDelta::minutes(1));
}

#[test]
fn a_new_message_is_due_at_once_or_within_its_slots_interval() {
    let cadence = tiers_alone();
    let now = at("2026-11-23T12:00:00Z");
    assert_eq!(Following::from(&cadence).first_poll(None, now, now).due, now);
    let just_now = now - TimeDelta::seconds(10);
    assert_eq!(Following::from(&cadence).first_poll(Some(just_now), now, now).due, just_now + TimeDelta::minutes(1));
    assert_eq!(Following::from(&cadence).first_poll(Some(now - TimeDelta::hours(5)), now, now).due, now);
    let long_expired = now - TimeDelta::days(90);
    assert_eq!(
        Following::from(&cadence).first_poll(None, long_expired, now).due,
        now,
        "an old message is polled once before it expires"
    );
}

#[test]
fn a_changed_cadence_applies_its_own_next_poll_time() {
    let cadence = tiers_alone();
    let now = at("2026-11-23T12:00:00Z");
    let due = |polled_at| {
        let message = Known { until: polled_at, ..unread(now, now) };
        Following::from(&cadence).due_again(Phase::of_slot(5), polled_at, [message], now).due
    };
    assert_eq!(due(Some(now - TimeDelta::hours(2))), now, "it is overdue");
    assert_eq!(due(Some(now)), next_poll(&cadence, Phase::of_slot(5), now, now).unwrap());
    assert_eq!(due(None), now);
    assert_eq!(due(Some(now + TimeDelta::hours(1))), due(Some(now)), "the clock has stepped back");
}

#[test]
fn a_cron_cadence_ignores_the_age_until_it_expires() {
    let friday = at("2026-11-27T11:50:00Z");
    let cadence = Cadence::by_cron("*/15 8-11 * * MON-FRI", secs(7 * DAY), true, friday).unwrap();
    let monday = at("2026-11-30T08:00:00Z");
    assert_eq!(next_poll(&cadence, Phase::of_slot(3), friday, friday), Some(monday));
    assert_eq!(Following::from(&cadence).first_poll(None, friday, friday).due, monday, "also before the first poll");
    assert_eq!(next_poll(&cadence, Phase::of_slot(3), friday, monday), Some(monday + TimeDelta::minutes(15)));
    assert_eq!(next_poll(&cadence, Phase::of_slot(3), friday, friday + TimeDelta::days(7)), None);
}

#[test]
fn tiers_that_cannot_be_meant_are_refused() {
    let tier = |until, every| Tier { until: secs(until), every: secs(every) };
    let refused = |tiers| Cadence::by_age(tiers, true).unwrap_err();
    assert_eq!(refused(vec![]), InvalidCadence::NoTiers);
    assert_eq!(refused(vec![tier(60, 10), tier(60, 20)]), InvalidCadence::TiersNotRising(secs(60)));
    assert_eq!(refused(vec![tier(0, 10)]), InvalidCadence::TiersNotRising(secs(0)));
    assert_eq!(refused(vec![tier(60, 0)]), InvalidCadence::TooOften(secs(0)));
    assert_eq!(refused(vec![tier(u64::MAX, 60)]), InvalidCadence::TooLong(secs(u64::MAX)));
}

#[test]
fn a_thousand_slots_added_at_once_spread_over_the_interval() {
    let cadence = tiers_alone();
    let now = at("2026-11-23T12:00:00Z");
    let mut per_second = [0_u32; 60];
    for slot in 1..=1_000 {
        let wait = next_poll(&cadence, Phase::of_slot(slot), now, now).unwrap() - now;
        per_second[usize::try_from((wait.num_milliseconds() - 1) / 1_000).unwrap()] += 1;
    }
    let busiest = per_second.iter().max().unwrap();
    assert!(*busiest < 40, "evenly spread there are some 17 in each second: {per_second:?}");
    assert!(per_second.iter().all(|count| *count > 0), "{per_second:?}");
}

proptest! {
    #[test]
    fn the_next_poll_is_later_and_at_most_one_interval_away(
        slot in any::<i64>(),
        now in 0_i64..4_000_000_000_000_000,
        every in 1_u64..10_000_000,
    ) {
        let now = Timestamp::from_timestamp_micros(now).unwrap();
        let next = Phase::of_slot(slot).next_after(now, secs(every));
        prop_assert!(next > now);
        prop_assert!(next <= now + delta(secs(every)));
    }

    #[test]
    fn lateness_does_not_add_up(slot in any::<i64>(), late in proptest::collection::vec(0_i64..59_000, 1..50)) {
        let phase = Phase::of_slot(slot);
        let start = phase.next_after(at("2026-11-23T12:00:00Z"), secs(MINUTE));
        let mut due = start;
        for milliseconds in &late {
            due = phase.next_after(due + TimeDelta::milliseconds(*milliseconds), secs(MINUTE));
        }
        prop_assert_eq!(due, start + TimeDelta::minutes(i64::try_from(late.len()).unwrap()));
    }
}

proptest! {
    #[test]
    fn polls_of_a_span_are_those_of_its_parts(
        sent in 0_i64..4_000_000,
        from in 0_i64..4_000_000,
        parts in proptest::collection::vec(1_i64..200_000, 1..6),
    ) {
        let start: Timestamp = "2026-11-23T00:00:00Z".parse().unwrap();
        let at = |seconds| start + TimeDelta::seconds(seconds);
        let held = Held { youngest: at(sent), oldest: at(sent), unread: 1.0 };
        let ends: Vec<i64> = parts.iter().scan(from, |end, part| { *end += part; Some(*end) }).collect();
        for (cadence, tolerance) in [(tiers_alone(), 1e-6), (Cadence::built_in(true), 0.02)] {
            let begins = std::iter::once(from).chain(ends.iter().copied());
            let sum: f64 = begins.zip(&ends).map(|(begin, end)| cadence.polls_between(&held, at(begin), at(*end))).sum();
            let whole = cadence.polls_between(&held, at(from), at(*ends.last().unwrap()));
            prop_assert!((sum - whole).abs() <= tolerance * whole.max(1.0), "{} and {}", sum, whole);
        }
        let life = tiers_alone().polls_between(&held, at(sent), at(sent + 31 * 86_400));
        prop_assert!((life - f64::from(60 + 23 * 6 + 6 * 24 + 23 * 4)).abs() < 1e-6, "{}", life);
    }
}
