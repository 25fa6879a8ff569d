//! Watching from SQL: idempotent, set-based, refused for groups without receipts, and without deadlocks.

use std::time::Duration;

use futures::future::join_all;
use sqlx::AssertSqlSafe;

use crate::harness::{Harness, simulator_config};

async fn refusal(rig: &Harness, sql: &str) -> String {
    sqlx::query(AssertSqlSafe(sql)).execute(&rig.pool).await.unwrap_err().to_string()
}

#[tokio::test]
async fn watching_is_idempotent_and_tells_what_is_new() {
    let rig = Harness::stopped(simulator_config()).await;
    for (seqs, new) in [("{1,2,3}", 3), ("{1,2,3}", 0), ("{3,4,4,4}", 1), ("{}", 0)] {
        assert_eq!(rig.value::<i64>(&format!("SELECT receiptd.watch_messages(1, 'g', '{seqs}')")).await, new, "{seqs}");
    }
    assert_eq!(rig.count("receiptd.watched_groups").await, 1, "watching a message watches its group");
    let keys: (i32, i32) =
        sqlx::query_as("SELECT receiptd.watch_group(1, 'g'), receiptd.watch_group(1, 'g', 'Work', 'fast')")
            .fetch_one(&rig.pool)
            .await
            .unwrap();
    assert_eq!(keys.0, keys.1);
    let kept: bool = rig.value("SELECT group_type = 'Private' AND cadence = 'fast' FROM receiptd.watched_groups").await;
    assert!(kept);
    rig.value::<i32>("SELECT receiptd.watch_group(1, 'g')").await;
    assert!(rig.value::<bool>("SELECT cadence = 'fast' FROM receiptd.watched_groups").await, "null leaves it");
}

#[tokio::test]
async fn a_paused_group_stays_paused_and_a_removed_one_returns() {
    let rig = Harness::stopped(simulator_config()).await;
    rig.watch("g", [1]).await;
    rig.value::<bool>("SELECT receiptd.pause_group(1400000000, 'g')").await;
    rig.watch("g", [2]).await;
    assert_eq!(rig.value::<String>("SELECT state FROM receiptd.watched_groups").await, "paused");
    rig.value::<i64>("SELECT receiptd.unwatch_group(1400000000, 'g')").await;
    assert_eq!(rig.value::<String>("SELECT state FROM receiptd.watched_groups").await, "removed");
    rig.watch("g", [2]).await;
    assert_eq!(rig.value::<String>("SELECT state FROM receiptd.watched_groups").await, "active");
    assert_eq!(rig.count("receiptd.watched_messages WHERE state = 'active'").await, 1);
}

#[tokio::test]
async fn groups_without_receipts_are_refused_with_the_reason() {
    let rig = Harness::stopped(simulator_config()).await;
    for (sql, reason) in [
        ("SELECT receiptd.watch_group(1, 'x', 'AVChatRoom')", "no read receipts for an AVChatRoom"),
        ("SELECT receiptd.watch_group(1, 'x', 'Community')", "no read receipts for a Community"),
        ("SELECT receiptd.watch_messages(1, '@TGS#_abc', '{1}')", "no read receipts for a Community"),
        (
            "SELECT receiptd.watch_messages(1, '@TGS#_abc@TOPIC#_1', '{1}')",
            "no read receipts for a topic of a Community",
        ),
        ("SELECT receiptd.watch_group(1, 'x', 'Club')", "group_type_has_read_receipts"),
        ("SELECT receiptd.watch_group(1, '')", "group_id_is_1_to_47_bytes_of_printable_ascii"),
        ("SELECT receiptd.watch_group(0, 'x')", "sdk_app_id_is_a_positive_u32"),
        ("SELECT receiptd.watch_messages(1, 'x', '{0}')", "msg_seq_is_a_positive_u32"),
        ("SELECT receiptd.watch_messages(1, 'x', '{4294967296}')", "msg_seq_is_a_positive_u32"),
        ("SELECT receiptd.watch_messages(1, 'x', '{1,NULL}')", "null value in column \"msg_seq\""),
    ] {
        let error = refusal(&rig, sql).await;
        assert!(error.contains(reason), "{sql}: {error}");
    }
    assert_eq!(rig.count("receiptd.watched_groups").await, 0, "a refusal leaves nothing behind");
}

