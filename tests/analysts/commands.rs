//! `receiptd rollup`, `retention` and `seed` from their users' view: the real binary, a real PostgreSQL.

use std::process::Command;

use crate::{common::TestDatabase, harness::APP};

const UNTIL: &str = "2026-11-20T00:00:00Z";

/// The exit code, standard output and standard error.
pub fn receiptd(database: &TestDatabase, arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_receiptd"))
        .args(arguments)
        .env_clear()
        .env("DATABASE_URL", database.url())
        .env("RECEIPTD_CHAT__SDK_APP_ID", APP.to_string())
        // Data generated for an earlier day stays.
        .env("RECEIPTD_RETENTION__SNAPSHOTS", "forever")
        .env("RECEIPTD_RETENTION__CALLS", "forever")
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

pub async fn seeded() -> TestDatabase {
    let database = TestDatabase::new().await;
    assert_eq!(receiptd(&database, &["migrate"]).0, 0);
    let seed = ["seed", "--groups", "2", "--messages", "12", "--days", "2", "--members", "9", "--until", UNTIL];
    let (code, out, err) = receiptd(&database, &seed);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with("Stored 12 messages with ") && out.ends_with("until 2026-11-20 00:00:00 UTC.\n"), "{out}");
    database
}

#[tokio::test]
async fn a_seed_goes_into_an_app_without_groups_only() {
    let database = seeded().await;
    let (code, _, err) = receiptd(&database, &["seed"]);
    assert!(code == 65 && err.contains("already has a generated history"), "{code} {err}");
    database.psql(&format!("SELECT receiptd.watch_group({APP}, 'real')"));
    let (code, _, err) = receiptd(&database, &["seed"]);
    assert!(code == 65 && err.contains("already has groups") && err.contains("--set chat.sdk_app_id"), "{code} {err}");
    assert_eq!(database.psql("SELECT count(*) FROM receiptd.latest_receipts"), "12");
    let other = ["seed", "--set", "chat.sdk_app_id=5", "--messages", "3"];
    database.psql(
        "INSERT INTO receiptd.poller_leases (sdk_app_id, holder, epoch, acquired_at, expires_at)
         VALUES (5, 'h', 1, now(), now() + interval '1 hour')",
    );
    let (code, _, err) = receiptd(&database, &other);
    assert!(code == 65 && err.contains("a receiptd polls this app"), "{code} {err}");
}

#[tokio::test]
async fn a_seed_names_each_of_a_hundred_and_more_members() {
    let database = TestDatabase::new().await;
    assert_eq!(receiptd(&database, &["migrate"]).0, 0);
    let seed = ["seed", "--groups", "1", "--messages", "2", "--members", "200", "--until", UNTIL];
    let (code, _, err) = receiptd(&database, &seed);
    assert_eq!(code, 0, "{err}");
    let named = "SELECT max(members) > 100, max(members) = max(named)
        FROM receiptd.messages JOIN (
            SELECT msg_seq, count(DISTINCT member) AS named
            FROM (
                SELECT msg_seq, member FROM receiptd.member_reads UNION SELECT msg_seq, member FROM receiptd.members_not_read
            ) members GROUP BY msg_seq
        ) named USING (msg_seq)";
    assert_eq!(database.psql(named), "t|t");
}

#[tokio::test]
async fn a_seed_is_removed_and_nothing_else_is() {
    let database = seeded().await;
    database.psql(&format!("SELECT receiptd.watch_messages({APP}, 'real', ARRAY[1, 2])"));
    let (code, out, _) = receiptd(&database, &["seed", "--remove"]);
    assert!(code == 0 && out.starts_with("Removed the generated history: ") && out.ends_with(" rows.\n"), "{out}");
    let left = "SELECT (SELECT string_agg(group_id, ',') FROM receiptd.watched_groups),
        (SELECT count(*) FROM receiptd.watched_messages), (SELECT count(*) FROM receiptd.receipt_snapshots),
        (SELECT count(*) FROM receiptd.api_calls), (SELECT count(*) FROM receiptd.group_receipts_hourly)";
    assert_eq!(database.psql(left), "real|2|0|0|0");
    let (code, _, err) = receiptd(&database, &["seed", "--remove"]);
    assert!(code == 65 && err.contains("no generated history"), "{code} {err}");
    let (code, _, err) = receiptd(&database, &["seed", "--remove", "--groups", "3"]);
    assert!(code == 64 && err.contains("cannot be used with"), "{code} {err}");
}

#[tokio::test]
async fn a_seed_that_was_interrupted_begins_anew() {
    let database = seeded().await;
    let history = "SELECT count(*), sum(read_num), max(polled_at) FROM receiptd.receipt_history";
    let hours = "SELECT count(*), sum(reads_gained), min(hour), max(hour) FROM receiptd.hourly_receipts";
    let whole = [history, hours].map(|sql| database.psql(sql));
    // As Ctrl-C leaves it: some messages are missing, and nothing or not all is rolled up.
    for rolled_up in ["NULL", "'2026-11-19 12:00Z'"] {
        database.psql(&format!(
            "DELETE FROM receiptd.receipt_snapshots WHERE msg_seq > 3;
             TRUNCATE receiptd.group_receipts_hourly;
             UPDATE receiptd.poller_leases SET rolled_up_until = {rolled_up}"
        ));
        let seed = ["seed", "--groups", "2", "--messages", "12", "--days", "2", "--members", "9", "--until", UNTIL];
        let (code, out, err) = receiptd(&database, &seed);
        assert_eq!((code, err.as_str()), (0, "Removing the history of an interrupted seed ...\n"), "{out}");
        assert_eq!([history, hours].map(|sql| database.psql(sql)), whole);
    }
}

