//! The cost of a month of history and of analysts' queries on it, compared with the same queries on a table of all
//! polls.
//!
//! `cargo bench --bench growth` fills a million snapshots, `cargo bench --bench growth -- 1100000` (messages) a
//! hundred million: that takes half an hour and 20 GB in the directory for temporary files (TMPDIR). Everything is
//! removed at the end. With the URL of a database that has such a history, only the cookbook's questions are asked.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "a bench answers people on its standard output")]

#[allow(dead_code, reason = "the other bench uses more of it")]
#[path = "../full_rate/cost.rs"]
mod cost;
mod questions;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::{Duration, Instant},
};

use receiptd::{
    daemon::jobs::catch_up,
    domain::SdkAppId,
    embedded::{EmbeddedPostgres, Options},
    rules::rollup::SETTLED_AFTER,
    store::{Seed, Store},
};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};

use self::questions::{QUESTIONS, cookbook};

/// Timeout of a query.
const PATIENCE: Duration = Duration::from_secs(600);

/// Number of runs of each query, of which the median is printed.
const TIMES: usize = 7;

/// Maximum number of messages for which there is a table of all polls, too: its size is twice that of the history.
const COMPARED_UP_TO: i64 = 250_000;

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Some(url) = std::env::args().find(|argument| argument.starts_with("postgres")) {
        return ask_cookbook(&PgPool::connect(&url).await.unwrap()).await;
    }
    let messages = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(11_000);
    let directory = Directory(std::env::temp_dir().join(format!("receiptd-growth-{}", std::process::id())));
    fs::create_dir_all(&directory.0).unwrap();
    fs::set_permissions(&directory.0, PermissionsExt::from_mode(0o755)).unwrap();
    let mut options = Options::new(directory.0.join("postgres"));
    let settings = [
        ("shared_buffers", "2GB"),
        ("maintenance_work_mem", "1GB"),
        ("work_mem", "64MB"),
        ("max_wal_size", "8GB"),
        ("random_page_cost", "1.1"),
    ];
    options.settings = settings.map(|(name, value)| (name.into(), value.into())).into();
    let postgres = EmbeddedPostgres::start(&options).unwrap();
    postgres.create_database("growth").unwrap();
    let url = postgres.url("growth");
    let pid = fs::read_to_string(directory.0.join("postgres/cluster/postmaster.pid")).unwrap();
    let postmaster = pid.lines().next().unwrap().parse().unwrap();
    fill(&url, messages, postmaster).await;
    let pool = PgPoolOptions::new().max_connections(2).connect(&url).await.unwrap();
    if messages <= COMPARED_UP_TO {
        append_every_poll(&pool).await;
        compare(&pool).await;
    }
    ask_cookbook(&pool).await;
}

/// Fills the schema, and prints the cost.
async fn fill(url: &str, messages: i64, postmaster: u32) {
    let store = Store::new(&url.to_owned().into(), 2, SdkAppId::try_from(1_400_000_000).unwrap()).unwrap();
    store.migrate().await.unwrap();
    let until = "2026-11-23T00:00:00Z".parse().unwrap();
    // Tencent Chat keeps receipts in groups of at most 200 members; these have up to 195.
    let seed = Seed { groups: (messages / 1_100).max(10), messages, days: 30, members: 130, until };
    let start = Instant::now();
    store.seed_groups(&seed).await.unwrap();
    let (mut snapshots, mut first) = (0, 0);
    while first < messages {
        snapshots += store.seed_messages(&seed, first).await.unwrap();
        first += seed.messages_at_once();
    }
    store.seed_slots(&seed).await.unwrap();
    println!("{messages} messages of {} groups with {snapshots} snapshots in {:.0?}", seed.groups, start.elapsed());
    let pool = PgPool::connect(url).await.unwrap();
    sqlx::raw_sql("VACUUM (ANALYZE)").execute(&pool).await.unwrap();
    let (start, cpu) = (Instant::now(), cost::cpu_of_family(postmaster));
    catch_up(&store, until + SETTLED_AFTER, |_| {}).await.unwrap();
    let (took, cpu) = (start.elapsed(), cost::cpu_of_family(postmaster) - cpu);
    let per_million = cpu.as_secs_f64() / (snapshots as f64 / 1e6);
    println!("rolled up in {took:.0?}: {per_million:.1} s of the database's processor time for a million snapshots");
    sqlx::raw_sql("VACUUM (ANALYZE)").execute(&pool).await.unwrap();
    let sizes: Vec<(String, String)> = sqlx::query_as(
        "SELECT name, pg_size_pretty(bytes) FROM (
            SELECT coalesce(i.inhparent, c.oid)::regclass::text AS name, sum(pg_total_relation_size(c.oid)) AS bytes
            FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
            WHERE c.relnamespace IN ('receiptd'::regnamespace, 'receiptd_partitions'::regnamespace) AND c.relkind = 'r' GROUP BY 1
         ) sizes WHERE bytes > 1000000 ORDER BY bytes DESC",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    println!("{}", sizes.iter().map(|(name, size)| format!("{name} {size}")).collect::<Vec<_>>().join(", "));
}

