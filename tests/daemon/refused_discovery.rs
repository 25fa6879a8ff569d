//! Discovery while owners' triggers and constraints refuse some of its rows: the others are stored.

use std::sync::Arc;

use receiptd::{
    rules::discovery::Passed,
    simulator::PostKind,
    store::{Outcome, Store},
};

use crate::{
    discovery::{ROOM, last_hour, read, seqs, store, total},
    harness::{Harness, group, simulator_config},
    refused::refuse,
};

async fn rig() -> (Harness, Store) {
    let rig = Harness::stopped(simulator_config()).await;
    let store = store(&rig).await;
    (rig, store)
}

#[tokio::test]
async fn a_group_refused_by_a_trigger_holds_up_no_other() {
    let (rig, store) = rig().await;
    for (seq, sqlstate) in (1..).zip(["APP01", "40001", "42501", "54000", "55P03"]) {
        refuse(&rig, "watched_groups", "NEW.group_id = 'a'", sqlstate).await;
        let reads = vec![read("b", seq..=seq), read("a", 1..=3)];
        let watching = store.watch_discovered(reads, ROOM).await.unwrap();
        assert_eq!(
            (watching.of(&group("a")), watching.of(&group("b"))),
            (Outcome::Refused, Outcome::Stored),
            "{sqlstate}"
        );
        assert_eq!((watching.refused[0].sqlstate.as_str(), watching.refused.len()), (sqlstate, 1));
        assert!(watching.passed.is_empty(), "nothing is passed over for it: {watching:?}");
    }
    let cursors: String = rig
        .value("SELECT string_agg(concat_ws(' ', group_id, next_seq), ', ' ORDER BY group_id) FROM receiptd.discovered_groups")
        .await;
    assert_eq!(cursors, "a, b 100", "the refused group is read again");
}

#[tokio::test]
async fn a_refused_message_is_passed_over_and_the_others_watched() {
    let (rig, store) = rig().await;
    refuse(&rig, "watched_messages", "NEW.msg_seq = 3", "P0001").await;
    let constraint = "ALTER TABLE receiptd.watched_messages ADD CONSTRAINT of_owner CHECK (msg_seq <> 5)";
    sqlx::query(constraint).execute(&rig.pool).await.unwrap();
    let watching = store.watch_discovered(vec![read("a", 1..=5), read("b", 1..=2)], ROOM).await.unwrap();
    assert_eq!((total(&watching), watching.passed[&Passed::Refused]), (5, 2), "{watching:?}");
    assert!(watching.refused.is_empty());
    let of = |id| format!("group_key = (SELECT group_key FROM receiptd.watched_groups WHERE group_id = '{id}')");
    assert_eq!((seqs(&rig, &of("a")).await, seqs(&rig, &of("b")).await), ("1 2 4".into(), "1 2".into()));
    let passed: String = rig
        .value("SELECT next_seq || passed_seqs::text || passed_reasons::text FROM receiptd.discovered_groups WHERE group_id = 'a'")
        .await;
    assert_eq!(passed, "100{5,3}{refused,refused}");
}

#[tokio::test]
async fn a_group_of_which_every_message_is_refused_is_read_again() {
    let (rig, store) = rig().await;
    refuse(&rig, "watched_messages", "NEW.msg_seq < 4", "P0001").await;
    let watching = store.watch_discovered(vec![read("a", 1..=3), read("b", 4..=5)], ROOM).await.unwrap();
    assert_eq!((watching.of(&group("a")), watching.of(&group("b"))), (Outcome::Refused, Outcome::Stored));
    assert_eq!(rig.count("receiptd.discovered_groups WHERE next_seq IS NULL AND group_id = 'a'").await, 1);
    let watching = store.watch_discovered(vec![read("a", 1..=4)], ROOM).await.unwrap();
    assert_eq!((total(&watching), watching.passed[&Passed::Refused]), (1, 3));
}

#[tokio::test]
async fn a_statement_that_no_row_could_pass_is_a_failure() {
    let (rig, store) = rig().await;
    let rename = "ALTER TABLE receiptd.watched_messages RENAME COLUMN added_at TO renamed";
    sqlx::query(rename).execute(&rig.pool).await.unwrap();
    let error = store.watch_discovered(vec![read("a", 1..=3), read("b", 4..=5)], ROOM).await.unwrap_err();
    assert_eq!(error.sqlstate().as_deref(), Some("42703"));
}

#[tokio::test]
async fn groups_that_are_refused_are_found_again_once_they_are_not() {
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.settings.session.discovery = Some(Arc::new(last_hour()));
    for id in ["bad", "good", "unfollowed"] {
        rig.simulator.world().post(&group(id), rig.simulator.now(), PostKind::Ordinary);
    }
    refuse(&rig, "watched_groups", "NEW.group_id = 'bad'", "P0001").await;
    refuse(&rig, "discovered_groups", "NEW.group_id = 'unfollowed'", "P0001").await;
    rig.start().await;
    rig.until("(SELECT string_agg(group_id, ' ') FROM receiptd.latest_receipts WHERE receipt_code = 0) = 'good'").await;
    rig.until("(SELECT count(*) FROM receiptd.discovery_lists WHERE listed_at IS NOT NULL) = 2").await;
    rig.stop().await;
    let followed: String = rig
        .value("SELECT string_agg(concat_ws(' ', group_id, next_seq), ', ' ORDER BY group_id) FROM receiptd.discovered_groups")
        .await;
    assert_eq!(followed, "bad, good 2");
    let end = "DROP TRIGGER refuse ON receiptd.watched_groups; DROP TRIGGER refuse ON receiptd.discovered_groups";
    sqlx::raw_sql(end).execute(&rig.pool).await.unwrap();
    rig.start().await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE receipt_code = 0) = 3").await;
    rig.stop().await;
}
