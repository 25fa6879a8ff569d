use super::*;

const LIMIT: u32 = 200;

fn attempt(outcome: Option<i64>, latency: Duration) -> Attempt {
    let now = "2026-11-23T12:00:00Z".parse().unwrap();
    let failure = |code| Failure { class: Class::of_code(code), code: Some(code), info: String::new() };
    let outcome = outcome.map_or_else(|| Ok(crate::rules::protocol::Answer::default()), |code| Err(failure(code)));
    Attempt { called_at: now, ended_at: now, latency, http_status: None, asked: 1, outcome }
}

/// An app with any number of due slots, each of which is called once.
struct App {
    brake: Brake,
    start: Instant,
    now: Instant,
    next: SlotId,
    /// Calls in flight: time of sending, end and outcome.
    calls: Vec<(SlotId, Instant, Instant, Option<i64>)>,
    sent: Vec<Instant>,
    news: Vec<News>,
}

impl App {
    fn new() -> Self {
        let (start, mut brake) = (Instant::now(), Brake::new(LIMIT));
        brake.has_slots(12_000);
        Self { brake, start, now: start, next: 0, calls: vec![], sent: vec![], news: vec![] }
    }

    /// Makes calls for this time, up to the limit. Each takes `latency` and ends like this.
    fn lives(&mut self, seconds: u64, latency: Duration, outcome: impl Fn(SlotId) -> Option<i64>) {
        let tick = Duration::from_secs(1) / LIMIT;
        for _ in 0..seconds * u64::from(LIMIT) {
            let ended = |call: &mut (SlotId, Instant, Instant, Option<i64>)| call.2 <= self.now;
            let ended: Vec<_> = self.calls.extract_if(.., ended).collect();
            for (slot, sent, _, outcome) in ended {
                self.brake.ended();
                self.news.extend(self.brake.note(slot, &attempt(outcome, latency), sent, self.now));
            }
            if self.brake.room(self.now).is_ok() {
                self.brake.starts(self.now);
                self.next += 1;
                self.calls.push((self.next, self.now, self.now + latency, outcome(self.next)));
                self.sent.push(self.now);
            }
            self.now += tick;
        }
    }

    /// Number of calls sent between two seconds.
    fn sent(&self, from: u64, until: u64) -> usize {
        let at = |seconds| self.start + Duration::from_secs(seconds);
        self.sent.iter().filter(|sent| (at(from)..at(until)).contains(sent)).count()
    }
}

const FAST: Duration = Duration::from_millis(20);
const ANSWERED: fn(SlotId) -> Option<i64> = |_| None;
const UNANSWERED: fn(SlotId) -> Option<i64> = |_| Some(10002);

#[test]
fn an_outage_slows_to_one_call_a_second_and_ends_in_seconds() {
    let mut app = App::new();
    app.lives(10, FAST, ANSWERED);
    app.lives(60, FAST, UNANSWERED);
    assert!((57..=60).contains(&app.sent(12, 70)), "{} calls in 58 s", app.sent(12, 70));
    assert!(app.sent(10, 12) <= 210, "{} calls until it is known", app.sent(10, 12));
    assert_eq!(app.brake.outage(app.now).unwrap().lasts.as_secs(), 59);
    app.lives(10, FAST, ANSWERED);
    assert!((6..=40).contains(&app.sent(70, 72)), "{} calls in the first two seconds", app.sent(70, 72));
    assert_eq!(app.sent(76, 80), 800, "the full rate");
    assert!(matches!(app.news.as_slice(), [News::Begins(_), News::Ends]), "{:?}", app.news);
    assert!(!app.brake.is_on() && app.brake.outage(app.now).is_none());
}

#[test]
fn a_hanging_service_gets_few_calls_but_frequent_trials() {
    let mut app = App::new();
    let hangs = Duration::from_secs(8);
    app.lives(60, hangs, UNANSWERED);
    assert!(app.sent(20, 60) <= 40, "{} calls in 40 s", app.sent(20, 60));
    assert!((20..55).all(|second| app.sent(second, second + 5) >= 1), "and trials are frequent");
    // Calls that still hang fail long after others are answered, and prove nothing.
    app.lives(15, FAST, ANSWERED);
    assert_eq!(app.sent(70, 75), 1_000);
}

