//! Every change is within its stored interval, however long the service takes and however a poll was split.

use std::{collections::BTreeMap, time::Duration};

use receiptd::{
    clock,
    domain::{Counts, Timestamp},
    simulator::{Fault, FaultRule, When},
};

use crate::harness::{Harness, group, seq, simulator_config};

/// Time from the service's reading of the counts to its answer.
const LATENCY: Duration = Duration::from_secs(2);

const MESSAGES: i64 = 12;

/// Time between changes: together they last several times as long as an answer takes.
const PAUSE: Duration = Duration::from_millis(400);

fn set(rig: &Harness, msg_seq: i64, read: i64) {
    rig.simulator.world().set_receipt(&group("g"), seq(msg_seq), Counts::new(read, 4 - read).unwrap());
}

/// A daemon that knows all messages, unread.
async fn rig() -> Harness {
    let mut config = simulator_config();
    config.latency = (LATENCY..=LATENCY).into();
    let mut rig = Harness::stopped(config).await;
    (1..=MESSAGES).for_each(|number| set(&rig, number, 0));
    rig.start().await;
    rig.watch("g", 1..=MESSAGES).await;
    rig.until(&format!("(SELECT count(known_until) = {MESSAGES} FROM receiptd.latest_receipts)")).await;
    rig
}

/// Has half of the members read one message after the other, waits until everything is stored, and compares.
async fn all_changes_lie_within_their_intervals(rig: &mut Harness) {
    let mut truth: BTreeMap<i64, (Timestamp, Timestamp)> = BTreeMap::new();
    // Neighbours are in the same half of a split poll.
    for number in (1..=MESSAGES).map(|number| number * 5 % (MESSAGES + 1)) {
        tokio::time::sleep(PAUSE).await;
        let before = clock::now();
        set(rig, number, 2);
        truth.insert(number, (before, clock::now()));
    }
    rig.until("(SELECT bool_and(read_num = 2) FROM receiptd.latest_receipts)").await;
    let rows: Vec<(i64, Timestamp, Timestamp)> = sqlx::query_as(
        "SELECT msg_seq, prior_polled_at, polled_at FROM receiptd.receipt_history WHERE read_num = 2 ORDER BY msg_seq",
    )
    .fetch_all(&rig.pool)
    .await
    .unwrap();
    assert_eq!(rows.len(), truth.len());
    for (number, after, by) in rows {
        let (before, read) = truth[&number];
        assert!(after <= read && before <= by, "{number} was read at {read}, and not between {after} and {by}");
    }
}

#[tokio::test]
async fn a_read_lies_within_its_interval_despite_a_slow_service() {
    let mut rig = rig().await;
    all_changes_lie_within_their_intervals(&mut rig).await;
    rig.stop().await;
}

#[tokio::test]
async fn each_half_of_a_poll_that_is_split_has_an_interval_of_its_own() {
    let mut rig = rig().await;
    // Refused as a whole by a code that says nothing about the batch limit.
    let fault = Fault::ErrorCode { code: 10062 };
    let when = When::MoreThan { messages: usize::try_from(MESSAGES).unwrap() / 2 };
    rig.simulator.add_fault(FaultRule { fault, when, times: None });
    all_changes_lie_within_their_intervals(&mut rig).await;
    let apart = rig.count("receiptd.slot_messages WHERE known_apart IS NOT NULL").await;
    assert_eq!(apart, MESSAGES / 2, "the slot tells of one half");
    rig.stop().await;
}
