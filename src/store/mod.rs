//! PostgreSQL: the watch list, the schedule and the time series. Contains all SQL of the daemon, and nothing of HTTP.

mod arrays;
mod bounds;
mod brief;
mod changed_groups;
mod connection;
mod connections;
mod copy;
mod discovery;
mod error;
mod explain;
mod export;
mod fit;
mod flush;
mod forecast;
mod forget;
mod history;
mod large_groups;
mod lease;
mod overview;
mod page;
mod partitions;
mod past;
mod readers;
mod retention;
mod rewrite;
mod rights;
mod rollup;
mod schema;
mod seed;
mod set_aside;
mod slot_rows;
mod slots;
mod slotting;
mod sqlstate;
mod statement;
mod tail;
mod transaction;
mod watch;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use sqlx::{
    ConnectOptions, Postgres,
    postgres::{PgArguments, PgConnectOptions, PgRow},
    query::Query,
};
use tokio::time::timeout_at;

pub(crate) use self::{
    brief::Brief,
    flush::{Flushed, flush},
    set_aside::{Aside, write_apart},
    sqlstate::Remedy,
};
pub use self::{
    brief::RefusedSlots,
    changed_groups::{LeftBehind, Probes, Rescheduled},
    discovery::{DiscoveredGroup, DiscoveryTotals, Followed, GroupRead, Outcome, RefusedGroup, Room, Watching},
    error::{ConnectError, DriverError, StoreError},
    explain::{Explained, ExplainedCall, ExplainedGroup, ExplainedMessage, ExplainedSlot},
    forecast::LastDay,
    overview::Overview,
    page::{DueCall, PageData, QuarantinedGroup, ReadCurve},
    past::{GroupsWith, PastRead},
    readers::{
        Asked, AskingLimits, Behind, DueList, ListKey, MemberMessage, NewReaders, RefusedList, ToldReader, Written,
        hash_of,
    },
    rewrite::Rewritten,
    rights::Rights,
    schema::SchemaError,
    seed::{Before, Seed},
    slotting::{FIRST, MessageKey, Slotted},
    sqlstate::ERROR_CLASSES,
    tail::Change,
    watch::{WatchedGroup, WatchedMessage},
};
use self::{
    connections::Connections,
    statement::{query_as, query_scalar},
    transaction::{Fence, LONG, SHORT, Transaction},
};
use crate::{
    clock::{self, Clock},
    domain::{SdkAppId, Timestamp},
    postgres_url::PostgresUrl,
    rules::database_clock::Reading,
    store::connection::StoreConnection,
};

/// How much of an app is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Watched {
    /// Number of active groups.
    pub groups: i64,
    /// Number of active messages in them.
    pub messages: i64,
    /// Number of groups that the service refuses.
    pub quarantined: i64,
}

/// The database of an app.
#[derive(Debug, Clone)]
pub struct Store {
    connections: Connections,
    sdk_app_id: SdkAppId,
    clock: Arc<Clock>,
    /// If set, the poller's writes have no effect once the lease has passed to another process.
    fence: Option<Fence>,
}

impl Store {
    /// Sets up the pool; connections are made when they are needed.
    ///
    /// # Errors
    /// If the URL is invalid.
    pub fn new(url: &SecretString, max_connections: u32, sdk_app_id: SdkAppId) -> Result<Self, ConnectError> {
        let connections = Connections::new(connect_options(url)?, max_connections);
        Ok(Self { connections, sdk_app_id, clock: Arc::new(Clock::new(clock::now)), fence: None })
    }

    /// The same with another clock for this machine.
    #[must_use]
    pub fn beside(self, wall: fn() -> Timestamp) -> Self {
        Self { clock: Arc::new(Clock::new(wall)), ..self }
    }

    /// The same database and clock with separate connections, which never wait for those of this one.
    ///
    /// # Errors
    /// If the URL is invalid.
    pub fn apart(&self, url: &SecretString, max_connections: u32) -> Result<Self, ConnectError> {
        let connections = Connections::new(connect_options(url)?, max_connections);
        connections.name_statements(self.connections.may_name_statements());
        Ok(Self { connections, ..self.clone() })
    }

    /// The same store. With `true`, statements are prepared once per connection, unless a proxy is detected behind
    /// which that would fail; otherwise each time they are used.
    #[must_use]
    pub fn with_prepared_statements(self, may: bool) -> Self {
        self.connections.name_statements(may);
        self
    }

