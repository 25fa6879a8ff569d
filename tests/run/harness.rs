//! The environment of one daemon at a time.

use std::{
    fs,
    net::SocketAddr,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use receiptd::{
    domain::SdkAppId,
    simulator::{Simulator, SimulatorConfig},
};
use sqlx::PgPool;

use crate::common::{ScratchDirectory, TestDatabase, own_address};

pub const APP: i64 = 1_400_000_000;
pub const SECRET_KEY: &str = "canary-4c1f-secret-key";
/// An address without a database.
pub const AWAY: &str = "postgres://receiptd@127.0.0.1:1/receiptd";
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The environment of one daemon at a time, with a simulated Chat and a socket in place of systemd's.
pub struct Harness {
    pub directory: ScratchDirectory,
    pub simulator: Simulator,
    pub systemd: UnixDatagram,
    pub config: String,
}

impl Harness {
    pub async fn new(name: &str, limit: u32) -> Self {
        let directory = ScratchDirectory::new(name);
        let mut config = SimulatorConfig::new(SdkAppId::try_from(APP).unwrap(), "administrator", SECRET_KEY.into());
        config.latency = (Duration::ZERO..=Duration::from_millis(30)).into();
        config.world.median_reading_time = Duration::from_secs(3);
        config.calls_per_second = limit;
        let simulator = Simulator::start(config).await.unwrap();
        let systemd = UnixDatagram::bind(directory.path().join("notify")).unwrap();
        systemd.set_read_timeout(Some(PATIENCE)).unwrap();
        let config = format!(
            "[chat]\nsdk_app_id = {APP}\nsecret_key = \"{SECRET_KEY}\"\nendpoint = \"{}\"\n[http]\nlisten = \"off\"\n\
             [polling]\nmax_calls_per_second = {limit}\n\
             [cadence.default]\ntiers = [{{ until = \"1h\", every = \"1s\" }}]\nstop_when_all_read = false\n",
            simulator.endpoint()
        );
        Self { directory, simulator, systemd, config }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn spawn(&self, database: Option<&TestDatabase>) -> Child {
        self.spawn_with(database, &[("WATCHDOG_USEC", "4000000")])
    }

    pub fn spawn_with(&self, database: Option<&TestDatabase>, variables: &[(&str, &str)]) -> Child {
        let config = self.write_config();
        let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
        command.args(["run", "--config"]).arg(config).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("NOTIFY_SOCKET", self.path("notify")).env("STATE_DIRECTORY", self.directory.path());
        command.envs(variables.iter().copied());
        if let Some(database) = database {
            command.env("DATABASE_URL", database.url());
        }
        command.spawn().unwrap()
    }

    /// Waits until the daemon has sent systemd this.
    pub fn hears(&self, state: &str) {
        self.hears_of(|line| line == state);
    }

    /// Waits until the daemon has sent systemd a message of this kind, and returns it.
    pub fn hears_of(&self, is_it: impl Fn(&str) -> bool) -> String {
        let mut message = [0; 1_024];
        loop {
            let length = self.systemd.recv(&mut message).unwrap();
            if let Some(line) = String::from_utf8_lossy(&message[..length]).lines().find(|line| is_it(line)) {
                return line.to_owned();
            }
        }
    }

    pub fn write_config(&self) -> PathBuf {
        let config = self.path("receiptd.toml");
        fs::write(&config, &self.config).unwrap();
        config
    }

    /// Makes the next daemon serve HTTP, and returns the address.
    pub fn listens(&mut self) -> SocketAddr {
        let listen = own_address();
        self.config = self.config.replace("listen = \"off\"", &format!("listen = \"{listen}\""));
        listen
    }

    /// Makes the daemon reload its settings.
    pub fn reload(&self, daemon: &Child) {
        self.write_config();
        signal(daemon, "-HUP");
        self.hears("RELOADING=1");
        self.hears("READY=1");
    }
}

/// The daemon's response there.
pub async fn get(listen: SocketAddr, path: &str) -> (u16, String) {
    _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(format!("http://{listen}{path}")).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

pub fn signal(daemon: &Child, signal: &str) {
    assert!(Command::new("kill").arg(signal).arg(daemon.id().to_string()).status().unwrap().success());
}

/// The daemon's output and exit code; it must not have revealed its secret.
pub fn end(daemon: Child) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = daemon.wait_with_output().unwrap();
    let said = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    assert!(!said.contains("canary"), "{said}");
    (status.code(), said)
}

/// Creates the schema, without a daemon.
pub fn migrate(database: &TestDatabase) {
    let mut migrate = Command::new(env!("CARGO_BIN_EXE_receiptd"));
    migrate.args(["migrate", "--set", "chat.sdk_app_id=1400000000"]).env("DATABASE_URL", database.url());
    let migrate = migrate.output().unwrap();
    assert!(
        migrate.status.success() && String::from_utf8_lossy(&migrate.stdout).contains("was created"),
        "{migrate:?}"
    );
}

pub async fn watch(pool: &PgPool, groups: i32, messages: i64) {
    let sql = "SELECT receiptd.watch_messages($1, 'g' || g, array(SELECT generate_series(1::bigint, $2))) FROM generate_series(1, $3) g";
    sqlx::query(sql).bind(APP).bind(messages).bind(groups).execute(pool).await.unwrap();
}

pub async fn count(pool: &PgPool, what: &'static str) -> i64 {
    sqlx::query_scalar(what).fetch_one(pool).await.unwrap()
}
