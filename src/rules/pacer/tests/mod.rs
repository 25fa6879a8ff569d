mod limit;

use std::time::Instant;

use super::{
    network::{MS, Micros, Network, SECOND as ONE_SECOND, Service, Standstill, Way},
    *,
};

const LIMIT: u32 = 200;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn between(random: &mut fastrand::Rng, least: u64, most: u64) -> Micros {
    random.u64(least * MS..=most * MS)
}

/// Services by latency, plus about 10 ms for the network.
const FAST: Service = |random| between(random, 5, 15);
const MIXED: Service = |random| between(random, 10, 170);
const A_TENTH_FAST: Service = |random| if random.u8(0..10) == 0 { 10 * MS } else { 290 * MS };
const A_TENTH_SLOW: Service = |random| if random.u8(0..10) == 0 { 290 * MS } else { 10 * MS };
const HEAVY_TAIL: Service = |random| if random.u8(0..50) == 0 { 3 * ONE_SECOND } else { between(random, 10, 30) };
const WIDE: Service = |random| between(random, 10, 1_000);
const SLOW: Service = |random| between(random, 290, 300);
const SLOWER: Service = |random| between(random, 1_900, 2_000);
const SERVICES: [(&str, Service); 8] = [
    ("fast", FAST),
    ("mixed", MIXED),
    ("a tenth fast", A_TENTH_FAST),
    ("a tenth slow", A_TENTH_SLOW),
    ("heavy tail", HEAVY_TAIL),
    ("wide", WIDE),
    ("slow", SLOW),
    ("slower", SLOWER),
];

fn calls(network: &Network, seed: u64) -> network::Seen {
    let start = Instant::now();
    network.run(&mut Pacer::new(LIMIT, ms(50), start), start, seed)
}

/// Standstills one after the other, with the network open for `open` between them.
fn standstills(length: Micros, open: Micros, way: Way) -> Vec<Standstill> {
    let starts = (0..).map(|index| 12 * ONE_SECOND + index * (length + open));
    starts
        .map(|from| Standstill { from, to: from + length, way })
        .take_while(|still| still.from < 36 * ONE_SECOND)
        .collect()
}

#[test]
fn a_fast_service_gets_at_least_97_percent_of_the_limit() {
    let seen = calls(&Network::new(FAST), 7);
    assert_eq!(seen.highest_second(), 200);
    assert!(seen.rate(5 * ONE_SECOND) >= 194.0, "{} calls a second", seen.rate(5 * ONE_SECOND));
}

#[test]
fn where_latencies_are_mixed_95_percent_of_the_limit_are_used() {
    for (name, service, least) in [
        ("mixed", MIXED, 95.0),
        ("a tenth fast", A_TENTH_FAST, 95.0),
        ("a tenth slow", A_TENTH_SLOW, 95.0),
        ("heavy tail", HEAVY_TAIL, 95.0),
        ("wide", WIDE, 84.0),
        ("slow", SLOW, 95.0),
    ] {
        let seen = calls(&Network::new(service), 1);
        let share = seen.rate(15 * ONE_SECOND) / f64::from(LIMIT) * 100.0;
        println!("{name}: {share:.1} %, {} in the highest second", seen.highest_second());
        assert!(share >= least, "{name}: {share:.1} % of the limit");
        assert!(seen.highest_second() <= 200, "{name}: {} in a second", seen.highest_second());
    }
}

#[test]
fn a_two_second_service_gets_nine_tenths_of_the_limit() {
    let seen = calls(&Network::new(SLOWER), 1);
    assert!(seen.highest_second() <= 200);
    let rate = seen.rate(15 * ONE_SECOND);
    assert!(rate >= 180.0, "{rate} calls a second that take two seconds each");
}

/// Maximum number of calls in a second after a standstill of this many milliseconds, as in docs/operators.md.
fn most_let_go(name: &str, length: u64) -> usize {
    match (name, length) {
        // Calls not known to be late before their answers are due, and all that may be in flight.
        ("slower", _) => network::MAX_IN_FLIGHT,
        (_, 700..) => 200,
        (_, _) => 216,
    }
}

#[test]
fn a_standstill_releases_no_more_calls_than_documented() {
    for way in [Way::There, Way::Back, Way::Both] {
        for length in [60, 150, 300, 700, 1_500, 3_000, 10_000] {
            for (name, service) in SERVICES {
                let standstills = standstills(length * MS, 3 * ONE_SECOND, way);
                let seen = calls(&Network { standstills, ..Network::new(service) }, length);
                let (highest, most) = (seen.highest_second(), most_let_go(name, length));
                assert!(highest <= most, "{name}: {highest} in a second after {length} ms, {way:?}");
            }
        }
    }
}

