//! Retention: old data is removed once it is rolled up, while others read and write.

use chrono::{NaiveDate, TimeDelta};
use receiptd::{
    clock,
    daemon::jobs::{Removed, enforce},
    domain::Timestamp,
    rules::retention::Retention,
    store::Store,
};
use sqlx::{Connection, PgConnection};

use crate::{
    harness::{Harness, app},
    history::History,
};

const KEEP: Retention = Retention {
    snapshots: Some(TimeDelta::days(3)),
    calls: Some(TimeDelta::days(3)),
    rollups: None,
    message_days: None,
    readers: None,
};

/// Of the days from 18 to 30, those before 21 are older than three days and are removed.
fn now() -> Timestamp {
    "2025-11-24T12:00:00Z".parse().unwrap()
}

/// A message with two snapshots on the 20th.
async fn history() -> History {
    let history = History::new().await;
    history.message(1, "08:30");
    history.polls(1, &[("08:31", 0, 9), ("09:10", 5, 4)]).await;
    history.call(1, "08:31", "08:31", "success");
    history
}

fn days(history: &History) -> String {
    history.psql(
        "SELECT count(*), min(right(relname, 2)) FROM pg_class c
         WHERE relnamespace = 'receiptd_partitions'::regnamespace AND relkind = 'r' AND relname ~ '_2025....$'",
    )
}

#[tokio::test]
async fn retention_drops_rolled_up_partitions_and_keeps_milestones() {
    let history = history().await;
    assert_eq!(days(&history), "26|18");
    let removed = enforce(&history.store, &KEEP, now()).await.unwrap();
    assert_eq!((removed.partitions, removed.waiting), (6, 0));
    assert!(removed.bytes > 0);
    assert_eq!(days(&history), "20|21");
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.receipt_snapshots"), "0");
    assert_eq!(history.psql("SELECT to_char(half_read_by, 'HH24:MI') FROM receiptd.message_milestones"), "09:10");
    assert_eq!(history.psql("SELECT sum(reads_gained) FROM receiptd.group_receipts_hourly"), "5");
    assert_eq!(enforce(&history.store, &KEEP, now()).await.unwrap(), Removed::default(), "nothing is left to do");
}

#[tokio::test]
async fn what_another_app_has_not_rolled_up_is_rolled_up_first() {
    let history = history().await;
    history.psql(
        "SELECT receiptd.watch_group(77, 'other');
         INSERT INTO receiptd.poller_leases (sdk_app_id, epoch, acquired_at, expires_at) VALUES (77, 1, now(), now());
         INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at) VALUES (2, 5, '2025-11-19 10:00Z');
         INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, read_num, unread_num, code)
            VALUES (2, 5, '2025-11-19 10:01Z', 1, 1, 0)",
    );
    assert_eq!(enforce(&history.store, &KEEP, now()).await.unwrap().partitions, 6);
    assert_eq!(history.psql("SELECT sum(reads_found) FROM receiptd.group_receipts_hourly WHERE group_key = 2"), "1");
}

#[tokio::test]
async fn nothing_goes_of_which_a_late_hour_is_left() {
    let history = history().await;
    history.roll_up("12:00").await;
    // An app that is never rolled up, since it doesn't exist.
    history.psql("INSERT INTO receiptd.rollup_redo (sdk_app_id, hour) VALUES (99, '2025-11-20 08:00Z')");
    let removed = enforce(&history.store, &KEEP, now()).await.unwrap();
    assert_eq!((removed.partitions, removed.waiting), (0, 6));
    assert_eq!(days(&history), "26|18");
}

#[tokio::test]
async fn a_long_read_is_waited_for_and_holds_up_nobody() {
    let history = history().await;
    let mut reader = PgConnection::connect(&history.database.url()).await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    let rows = "SELECT count(*) FROM receiptd.receipt_snapshots";
    let read: i64 = sqlx::query_scalar(rows).fetch_one(&mut *reading).await.unwrap();
    assert_eq!(read, 2);
    let store = history.store.clone();
    let cleaning = tokio::spawn(async move { enforce(&store, &KEEP, now()).await.unwrap() });
    // Until it waits for the reader.
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%DETACH%CONCURRENTLY'
        AND wait_event_type = 'Lock'";
    let mut other = PgConnection::connect(&history.database.url()).await.unwrap();
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut other).await.unwrap() == 0 {
        tokio::task::yield_now().await;
    }
    // Anything that waits longer than this for a lock fails.
    sqlx::query("SET lock_timeout = '100ms'").execute(&mut other).await.unwrap();
    for seq in 0..300_i64 {
        sqlx::query(
            "INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, read_num, unread_num, code)
             VALUES (1, $1 + 10, '2025-11-24 11:00Z', 1, 1, 0)",
        )
        .bind(seq)
        .execute(&mut other)
        .await
        .unwrap();
        sqlx::query(rows).execute(&mut other).await.unwrap();
    }
    assert!(!cleaning.is_finished(), "the reader is still there");
    assert_eq!(sqlx::query_scalar::<_, i64>(rows).fetch_one(&mut *reading).await.unwrap(), 302);
    reading.commit().await.unwrap();
    assert_eq!(cleaning.await.unwrap().partitions, 6);
}

