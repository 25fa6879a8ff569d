//! A daemon between a simulated Chat and its own database, and ways to wait for what they do.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::TimeDelta;
use receiptd::{
    chat::{ChatSettings, Credential, Destination},
    clock,
    config::{Jobs, Polling, Readers, Snapshots},
    daemon::leadership::SessionSettings,
    domain::{GroupId, MsgSeq, SdkAppId},
    lifecycle::{Daemon, DaemonSettings},
    rules::{
        cadence::{Cadence, Cadences, Cron, Tier},
        retention::Retention,
    },
    simulator::{Fault, FaultRule, Simulator, SimulatorConfig, When},
};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgListener};
use tokio_util::sync::CancellationToken;

use crate::common::TestDatabase;

pub const APP: i64 = 1_400_000_000;
pub const SECRET_KEY: &str = "canary-secret-key";

/// Notifies the channel `test` of writes, so that tests can wait for them.
const NOTIFY: &str = "
    CREATE FUNCTION public.tell_test() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_notify('test', ''); RETURN NULL; END $$;
    CREATE TRIGGER tell_test AFTER INSERT ON receiptd.api_calls EXECUTE FUNCTION public.tell_test();
    CREATE TRIGGER tell_test AFTER INSERT OR UPDATE OR DELETE ON receiptd.poll_slots EXECUTE FUNCTION public.tell_test();
    CREATE TRIGGER tell_test AFTER INSERT OR UPDATE ON receiptd.watched_messages EXECUTE FUNCTION public.tell_test();
    CREATE TRIGGER tell_test AFTER INSERT OR UPDATE ON receiptd.reader_lists FOR EACH STATEMENT EXECUTE FUNCTION public.tell_test();
    CREATE TRIGGER tell_test AFTER UPDATE ON receiptd.watched_groups EXECUTE FUNCTION public.tell_test();
    CREATE TRIGGER tell_test AFTER INSERT OR UPDATE OR DELETE ON receiptd.discovered_groups EXECUTE FUNCTION public.tell_test();";

/// Timeout for an event a test waits for, far longer than any takes.
const PATIENCE: Duration = Duration::from_secs(180);

pub struct Harness {
    pub simulator: Simulator,
    pub pool: PgPool,
    pub settings: DaemonSettings,
    pub daemon: Option<Daemon>,
    events: PgListener,
    pub database: TestDatabase,
}

pub fn group(id: &str) -> GroupId {
    id.parse().unwrap()
}

pub fn seq(number: i64) -> MsgSeq {
    MsgSeq::try_from(number).unwrap()
}

pub fn app() -> SdkAppId {
    SdkAppId::try_from(APP).unwrap()
}

/// A cadence that polls once a second for an hour.
pub fn every_second() -> Cadence {
    Cadence::by_age(vec![Tier { until: Duration::from_secs(3_600), every: Duration::from_secs(1) }], true).unwrap()
}

pub fn simulator_config() -> SimulatorConfig {
    let mut config = SimulatorConfig::new(app(), "administrator", SECRET_KEY.into());
    config.latency = (Duration::ZERO..=Duration::from_millis(3)).into();
    // No simulated member reads: only tests change counts.
    config.world.median_reading_time = Duration::from_secs(1_000_000);
    config
}

impl Harness {
    /// A running daemon that polls every message once a second.
    pub async fn new() -> Self {
        let mut rig = Self::stopped(simulator_config()).await;
        rig.start().await;
        rig
    }

    /// Everything except the daemon; the schema exists.
    pub async fn stopped(simulator: SimulatorConfig) -> Self {
        let database = TestDatabase::new().await;
        let url = database.url();
        Self::in_database(database, &url, simulator).await
    }

