//! docs/analysts.md is correct: its history can be generated, and each query returns the result below it.

use std::process::Command;

use crate::{common::TestDatabase, harness::APP};

const COOKBOOK: &str = include_str!("../../docs/analysts.md");

/// Adjacent fenced blocks of the page: the contents of the first, and of the one below it.
fn recipes() -> Vec<(&'static str, &'static str)> {
    let recipe = |part: &'static str| {
        let (sql, rest) = part.split_once("```\n").expect("a query ends");
        let result = rest.strip_prefix("```\n").expect("below a query stands what comes out");
        (sql.trim(), result.split("\n```").next().unwrap())
    };
    COOKBOOK.split("```sql\n").skip(1).map(recipe).collect()
}

/// Runs the commands of the page that generate the history.
pub fn make_history(database: &TestDatabase) {
    let is_command = |line: &&str| ["receiptd migrate", "receiptd seed"].iter().any(|start| line.starts_with(start));
    let commands: Vec<&str> = COOKBOOK.lines().filter(is_command).collect();
    assert_eq!(commands.len(), 2);
    for command in commands {
        let output = Command::new(env!("CARGO_BIN_EXE_receiptd"))
            .args(command.split(' ').skip(1))
            .args(["--set", &format!("chat.sdk_app_id={APP}")])
            .env("DATABASE_URL", database.url())
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test]
async fn every_query_of_the_cookbook_gives_what_stands_below_it() {
    let database = TestDatabase::new().await;
    make_history(&database);
    let recipes = recipes();
    assert!(recipes.len() >= 55, "{}", recipes.len());
    let mut wrong = String::new();
    for (sql, expected) in recipes {
        // Times are shown in the session's time zone. A result without times is the same in all of them.
        let zones = if expected.contains("+00") { &["UTC"][..] } else { &["UTC", "America/New_York"] };
        let expected: Vec<&str> = expected.trim().lines().map(str::trim_end).collect();
        for zone in zones {
            let printed = database.psql_table(&format!("SET TimeZone = '{zone}';\n{sql}"));
            let printed: Vec<&str> = printed.trim().lines().map(str::trim_end).collect();
            if printed != expected {
                wrong.push_str(&format!("\n{sql}\nprints in {zone}\n{}\n", printed.join("\n")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test]
async fn what_outlives_the_snapshots_is_answered_without_them() {
    let database = TestDatabase::new().await;
    make_history(&database);
    for question in [
        "SELECT * FROM receiptd.latest_receipts WHERE group_id = 'class-1'",
        "SELECT * FROM receiptd.unread_backlog ORDER BY unread_num DESC LIMIT 10",
        "SELECT * FROM receiptd.never_read",
        "SELECT * FROM receiptd.read_speed",
        "SELECT * FROM receiptd.hourly_receipts",
        "SELECT * FROM receiptd.group_engagement",
        "SELECT * FROM receiptd.poll_coverage",
    ] {
        let plan = database.psql(&format!("EXPLAIN {question}"));
        assert!(!plan.contains("receipt_snapshots"), "{question}\n{plan}");
    }
    // A table with so few rows is read completely otherwise.
    let of_group = database
        .psql("SET enable_seqscan = off; EXPLAIN SELECT * FROM receiptd.latest_receipts WHERE group_id = 'class-1'");
    for index in ["watched_groups_by_id", "watched_messages_pkey"] {
        assert!(of_group.contains(index), "{index}: {of_group}");
    }
    assert!(!of_group.contains("Seq Scan"), "{of_group}");
}