/// The daemon's sessions that have waited too long for a lock, except the one that detaches.
const HELD_UP: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
    AND application_name = 'receiptd' AND wait_event_type = 'Lock' AND query NOT LIKE '%DETACH%'
    AND clock_timestamp() - query_start > interval '100 milliseconds'";

#[tokio::test]
async fn the_recorder_stores_on_while_a_partition_waits_for_a_reader() {
    let mut rig = Harness::new().await;
    rig.watch("g", 1..=3).await;
    rig.until("EXISTS (SELECT FROM receiptd.receipt_snapshots)").await;
    sqlx::raw_sql("SELECT receiptd.ensure_partition('receipt_snapshots', '2025-01-01')")
        .execute(&rig.pool)
        .await
        .unwrap();
    let mut reader = PgConnection::connect(&rig.database.url()).await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    sqlx::raw_sql("SELECT * FROM receiptd.receipt_snapshots").execute(&mut *reading).await.unwrap();
    let store = Store::new(&rig.settings.database_url, 3, app()).unwrap();
    let cleaning = tokio::spawn(async move { enforce(&store, &KEEP, clock::now()).await.unwrap() });
    while rig.count("pg_stat_activity WHERE query LIKE '%CONCURRENTLY' AND wait_event_type = 'Lock'").await == 0 {
        tokio::task::yield_now().await;
    }
    let before = rig.count("receiptd.api_calls").await;
    while rig.count("receiptd.api_calls").await < before + 4 {
        assert_eq!(rig.value::<i64>(HELD_UP).await, 0, "the recorder waits for a lock");
    }
    assert!(!cleaning.is_finished(), "the reader is still there");
    reading.rollback().await.unwrap();
    assert_eq!(cleaning.await.unwrap().partitions, 1);
    rig.stop().await;
}

#[tokio::test]
async fn what_an_interrupted_run_has_begun_the_next_one_ends() {
    let history = history().await;
    history.roll_up("12:00").await;
    history.psql(
        "COMMENT ON TABLE receiptd_partitions.api_calls_20251118 IS 'Detached by retention, to be dropped.';
         ALTER TABLE receiptd.api_calls DETACH PARTITION receiptd_partitions.api_calls_20251118;
         COMMENT ON TABLE receiptd_partitions.api_calls_20251119 IS 'Detached by retention, to be dropped.';
         UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = 'receiptd_partitions.api_calls_20251119'::regclass",
    );
    assert_eq!(enforce(&history.store, &KEEP, now()).await.unwrap().partitions, 6);
    assert_eq!(days(&history), "20|21");
}

#[tokio::test]
async fn two_at_the_same_time_do_no_harm() {
    let history = history().await;
    let (first, second) = tokio::join!(enforce(&history.store, &KEEP, now()), enforce(&history.store, &KEEP, now()));
    let removed = first.unwrap().partitions + second.unwrap().partitions;
    assert!(removed <= 6, "{removed}");
    enforce(&history.store, &KEEP, now()).await.unwrap();
    assert_eq!(days(&history), "20|21");
}

#[tokio::test]
async fn retention_leaves_a_detached_partition_alone() {
    let history = history().await;
    history.psql("ALTER TABLE receiptd.api_calls DETACH PARTITION receiptd_partitions.api_calls_20251118");
    assert_eq!(enforce(&history.store, &KEEP, now()).await.unwrap().partitions, 5);
    assert_eq!(history.psql("SELECT count(*) FROM receiptd_partitions.api_calls_20251118"), "0");
}

#[tokio::test]
async fn retention_leaves_a_partition_being_detached_alone() {
    let history = history().await;
    history.psql(
        "UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = 'receiptd_partitions.api_calls_20251118'::regclass",
    );
    assert_eq!(enforce(&history.store, &KEEP, now()).await.unwrap().partitions, 5);
    history.psql("ALTER TABLE receiptd.api_calls DETACH PARTITION receiptd_partitions.api_calls_20251118 FINALIZE");
    assert_eq!(enforce(&history.store, &KEEP, now()).await.unwrap(), Removed::default());
    assert_eq!(history.psql("SELECT count(*) FROM receiptd_partitions.api_calls_20251118"), "0");
}

