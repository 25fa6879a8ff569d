//! The command line from its users' view.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, io::Write, path::Path, process::Stdio};

use assert_cmd::Command;
use tempfile::TempDir;

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/receiptd.toml");

/// receiptd with an empty environment.
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
fn check_warns_of_reader_patterns_without_discovery() {
    let file = std::env::temp_dir().join(format!("receiptd-patterns-{}.toml", std::process::id()));
    let reference = std::fs::read_to_string(REFERENCE).unwrap();
    std::fs::write(&file, reference.replace("\ngroups = []", "\ngroups = [\"safety-*\"]")).unwrap();
    let check = |is_discovering: &str| {
        let mut command = receiptd();
        command.args(["check", "--offline", "--config"]).arg(&file);
        run(command.env("RECEIPTD_DISCOVERY__ENABLED", is_discovering))
    };
    let (code, out, _) = check("false");
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("Warning: readers: readers.groups has no effect"), "{out}");
    assert!(!out.contains("\n  discover"), "{out}");
    let (_, out, _) = check("true");
    assert!(!out.contains("has no effect"), "{out}");
    assert!(out.contains("discover   the messages of Private, Public, ChatRoom groups: at most"), "{out}");
    std::fs::remove_file(&file).unwrap();
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
        "default: unread messages at a pace of 12m, at most every 30s and at least every 8 intervals of their tier: every 1m until 1h old",
        "every 10m until 1d old, every 1h until 7d old, every 6h until 30d old",
        "a private PostgreSQL",
        "http://127.0.0.1:9464",
        "Warning: key: chat.secret_key is the example",
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
fn a_key_that_can_not_be_one_is_pointed_out() {
    let digits = "0123456789abcdef".repeat(4);
    for (key, is_usual) in [
        (digits.clone(), true),
        (digits.to_uppercase(), true),
        (format!(" {digits}\n"), true),
        (format!("\u{feff}{digits}"), true),
        (digits[1..].to_owned(), false),
        (format!("{digits}0"), false),
        (digits.replace('f', "g"), false),
        (digits.replace('0', "０"), false),
    ] {
        let (code, out, err) = run(check(REFERENCE).env("RECEIPTD_CHAT__SECRET_KEY", &key));
        assert_eq!(
            (code, out.contains("does not consist of 64 digits"), err.as_str()),
            (0, !is_usual, ""),
            "{key:?}: {out}"
        );
        assert!(!out.contains(&digits[2..12]), "{out}");
    }
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
fn an_empty_variable_names_no_file() {
    let (code, out, err) = run(receiptd().arg("config").env("RECEIPTD_CONFIG", ""));
    assert!(code == 0 && out.contains("[polling]"), "{err}");
    assert_eq!(run(receiptd().args(["config", "--config", ""])).0, 64);
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

#[test]
fn what_can_not_be_meant_is_refused_before_anything_is_asked() {
    for (arguments, reason) in [
        (&["explain", "team", "0"][..], "message seq"),
        (&["plan", "--more-messages", "5", "--in-groups", "10"], "set --in-groups to 5 or fewer"),
        (&["rollup", "--from", "2h", "--to", "3h"], "is later than --to"),
        (&["rollup", "--from", "2199-01-01"], "is later than --to"),
        (&["watch", "add", "team", "1-99999999"], "use `receiptd watch import`"),
        (&["watch", "list", "--state", "foo"], "active, paused, quarantined, removed"),
    ] {
        let mut command = receiptd();
        // Nobody listens there.
        command.env("DATABASE_URL", "postgres://me@127.0.0.1:1/db").env("RECEIPTD_CHAT__SDK_APP_ID", "1400000000");
        let (code, out, err) = run(command.args(arguments));
        assert!(code == 64 && out.is_empty() && err.contains(reason), "{arguments:?}: {code} {err}");
    }
}

#[test]
fn a_full_standard_output_is_a_failure_and_no_panic() {
    for arguments in [&["usersig"][..], &["config"], &["check", "--offline"], &["man"], &["completions", "bash"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_receiptd"));
        let output = command.args(arguments).args(["--config", REFERENCE]).stdout(full).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(70), "{arguments:?}: {err}");
        assert_eq!(err, "receiptd: writing to standard output failed: No space left on device (os error 28)\n");
    }
}

/// A manual page that groff renders without warnings.
fn man(page: &[&str]) -> String {
    let (code, page, _) = run(receiptd().arg("man").args(page));
    assert_eq!(code, 0);
    let mut groff = std::process::Command::new("groff");
    groff
        .args(["-man", "-Tutf8", "-ww", "-rLL=1000n", "-P-cbou"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut groff = groff.spawn().unwrap();
    groff.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = groff.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_manual_covers_every_command_option_and_exit_code() {
    let (manual, help) = (man(&[]), run(receiptd().arg("--help")).1);
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let names: Vec<&str> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() > 14, "{names:?}");
    for name in names.iter().filter(|name| **name != "help") {
        assert!(manual.contains(&format!("receiptd {name}")), "{name}");
        let options = run(receiptd().args([name, "--help"])).1;
        for option in options.split_whitespace().filter(|word| word.starts_with("--") && word.len() > 4) {
            let option = option.trim_end_matches(|end: char| !end.is_ascii_alphanumeric());
            assert!(manual.contains(option), "{name} {option}");
        }
    }
    let codes =
        include_str!("../src/cli/exit.rs").lines().filter_map(|line| line.strip_prefix("//! | ")?.split(' ').next());
    for code in codes.filter(|code| code.parse::<u8>().is_ok()) {
        assert!(manual.lines().any(|line| line.trim_start().starts_with(code)), "{code}");
    }
}

#[test]
fn the_manual_of_the_settings_has_every_key_with_its_default() {
    let manual = man(&["receiptd.toml"]);
    let settings =
        include_str!("../config/receiptd.toml").lines().filter(|line| line.contains(" = ") && !line.starts_with("# "));
    for setting in settings.filter(|line| !line.starts_with(' ')) {
        let setting = setting.trim_start_matches('#');
        assert!(manual.contains(setting), "{setting} is not in\n{manual}");
    }
    assert!(manual.contains("{ until = \"1h\", every = \"1m\" }, { until = \"24h\""), "{manual}");
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(receiptd().args(["completions", shell]));
        assert!(
            code == 0 && ["explain", "more-messages", "retention"].iter().all(|word| script.contains(word)),
            "{shell}"
        );
    }
}
