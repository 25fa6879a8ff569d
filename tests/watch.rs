//! `receiptd watch` from its users' view: the real binary, a real PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
};

use common::{ScratchDirectory, TestDatabase};

/// receiptd with this database and this standard input.
fn receiptd(database: &TestDatabase, arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_receiptd"))
        .args(arguments)
        .env_clear()
        .env("DATABASE_URL", database.url())
        .env("RECEIPTD_CHAT__SDK_APP_ID", "1400000000")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command that does not read its input closes it.
    _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

async fn migrated() -> TestDatabase {
    let database = TestDatabase::new().await;
    assert_eq!(receiptd(&database, &["migrate"], "").0, 0);
    database
}

fn watched(database: &TestDatabase) -> String {
    database.psql("SELECT group_id, count(*) FILTER (WHERE m.state = 'active') FROM receiptd.watched_groups LEFT JOIN receiptd.watched_messages m USING (group_key) GROUP BY 1 ORDER BY 1").trim().to_owned()
}

#[tokio::test]
async fn messages_are_added_paused_resumed_removed_and_listed() {
    let database = migrated().await;
    let run = |arguments: &[&str]| receiptd(&database, &[&["watch"], arguments].concat(), "");
    let (code, out, err) = run(&["add", "team room", "1-50", "7", "99", "--type", "Work", "--sent-at", "2h"]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "Added 51 messages of team room (0 already watched).\n", ""));
    assert!(run(&["add", "team room", "99-100"]).1.starts_with("Added 1 message of team room (1 already watched)."));
    let age = database.psql("SELECT extract(hour FROM now() - min(sent_at)), min(group_type) FROM receiptd.watched_messages JOIN receiptd.watched_groups USING (group_key)");
    assert_eq!(age.trim(), "2|Private");
    assert_eq!(run(&["pause", "team room"]).1, "team room is paused.\n");
    assert_eq!(run(&["pause", "team room"]).1, "team room is unchanged: paused.\n");
    assert!(
        run(&["list"]).1.contains(
            "team room                        paused       default      owner     off            52         0"
        )
    );
    assert_eq!(run(&["resume", "team room"]).1, "team room is polled again.\n");
    assert_eq!(run(&["remove", "team room", "1-40"]).1, "Removed 40 messages of team room.\n");
    let (_, listed, _) = run(&["list", "team room", "--state", "active", "--json"]);
    assert_eq!(listed.lines().count(), 12);
    let first: serde_json::Value = serde_json::from_str(listed.lines().next().unwrap()).unwrap();
    assert_eq!((first["msg_seq"].as_i64(), first["state"].as_str()), (Some(41), Some("active")));
    assert_eq!(run(&["remove", "team room"]).1, "Removed 12 messages of team room.\n");
    assert_eq!(run(&["list"]).1.lines().count(), 1, "what is removed is not listed");
    assert_eq!(run(&["list", "--state", "removed"]).1.lines().count(), 2);
}

