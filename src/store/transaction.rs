//! Every operation on the database is one transaction with a deadline, on both ends: the server gives up on a statement
//! or a lock before the daemon does, and on a transaction whose client stands still.
//!
//! A connection goes back to the pool only after its transaction has ended in good order. Any other is thrown away: one
//! that did not answer in time may be half-open, and one that can only read belongs to a server that was demoted.

use std::time::Duration;

use deadpool::{
    Runtime,
    managed::{Object, Pool, PoolError, TimeoutType, Timeouts},
};
use sqlx::{AssertSqlSafe, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::time::{Instant, error::Elapsed, timeout_at};

use super::{
    StoreError,
    session::{Connector, Session},
    sqlstate::{self, Remedy},
    statement::query_scalar,
};
use crate::domain::{SdkAppId, Timestamp};

/// Most operations take milliseconds.
pub(super) const SHORT: Duration = Duration::from_secs(10);

/// Operations on very many rows.
pub(super) const LONG: Duration = Duration::from_secs(120);

/// Rolling up an hour of which there is much.
pub(super) const ROLLUP: Duration = Duration::from_secs(900);

/// Rows that are read one by one, as fast as somebody else takes them.
pub(super) const STREAM: Duration = Duration::from_secs(3_600);

/// A renewal of the lease that takes longer comes too late.
pub(super) const RENEWAL: Duration = Duration::from_secs(3);

/// Connecting, with a name to be resolved and TLS.
const CONNECT: Duration = Duration::from_secs(5);

/// A transaction may stand idle for so long before the server ends it: a process that was stopped must not hold locks
/// until somebody finds it. Less than the time after which the lease of such a process is over.
const IDLE_MILLIS: u128 = 5_000;

/// How every transaction begins. Names without a schema mean PostgreSQL's own: whoever may create a function, an operator or
/// a type in another schema of the search path could otherwise have statements of this role call theirs. Temporary tables come
/// last, since they come first where they are not named.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL search_path = pg_catalog, pg_temp";

/// The server probes the connection of an operation that may take minutes: a firewall between the two does not forget it, and
/// the server soon gives up on a client that is gone. sqlx can't set this on the client's socket; there the deadline of the
/// operation bounds the wait.
const KEEPALIVE: &str = "; SET LOCAL tcp_keepalives_idle = 30; SET LOCAL tcp_keepalives_interval = 10; \
    SET LOCAL tcp_keepalives_count = 3; SET LOCAL tcp_user_timeout = 60000";

/// What the server says on a connection that it has ended while nobody used it: admin_shutdown, crash_shutdown and
/// idle_session_timeout.
const ENDED: [&str; 3] = ["57P01", "57P02", "57P05"];

/// The lease under which the poller writes.
#[derive(Debug, Clone)]
pub(super) struct Fence {
    pub sdk_app_id: SdkAppId,
    pub epoch: i64,
    pub holder: String,
}

/// The connections to one database.
#[derive(Debug, Clone)]
pub(super) struct Connections(Pool<Connector>);

impl Connections {
    /// Connections are made when they are needed.
    pub fn new(options: PgConnectOptions, max: u32) -> Self {
        let timeouts = Timeouts { wait: Some(SHORT), create: Some(CONNECT), recycle: Some(CONNECT) };
        let builder =
            Pool::builder(Connector::new(options)).max_size(max as usize).timeouts(timeouts).runtime(Runtime::Tokio1);
        let pool =
            builder.build().unwrap_or_else(|_| unreachable!("a runtime is given, which is all that it asks for"));
        Self(pool)
    }

    /// Begins a transaction that is to end within `patience`.
    pub async fn begin(&self, doing: &'static str, patience: Duration) -> Result<Transaction, StoreError> {
        self.begin_with(begin(patience), doing, patience).await
    }

    /// The same for one that only reads. It may stand idle: it holds no lock that anybody polls against, and who takes the
    /// rows may be slower than the server, which is done when the last of them are on their way.
    pub async fn begin_reading(&self, doing: &'static str, patience: Duration) -> Result<Transaction, StoreError> {
        let begin = format!(
            "{}; SET LOCAL transaction_read_only = on; SET LOCAL idle_in_transaction_session_timeout = {}",
            begin(patience),
            patience.as_millis(),
        );
        self.begin_with(begin, doing, patience).await
    }

    async fn begin_with(
        &self,
        begin: String,
        doing: &'static str,
        patience: Duration,
    ) -> Result<Transaction, StoreError> {
        let deadline = Instant::now() + patience;
        loop {
            let connection = match timeout_at(deadline, self.0.get()).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => return Err(counted(unavailable(doing, error))),
                Err(_) => return Err(counted(StoreError::Deadline { doing, patience })),
            };
            let was_used = Object::metrics(&connection).recycle_count > 0;
            let mut transaction = Transaction { connection: Some(connection), doing, patience, deadline };
            // What takes long is done seldom, and is planned best for the values that it is about.
            transaction.connection().name_statements(patience <= SHORT);
            let begin = AssertSqlSafe(begin.clone());
            match timely(timeout_at(deadline, transaction.connection().execute(sqlx::raw_sql(begin))).await) {
                Ok(_) => return Ok(transaction),
                // The server has closed it meanwhile: no failure, the next one may work.
                Err(Some(error))
                    if was_used && sqlstate::sqlstate(&error).is_none_or(|state| ENDED.contains(&&*state)) => {}
                Err(error) => return Err(transaction.failed(error)),
            }
        }
    }

    /// A connection outside of the pool, for what can't be one transaction of ours.
    pub async fn connect(&self, doing: &'static str) -> Result<PgConnection, StoreError> {
        match timely(timeout_at(Instant::now() + CONNECT, self.0.manager().connect()).await) {
            Ok(connection) => Ok(connection),
            Err(Some(source)) => Err(counted(StoreError::Failed { doing, source })),
            Err(None) => Err(counted(StoreError::Deadline { doing, patience: CONNECT })),
        }
    }

    /// Makes connections by other options from now on.
    pub fn change_options(&self, options: PgConnectOptions) {
        self.0.manager().change_options(options);
    }

    /// Says whether statements may be prepared once a connection.
    pub fn name_statements(&self, may: bool) {
        self.0.manager().name_statements(may);
    }

    /// Whether statements may be prepared once a connection.
    pub fn may_name_statements(&self) -> bool {
        self.0.manager().may_name()
    }

    /// Closes the connections that are not in use; there will be no others.
    pub fn close(&self) {
        self.0.close();
    }
}