#[tokio::test]
async fn hours_are_rolled_up_again_on_demand() {
    let database = seeded().await;
    let hours = "SELECT to_jsonb(h) - 'updated_at' FROM receiptd.group_receipts_hourly h ORDER BY hour, group_key";
    let before = database.psql(hours);
    database.psql("DELETE FROM receiptd.group_receipts_hourly WHERE hour >= '2026-11-19Z'");
    let (code, out, _) = receiptd(&database, &["rollup", "--from", "2026-11-19", "--to", "2026-11-25"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("Rolled up 24 hours again"), "{out}");
    assert_eq!(database.psql(hours), before);
    let (code, _, err) = receiptd(&database, &["rollup", "--from", "2026-11-21"]);
    assert!(code != 0 && err.contains("nothing to do"), "{err}");
    database.psql("DROP TABLE receiptd_partitions.api_calls_20261118");
    let (code, out, _) = receiptd(&database, &["rollup", "--from", "2026-11-18"]);
    assert!(code == 0 && out.contains(" of them the snapshots or calls are no longer kept"), "{out}");
    assert_eq!(database.psql(hours), before, "what can't be made again stays");
}

#[tokio::test]
async fn what_is_left_is_rolled_up_on_demand() {
    let database = seeded().await;
    database.psql(
        "TRUNCATE receiptd.group_receipts_hourly;
         UPDATE receiptd.poller_leases SET rolled_up_until = '2026-11-19 12:00Z'",
    );
    let (code, out, _) = receiptd(&database, &["rollup"]);
    assert!(code == 0 && out.starts_with("Everything is rolled up until "), "{out}");
    assert_eq!(database.psql("SELECT min(hour) = '2026-11-19 12:00Z' FROM receiptd.group_receipts_hourly"), "t");
    let never = receiptd(&database, &["rollup", "--set", "chat.sdk_app_id=5"]);
    assert_eq!((never.0, never.1.as_str()), (0, "This app has never been polled: there is nothing to roll up.\n"));
}

#[tokio::test]
async fn retention_tells_what_would_go_before_anything_does() {
    let database = seeded().await;
    let partitions = "SELECT count(*) FROM pg_class WHERE relname ~ '_202611(17|18|19|20|21)$'";
    assert_eq!(database.psql(partitions), "8");
    let keep = ["--set", "retention.snapshots=1d", "--set", "retention.calls=1d"];
    let (code, out, _) = receiptd(&database, &[&["retention", "--dry-run"], &keep[..]].concat());
    assert_eq!(code, 0);
    assert!(
        out.starts_with(
            "Retention: snapshots after 1d, calls after 1d, roll-ups never, message days never, readers after 30d.\n"
        ),
        "{out}"
    );
    assert!(out.contains("receipt_snapshots_20261119   goes: ") && out.contains(" KiB"), "{out}");
    assert!(out.contains("Would drop ") && out.contains(" partitions ("), "{out}");
    assert_eq!(database.psql(partitions), "8", "nothing has gone");
    let (code, out, _) = receiptd(&database, &[&["retention"], &keep[..]].concat());
    assert!(code == 0 && out.contains("Dropped ") && out.contains(" partitions ("), "{out}");
    let left = database.psql(partitions);
    assert!(left.parse::<i32>().unwrap() < 8, "{left}");
    assert_eq!(database.psql("SELECT count(*) FROM receiptd.latest_receipts"), "12");
}

#[tokio::test]
async fn a_group_is_counted_and_forgotten_on_demand() {
    let database = seeded().await;
    let (code, out, _) = receiptd(&database, &["forget", "class-1", "--dry-run"]);
    let has_six = |line: &str| line.contains("receiptd.watched_messages ") && line.ends_with(" 6 rows");
    assert!(code == 0 && out.lines().any(has_six), "{out}");
    assert_eq!(database.psql("SELECT count(*) FROM receiptd.latest_receipts"), "12");
    let (code, out, _) = receiptd(&database, &["forget", "class-1"]);
    assert!(code == 0 && out.starts_with("Deleted ") && out.ends_with(" rows of group class-1.\n"), "{out}");
    assert_eq!(database.psql("SELECT count(*) FROM receiptd.latest_receipts"), "6");
    for again in [&["forget", "class-1"][..], &["forget", "class-1", "--dry-run"]] {
        let (code, _, err) = receiptd(&database, again);
        assert!(code != 0 && err.contains("this app has no data of group class-1"), "{err}");
    }
}

#[tokio::test]
async fn these_commands_need_the_schema_and_say_so() {
    let database = TestDatabase::new().await;
    for command in ["rollup", "retention", "seed", "forget"] {
        let arguments = if command == "forget" { &[command, "g"][..] } else { &[command] };
        let (code, _, err) = receiptd(&database, arguments);
        assert!(code != 0 && err.contains("run `receiptd migrate` first"), "{command}: {err}");
    }
}
