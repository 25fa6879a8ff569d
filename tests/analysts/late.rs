//! Late data is rolled up too: the flush that stores it notes it.

use chrono::TimeDelta;
use receiptd::{clock, daemon::jobs::catch_up, store::Store};
use sqlx::AssertSqlSafe;

use crate::harness::{Harness, app, simulator_config};

#[tokio::test]
async fn a_late_flush_causes_a_new_roll_up_of_its_hour() {
    let mut rig = Harness::new().await;
    rig.watch("g", 1..=3).await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE known_until IS NOT NULL) = 3").await;
    assert_eq!(rig.count("receiptd.rollup_redo").await, 0, "what is written in time is not late");
    let store = Store::new(&rig.settings.database_url, 2, app()).unwrap();
    // As if the clock had been set back by hours: all new data is in the past.
    let ahead = clock::now() + TimeDelta::hours(3);
    catch_up(&store, ahead, |_| {}).await.unwrap();
    let calls = rig.count("receiptd.api_calls").await;
    rig.until(&format!("(SELECT count(*) FROM receiptd.api_calls) > {calls}")).await;
    rig.until("EXISTS (SELECT FROM receiptd.rollup_redo)").await;
    rig.stop().await;
    let hours: i64 = rig.value("SELECT count(DISTINCT hour) FROM receiptd.rollup_redo").await;
    assert!(hours >= 3, "its own hour and those since, at the end of which something else was known: {hours}");
    catch_up(&store, ahead, |_| {}).await.unwrap();
    assert_eq!(rig.count("receiptd.rollup_redo").await, 0);
    let counted: i64 = rig.value("SELECT sum(calls) FROM receiptd.group_receipts_hourly").await;
    assert_eq!(counted, rig.count("receiptd.api_calls").await, "late calls are counted once");
}

#[tokio::test]
async fn the_daemon_rolls_up_at_its_start_what_was_left() {
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.watch("g", [1]).await;
    let hours_ago = clock::now() - TimeDelta::hours(5);
    sqlx::raw_sql(AssertSqlSafe(format!(
        "SELECT receiptd.ensure_partition('receipt_snapshots', '{day}');
         SELECT receiptd.ensure_partition('api_calls', '{day}');
         INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, read_num, unread_num, code)
         VALUES (1, 1, '{hours_ago}', 3, 4, 0)",
        day = hours_ago.date_naive()
    )))
    .execute(&rig.pool)
    .await
    .unwrap();
    rig.start().await;
    rig.until("(SELECT sum(reads_found) FROM receiptd.group_receipts_hourly) = 3").await;
    rig.until("(SELECT rolled_up_until > now() - interval '3 minutes' FROM receiptd.poller_leases)").await;
    rig.stop().await;
}
