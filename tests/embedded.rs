//! The private PostgreSQL server, with real server programs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a process of a test tells the test where its server is")]

mod common;

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, lchown, symlink},
        net::UnixStream,
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::{ScratchDirectory, TestDatabase, psql};
use receiptd::embedded::{EmbeddedError, EmbeddedPostgres, Options};
use sqlx::{Connection, PgConnection};

fn start(data_dir: &Path) -> EmbeddedPostgres {
    EmbeddedPostgres::start(&Options::new(data_dir)).unwrap()
}

const NOBODY: u32 = 65_534;

/// Gives a directory and its contents to another account, if this is root. False if it is not.
fn hand_over(directory: &Path) -> bool {
    let is_root = fs::metadata(directory).unwrap().uid() == 0;
    let owner = format!("{NOBODY}:{NOBODY}");
    is_root && Command::new("chown").arg("-R").arg(owner).arg(directory).status().unwrap().success()
}

/// Everything in a directory, including links themselves.
fn all_in(directory: &Path) -> Vec<PathBuf> {
    let inner = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    let all = inner.flat_map(|entry| match entry.file_type().unwrap().is_dir() {
        true => [vec![entry.path()], all_in(&entry.path())].concat(),
        false => vec![entry.path()],
    });
    all.collect()
}

#[test]
fn root_leaves_every_file_to_the_owner_of_the_directory() {
    let scratch = ScratchDirectory::new("owner");
    if !hand_over(scratch.path()) {
        return;
    }
    start(&scratch.path().join("made/postgres")).stop().unwrap();
    for path in all_in(scratch.path()) {
        assert_eq!(fs::symlink_metadata(&path).unwrap().uid(), NOBODY, "{}", path.display());
    }
}

#[test]
fn root_is_led_nowhere_by_links_of_the_owner_of_the_directory() {
    let scratch = ScratchDirectory::new("links");
    let (home, precious) = (scratch.path().join("home"), scratch.path().join("precious"));
    fs::create_dir(&home).unwrap();
    fs::create_dir_all(precious.join("socket")).unwrap();
    fs::write(precious.join("socket/file"), "keep this").unwrap();
    if !hand_over(&home) {
        return;
    }
    let refused = |data_dir: &Path| EmbeddedPostgres::start(&Options::new(data_dir)).unwrap_err().to_string();
    let link = home.join("link");
    symlink(&precious, &link).unwrap();
    lchown(&link, Some(NOBODY), Some(NOBODY)).unwrap();
    let refusal = refused(&link);
    assert!(refusal.contains("opening") && refusal.contains("Permission denied"), "{refusal}");
    assert_eq!(all_in(&precious), [precious.join("socket"), precious.join("socket/file")]);

    let data_dir = home.join("postgres");
    fs::create_dir(&data_dir).unwrap();
    fs::hard_link(precious.join("socket/file"), data_dir.join("lock")).unwrap();
    lchown(&data_dir, Some(NOBODY), Some(NOBODY)).unwrap();
    let refusal = refused(&data_dir);
    assert!(refusal.contains("opening") && refusal.contains("Permission denied"), "{refusal}");
    let file = precious.join("socket/file");
    assert_eq!((fs::metadata(&file).unwrap().uid(), &*fs::read_to_string(file).unwrap()), (0, "keep this"));
}

#[test]
fn a_directory_of_roots_that_is_not_empty_is_refused() {
    let scratch = ScratchDirectory::new("of-root");
    let data_dir = scratch.path().join("postgres");
    fs::create_dir(&data_dir).unwrap();
    fs::write(data_dir.join("file"), "keep this").unwrap();
    if fs::metadata(&data_dir).unwrap().uid() != 0 {
        return;
    }
    let refusal = EmbeddedPostgres::start(&Options::new(&data_dir)).unwrap_err().to_string();
    assert!(refusal.contains("belongs to root and is not empty"), "{refusal}");
    assert_eq!(all_in(&data_dir), [data_dir.join("file")]);
}

