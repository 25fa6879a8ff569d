//! The cost of deciding, by each kind of cadence.

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use receiptd::{
    domain::{Counts, MsgSeq, Receipt, Timestamp},
    rules::{
        cadence::{Cadence, Cadences, Following, Phase},
        protocol::{Answer, Attempt},
        recording::{KeepSnapshots, Kept, Poll, PollEnd, Told},
        slot::{Slot, SlotKey, SlotMessage},
    },
};

use super::policies::Policy;

/// Number of decisions that are timed together.
const TIMES: u32 = 500;

/// Number of times that each kind is timed, in turns.
const ROUNDS: u32 = 200;

/// The kinds of cadences.
fn cadences() -> [(&'static str, Cadence); 3] {
    let cron = Cadence::by_cron("*/5 * * * *", Duration::from_secs(30 * 86_400), true, now()).unwrap();
    [("pace", Policy::Pace.cadence(1.0)), ("tiers", Policy::Tiers.cadence(1.0)), ("cron", cron)]
}

fn now() -> Timestamp {
    Timestamp::from_timestamp(1_795_996_800, 0).unwrap()
}

/// A slot of 50 messages, sent 7 minutes apart, of which all members have read each fifth.
fn slot() -> Slot {
    let polled_at = now() - TimeDelta::minutes(5);
    let message = |number: i64| {
        let read = if number % 5 == 0 { 50 } else { 20 };
        SlotMessage {
            receipt: Some(Receipt { code: 0, counts: Counts::new(read, 50 - read) }),
            first_polled_at: Some(polled_at),
            changed_at: Some(polled_at),
            known_until: Some(polled_at),
            ..SlotMessage::new(MsgSeq::try_from(number + 1).unwrap(), now() - TimeDelta::minutes(6 + 7 * number))
        }
    };
    Slot {
        last_polled_at: Some(polled_at),
        known_until: Some(polled_at),
        version: 1,
        last_called_at: Some(polled_at),
        messages: (0..50).map(message).collect(),
        ..Slot::new(SlotKey { group_key: 1, slot_id: 1 }, "g".parse().unwrap(), now())
    }
}

/// A poll that finds nothing new.
fn poll(slot: &Slot) -> Poll {
    let at = now();
    let told = |message: &SlotMessage| {
        Some(Told { seq: message.seq, receipt: message.receipt?, sent_at: at, answered_at: at })
    };
    let attempt = Attempt {
        called_at: at,
        ended_at: at,
        latency: Duration::ZERO,
        http_status: Some(200),
        asked: slot.messages.len(),
        outcome: Ok(Answer::default()),
    };
    let receipts = slot.messages.iter().filter_map(told).collect();
    Poll { attempts: vec![attempt], receipts, ..Poll::ended(PollEnd::Complete) }
}

/// Microseconds for each of some decisions, by each kind of cadence: the least of all rounds, since other work may run
/// meanwhile.
fn cost<const N: usize>(mut decide: [impl FnMut(u32); N]) -> [f64; N] {
    let mut least = [f64::INFINITY; N];
    for _ in 0..ROUNDS {
        for (decide, least) in decide.iter_mut().zip(&mut least) {
            let start = Instant::now();
            (0..TIMES).for_each(&mut *decide);
            *least = least.min(start.elapsed().as_secs_f64() * 1e6 / f64::from(TIMES));
        }
    }
    least
}

/// Prints the cost of deciding when a slot is due, and of all decisions about a poll.
pub fn print() {
    let (kinds, slot) = (cadences(), slot());
    let poll = poll(&slot);
    let due = cost(kinds.each_ref().map(|(_, cadence)| {
        let known: Vec<_> = slot.messages.iter().map(SlotMessage::known).collect();
        move |slot: u32| {
            let known = black_box(&known).iter().copied();
            black_box(Following::from(cadence).due(Phase::of_slot(slot.into()), now(), known));
        }
    }));
    let recording = cost(kinds.each_ref().map(|(_, cadence)| {
        let cadences = Arc::new(Cadences::new(BTreeMap::from([("default".to_owned(), cadence.clone())])));
        let (slot, poll) = (&slot, &poll);
        move |_| {
            let (slot, poll) = black_box((slot.clone(), poll.clone()));
            let kept = Kept::of(slot, poll, cadences.clone(), 1.0, KeepSnapshots::Changes, now());
            black_box((kept.outcome(&[]), kept));
        }
    }));
    println!("\nTime of deciding, for a slot of 50 messages, in microseconds:");
    println!("cadence   when it is due   all about a poll");
    for (((name, _), due), recording) in kinds.iter().zip(due).zip(recording) {
        println!("{name:<8}  {due:>14.2}  {recording:>17.2}");
    }
}
