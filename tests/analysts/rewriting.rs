//! Finished days are rewritten in the order of their key. Nobody waits for it, and no row that is written meanwhile is
//! lost.

use chrono::{NaiveDate, TimeDelta};
use receiptd::{
    daemon::jobs::enforce,
    rules::retention::Retention,
    store::{Rewritten, Store},
};
use sqlx::{Connection, PgConnection};

use crate::{
    harness::app,
    history::{History, at},
};

const DAY: &str = "receiptd_partitions.receipt_snapshots_20251120";

fn day() -> NaiveDate {
    at("00:00").date_naive()
}

/// Snapshots of 40 messages in the order of time.
async fn history() -> History {
    let history = History::new().await;
    history.psql(
        "INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, read_num, unread_num, code, prior_read_num)
         SELECT 1, seq, '2025-11-20Z'::timestamptz + n * interval '7 minutes' + seq * interval '1 second', n, 100 - n, 0, n - 1
         FROM generate_series(0, 99) n, generate_series(1, 40) seq ORDER BY 3",
    );
    history
}

fn rows(history: &History) -> String {
    history.psql("SELECT count(*), md5(string_agg(s::text, ',' ORDER BY s)) FROM receiptd.receipt_snapshots s")
}

/// How many rows stand before one that is less.
const OUT_OF_ORDER: &str = "SELECT count(*) FROM (
    SELECT (msg_seq, polled_at) < lag((msg_seq, polled_at)) OVER (ORDER BY ctid) AS falls
    FROM receiptd_partitions.receipt_snapshots_20251120) s WHERE falls";

#[tokio::test]
async fn a_day_is_rewritten_once_in_message_order() {
    let history = history().await;
    let (before, size) = (rows(&history), history.psql(&format!("SELECT pg_total_relation_size('{DAY}')")));
    let indexes = format!(
        "SELECT string_agg(regexp_replace(indexdef, 'INDEX .+? ON', 'INDEX ON'), ';' ORDER BY indexdef LIKE '%btree%')
         FROM pg_indexes WHERE format('%s.%s', schemaname, tablename) = '{DAY}'"
    );
    history.psql("CREATE INDEX owners ON receiptd.receipt_snapshots (read_num)");
    let (bounds, indexed) =
        ("SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = $1", history.psql(&indexes));
    let bounds = bounds.replace("$1", &format!("'{DAY}'::regclass"));
    let bound = history.psql(&bounds);
    assert_ne!(history.psql(OUT_OF_ORDER), "0");
    let keep = Retention { snapshots: None, calls: None, ..Retention::default() };
    let now = at("00:00") + TimeDelta::days(2);
    let removed = enforce(&history.store, &keep, now - TimeDelta::seconds(1)).await.unwrap();
    assert_eq!(removed.rewritten, 0, "its day is hardly over");
    assert_eq!(enforce(&history.store, &keep, now).await.unwrap().rewritten, 1);
    assert_eq!(history.psql(OUT_OF_ORDER), "0");
    assert_eq!((rows(&history), history.psql(&bounds)), (before, bound));
    assert_eq!(history.psql(&indexes).replace(" WITH (fillfactor='100')", ""), indexed);
    let after = history.psql(&format!("SELECT pg_total_relation_size('{DAY}')"));
    assert!(after.parse::<u64>().unwrap() < size.parse().unwrap(), "{after} after {size}");
    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE '%_copy%' AND relkind = 'r'";
    assert_eq!(history.psql(left), "0");
    assert_ne!(
        history.psql("SELECT count(*) FROM pg_stats WHERE tablename = 'receipt_snapshots'"),
        "0",
        "the planner knows the whole"
    );
    assert_eq!(enforce(&history.store, &keep, now).await.unwrap().rewritten, 0, "once");
    // What comes later still finds its day.
    history.psql("INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, code) VALUES (1, 41, '2025-11-20 23:59Z', 10062)");
    assert_eq!(history.psql(&format!("SELECT count(*) FROM {DAY}")), "4001");
}