#[test]
fn repeated_standstills_do_not_pass_for_a_slow_service() {
    for (length, open) in [(60, 500), (300, 500), (500, 1_000), (1_000, 1_000), (1_500, 1_000), (3_000, 1_500)] {
        for (name, service) in SERVICES {
            let standstills = standstills(length * MS, open * MS, Way::There);
            let seen = calls(&Network { standstills, ..Network::new(service) }, length);
            let (highest, most) = (seen.highest_second(), most_let_go(name, length));
            assert!(highest <= most, "{name}: {highest} in a second with {length} ms after each {open} ms");
        }
    }
}

#[test]
fn after_a_standstill_the_full_rate_is_back_within_two_seconds() {
    for length in [700, 1_500, 3_000, 10_000] {
        let still = Standstill { from: 12 * ONE_SECOND, to: (12_000 + length) * MS, way: Way::There };
        let network = Network { standstills: vec![still], span: still.to + 12 * ONE_SECOND, ..Network::new(FAST) };
        let rate = calls(&network, 1).rate(still.to + 2 * ONE_SECOND + 200 * MS);
        assert!(rate >= 190.0, "{rate} calls a second after {length} ms");
    }
}

#[test]
fn reconnecting_to_a_far_service_never_exceeds_the_limit() {
    for (name, service) in SERVICES {
        let network = Network {
            round_trip: 180 * MS,
            transit: 85 * MS..=95 * MS,
            handshake: 3,
            breaks: [12, 18, 24].map(|at| at * ONE_SECOND).to_vec(),
            ..Network::new(service)
        };
        let seen = calls(&network, 1);
        assert!(seen.highest_second() <= 200, "{name}: {} in a second", seen.highest_second());
    }
}

#[test]
fn a_process_that_stands_still_lets_nothing_over_the_limit() {
    for length in [50, 150, 1_000, 5_000] {
        let stops = vec![(12 * ONE_SECOND + 1_234, length * MS), (20 * ONE_SECOND + 777, length * MS)];
        let seen = calls(&Network { stops, ..Network::new(FAST) }, length);
        assert!(seen.highest_second() <= 200, "{} in a second after {length} ms", seen.highest_second());
    }
}

/// The network is blocked, the process ends, and another begins: the requests of both are released together.
#[test]
fn a_hand_over_in_a_standstill_lets_nothing_over_the_limit() {
    for length in [1_000, 1_500, 2_000, 3_000, 5_000] {
        let start = Instant::now();
        let let_go = 12 * ONE_SECOND;
        let still = |to| vec![Standstill { from: let_go - length * MS, to, way: Way::There }];
        let ends = let_go - length * MS + 300 * MS;
        // Requests sent by the first process until its end, and those of them that were held back until the network
        // was open again.
        let first = Network { standstills: still(let_go), span: ends, ..Network::new(FAST) };
        let sent = first.run(&mut Pacer::new(LIMIT, ms(50), start), start, 1);
        let held = 60;
        let second = Network { standstills: still(let_go), span: 20 * ONE_SECOND, ..Network::new(FAST) };
        let begins = Duration::from_micros(ends);
        let mut pacer = Pacer::new(LIMIT, ms(50), start + begins);
        let mut seen = second.run(&mut pacer, start, 2);
        seen.arrivals.extend(sent.arrivals);
        seen.arrivals.extend(std::iter::repeat_n(let_go, held));
        seen.arrivals.sort_unstable();
        assert!(seen.highest_second() <= 200, "{} in a second after {length} ms", seen.highest_second());
    }
}

#[test]
fn pacing_starts_quiet_then_tries_once_a_second_until_answered() {
    let start = Instant::now();
    let mut pacer = Pacer::new(200, ms(50), start);
    assert_eq!(pacer.take(start), Err(Some(start + ms(1_050))));
    let first = pacer.take(start + ms(1_050)).unwrap();
    pacer.written(&first, start + ms(1_050));
    assert_eq!(pacer.take(start + ms(1_060)), Err(Some(start + ms(2_050))));
    let second = pacer.take(start + ms(2_050)).unwrap();
    pacer.written(&second, start + ms(2_050));
    // Delayed requests of another process have arrived by now.
    pacer.answered(&second, start + ms(2_070));
    assert_eq!(pacer.take(start + ms(2_080)), Err(Some(start + ms(3_070))));
    assert!(pacer.take(start + ms(3_070)).is_ok());
    assert_eq!(pacer.take(start + ms(3_070)), Err(Some(start + ms(3_075))));
}

