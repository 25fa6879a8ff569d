use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn slot_of(group_key: GroupKey) -> SlotKey {
    SlotKey { group_key, slot_id: group_key.into() }
}

fn failure(code: i64) -> Failure {
    Failure { class: Class::of_code(code), code: Some(code), info: "no".into() }
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// The groups of an app, one slot each, whose answers take 50 ms. All are always due.
struct App {
    gate: Gate,
    start: Instant,
    now: Instant,
    /// The codes of refused groups; group 0 stands for all.
    refused: BTreeMap<GroupKey, i64>,
    groups: GroupKey,
    next: GroupKey,
    calls: Vec<(GroupKey, Instant)>,
    quarantined: BTreeSet<GroupKey>,
}

impl App {
    fn new(groups: GroupKey, refused: impl IntoIterator<Item = (GroupKey, i64)>) -> Self {
        let (start, refused) = (Instant::now(), refused.into_iter().collect());
        let (calls, quarantined) = (vec![], BTreeSet::new());
        Self { gate: Gate::default(), start, now: start, refused, groups, next: 0, calls, quarantined }
    }

    /// Asks one group after the other, like the poller, for this time.
    fn lives(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            let admission = self.gate.admit(self.now);
            let group = match admission {
                Admission::Open | Admission::First => self.a_group_to_ask(),
                Admission::Probe => {
                    let witness = self.gate.take_witness().map(|slot| slot.group_key);
                    witness.or_else(|| self.a_group_to_ask())
                }
                Admission::Closed(_) => None,
            };
            match group {
                Some(group) => self.asks(group),
                None if admission == Admission::Probe => _ = self.gate.no_witness(self.now),
                None => {}
            }
            self.now += secs(0.005);
        }
    }

    fn a_group_to_ask(&mut self) -> Option<GroupKey> {
        (0..self.groups).find_map(|_| {
            self.next = self.next % self.groups + 1;
            let may = !self.quarantined.contains(&self.next)
                && !matches!(self.gate.place(self.next, self.now), Place::Until(_));
            may.then_some(self.next)
        })
    }

    fn asks(&mut self, group: GroupKey) {
        let sent = self.now;
        self.calls.push((group, sent));
        self.now += secs(0.05);
        match self.refused.get(&group).or(self.refused.get(&0)) {
            Some(code) => {
                if self.gate.refused(group, &failure(*code), sent, self.now) == Blame::Group {
                    self.quarantined.insert(group);
                }
            }
            None => _ = self.gate.answered(slot_of(group), sent, self.now),
        }
    }

    fn calls_since(&self, since: Instant) -> usize {
        self.calls.iter().filter(|(_, sent)| *sent >= since).count()
    }
}

#[test]
fn an_inconclusive_probe_leads_to_another_one_within_seconds() {
    for code in [70050, 70003, 10026] {
        let mut app = App::new(6, [(0, code)]);
        app.lives(secs(300.0));
        assert!(app.gate.fault().is_some());
        let mut probed_at = None;
        for _ in 0..40_000 {
            if app.gate.admit(app.now) == Admission::Probe {
                probed_at = Some(app.now);
                break;
            }
            app.now += secs(0.005);
        }
        assert!(probed_at.is_some(), "no probe after {code}");
        app.gate.is_unclear(1, app.now);
        assert_eq!(app.gate.admit(app.now), Admission::Closed(app.now + secs(1.0)), "after {code}");
        assert_eq!(app.gate.admit(app.now + secs(1.0)), Admission::Probe);
    }
}

#[test]
fn an_app_at_fault_is_probed_at_least_every_three_minutes() {
    for code in [10026, 60021, 70003, 70050] {
        let mut app = App::new(6, [(0, code)]);
        app.lives(secs(1_800.0));
        let sent: Vec<Instant> = app.calls.iter().map(|(_, sent)| *sent).collect();
        let longest = sent.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(longest <= PROBE_AT_MOST + secs(0.1), "{longest:?} between two probes after {code}");
        assert!(app.now - sent[sent.len() - 1] <= PROBE_AT_MOST, "no more probes after {code}");
        app.refused.clear();
        app.lives(PROBE_AT_MOST + secs(0.1));
        assert_eq!(app.gate.fault(), None, "{code}");
    }
}

#[test]
fn an_app_code_for_one_group_quarantines_only_that_group() {
    for code in [10026, 60003, 60021, 70003, 70009, 70050, 80005, 10010, 10004] {
        let mut app = App::new(10, [(3, code)]);
        app.lives(secs(30.0));
        assert_eq!(app.quarantined, BTreeSet::from([3]), "{code}");
        assert_eq!(app.gate.fault(), None, "{code}");
        assert_eq!(app.calls.iter().filter(|(group, _)| *group == 3).count(), 2, "{code}");
        for group in (1..=10).filter(|group| *group != 3) {
            let mut last = app.start;
            for (_, sent) in app.calls.iter().filter(|(other, _)| *other == group) {
                assert!(*sent - last < secs(6.0), "{code}: group {group} waited for {:?}", *sent - last);
                last = *sent;
            }
        }
    }
}

