//! Backups as docs/operators.md describes them: a dump while the daemon runs, and the move from the private server.

use std::{
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::Path,
    process::Command,
};

use sqlx::PgPool;

use crate::{
    common::TestDatabase,
    harness::{Harness, end, signal, watch},
};

const HISTORY: &str = "SELECT md5(string_agg(h::text, ';' ORDER BY group_id, msg_seq, polled_at)), count(*) FROM receiptd.receipt_history h";
const WATCHED: &str = "SELECT count(*) FROM receiptd.watched_messages WHERE state = 'active'";

/// The command of the docs that begins with these words, with its long lines joined.
fn documented(words: &str) -> String {
    let docs = include_str!("../../docs/operators.md").replace("\\\n", "");
    let line = docs.lines().find(|line| line.trim_start_matches("sudo -u receiptd ").starts_with(words));
    line.unwrap_or_else(|| panic!("{words} is not in the docs")).trim_start_matches("sudo -u receiptd ").to_owned()
}

/// Runs a command of the docs in the directory, as its owner.
fn run(directory: &Path, command: &str) {
    let owner = directory.metadata().unwrap();
    let output =
        Command::new("sh").args(["-c", command]).current_dir(directory).uid(owner.uid()).gid(owner.gid()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Restores a dump into a new database as in the docs, and checks that a daemon continues there.
async fn restored(place: &Harness, dump: &Path, history: &str) {
    let database = TestDatabase::new().await;
    database.psql("DO $$ BEGIN CREATE ROLE receiptd LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$");
    database.psql(&format!("ALTER DATABASE {} OWNER TO receiptd", database.name()));
    let command = documented("pg_restore");
    let words = command.replace("--dbname=receiptd_restored receiptd.dump", "--dbname=\"$1\" \"$2\"");
    let output = Command::new("sh").args(["-c", &words, "sh", &database.url()]).arg(dump).output().unwrap();
    assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(database.psql(HISTORY), history);
    assert_eq!(database.psql(WATCHED), "10");
    let calls = database.psql("SELECT count(*) FROM receiptd.api_calls");
    let url = database.url().replace("//postgres@", "//receiptd@");
    let daemon = place.spawn_with(None, &[("DATABASE_URL", &url)]);
    place.hears("READY=1");
    let ended = place.simulator.ledger().ended_calls();
    place.simulator.wait_for_ended_calls(ended + 4).await;
    signal(&daemon, "-TERM");
    let (code, said) = end(daemon);
    assert_eq!(code, Some(0), "{said}");
    assert_ne!(database.psql("SELECT count(*) FROM receiptd.api_calls"), calls, "it polls again");
    let polled_on = "SELECT count(*) FROM receiptd.latest_receipts WHERE known_until > now() - interval '1 minute'";
    assert_eq!(database.psql(polled_on), "10");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dump_is_restored_and_polling_goes_on() {
    let (place, database) = (Harness::new("dump", 200).await, TestDatabase::new().await);
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    watch(&PgPool::connect(&database.url()).await.unwrap(), 2, 5).await;
    place.simulator.wait_for_ended_calls(6).await;
    // While it runs, and once more for a history that no longer changes.
    let dump = place.path("receiptd.dump");
    let command = documented("pg_dump --format").replace("--file=receiptd.dump receiptd", "--file=\"$1\" \"$2\"");
    let make = || {
        let output = Command::new("sh").args(["-c", &command, "sh"]).arg(&dump).arg(database.url()).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    };
    make();
    signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
    make();
    restored(&place, &dump, &database.psql(HISTORY)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_private_server_is_moved_to_a_real_one() {
    let place = Harness::new("move", 200).await;
    let daemon = place.spawn(None);
    place.hears("READY=1");
    let directory = place.path("postgres");
    let url = format!("postgres://postgres@localhost/receiptd?host={}", directory.join("socket").display());
    let pool = PgPool::connect(&url).await.unwrap();
    watch(&pool, 2, 5).await;
    place.simulator.wait_for_ended_calls(6).await;
    signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
    let newest = Path::new("/usr/lib/postgresql").read_dir().ok().and_then(|versions| {
        let version = std::fs::read_to_string(directory.join("cluster/PG_VERSION")).unwrap();
        versions.flatten().map(|entry| entry.path()).find(|path| path.ends_with(version.trim()))
    });
    // Elsewhere, the programs are in the search path.
    let programs = newest.map_or_else(String::new, |path| format!("{}/bin/", path.display()));
    let bin = "/usr/lib/postgresql/15/bin/";
    run(
        &directory,
        &format!(
            "{} >/dev/null 2>&1",
            documented(&format!("{bin}pg_ctl --pgdata=cluster --wait")).replace(bin, &programs)
        ),
    );
    let started = format!("postgres://postgres@localhost/receiptd?host={}", directory.display());
    let history: (String, i64) =
        sqlx::query_as(HISTORY).fetch_one(&PgPool::connect(&started).await.unwrap()).await.unwrap();
    run(&directory, &documented("pg_dump --host"));
    run(&directory, &documented(&format!("{bin}pg_ctl --pgdata=cluster stop")).replace(bin, &programs));
    restored(&place, &directory.join("receiptd.dump"), &format!("{}|{}", history.0, history.1)).await;
}
