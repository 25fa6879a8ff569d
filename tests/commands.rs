//! Commands next to the daemon, from their users' view: their results for a database, and their exit codes. The real
//! binary, real PostgreSQL servers, no poller.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    process::{Command, Stdio},
};

use common::{ScratchDirectory, TestDatabase};
use serde_json::Value;

const APP: &str = "1400000000";

/// Commands that query the database and would find nothing in a new one.
const ASKING: [&[&str]; 10] = [
    &["status"],
    &["explain", "team"],
    &["plan"],
    &["rollup"],
    &["retention", "--dry-run"],
    &["forget", "g", "--dry-run"],
    &["export", "hourly"],
    &["watch", "list"],
    &["watch", "add", "team", "1"],
    &["seed", "--messages", "10"],
];

/// receiptd with nothing in its environment except the app and the path of its programs.
fn receiptd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap()).stdin(Stdio::null());
    command.env("RECEIPTD_CHAT__SDK_APP_ID", APP).env("RECEIPTD_HTTP__LISTEN", "off");
    command
}

/// Exit code, standard output and standard error.
fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn run_on(database: &TestDatabase, arguments: &[&str]) -> (i32, String, String) {
    run(receiptd(arguments).env("DATABASE_URL", database.url()))
}

/// A command's output for a database, as JSON.
fn json(database: &TestDatabase, arguments: &[&str]) -> Value {
    let (_, out, err) = run_on(database, &[arguments, &["--json"]].concat());
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"))
}

async fn migrated() -> TestDatabase {
    let database = TestDatabase::new().await;
    assert_eq!(run_on(&database, &["migrate"]).0, 0);
    database
}

/// A daemon that polls, according to the database, and its last call.
fn polled(database: &TestDatabase, class: &str, code: i64, error: &str) {
    database.psql(&format!(
        "SELECT receiptd.watch_messages({APP}, 'team', array[1]);
         INSERT INTO receiptd.poller_leases (sdk_app_id, holder, epoch, acquired_at, expires_at)
         VALUES ({APP}, 'vm part 1 process 7 started 1 in pid:[1] boot b', 1, now(), now() + interval '1 hour');
         INSERT INTO receiptd.api_calls (called_at, group_key, attempt, messages_asked, messages_answered, entries_bad, class,
            code, latency_ms, error)
         SELECT now(), group_key, 1, 1, 0, 0, '{class}', {code}, 12, nullif('{error}', '') FROM receiptd.watched_groups"
    ));
}

