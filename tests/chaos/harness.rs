//! A scene: the daemon at full load between a simulated Chat and its own PostgreSQL server, and operations of
//! scenarios.

use std::{ffi::OsString, fs, net::SocketAddr, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use receiptd::{
    domain::{GroupId, MsgSeq, SdkAppId},
    simulator::{Fault, FaultRule, Simulator, SimulatorConfig, When},
};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::time::{Instant, sleep};

use crate::{
    common::{ScratchDirectory, own_address},
    daemon::{Daemon, Launch, PATIENCE},
    pgbouncer::{Parameters, PgBouncer},
    server::Server,
    way::Way,
};

pub const APP: i64 = 1_400_000_000;
pub const SECRET_KEY: &str = "canary-4c1f-secret-key";

/// The promised limit in calls per second. With a slot for each group, due every second, more is due than the limit
/// allows: so the daemon always calls as fast as it may, and every burst would show.
pub const LIMIT: u32 = 50;
pub const GROUPS: i64 = 60;
pub const MESSAGES_A_GROUP: i64 = 3;

/// The database of the daemon.
pub const DATABASE: &str = "receiptd";

/// Watched groups are numbered from 1.
pub fn group(number: i64) -> GroupId {
    format!("group {number}").parse().unwrap()
}

pub fn message(seq: i64) -> MsgSeq {
    MsgSeq::try_from(seq).unwrap()
}

pub fn is_long() -> bool {
    std::env::var_os("RECEIPTD_CHAOS").is_some_and(|length| length == "long")
}

/// Duration of a fault in seconds; in the long version long enough for messages logged once a minute.
pub fn seconds(short: u64) -> Duration {
    Duration::from_secs(if is_long() { 70 + 5 * short } else { short })
}

/// The settings in which a scenario differs from others.
#[derive(Default)]
pub struct Setup<'a> {
    /// A directory of the server's account for all tables of the daemon.
    pub tablespace: Option<&'a Path>,
    /// The server; `None` for an ordinary one.
    pub server: Option<Server>,
    /// Prefix of the daemon's command line; it calls the simulated Chat by the name `localhost` then.
    pub prefix: Vec<OsString>,
    /// The daemon reaches the server through a PgBouncer.
    pub pgbouncer: Option<Parameters>,
    /// Calls per second, if not [`LIMIT`]. The number of groups grows with it.
    pub limit: Option<u32>,
    /// The daemon reaches the simulated Chat through a proxy that can hold back data, see [`Scene::way`].
    pub has_way: bool,
}

/// Dropped in this order: everything before what it is connected to.
pub struct Harness {
    pub daemon: Daemon,
    /// The test's own connections to the daemon's database, and to another one on the same server.
    pub pool: PgPool,
    pub admin: PgPool,
    pub pgbouncer: Option<PgBouncer>,
    pgbouncer_address: SocketAddr,
    pub server: Server,
    way: Option<Way>,
    pub simulator: Simulator,
    pub limit: u32,
    directory: ScratchDirectory,
}

impl Harness {
    /// Everything runs, and all messages are polled as fast as the limit allows.
    pub async fn new(name: &str) -> Self {
        Self::with(ScratchDirectory::new(name), Setup::default()).await
    }

    pub async fn with(directory: ScratchDirectory, setup: Setup<'_>) -> Self {
        let scene = Self::idle(directory, setup).await;
        scene.watch_all().await;
        scene.at_full_load().await;
        scene
    }

    /// Everything runs, and nothing is watched yet.
    pub async fn idle(directory: ScratchDirectory, setup: Setup<'_>) -> Self {
        let limit = setup.limit.unwrap_or(LIMIT);
        let simulator = simulator(limit).await;
        let server = setup.server.unwrap_or_else(|| Server::start(directory.path()));
        let (admin, pool) = (server.pool("postgres"), server.pool(DATABASE));
        create_database(&admin, setup.tablespace).await;
        let pgbouncer_address = own_address();
        let start = |parameters| PgBouncer::start(&server, directory.path(), pgbouncer_address, parameters);
        let pgbouncer = setup.pgbouncer.map(start);
        let launch = Launch {
            prefix: setup.prefix,
            config: directory.path().join("receiptd.toml"),
            database_url: pgbouncer.as_ref().map_or_else(|| server.url(DATABASE), PgBouncer::url),
            said: directory.path().join("said"),
            shown: Arc::default(),
            http: own_address(),
        };
        let way = match setup.has_way {
            true => Some(Way::to(simulator.endpoint().trim_start_matches("http://").parse().unwrap()).await),
            false => None,
        };
        let endpoint = way.as_ref().map_or_else(|| simulator.endpoint(), Way::endpoint);
        let endpoint = match launch.prefix.is_empty() {
            true => endpoint,
            false => endpoint.replace("127.0.0.1", "localhost"),
        };
        write_config(&launch.config, &endpoint, launch.http, limit);
        let daemon = Daemon::start(launch);
        let scene =
            Self { daemon, pool, admin, pgbouncer, pgbouncer_address, server, way, simulator, limit, directory };
        scene.is_ready().await;
        scene
    }

    /// The network to the simulated Chat, if the setup has one.
    pub fn way(&self) -> &Way {
        self.way.as_ref().unwrap()
    }

    pub fn start_pgbouncer(&mut self) {
        self.pgbouncer =
            Some(PgBouncer::start(&self.server, self.directory.path(), self.pgbouncer_address, Parameters::Dropped));
    }

    /// Another daemon for the same app and database, which stands by.
    pub async fn another_daemon(&self) -> Daemon {
        self.another_daemon_in(vec![]).await
    }