    /// The database's clock, as of its last reading: every check of the lease reads it.
    pub fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }

    /// The database's time, from a new reading.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn now(&self) -> Result<Timestamp, StoreError> {
        self.run("reading the database's time", SHORT, async |database| {
            let asked_at = clock::uptime();
            let time = query_scalar("SELECT clock_timestamp()").fetch_one(database).await?;
            self.note_time(asked_at, time);
            Ok(())
        })
        .await?;
        Ok(self.clock.now())
    }

    /// The oldest PostgreSQL that the schema supports.
    pub const OLDEST_SERVER: i32 = 15;

    /// The major version of the server.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn server_version(&self) -> Result<i32, StoreError> {
        let version = query_scalar("SELECT current_setting('server_version_num')::integer / 10000");
        self.run("reading the server version", SHORT, async |database| version.fetch_one(database).await).await
    }

    /// Counts the app's watched groups and messages.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn count_watched(&self) -> Result<Watched, StoreError> {
        let counts = query_as(
            "SELECT count(*) FILTER (WHERE state = 'active'), count(*) FILTER (WHERE state = 'quarantined'),
                coalesce(sum(messages) FILTER (WHERE state = 'active'), 0)::bigint
             FROM receiptd.watched_groups LEFT JOIN (
                SELECT group_key, count(*) AS messages FROM receiptd.watched_messages WHERE state = 'active' GROUP BY group_key
             ) active USING (group_key) WHERE sdk_app_id = $1",
        )
        .bind(self.app());
        let (groups, quarantined, messages) =
            self.run("counting watched messages", LONG, async |database| counts.fetch_one(database).await).await?;
        Ok(Watched { groups, messages, quarantined })
    }

    /// Adds a reading of the database's clock, asked for at `asked_at`.
    fn note_time(&self, asked_at: Instant, database: Timestamp) {
        self.clock.learn(Reading { asked_at, answered_at: clock::uptime(), database });
    }

    /// The app.
    pub fn sdk_app_id(&self) -> SdkAppId {
        self.sdk_app_id
    }

    /// The app as an SQL value.
    fn app(&self) -> i64 {
        i64::from(self.sdk_app_id.get())
    }

    async fn begin(&self, doing: &'static str, patience: Duration) -> Result<Transaction, StoreError> {
        self.connections.begin(doing, patience).await
    }

    /// Reads the rows of a query within `patience`. It may be sent again on another connection.
    async fn read(
        &self,
        doing: &'static str,
        patience: Duration,
        query: impl Fn() -> Query<'static, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, StoreError> {
        self.connections.read(doing, patience, query).await
    }

    /// Runs `work` in one transaction with the deadline `patience`.
    async fn run<T>(
        &self,
        doing: &'static str,
        patience: Duration,
        work: impl AsyncFnOnce(&mut StoreConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let mut transaction = self.begin(doing, patience).await?;
        let outcome = timeout_at(transaction.deadline, work(transaction.session())).await;
        transaction.end(outcome).await
    }

    /// The same for writes of the poller: they have no effect once the lease has passed to another process.
    async fn run_fenced<T>(
        &self,
        doing: &'static str,
        patience: Duration,
        work: impl AsyncFnOnce(&mut StoreConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        self.run_recording(doing, patience, None, work).await
    }

    /// The same for writes to the time series: `wrote` is the time of the oldest row.
    async fn run_recording<T>(
        &self,
        doing: &'static str,
        patience: Duration,
        wrote: Option<Timestamp>,
        work: impl AsyncFnOnce(&mut StoreConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let mut transaction = self.begin(doing, patience).await?;
        let outcome = timeout_at(transaction.deadline, work(transaction.session())).await;
        match &self.fence {
            Some(fence) => transaction.end_fenced(fence, outcome, wrote).await,
            None => transaction.end(outcome).await,
        }
    }

    /// Lets new connections use the password and the parameters of another URL of the same database. Existing ones
    /// stay.
    ///
    /// # Errors
    /// If the URL is invalid.
    pub fn change_url(&self, url: &SecretString) -> Result<(), ConnectError> {
        self.connections.change_options(connect_options(url)?);
        Ok(())
    }

    /// Closes all connections.
    pub fn close(&self) {
        self.connections.close();
    }
}

fn connect_options(url: &SecretString) -> Result<PgConnectOptions, ConnectError> {
    let url = PostgresUrl::from_environment(url.expose_secret())?;
    let mut options = url.options().clone();
    if options.get_application_name().is_none() {
        options = options.application_name("receiptd");
    }
    // Slow operations show in metrics; logging statements would bury important messages. sqlx sends startup
    // parameters that PgBouncer knows, except extra_float_digits, which binary values don't need.
    Ok(options.disable_statement_logging().extra_float_digits(None))
}
