//! A private PostgreSQL with its own settings, the simulated Chat in this process, the daemon in another.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Child, Command},
    time::Duration,
};

use receiptd::{
    domain::SdkAppId,
    embedded::{EmbeddedPostgres, Options},
    simulator::{Ledger, Simulator, SimulatorConfig},
};
use sqlx::{AssertSqlSafe, PgPool};

use crate::{cost, proxy::Proxy};

pub const APP: i64 = 1_400_000_000;
pub const ADMINISTRATOR: &str = "administrator";
pub const SECRET_KEY: &str = "key-of-the-bench";

/// The watched messages, and how often they are polled.
#[derive(Clone, Copy)]
pub struct Watch {
    pub groups: i32,
    pub messages: i64,
    pub every: &'static str,
    /// Maximum number of members of a group: each reads once, so this decides how much changes.
    pub members: u16,
}

pub struct Setup {
    pub simulator: Simulator,
    pub pool: PgPool,
    /// URL by which the daemon reaches the database.
    url: String,
    postmaster: u32,
    // Dropped in this order: a server whose files are removed while it runs would remove those of the next one too.
    _postgres: EmbeddedPostgres,
    directory: Directory,
}

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

impl Setup {
    /// Answers take 10 to 30 ms.
    pub async fn new(members: u16) -> Self {
        Self::with_latency(members, "10ms..30ms").await
    }

    /// A second service and server, for measurements next to the daemon. It accepts calls that are paced less
    /// exactly.
    pub async fn beside() -> Self {
        let setup = Self::in_directory("beside", 200, "10ms..30ms").await;
        setup.simulator.set_calls_per_second(1_000);
        setup
    }

    /// Members only read when the bench lets them.
    pub async fn unread() -> Self {
        Self::with_readers("flood", 200, "10ms..30ms", Duration::from_secs(100_000_000)).await
    }

    /// Latency of answers, see [`receiptd::simulator::Latency`].
    pub async fn with_latency(members: u16, latency: &str) -> Self {
        Self::in_directory("bench", members, latency).await
    }

    /// The same with this round trip between the daemon and the database.
    pub async fn far_away(self, round_trip: Duration) -> Self {
        // The proxy ends with the bench.
        Self { url: Proxy::far_away(&self.url, round_trip).await.url(), ..self }
    }

    async fn in_directory(name: &str, members: u16, latency: &str) -> Self {
        Self::with_readers(name, members, latency, Duration::from_secs(600)).await
    }

    /// `median` is the time until half of the members have read a message.
    async fn with_readers(name: &str, members: u16, latency: &str, median: Duration) -> Self {
        let directory = Directory(std::env::temp_dir().join(format!("receiptd-{name}-{}", std::process::id())));
        let data_dir = directory.0.join("postgres");
        fs::create_dir_all(&directory.0).unwrap();
        let options = Options::new(&data_dir);
        let postgres = EmbeddedPostgres::start(&options).unwrap();
        postgres.create_database("bench").unwrap();
        let url = postgres.url("bench");
        let pool = PgPool::connect(&url).await.unwrap();
        let pid = fs::read_to_string(data_dir.join("cluster/postmaster.pid")).unwrap();
        let mut config = SimulatorConfig::new(SdkAppId::try_from(APP).unwrap(), ADMINISTRATOR, SECRET_KEY.into());
        config.latency = latency.parse().unwrap();
        config.world.members = 5..=members;
        config.world.median_reading_time = median;
        let simulator = Simulator::start(config).await.unwrap();
        let postmaster = pid.lines().next().unwrap().parse().unwrap();
        Self { simulator, pool, url, postmaster, _postgres: postgres, directory }
    }

    pub async fn migrate(&self) {
        let store = receiptd::store::Store::new(&self.url.clone().into(), 2, SdkAppId::try_from(APP).unwrap()).unwrap();
        store.migrate().await.unwrap();
    }

    pub async fn watch(&mut self, watch: Watch) {
        self.migrate().await;
        // In calls with limits.messages_per_call messages.
        let sql = "SELECT receiptd.watch_messages($1, 'group ' || g,
                array(SELECT generate_series(part * 50000 + 1, least((part + 1) * 50000, $2))))
            FROM generate_series(1, $3) AS g, generate_series(0::bigint, ($2 - 1) / 50000) AS part";
        sqlx::query(sql).bind(APP).bind(watch.messages).bind(watch.groups).execute(&self.pool).await.unwrap();
    }

    pub fn start_daemon(&self, every: &str) -> Daemon {
        self.start_daemon_with(every, "")
    }

    /// The same with more sections of the configuration.
    pub fn start_daemon_with(&self, every: &str, sections: &str) -> Daemon {
        let config = self.directory.0.join("receiptd.toml");
        let text = format!(
            "[chat]\nsdk_app_id = {APP}\nsecret_key = \"{SECRET_KEY}\"\nendpoint = \"{}\"\n[database]\nurl = \"{}\"\n\
             [http]\nlisten = \"127.0.0.1:0\"\n[log]\nlevel = \"warn\"\n[cadence.default]\ntiers = [{{ until = \"1d\", every = \"{every}\" }}]\n{sections}",
            self.simulator.endpoint(),
            self.url
        );
        fs::write(&config, text).unwrap();
        // It contains a secret, and the daemon would warn about its permissions.
        fs::set_permissions(&config, PermissionsExt::from_mode(0o600)).unwrap();
        Daemon(Command::new(env!("CARGO_BIN_EXE_receiptd")).args(["run", "--config"]).arg(config).spawn().unwrap())
    }

    pub fn postgres_cpu(&self) -> Duration {
        cost::cpu_of_family(self.postmaster)
    }

    pub async fn count(&self, table: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM receiptd.{table}");
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await.unwrap()
    }

    /// The lateness of polls in the last seconds.
    pub async fn lateness(&self, seconds: f64) -> String {
        let sql = "SELECT format('%s ms (median), %s ms (99 %%), %s ms at the most', round(p[1]), round(p[2]), round(p[3])) FROM (
                SELECT percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (
                    ORDER BY greatest(extract(epoch FROM called_at - due_at), 0)::float8 * 1000) AS p
                FROM receiptd.api_calls WHERE called_at > now() - make_interval(secs => $1)) late";
        sqlx::query_scalar(sql).bind(seconds).fetch_one(&self.pool).await.unwrap()
    }

    /// Bytes of WAL so far.
    pub async fn wal(&self) -> i64 {
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint";
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap()
    }

    /// Calls and messages that were asked for so far.
    pub async fn asked(&self) -> (u64, u64) {
        let mut asked = (0, 0);
        let look = |ledger: &Ledger| {
            asked = (ledger.calls(), ledger.messages_asked());
            true
        };
        self.simulator.wait_until(look).await;
        asked
    }

    /// Checks that all answers are stored, after the daemon has stopped.
    pub async fn compare_with_ledger(&self) {
        let ledger = self.simulator.ledger();
        let answered: usize = ledger.all_answers().map(|(_, _, receipts)| receipts.len()).sum();
        println!("  changes                {answered} answered, {} stored", self.count("receipt_snapshots").await);
    }
}

/// A daemon, which is killed when this value is dropped.
pub struct Daemon(Child);

impl Daemon {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Stops it as systemd does, and waits for its end.
    pub fn stop(mut self) {
        Command::new("kill").arg(self.id().to_string()).status().unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // One that has exited needs nothing.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}