    /// The same with a daemon that reaches its database at `url`.
    pub async fn in_database(database: TestDatabase, url: &str, simulator: SimulatorConfig) -> Self {
        let simulator = Simulator::start(simulator).await.unwrap();
        let url_of_tests = database.url();
        let pool = PgPool::connect(&url_of_tests).await.unwrap();
        let settings = settings(&simulator, url);
        let store = receiptd::store::Store::new(&settings.database_url, 2, app()).unwrap();
        store.migrate().await.unwrap();
        sqlx::raw_sql(NOTIFY).execute(&pool).await.unwrap();
        let mut events = PgListener::connect(&url_of_tests).await.unwrap();
        events.listen("test").await.unwrap();
        Self { simulator, pool, settings, daemon: None, events, database }
    }

    pub async fn start(&mut self) {
        let daemon = Daemon::start(self.settings.clone(), CancellationToken::new()).await.unwrap();
        assert!(self.daemon.replace(daemon).is_none(), "a rig has one daemon");
    }

    /// Stops the daemon cleanly.
    pub async fn stop(&mut self) {
        assert_eq!(self.daemon.take().unwrap().stop().await, 0, "polls were lost");
    }

    pub async fn watch(&self, group: &str, seqs: impl IntoIterator<Item = i64>) {
        let seqs: Vec<i64> = seqs.into_iter().collect();
        let query = sqlx::query("SELECT receiptd.watch_messages($1, $2, $3)").bind(APP).bind(group).bind(seqs);
        query.execute(&self.pool).await.unwrap();
    }

    /// Waits until a condition in SQL holds; checked after every write, and each second, since not all tables notify.
    pub async fn until(&mut self, condition: &str) {
        let wait = async {
            while !self.value::<Option<bool>>(&format!("SELECT ({condition})")).await.unwrap_or(false) {
                self.changed().await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let calls =
                self.database.psql("SELECT class, code, error, count(*) FROM receiptd.api_calls GROUP BY 1, 2, 3");
            panic!("timed out waiting for {condition}; the calls were:\n{calls}");
        }
    }

    /// Waits for the next write, for at most a second.
    pub async fn changed(&mut self) {
        _ = tokio::time::timeout(Duration::from_secs(1), self.events.recv()).await.map(Result::unwrap);
    }

    pub async fn value<T>(&self, query: &str) -> T
    where
        T: Send + Unpin + for<'row> sqlx::Decode<'row, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(&self.pool).await.unwrap()
    }

    pub async fn count(&self, query: &str) -> i64 {
        self.value(&format!("SELECT count(*) FROM {query}")).await
    }

    /// The next `times` calls that ask for this message fail.
    pub fn fail(&self, group_id: &str, msg_seq: i64, fault: Fault, times: Option<u64>) {
        let when = When::Message { group_id: group(group_id), msg_seq: seq(msg_seq) };
        self.simulator.add_fault(FaultRule { fault, when, times });
    }
}

fn new_year() -> Cron {
    Cron::parse("0 0 1 1 *", clock::now()).unwrap()
}

fn settings(simulator: &Simulator, url: &str) -> DaemonSettings {
    let cadences = BTreeMap::from([("default".to_owned(), every_second())]);
    DaemonSettings {
        chat: ChatSettings {
            sdk_app_id: app(),
            identifier: "administrator".into(),
            credential: Credential::SecretKey(SECRET_KEY.into()),
            destination: Destination::Endpoint(simulator.endpoint()),
        },
        database_url: url.into(),
        max_connections: 5,
        prepared_statements: true,
        session: SessionSettings {
            polling: Polling::default(),
            snapshots: Snapshots::default(),
            cadences: Arc::new(Cadences::new(cadences)),
            readers: Readers { reader_cadence: TimeDelta::seconds(1), ..Readers::default() },
            // Once at the start and hardly ever again: tests of the jobs call them.
            jobs: Jobs { rollup: new_year(), retention: new_year() },
            retention: Retention::default(),
            discovery: None,
        },
        limits: receiptd::domain::Bounds::default(),
        wall: clock::now,
        http: None,
        http_token: None,
        webhooks: None,
    }
}
