//! Obstacles to storing: refused rows and broken connections here, locks of other sessions in [`locks`].

mod locks;

use std::{sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusBuilder;
use receiptd::{
    domain::Counts,
    rules::{
        cadence::{Cadence, Cadences, Tier},
        slot::SlotKey,
    },
    store::Store,
};
use sqlx::{AssertSqlSafe, Postgres, Transaction};

use crate::{
    harness::{Harness, app, every_second, group, seq, simulator_config},
    proxy::Proxy,
};

const ALL_POLLED: &str = "(SELECT bool_and(known_until IS NOT NULL) FROM receiptd.latest_receipts)";

/// Waits until every message of a group has been polled again.
async fn polled_again(rig: &mut Harness, group: &str) {
    let now: chrono::DateTime<chrono::Utc> = rig.value("SELECT clock_timestamp()").await;
    let now = now.to_rfc3339();
    rig.until(&format!("(SELECT min(known_until) FROM receiptd.latest_receipts WHERE group_id = '{group}') > '{now}'"))
        .await;
}

fn set_read(rig: &Harness, group_id: &str, msg_seq: i64, read: i64) {
    rig.simulator.world().set_receipt(&group(group_id), seq(msg_seq), Counts::new(read, 500 - read).unwrap());
}

async fn run(rig: &Harness, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&rig.pool).await.unwrap();
}

#[tokio::test]
async fn a_refused_snapshot_is_set_aside_and_the_rest_is_stored() {
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.watch("bad", 1..=20).await;
    rig.watch("good", 1..=20).await;
    let bad: i32 = rig.value("SELECT group_key FROM receiptd.watched_groups WHERE group_id = 'bad'").await;
    run(
        &rig,
        &format!(
            "ALTER TABLE receiptd.receipt_snapshots
             ADD CONSTRAINT no_seven CHECK (group_key <> {bad} OR msg_seq <> 7)"
        ),
    )
    .await;
    rig.start().await;
    rig.until("(SELECT count(*) FROM receiptd.receipt_snapshots) = 39").await;
    rig.until("EXISTS (SELECT FROM receiptd.set_aside)").await;
    let aside: (i64, String, String, bool) = sqlx::query_as(
        "SELECT msg_seq, sqlstate, reason, content #> '{receipt_snapshots,0,receipt,read_num}' IS NOT NULL
         FROM receiptd.set_aside LIMIT 1",
    )
    .fetch_one(&rig.pool)
    .await
    .unwrap();
    assert_eq!((aside.0, aside.1.as_str(), aside.3), (7, "23514", true));
    assert!(aside.2.contains("no_seven"), "{}", aside.2);
    assert_eq!(rig.count("receiptd.set_aside WHERE msg_seq IS DISTINCT FROM 7").await, 0);
    polled_again(&mut rig, "good").await;
    assert_eq!(rig.count("receiptd.receipt_snapshots WHERE msg_seq = 7").await, 1, "the one of the good group");
    rig.stop().await;
}

#[tokio::test]
async fn a_refused_poll_is_set_aside_and_its_slot_is_polled_on() {
    let mut rig = Harness::new().await;
    run(
        &rig,
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'not this slot'; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE OF last_polled_at ON receiptd.poll_slots
         FOR EACH ROW WHEN (NEW.last_polled_at IS NOT NULL) EXECUTE FUNCTION public.refuse()",
    )
    .await;
    rig.watch("g", 1..=3).await;
    rig.until("EXISTS (SELECT FROM receiptd.set_aside)").await;
    let has_all = "msg_seq IS NULL AND sqlstate = 'P0001' AND reason LIKE '%not this slot%'
        AND jsonb_path_query_array(content, '$.receipt_snapshots[*].msg_seq') = '[1, 2, 3]'";
    assert_eq!(rig.count(&format!("receiptd.set_aside WHERE {has_all}")).await, 1);
    let calls = rig.simulator.ledger().calls();
    rig.simulator.wait_for_ended_calls(calls + 2).await;
    assert_eq!(rig.count("receiptd.receipt_snapshots").await, 0, "the next poll finds the same changes");
    run(&rig, "DROP TRIGGER refuse ON receiptd.poll_slots").await;
    rig.until(ALL_POLLED).await;
    assert_eq!(rig.count("receiptd.receipt_snapshots").await, 3);
    let paused = "SELECT count(*) = 1 AND max(times) >= 2 AND max(set_aside_at) - min(first_set_aside_at) > '9 seconds'
        FROM receiptd.set_aside";
    assert!(rig.value::<bool>(paused).await, "one row, and the slot was tried in pauses");
    rig.stop().await;
}

#[tokio::test]
async fn a_flush_whose_commit_was_not_answered_is_stored_once() {
    let mut rig = Harness::stopped(simulator_config()).await;
    let proxy = Proxy::start(&rig.database.url()).await;
    rig.settings.database_url = proxy.url().into();
    rig.start().await;
    for number in 1..=5 {
        rig.watch(&format!("g{number}"), 1..=3).await;
    }
    rig.until(ALL_POLLED).await;
    for _ in 0..3 {
        proxy.swallow_the_answer_to_the_next_commit_of("api_calls");
        proxy.has_swallowed().await;
        polled_again(&mut rig, "g1").await;
    }
    rig.stop().await;
    let ended = i64::try_from(rig.simulator.ledger().ended_calls()).unwrap();
    assert_eq!(rig.count("receiptd.api_calls").await, ended, "every call has one row");
}

