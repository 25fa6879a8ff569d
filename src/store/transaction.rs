//! Every database operation is one transaction with a deadline on both ends: the server gives up on a statement or a
//! lock before the daemon does, and on a transaction whose client stands still.
//!
//! A connection returns to the pool only after its transaction has ended properly. Any other is discarded: one that
//! did not answer in time may be half-open, and a read-only one belongs to a server that was demoted.

use std::time::Duration;

use chrono::SecondsFormat;
use deadpool::{
    Runtime,
    managed::{Object, Pool, PoolError, TimeoutType, Timeouts},
};
use sqlx::{
    AssertSqlSafe, Executor, PgConnection, Postgres,
    postgres::{PgArguments, PgConnectOptions, PgRow},
    query::Query,
};
use tokio::time::{Instant, error::Elapsed, timeout_at};

use super::{
    StoreError,
    sqlstate::{self, Remedy},
};
use crate::{
    domain::{SdkAppId, Timestamp},
    store::connection::{Connector, StoreConnection},
};

/// Most operations take milliseconds.
pub(super) const SHORT: Duration = Duration::from_secs(10);

/// Operations on very many rows.
pub(super) const LONG: Duration = Duration::from_secs(120);

/// Rolling up a busy hour.
pub(super) const ROLLUP: Duration = Duration::from_secs(900);

/// Rows read one by one, as fast as they are used.
pub(super) const STREAM: Duration = Duration::from_secs(3_600);

/// A renewal of the lease that takes longer is too late.
pub(super) const RENEWAL: Duration = Duration::from_secs(3);

/// Connecting, including DNS and TLS.
const CONNECT: Duration = Duration::from_secs(5);

/// Maximum idle time before the server ends a transaction: a stopped process must not hold locks for long. Less than
/// the time until its lease is over.
const IDLE_MILLIS: u128 = 5_000;

/// The beginning of every transaction.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// The server probes the connection of an operation that may take minutes, so that a firewall does not forget it and
/// the server soon gives up on a lost client. sqlx can't set this on the client's socket; there the operation's
/// deadline bounds the wait.
const KEEPALIVE: &str = "; SET LOCAL tcp_keepalives_idle = 30; SET LOCAL tcp_keepalives_interval = 10; \
    SET LOCAL tcp_keepalives_count = 3; SET LOCAL tcp_user_timeout = 60000";

/// Errors on a connection that the server ended while it was idle: admin_shutdown, crash_shutdown and
/// idle_session_timeout.
const ENDED: [&str; 3] = ["57P01", "57P02", "57P05"];

/// The lease for the poller's writes.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    pub sdk_app_id: SdkAppId,
    pub epoch: i64,
    pub holder: String,
}

/// The connections to a database.
#[derive(Debug, Clone)]
pub(super) struct Connections(Pool<Connector>);

impl Connections {
    /// Connections are made when they are needed.
    pub fn new(options: PgConnectOptions, max: u32) -> Self {
        let timeouts = Timeouts { wait: Some(SHORT), create: Some(CONNECT), recycle: Some(CONNECT) };
        let connector = Connector::new(options, settings(SHORT));
        let builder = Pool::builder(connector).max_size(max as usize).timeouts(timeouts).runtime(Runtime::Tokio1);
        let pool =
            builder.build().unwrap_or_else(|_| unreachable!("a runtime is given, which is all that it asks for"));
        Self(pool)
    }

    /// Begins a transaction with the deadline `patience`.
    pub async fn begin(&self, doing: &'static str, patience: Duration) -> Result<Transaction, StoreError> {
        self.begin_with(|session| begin(session, patience), doing, patience).await
    }

    /// The same for one that changes rows which others may lock: `wait` is its lock timeout, in the format of a
    /// setting.
    pub async fn begin_briefly(
        &self,
        doing: &'static str,
        patience: Duration,
        wait: &str,
    ) -> Result<Transaction, StoreError> {
        let begin =
            |session: &StoreConnection| format!("{}; SET LOCAL lock_timeout = '{wait}'", begin(session, patience));
        self.begin_with(begin, doing, patience).await
    }