    /// The same with a prefix of its command line.
    pub async fn another_daemon_in(&self, prefix: Vec<OsString>) -> Daemon {
        let another = self.start_another(prefix, self.daemon.launch.database_url.clone());
        let ready = another.until_ready(PATIENCE).await;
        assert!(ready.is_ok(), "another daemon is not ready: {ready:?}\n{}", self.daemon.said());
        another
    }

    /// The same for a database at this URL. It isn't waited for.
    pub fn start_another(&self, prefix: Vec<OsString>, database_url: String) -> Daemon {
        let http = own_address();
        let config = self.directory.path().join(format!("receiptd-{}.toml", http.ip()));
        write_config(&config, &self.simulator.endpoint(), http, self.limit);
        Daemon::start(Launch { prefix, config, database_url, http, ..self.daemon.launch.clone() })
    }

    /// The directory of everything that the scenario's processes write.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub async fn is_ready(&self) {
        let ready = self.daemon.until_ready(PATIENCE).await;
        assert!(ready.is_ok(), "the daemon is not ready: {ready:?}\n{}", self.daemon.said());
    }

    pub async fn watch_all(&self) {
        let sql = "SELECT receiptd.watch_messages($1, 'group ' || g, array(SELECT generate_series(1, $2)))
            FROM generate_series(1, $3) g";
        sqlx::query(sql).bind(APP).bind(MESSAGES_A_GROUP).bind(self.groups()).execute(&self.pool).await.unwrap();
    }

    /// Waits until every message has been polled and the second after it is over.
    pub async fn at_full_load(&self) {
        let known = "SELECT count(*) = $1 FROM receiptd.latest_receipts WHERE known_until IS NOT NULL";
        let known = known.replace("$1", &self.messages().to_string());
        assert!(self.until(&known, PATIENCE).await, "not every message was polled\n{}", self.daemon.said());
        self.after_calls(u64::from(self.limit)).await;
    }

    fn groups(&self) -> i64 {
        GROUPS * i64::from(self.limit) / i64::from(LIMIT)
    }

    /// How many messages are watched at full load.
    pub fn messages(&self) -> i64 {
        self.groups() * MESSAGES_A_GROUP
    }

    pub async fn after_calls(&self, calls: u64) {
        let before = self.simulator.ledger().ended_calls();
        self.simulator.wait_for_ended_calls(before + calls).await;
    }

    /// Waits until a query returns true. False if it never did; while the database does not answer, it counts as
    /// false.
    pub async fn until(&self, query: &str, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            let holds: Result<Option<bool>, _> = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&self.pool).await;
            if matches!(holds, Ok(Some(true))) {
                return true;
            }
            sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// Runs SQL in the daemon's database.
    pub async fn sql(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.pool).await.unwrap();
    }

    /// Runs SQL in another database of the same server.
    pub async fn admin(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.admin).await.unwrap();
    }

    /// Lets calls fail from now on.
    pub fn calls_fail(&self, fault: Fault, when: When) {
        self.simulator.add_fault(FaultRule { fault, when, times: None });
    }

    /// Lets the fault last, and inspects the daemon in the middle of it.
    pub async fn lasts(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        sleep(duration / 2).await;
        self.daemon.look_from_outside();
        let patience = Duration::from_secs(2);
        // Whether they answer now doesn't matter here.
        _ = tokio::join!(self.daemon.get("/readyz", patience), self.daemon.get("/metrics", patience));
        tokio::time::sleep_until(end).await;
    }
}

async fn simulator(limit: u32) -> Simulator {
    let mut config = SimulatorConfig::new(SdkAppId::try_from(APP).unwrap(), "administrator", SECRET_KEY.into());
    config.latency = (Duration::ZERO..=Duration::from_millis(30)).into();
    config.calls_per_second = limit;
    // Counts that change throughout a scenario, so that lost or duplicate results show.
    config.world.members = 100..=200;
    config.world.median_reading_time = Duration::from_secs(if is_long() { 120 } else { 20 });
    Simulator::start(config).await.unwrap()
}

async fn create_database(admin: &PgPool, tablespace: Option<&Path>) {
    let mut create = format!("CREATE DATABASE {DATABASE}");
    if let Some(directory) = tablespace {
        let make = format!("CREATE TABLESPACE small LOCATION '{}'", directory.display());
        sqlx::raw_sql(AssertSqlSafe(make)).execute(admin).await.unwrap();
        create += " TABLESPACE small";
    }
    sqlx::raw_sql(AssertSqlSafe(create)).execute(admin).await.unwrap();
}

fn write_config(path: &Path, endpoint: &str, http: SocketAddr, limit: u32) {
    fs::write(path, config(endpoint, http, limit)).unwrap();
    // It contains a secret, and the daemon would warn about its permissions.
    fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
}

fn config(endpoint: &str, http: SocketAddr, limit: u32) -> String {
    // A hanging call ends soon enough for a retry within the promised time after the fault. And calls take longer to
    // the service than they seem to: it shares a few processors with all other scenarios.
    format!(
        "[chat]\nsdk_app_id = {APP}\nsecret_key = \"{SECRET_KEY}\"\nendpoint = \"{endpoint}\"\n\
         [http]\nlisten = \"{http}\"\n[polling]\nmax_calls_per_second = {limit}\nrequest_timeout = \"4s\"\n\
         transit_allowance = \"250ms\"\n\
         [cadence.default]\ntiers = [{{ until = \"1h\", every = \"1s\" }}]\nstop_when_all_read = false\n"
    )
}
