//! Commands that run until they are stopped, next to a daemon: `receiptd tail` and `receiptd status --watch`.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::Value;
use sqlx::PgPool;

use crate::{
    common::TestDatabase,
    harness::{Harness, end, signal, watch},
};

/// A command and the lines that it prints.
fn follow(place: &Harness, database: &TestDatabase, arguments: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
    command.args(arguments).arg("--config").arg(place.path("receiptd.toml")).env("DATABASE_URL", database.url());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// Changes stored so far, as the database shows them.
fn stored(database: &TestDatabase, group: &str) -> BTreeSet<String> {
    let sql = format!(
        "SELECT concat_ws(' ', group_id, msg_seq, read_num, extract(epoch FROM polled_at)::numeric(20, 6)) FROM receiptd.receipt_history WHERE group_id LIKE '{group}'"
    );
    database.psql(&sql).lines().map(str::to_owned).collect()
}

fn key(line: &str) -> String {
    let change: Value = serde_json::from_str(line).unwrap();
    let time: receiptd::domain::Timestamp = change["polled_at"].as_str().unwrap().parse().unwrap();
    let micros = time.timestamp_micros();
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    format!(
        "{} {} {} {seconds}.{fraction:06}",
        change["group_id"].as_str().unwrap(),
        change["msg_seq"],
        change["read_num"]
    )
}

fn time(key: &str) -> &str {
    key.rsplit(' ').next().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_prints_each_stored_change_once() {
    let (place, database) = (Harness::new("tail", 200).await, TestDatabase::new().await);
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let pool = PgPool::connect(&database.url()).await.unwrap();
    watch(&pool, 2, 1).await;
    let (all, mut lines) = follow(&place, &database, &["tail", "--json"]);
    let (one, mut of_one) = follow(&place, &database, &["tail", "g2"]);
    // Changes from before the tails began are not theirs.
    let mut printed = BTreeSet::new();
    let mut seq = 1;
    let first = loop {
        seq += 1;
        database.psql(&format!(
            "SELECT receiptd.watch_messages(1400000000, g, ARRAY[{seq}]) FROM unnest(ARRAY['g1', 'g2']) g"
        ));
        if let Some(line) = lines.next() {
            break key(&line.unwrap());
        }
    };
    printed.insert(first);
    let line = of_one.next().unwrap().unwrap();
    assert!(line.contains("  g2 #") && line.contains(" have read it"), "{line}");
    for line in (&mut lines).take(20) {
        let line = line.unwrap();
        assert!(printed.insert(key(&line)), "{line} is printed twice");
    }
    signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
    // The last change follows, and nothing that was not stored.
    let known = stored(&database, "%");
    let newest = known.iter().max_by_key(|key| time(key)).unwrap();
    while !printed.contains(newest) {
        printed.insert(key(&lines.next().unwrap().unwrap()));
    }
    for child in [&all, &one] {
        signal(child, "-INT");
    }
    printed.extend(lines.map(|line| key(&line.unwrap())));
    assert_eq!(end(all).0, Some(0));
    assert!(printed.is_subset(&known), "{:?}", printed.difference(&known));
    let earliest = printed.iter().map(|key| time(key)).min().unwrap();
    let since: BTreeSet<_> = known.iter().filter(|key| time(key) >= earliest).cloned().collect();
    assert_eq!(printed, since);
    assert!(of_one.all(|line| line.unwrap().contains("  g2 #")));
    assert_eq!(end(one).0, Some(0));
    let (unknown, _) = follow(&place, &database, &["tail", "nobody"]);
    let (code, said) = end(unknown);
    assert!(code == Some(65) && said.contains("nobody is not on the watch list"), "{code:?} {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_is_shown_again_until_it_is_stopped() {
    let (place, database) = (Harness::new("watch", 200).await, TestDatabase::new().await);
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let pool = PgPool::connect(&database.url()).await.unwrap();
    watch(&pool, 2, 3).await;
    place.simulator.wait_for_ended_calls(4).await;
    let (status, mut lines) = follow(&place, &database, &["status", "--watch"]);
    // Some calls may be made before the first is stored.
    for part in
        ["receiptd  app 1400000000", "watched     6 messages in 2 groups", "Newest messages", "% read", "Due next"]
    {
        assert!(lines.any(|line| line.unwrap().contains(part)), "{part} is missing");
    }
    assert!(lines.any(|line| line.unwrap().contains("receiptd  app 1400000000")), "it is shown again");
    signal(&status, "-INT");
    assert!(lines.all(|line| !line.unwrap().contains('\u{1b}')), "no escape codes off a terminal");
    assert_eq!(end(status).0, Some(0));
    let (status, mut lines) = follow(&place, &database, &["status", "--watch", "--json"]);
    for line in (&mut lines).take(2) {
        let status: Value = serde_json::from_str(&line.unwrap()).unwrap();
        assert_eq!(status["database"]["watched"]["messages"], 6);
    }
    signal(&status, "-INT");
    lines.for_each(drop);
    assert_eq!(end(status).0, Some(0));
    signal(&daemon, "-TERM");
    end(daemon);
}
