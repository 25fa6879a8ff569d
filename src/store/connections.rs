//! The connections to a database, and the beginning of each operation on it.
//!
//! Every operation is one transaction with a deadline on both ends: the server gives up on a statement or a lock before
//! the daemon does, and on a transaction whose client stands still.

use std::time::Duration;

use deadpool::{
    Runtime,
    managed::{Pool, PoolError, TimeoutType, Timeouts},
};
use sqlx::{
    AssertSqlSafe, Executor, PgConnection, Postgres,
    postgres::{PgArguments, PgConnectOptions, PgRow},
    query::Query,
};
use tokio::time::{Instant, timeout_at};

use super::{
    StoreError,
    connection::{Connector, StoreConnection},
    transaction::{SHORT, Transaction, counted, timely},
};

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
    /// its rows may be slower than the server.
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
        Ok(Transaction::on(session, doing, patience, deadline))
    }

    /// A connection outside of the pool, for work that can't be one transaction of ours.
    pub async fn connect(&self, doing: &'static str) -> Result<PgConnection, StoreError> {
        match timely(timeout_at(Instant::now() + CONNECT, self.0.manager().connect()).await) {
            Ok(connection) => Ok(connection),
            Err(Some(error)) => Err(counted(StoreError::failed(doing, error))),
            Err(None) => Err(counted(StoreError::Deadline { doing, patience: CONNECT })),
        }
    }

    /// Uses these options for new connections.
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