#[tokio::test]
async fn a_thousand_concurrent_calls_neither_deadlock_nor_lose_any() {
    let mut rig = Harness::new().await;
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(40)
        // They queue for their turn, for long on a slow machine.
        .acquire_timeout(Duration::from_secs(300))
        .connect(&rig.database.url())
        .await
        .unwrap();
    let calls = (0..1_000_i64).map(|call| {
        let pool = &pool;
        async move {
            // Overlapping ranges in both directions, over a few groups, some watched and some removed again.
            let mut seqs: Vec<i64> = (call % 50 + 1..call % 50 + 41).collect();
            if call % 2 == 0 {
                seqs.reverse();
            }
            let sql = if call % 10 == 9 {
                "SELECT receiptd.unwatch_messages(1400000000, 'g' || $1 % 3, $2)"
            } else {
                "SELECT receiptd.watch_messages(1400000000, 'g' || $1 % 3, $2)"
            };
            sqlx::query(sql).bind(call).bind(seqs).execute(pool).await.map(drop)
        }
    });
    let failed: Vec<_> = join_all(calls).await.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:?}");
    for id in ["g0", "g1", "g2"] {
        rig.watch(id, 1..=90).await;
    }
    rig.until(
        "(SELECT count(*) FROM receiptd.latest_receipts WHERE state = 'active' AND known_until IS NOT NULL) = 270",
    )
    .await;
    let strays = "receiptd.slot_messages e LEFT JOIN receiptd.watched_messages m USING (group_key, slot_id, msg_seq) WHERE m.state IS NULL";
    assert_eq!(rig.count(strays).await, 0, "a slot contains what its messages' rows say");
    let deadlocks: i64 = rig.value("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").await;
    assert_eq!(deadlocks, 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_group_with_more_than_100_slots_is_marked_as_large() {
    let mut rig = Harness::new().await;
    rig.watch("many", 1..=5_001).await;
    rig.watch("few", 1..=5_000).await;
    rig.until("(SELECT count(*) FROM receiptd.slot_messages) = 10001").await;
    let large = "SELECT string_agg(group_id, ', ') FROM receiptd.watched_groups WHERE is_large";
    assert_eq!(rig.value::<Option<String>>(large).await.as_deref(), Some("many"));
    rig.stop().await;
}

/// Watches a message again while `holder` has locked it, and returns how many messages that opened once `end` ended
/// the transaction.
async fn watched_again_while(rig: &Harness, holder: &'static str, end: &'static str) -> i64 {
    let mut open = rig.pool.acquire().await.unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut *open).await.unwrap();
    sqlx::raw_sql(holder).execute(&mut *open).await.unwrap();
    let pool = rig.pool.clone();
    let again = tokio::spawn(async move {
        let watch = sqlx::query_scalar("SELECT receiptd.watch_messages(1400000000, 'g', '{1}')");
        watch.fetch_one(&pool).await.unwrap()
    });
    // Either it waits for the holder by now, or it has returned.
    while !again.is_finished()
        && rig.count("pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").await == 0
    {
        tokio::task::yield_now().await;
    }
    sqlx::raw_sql(end).execute(&mut *open).await.unwrap();
    again.await.unwrap()
}

