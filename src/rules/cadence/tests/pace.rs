//! The cadence that follows unread messages.

use super::*;

fn now() -> Timestamp {
    at("2026-11-23T12:00:00Z")
}

fn cadence() -> Cadence {
    Cadence::built_in(true)
}

/// A message of this age in seconds, whose counts are known until now.
fn aged(age: u64) -> Known {
    unread(now() - delta(secs(age)), now())
}

/// Number of seconds from a poll until the slot is due again.
fn wait(stretch: f64, messages: impl IntoIterator<Item = Known>) -> f64 {
    let cadence = cadence();
    let due = Following { cadence: &cadence, stretch }.due(Phase::default(), now(), messages).unwrap();
    (due - now()).as_seconds_f64()
}

fn is_close(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-3 * other
}

#[test]
fn four_messages_wait_half_as_long_as_one_at_a_pace() {
    assert!(is_close(wait(1.0, [aged(HOUR)]), 720.0));
    assert!(is_close(wait(1.0, [aged(HOUR); 4]), 360.0));
    assert!(is_close(wait(2.5, [aged(HOUR)]), 1_800.0), "all intervals are longer by the stretch");
}

#[test]
fn young_messages_are_polled_more_often_up_to_fastest() {
    let waits: Vec<f64> = [0, MINUTE, 10 * MINUTE, HOUR, 6 * HOUR, DAY].map(|age| wait(1.0, [aged(age)])).to_vec();
    assert!(waits.is_sorted() && (60.0..120.0).contains(&waits[0]), "{waits:?}");
    assert!(is_close(wait(1.0, [aged(0); 50]), 30.0));
}

#[test]
fn messages_read_by_all_wait_as_long_as_patience_allows() {
    let read = Known { is_read: true, ..aged(0) };
    assert!(is_close(wait(1.0, [aged(HOUR), read]), 480.0), "8 times its minute");
    assert!(is_close(wait(1.0, [read]), 480.0));
    let day = Known { is_read: true, ..aged(2 * DAY) };
    assert!(is_close(wait(1.0, [aged(HOUR), day]), 720.0));
    assert!(is_close(wait(1.0, [day]), 8.0 * 3_600.0));
}

#[test]
fn a_poll_comes_forward_to_the_age_of_a_read_rate() {
    let (quarter, close) = (15 * MINUTE - 2, |one: f64, other: u64| is_close(one, other as f64));
    assert!(close(wait(1.0, [aged(700)]), quarter - 700), "instead of 263 s");
    assert!(close(wait(2.0, [aged(500)]), quarter - 500), "instead of 444 s");
    assert!((500.0..550.0).contains(&wait(2.0, [aged(700)])), "a stretched poll comes forward by less");
    assert!(close(wait(1.0, [aged(760), aged(800)]), quarter - 760), "to the last of several ages");
    assert!(close(wait(1.0, [aged(DAY - HOUR)]), 3_598) && close(wait(1.0, [aged(7 * DAY - 4 * HOUR)]), 14_398));
    let by_pace = |age: u64| (200.0..320.0).contains(&wait(1.0, [aged(age)]));
    assert!(by_pace(500) && by_pace(840) && by_pace(897), "not by more than seven tenths, and never twice for one age");
    let read = Known { is_read: true, ..aged(700) };
    assert!(is_close(wait(1.0, [read]), 480.0));
    let reason = |age| Following::from(&cadence()).reason(Phase::default(), now(), [aged(age)]).unwrap();
    assert_eq!((reason(700), reason(HOUR)), (Reason::Age, Reason::Pace));
    let told = cadence().giving_way(0.25);
    let due = Following::from(&told).due(Phase::default(), now(), [aged(700)]).unwrap();
    assert!(is_close((due - now()).as_seconds_f64(), 480.0), "events tell of most reads before that age");
}

#[test]
fn a_message_known_long_ago_waits_for_an_interval_of_its_tier() {
    let left_out = Known { until: Some(now() - TimeDelta::hours(20)), ..aged(DAY) };
    assert!(is_close(wait(1.0, [left_out]), 3_600.0));
    assert!(is_close(wait(1.0, [Known { until: None, ..left_out }]), wait(1.0, [aged(DAY)])));
}

#[test]
fn patience_goes_by_the_age_when_last_known() {
    // It was in the first tier then. 8 of its intervals are over before one of the next tier.
    let before = Known { until: Some(now() - TimeDelta::minutes(2)), is_read: true, ..aged(HOUR + 60) };
    assert!(is_close(wait(1.0, [before]), 600.0));
    let just_now = Known { until: Some(now() - TimeDelta::seconds(30)), is_read: true, ..aged(HOUR) };
    assert!(is_close(wait(4.0, [just_now]), 4.0 * 600.0));
}

#[test]
fn the_last_poll_comes_soon_after_the_end_of_life() {
    let old = Known { is_read: true, ..aged(30 * DAY - HOUR) };
    assert!(is_close(wait(1.0, [old]), 7.0 * 3_600.0));
    let expired = Following::from(&cadence()).due(Phase::default(), now(), [aged(30 * DAY)]);
    assert_eq!(expired, None);
}