#[tokio::test]
async fn labels_come_from_the_command_line_and_from_columns_of_a_file() {
    let database = migrated().await;
    let run = |arguments: &[&str], input| receiptd(&database, &[&["watch"], arguments].concat(), input);
    let add = ["add", "g", "1-2", "--label", "kind=poll", "--label", "arm=A", "--group-label", "branch=north"];
    assert_eq!(run(&add, "").0, 0);
    let (code, out, err) = run(&["import"], "group_id,msg_seq,label.arm\ng,1,B\ng,2,\ng,3,C\n");
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (0, "Added 1 message (2 already watched). Bad lines: 0 of 3.\n", "")
    );
    assert_eq!(run(&["add", "g", "2", "--label", "arm="], "").0, 0);
    assert_eq!(
        database.psql("SELECT msg_seq, labels, group_labels FROM receiptd.messages ORDER BY msg_seq"),
        r#"1|{"arm": "B", "kind": "poll"}|{"branch": "north"}
2|{"kind": "poll"}|{"branch": "north"}
3|{"arm": "C"}|{"branch": "north"}"#
    );
    let (_, listed, _) = run(&["list"], "");
    assert!(listed.lines().nth(1).unwrap().ends_with("  branch=north"), "{listed}");
    let (_, listed, _) = run(&["list", "g"], "");
    assert!(listed.lines().nth(1).unwrap().ends_with("  arm=B, kind=poll"), "{listed}");
    let (_, listed, _) = run(&["list", "g", "--json"], "");
    assert!(listed.lines().next().unwrap().contains(r#""labels":{"arm":"B","kind":"poll"}"#), "{listed}");
    for (arguments, why) in [
        (&["add", "g", "1", "--label", "arm"][..], "use NAME=VALUE"),
        (&["add", "g", "--label", "arm=A"], "use --group-label"),
    ] {
        let (code, _, err) = run(arguments, "");
        assert!(code == 64 && err.contains(why), "{code} {err}");
    }
}

#[tokio::test]
async fn groups_without_receipts_or_not_watched_are_refused() {
    let database = migrated().await;
    let run = |arguments: &[&str]| receiptd(&database, &[&["watch"], arguments].concat(), "");
    for (arguments, reason) in [
        (&["add", "@TGS#_abc", "1"][..], "no read receipts"),
        (&["add", "g", "1", "--type", "AVChatRoom"], "an AVChatRoom"),
        (&["add", "g", "0"], "message seq"),
    ] {
        let (code, _, err) = run(arguments);
        assert!(code == 64 && err.contains(reason), "{code} {err}");
    }
    for arguments in [&["pause", "nobody"][..], &["resume", "nobody"], &["remove", "nobody"], &["list", "nobody"]] {
        let (code, _, err) = run(arguments);
        assert!(code == 65 && err.contains("nobody is not on the watch list"), "{code} {err}");
    }
    let (code, _, err) = run(&["add", "g", "1", "--cadence", "evenings"]);
    assert!(code == 0 && err.contains("cadence evenings is not configured"), "{code} {err}");
    assert_eq!(watched(&database), "g|1");
}

#[tokio::test]
async fn a_database_without_the_schema_says_what_to_do() {
    let database = TestDatabase::new().await;
    let (code, _, err) = receiptd(&database, &["watch", "list"], "");
    assert!(code == 78 && err.contains("run `receiptd migrate` first"), "{code} {err}");
}

#[tokio::test]
async fn an_import_adds_good_lines_reports_bad_ones_and_exits_with_65() {
    let database = migrated().await;
    let csv = "group_id,msg_seq,sent_at\na,1,2026-11-01T00:00:00Z\na,2,\n@TGS#_x,1,\nb,zero,\na,1,2026-11-01T00:00:00Z\n\"b, c\",3,1763884800\n";
    let (code, out, err) = receiptd(&database, &["watch", "import"], csv);
    assert_eq!(code, 65, "{err}");
    assert_eq!(out, "Added 3 messages (1 already watched). Bad lines: 2 of 6.\n");
    assert!(
        err.contains("line 4: group \"@TGS#_x\" is a Community") && err.contains("line 5: message seq \"zero\""),
        "{err}"
    );
    assert_eq!(watched(&database), "a|2\nb, c|1");
    assert_eq!(database.psql("SELECT min(sent_at) FROM receiptd.watched_messages").trim(), "2025-11-23 08:00:00+00");
    let (code, out, _) = receiptd(&database, &["watch", "import"], "a,1\na,2\n");
    assert_eq!((code, out.as_str()), (0, "Added 0 messages (2 already watched). Bad lines: 0 of 2.\n"));
}

#[tokio::test]
async fn a_foreign_file_or_a_far_future_time_is_refused_whole() {
    let database = migrated().await;
    for (csv, why) in
        [("group_id;msg_seq\na;1\n", "separated by semicolons"), ("group,seq\na,1\n", "neither a message")]
    {
        let (code, out, err) = receiptd(&database, &["watch", "import"], csv);
        assert!(code == 65 && out.is_empty() && err.contains(why) && !err.contains("are stored"), "{code} {err}");
    }
    let (code, _, err) = receiptd(&database, &["watch", "add", "a", "1", "--sent-at", "2199-01-01"], "");
    assert!(code == 64 && err.contains("more than a day in the future"), "{code} {err}");
    assert_eq!(watched(&database), "");
    let (code, out, _) = receiptd(&database, &["watch", "import"], "msg_seq, group_id\r101, 10086\r102, 10086\r");
    assert!(code == 0 && out.starts_with("Added 2 messages (0 already watched)"), "{code} {out}");
    assert_eq!(watched(&database), "10086|2");
}

#[tokio::test]
async fn what_was_closed_or_removed_is_active_again_after_an_import() {
    let database = migrated().await;
    receiptd(&database, &["watch", "import"], "a,1\na,2\nb,1\n");
    receiptd(&database, &["watch", "remove", "a"], "");
    let (_, out, _) = receiptd(&database, &["watch", "import"], "a,1,2026-01-01T00:00:00Z\nb,1\n");
    assert!(out.starts_with("Added 1 message (1 already watched)"), "{out}");
    assert_eq!(watched(&database), "a|1\nb|1");
    let again = "SELECT g.state, m.sent_at, m.closed_at IS NULL FROM receiptd.watched_messages m JOIN receiptd.watched_groups g USING (group_key) WHERE group_id = 'a' AND msg_seq = 1";
    assert_eq!(database.psql(again).trim(), "active|2026-01-01 00:00:00+00|t");
}

#[tokio::test]
async fn concurrent_imports_of_many_groups_add_each_message_once() {
    let database = migrated().await;
    let directory = ScratchDirectory::new("import");
    let lines: Vec<String> = (0..30_000).map(|line| format!("group {},{}\n", line % 700, line / 700 + 1)).collect();
    let reversed: String = lines.iter().rev().cloned().collect();
    let files = [lines.concat(), reversed].map(|text| {
        let path = directory.path().join(format!("{}.csv", text.len() + usize::from(text.starts_with("group 0,"))));
        fs::write(&path, text).unwrap();
        path.display().to_string()
    });
    let imports: Vec<_> = std::thread::scope(|scope| {
        let run = |file: &String| receiptd(&database, &["watch", "import", file], "");
        let started: Vec<_> = files.iter().chain(&files).map(|file| scope.spawn(move || run(file))).collect();
        started.into_iter().map(|import| import.join().unwrap()).collect()
    });
    let new = |out: &str| out.split(' ').nth(1).unwrap().replace(',', "").parse::<i64>().unwrap();
    assert!(imports.iter().all(|(code, ..)| *code == 0), "{imports:?}");
    assert_eq!(imports.iter().map(|(_, out, _)| new(out)).sum::<i64>(), 30_000);
    assert_eq!(database.psql("SELECT count(*) FROM receiptd.watched_messages").trim(), "30000");
    assert_eq!(database.psql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").trim(), "0");
}

#[tokio::test]
async fn a_file_that_is_not_there_is_named() {
    let database = migrated().await;
    let (code, _, err) = receiptd(&database, &["watch", "import", "/nowhere/list.csv"], "");
    assert!(code == 65 && err.contains("opening /nowhere/list.csv failed"), "{code} {err}");
}

#[tokio::test]
async fn groups_are_paused_even_if_the_output_has_no_reader() {
    let database = migrated().await;
    receiptd(&database, &["watch", "import"], "a,1\nb,1\nc,1\n");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_receiptd"))
        .args(["watch", "pause", "a", "b", "c"])
        .env_clear()
        .env("DATABASE_URL", database.url())
        .env("RECEIPTD_CHAT__SDK_APP_ID", "1400000000")
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    assert_eq!(database.psql("SELECT count(*) FROM receiptd.watched_groups WHERE state = 'paused'"), "3");
}

#[tokio::test]
async fn times_are_taken_as_the_database_writes_them() {
    let database = migrated().await;
    let written = database.psql("SELECT '2026-11-24 10:00:00.123456+00'::timestamptz");
    let (code, _, err) = receiptd(&database, &["watch", "import"], &format!("a,1,{written}\n"));
    assert_eq!(code, 0, "{err}");
    assert_eq!(database.psql("SELECT sent_at FROM receiptd.watched_messages"), written);
}

#[tokio::test]
async fn every_state_can_be_asked_for_and_no_other() {
    let database = migrated().await;
    receiptd(&database, &["watch", "add", "a", "1"], "");
    let list = |arguments: &[&str]| receiptd(&database, &[&["watch", "list"], arguments].concat(), "");
    for state in ["active", "paused", "quarantined", "removed"] {
        assert_eq!(list(&["--state", state]).0, 0, "{state}");
    }
    for state in ["active", "all_read", "no_receipt", "expired", "rejected", "removed"] {
        assert_eq!(list(&["a", "--state", state]).0, 0, "{state}");
    }
    let (code, _, err) = list(&["--state", "all_read"]);
    assert!(code == 64 && err.contains("use one of active, paused, quarantined, removed"), "{err}");
    let (code, _, err) = list(&["a", "--state", "foo"]);
    assert!(code == 64 && err.contains("use one of active, all_read, "), "{err}");
}

#[tokio::test]
async fn the_list_shows_for_which_groups_readers_are_stored() {
    let database = migrated().await;
    receiptd(&database, &["watch", "import"], "a,1\nb,1\n");
    receiptd(&database, &["watch", "readers", "b", "on"], "");
    let (_, plain, _) = receiptd(&database, &["watch", "list"], "");
    let rows: Vec<Vec<&str>> = plain.lines().map(|line| line.split_whitespace().take(6).collect()).collect();
    assert_eq!(rows[0], ["GROUP", "STATE", "CADENCE", "ADDED", "BY", "READERS"]);
    assert_eq!(
        rows[1..],
        [["a", "active", "default", "owner", "off", "1"], ["b", "active", "default", "owner", "on", "1"]]
    );
    let (_, json, _) = receiptd(&database, &["watch", "list", "--json"], "");
    let readers = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["readers"].clone();
    assert_eq!(json.lines().map(readers).collect::<Vec<_>>(), [false, true]);
}
