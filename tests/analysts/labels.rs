//! Labels of groups and messages: accepted ones, refused ones, and where they are shown.

use receiptd::{
    clock,
    domain::{Counts, Receipt},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    harness::{APP, seq},
    history::{History, recording},
};

/// The error of a refused statement.
async fn refused(history: &History, sql: &str) -> String {
    let mut connection = PgConnection::connect(&history.database.url()).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect_err(sql).to_string()
}

const LABELS: &str = "SELECT msg_seq, labels FROM receiptd.watched_messages ORDER BY msg_seq";

#[tokio::test]
async fn labels_are_added_to_existing_ones_and_null_removes_one() {
    let history = History::new().await;
    let watch = |seqs: &str, labels: &str| {
        history.psql(&format!("SELECT receiptd.watch_messages({APP}, 'g', '{{{seqs}}}', labels => {labels})"))
    };
    assert_eq!(watch("1,2", r#"'{"kind": "poll", "arm": "A", "round": 1, "urgent": true}'"#), "2");
    assert_eq!(watch("1,3", r#"'{"arm": "B", "round": null}'"#), "1", "active messages get them, too");
    assert_eq!(watch("2", "NULL"), "0");
    assert_eq!(watch("3", r#"'{"arm": null}'"#), "0");
    assert_eq!(
        history.psql(LABELS),
        r#"1|{"arm": "B", "kind": "poll", "urgent": true}
2|{"arm": "A", "kind": "poll", "round": 1, "urgent": true}
3|"#
    );
    // Also in a slot, and after it was closed.
    history.slot_of(seq(1)).await;
    watch("1", r#"'{"arm": "C"}'"#);
    history.psql(&format!("SELECT receiptd.unwatch_messages({APP}, 'g', '{{1}}')"));
    assert_eq!(watch("1", r#"'{"again": "yes"}'"#), "1");
    let first = r#"{"arm": "C", "kind": "poll", "again": "yes", "urgent": true}"#;
    assert_eq!(history.psql("SELECT labels FROM receiptd.messages WHERE msg_seq = 1"), first);
    let group = |labels: &str| {
        history.psql(&format!(
            "SELECT receiptd.watch_group({APP}, 'g', labels => {labels});
             SELECT labels FROM receiptd.groups"
        ))
    };
    assert_eq!(group(r#"'{"branch": "north", "size": 3}'"#), "1\n{\"size\": 3, \"branch\": \"north\"}");
    assert_eq!(group("NULL"), "1\n{\"size\": 3, \"branch\": \"north\"}");
    assert_eq!(group(r#"'{"size": null, "branch": null}'"#), "1");
}

#[tokio::test]
async fn what_is_no_label_is_refused_with_the_reason() {
    let history = History::new().await;
    let long = "x".repeat(64);
    let large = "x".repeat(2000);
    for (labels, why) in [
        (r#"["a"]"#, "labels must be a JSON object, not of type array"),
        (r#""a""#, "labels must be a JSON object, not of type string"),
        (r#"{"a": {"b": 1}}"#, "the value of label \"a\" is an object"),
        (r#"{"a": [1]}"#, "the value of label \"a\" is an array"),
        (r#"{"": 1}"#, "has 0 characters"),
        (&format!(r#"{{"{long}": 1}}"#), "has 64 characters"),
        (&format!(r#"{{"a": "{large}"}}"#), "the maximum is 2000"),
    ] {
        for watch in ["watch_group({APP}, 'g'", "watch_messages({APP}, 'g', ARRAY[1]"] {
            let sql = format!("SELECT receiptd.{}, labels => '{labels}')", watch.replace("{APP}", &APP.to_string()));
            let error = refused(&history, &sql).await;
            assert!(error.contains(why), "{sql}: {error}");
        }
    }
    // Each is small, but all together are too large.
    let half = "x".repeat(1100);
    let watch =
        |name| format!("SELECT receiptd.watch_messages({APP}, 'g', ARRAY[1], labels => '{{\"{name}\": \"{half}\"}}')");
    history.psql(&watch("a"));
    assert!(refused(&history, &watch("b")).await.contains("the maximum is 2000"));
    history.psql(&watch("a"));
}

/// Views and functions with one row per message, and those with one row per group.
const OF_MESSAGES: [&str; 8] = [
    "messages",
    "latest_receipts",
    "receipt_history",
    "message_milestones",
    "read_speed",
    "never_read",
    "receipts_at('2025-11-20 13:00Z')",
    "read_at_age('10 minutes')",
];
const OF_GROUPS: [&str; 4] = ["unread_backlog", "hourly_receipts", "group_engagement", "poll_coverage"];

#[tokio::test]
async fn labels_are_in_every_view_of_messages_and_of_groups() {
    let history = History::new().await;
    history.message(1, "09:00");
    history.message(2, "09:00");
    history.polls(1, &[("09:01", 0, 9)]).await;
    history.polls(2, &[("09:01", 0, 9)]).await;
    history.call(1, "09:30", "09:50", "success");
    history.psql(&format!(
        r#"SELECT receiptd.watch_messages({APP}, 'g', ARRAY[1], labels => '{{"arm": "A"}}'),
            receiptd.watch_group({APP}, 'g', labels => '{{"branch": "north"}}'),
            receiptd.unwatch_messages({APP}, 'g', ARRAY[2])"#
    ));
    history.roll_up("12:00").await;
    for view in OF_MESSAGES {
        assert_eq!(
            history.psql(&format!("SELECT labels, group_labels FROM receiptd.{view} WHERE msg_seq = 1")),
            r#"{"arm": "A"}|{"branch": "north"}"#,
            "{view}"
        );
        let of_arm = format!(r#"SELECT count(*) FROM receiptd.{view} WHERE labels @> '{{"arm": "A"}}'"#);
        assert_eq!(history.psql(&of_arm), "1", "{view}");
    }
    for view in OF_GROUPS {
        let labels = format!("SELECT DISTINCT group_labels FROM receiptd.{view}");
        assert_eq!(history.psql(&labels), r#"{"branch": "north"}"#, "{view}");
    }
}

#[tokio::test]
async fn polling_leaves_the_indexes_of_labelled_messages_alone() {
    let history = History::new().await;
    history.psql(&format!(
        r#"SELECT receiptd.ensure_partition(t, (now() AT TIME ZONE 'UTC')::date + n)
            FROM unnest(ARRAY['receipt_snapshots', 'api_calls']) t, generate_series(-1, 1) n;
           SELECT receiptd.watch_messages({APP}, 'g', ARRAY[1], labels => '{{"arm": "A"}}')"#
    ));
    for (read, unread) in [(0, 10), (1, 9), (5, 5), (9, 1)] {
        let slot = history.slot_of(seq(1)).await;
        let receipt = Receipt { code: 0, counts: Counts::new(read, unread) };
        history.record(vec![recording(slot, clock::now(), receipt)]).await;
    }
    let updates = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'watched_messages'";
    // A connection reports its counts some time later. The message joined a slot, and reached milestones three times.
    let mut counted = history.psql(updates);
    while !counted.starts_with("4|") {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        counted = history.psql(updates);
    }
    assert_eq!(counted, "4|3");
}
