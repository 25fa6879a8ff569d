//! What systemd and journald receive.

use std::{fs, fs::File, os::unix::fs::MetadataExt, process::Command};

use sqlx::PgPool;

use crate::{
    common::{ScratchDirectory, TestDatabase},
    harness::{Harness, end, migrate, signal, watch},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systemd_hears_what_is_polled_and_that_the_loop_turns() {
    let (place, database) = (Harness::new("status", 200).await, TestDatabase::new().await);
    migrate(&database);
    watch(&PgPool::connect(&database.url()).await.unwrap(), 3, 3).await;
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    place.hears_of(|line| line.starts_with("STATUS=polling 9 messages in 3 groups, ") && line.ends_with(" s behind"));
    // One at the start would show nothing.
    place.hears("WATCHDOG=1");
    place.hears("WATCHDOG=1");
    signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_systemd_that_does_not_listen_holds_up_nothing() {
    let (place, database) = (Harness::new("deaf", 200).await, TestDatabase::new().await);
    let daemon = place.spawn_with(Some(&database), &[("WATCHDOG_USEC", "4000")]);
    place.hears("READY=1");
    watch(&PgPool::connect(&database.url()).await.unwrap(), 1, 1).await;
    // Fed every millisecond, the socket is full long before this: it holds some tens of messages.
    place.simulator.wait_for_ended_calls(4).await;
    signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_systemd_that_is_not_there_is_said_once_in_words() {
    let (place, database) = (Harness::new("nobody", 200).await, TestDatabase::new().await);
    migrate(&database);
    watch(&PgPool::connect(&database.url()).await.unwrap(), 1, 1).await;
    // Ready, alive ten times a second and stopping: all of that can't be sent.
    let variables = [("NOTIFY_SOCKET", "/nowhere/notify"), ("WATCHDOG_USEC", "400000")];
    let daemon = place.spawn_with(Some(&database), &variables);
    place.simulator.wait_for_ended_calls(4).await;
    signal(&daemon, "-TERM");
    let (code, said) = end(daemon);
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("systemd can't be notified")).collect();
    assert_eq!((code, lines.len()), (Some(0), 1), "{said}");
    assert!(lines[0].contains("NOTIFY_SOCKET") && lines[0].contains("No such file"), "{said}");
}

#[test]
fn journald_gets_why_it_ends_as_an_error_in_each_line() {
    let directory = ScratchDirectory::new("journal");
    let journal = File::create(directory.path().join("journal")).unwrap();
    let metadata = journal.metadata().unwrap();
    let stream = format!("{}:{}", metadata.dev(), metadata.ino());
    for arguments in [
        ["run", "--set", "polling.batch_size=many", "--set", "http.listen=here"].as_slice(),
        &["run", "--set", "chat.sdk_app_id=1", "--set", "chat.secret_key_file=/nowhere/key"],
        &["run", "--walk"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
        command.args(arguments).env("JOURNAL_STREAM", &stream).stderr(journal.try_clone().unwrap());
        let code = command.status().unwrap().code().unwrap();
        assert!([64, 78].contains(&code), "{code}");
    }
    let said = fs::read_to_string(directory.path().join("journal")).unwrap();
    assert!(said.lines().count() > 5 && said.lines().all(|line| line.starts_with("<3>")), "{said}");
}