#[test]
fn what_was_committed_is_there_after_a_restart() {
    let scratch = ScratchDirectory::new("restart");
    let data_dir = scratch.path().join("made/on the way, deep down/postgres");
    let first = start(&data_dir);
    first.create_database("receiptd").unwrap();
    psql(&first, "receiptd", "CREATE TABLE kept AS SELECT 42 AS answer");
    first.stop().unwrap();

    let second = start(&data_dir);
    second.create_database("receiptd").unwrap();
    assert_eq!(psql(&second, "receiptd", "SELECT answer FROM kept"), "42");
}

#[test]
fn a_dropped_server_has_ended_and_left_no_socket() {
    let scratch = ScratchDirectory::new("drop");
    let server = start(&scratch.path().join("postgres"));
    let socket_dir = server.socket_dir().to_owned();
    UnixStream::connect(socket_dir.join(".s.PGSQL.5432")).unwrap();
    drop(server);
    assert!(!socket_dir.exists());
    assert!(!scratch.path().join("postgres/cluster/postmaster.pid").exists());
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let scratch = ScratchDirectory::new("second");
    let data_dir = scratch.path().join("postgres");
    let first = start(&data_dir);
    let refusal = EmbeddedPostgres::start(&Options::new(&data_dir)).unwrap_err();
    assert!(matches!(refusal, EmbeddedError::InUse { .. }), "{refusal}");
    assert!(refusal.to_string().contains(&format!("process {}", std::process::id())), "{refusal}");
    assert_eq!(psql(&first, "postgres", "SELECT 1"), "1");
}

#[test]
fn an_interrupted_first_start_is_begun_anew() {
    let scratch = ScratchDirectory::new("interrupted");
    let data_dir = scratch.path().join("postgres");
    fs::create_dir_all(data_dir.join("cluster.new/base")).unwrap();
    fs::write(data_dir.join("cluster.new/PG_VERSION"), "15\n").unwrap();
    hand_over(scratch.path());
    let server = start(&data_dir);
    assert_eq!(psql(&server, "postgres", "SELECT 1"), "1");
    assert!(!data_dir.join("cluster.new").exists());
}

#[test]
fn nobody_but_its_owner_and_root_comes_near_the_server() {
    let scratch = ScratchDirectory::new("private");
    let server = start(&scratch.path().join("postgres"));
    for directory in [server.socket_dir(), &scratch.path().join("postgres/cluster")] {
        let metadata = fs::metadata(directory).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o700, "{}", directory.display());
        assert_ne!(metadata.uid(), 0, "{}", directory.display());
    }
    assert_eq!(psql(&server, "postgres", "SHOW listen_addresses"), "");
}

#[test]
fn settings_reach_the_server() {
    let scratch = ScratchDirectory::new("settings");
    let mut options = Options::new(scratch.path().join("postgres"));
    options.settings.push(("application_name".into(), "it's a test".into()));
    options.settings.push(("max_connections".into(), "17".into()));
    let server = EmbeddedPostgres::start(&options).unwrap();
    assert_eq!(psql(&server, "postgres", "SHOW max_connections"), "17");
}

#[test]
fn a_server_that_does_not_start_says_why() {
    let scratch = ScratchDirectory::new("refusing");
    let mut options = Options::new(scratch.path().join("postgres"));
    options.settings.push(("max_connections".into(), "many".into()));
    let error = EmbeddedPostgres::start(&options).unwrap_err().to_string();
    assert!(error.contains("exited before it was ready"), "{error}");
    assert!(error.contains("server.log") && error.contains("\"max_connections\": \"many\""), "{error}");
    start(&options.data_dir);
}

#[test]
fn data_of_another_version_is_left_alone() {
    let scratch = ScratchDirectory::new("version");
    let data_dir = scratch.path().join("postgres");
    start(&data_dir).stop().unwrap();
    fs::write(data_dir.join("cluster/PG_VERSION"), "8\n").unwrap();
    let refusal = EmbeddedPostgres::start(&Options::new(&data_dir)).unwrap_err();
    assert!(matches!(refusal, EmbeddedError::OtherVersion { data: 8, .. }), "{refusal}");
}