fn begin(patience: Duration) -> String {
    let millis = patience.as_millis();
    let keepalive = if patience > SHORT { KEEPALIVE } else { "" };
    format!(
        "{BEGIN}; SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; \
         SET LOCAL idle_in_transaction_session_timeout = {IDLE_MILLIS}{keepalive}",
        millis * 9 / 10,
        millis / 3,
    )
}

fn counted(error: StoreError) -> StoreError {
    metrics::counter!("receiptd_database_errors_total", "class" => sqlstate::class(&error)).increment(1);
    error
}

fn unavailable(doing: &'static str, error: PoolError<sqlx::Error>) -> StoreError {
    match error {
        PoolError::Backend(source) => StoreError::Failed { doing, source },
        PoolError::Timeout(TimeoutType::Wait) => StoreError::Failed { doing, source: sqlx::Error::PoolTimedOut },
        PoolError::Timeout(_) => StoreError::Deadline { doing, patience: CONNECT },
        PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => {
            StoreError::Failed { doing, source: sqlx::Error::PoolClosed }
        }
    }
}

/// A transaction that is under way. One that is dropped takes its connection with it, and the server rolls it back.
#[derive(Debug)]
pub(super) struct Transaction {
    connection: Option<Object<Connector>>,
    doing: &'static str,
    patience: Duration,
    /// Its statements must have ended by then.
    pub deadline: Instant,
}

impl Transaction {
    pub fn connection(&mut self) -> &mut Session {
        self.connection.as_deref_mut().unwrap_or_else(|| unreachable!("it is there until the transaction ends"))
    }

    /// Commits if the statements succeeded in time, else rolls back.
    pub async fn end<T>(mut self, outcome: Result<Result<T, sqlx::Error>, Elapsed>) -> Result<T, StoreError> {
        let value = match timely(outcome) {
            Ok(value) => value,
            Err(error) => return Err(self.failed(error)),
        };
        match timely(timeout_at(self.deadline, self.connection().execute("COMMIT")).await) {
            Ok(_) => {
                self.connection.take();
                Ok(value)
            }
            Err(error) if is_answer(error.as_ref()) => Err(self.failed(error)),
            Err(source) => {
                let doing = self.doing;
                _ = self.failed(None);
                Err(StoreError::Unanswered { doing, source })
            }
        }
    }