#[test]
fn a_message_joining_a_polled_slot_waits_for_its_interval() {
    let cadence = cadence();
    let first = |polled_at| Following::from(&cadence).first_poll(polled_at, now(), now()).due;
    assert_eq!(first(None), now());
    let wait = (first(Some(now())) - now()).as_seconds_f64();
    assert!((60.0..120.0).contains(&wait), "{wait}");
    assert_eq!(first(Some(now() - TimeDelta::hours(1))), now());
}

#[test]
fn a_resumed_group_is_due_when_it_would_have_been() {
    let cadence = cadence();
    let due = |polled_at| Following::from(&cadence).due_again(Phase::default(), polled_at, [aged(HOUR)], now()).due;
    assert_eq!(due(None), now());
    assert_eq!(due(Some(now() - TimeDelta::hours(3))), now(), "it is overdue");
    assert!(due(Some(now())) > now() + TimeDelta::minutes(11));
    assert_eq!(due(Some(now() + TimeDelta::hours(1))), due(Some(now())), "the clock has stepped back");
}

#[test]
fn slots_that_are_alike_do_not_stay_together() {
    let cadence = cadence();
    let due = |slot| Following::from(&cadence).due(Phase::of_slot(slot), now(), [aged(HOUR)]).unwrap();
    let dues: std::collections::BTreeSet<Timestamp> = (1..=100).map(due).collect();
    assert!(dues.len() == 100 && *dues.last().unwrap() <= now() + TimeDelta::seconds(720 * 9 / 8 + 1), "{dues:?}");
}

#[test]
fn a_pace_that_cannot_be_followed_is_refused() {
    let pace = Pace { pace: secs(720), patience: 8, fastest: secs(60) };
    let refused = |pace| tiers_alone().at_pace(pace).unwrap_err();
    assert_eq!(refused(Pace { patience: 0, ..pace }), InvalidCadence::Patience(0));
    assert_eq!(refused(Pace { fastest: Duration::ZERO, ..pace }), InvalidCadence::TooOften(Duration::ZERO));
    assert_eq!(refused(Pace { pace: secs(u64::MAX), ..pace }), InvalidCadence::TooLong(secs(u64::MAX)));
    let cron = Cadence::by_cron("0 8 * * *", secs(DAY), true, now()).unwrap();
    assert_eq!(cron.at_pace(pace).unwrap_err(), InvalidCadence::PaceOfCron);
}

proptest! {
    #[test]
    fn two_slots_never_cost_less_than_one_with_the_messages_of_both(
        messages in proptest::collection::vec((0_u64..30 * DAY, any::<bool>(), any::<bool>()), 2..50),
    ) {
        let cadence = cadence();
        let of = |wanted: Option<bool>| {
            let of = messages.iter().filter(|(_, _, is_first)| wanted.is_none_or(|wanted| wanted == *is_first));
            let known = of.map(|(age, is_read, _)| Known { is_read: *is_read, ..aged(*age) });
            let next = Following::from(&cadence).next(Phase::of_slot(1), now(), known);
            next.map_or(0.0, |next| 1.0 / next.every.as_secs_f64())
        };
        // Just before an age at which read rates are kept, the larger slot may come forward although neither half does.
        let all = messages.iter().map(|(age, is_read, _)| Known { is_read: *is_read, ..aged(*age) });
        prop_assume!(Following::from(&cadence).reason(Phase::of_slot(1), now(), all) != Some(Reason::Age));
        prop_assert!(of(None) <= (of(Some(true)) + of(Some(false))) * (1.0 + 1e-6));
    }
}

proptest! {
    #[test]
    fn no_message_is_forgotten_and_no_slot_is_due_at_once(
        messages in proptest::collection::vec((0_u64..40 * DAY, proptest::option::of(0_i64..100_000), any::<bool>()), 1..50),
        slot in any::<i64>(),
        stretch in 1.0_f64..30.0,
    ) {
        let (cadence, patience) = (cadence(), 8.0);
        let known = |(age, ago, is_read): &(u64, Option<i64>, bool)| {
            let until = ago.map(|ago| now() - TimeDelta::seconds(ago));
            Known { until, is_read: *is_read, ..aged(*age) }
        };
        let messages: Vec<Known> = messages.iter().map(known).collect();
        let due = Following { cadence: &cadence, stretch }.due(Phase::of_slot(slot), now(), messages.clone());
        let alive = messages.iter().filter(|message| !cadence.is_expired(message.sent_at, now()));
        prop_assert_eq!(due.is_some(), alive.clone().count() > 0);
        for message in alive {
            let due = due.unwrap();
            let every = |at| stretch * cadence.every(message.sent_at, at).as_secs_f64();
            let known_until = message.until.unwrap_or(now());
            let latest = (known_until - now()).as_seconds_f64() + patience * every(known_until);
            let wait = (due - now()).as_seconds_f64();
            prop_assert!(wait <= latest.max(every(now())) + 1e-3, "{} and {}", wait, latest);
            prop_assert!(wait >= 29.9 * stretch, "{}", wait);
        }
    }
}