    /// The same for a read-only one. It may be idle, since it holds no lock that polling waits for, and the reader of
    /// its rows may be slower than the server, which is done once the last rows are sent.
    pub async fn begin_reading(&self, doing: &'static str, patience: Duration) -> Result<Transaction, StoreError> {
        let begin = |session: &StoreConnection| {
            format!(
                "{}; SET LOCAL transaction_read_only = on; SET LOCAL idle_in_transaction_session_timeout = {}",
                begin(session, patience),
                patience.as_millis(),
            )
        };
        self.begin_with(begin, doing, patience).await
    }

    async fn begin_with(
        &self,
        begin: impl Fn(&StoreConnection) -> String,
        doing: &'static str,
        patience: Duration,
    ) -> Result<Transaction, StoreError> {
        let deadline = Instant::now() + patience;
        loop {
            let mut transaction = self.take(doing, patience, deadline).await?;
            let begin = sqlx::raw_sql(AssertSqlSafe(begin(transaction.session())));
            transaction.has_begun = true;
            match timely(timeout_at(deadline, transaction.session().execute(begin)).await) {
                Ok(_) => return Ok(transaction),
                Err(Some(error)) if transaction.was_outdated(&error) => transaction.learn(&error),
                Err(error) => return Err(transaction.failed(error)),
            }
        }
    }

    /// Reads the rows of a query, within `patience`. In an own session it is sent alone, since a transaction around
    /// it would cost two more round trips. It may be sent again on another connection.
    pub async fn read(
        &self,
        doing: &'static str,
        patience: Duration,
        query: impl Fn() -> Query<'static, Postgres, PgArguments>,
    ) -> Result<Vec<PgRow>, StoreError> {
        let deadline = Instant::now() + patience;
        loop {
            let mut transaction = self.take(doing, patience, deadline).await?;
            transaction.has_begun = !transaction.session().is_own();
            let reading = async {
                let session = transaction.session();
                if !session.is_own() {
                    let begin = AssertSqlSafe(begin(session, patience));
                    session.execute(sqlx::raw_sql(begin)).await?;
                }
                query().fetch_all(session).await
            };
            match timeout_at(deadline, reading).await {
                Ok(Err(error)) if transaction.was_outdated(&error) => transaction.learn(&error),
                outcome => return transaction.end(outcome).await,
            }
        }
    }

    /// Runs one statement, which returns at most one row, as a transaction in a single round trip. It is sent again
    /// if the connection turns out to be closed, so it must be idempotent. Values are part of its text.
    pub async fn at_once(
        &self,
        doing: &'static str,
        patience: Duration,
        statement: &str,
    ) -> Result<Option<PgRow>, StoreError> {
        let deadline = Instant::now() + patience;
        loop {
            let mut transaction = self.take(doing, patience, deadline).await?;
            let all = format!("{}; {statement}; COMMIT", begin(transaction.session(), patience));
            let row = sqlx::raw_sql(AssertSqlSafe(all)).fetch_optional(transaction.session());
            match timely(timeout_at(deadline, row).await) {
                Err(Some(error)) if transaction.was_outdated(&error) => transaction.learn(&error),
                outcome => return transaction.committed(outcome),
            }
        }
    }

    /// A connection without a transaction.
    async fn take(
        &self,
        doing: &'static str,
        patience: Duration,
        deadline: Instant,
    ) -> Result<Transaction, StoreError> {
        let session = match timeout_at(deadline, self.0.get()).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => return Err(counted(unavailable(doing, error))),
            Err(_) => return Err(counted(StoreError::Deadline { doing, patience })),
        };
        let mut transaction = Transaction { session: Some(session), doing, patience, deadline, has_begun: false };
        // Long operations are rare, and best planned for their values.
        transaction.session().name_statements(patience <= SHORT);
        Ok(transaction)
    }

    /// A connection outside of the pool, for work that can't be one transaction of ours.
    pub async fn connect(&self, doing: &'static str) -> Result<PgConnection, StoreError> {
        match timely(timeout_at(Instant::now() + CONNECT, self.0.manager().connect()).await) {
            Ok(connection) => Ok(connection),
            Err(Some(error)) => Err(counted(StoreError::failed(doing, error))),
            Err(None) => Err(counted(StoreError::Deadline { doing, patience: CONNECT })),
        }
    }

    /// Uses other options for new connections.
    pub fn change_options(&self, options: PgConnectOptions) {
        self.0.manager().change_options(options);
    }

    /// Allows or forbids preparing statements once per connection.
    pub fn name_statements(&self, may: bool) {
        self.0.manager().name_statements(may);
    }

    /// Whether statements may be prepared once per connection.
    pub fn may_name_statements(&self) -> bool {
        self.0.manager().may_name()
    }

    /// Closes idle connections; there will be no new ones.
    pub fn close(&self) {
        self.0.close();
    }
}