#[test]
fn a_service_that_fails_again_soon_gets_few_calls_again() {
    let mut app = App::new();
    app.lives(10, FAST, UNANSWERED);
    app.lives(2, FAST, ANSWERED);
    app.lives(10, FAST, UNANSWERED);
    assert!(app.sent(13, 22) <= 12, "{} calls", app.sent(13, 22));
    assert_eq!(app.news.len(), 1, "it is one outage: {:?}", app.news);
}

#[test]
fn slots_that_fail_among_answered_ones_do_not_lower_the_rate() {
    let mut app = App::new();
    app.lives(10, FAST, UNANSWERED);
    app.lives(20, FAST, |slot| (slot % 10 < 4).then_some(10002));
    assert_eq!(app.sent(20, 30), 2_000);
    assert_eq!(app.news.len(), 2);
}

#[test]
fn the_brake_needs_ten_failed_attempts_of_five_or_all_slots() {
    let now = Instant::now();
    let begins = |slots: usize, attempts: &[(SlotId, Option<i64>)]| {
        let mut brake = Brake::new(LIMIT);
        brake.has_slots(slots);
        let mut ended = now;
        for (slot, outcome) in attempts {
            _ = brake.note(*slot, &attempt(*outcome, FAST), now, ended);
            ended += Duration::from_millis(120);
        }
        brake.is_on()
    };
    let of = |slots: SlotId, attempts: SlotId, code| -> Vec<_> {
        (0..attempts).map(|number| (number % slots, Some(code))).collect()
    };
    for (slots, attempts, expected) in [
        (12_000, of(5, 10, 10002), true),
        (12_000, of(5, 9, 10002), false),
        (12_000, of(4, 100, 10002), false),
        (4, of(4, 10, 10002), true),
        (2, of(2, 10, 60008), true),
        (1, of(1, 100, 10002), false),
        (12_000, of(5, 10, 12345), true),
        (12_000, of(5, 10, 60004), true),
        (12_000, of(5, 100, 60011), false),
        (12_000, of(5, 100, 10010), false),
        (12_000, of(5, 100, 70003), false),
        (12_000, [of(5, 9, 10002), vec![(9, None)], of(5, 9, 10002)].concat(), false),
        (12_000, [of(5, 9, 10002), vec![(9, Some(60011))], of(5, 1, 10002)].concat(), true),
    ] {
        assert_eq!(begins(slots, &attempts), expected, "{attempts:?} of {slots}");
    }
}

#[test]
fn brief_failures_of_one_group_after_another_do_not_brake() {
    let mut app = App::new();
    app.lives(60, FAST, |slot| (slot % 200 < 150).then_some(10002));
    assert!(app.news.is_empty() && app.sent(10, 60) == 10_000, "{:?}, {} calls", app.news, app.sent(10, 60));
}

#[test]
fn a_limit_of_one_call_a_second_needs_no_brake() {
    let (now, mut brake) = (Instant::now(), Brake::new(1));
    brake.has_slots(12_000);
    let second = Duration::from_secs(1);
    (0..100).for_each(|slot| _ = brake.note(slot.into(), &attempt(Some(10002), FAST), now, now + second * slot));
    assert!(!brake.is_on());
}

#[test]
fn polls_under_way_that_hold_all_places_make_their_next_calls() {
    let mut app = App::new();
    app.lives(10, FAST, UNANSWERED);
    app.lives(30, Duration::from_secs(60), UNANSWERED);
    assert_eq!((app.calls.len(), app.brake.room(app.now)), (TRIALS_IN_FLIGHT, Err(app.now + LOOK_AGAIN)));
    assert_eq!(app.brake.next_call(app.now), Ok(()));
    app.brake.calls(app.now);
    let next = app.brake.next_call(app.now).unwrap_err();
    assert!((app.now..=app.now + Duration::from_secs(1)).contains(&next), "one after the other");
}
