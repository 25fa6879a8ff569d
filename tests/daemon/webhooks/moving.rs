//! Events while their slots change, are polled, or the daemon stops.

use std::time::Duration;

use chrono::TimeDelta;
use receiptd::{clock, domain::Timestamp, rules::cadence::Cadences};

use super::{listening, post, query, receipts, set, url};
use crate::harness::{every_second, simulator_config};

#[tokio::test]
async fn a_slot_whose_common_poll_told_nothing_new_is_polled_on() {
    let mut rig = listening(simulator_config()).await;
    rig.settings.session.cadences = Cadences::new([("default".to_owned(), every_second())].into()).into();
    for number in 1..=2 {
        set(&rig, number, 0, 9);
    }
    rig.settings.session.polling.batch_size = 1;
    rig.watch("g", 1..=2).await;
    rig.start().await;
    rig.until("(SELECT count(*) = 2 FROM receiptd.latest_receipts WHERE unread_num = 9)").await;
    rig.stop().await;
    assert_eq!(rig.count("receiptd.poll_slots").await, 2);
    rig.settings.session.polling.batch_size = 4;
    rig.simulator.set_latency((Duration::from_millis(1_500)..=Duration::from_millis(1_500)).into());
    let calls = rig.simulator.ledger().calls();
    rig.start().await;
    // The common poll has read the counts; before it is answered, an event tells of each message.
    rig.simulator.wait_for_calls(calls + 1).await;
    for number in 1..=2 {
        set(&rig, number, 1, 8);
        let body = receipts(number, 1, 8, 1, clock::now() - TimeDelta::milliseconds(20));
        assert_eq!(post(&format!("{}?{}", url(&rig), query()), body).await.0, 200);
    }
    rig.until("(SELECT count(*) = 2 FROM receiptd.latest_receipts WHERE read_num = 1)").await;
    let told: Timestamp = rig.value("SELECT clock_timestamp()").await;
    let told = told.to_rfc3339();
    rig.until(&format!("(SELECT min(known_until) FROM receiptd.latest_receipts) > '{told}'")).await;
    rig.stop().await;
}

#[tokio::test]
async fn an_event_that_was_accepted_just_before_the_stop_is_recorded() {
    let mut rig = listening(simulator_config()).await;
    set(&rig, 1, 0, 3);
    rig.start().await;
    rig.watch("g", [1]).await;
    rig.until("(SELECT unread_num = 3 FROM receiptd.latest_receipts)").await;
    let body = receipts(1, 1, 2, 1, clock::now());
    assert_eq!(post(&format!("{}?{}", url(&rig), query()), body).await.0, 200);
    rig.stop().await;
    assert_eq!(rig.value::<i32>("SELECT read_num FROM receiptd.latest_receipts").await, 1);
}

#[tokio::test]
async fn an_event_finds_a_message_that_moves_to_another_slot_meanwhile() {
    let mut rig = listening(simulator_config()).await;
    set(&rig, 1, 0, 3);
    rig.start().await;
    rig.watch("g", [1]).await;
    rig.until("(SELECT unread_num = 3 FROM receiptd.latest_receipts)").await;
    let mut other = rig.pool.begin().await.unwrap();
    let lock = "LOCK TABLE receiptd.poll_slots IN ACCESS EXCLUSIVE MODE";
    sqlx::query(lock).execute(&mut *other).await.unwrap();
    let body = receipts(1, 1, 2, 1, clock::now());
    assert_eq!(post(&format!("{}?{}", url(&rig), query()), body).await.0, 200);
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'receiptd.poll_slots'::regclass";
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut *other).await.unwrap() == 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // As when slots are merged or split.
    sqlx::raw_sql(
        "CREATE TEMP TABLE moved AS SELECT * FROM receiptd.poll_slots;
         UPDATE moved SET slot_id = 1000;
         INSERT INTO receiptd.poll_slots SELECT * FROM moved;
         UPDATE receiptd.watched_messages SET slot_id = 1000;
         DELETE FROM receiptd.poll_slots WHERE slot_id <> 1000",
    )
    .execute(&mut *other)
    .await
    .unwrap();
    other.commit().await.unwrap();
    rig.until("(SELECT read_num = 1 FROM receiptd.latest_receipts)").await;
    rig.stop().await;
}