/// Settings of an operation. Unqualified names mean PostgreSQL's own objects: otherwise a role that may create
/// functions, operators or types in another schema of the search path could make statements of this role call them.
/// Temporary tables come last, since they come first if they are not named.
///
/// A named statement keeps the plan of its first executions until its tables are analyzed. A plan made on empty
/// tables scans them completely, however large they have become: so these statements use indexes. All others are
/// planned each time.
fn settings(patience: Duration) -> Vec<(&'static str, String)> {
    let millis = patience.as_millis();
    let reads_whole_tables = if patience > SHORT { "on" } else { "off" };
    vec![
        ("search_path", "pg_catalog, pg_temp".to_owned()),
        ("statement_timeout", (millis * 9 / 10).to_string()),
        ("lock_timeout", (millis / 3).to_string()),
        ("idle_in_transaction_session_timeout", IDLE_MILLIS.to_string()),
        ("enable_seqscan", reads_whole_tables.to_owned()),
    ]
}

/// The beginning of a transaction. An own session was started with the settings of short ones.
fn begin(session: &StoreConnection, patience: Duration) -> String {
    if session.is_own() && patience == SHORT {
        return BEGIN.to_owned();
    }
    let keepalive = if patience > SHORT { KEEPALIVE } else { "" };
    let settings: String =
        settings(patience).iter().map(|(name, value)| format!("; SET LOCAL {name} = {value}")).collect();
    format!("{BEGIN}{settings}{keepalive}")
}

/// A text as an SQL literal, whatever it contains, and whatever the server does with backslashes.
pub(super) fn literal(text: &str) -> String {
    let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("convert_from(decode('{hex}', 'hex'), 'UTF8')")
}

fn counted(error: StoreError) -> StoreError {
    metrics::counter!("receiptd_database_errors_total", "class" => sqlstate::class(&error)).increment(1);
    error
}

fn unavailable(doing: &'static str, error: PoolError<sqlx::Error>) -> StoreError {
    match error {
        PoolError::Backend(error) => StoreError::failed(doing, error),
        PoolError::Timeout(TimeoutType::Wait) => StoreError::failed(doing, sqlx::Error::PoolTimedOut),
        PoolError::Timeout(_) => StoreError::Deadline { doing, patience: CONNECT },
        PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
            StoreError::failed(doing, sqlx::Error::PoolClosed)
        }
    }
}

/// A transaction in progress, or reading without one. Dropping it closes its connection, and the server rolls back.
#[derive(Debug)]
pub(super) struct Transaction {
    session: Option<Object<Connector>>,
    doing: &'static str,
    patience: Duration,
    /// The deadline of its statements.
    pub deadline: Instant,
    has_begun: bool,
}

impl Transaction {
    pub fn session(&mut self) -> &mut StoreConnection {
        self.session.as_deref_mut().unwrap_or_else(|| unreachable!("it is there until the transaction ends"))
    }

    /// Commits if the statements succeeded in time, otherwise rolls back.
    pub async fn end<T>(self, outcome: Result<Result<T, sqlx::Error>, Elapsed>) -> Result<T, StoreError> {
        self.end_with("COMMIT".to_owned(), outcome).await
    }