#[tokio::test]
async fn silent_connections_are_abandoned_and_polling_goes_on() {
    let mut rig = Harness::stopped(simulator_config()).await;
    let proxy = Proxy::start(&rig.database.url()).await;
    rig.settings.database_url = proxy.url().into();
    rig.start().await;
    rig.watch("g", 1..=3).await;
    rig.until(ALL_POLLED).await;
    // As after a failover: open connections lead nowhere silently, and new ones work.
    proxy.silence_open_connections();
    polled_again(&mut rig, "g").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_refused_quarantine_backs_off_and_is_set_aside_in_one_row() {
    let mut rig = Harness::new().await;
    run(
        &rig,
        "CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'no quarantine here'; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON receiptd.watched_groups
         FOR EACH ROW WHEN (NEW.state = 'quarantined') EXECUTE FUNCTION public.refuse()",
    )
    .await;
    rig.simulator.world().set_group_code(&group("gone"), 10010);
    rig.watch("gone", 1..=3).await;
    rig.watch("free", 1..=3).await;
    rig.until("EXISTS (SELECT FROM receiptd.set_aside)").await;
    let calls = "receiptd.api_calls JOIN receiptd.watched_groups USING (group_key) WHERE group_id = 'gone'";
    assert_eq!(rig.count(calls).await, 2, "the calls are stored, though the quarantine is not");
    let later = "(SELECT bool_and(next_poll_at > clock_timestamp() + interval '5 seconds') FROM receiptd.poll_slots
        JOIN receiptd.watched_groups USING (group_key) WHERE group_id = 'gone')";
    assert!(rig.value::<bool>(&format!("SELECT {later}")).await, "the pause is stored");
    for _ in 0..3 {
        polled_again(&mut rig, "free").await;
    }
    assert_eq!(rig.simulator.ledger().calls_by_group()[&group("gone")], 2, "it waits");
    rig.until("(SELECT max(times) FROM receiptd.set_aside) = 2").await;
    assert_eq!(rig.count("receiptd.set_aside WHERE reason LIKE '%no quarantine here%'").await, 1);
    run(&rig, "DROP TRIGGER refuse ON receiptd.watched_groups").await;
    rig.until("EXISTS (SELECT FROM receiptd.watched_groups WHERE group_id = 'gone' AND state = 'quarantined')").await;
    rig.stop().await;
}

#[tokio::test]
async fn results_too_large_for_one_transaction_are_stored_in_parts() {
    let mut rig = Harness::stopped(simulator_config()).await;
    // All at once take 14 s, and a transaction has 9.
    run(
        &rig,
        "CREATE FUNCTION public.slow() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_sleep(0.06); RETURN NEW; END $$;
         CREATE TRIGGER slow BEFORE INSERT ON receiptd.receipt_snapshots FOR EACH ROW EXECUTE FUNCTION public.slow()",
    )
    .await;
    for number in 1..=12 {
        rig.watch(&format!("g{number}"), 1..=20).await;
    }
    rig.start().await;
    rig.until("(SELECT count(*) FROM receiptd.receipt_snapshots) = 240").await;
    run(&rig, "DROP TRIGGER slow ON receiptd.receipt_snapshots").await;
    rig.until(ALL_POLLED).await;
    rig.stop().await;
    let ended = i64::try_from(rig.simulator.ledger().ended_calls()).unwrap();
    assert_eq!(rig.count("receiptd.api_calls").await, ended, "every call has one row");
}

#[tokio::test]
async fn the_schedule_is_read_in_pages_that_leave_nothing_out() {
    let rig = Harness::stopped(simulator_config()).await;
    run(
        &rig,
        "SELECT receiptd.watch_group(app, 'g') FROM unnest(ARRAY[1400000000, 77]) AS app;
         INSERT INTO receiptd.poll_slots (group_key, next_poll_at)
            SELECT group_key, now() FROM generate_series(1, 11000), receiptd.watched_groups ORDER BY generate_series, group_key",
    )
    .await;
    let store = Store::new(&rig.settings.database_url, 3, app()).unwrap();
    let (mut read, mut pages, mut after) = (vec![], vec![], Some(SlotKey::MIN));
    while let Some(last) = after {
        let before = read.len();
        after = store.load_schedule(last, |slot, _, _| read.push(slot)).await.unwrap();
        pages.push(read.len() - before);
    }
    let expected: Vec<SlotKey> = sqlx::query_as(
        "SELECT group_key, slot_id FROM receiptd.poll_slots JOIN receiptd.watched_groups USING (group_key)
         WHERE sdk_app_id = 1400000000 ORDER BY group_key, slot_id",
    )
    .fetch_all(&rig.pool)
    .await
    .unwrap();
    assert_eq!(read, expected);
    assert_eq!(pages, [10_000, 1_000, 0], "of another app there are as many");
}
