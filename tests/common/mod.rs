//! Shared by tests: a PostgreSQL server of the test process, and a new database for each test. Neither outlives the
//! process.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    env,
    ffi::OsString,
    fs,
    net::SocketAddr,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
};

use receiptd::embedded::{EmbeddedPostgres, Options};

/// An empty directory that is removed with this value, or at the latest with this process, even if that is killed,
/// with all its contents. Other accounts may enter it, so that root's server, which runs as one of them, reaches its
/// data.
pub struct ScratchDirectory {
    path: PathBuf,
    sweeper: Child,
}

impl ScratchDirectory {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("receiptd-test-{}-{count}-{name}", process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        let path = path.canonicalize().unwrap();
        Self { sweeper: sweeper(&path), path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        // This closes the sweeper's input and waits for its end.
        let swept = self.sweeper.wait().unwrap();
        assert!(swept.success() || std::thread::panicking(), "{} was not removed: {swept}", self.path.display());
    }
}

/// A shell that removes `path` when its input ends, at the latest with this process, and when the server in `path`,
/// which ends with this process too, has released its files.
fn sweeper(path: &Path) -> Child {
    let script = r#"cat; while [ -n "$(find "$1" -name postmaster.pid)" ]; do sleep 0.05; done; rm -rf "$1""#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sweep"]).arg(path).current_dir("/").process_group(0);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// An address that no other process uses: loopback has sixteen million of them, so none is shared with programs that
/// take free ports of the usual one.
pub fn own_address() -> SocketAddr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = process::id().to_be_bytes();
    ([127, high | 1, low, COUNT.fetch_add(1, Ordering::Relaxed)], 9_464).into()
}

struct TestServer {
    postgres: EmbeddedPostgres,
    // Never dropped, and neither is the server: both end with the process.
    _directory: ScratchDirectory,
}

/// The server of this test process, started by the first test that needs it.
fn server() -> &'static EmbeddedPostgres {
    static SERVER: OnceLock<TestServer> = OnceLock::new();
    let start = || {
        let directory = ScratchDirectory::new("server");
        let mut options = Options::new(directory.path().join("postgres"));
        let settings = [
            // This data need not survive a crash.
            ("fsync", "off"),
            ("full_page_writes", "off"),
            ("synchronous_commit", "off"),
            // As many tests at once as the machine has processors, each with a pool.
            ("max_connections", "500"),
        ];
        options.settings = settings.map(|(name, value)| (name.into(), value.into())).into();
        TestServer { postgres: EmbeddedPostgres::start(&options).unwrap(), _directory: directory }
    };
    &SERVER.get_or_init(start).postgres
}

/// An empty database for one test; dropped with this value, even if there are connections to it.
pub struct TestDatabase {
    name: String,
}

impl TestDatabase {
    pub async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let created = name.clone();
        tokio::task::spawn_blocking(move || server().create_database(&created)).await.unwrap().unwrap();
        Self { name }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn url(&self) -> String {
        server().url(&self.name)
    }

    /// Runs SQL independently of the code under test, like an analyst in psql, and returns psql's output.
    pub fn psql(&self, sql: &str) -> String {
        psql(server(), &self.name, sql)
    }

    /// The same, with psql's output for people: as a table with its heading, in UTC.
    pub fn psql_table(&self, sql: &str) -> String {
        run_psql(server(), &self.name, "-P pager=off", sql)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        psql(server(), "postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

/// Runs SQL with the command that is shown to people, and returns psql's output, without decoration.
pub fn psql(server: &EmbeddedPostgres, database: &str, sql: &str) -> String {
    run_psql(server, database, "-A -t", sql)
}

/// The search path, beginning with the programs that Debian has elsewhere: its own psql is a script, which takes longer
/// than most queries.
fn search_path() -> &'static OsString {
    static PATH: OnceLock<OsString> = OnceLock::new();
    PATH.get_or_init(|| {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let newest = versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("psql").is_file()).max();
        let usual = env::var_os("PATH").unwrap_or_default();
        env::join_paths(newest.into_iter().chain(env::split_paths(&usual))).unwrap()
    })
}

fn run_psql(server: &EmbeddedPostgres, database: &str, form: &str, sql: &str) -> String {
    let script = format!("PGTZ=UTC {} -X -q {form} -v ON_ERROR_STOP=1 -c \"$1\"", server.psql_command(database));
    let output = Command::new("sh").args(["-c", &script, "psql", sql]).env("PATH", search_path()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() || std::thread::panicking(), "{sql}: {errors}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
