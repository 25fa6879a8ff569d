use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What happened to each attempt: when it was sent, when it reached the service, when it ended.
struct Attempt {
    sent: Instant,
    arrived: Instant,
}

/// Sends as fast as the pacer lets it for `span`. `transit(n)` gives for attempt `n` the time to the service, the time
/// until the end, and how late the task that waited for the permit woke up.
fn run(
    pacer: &mut Pacer,
    start: Instant,
    span: Duration,
    mut transit: impl FnMut(u64) -> [Duration; 3],
) -> Vec<Attempt> {
    run_from(pacer, start, span, |_, n| transit(n))
}

/// The same, where the way depends on the time of sending too.
fn run_from(
    pacer: &mut Pacer,
    start: Instant,
    span: Duration,
    mut transit: impl FnMut(Instant, u64) -> [Duration; 3],
) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    let mut ends: BinaryHeap<std::cmp::Reverse<(Instant, u64)>> = BinaryHeap::new();
    let mut grants = std::collections::HashMap::new();
    let mut now = start;
    while now < start + span {
        while let Some(std::cmp::Reverse((end, id))) = ends.peek().copied().filter(|end| end.0.0 <= now) {
            ends.pop();
            pacer.ended(&grants.remove(&id).unwrap(), end);
        }
        match pacer.take(now) {
            Ok(grant) => {
                let [to_service, to_end, _] = transit(now, grant.id);
                attempts.push(Attempt { sent: now, arrived: now + to_service });
                ends.push(std::cmp::Reverse((now + to_service + to_end, grant.id)));
                grants.insert(grant.id, grant);
            }
            Err(ready_at) => {
                let [_, _, wakes_late] = transit(now, pacer.next_id);
                let end = ends.peek().map(|end| end.0.0).filter(|end| *end > now);
                now = end.map_or(ready_at + wakes_late, |end| end.min(ready_at + wakes_late));
            }
        }
    }
    attempts
}

/// The most instants in any half-open window of one second.
fn highest_second(mut instants: Vec<Instant>) -> usize {
    instants.sort();
    let mut first = 0;
    let mut highest = 0;
    for (last, instant) in instants.iter().enumerate() {
        while *instant - instants[first] >= SECOND {
            first += 1;
        }
        highest = highest.max(last + 1 - first);
    }
    highest
}

fn arrivals(attempts: &[Attempt]) -> Vec<Instant> {
    attempts.iter().map(|attempt| attempt.arrived).collect()
}

#[test]
fn the_first_second_is_quiet() {
    let start = Instant::now();
    let mut pacer = Pacer::new(200, ms(50), start);
    assert_eq!(pacer.take(start), Err(start + ms(1_050)));
    assert!(pacer.take(start + ms(1_050)).is_ok());
}

#[test]
fn attempts_are_spaced_evenly_with_a_small_catch_up() {
    let start = Instant::now();
    let mut pacer = Pacer::new(200, Duration::ZERO, start);
    let mut now = start + SECOND;
    assert!(pacer.take(now).is_ok());
    assert_eq!(pacer.take(now), Err(now + ms(5)));
    now += ms(500);
    let burst = std::iter::from_fn(|| pacer.take(now).ok()).count();
    assert_eq!(burst, 5, "20 ms of catch-up at 5 ms each, and the one that is due");
}

#[test]
fn at_10_to_30_ms_the_whole_limit_but_2_percent_is_used_and_never_more() {
    let start = Instant::now();
    let mut pacer = Pacer::new(200, ms(50), start);
    let mut seed = fastrand::Rng::with_seed(7);
    let attempts = run(&mut pacer, start, ms(61_050), |_| {
        [ms(seed.u64(5..15)), ms(seed.u64(5..15)), Duration::from_micros(seed.u64(0..1_100))]
    });
    assert_eq!(highest_second(arrivals(&attempts)), 200);
    assert!(attempts.len() >= 60 * 194, "{} attempts in 60 s", attempts.len());
}

#[test]
fn a_slow_service_costs_no_more_than_the_allowance() {
    let start = Instant::now();
    let mut pacer = Pacer::new(200, ms(50), start);
    let attempts = run(&mut pacer, start, ms(31_050), |n| [ms(n % 50), ms(3_000), ms(0)]);
    assert!(highest_second(arrivals(&attempts)) <= 200);
    // Until the first answer, and for two seconds more, it may be a fast one that is held up.
    let late = arrivals(&attempts).into_iter().filter(|at| *at > start + ms(11_050)).count();
    assert!(late >= 20 * 188, "{late} attempts in 20 s: 200 a second, less 50 ms in each");
}

#[test]
fn a_stall_on_the_way_to_a_service_that_is_usually_fast_lets_nothing_over_the_limit() {
    let start = Instant::now();
    for stall in [60_u64, 100, 300, 500] {
        let mut pacer = Pacer::new(200, ms(50), start);
        // Every two seconds all that is sent within the stall arrives at its end.
        let attempts = run_from(&mut pacer, start, ms(12_000), |now, n| {
            let into_cycle = u64::try_from((now - start).as_millis()).unwrap() % 2_000;
            let held_up = stall.saturating_sub(into_cycle);
            [ms(held_up), ms(10 + n % 20), ms(0)]
        });
        assert!(highest_second(arrivals(&attempts)) <= 200, "a stall of {stall} ms");
        assert!(attempts.len() >= 1_500, "{} attempts with stalls of {stall} ms", attempts.len());
    }
}

