//! Searches for secrets in everything that the daemon logged, showed, wrote or left behind.

use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, Stdio},
};

use receiptd::{chat::user_sig, clock};

use crate::{
    common::ScratchDirectory,
    harness::{APP, Harness, SECRET_KEY, Setup},
};

/// Files that are meant to contain the secrets.
const KEPT_IN: [&str; 2] = ["*.toml", "pgbouncer.ini"];

/// The secrets of the scenarios, and every signature: it is base64 of zlib data.
const SECRETS: [&str; 2] = ["canary", "eJ[A-Za-z0-9*_-]{60}"];

/// The first line with a secret in any file of a directory: logs and answers, and the database's own files too, with
/// all rows, all logged statements and its WAL.
pub fn told_in(directory: &Path) -> Option<String> {
    let mut grep = Command::new("grep");
    grep.args(["--recursive", "--text", "--only-matching", "--max-count=1", "--extended-regexp"]);
    grep.args(SECRETS.map(|secret| format!("--regexp=.{{0,200}}{secret}.{{0,200}}")));
    grep.args(KEPT_IN.map(|file| format!("--exclude={file}"))).arg(directory);
    // Files that the server removes meanwhile cause errors.
    let output = grep.env("LC_ALL", "C").stderr(Stdio::null()).output().unwrap();
    (!output.stdout.is_empty()).then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_secret_that_got_out_is_found() {
    let directory = ScratchDirectory::new("secrets");
    let write = |name: &str, text: &[u8]| fs::write(directory.path().join(name), text).unwrap();
    write("receiptd.toml", SECRET_KEY.as_bytes());
    write("log", b"nothing\n");
    assert_eq!(told_in(directory.path()), None);
    write("log", &[b"\xff\0\n\0", SECRET_KEY.as_bytes(), b"\0"].concat());
    assert!(told_in(directory.path()).is_some());
    let signature = user_sig::sign(
        APP.try_into().unwrap(),
        "administrator",
        &"another".into(),
        clock::now(),
        chrono::TimeDelta::hours(1),
    );
    write("log", secrecy::ExposeSecret::expose_secret(&signature.unwrap()).as_bytes());
    assert!(told_in(directory.path()).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_crashes_leaves_no_core() {
    let prefix = ["sh", "-c", r#"ulimit -c unlimited; exec "$@""#, "sh"].map(Into::into).into();
    let mut scene = Harness::with(ScratchDirectory::new("core"), Setup { prefix, ..Setup::default() }).await;
    scene.daemon.signal("ABRT");
    let status = scene.daemon.end().await;
    assert!(status.signal().is_some() && !status.core_dumped(), "{status}");
    assert_eq!(told_in(scene.directory()), None);
}
