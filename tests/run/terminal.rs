//! The program on a terminal, made by script(1).

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use crate::{
    common::TestDatabase,
    harness::{Harness, end, migrate, signal},
};

/// Runs a command on a terminal of this kind.
fn on_terminal(term: &str, place: &Harness, database: &TestDatabase, command: &str) -> Child {
    let command = format!("{} {command} --config {}", env!("CARGO_BIN_EXE_receiptd"), place.write_config().display());
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--command", &command, "/dev/null"]);
    terminal.env("TERM", term).env("DATABASE_URL", database.url()).env("NOTIFY_SOCKET", place.path("notify"));
    terminal.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_redrawn_on_a_dumb_terminal() {
    let (place, database) = (Harness::new("dumb", 200).await, TestDatabase::new().await);
    migrate(&database);
    for (term, is_redrawn) in [("dumb", false), ("xterm", true)] {
        let mut terminal = on_terminal(term, &place, &database, "status --watch");
        let mut lines = BufReader::new(terminal.stdout.take().unwrap()).lines().map(Result::unwrap);
        let page: Vec<_> = lines.by_ref().take_while(|line| !line.contains("set aside")).collect();
        assert!(page.iter().any(|line| line.contains("app 1400000000")), "{page:?}");
        assert_eq!(page.iter().any(|line| line.contains('\u{1b}')), is_redrawn, "on {term}: {page:?}");
        signal(&terminal, "-TERM");
        lines.for_each(drop);
        end(terminal);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_stops_when_its_terminal_closes() {
    let (place, database) = (Harness::new("closed", 200).await, TestDatabase::new().await);
    let terminal = on_terminal("xterm", &place, &database, "run");
    place.hears("READY=1");
    signal(&terminal, "-KILL");
    place.hears("STOPPING=1");
    end(terminal);
}