/// The other way to keep receipts: one table, one row per poll and message. Here half of the polls saw a change.
async fn append_every_poll(pool: &PgPool) {
    let start = Instant::now();
    sqlx::raw_sql(
        "CREATE TABLE every_poll AS
            SELECT group_key, msg_seq, polled_at + again * interval '1 microsecond' AS polled_at, read_num, unread_num
            FROM receiptd.receipt_snapshots, generate_series(0, 1) AS again;
         ALTER TABLE every_poll ADD PRIMARY KEY (group_key, msg_seq, polled_at);
         CREATE INDEX ON every_poll USING brin (polled_at);
         CREATE TABLE sent AS
            SELECT group_key, msg_seq, sent_at FROM receiptd.latest_receipts;
         ALTER TABLE sent ADD PRIMARY KEY (group_key, msg_seq)",
    )
    .execute(pool)
    .await
    .unwrap();
    sqlx::raw_sql("VACUUM (ANALYZE)").execute(pool).await.unwrap();
    let size: String = sqlx::query_scalar("SELECT pg_size_pretty(pg_total_relation_size('every_poll'))")
        .fetch_one(pool)
        .await
        .unwrap();
    println!("every poll in one table: {size}, made in {:.0?}\n", start.elapsed());
}

async fn compare(pool: &PgPool) {
    println!("| question | receiptd | every poll in one table | |\n|---|---|---|---|");
    for question in QUESTIONS {
        let ours = time(pool, question.receiptd, TIMES).await.unwrap();
        // A slow query is run once.
        let first = time(pool, question.every_poll, 1).await;
        let theirs = match first {
            Some(first) if first < Duration::from_secs(2) => time(pool, question.every_poll, TIMES).await,
            first => first,
        };
        let ratio =
            theirs.map_or_else(String::new, |theirs| format!("{:.0} x", theirs.as_secs_f64() / ours.as_secs_f64()));
        let theirs = theirs.map_or_else(|| format!("over {PATIENCE:.0?}"), |theirs| format!("{theirs:.1?}"));
        println!("| {} | {ours:.1?} | {theirs} | {ratio} |", question.asks);
    }
    println!();
}

/// The processor time of each question in one process, which depends little on other work of the machine.
async fn ask_cookbook(pool: &PgPool) {
    let mut connection = pool.acquire().await.unwrap();
    sqlx::raw_sql("SET max_parallel_workers_per_gather = 0").execute(&mut *connection).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *connection).await.unwrap();
    let pid = pid.unsigned_abs();
    println!("| question | processor time |\n|---|---|");
    for (asks, sql) in cookbook() {
        let before = cost::cpu(pid);
        let asked = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *connection);
        tokio::time::timeout(PATIENCE, asked).await.unwrap().unwrap();
        println!("| {asks} | {:.1?} |", cost::cpu(pid) - before);
    }
}

/// The median time of a statement; `None` if it takes too long.
async fn time(pool: &PgPool, sql: &'static str, times: usize) -> Option<Duration> {
    let mut took = Vec::new();
    for _ in 0..times {
        let start = Instant::now();
        let asked = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(pool);
        tokio::time::timeout(PATIENCE, asked).await.ok()?.unwrap();
        took.push(start.elapsed());
    }
    took.sort_unstable();
    Some(took[times / 2])
}
