//! The command line as its users meet it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path};

use assert_cmd::Command;
use tempfile::TempDir;

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/receiptd.toml");

/// receiptd with nothing in its environment.
fn receiptd() -> Command {
    let mut command = Command::cargo_bin("receiptd").unwrap();
    command.env_clear();
    command
}

fn file(directory: &TempDir, text: &str) -> String {
    let path = directory.path().join("receiptd.toml");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

fn check(path: &str) -> Command {
    let mut command = receiptd();
    command.args(["check", "--offline", "--config", path]);
    command
}

/// Exit code, standard output and standard error.
fn run(command: &mut Command) -> (i32, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_shipped_file_is_valid_and_its_placeholder_is_pointed_out() {
    let (code, out, err) = run(&mut check(REFERENCE));
    assert_eq!((code, err.as_str()), (0, ""));
    for words in [
        "app 1400000000 as administrator",
        "https://adminapisgp.im.qcloud.com (region sg",
        "at most 200 calls in any second",
        "at most 50 messages",
        "default: every 1m until 1h old, every 10m until 1day old, every 1h until 7days old, every 6h until 30days old",
        "a private PostgreSQL",
        "http://127.0.0.1:9464",
        "Mind: key: chat.secret_key is the example",
    ] {
        assert!(out.contains(words), "{words:?} in:\n{out}");
    }
}

#[test]
fn every_config_file_in_the_repository_passes_the_check() {
    let directory = Path::new(REFERENCE).parent().unwrap();
    let files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty());
    for path in files {
        let (code, _, err) = run(&mut check(path.to_str().unwrap()));
        assert_eq!(code, 0, "{}: {err}", path.display());
    }
}

#[test]
fn an_unknown_key_ends_with_78_and_its_remedy() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "[polling]\nbatchsize = 5\n");
    let (code, out, err) = run(&mut check(&path));
    assert_eq!((code, out.as_str()), (78, ""));
    for words in ["polling.batchsize", "unknown key", "batch_size"] {
        assert!(err.contains(words), "{err}");
    }
}

#[test]
fn what_is_missing_ends_with_78() {
    let directory = TempDir::new().unwrap();
    let (code, _, err) = run(&mut check(&file(&directory, "")));
    assert_eq!(code, 78);
    assert!(err.contains("chat.sdk_app_id: is missing"), "{err}");
}

#[test]
fn flags_hold_over_variables_and_variables_over_the_file() {
    let mut command = check(REFERENCE);
    command.env("RECEIPTD_POLLING__BATCH_SIZE", "20").env("RECEIPTD_HTTP__LISTEN", "off");
    let (code, out, _) = run(command.args(["--set", "polling.batch_size=30"]));
    assert_eq!(code, 0);
    assert!(out.contains("at most 30 messages") && out.contains("nothing over HTTP"), "{out}");
}

#[test]
fn the_file_can_be_named_by_a_variable() {
    let (code, out, _) = run(receiptd().args(["check", "--offline"]).env("RECEIPTD_CONFIG", REFERENCE));
    assert_eq!(code, 0);
    assert!(out.contains(REFERENCE), "{out}");
}

#[test]
fn no_secret_is_printed_whatever_is_asked() {
    let directory = TempDir::new().unwrap();
    let text = "[chat]\nsdk_app_id = 1\nregion = \"sg\"\nsecret_key = \"canary-key\"\n\
                [database]\nurl = \"postgres://me:canary-password@db.example/history\"\n";
    let path = file(&directory, text);
    let asked: [&[&str]; 4] = [&[], &["--help"], &["--set", "chat.user_sig=canary-sig"], &["--set", "http.listen=x"]];
    for arguments in asked {
        let mut command = check(&path);
        command.env("RECEIPTD_CHAT__SECRET_KEY", "canary-variable").args(arguments);
        let (_, out, err) = run(&mut command);
        assert!(!out.contains("canary") && !err.contains("canary"), "{arguments:?}: {out}{err}");
        assert!(!(out + &err).is_empty());
    }
    let (code, out, _) = run(&mut check(&path));
    assert_eq!(code, 0);
    assert!(out.contains("postgres://me:***@db.example:5432/history"), "{out}");
}

#[test]
fn a_wrong_command_line_ends_with_64_and_help_with_0() {
    for arguments in [&["chek"][..], &["check", "--offline", "--set", "polling"], &[]] {
        assert_eq!(run(receiptd().args(arguments)).0, 64, "{arguments:?}");
    }
    for arguments in [["--help"], ["--version"]] {
        let (code, out, err) = run(receiptd().args(arguments));
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(out.contains("receiptd"));
    }
}

#[test]
fn an_answer_that_nobody_reads_to_its_end_is_no_failure() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_receiptd"));
    let output = command.args(["check", "--offline", "--config", REFERENCE]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