    /// The same, if the lease is still the one of `fence`. If the transaction has written anything, the row of the lease is
    /// locked against a successor from that look until the commit.
    ///
    /// `wrote` is the time of the oldest row that was written: the hours since then that have been rolled up already are
    /// noted, to be rolled up again. The same lock keeps the mark of the roll-up where it is.
    pub async fn end_fenced<T>(
        mut self,
        fence: &Fence,
        outcome: Result<Result<T, sqlx::Error>, Elapsed>,
        wrote: Option<Timestamp>,
    ) -> Result<T, StoreError> {
        if matches!(outcome, Ok(Ok(_))) {
            let held = query_scalar::<bool>(
                "WITH changed AS MATERIALIZED (
                    -- Without a transaction id nothing was written: there is nothing to protect, and locking the row would be
                    -- the only write.
                    SELECT FROM (SELECT pg_current_xact_id_if_assigned()) AS current (id) WHERE id IS NOT NULL
                ), held AS (
                    SELECT rolling_up_until FROM receiptd.poller_leases
                    WHERE sdk_app_id = $1 AND epoch = $2 AND holder = $3 AND EXISTS (SELECT FROM changed) FOR SHARE
                ), noted AS (
                    -- Its own hour, and those since, at the end of which something else was known. A clock that is years
                    -- behind is not followed over all of them.
                    INSERT INTO receiptd.rollup_redo (sdk_app_id, hour)
                    SELECT $1, late.hour FROM held CROSS JOIN LATERAL (
                        SELECT date_trunc('hour', $4, 'UTC') AS hour
                        UNION
                        SELECT generate_series(
                            date_trunc('hour', greatest($4, held.rolling_up_until - interval '7 days'), 'UTC'),
                            held.rolling_up_until - interval '1 microsecond', '1 hour')
                    ) late
                    WHERE $4 < held.rolling_up_until
                )
                SELECT true FROM held
                UNION ALL
                SELECT true FROM receiptd.poller_leases
                WHERE sdk_app_id = $1 AND epoch = $2 AND holder = $3 AND NOT EXISTS (SELECT FROM changed)",
            );
            let app = i64::from(fence.sdk_app_id.get());
            let held = held.bind(app).bind(fence.epoch).bind(fence.holder.clone()).bind(wrote);
            match timely(timeout_at(self.deadline, held.fetch_optional(self.connection())).await) {
                Ok(Some(_)) => {}
                Ok(None) => return Err(StoreError::LeaseLost { doing: self.doing }),
                Err(error) => return Err(self.failed(error)),
            }
        }
        self.end(outcome).await
    }

    /// Ends in failure, by an error or (without one) by the deadline. The connection is thrown away, and the server rolls
    /// back.
    fn failed(self, error: Option<sqlx::Error>) -> StoreError {
        let connector = self.connection.as_ref().and_then(Object::pool);
        if let (Some(pool), Some(error)) = (connector, &error) {
            if sqlstate::has_lost_name(error) {
                pool.manager().has_lost_names();
            }
            if sqlstate::remedy_of(error) == Remedy::Reconnect {
                pool.manager().distrust();
            }
        }
        let Self { doing, patience, .. } = self;
        let error = match error {
            Some(source) => StoreError::Failed { doing, source },
            None => StoreError::Deadline { doing, patience },
        };
        counted(error)
    }
}

/// Whether the server itself said that it did not commit. A server that shuts down may have committed before it says so.
fn is_answer(error: Option<&sqlx::Error>) -> bool {
    error.and_then(sqlstate::sqlstate).is_some_and(|state| !state.starts_with("08") && !state.starts_with("57P"))
}

/// The error of what ended badly, or `None` if it did not end in time.
fn timely<T>(outcome: Result<Result<T, sqlx::Error>, Elapsed>) -> Result<T, Option<sqlx::Error>> {
    outcome.map_err(|_| None).and_then(|ended| ended.map_err(Some))
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.connection.take().map(Object::take);
    }
}