#[tokio::test]
async fn a_failed_detachment_is_not_taken_for_a_success_later() {
    let history = history().await;
    // A reader blocks the short lock that is necessary with a DEFAULT partition.
    history.psql("CREATE TABLE receiptd.rest PARTITION OF receiptd.api_calls DEFAULT");
    let mut reader = PgConnection::connect(&history.database.url()).await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    sqlx::raw_sql("SELECT * FROM receiptd.api_calls").execute(&mut *reading).await.unwrap();
    let removed = enforce(&history.store, &KEEP, now()).await.unwrap();
    assert_eq!((removed.partitions, removed.waiting), (3, 3));
    reading.rollback().await.unwrap();
    history.psql("ALTER TABLE receiptd.api_calls DETACH PARTITION receiptd_partitions.api_calls_20251118");
    assert_eq!(enforce(&history.store, &KEEP, now()).await.unwrap().partitions, 2);
    assert_eq!(history.psql("SELECT count(*) FROM receiptd_partitions.api_calls_20251118"), "0");
}

#[tokio::test]
async fn where_it_can_not_be_done_concurrently_a_short_lock_does_it() {
    let history = history().await;
    // With a DEFAULT partition PostgreSQL refuses to detach concurrently, as Citus always does.
    history.psql("CREATE TABLE receiptd.rest PARTITION OF receiptd.receipt_snapshots DEFAULT");
    assert_eq!(enforce(&history.store, &KEEP, now()).await.unwrap().partitions, 6);
    assert_eq!(days(&history), "20|21");
}

#[tokio::test]
async fn roll_ups_go_when_they_are_told_to() {
    let history = history().await;
    history.close(1, "expired", "10:00");
    let keep = Retention { rollups: Some(TimeDelta::days(3)), ..KEEP };
    let removed = enforce(&history.store, &keep, now()).await.unwrap();
    assert!(removed.rows > 2, "{removed:?}");
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.latest_receipts"), "0");
    let oldest =
        history.psql("SELECT coalesce(min(hour), now()) >= '2025-11-21 12:00Z' FROM receiptd.group_receipts_hourly");
    assert_eq!(oldest, "t");
}

#[tokio::test]
async fn the_runway_is_told_from_the_partitions() {
    let history = history().await;
    let partitions = history.store.partitions().await.unwrap();
    assert_eq!(partitions.len(), 26);
    let today = NaiveDate::from_ymd_opt(2025, 11, 24).unwrap();
    assert_eq!(receiptd::rules::retention::runway(&partitions, today), 7);
}

#[tokio::test]
async fn a_day_is_kept_until_the_next_one_of_its_message_is_old_too() {
    let history = History::new().await;
    history.psql(
        "INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at, state, closed_at, read_num, unread_num,
            receipt_code, first_polled_at, last_changed_at, known_until)
         VALUES (1, 1, '2025-11-20 10:00Z', 'removed', '2025-11-23Z', 5, 5, 0, '2025-11-20 10:01Z', '2025-11-22 10:00Z',
            '2025-11-23Z');
         INSERT INTO receiptd.message_receipts_daily (group_key, day, msg_seq, first_seen_at, last_seen_at, reads_gained,
            reads_lost, reads_found, read_num, unread_num, code) VALUES
         (1, '2025-11-20', 1, '2025-11-20 10:01Z', '2025-11-20 10:01Z', 0, 0, 2, 2, 8, 0),
         (1, '2025-11-22', 1, '2025-11-22 10:00Z', '2025-11-22 10:00Z', 3, 0, 0, 5, 5, 0)",
    );
    let keep = Retention { message_days: Some(TimeDelta::days(2)), ..Retention::default() };
    let known = "SELECT read_num, is_exact FROM receiptd.receipts_at('2025-11-22 06:00Z')";
    assert_eq!(history.psql(known), "2|t");
    enforce(&history.store, &keep, "2025-11-24T05:00:00Z".parse().unwrap()).await.unwrap();
    assert_eq!(history.psql(known), "2|t", "that is less than two days ago");
    enforce(&history.store, &keep, "2025-11-25T05:00:00Z".parse().unwrap()).await.unwrap();
    assert_eq!(history.psql("SELECT day FROM receiptd.message_receipts_daily"), "2025-11-22");
}