#[test]
fn a_slow_down_halves_the_rate_at_once_and_it_grows_back_by_a_twentieth_every_second() {
    let start = Instant::now();
    let mut pacer = Pacer::new(200, ms(50), start);
    let now = start + ms(2_000);
    let grant = pacer.take(now).unwrap();
    pacer.slow_down(&grant, now + ms(20));
    assert_eq!(pacer.rate(now + ms(20)), 100);
    assert_eq!(pacer.rate(now + ms(1_019)), 100);
    assert_eq!(pacer.rate(now + ms(1_020)), 110);
    assert_eq!(pacer.rate(now + ms(9_020)), 190);
    assert_eq!(pacer.rate(now + ms(10_020)), 200);
    assert_eq!(pacer.rate(now + ms(3_600_000)), 200);
}

#[test]
fn answers_to_the_old_rate_do_not_halve_it_again() {
    let start = Instant::now();
    let mut pacer = Pacer::new(200, ms(50), start);
    let mut now = start + ms(2_000);
    let grants: Vec<Grant> = std::iter::from_fn(|| {
        now += ms(5);
        pacer.take(now).ok()
    })
    .take(20)
    .collect();
    for grant in &grants {
        pacer.slow_down(grant, now + ms(10));
    }
    assert_eq!(pacer.rate(now + ms(10)), 100);
    let later = pacer.take(now + ms(100)).unwrap();
    pacer.slow_down(&later, now + ms(110));
    assert_eq!(pacer.rate(now + ms(110)), 50);
}

#[test]
fn the_rate_never_falls_below_one() {
    let start = Instant::now();
    let mut pacer = Pacer::new(1, Duration::ZERO, start);
    let grant = pacer.take(start + ms(1_000)).unwrap();
    pacer.slow_down(&grant, start + ms(1_001));
    assert_eq!(pacer.rate(start + ms(1_001)), 1);
    pacer.ended(&grant, start + ms(1_001));
    assert!(pacer.take(start + ms(2_001)).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_sliding_second_at_the_service_holds_more_than_the_limit(
        seed in any::<u64>(),
        limit in 1_u32..250,
        allowance in 0_u64..2_000,
        longest_answer in 1_u64..2_000,
    ) {
        let start = Instant::now();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut pacer = Pacer::new(limit, ms(allowance), start);
        // Any way to the service within the allowance. An allowance as long as the timeout assumes nothing at all.
        let attempts = run(&mut pacer, start, ms(6_000), |_| {
            let to_service = ms(random.u64(0..=allowance));
            [to_service, ms(random.u64(0..longest_answer)), Duration::from_micros(random.u64(0..3_000))]
        });
        prop_assert!(highest_second(arrivals(&attempts)) <= limit as usize);
        prop_assert!(highest_second(attempts.iter().map(|attempt| attempt.sent).collect()) <= limit as usize);
    }

    #[test]
    fn a_slowed_rate_holds_for_every_second_after_the_first(seed in any::<u64>(), limit in 2_u32..250) {
        let start = Instant::now();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut pacer = Pacer::new(limit, ms(50), start);
        let attempts = run(&mut pacer, start, ms(3_000), |_| [ms(random.u64(0..50)), ms(random.u64(0..50)), ms(0)]);
        let slowed_at = start + ms(3_100);
        let grant = loop {
            if let Ok(grant) = pacer.take(slowed_at + ms(random.u64(0..1_000))) { break grant }
        };
        pacer.slow_down(&grant, grant.sent);
        let after = run(&mut pacer, grant.sent, ms(2_000), |_| [ms(random.u64(0..50)), ms(random.u64(0..50)), ms(0)]);
        let later = after.iter().map(|attempt| attempt.arrived).filter(|at| *at >= grant.sent + SECOND).collect();
        prop_assert!(!attempts.is_empty());
        prop_assert!(highest_second(later) <= (limit / 2).max(1) as usize + 2 * limit.div_ceil(20) as usize);
    }
}

#[test]
fn a_process_that_stood_still_with_attempts_not_yet_sent_stays_within_the_limit() {
    let start = Instant::now();
    let mut pacer = Pacer::new(20, ms(50), start);
    let mut now = start + ms(1_050);
    let unsent: Vec<Grant> = (0..5).map_while(|_| pacer.take(now).ok()).collect();
    assert!(!unsent.is_empty());
    assert!(pacer.beat(now));
    // Five seconds later it goes on: the unsent attempts reach the service at once, and others follow.
    now += ms(5_000);
    let resumed = now;
    let mut arrived: Vec<Instant> = unsent.iter().map(|_| resumed).collect();
    while now < resumed + SECOND {
        match pacer.take(now) {
            Ok(grant) => {
                arrived.push(now);
                pacer.ended(&grant, now);
            }
            Err(ready_at) => now = ready_at,
        }
    }
    assert!(highest_second(arrived) <= 20);
}

#[test]
fn beats_that_come_in_time_change_nothing() {
    let (start, mut now) = (Instant::now(), Instant::now() + ms(1_050));
    let mut pacer = Pacer::new(1, ms(50), start);
    let grant = pacer.take(now).unwrap();
    let ready_at = pacer.take(now).unwrap_err();
    while now < ready_at {
        assert!(pacer.beat(now), "an attempt is under way");
        now += BEAT;
    }
    assert!(pacer.take(ready_at).is_ok());
    pacer.ended(&grant, now);
}