#[test]
fn a_code_for_every_group_blames_the_app_and_quarantines_none() {
    for code in [10026, 60021, 70003, 70050, 10007, 10010, 10015, 10060] {
        for seconds in [7.0, 60.0] {
            let mut app = App::new(200, [(0, code)]);
            app.lives(secs(seconds));
            assert_eq!(app.quarantined, BTreeSet::new(), "{code} for {seconds} s");
            assert_eq!(app.gate.fault().and_then(|failure| failure.code), Some(code));
            assert!(app.calls.len() <= 24, "{} calls with {code}", app.calls.len());
            app.refused.clear();
            app.lives(secs(185.0));
            assert_eq!(app.gate.fault(), None);
            let late = app.calls_since(app.now - secs(2.0));
            assert!(late > 20, "{late} calls in two seconds when it works again");
            assert_eq!(app.quarantined, BTreeSet::new(), "{code}");
        }
    }
}

#[test]
fn refused_signatures_are_few() {
    let mut app = App::new(200, [(0, 70003)]);
    app.lives(secs(10.0));
    assert!(app.calls.len() <= 4, "{} calls", app.calls.len());
    let mut app = App::new(200, [(0, 70050)]);
    app.lives(secs(60.0));
    assert_eq!(app.calls.len(), 2, "one witness, and then a minute of nothing");
}

#[test]
fn while_one_call_tries_a_new_signature_the_others_wait() {
    let start = Instant::now();
    let at = |seconds| start + secs(seconds);
    let mut gate = Gate::default();
    assert!(gate.may_call(2, at(0.0)));
    assert_eq!(gate.signature_refused(at(0.0), at(0.1)), Signature::Renew);
    assert_eq!((gate.admit(at(0.2)), gate.may_call(2, at(0.2))), (Admission::Closed(at(0.45)), false));
    gate.answered(slot_of(1), at(0.2), at(0.3));
    assert_eq!((gate.admit(at(0.3)), gate.may_call(2, at(0.3))), (Admission::Open, true));
}

#[test]
fn the_gate_tells_bad_groups_from_good_ones_within_seconds() {
    let mut app = App::new(40, (1..=10).map(|group| (group, 60003)));
    app.lives(secs(6.0));
    assert!(app.calls_since(app.now - secs(1.0)) > 5);
    assert_eq!(app.gate.fault(), None);
    app.lives(secs(60.0));
    assert_eq!(app.quarantined, (1..=10).collect());
}

#[test]
fn app_codes_blame_the_app_and_group_codes_its_only_group() {
    let mut app = App::new(1, [(1, 60021)]);
    app.lives(secs(600.0));
    assert_eq!((app.quarantined.len(), app.gate.fault().is_some()), (0, true));
    assert!((5..12).contains(&app.calls.len()), "{}", app.calls.len());
    app.refused.clear();
    app.lives(secs(181.0));
    assert_eq!(app.gate.fault(), None);
    let mut app = App::new(1, [(1, 10010)]);
    app.lives(secs(60.0));
    assert_eq!((app.quarantined.len(), app.gate.fault().is_some(), app.calls.len()), (1, false, 3));
}

#[test]
fn a_repeated_refusal_blames_no_group_before_others_are_asked() {
    let start = Instant::now();
    let at = |seconds| start + secs(seconds);
    let mut gate = Gate::default();
    // For example because nothing could be stored in between.
    assert_eq!(gate.refused(8, &failure(10010), at(0.0), at(0.1)), Blame::Unknown);
    assert_eq!(gate.admit(at(1.0)), Admission::Open);
    assert_eq!(gate.refused(8, &failure(10010), at(15.0), at(15.1)), Blame::Unknown);
    assert_eq!(gate.admit(at(15.2)), Admission::Probe);
    assert_eq!(gate.refused(7, &failure(10010), at(15.2), at(15.3)), Blame::Unknown);
    assert_eq!(gate.no_witness(at(15.3)).and_then(|failure| failure.code), Some(10010), "the others are refused too");
}

#[test]
fn a_probe_refused_for_its_signature_delays_the_next_one() {
    let start = Instant::now();
    let at = |seconds| start + secs(seconds);
    for (code, again) in [(70050, 2.0), (70003, 2.0), (60021, 0.25)] {
        let mut gate = Gate::default();
        gate.refused(1, &failure(10007), at(0.0), at(0.1));
        gate.refused(1, &failure(10007), at(15.0), at(15.1));
        assert_eq!(gate.admit(at(15.2)), Admission::Probe);
        assert_eq!(gate.refused(2, &failure(code), at(15.2), at(15.3)), Blame::Unknown);
        assert_eq!(gate.admit(at(15.4)), Admission::Closed(at(15.3 + again)), "{code}");
    }
}

