//! A session: a connection to the database, and whether its settings and prepared statements persist.
//!
//! Behind a proxy that pools transactions (PgBouncer) the next transaction may use another server process, with other
//! settings, where a statement's name is unknown or means another statement. So a session is tested with a token
//! among its startup parameters: it is the process's own if the server process knows the token. Such a proxy refuses
//! the parameter, or drops it. In any other session, statements must never have a name, and settings only hold for a
//! transaction.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use futures::{future::BoxFuture, stream::BoxStream};
use sqlx::{
    Connection, Describe, Either, Error, Execute, Executor, PgConnection, Postgres, Row, SqlStr,
    error::BoxDynError,
    postgres::{PgArguments, PgConnectOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

use super::sqlstate;

/// Maximum age of a connection: the server's name may lead elsewhere by then.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);

/// The parameter with the token.
const TOKEN: &str = "receiptd.session";

/// A connection.
#[derive(Debug)]
pub(crate) struct StoreConnection {
    connection: PgConnection,
    /// Whether all transactions use the same server process.
    is_own: bool,
    /// Whether statements get names, by which they are prepared once.
    names: bool,
}

impl StoreConnection {
    fn shared(connection: PgConnection) -> Self {
        Self { connection, is_own: false, names: false }
    }

    /// Whether all transactions use the same server process: settings and prepared statements persist.
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    /// Names the following statements, if possible.
    pub fn name_statements(&mut self, names: bool) {
        self.names = names && self.is_own;
    }

    /// Sends the data of a `COPY … FROM STDIN`.
    pub async fn copy(&mut self, sql: &str, data: &[u8]) -> Result<(), Error> {
        let mut copy = self.connection.copy_in_raw(sql).await?;
        copy.send(data).await?;
        copy.finish().await.map(drop)
    }
}

impl<'c> Executor<'c> for &'c mut StoreConnection {
    type Database = Postgres;

    fn fetch_many<'e, 'q, E>(self, query: E) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>
    where
        'c: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        self.connection.fetch_many(Sent { query, is_named: self.names })
    }

    fn fetch_optional<'e, 'q, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: Execute<'q, Postgres>,
        'q: 'e,
        E: 'q,
    {
        self.connection.fetch_optional(Sent { query, is_named: self.names })
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        self.connection.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        self.connection.describe(sql)
    }
}

/// A query with or without a name.
struct Sent<E> {
    query: E,
    is_named: bool,
}

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Sent<E> {
    fn sql(self) -> SqlStr {
        self.query.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.query.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<PgArguments>, BoxDynError> {
        self.query.take_arguments()
    }

    fn persistent(&self) -> bool {
        self.is_named
    }
}

/// Creates sessions, and decides which must not be used again.
#[derive(Debug)]
pub(crate) struct Connector {
    options: Mutex<PgConnectOptions>,
    /// Startup settings of own sessions.
    settings: Vec<(&'static str, String)>,
    /// Sessions created before this time are discarded.
    distrusted: Mutex<Instant>,
    /// Whether own sessions are tried.
    tries: AtomicBool,
    /// Whether names are allowed at all.
    may_name: AtomicBool,
}

impl Connector {
    pub fn new(options: PgConnectOptions, settings: Vec<(&'static str, String)>) -> Self {
        let distrusted = Mutex::new(Instant::now());
        Self { options: options.into(), settings, distrusted, tries: true.into(), may_name: true.into() }
    }

    /// Uses other options for new connections.
    pub fn change_options(&self, options: PgConnectOptions) {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
        self.tries.store(self.may_name.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Allows or forbids statement names.
    pub fn name_statements(&self, may: bool) {
        self.may_name.store(may, Ordering::Relaxed);
        self.tries.store(may, Ordering::Relaxed);
    }

    pub fn may_name(&self) -> bool {
        self.may_name.load(Ordering::Relaxed)
    }

    /// Lets present sessions not be used again.
    pub fn distrust(&self) {
        *self.distrusted.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Notes that a name was unknown or meant another statement: a proxy pools transactions nevertheless.
    pub fn has_lost_names(&self) {
        if self.tries.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                "a prepared statement is missing on the server: from now on statements are prepared each time they \
                 are used. If there is a proxy, set database.prepared_statements = false"
            );
        }
    }

    /// An untested connection.
    pub async fn connect(&self) -> Result<PgConnection, Error> {
        let options = self.options.lock().unwrap_or_else(PoisonError::into_inner).clone();
        PgConnection::connect_with(&options).await
    }

    /// A connection with a token and the settings, and whether these reached the server; `None` if that was refused.
    async fn connect_with_token(&self) -> Result<Option<(PgConnection, bool)>, Error> {
        let token = format!("{:016x}", fastrand::u64(..));
        let options = self.options.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let options =
            options.options(self.settings.iter().map(|(name, value)| (*name, value))).options([(TOKEN, &token)]);
        let mut connection = match PgConnection::connect_with(&options).await {
            Ok(connection) => connection,
            Err(error) if is_about_parameters(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let asked = sqlx::raw_sql("SELECT pg_catalog.current_setting('receiptd.session', true)");
        let found: Option<String> = asked.fetch_one(&mut connection).await?.try_get(0)?;
        Ok(Some((connection, found == Some(token))))
    }
}

/// Whether a connection may have been refused for its startup parameters: protocol_violation, as PgBouncer reports,
/// feature_not_supported, or an error of data, syntax or rights.
fn is_about_parameters(error: &Error) -> bool {
    sqlstate::sqlstate(error)
        .is_some_and(|state| state == "08P01" || ["0A", "22", "42"].iter().any(|class| state.starts_with(class)))
}

impl Manager for Connector {
    type Type = StoreConnection;
    type Error = Error;

    async fn create(&self) -> Result<StoreConnection, Error> {
        if !self.tries.load(Ordering::Relaxed) {
            return Ok(StoreConnection::shared(self.connect().await?));
        }
        let connection = match self.connect_with_token().await? {
            Some((connection, true)) => return Ok(StoreConnection { connection, is_own: true, names: false }),
            Some((connection, false)) => connection,
            None => self.connect().await?,
        };
        if self.tries.swap(false, Ordering::Relaxed) {
            tracing::info!(
                "there is a proxy in front of the database: statements are prepared each time they are used"
            );
        }
        Ok(StoreConnection::shared(connection))
    }

    async fn recycle(&self, _: &mut StoreConnection, metrics: &Metrics) -> RecycleResult<Error> {
        let distrusted = *self.distrusted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_good = metrics.created > distrusted && metrics.age() < MAX_AGE;
        if is_good { Ok(()) } else { Err(RecycleError::message("too old")) }
    }
}