proptest! {
    #[test]
    fn a_slot_comes_forward_to_each_age_of_a_message_once(
        ages in proptest::collection::vec(0_u64..8 * DAY, 1..20),
        slot in any::<i64>(),
        stretch in 1.0_f64..3.0,
        untold in 0.1_f64..1.0,
    ) {
        let (cadence, start) = (cadence().giving_way(untold), now());
        let following = Following { cadence: &cadence, stretch };
        let sent: Vec<Timestamp> = ages.iter().map(|age| start - delta(secs(*age))).collect();
        let (phase, mut at, mut reached) = (Phase::of_slot(slot), start, vec![]);
        while at < start + delta(secs(2 * DAY)) {
            let known = || sent.iter().map(|sent_at| unread(*sent_at, at));
            let (due, why) = (following.due(phase, at, known()).unwrap(), following.reason(phase, at, known()).unwrap());
            prop_assert!((due - at).as_seconds_f64() >= 29.9 * stretch, "{:?} after {}", why, due - at);
            if why == Reason::Age {
                let is_reached = |sent_at: &&Timestamp| {
                    crate::rules::milestones::AGES
                        .iter()
                        .any(|age| (**sent_at + *age - TimeDelta::seconds(2) - due).abs() < TimeDelta::milliseconds(1))
                };
                prop_assert!(sent.iter().any(|sent_at| is_reached(&sent_at)), "no message reaches an age at {}", due);
                reached.push(due);
            }
            at = due;
        }
        prop_assert!(reached.len() <= 4 * ages.len(), "{} of {} messages", reached.len(), ages.len());
    }
}

#[test]
fn polls_give_way_to_events_as_far_as_patience_allows() {
    let wait = |untold: f64, ages: &[u64]| {
        let cadence = cadence().giving_way(untold);
        let messages = ages.iter().map(|age| aged(*age));
        let due = Following::from(&cadence).due(Phase::default(), now(), messages).unwrap();
        (due - now()).as_seconds_f64()
    };
    assert!(is_close(wait(1.0, &[HOUR]), 720.0) && is_close(wait(0.25, &[HOUR]), 1_440.0));
    assert!(is_close(wait(0.25, &[0]), 180.0), "twice as long as without events");
    assert!(is_close(wait(0.001, &[0]), 480.0), "8 times the minute of its tier");
    assert!(is_close(wait(0.0, &[2 * DAY; 50]), wait(1.0 / 400.0, &[2 * DAY; 50])));
    let joins = |untold: f64, polled_ago| {
        let (cadence, polled_at) = (cadence().giving_way(untold), now() - TimeDelta::seconds(polled_ago));
        (Following::from(&cadence).first_poll(Some(polled_at), now(), now()).due - now()).as_seconds_f64()
    };
    let alone = joins(1.0, 0);
    assert!(
        is_close(joins(0.25, 0), 2.0 * alone) && is_close(joins(0.0, 0), 480.0),
        "and first polls of a slot's new messages"
    );
    assert_eq!(joins(1.0, 3_600), 0.0);
    assert!(
        is_close(joins(0.25, 3_600), alone) && is_close(joins(0.0, 3_600), 480.0 - alone),
        "by as much, if the slot was polled long ago"
    );
    assert_eq!(Following::from(&cadence().giving_way(0.01)).first_poll(None, now(), now()).due, now());
}

#[test]
fn a_plan_counts_the_polls_that_slots_make() {
    const SLOTS: i64 = 40;
    let cadence = cadence();
    for (messages, apart) in [(1_u64, 0), (50, 0), (5, 4 * HOUR), (50, 4 * HOUR), (50, 2 * DAY)] {
        let sent: Vec<Timestamp> =
            (0..messages).map(|number| now() - delta(secs(apart * number / (messages - 1).max(1)))).collect();
        let held = Held { youngest: now(), oldest: sent[sent.len() - 1], unread: messages as f64 };
        for (from, until) in [(0, HOUR), (HOUR, DAY), (DAY, 8 * DAY)] {
            let [from, until] = [from, until].map(|age| now() + delta(secs(age)));
            let known = |at| sent.iter().map(move |sent_at| unread(*sent_at, at));
            let next = |slot, at| Following::from(&cadence).due(Phase::of_slot(slot), at, known(at)).unwrap();
            let polls_of = |slot| {
                let polls = std::iter::successors(Some(next(slot, now())), |at| Some(next(slot, *at)));
                polls.skip_while(|at| *at < from).take_while(|at| *at < until).count()
            };
            let (made, planned) = (
                (1..=SLOTS).map(polls_of).sum::<usize>() as f64 / SLOTS as f64,
                cadence.polls_between(&held, from, until),
            );
            assert!(
                (planned - made).abs() < 0.08 * made + 0.5,
                "{messages} messages, {apart} s, until {until}: {planned} are planned, {made} made"
            );
        }
    }
}
