//! The cost of many messages, in one group, in 20,000 groups, and in groups of one message each: the time until all
//! have a slot, the start, the resident memory, and processor time per call. The real binary, a private PostgreSQL
//! and the simulated Chat.
//!
//! `cargo bench --bench scale` watches a million messages in each of the three ways, `cargo bench --bench scale --
//! 10000000` ten million (groups of ten in the third), each after a tenth of that. `-- one`, `-- many`, `-- single`:
//! only one way. `--seconds N`: duration of measuring calls (default: 60). Machines are noisy: compare within a run.
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]
#![expect(clippy::print_stdout, reason = "a bench answers people on its standard output")]

#[allow(dead_code, reason = "the other bench uses more of it")]
#[path = "../full_rate/cost.rs"]
mod cost;
#[allow(dead_code, reason = "the other bench uses more of it")]
#[path = "../../tests/daemon/proxy.rs"]
mod proxy;
#[allow(dead_code, reason = "the other bench uses more of it")]
#[path = "../full_rate/setup.rs"]
mod setup;

use std::time::{Duration, Instant};

use sqlx::PgPool;

use self::setup::{Daemon, Setup};

/// Maximum number of groups in which messages are watched.
const GROUPS: i64 = 1_000_000;

/// Number of messages watched in a transaction.
const AT_ONCE: i64 = 50_000;

/// Short enough that a poll is always due.
const EVERY: &str = "1m";

/// How messages are spread over groups.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    /// Number of groups for this number of messages.
    groups: fn(messages: i64, most: i64) -> i64,
}

const WAYS: [Way; 3] = [
    Way { name: "one", groups: |_, _| 1 },
    Way { name: "many", groups: |_, _| 20_000 },
    Way { name: "single", groups: |messages, most| messages / (most / GROUPS).max(1) },
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (mut messages, mut seconds, mut ways) = (1_000_000, 60, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--bench" => {}
            "--seconds" => seconds = arguments.next().unwrap().parse().unwrap(),
            name => match WAYS.iter().find(|way| way.name == name) {
                Some(way) => ways.push(*way),
                None => messages = name.parse().unwrap(),
            },
        }
    }
    if ways.is_empty() {
        ways = WAYS.to_vec();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for way in ways {
        runtime.block_on(measure(way, messages, Duration::from_secs(seconds)));
    }
}

/// Measures a tenth of the messages and then all of them.
async fn measure(way: Way, most: i64, span: Duration) {
    for messages in [most / 10, most] {
        // Otherwise the first polls after a longer import find more to write.
        let setup = Setup::unread().await;
        setup.migrate().await;
        let groups = (way.groups)(messages, most);
        println!("\n{messages} messages in {groups} group{}", if groups == 1 { "" } else { "s" });
        let start = Instant::now();
        watch(&setup.pool, groups, messages).await;
        println!("  watched                in {:.1} s", start.elapsed().as_secs_f64());
        slot(&setup).await;
        let daemon = restart(&setup).await;
        cost_of_a_call(&setup, &daemon, span).await;
        daemon.stop();
    }
}

/// Watches this number of messages in this number of groups, taking one of each group in turn.
async fn watch(pool: &PgPool, groups: i64, messages: i64) {
    let make = "INSERT INTO receiptd.watched_groups (sdk_app_id, group_id)
        SELECT $1, 'group ' || g FROM generate_series(1, $2) AS g";
    sqlx::query(make).bind(setup::APP).bind(groups).execute(pool).await.unwrap();
    let watch = "SELECT receiptd.watch_keys(array_agg(g.group_key), array_agg(n / $1 + 1), array_agg(now()), NULL)
        FROM generate_series($2, $3) AS n JOIN receiptd.watched_groups g ON g.group_id = 'group ' || n % $1 + 1";
    for first in (0..messages).step_by(usize::try_from(AT_ONCE).unwrap()) {
        let last = (first + AT_ONCE).min(messages) - 1;
        sqlx::query(watch).bind(groups).bind(first).bind(last).execute(pool).await.unwrap();
    }
}

/// Starts with messages without a slot.
async fn slot(setup: &Setup) {
    let ((calls, _), start, cpu) = (setup.asked().await, Instant::now(), setup.postgres_cpu());
    let daemon = setup.start_daemon(EVERY);
    wait_for_calls(setup, calls + 1).await;
    println!("  first call             {:.1} s after the start, with new messages only", start.elapsed().as_secs_f64());
    let slotted =
        "SELECT NOT EXISTS (SELECT FROM receiptd.watched_messages WHERE slot_id IS NULL AND closed_at IS NULL)";
    while !sqlx::query_scalar::<_, bool>(slotted).fetch_one(&setup.pool).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!(
        "  all slotted            {:.1} s after the start, {:.1} s of Postgres's processor time",
        start.elapsed().as_secs_f64(),
        (setup.postgres_cpu() - cpu).as_secs_f64()
    );
    println!("  receiptd               {} MiB resident at the most", cost::peak_resident_mib(daemon.id()));
}

/// Starts after a crash, when everything is due. The server's own work after so many new rows is done before, so that
/// it is not counted.
async fn restart(setup: &Setup) -> Daemon {
    for sql in ["UPDATE receiptd.poll_slots SET next_poll_at = now()", "VACUUM (ANALYZE)", "CHECKPOINT"] {
        sqlx::raw_sql(sql).execute(&setup.pool).await.unwrap();
    }
    let ((calls, _), start) = (setup.asked().await, Instant::now());
    let daemon = setup.start_daemon(EVERY);
    wait_for_calls(setup, calls + 1).await;
    println!("  after kill -9          first call {:.1} s after the start", start.elapsed().as_secs_f64());
    daemon
}

/// Waits for this number of calls since the start of the simulated Chat, however long that takes.
async fn wait_for_calls(setup: &Setup, calls: u64) {
    while setup.asked().await.0 < calls {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Polls at the full rate for `span`.
async fn cost_of_a_call(setup: &Setup, daemon: &Daemon, span: Duration) {
    // Until the rate is steady.
    wait_for_calls(setup, setup.asked().await.0 + 2_000).await;
    let ((calls, asked), start) = (setup.asked().await, Instant::now());
    let (receiptd, postgres) = (cost::cpu(daemon.id()), setup.postgres_cpu());
    tokio::time::sleep(span).await;
    let (calls_by_now, asked_by_now) = setup.asked().await;
    let (made, took) = ((calls_by_now - calls) as f64, start.elapsed().as_secs_f64());
    let a_call = |cpu: Duration| cpu.as_secs_f64() * 1e6 / made;
    println!(
        "  a call                 of {:.1} messages costs receiptd {:.0} us and Postgres {:.0} us, at {:.1} calls/s",
        (asked_by_now - asked) as f64 / made,
        a_call(cost::cpu(daemon.id()) - receiptd),
        a_call(setup.postgres_cpu() - postgres),
        made / took
    );
    println!(
        "  receiptd               {} MiB resident at the most since the start",
        cost::peak_resident_mib(daemon.id())
    );
}
