//! Repeated failures are logged once.

use crate::{
    common::TestDatabase,
    harness::{Harness, end, signal},
};

/// Has three polls of the group partly refused, after `trouble`, and returns the daemon's log lines with `words`.
async fn said_of_three_refused_polls(name: &str, trouble: &str, words: &str) -> Vec<String> {
    let (place, database) = (Harness::new(name, 200).await, TestDatabase::new().await);
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    database.psql(trouble);
    database.psql("SELECT receiptd.watch_messages(1400000000, 'team room', '{1,7}')");
    while database.psql("SELECT coalesce(max(times) > 2, false) FROM receiptd.set_aside") == "f" {
        let calls = place.simulator.ledger().ended_calls();
        place.simulator.wait_for_ended_calls(calls + 1).await;
    }
    signal(&daemon, "-TERM");
    let (code, said) = end(daemon);
    assert_eq!(code, Some(0), "{said}");
    said.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_row_is_logged_once_with_its_group_and_reason() {
    let refuse = "ALTER TABLE receiptd.receipt_snapshots ADD CONSTRAINT no_seven CHECK (msg_seq <> 7)";
    let lines = said_of_three_refused_polls("aside", refuse, "kept in receiptd.set_aside").await;
    assert!(lines.len() == 1, "{lines:#?}");
    for part in ["group=\"team room\"", "sqlstate=\"23514\"", "no_seven", "count=1", "rows=1"] {
        assert!(lines[0].contains(part), "{part} is not in {}", lines[0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_can_not_be_made_is_said_once() {
    let lose = "DO $$ BEGIN EXECUTE 'DROP TABLE receiptd_partitions.receipt_snapshots_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD'); END $$;
        CREATE OR REPLACE FUNCTION receiptd.ensure_partition(parent text, day date) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no partitions today'; END $$";
    let lines = said_of_three_refused_polls("unmade", lose, "could not be created").await;
    assert!(lines.len() == 1 && lines[0].contains("no partitions today"), "{lines:#?}");
}