    /// The same, if the lease is still that of `fence`: its check and the commit are sent together. If the
    /// transaction has written anything, the check locks the lease row against a successor until the commit.
    ///
    /// `wrote` is the time of the oldest written row: the later hours that have been rolled up are noted, to be
    /// rolled up again. The same lock keeps the roll-up's mark in place.
    pub async fn end_fenced<T>(
        self,
        fence: &Fence,
        outcome: Result<Result<T, sqlx::Error>, Elapsed>,
        wrote: Option<Timestamp>,
    ) -> Result<T, StoreError> {
        let Fence { sdk_app_id, epoch, holder } = fence;
        let wrote = wrote.map_or_else(
            || "NULL".to_owned(),
            |time| format!("timestamptz '{}'", time.to_rfc3339_opts(SecondsFormat::Micros, true)),
        );
        let holder = literal(holder);
        let look = format!("SELECT receiptd.end_under_lease({sdk_app_id}, {epoch}, {holder}, {wrote}); COMMIT");
        self.end_with(look, outcome).await
    }

    async fn end_with<T>(
        mut self,
        commit: String,
        outcome: Result<Result<T, sqlx::Error>, Elapsed>,
    ) -> Result<T, StoreError> {
        let value = match timely(outcome) {
            Ok(value) => value,
            Err(error) => return Err(self.failed(error)),
        };
        if !self.has_begun {
            return self.committed(Ok(value));
        }
        let commit = sqlx::raw_sql(AssertSqlSafe(commit));
        let ended = timely(timeout_at(self.deadline, self.session().execute(commit)).await);
        self.committed(ended.map(|_| value))
    }

    /// The result of a transaction whose commit was sent. If it was made, the connection returns to the pool.
    fn committed<T>(mut self, outcome: Result<T, Option<sqlx::Error>>) -> Result<T, StoreError> {
        match outcome {
            Ok(value) => {
                self.session.take();
                Ok(value)
            }
            Err(Some(error)) if sqlstate::is_lease_lost(&error) => Err(StoreError::LeaseLost { doing: self.doing }),
            Err(error) if is_answer(error.as_ref()) => Err(self.failed(error)),
            Err(error) => {
                let doing = self.doing;
                _ = self.failed(None);
                Err(StoreError::unanswered(doing, error))
            }
        }
    }

    /// Rolls back intentionally: the connection is as good as before.
    pub async fn roll_back(mut self) -> Result<(), StoreError> {
        match timely(timeout_at(self.deadline, self.session().execute("ROLLBACK")).await) {
            Ok(_) => {
                self.session.take();
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Whether the connection was already unusable when it was taken: another may work.
    fn was_outdated(&self, error: &sqlx::Error) -> bool {
        let was_used = self.session.as_ref().is_some_and(|session| Object::metrics(session).recycle_count > 0);
        was_used
            && match sqlstate::sqlstate(error) {
                Some(state) => ENDED.contains(&&*state) || sqlstate::is_about_prepared(error),
                None => matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_)),
            }
    }

    /// Applies what a failure shows about all connections.
    fn learn(&self, error: &sqlx::Error) {
        let Some(pool) = self.session.as_ref().and_then(Object::pool) else { return };
        if sqlstate::has_lost_name(error) {
            pool.manager().has_lost_names();
        }
        if sqlstate::remedy_of(error) == Remedy::Reconnect {
            pool.manager().distrust();
        }
    }

    /// Ends in failure, by an error or (without one) by the deadline. The connection is discarded, and the server
    /// rolls back.
    fn failed(self, error: Option<sqlx::Error>) -> StoreError {
        if let Some(error) = &error {
            self.learn(error);
        }
        let Self { doing, patience, .. } = self;
        let error = match error {
            Some(error) => StoreError::failed(doing, error),
            None => StoreError::Deadline { doing, patience },
        };
        counted(error)
    }
}

/// Whether the server itself reported that it did not commit. A server that shuts down may have committed before it
/// reports that.
fn is_answer(error: Option<&sqlx::Error>) -> bool {
    error.and_then(sqlstate::sqlstate).is_some_and(|state| !state.starts_with("08") && !state.starts_with("57P"))
}

/// The error of a failure, or `None` if it did not end in time.
fn timely<T>(outcome: Result<Result<T, sqlx::Error>, Elapsed>) -> Result<T, Option<sqlx::Error>> {
    outcome.map_err(|_| None).and_then(|ended| ended.map_err(Some))
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.session.take().map(Object::take);
    }
}
