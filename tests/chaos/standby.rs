//! A standby of PostgreSQL: analysts read there. A daemon that is connected to it reports the remedy, and polls once it
//! is promoted.

use receiptd::clock;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::time::Instant;

use crate::{
    daemon::{Daemon, PATIENCE},
    harness::{DATABASE, Harness, LIMIT},
    server::url_at,
};

/// Analysts' queries as in docs/analysts.md: views, functions and roll-ups.
const QUESTIONS: [&str; 6] = [
    "SELECT count(*) FROM receiptd.latest_receipts WHERE known_until IS NOT NULL",
    "SELECT count(*) FROM receiptd.receipt_history",
    "SELECT count(*) FROM receiptd.receipts_at(now())",
    "SELECT count(*) FROM receiptd.read_speed",
    "SELECT count(*) FROM receiptd.hourly_receipts",
    "SELECT count(*) FROM receiptd.poll_coverage",
];

async fn number(pool: &PgPool, query: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(pool).await.unwrap()
}

/// The response of `/readyz`, once it contains this.
async fn readiness(daemon: &Daemon, part: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = daemon.get("/readyz", PATIENCE).await;
        if answer.as_ref().is_some_and(|(_, body)| body.contains(part)) {
            return;
        }
        assert!(Instant::now() < deadline, "/readyz never said {part:?}, but {answer:?}\n{}", daemon.said());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_answers_analysts_and_is_used_once_promoted() {
    let mut scene = Harness::new("hot-standby").await;
    let standby = scene.server.standby(scene.directory());
    let url = url_at(standby.socket_dir(), DATABASE);
    let replica = PgPool::connect(&url).await.unwrap();
    let snapshots = number(&scene.pool, QUESTIONS[1]).await;
    let deadline = Instant::now() + PATIENCE;
    while number(&replica, QUESTIONS[1]).await < snapshots {
        assert!(Instant::now() < deadline, "the standby does not follow");
    }
    for question in QUESTIONS {
        println!("{}: {question}", number(&replica, question).await);
    }
    assert_eq!(number(&replica, QUESTIONS[0]).await, scene.messages());
    let refused = sqlx::query("SELECT receiptd.watch_messages(1, 'g', '{1}')").execute(&replica).await;
    assert!(refused.is_err(), "a standby only reads");

    let misled = scene.start_another(vec![], url);
    readiness(&misled, "the server is a standby, which is read-only: point database.url at the primary").await;
    let deadline = Instant::now() + PATIENCE;
    while !misled.said().contains("can't take over: the server is a standby") {
        assert!(Instant::now() < deadline, "{}", misled.said());
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    scene.after_calls(u64::from(LIMIT)).await;

    scene.server.stop();
    let promoted = clock::now();
    sqlx::query("SELECT pg_promote()").execute(&replica).await.unwrap();
    let again =
        format!("SELECT count(*) FROM receiptd.latest_receipts WHERE known_until > '{}'", promoted.to_rfc3339());
    while number(&replica, &again).await < scene.messages() {
        assert!(Instant::now() < deadline + PATIENCE, "polling does not go on:\n{}", misled.said());
    }
    assert_eq!(misled.until_ready(PATIENCE).await, Ok(()));
    let highest = scene.simulator.ledger().highest_sliding_second();
    assert!(highest <= LIMIT as usize, "{highest} calls in a second");
    // The daemon of the lost server keeps its results.
    scene.daemon.signal("KILL");
}