#[tokio::test]
async fn a_message_that_somebody_holds_is_watched_again_all_the_same() {
    let rig = Harness::stopped(simulator_config()).await;
    let hold = "SELECT FROM receiptd.watched_messages FOR NO KEY UPDATE";
    for end in ["COMMIT", "ROLLBACK"] {
        rig.watch("g", [1]).await;
        rig.value::<i64>("SELECT receiptd.unwatch_messages(1400000000, 'g')").await;
        assert_eq!(watched_again_while(&rig, hold, end).await, 1, "{end}");
        assert_eq!(rig.value::<String>("SELECT state FROM receiptd.latest_receipts").await, "active", "{end}");
    }
}

#[tokio::test]
async fn new_messages_get_a_slot_despite_a_crowded_unpolled_app() {
    let mut rig = Harness::new().await;
    rig.value::<i64>("SELECT receiptd.watch_messages(77, 'crowd', array(SELECT generate_series(1::bigint, 50000)))")
        .await;
    rig.watch("g", [1]).await;
    rig.until("(SELECT read_num IS NOT NULL FROM receiptd.latest_receipts WHERE group_id = 'g')").await;
}

#[tokio::test]
async fn what_applications_may_have_watched_is_bounded() {
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.settings.limits = receiptd::domain::Bounds { messages_per_call: 5, messages: 7, groups: 2 };
    rig.start().await;
    rig.watch("a", 1..=5).await;
    rig.until("(SELECT active_messages = 5 AND groups = 1 FROM receiptd.apps)").await;
    for (call, refusal) in [
        (
            "watch_messages(1400000000, 'a', '{11,12,13,14,15,16}')",
            "the maximum is 5 messages per call, and this call has 6",
        ),
        ("unwatch_messages(1400000000, 'a', '{1,2,3,4,5,6}')", "the maximum is 5 messages per call"),
        ("watch_messages(1400000000, 'a', '{4,5,11,12,13}')", "app 1400000000 may watch at most 7 messages at a time"),
        ("watch_messages(1400000000, 'a', '{11}', now() + interval '25 hours')", "more than a day in the future"),
        ("watch_messages(1400000000, 'a', '{11}', 'infinity')", "more than a day in the future"),
    ] {
        let error = sqlx::query(AssertSqlSafe(format!("SELECT receiptd.{call}"))).execute(&rig.pool).await.unwrap_err();
        assert!(error.to_string().contains(refusal), "{call}: {error}");
    }
    let group = "SELECT receiptd.watch_group(1400000000, $1)";
    sqlx::query(group).bind("b").execute(&rig.pool).await.unwrap();
    let error = sqlx::query(group).bind("c").execute(&rig.pool).await.unwrap_err().to_string();
    assert!(error.contains("may watch at most 2 groups"), "{error}");
    sqlx::query("SELECT receiptd.watch_messages(1400000000, 'a', '{11,12}', now() + interval '23 hours')")
        .execute(&rig.pool)
        .await
        .unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn the_message_bound_counts_recent_messages_and_none_twice() {
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.settings.limits = receiptd::domain::Bounds { messages_per_call: 9, messages: 7, groups: 2 };
    rig.start().await;
    rig.watch("a", 1..=5).await;
    rig.until("(SELECT active_messages = 5 FROM receiptd.apps)").await;
    // Nothing is counted for the rest of the test.
    let mut held = rig.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM receiptd.apps FOR UPDATE").execute(&mut *held).await.unwrap();
    rig.watch("a", 1..=6).await;
    rig.until("(SELECT bool_and(slot_id IS NOT NULL) FROM receiptd.watched_messages)").await;
    let error = sqlx::query("SELECT receiptd.watch_messages(1400000000, 'a', '{6,7,8}')").execute(&rig.pool).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("may watch at most 7 messages at a time"), "{error}");
    rig.watch("a", 1..=7).await;
    rig.until("(SELECT count(*) = 7 AND bool_and(slot_id IS NOT NULL) FROM receiptd.watched_messages)").await;
    held.rollback().await.unwrap();
    rig.until("(SELECT active_messages = 7 FROM receiptd.apps)").await;
    rig.stop().await;
}
