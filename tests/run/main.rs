//! `receiptd run` under systemd and the kernel: started, asked to stop, killed, started again.
//!
//! The runtimes have their own threads: the tests block while they wait for the daemon, but the simulated Chat must
//! not.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod backup;
mod commands;
#[path = "../common/mod.rs"]
mod common;
mod database;
mod discover;
mod flood;
mod following;
mod harness;
mod http;
mod impostor;
mod proxy;
mod readers;
mod reload;
mod said;
mod systemd;
mod terminal;

use sqlx::PgPool;

use crate::{
    common::TestDatabase,
    harness::{Harness, count, end, signal, watch},
};

const SNAPSHOTS: &str = "SELECT count(*) FROM receiptd.receipt_snapshots";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_and_sigint_stop_cleanly_with_every_answer_stored() {
    for name in ["-TERM", "-INT"] {
        let (place, database) = (Harness::new("signal", 200).await, TestDatabase::new().await);
        let daemon = place.spawn(Some(&database));
        place.hears("READY=1");
        let pool = PgPool::connect(&database.url()).await.unwrap();
        watch(&pool, 60, 20).await;
        place.simulator.wait_for_ended_calls(200).await;
        signal(&daemon, name);
        place.hears("STOPPING=1");
        let (code, said) = end(daemon);
        assert_eq!(code, Some(0), "{said}");
        let ledger = place.simulator.ledger();
        let answered: usize = ledger.all_answers().map(|(_, _, receipts)| receipts.len()).sum();
        assert_eq!(count(&pool, SNAPSHOTS).await, i64::try_from(answered).unwrap());
        let calls = count(&pool, "SELECT count(*) FROM receiptd.api_calls").await;
        assert_eq!(calls, i64::try_from(ledger.calls()).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_starts_after_sigterm_though_many_are_due() {
    let (place, database) = (Harness::new("stop", 5).await, TestDatabase::new().await);
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let pool = PgPool::connect(&database.url()).await.unwrap();
    watch(&pool, 100, 3).await;
    place.simulator.wait_for_calls(8).await;
    signal(&daemon, "-TERM");
    place.hears("STOPPING=1");
    let calls = place.simulator.ledger().calls();
    assert_eq!(end(daemon).0, Some(0));
    assert!(
        place.simulator.ledger().calls() <= calls + 1,
        "{} calls after it",
        place.simulator.ledger().calls() - calls
    );
    let unpolled = "SELECT count(*) FROM receiptd.poll_slots WHERE last_polled_at IS NULL AND next_poll_at <= now()";
    assert!(count(&pool, unpolled).await > 80, "what was not polled is still due");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigkill_loses_no_commit_and_polling_resumes_in_the_limit() {
    let (place, database) = (Harness::new("kill", 40).await, TestDatabase::new().await);
    let mut daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let pool = PgPool::connect(&database.url()).await.unwrap();
    // More than the limit allows, so that it calls all the time.
    watch(&pool, 60, 70).await;
    for round in 1..=3 {
        place.simulator.wait_for_calls(round * 60).await;
        daemon.kill().unwrap();
        end(daemon);
        let kept = count(&pool, SNAPSHOTS).await;
        assert!(kept > 0);
        daemon = place.spawn(Some(&database));
        place.hears("READY=1");
        assert!(count(&pool, SNAPSHOTS).await >= kept);
    }
    let restarted = place.simulator.ledger().calls();
    // Every slot once more, and then some.
    place.simulator.wait_for_ended_calls(restarted + 300).await;
    signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
    let forgotten = "SELECT count(*) FROM receiptd.latest_receipts WHERE state = 'active' AND (known_until IS NULL OR known_until < now() - interval '1 minute')";
    assert_eq!(count(&pool, forgotten).await, 0);
    assert_eq!(count(&pool, "SELECT count(*) FROM receiptd.latest_receipts WHERE state = 'active'").await, 60 * 70);
    let ledger = place.simulator.ledger();
    assert!(ledger.highest_sliding_second() <= 40, "{} calls in a second", ledger.highest_sliding_second());
    for (group, seq, receipts) in ledger.all_answers() {
        let last: (i32, i32) = sqlx::query_as(
            "SELECT read_num, unread_num FROM receiptd.latest_receipts WHERE group_id = $1 AND msg_seq = $2",
        )
        .bind(group.as_str())
        .bind(i64::from(seq.get()))
        .fetch_one(&pool)
        .await
        .unwrap();
        let counts = receipts.last().and_then(|receipt| receipt.counts).unwrap();
        assert_eq!((last.0.unsigned_abs(), last.1.unsigned_abs()), (counts.read(), counts.unread()), "{group} {seq}");
    }
}
