//! Webhooks save polls, and lose nothing.

use chrono::TimeDelta;
use fastrand::Rng;

use super::*;
use crate::rules::cadence::{Cadence, Pace};

/// The time in which half of the members read a message, in microseconds.
const SLOWLY: f64 = 6.0 * 3.6e9;

/// Conversations of six messages in 12 groups over three days, each message read by 30 members.
fn messages() -> Vec<Sent> {
    let mut rng = Rng::with_seed(7);
    let start = Timestamp::from_timestamp(1_790_000_000, 0).unwrap();
    let mut all = vec![];
    let mut begins = start;
    for number in 0..600 {
        if number % 6 == 0 {
            begins = start + TimeDelta::seconds(i64::from(rng.u32(..3 * 86_400)));
        }
        let sent_at = begins + TimeDelta::seconds(i64::from(rng.u32(..300)));
        let read_after = |rng: &mut Rng| {
            let share = rng.f64();
            TimeDelta::microseconds((SLOWLY * (share / (1.0 - share)).powf(1.0 / 1.5)) as i64)
        };
        let mut reads: Vec<Timestamp> = (0..30).map(|_| sent_at + read_after(&mut rng)).collect();
        reads.sort_unstable();
        all.push(Sent { group_key: number / 6 % 12, sent_at, members: 30, reads });
    }
    all
}

fn found(messages: &[Sent], told: f64, patience: u32) -> Findings {
    let pace = Pace { pace: Pace::DEFAULT_PACE, patience, fastest: Duration::from_secs(30) };
    let cadence = Cadence::built_in(true).at_pace(pace).unwrap();
    let cadences = Arc::new(Cadences::new([("default".to_owned(), cadence)].into()));
    replay(messages, &Way { cadences, stretch: Stretching::By(1.0), batch_size: 50, limit: None, told })
}

#[test]
fn polls_give_way_to_webhooks_and_lose_nothing() {
    let messages = messages();
    let alone = found(&messages, 0.0, 8);
    let mut before = alone.clone();
    for told in [0.5, 0.9, 1.0] {
        let beside = found(&messages, told, 8);
        assert_eq!((beside.messages, beside.lost), (alone.messages, 0), "{told}");
        assert!(beside.calls < before.calls, "{told}: {} after {}", beside.calls, before.calls);
        assert!(beside.milestone_width() < before.milestone_width(), "{told}");
        before = beside;
    }
    let (calls, few) = (alone.calls as f64, found(&messages, 1.0, 24).calls as f64);
    assert!(before.calls as f64 <= calls / 3.0, "{} of {calls} calls", before.calls);
    assert!(few <= calls / 5.0, "{few} of {calls} calls");
    assert!(before.milestone_width() < 1.0, "{} s", before.milestone_width());
}

#[test]
fn nobody_is_forgotten_at_twenty_times_the_load() {
    let messages = messages();
    let cadences = Arc::new(Cadences::default());
    let way = Way { cadences, stretch: Stretching::By(1.0), batch_size: 50, limit: None, told: 0.0 };
    let alone = replay(&messages, &way);
    for factor in [3.0, 20.0] {
        // On average over the three days in which messages are sent.
        let limit = Some(alone.calls as f64 / (3.0 * 86_400.0) / factor);
        let found = replay(&messages, &Way { stretch: Stretching::ToFit, limit, ..way.clone() });
        let longest = found.waits.most();
        assert!(found.stretch > factor / 2.0 && (4.0..9.0).contains(&longest), "{longest} at {}", found.stretch);
    }
}

#[test]
fn lost_webhooks_are_made_up_for_within_patience() {
    let messages = messages();
    for told in [0.0, 0.9] {
        let beside = found(&messages, told, 8);
        assert_eq!(beside.lost, 0);
        assert!(beside.waits.most() <= 8.01, "{told}: {} intervals of a tier", beside.waits.most());
    }
}
