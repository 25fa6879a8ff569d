//! Discovery of many groups with new messages: the time until all are watched, and the calls that it makes.
//!
//! `cargo bench --bench discovery`; `-- 1000 10` for 1,000 groups with 10 messages each.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints, and fails by panicking")]

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, process::Command, time::Duration};

use receiptd::{
    domain::{GroupId, SdkAppId},
    embedded::{EmbeddedPostgres, Options},
    simulator::{PostKind, Simulator, SimulatorConfig},
};
use sqlx::PgPool;
use tokio::time::{Instant, sleep};

const APP: i64 = 1_400_000_000;
const SECRET_KEY: &str = "key-of-the-bench";

#[tokio::main]
async fn main() {
    // Cargo adds options of its own.
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let (groups, messages) = (numbers.first().copied().unwrap_or(10_000), numbers.get(1).copied().unwrap_or(10));
    let directory = std::env::temp_dir().join(format!("receiptd-discovery-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let postgres = EmbeddedPostgres::start(&Options::new(directory.join("postgres"))).unwrap();
    postgres.create_database("bench").unwrap();
    let url = postgres.url("bench");
    let app = SdkAppId::try_from(APP).unwrap();
    receiptd::store::Store::new(&url.clone().into(), 2, app).unwrap().migrate().await.unwrap();
    let simulator = Simulator::start(SimulatorConfig::new(app, "administrator", SECRET_KEY.into())).await.unwrap();
    for number in 0..groups {
        let group: GroupId = format!("group {number}").parse().unwrap();
        for _ in 0..messages {
            simulator.world().post(&group, simulator.now() - chrono::TimeDelta::minutes(5), PostKind::Ordinary);
        }
    }
    let config = directory.join("receiptd.toml");
    let text = format!(
        "[chat]\nsdk_app_id = {APP}\nsecret_key = \"{SECRET_KEY}\"\nendpoint = \"{}\"\n[database]\nurl = \"{url}\"\n[http]\n\
         listen = \"off\"\n[log]\nlevel = \"warn\"\n[discovery]\nenabled = true\nsince = \"1h\"\n",
        simulator.endpoint()
    );
    fs::write(&config, text).unwrap();
    fs::set_permissions(&config, PermissionsExt::from_mode(0o600)).unwrap();
    let began = Instant::now();
    let mut daemon =
        Command::new(env!("CARGO_BIN_EXE_receiptd")).args(["run", "--config"]).arg(&config).spawn().unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    watch(&pool, i64::from(groups) * i64::from(messages), began).await;
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let ledger = simulator.ledger();
    let mut calls: BTreeMap<&str, (u64, usize, u64)> = BTreeMap::new();
    calls.insert("get_group_msg_receipt", (ledger.calls(), ledger.highest_sliding_second(), 0));
    for (name, api) in ledger.apis() {
        calls.insert(name, (api.calls(), api.highest_sliding_second(), api.errors_by_code().values().sum()));
    }
    println!("{:<24} {:>9} {:>15} {:>8}", "API", "calls", "highest second", "refused");
    for (name, (calls, highest, refused)) in calls {
        println!("{name:<24} {calls:>9} {highest:>15} {refused:>8}");
    }
    drop(postgres);
    _ = fs::remove_dir_all(&directory);
}

/// Prints when each tenth of the messages was watched.
async fn watch(pool: &PgPool, all: i64, began: Instant) {
    let mut tenth = 1;
    while tenth <= 10 {
        let watched: i64 =
            sqlx::query_scalar("SELECT count(*) FROM receiptd.watched_messages WHERE discovered_at IS NOT NULL")
                .fetch_one(pool)
                .await
                .unwrap();
        while tenth <= 10 && watched * 10 >= all * tenth {
            println!("{:>3} % of {all} messages watched after {:.1} s", tenth * 10, began.elapsed().as_secs_f64());
            tenth += 1;
        }
        sleep(Duration::from_millis(250)).await;
    }
}
