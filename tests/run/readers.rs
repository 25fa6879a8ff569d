//! Who has read, with the real binary: nothing about members in logs, on the page or in the output of commands, and the
//! commands about members.

use std::process::Command;

use receiptd::domain::GroupId;
use sqlx::{AssertSqlSafe, PgPool};

use crate::{
    common::TestDatabase,
    harness::{APP, Harness, end, get},
};

fn group(id: &str) -> GroupId {
    id.parse().unwrap()
}

/// The output of a command, on both streams.
fn receiptd(place: &Harness, database: &TestDatabase, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
    command.args(arguments).arg("--config").arg(place.write_config());
    let output = command.env("DATABASE_URL", database.url()).output().unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

async fn wait_until(pool: &PgPool, condition: &str) {
    while !sqlx::query_scalar::<_, bool>(AssertSqlSafe(format!("SELECT {condition}")))
        .fetch_one(pool)
        .await
        .unwrap_or(false)
    {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_never_logged_nor_stored_of_other_groups() {
    let (mut place, database) = (Harness::new("readers", 200).await, TestDatabase::new().await);
    let listen = place.listens();
    place.config.push_str("[log]\nlevel = \"info,receiptd=trace\"\n[readers]\nreader_cadence = \"1s\"\n");
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let pool = PgPool::connect(&database.url()).await.unwrap();
    for id in ["on", "off"] {
        place.simulator.world().add_group(&group(id), 9);
        let watch = "SELECT receiptd.watch_messages($1, $2, ARRAY[1, 2])";
        sqlx::query(watch).bind(APP).bind(id).execute(&pool).await.unwrap();
    }
    let turned_on = receiptd(&place, &database, &["watch", "readers", "on", "on"]);
    assert!(turned_on.contains("is stored, by account, and kept for 30d after sending"), "{turned_on}");
    wait_until(&pool, "count(*) > 3 FROM receiptd.member_reads").await;
    let mut shown = String::new();
    for path in ["/", "/status.json", "/metrics", "/readyz"] {
        shown += &get(listen, path).await.1;
    }
    assert!(shown.contains("receiptd_readers_total{sdk_app_id=\"1400000000\"} "), "{shown}");
    for arguments in [&["explain", "on", "1"][..], &["status"], &["watch", "list"], &["config"], &["check"]] {
        shown += &receiptd(&place, &database, arguments);
    }
    crate::harness::signal(&daemon, "-TERM");
    let (code, logged) = end(daemon);
    assert_eq!(code, Some(0), "{logged}");
    shown += &logged;
    let dump = Command::new("pg_dump").args(["--data-only", &database.url()]).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    let dump = String::from_utf8(dump.stdout).unwrap();
    for account in place.simulator.world().accounts(&group("off")) {
        assert!(!shown.contains(&account) && !dump.contains(&account), "{account}");
    }
    let accounts = place.simulator.world().accounts(&group("on"));
    assert!(accounts.iter().all(|account| !shown.contains(account)), "{shown}");
    assert!(accounts.iter().any(|account| dump.contains(account)), "the search finds what there is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_is_exported_and_forgotten_by_account_or_pseudonym() {
    let (mut place, database) = (Harness::new("members", 200).await, TestDatabase::new().await);
    let key = "canary-key-with-at-least-32-characters";
    place
        .config
        .push_str(&format!("[readers]\npseudonyms = true\npseudonym_key = \"{key}\"\nreader_cadence = \"1s\"\n"));
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let pool = PgPool::connect(&database.url()).await.unwrap();
    place.simulator.world().add_group(&group("g"), 5);
    let watch = "SELECT receiptd.watch_group($1, 'g', readers => true), receiptd.watch_messages($1, 'g', ARRAY[1])";
    sqlx::query(watch).bind(APP).execute(&pool).await.unwrap();
    wait_until(&pool, "count(*) > 1 FROM receiptd.member_reads").await;
    crate::harness::signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
    let world = place.simulator.world();
    let named: Vec<String> = world
        .accounts(&group("g"))
        .into_iter()
        .filter(|account| receiptd(&place, &database, &["export-member", account]).lines().count() == 2)
        .collect();
    assert_eq!(named.len(), 4, "each is named in one message");
    let exported = receiptd(&place, &database, &["export-member", &named[0]]);
    assert!(exported.starts_with("group_id,msg_seq,sent_at,outcome,read_after,read_by,source\n\"g\",1,"), "{exported}");
    let forgotten = receiptd(&place, &database, &["forget-member", &named[0]]);
    assert!(forgotten.contains("from 1 message,") && !forgotten.contains(&named[0]), "{forgotten}");
    assert_eq!(receiptd(&place, &database, &["export-member", &named[0]]).lines().count(), 1);
    let off = receiptd(&place, &database, &["watch", "readers", "g", "off"]);
    assert!(off.contains("off --erase` erases them"), "{off}");
    let erased = receiptd(&place, &database, &["watch", "readers", "g", "off", "--erase"]);
    assert!(erased.contains("Erased "), "{erased}");
    wait_until(&pool, "count(*) = 0 FROM receiptd.reader_lists").await;
    let refused = receiptd(&place, &database, &["watch", "readers", "g", "on", "--erase"]);
    assert!(refused.contains("--erase requires off"), "{refused}");
    let unknown = receiptd(&place, &database, &["watch", "readers", "h", "on"]);
    assert!(unknown.contains("not on the watch list"), "{unknown}");
}