#[test]
fn a_group_whose_quarantine_is_not_stored_is_asked_rarely() {
    let mut app = App::new(5, [(2, 60003)]);
    for _ in 0..720 {
        app.lives(secs(5.0));
        app.quarantined.clear();
    }
    let calls = app.calls.iter().filter(|(group, _)| *group == 2).count();
    assert!((5..=10).contains(&calls), "{calls} calls in an hour");
}

#[test]
fn a_group_that_answers_for_some_messages_is_not_blamed() {
    let start = Instant::now();
    let at = |seconds| start + secs(seconds);
    let mut gate = Gate::default();
    assert_eq!(gate.refused(1, &failure(10004), at(0.0), at(0.1)), Blame::Unknown);
    gate.answered(slot_of(1), at(10.0), at(10.1));
    assert_eq!(gate.take_freed(), [1]);
    assert_eq!(gate.refused(1, &failure(10004), at(11.0), at(11.1)), Blame::Messages);
    assert_eq!(gate.place(1, at(12.0)), Place::Free);
}

#[test]
fn calls_under_way_tell_no_more_than_the_first_of_them() {
    let start = Instant::now();
    let at = |seconds| start + secs(seconds);
    let mut gate = Gate::default();
    for call in 0..200 {
        let blame = gate.refused(call, &failure(60021), at(0.0), at(1.0 + f64::from(call) / 1e3));
        assert_eq!(blame, Blame::Unknown, "no witness has been asked yet");
    }
    assert_eq!(gate.admit(at(1.2)), Admission::Probe, "and the first is asked at once");
    assert!(!gate.answered(slot_of(300), at(0.9), at(1.2)), "what was sent before the refusal was known is no witness");
    assert!(gate.doubted_for().is_some());
    gate.answered(slot_of(300), at(1.21), at(1.25));
    assert_eq!(gate.admit(at(1.3)), Admission::Open);
}

#[test]
fn a_group_that_is_not_watched_any_more_ends_the_doubt() {
    let now = Instant::now();
    let mut gate = Gate::default();
    gate.refused(1, &failure(60021), now, now);
    assert!(gate.no_witness(now).is_some() && gate.no_witness(now).is_none(), "said once");
    assert_eq!(gate.admit(now + secs(1_000.0)), Admission::First);
}

proptest! {
    #[test]
    fn whoever_is_refused_the_good_groups_are_asked_on(
        bad in proptest::collection::btree_map(1_i32..30, prop_oneof![
            Just(10026_i64), Just(60003), Just(60021), Just(10010), Just(10007), Just(80005)
        ], 0..12),
        of_signature in proptest::option::of((1_i32..30, prop_oneof![Just(70003_i64), Just(70050)])),
    ) {
        let bad: BTreeMap<GroupKey, i64> = bad.into_iter().chain(of_signature).collect();
        let mut app = App::new(30, bad.clone());
        app.lives(secs(60.0));
        prop_assert_eq!(&app.quarantined, &bad.keys().copied().collect());
        prop_assert_eq!(app.gate.fault(), None);
        let good = app.calls_since(app.now - secs(5.0));
        prop_assert!(good > 50, "{good} calls in the last five seconds");
        let refused = app.calls.iter().filter(|(group, _)| bad.contains_key(group)).count();
        prop_assert!(refused <= 5 * bad.len(), "{refused} refused calls");
        let good = app.calls.iter().filter(|(group, _)| !bad.contains_key(group)).map(|(_, sent)| *sent);
        let good: Vec<Instant> = std::iter::once(app.start).chain(good).collect();
        let waits = good.windows(2).map(|pair| pair[1] - pair[0]);
        prop_assert!(waits.clone().max() < Some(secs(10.0)), "the good groups waited for {:?}", waits.max());
    }
}

#[test]
fn groups_no_longer_watched_take_no_room_of_others() {
    let (mut gate, mut now) = (Gate::default(), Instant::now());
    let mut refused = |group, now| {
        let blame = gate.refused(group, &failure(10010), now, now);
        gate.answered(slot_of(5_000), now, now);
        (blame, gate.place(group, now))
    };
    // Each is refused once and then unwatched.
    for group in 1..=2_000 {
        assert_eq!(refused(group, now).0, Blame::Unknown);
        now += secs(3_600.0);
    }
    let (blame, place) = refused(3_000, now);
    assert_eq!(blame, Blame::Unknown);
    assert_ne!(place, Place::Free, "it is asked again and again");
    assert_eq!(refused(3_000, now + secs(11.0)).0, Blame::Group);
}