#[test]
fn a_data_directory_too_deep_for_a_socket_gets_one_elsewhere() {
    let scratch = ScratchDirectory::new("deep");
    let server = start(&scratch.path().join("deep/".repeat(20)));
    assert!(server.socket_dir().starts_with("/tmp"), "{}", server.socket_dir().display());
    assert_eq!(psql(&server, "postgres", "SELECT 1"), "1");
    let socket_dir = server.socket_dir().to_owned();
    server.stop().unwrap();
    assert!(!socket_dir.exists());
}

#[tokio::test]
async fn sqlx_connects_by_the_url_whatever_the_database_is_called() {
    let scratch = ScratchDirectory::new("url, + 100%");
    let server = start(&scratch.path().join("postgres"));
    for name in ["receiptd", "a b/c?d%20'\"e"] {
        server.create_database(name).unwrap();
        server.create_database(name).unwrap();
        let mut connection = PgConnection::connect(&server.url(name)).await.unwrap();
        let connected: String =
            sqlx::query_scalar("SELECT current_database()::text").fetch_one(&mut connection).await.unwrap();
        assert_eq!(connected, name);
        assert_eq!(psql(&server, name, "SELECT current_database()"), name);
    }
}

#[tokio::test]
async fn each_test_database_is_empty_and_its_own() {
    let (one, other) = (TestDatabase::new().await, TestDatabase::new().await);
    assert_ne!(one.url(), other.url());
    let mut connection = PgConnection::connect(&one.url()).await.unwrap();
    sqlx::query("CREATE TABLE here (id int)").execute(&mut connection).await.unwrap();
    assert_eq!(other.psql("SELECT count(*) FROM pg_tables WHERE tablename = 'here'"), "0");
    assert_eq!(one.psql("SELECT count(*) FROM pg_tables WHERE tablename = 'here'"), "1");
}

/// Runs `test` of this test binary again in a separate process, where `variable` selects its other part.
fn myself(binary: &Path, test: &str, variable: &str, value: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args(["--exact", test, "--nocapture"]).env(variable, value).current_dir("/");
    command
}

/// Names the data directory of the server that this process owns until it is killed.
const OWNED: &str = "RECEIPTD_TEST_OWNED_DATA_DIR";