#[tokio::test]
async fn what_is_written_meanwhile_is_never_lost() {
    let history = history().await;
    for change in [
        "INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, code) VALUES (1, 99, '2025-11-20 23:00Z', 10062)",
        "UPDATE receiptd.receipt_snapshots SET unread_num = 7 WHERE msg_seq = 5 AND read_num = 3",
        "DELETE FROM receiptd.receipt_snapshots WHERE msg_seq = (SELECT min(msg_seq) FROM receiptd.receipt_snapshots)",
    ] {
        for when in ["before it is filled", "after"] {
            let number = history.psql("SELECT receiptd.begin_rewrite('2025-11-20')");
            let fill = format!("SELECT receiptd.fill_rewrite('2025-11-20', {number})");
            if when == "after" {
                history.psql(&fill);
                history.psql(change);
            } else {
                history.psql(&format!("BEGIN; {change}; COMMIT"));
                history.psql(&fill);
            }
            let changed = rows(&history);
            assert_eq!(
                history.psql(&format!("SELECT receiptd.end_rewrite('2025-11-20', {number})")),
                "f",
                "{change} {when}"
            );
            assert_eq!(rows(&history), changed, "{change} {when}");
            history.psql("DELETE FROM receiptd.receipt_snapshots WHERE msg_seq = 99");
        }
    }
    let before = rows(&history);
    assert!(matches!(history.store.rewrite_day(day()).await.unwrap(), Rewritten::Done { .. }));
    assert_eq!(rows(&history), before);
}

#[tokio::test]
async fn many_that_write_into_a_day_being_rewritten_lose_no_row() {
    let history = history().await;
    let writer = |from: i64| {
        let url = history.database.url();
        tokio::spawn(async move {
            let mut connection = PgConnection::connect(&url).await.unwrap();
            // Far longer than the lock is held, also on a busy machine, and shorter than the copying of many days.
            sqlx::query("SET lock_timeout = '10s'").execute(&mut connection).await.unwrap();
            for number in 0..150 {
                sqlx::query(
                    "INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, code)
                     VALUES (1, $1, '2025-11-20 12:00Z', 10062)",
                )
                .bind(from + number)
                .execute(&mut connection)
                .await
                .unwrap();
            }
        })
    };
    let writers = [writer(1_000), writer(2_000), writer(3_000)];
    let (mut spoiled, mut done) = (0, 0);
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        match history.store.rewrite_day(day()).await.unwrap() {
            Rewritten::Spoiled => spoiled += 1,
            Rewritten::Done { .. } => done += 1,
            Rewritten::Held => {}
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(spoiled + done > 0);
    assert!(matches!(history.store.rewrite_day(day()).await.unwrap(), Rewritten::Done { rows: 4_450 }));
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.receipt_snapshots"), "4450");
    assert_eq!(history.psql(OUT_OF_ORDER), "0");
}

#[tokio::test]
async fn two_that_rewrite_a_day_at_a_time_lose_nothing() {
    let history = history().await;
    let before = rows(&history);
    let other = Store::new(&history.database.url().into(), 2, app()).unwrap();
    for _ in 0..5 {
        // One of them may find that the other has taken its place.
        let (one, two) = tokio::join!(history.store.rewrite_day(day()), other.rewrite_day(day()));
        assert!([&one, &two].iter().any(|ended| ended.is_ok()), "{one:?} {two:?}");
        assert_eq!(rows(&history), before);
    }
}

#[tokio::test]
async fn a_long_read_puts_it_off_and_is_never_waited_for_long() {
    let history = history().await;
    let before = rows(&history);
    let mut reader = PgConnection::connect(&history.database.url()).await.unwrap();
    let mut reading = reader.begin().await.unwrap();
    sqlx::raw_sql("SELECT * FROM receiptd.receipt_snapshots").execute(&mut *reading).await.unwrap();
    let store = history.store.clone();
    let rewriting = tokio::spawn(async move { store.rewrite_day(day()).await.unwrap() });
    let mut other = PgConnection::connect(&history.database.url()).await.unwrap();
    // A longer wait for a lock fails.
    sqlx::query("SET lock_timeout = '500ms'").execute(&mut other).await.unwrap();
    while !rewriting.is_finished() {
        sqlx::query("SELECT count(*) FROM receiptd.receipt_snapshots").execute(&mut other).await.unwrap();
    }
    assert_eq!(rewriting.await.unwrap(), Rewritten::Held);
    reading.rollback().await.unwrap();
    assert_eq!(rows(&history), before);
    assert!(matches!(history.store.rewrite_day(day()).await.unwrap(), Rewritten::Done { .. }));
    assert_eq!(rows(&history), before);
}

#[tokio::test]
async fn a_table_of_somebody_else_in_its_way_is_left_alone() {
    let history = history().await;
    history.psql(&format!("CREATE TABLE {DAY}_copy (mine integer); INSERT INTO {DAY}_copy VALUES (1)"));
    assert!(history.store.rewrite_day(day()).await.is_err());
    assert_eq!(history.psql(&format!("SELECT mine FROM {DAY}_copy")), "1");
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.receipt_snapshots"), "4000");
}
