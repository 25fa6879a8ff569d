//! Forgetting a group leaves none of its rows in any table, and touches no other group.

use std::time::Duration;

use chrono::TimeDelta;
use receiptd::{domain::GroupId, rules::rollup::Stretch, store::Store};

use crate::{
    harness::{Harness, app, group},
    history::{History, at},
};

/// A text that identifies the group in text columns.
const NAME: &str = "to-be-forgotten";

/// Rows of the group in all tables of both schemas, by its key or its name.
const LEFT: &str = "SELECT coalesce(sum((xpath('/row/n/text()', query_to_xml(format(
        'SELECT count(*) AS n FROM %s t WHERE to_jsonb(t)->>''group_key'' = ''2'' OR t::text LIKE ''%%to-be-forgotten%%''', c.oid::regclass),
        false, true, '')))[1]::text::bigint), 0)
    FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace IN ('receiptd'::regnamespace, 'receiptd_partitions'::regnamespace)
        AND NOT c.relispartition";

/// Group 1 with a message, and group 2 with something in every table.
async fn history() -> History {
    let history = History::new().await;
    history.message(1, "08:00");
    history.polls(1, &[("08:01", 2, 8), ("09:00", 5, 5)]).await;
    history.psql(&format!(
        "SELECT receiptd.watch_messages(1400000000, '{NAME}', ARRAY[7, 8, 9]);
         INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, read_num, unread_num, code)
            SELECT 2, 7, '2025-11-20 08:00Z'::timestamptz + n * interval '3 minutes', n, 1000 - n, 0 FROM generate_series(1, 900) n;
         INSERT INTO receiptd.api_calls (called_at, group_key, attempt, messages_asked, messages_answered, entries_bad, class,
                latency_ms)
            SELECT '2025-11-20 08:00Z'::timestamptz + n * interval '1 hour', 2, 1, 1, 1, 0, 'success', 1 FROM generate_series(1, 70) n;
         INSERT INTO receiptd.poll_slots (group_key, next_poll_at) VALUES (2, now());
         INSERT INTO receiptd.set_aside (group_key, slot_id, sqlstate, reason, content) VALUES (2, 1, '22003', '{NAME}', '{{}}');
         INSERT INTO receiptd.group_receipts_hourly (group_key, hour) VALUES (2, '2025-11-20 08:00Z');
         INSERT INTO receiptd.message_receipts_daily VALUES (2, '2025-11-20', 7, now(), now(), 0, 0, 0, 0, 1, 0);
         INSERT INTO receiptd.reader_lists (group_key, msg_seq, sent_at) VALUES (2, 7, now());
         INSERT INTO receiptd.message_readers VALUES (2, 7, 'alice', NULL, now());
         INSERT INTO receiptd.poll_gaps SELECT 2, now() - interval '1 hour', now(), 1, 'waiting';
         INSERT INTO receiptd.rollup_passed_over (group_key, hour, sqlstate, reason) VALUES (2, now(), '22003', '{NAME}')"
    ));
    history
}

fn forgotten() -> GroupId {
    NAME.parse().unwrap()
}

#[tokio::test]
async fn forgetting_a_group_removes_all_of_it_and_nothing_else() {
    let history = history().await;
    let others = "SELECT count(*) FROM receiptd.receipt_snapshots WHERE group_key = 1";
    let counted = history.store.count_group(&forgotten()).await.unwrap();
    let tables = "SELECT count(DISTINCT parent) + 1 FROM receiptd.tables_of_groups()";
    assert_eq!(counted.len().to_string(), history.psql(tables), "every table has something of it: {counted:?}");
    let total: i64 = counted.iter().map(|table| table.1).sum();
    assert_eq!(history.psql(LEFT), total.to_string());
    let mut deleted = 0;
    let mut calls = 0;
    loop {
        let chunk = "SELECT receiptd.forget_group(1400000000, 'to-be-forgotten', 100)";
        match history.psql(chunk).parse::<i64>().unwrap() {
            0 => break,
            rows => (deleted, calls) = (deleted + rows, calls + 1),
        }
    }
    assert!(calls > total / 101, "{calls} calls of 100 rows at most for {total} rows");
    assert_eq!(deleted, total);
    assert_eq!(history.psql(LEFT), "0");
    assert!(history.store.count_group(&forgotten()).await.unwrap().is_empty());
    assert_eq!(history.psql(others), "2");
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.latest_receipts"), "1");
}

#[tokio::test]
async fn a_roll_up_of_a_forgotten_group_makes_nothing_of_it_anew() {
    let history = history().await;
    while history.store.roll_up_next(at("00:00") + TimeDelta::hours(30)).await.unwrap().is_some() {}
    while history.store.forget_group(&forgotten()).await.unwrap() > 0 {}
    for hour in 0..30 {
        history.store.roll_up_again(Stretch::of_hour(at("00:00") + TimeDelta::hours(hour)), false).await.unwrap();
    }
    assert_eq!(history.psql(LEFT), "0");
}

#[tokio::test]
async fn a_group_is_forgotten_while_it_and_others_are_polled() {
    let mut rig = Harness::new().await;
    rig.watch(NAME, 1..=120).await;
    rig.watch("other", 1..=3).await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE known_until IS NOT NULL) = 123").await;
    let key: i32 = rig.value(&format!("SELECT group_key FROM receiptd.watched_groups WHERE group_id = '{NAME}'")).await;
    // Answers that arrive after everything was forgotten.
    rig.simulator.set_latency((Duration::from_millis(300)..=Duration::from_millis(300)).into());
    let store = Store::new(&rig.settings.database_url, 2, app()).unwrap();
    while store.forget_group(&group(NAME)).await.unwrap() > 0 {}
    let before = rig.count("receiptd.api_calls").await;
    rig.until(&format!("(SELECT count(*) FROM receiptd.api_calls) >= {}", before + 4)).await;
    rig.stop().await;
    let left = LEFT.replace("''2''", &format!("''{key}''"));
    assert_eq!(rig.database.psql(&left), "0");
    assert_eq!(rig.count("receiptd.latest_receipts").await, 3);
}