/// A pacer that knows that the network is open, and the time from which it allows attempts.
fn opened(limit: u32, allowance: u64, start: Instant) -> (Pacer, Instant) {
    let mut pacer = Pacer::new(limit, ms(allowance), start);
    let at = start + ms(1_000 + allowance);
    let grant = pacer.take(at).unwrap();
    pacer.written(&grant, at);
    pacer.answered(&grant, at);
    (pacer, at + ms(1_000))
}

/// Takes and writes all attempts that a pacer allows in the next six seconds, none of which is answered.
fn sent_in_a_standstill(pacer: &mut Pacer, from: Instant) -> Vec<Grant> {
    let taken = (0..1_200).filter_map(|step| {
        let now = from + ms(5 * step);
        let grant = pacer.take(now).ok()?;
        pacer.written(&grant, now);
        Some(grant)
    });
    taken.collect()
}

#[test]
fn a_successor_in_a_standstill_sends_only_the_reserve() {
    for limit in [2, 4, 8, 19, 20, 60, 200] {
        let (mut first, now) = opened(limit, 50, Instant::now());
        let held = sent_in_a_standstill(&mut first, now).len();
        let begins = now + ms(6_000);
        let mut second = Pacer::new(limit, ms(50), begins);
        let more = sent_in_a_standstill(&mut second, begins);
        let count = held + more.len();
        assert!(!more.is_empty() && count <= limit as usize, "{held} and {} calls of {limit}", more.len());
        second.failed(&more[0], begins + ms(9_000));
        let most = sent_in_a_standstill(&mut second, begins + ms(10_000)).len();
        assert!(most > 1 || limit <= 2, "{most} calls of {limit} when what the first one sent has been given up");
    }
}

#[test]
fn attempts_are_spaced_evenly_with_a_small_catch_up() {
    let (mut pacer, mut now) = opened(200, 0, Instant::now());
    assert!(pacer.take(now).is_ok());
    assert_eq!(pacer.take(now), Err(Some(now + ms(5))));
    now += ms(500);
    let burst = std::iter::from_fn(|| pacer.take(now).ok()).count();
    assert_eq!(burst, 11, "50 ms of catch-up at 5 ms each, and the one that is due");
}

#[test]
fn a_pending_permit_stays_taken_and_an_unused_one_frees_at_once() {
    let (mut pacer, now) = opened(1, 50, Instant::now());
    let grant = pacer.take(now).unwrap();
    assert_eq!(pacer.take(now + ms(60_000)), Err(None));
    pacer.failed(&grant, now + ms(60_000));
    let grant = pacer.take(now + ms(60_000)).unwrap();
    pacer.written(&grant, now + ms(60_100));
    assert_eq!(pacer.take(now + ms(70_000)), Err(None), "it is on its way until something is answered");
}

#[test]
fn a_call_that_hangs_alone_does_not_hold_up_the_others() {
    let (mut pacer, mut now) = opened(10, 50, Instant::now());
    let hanging = pacer.take(now).unwrap();
    pacer.written(&hanging, now);
    for _ in 0..20 {
        now += ms(150);
        let grant = pacer.take(now).unwrap();
        pacer.written(&grant, now);
        pacer.answered(&grant, now + ms(20));
    }
    pacer.failed(&hanging, now + ms(30));
    assert!(pacer.take(now + ms(100)).is_ok(), "its failure says nothing of the way");
}

#[test]
fn a_slow_down_halves_the_rate_which_grows_back_every_second() {
    let (mut pacer, now) = opened(200, 50, Instant::now());
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
    let (mut pacer, mut now) = opened(200, 50, Instant::now());
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
    let (mut pacer, now) = opened(1, 0, Instant::now());
    let grant = pacer.take(now).unwrap();
    pacer.slow_down(&grant, now + ms(1));
    assert_eq!(pacer.rate(now + ms(1)), 1);
    pacer.written(&grant, now + ms(1));
    pacer.answered(&grant, now + ms(1));
    assert!(pacer.take(now + ms(1_001)).is_ok());
}