/// The part of the process that is killed.
fn own_a_server(data_dir: &Path) {
    let server = start(data_dir);
    psql(&server, "postgres", "CREATE TABLE kept AS SELECT 42 AS answer");
    println!("\nurl: {}", server.url("postgres"));
    // Ends when the test that needs it does.
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Starts a process that owns a server, with `path` to search programs in, connects to it and kills its owner.
async fn connection_to_server_of_killed_owner(test: &str, data_dir: &Path, path: &OsStr) -> PgConnection {
    let mut command = myself(&env::current_exe().unwrap(), test, OWNED, data_dir);
    let mut owner = command.env("PATH", path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let url = lines.map_while(Result::ok).find_map(|line| Some(line.strip_prefix("url: ")?.to_owned()));
    let connection = PgConnection::connect(&url.unwrap()).await.unwrap();
    owner.kill().unwrap();
    owner.wait().unwrap();
    connection
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_server_ends_with_its_killed_owner_and_keeps_its_data() {
    if let Some(data_dir) = env::var_os(OWNED) {
        return own_a_server(data_dir.as_ref());
    }
    let scratch = ScratchDirectory::new("killed");
    let data_dir = scratch.path().join("postgres");
    let test = "a_server_ends_with_its_killed_owner_and_keeps_its_data";
    let path = env::var_os("PATH").unwrap();
    let mut connection = connection_to_server_of_killed_owner(test, &data_dir, &path).await;
    // A surviving server would let the query sleep to its end.
    sqlx::query("SELECT pg_sleep(120)").execute(&mut connection).await.unwrap_err();

    let next = start(&data_dir);
    assert_eq!(psql(&next, "postgres", "SELECT answer FROM kept"), "42");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_next_start_stops_a_server_that_outlived_its_owner() {
    if let Some(data_dir) = env::var_os(OWNED) {
        return own_a_server(data_dir.as_ref());
    }
    let scratch = ScratchDirectory::new("orphan");
    let data_dir = scratch.path().join("postgres");
    let test = "the_next_start_stops_a_server_that_outlived_its_owner";
    // A setpriv that can't bind a process to its parent, as on Alpine.
    let setpriv = scratch.path().join("setpriv");
    fs::write(&setpriv, "#!/bin/sh\nexit 1\n").unwrap();
    fs::set_permissions(&setpriv, PermissionsExt::from_mode(0o755)).unwrap();
    let usual = env::var_os("PATH").unwrap();
    let path = env::join_paths([scratch.path().into()].into_iter().chain(env::split_paths(&usual))).unwrap();
    let mut connection = connection_to_server_of_killed_owner(test, &data_dir, &path).await;
    sqlx::query("SELECT pg_sleep(0)").execute(&mut connection).await.unwrap();

    let next = start(&data_dir);
    assert_eq!(psql(&next, "postgres", "SELECT answer FROM kept"), "42");
    sqlx::query("SELECT pg_sleep(0)").execute(&mut connection).await.unwrap_err();
}

#[test]
fn an_ordinary_user_runs_a_server_as_itself() {
    /// Names the data directory for an ordinary user.
    const ORDINARY: &str = "RECEIPTD_TEST_ORDINARY_DATA_DIR";
    let scratch = ScratchDirectory::new("ordinary");
    if let Some(data_dir) = env::var_os(ORDINARY) {
        let server = start(data_dir.as_ref());
        let owner = fs::metadata(server.socket_dir()).unwrap().uid();
        assert_eq!(owner, fs::metadata(scratch.path()).unwrap().uid());
        return assert_eq!(psql(&server, "postgres", "SELECT 1"), "1");
    }
    let test = "an_ordinary_user_runs_a_server_as_itself";
    let binary = scratch.path().join("tests");
    fs::copy(env::current_exe().unwrap(), &binary).unwrap();
    let home = scratch.path().join("home");
    fs::create_dir(&home).unwrap();
    let mut command = myself(&binary, test, ORDINARY, &home.join("postgres"));
    if hand_over(&home) {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[tokio::test]
async fn a_server_sees_none_of_our_variables_and_no_network_client() {
    const TEST: &str = "a_server_sees_none_of_our_variables_and_no_network_client";
    let Some(data_dir) = env::var_os("RECEIPTD_TEST_ENVIRONMENT") else {
        let scratch = ScratchDirectory::new("environment");
        let data_dir = scratch.path().join("postgres");
        let mut again = myself(&env::current_exe().unwrap(), TEST, "RECEIPTD_TEST_ENVIRONMENT", &data_dir);
        let ended = again.env("DATABASE_URL", "postgres://me:canary@db/x").env("PGHOST", "elsewhere").status().unwrap();
        assert!(ended.success());
        return;
    };
    let address = common::own_address().ip();
    let mut options = Options::new(&data_dir);
    options.settings = vec![("listen_addresses".into(), address.to_string())];
    let server = EmbeddedPostgres::start(&options).unwrap();
    let pid = fs::read_to_string(Path::new(&data_dir).join("cluster/postmaster.pid")).unwrap();
    let environment = fs::read(format!("/proc/{}/environ", pid.lines().next().unwrap())).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    assert!(environment.contains("PATH=") && environment.contains("LC_ALL=C"), "{environment}");
    for ours in ["RECEIPTD_", "DATABASE_URL", "canary", "PGHOST"] {
        assert!(!environment.contains(ours), "{environment}");
    }
    let url = format!("postgres://postgres@{address}:5432/postgres?sslmode=disable");
    let refused = PgConnection::connect(&url).await.unwrap_err().to_string();
    assert!(refused.contains("pg_hba.conf rejects connection"), "{refused}");
    server.stop().unwrap();
}

#[test]
fn status_starts_no_server_and_says_that_none_runs() {
    let scratch = ScratchDirectory::new("status");
    let data_dir = scratch.path().join("postgres");
    start(&data_dir).stop().unwrap();
    let set = format!("database.data_dir={}", data_dir.display());
    let mut status = Command::new(env!("CARGO_BIN_EXE_receiptd"));
    status.env_clear().args(["status", "--set", "chat.sdk_app_id=1400000000", "--set", &set]);
    let output = status.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(69) && said.contains("is not running"), "{:?} {said}", output.status);
    assert!(!data_dir.join("cluster/postmaster.pid").exists());
}