#[test]
fn no_command_that_asks_makes_a_private_database() {
    let place = ScratchDirectory::new("no-private");
    for arguments in ASKING {
        let (code, out, err) = run(receiptd(arguments).env("STATE_DIRECTORY", place.path()));
        assert_eq!((code, out.as_str(), err.lines().count()), (78, "", 1), "{arguments:?}: {err}");
        let missing =
            format!("there is no private PostgreSQL at {}/postgres: `receiptd run` starts one", place.path().display());
        for part in [missing.as_str(), "LoadCredential=database.url:receiptd.database.url receiptd"] {
            assert!(err.contains(part), "{arguments:?}: {part} is not in {err}");
        }
    }
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn migrate_makes_a_private_database_and_others_open_it() {
    let place = ScratchDirectory::new("private");
    let run = |arguments: &[&str]| run(receiptd(arguments).env("STATE_DIRECTORY", place.path()));
    let (code, out, err) = run(&["migrate"]);
    assert!(code == 0 && out.contains("was created"), "{out}{err}");
    assert_eq!(run(&["seed", "--groups", "2", "--messages", "10", "--days", "1"]).0, 0);
    let (code, out, err) = run(&["watch", "list"]);
    assert!(code == 0 && out.lines().count() >= 2, "{out}{err}");
}

#[test]
fn check_minds_a_private_database_that_is_not_there() {
    let place = ScratchDirectory::new("check-private");
    let mut command = receiptd(&["check", "--json"]);
    command.env("STATE_DIRECTORY", place.path()).env("RECEIPTD_CHAT__SECRET_KEY", "k");
    let (_, out, err) = run(command.env("RECEIPTD_CHAT__ENDPOINT", "http://127.0.0.1:1"));
    let answer: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"));
    let findings = answer["findings"].as_array().unwrap();
    let database = findings.iter().find(|finding| finding["check"] == "database").unwrap();
    assert_eq!(database["verdict"], "warning");
    assert!(database["found"].to_string().contains("there is no private PostgreSQL"), "{database}");
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn an_unreachable_database_is_named_once_without_its_password() {
    for arguments in ASKING.into_iter().chain([&["migrate"][..]]) {
        let mut command = receiptd(arguments);
        let (code, out, err) = run(command.env("DATABASE_URL", "postgres://me:canary@127.0.0.1:1/history"));
        assert_eq!((code, out.as_str()), (69, ""), "{err}");
        assert_eq!(
            err,
            "receiptd: connecting to postgres://me:***@127.0.0.1:1/history: reading the schema version of receiptd \
             failed: Connection refused (os error 111): is it running, and can this machine reach it?\n"
        );
    }
}

#[tokio::test]
async fn missing_privileges_are_reported_in_the_words_of_the_server() {
    let database = migrated().await;
    database.psql("CREATE ROLE bystander LOGIN");
    let (code, _, err) =
        run(receiptd(&["status"]).env("DATABASE_URL", database.url().replace("postgres@", "bystander@")));
    assert_eq!(code, 69, "{err}");
    assert!(err.contains("permission denied") && err.contains("has to own the schema"), "{err}");
    assert!(!err.contains("at line") && err.matches("permission denied").count() == 1, "{err}");
    let empty = TestDatabase::new().await;
    let (code, _, err) =
        run(receiptd(&["migrate"]).env("DATABASE_URL", empty.url().replace("postgres@", "bystander@")));
    assert_eq!(code, 69, "{err}");
    assert!(
        err.starts_with("receiptd: using postgres://bystander@") && err.contains("GRANT CREATE ON DATABASE"),
        "{err}"
    );
    assert!(!err.contains("at line") && err.matches("permission denied").count() == 1, "{err}");
}

#[tokio::test]
async fn every_command_rejects_a_missing_old_or_newer_schema() {
    let database = TestDatabase::new().await;
    for arguments in ASKING {
        let (code, _, err) = run_on(&database, arguments);
        assert!(code == 78 && err.contains("run `receiptd migrate` first"), "{arguments:?}: {code} {err}");
    }
    assert_eq!(run_on(&database, &["migrate"]).0, 0);
    let newest = database.psql("SELECT max(version) FROM receiptd.schema_migrations");
    database.psql(&format!("UPDATE receiptd.schema_migrations SET success = false WHERE version = {newest}"));
    for arguments in ASKING {
        let (code, _, err) = run_on(&database, arguments);
        assert!(code == 78 && err.contains("run `receiptd migrate` first"), "{arguments:?}: {code} {err}");
    }
    database.psql("INSERT INTO receiptd.schema_migrations VALUES (9999, 'from the future', now(), true, '', 0)");
    for arguments in ASKING.into_iter().chain([&["migrate"][..]]) {
        let (code, _, err) = run_on(&database, arguments);
        assert!(code == 78 && err.contains("newer receiptd"), "{arguments:?}: {code} {err}");
    }
}

#[tokio::test]
async fn a_reader_exports_without_access_to_the_schema_version() {
    let database = migrated().await;
    database.psql("CREATE ROLE receiptd_reader NOLOGIN; CREATE ROLE analyst LOGIN; GRANT receiptd_reader TO analyst");
    assert_eq!(run_on(&database, &["migrate"]).0, 0);
    let url = database.url().replace("postgres@", "analyst@");
    let (code, _, err) = run(receiptd(&["export", "hourly"]).env("DATABASE_URL", url));
    assert_eq!((code, err.as_str()), (0, "Exported 0 rows.\n"));
}

#[tokio::test]
async fn status_counts_new_messages_that_nobody_polls() {
    let database = migrated().await;
    database.psql(&format!(
        "SELECT receiptd.watch_messages({APP}, 'team', array(SELECT generate_series(1, 1200)::bigint))"
    ));
    let (_, out, _) = run_on(&database, &["status"]);
    assert!(out.contains("due         1,200 new messages waiting for a poller\n"), "{out}");
    assert_eq!(json(&database, &["status"])["database"]["unslotted"], 1_200);
}

#[tokio::test]
async fn commands_report_a_refused_app_first_with_its_remedy() {
    let database = migrated().await;
    polled(&database, "app_fault", 70009, "the signature is wrong");
    let said = "Tencent Chat refuses the app's calls with code 70009: the signature is wrong: the signature is wrong: check \
                chat.secret_key, chat.sdk_app_id and chat.identifier";
    let (_, out, _) = run_on(&database, &["explain", "team", "1"]);
    assert!(out.starts_with(&format!("No message of this app is being polled: {said}.\n")), "{out}");
    assert_eq!(json(&database, &["explain", "team"])["trouble"], said);
    let (_, out, _) = run_on(&database, &["status"]);
    assert!(
        out.contains(&format!("trouble     {said}\n")) && out.contains("polled by   vm (process 7), for "),
        "{out}"
    );
    assert_eq!(json(&database, &["status"])["trouble"], said);
    assert!(json(&database, &["status"])["database"]["holder"].to_string().contains("boot b"), "whole for programs");
}

#[tokio::test]
async fn check_beside_a_daemon_makes_no_call_and_shows_its_last_one() {
    let database = migrated().await;
    let check = || {
        let mut command = receiptd(&["check"]);
        // Nobody listens there: a call would fail.
        command.env("RECEIPTD_CHAT__SECRET_KEY", "k").env("RECEIPTD_CHAT__ENDPOINT", "http://127.0.0.1:1");
        run(command.env("DATABASE_URL", database.url()))
    };
    let (code, out, _) = check();
    assert_eq!(code, 69);
    assert!(
        out.contains("Failed: connection: http://127.0.0.1:1") && out.contains(": is port 1 reachable?\n"),
        "{out}"
    );
    assert!(out.contains("Failed: service: http://127.0.0.1:1 does not answer like Tencent Chat"), "{out}");
    assert!(!out.contains("see the error codes"), "there was no refusal: {out}");
    polled(&database, "success", 0, "");
    let (_, out, _) = check();
    assert!(
        out.contains("Ok: service: http://127.0.0.1:1 accepts the signature, in the last call of vm (process 7), "),
        "{out}"
    );
    assert!(out.contains("Ok: lease: held by vm (process 7)\n"), "{out}");
    // The lease is over, by the database's clock: its last call says nothing about the present.
    database.psql("UPDATE receiptd.poller_leases SET expires_at = now() - interval '1 second'");
    let (_, out, _) = check();
    assert!(out.contains("Failed: service") && out.contains("Ok: lease: free"), "{out}");
}

#[tokio::test]
async fn check_names_the_role_that_owns_the_schema() {
    let database = migrated().await;
    database.psql("CREATE ROLE stranger LOGIN");
    let mut command = receiptd(&["check", "--json"]);
    command.env("RECEIPTD_CHAT__SECRET_KEY", "k").env("RECEIPTD_CHAT__ENDPOINT", "http://127.0.0.1:1");
    let (_, out, _) = run(command.env("DATABASE_URL", database.url().replace("postgres@", "stranger@")));
    let answer: Value = serde_json::from_str(&out).unwrap();
    let findings = answer["findings"].as_array().unwrap();
    let rights = findings.iter().find(|finding| finding["check"] == "rights").unwrap();
    assert_eq!(rights["remedy"], "Connect as postgres (the user in database.url), or make stranger the owner", "{out}");
}

#[tokio::test]
async fn plan_counts_messages_without_a_slot_by_their_future_calls() {
    let database = migrated().await;
    let plan = || {
        let tiers = "cadence.default.tiers=[{ until = \"30d\", every = \"10m\" }]";
        let plan = json(&database, &["plan", "--hours", "1", "--set", tiers]);
        plan["hours"][0]["calls_per_second"].as_f64().unwrap() * 3_600.0
    };
    assert_eq!(plan(), 0.0);
    // 51 and 1 messages of two groups, 50 in a call: three calls, one in ten minutes.
    let watch = "array(SELECT generate_series(1, 51)::bigint), sent_at => now() - interval '5 hours'";
    database.psql(&format!("SELECT receiptd.watch_messages({APP}, 'team', {watch})"));
    database.psql(&format!(
        "SELECT receiptd.watch_messages({APP}, 'else', array[1], sent_at => now() - interval '5 hours')"
    ));
    assert!((plan() - 18.0).abs() < 1e-6, "{}", plan());
}

#[tokio::test]
async fn plan_assumes_no_new_messages_and_shows_the_last_day() {
    let database = migrated().await;
    let watch = |group: &str, count: u32, age: &str| {
        let seqs = format!("array(SELECT generate_series(1, {count})::bigint)");
        let sent_at = format!("now() - interval '{age}'");
        database.psql(&format!("SELECT receiptd.watch_messages({APP}, '{group}', {seqs}, sent_at => {sent_at})"));
    };
    watch("team", 2_400, "2 hours");
    watch("else", 100, "23 hours");
    watch("old", 5_000, "25 hours");
    let (_, out, _) = run_on(&database, &["plan"]);
    assert!(
        out.contains(
            "No new messages are assumed. In the last 24 hours there were 105 new messages per hour in 2 groups: to plan \
                      with as many, add --more-messages 105 --in-groups 2.\n"
        ),
        "{out}"
    );
    let plan = json(&database, &["plan"]);
    assert_eq!(
        (&plan["assumed"], &plan["last_day"]),
        (&Value::Null, &serde_json::json!({ "messages": 2_500, "groups": 2 }))
    );
    let more = json(&database, &["plan", "--more-messages", "105", "--in-groups", "2"]);
    assert_eq!(more["assumed"]["messages_per_hour"], 105);
}

#[tokio::test]
async fn a_roll_up_from_before_the_history_begins_with_it() {
    let database = migrated().await;
    polled(&database, "success", 0, "");
    // In one transaction, which has one time, so that the test holds also when an hour ends.
    database.psql(
        "UPDATE receiptd.api_calls SET called_at = date_trunc('hour', now());
         UPDATE receiptd.poller_leases SET rolled_up_until = date_trunc('hour', now()) + interval '1 hour'",
    );
    let (code, out, err) = run_on(&database, &["rollup", "--from", "400d"]);
    assert!(code == 0 && out.starts_with("Rolled up 1 hour again"), "{code} {out}{err}");
}
