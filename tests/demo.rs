//! `receiptd demo` and `receiptd simulate` from a newcomer's view.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, ChildStdout, Command, Stdio},
};

use common::ScratchDirectory;

fn start(directory: &ScratchDirectory, arguments: &[&str]) -> Child {
    start_with(directory, arguments, &[])
}

fn start_with(directory: &ScratchDirectory, arguments: &[&str], variables: &[(&str, &str)]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    // The data directory of the demo's server.
    command.env("STATE_DIRECTORY", directory.path().join("state"));
    command.envs(variables.iter().copied());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn interrupt(child: &Child, signal: &str) {
    assert!(Command::new("kill").arg(signal).arg(child.id().to_string()).status().unwrap().success());
}

fn rest(child: Child) -> (Option<i32>, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn no_server_is_left(directory: &ScratchDirectory) -> bool {
    !directory.path().join("state/demo/cluster/postmaster.pid").exists()
}

#[test]
fn the_demo_ends_after_its_time_with_a_summary_twice_in_a_row() {
    let directory = ScratchDirectory::new("demo");
    for _ in 0..2 {
        let (code, out, err) = rest(start(&directory, &["demo", "--for", "4s"]));
        assert_eq!(code, Some(0), "{out}{err}");
        for words in [
            "psql",
            "Its status page is http://127.0.0.1:",
            "FROM receiptd.latest_receipts",
            "calls/s",
            "calls in any second",
            "different counts; all ",
            "Discovery watched ",
            "Webhooks told ",
            " were saved.",
        ] {
            assert!(out.contains(words), "{words:?} is missing in:\n{out}");
        }
        assert!(!out.contains('\u{1b}') && !err.contains('\u{1b}'), "no escape codes off a terminal");
        assert!(no_server_is_left(&directory));
    }
}

/// The demo, its output from then on, and the psql command that it has printed.
fn invited(directory: &ScratchDirectory, arguments: &[&str]) -> (Child, BufReader<ChildStdout>, String) {
    invited_to(start(directory, arguments))
}

fn invited_to(mut demo: Child) -> (Child, BufReader<ChildStdout>, String) {
    let mut out = BufReader::new(demo.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("psql ") {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "the demo ended before it printed how to open psql");
    }
    (demo, out, line.trim().to_owned())
}

/// Runs SQL with that command.
fn query(psql: &str, sql: &str) -> String {
    let script = format!("PGTZ=UTC {psql} -X -q -A -t -v ON_ERROR_STOP=1 -c \"$1\"");
    let output = Command::new("sh").args(["-c", &script, "psql", sql]).output().unwrap();
    assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Waits until a call is stored.
fn until_called(psql: &str) {
    while query(psql, "SELECT count(*) FROM receiptd.api_calls") == "0" {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn the_queries_that_the_demo_prints_have_results() {
    let directory = ScratchDirectory::new("demo");
    let (demo, mut out, psql) = invited(&directory, &["demo"]);
    let mut printed = String::new();
    while !printed.contains("calls/s") {
        assert!(out.read_line(&mut printed).unwrap() > 0, "the demo ended: {printed}");
    }
    let queries: String = printed.lines().filter(|line| line.starts_with("  ")).collect();
    let queries: Vec<&str> = queries.split(';').filter(|query| query.contains("SELECT")).collect();
    assert_eq!(queries.len(), 3, "{printed}");
    // The first answers take a moment.
    while query(&psql, "SELECT count(*) FROM receiptd.receipt_snapshots WHERE msg_seq = 1 AND code = 0") == "0" {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let first = query(&psql, queries[0]);
    assert!(!first.is_empty() && first.lines().all(|line| !line.contains("||")), "{first}");
    assert!(!query(&psql, queries[2]).is_empty());
    interrupt(&demo, "-INT");
    out.read_to_string(&mut printed).unwrap();
    assert_eq!(rest(demo).0, Some(0), "{printed}");
}

#[test]
fn a_seeded_demo_answers_the_cookbook_until_it_is_stopped() {
    let directory = ScratchDirectory::new("demo");
    let (demo, mut out, psql) = invited(&directory, &["demo", "--seed"]);
    let mut printed = String::new();
    while !printed.contains("Ctrl-C") {
        assert!(out.read_line(&mut printed).unwrap() > 0, "the demo ended: {printed}");
    }
    let queries: String = printed.lines().filter(|line| line.starts_with("  SELECT")).collect();
    for sql in queries.replace("\\gx", ";").split(';').filter(|query| query.contains("SELECT")) {
        assert!(!query(&psql, sql).is_empty(), "{sql}");
    }
    // As in docs/analysts.md.
    let states = query(&psql, "SELECT state, count(*) FROM receiptd.latest_receipts GROUP BY state ORDER BY state");
    assert_eq!(states, "active|233\nall_read|7");
    assert_eq!(query(&psql, "SELECT count(*) > 0 FROM receiptd.group_engagement WHERE read_rate_7d > 0"), "t");
    interrupt(&demo, "-INT");
    out.read_to_string(&mut printed).unwrap();
    let (code, _, err) = rest(demo);
    assert_eq!(code, Some(0), "{printed}{err}");
    assert!(no_server_is_left(&directory));
}

#[test]
fn the_demo_calls_its_service_past_any_proxy_of_the_environment() {
    let directory = ScratchDirectory::new("demo");
    let proxies = ["http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"].map(|name| (name, "http://127.0.0.1:1"));
    let (demo, mut out, psql) = invited_to(start_with(&directory, &["demo"], &proxies));
    until_called(&psql);
    interrupt(&demo, "-INT");
    let mut told = String::new();
    out.read_to_string(&mut told).unwrap();
    let (code, _, err) = rest(demo);
    assert_eq!(code, Some(0), "{told}{err}");
    assert!(told.contains("calls, 0 of which failed") && told.contains("different counts; all "), "{told}");
}

#[test]
fn a_demo_of_which_no_call_succeeds_says_why_and_fails() {
    let directory = ScratchDirectory::new("demo");
    let (demo, mut out, psql) = invited(&directory, &["demo"]);
    // As an unreachable service would leave it.
    let fail = "CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN NEW.class := 'retry'; NEW.code := NULL; NEW.error := 'connection failed'; RETURN NEW; END $$;
        CREATE TRIGGER fail BEFORE INSERT OR UPDATE ON receiptd.api_calls FOR EACH ROW EXECUTE FUNCTION public.fail();
        UPDATE receiptd.api_calls SET class = class";
    query(&psql, fail);
    until_called(&psql);
    interrupt(&demo, "-INT");
    let mut told = String::new();
    out.read_to_string(&mut told).unwrap();
    let (code, _, err) = rest(demo);
    assert_eq!(code, Some(70), "{told}{err}");
    assert!(
        err.contains("no call to the simulated Chat succeeded; the last one failed with retry: connection failed"),
        "{err}"
    );
    assert!(no_server_is_left(&directory));
}

#[test]
fn an_interrupted_demo_ends_cleanly_and_refuses_a_second_one() {
    let directory = ScratchDirectory::new("demo");
    let mut demo = start(&directory, &["demo"]);
    let mut out = BufReader::new(demo.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("calls/s") {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "the demo ended before it showed anything");
    }
    let (code, _, err) = rest(start(&directory, &["demo", "--for", "1s"]));
    assert!(code != Some(0) && err.contains("in use"), "{code:?} {err}");
    interrupt(&demo, "-INT");
    let mut told = String::new();
    out.read_to_string(&mut told).unwrap();
    let (code, _, err) = rest(demo);
    assert_eq!(code, Some(0), "{told}{err}");
    assert!(told.contains("different counts; all "), "{told}");
    assert!(no_server_is_left(&directory));
}

#[tokio::test]
async fn a_simulated_chat_is_served_until_it_is_told_to_stop() {
    let directory = ScratchDirectory::new("simulate");
    let settings = directory.path().join("receiptd.toml");
    let text = "[chat]\nsdk_app_id = 1400000000\nsecret_key = \"canary-77\"\n[webhooks]\nlisten = \"127.0.0.1:1\"\n\
        path = \"/canary-path\"\ntoken = \"canary-token-of-thirty-two-letters\"\n";
    std::fs::write(&settings, text).unwrap();
    let mut simulate =
        start(&directory, &["simulate", "--listen", "127.0.0.1:0", "--config", settings.to_str().unwrap()]);
    let mut out = BufReader::new(simulate.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let endpoint =
        line.split(' ').find(|word| word.starts_with("http://")).unwrap().trim_end_matches(['.', '\n']).to_owned();
    _ = rustls::crypto::ring::default_provider().install_default();
    let ledger = reqwest::get(format!("{endpoint}/simulator/ledger")).await.unwrap();
    assert!(ledger.status().is_success());
    interrupt(&simulate, "-TERM");
    let mut told = String::new();
    out.read_to_string(&mut told).unwrap();
    let (code, _, err) = rest(simulate);
    assert_eq!(code, Some(0), "{told}{err}");
    assert!(told.contains("sends webhooks to 127.0.0.1:1,"), "{told}");
    assert!(told.contains("0 calls arrived") && !told.contains("canary"), "{told}");
}

#[test]
fn a_simulated_chat_refuses_an_address_that_others_can_reach() {
    let directory = ScratchDirectory::new("simulate");
    let settings = directory.path().join("receiptd.toml");
    std::fs::write(&settings, "[chat]\nsdk_app_id = 1\nsecret_key = \"k\"\n").unwrap();
    let (code, _, err) =
        rest(start(&directory, &["simulate", "--listen", "0.0.0.0:0", "--config", settings.to_str().unwrap()]));
    assert!(code != Some(0) && err.contains("loopback"), "{code:?} {err}");
}
