//! A session: one connection to the database, and whether what is set and prepared in it stays there.
//!
//! Behind a proxy that pools transactions (PgBouncer) the next transaction may meet another process of the server, with other
//! settings, where the name of a statement means nothing, or another statement. So a session is tried with a token among its startup parameters:
//! it is a process's own if that process knows the token. Such a proxy refuses the parameter, or drops it. In any
//! other, statements must never have a name, and settings hold for a transaction only.

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

/// A connection is replaced after this time: the name of the server may lead elsewhere by now.
const MAX_AGE: Duration = Duration::from_secs(30 * 60);

/// The parameter that holds the token.
const TOKEN: &str = "receiptd.session";

/// One connection.
#[derive(Debug)]
pub(super) struct Session {
    connection: PgConnection,
    /// Whether the same process of the server is met in every transaction.
    is_own: bool,
    /// Whether statements get names, under which they are prepared once.
    names: bool,
}

impl Session {
    fn shared(connection: PgConnection) -> Self {
        Self { connection, is_own: false, names: false }
    }

    /// Whether the same process of the server is met in every transaction: what is set and prepared in the session stays.
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    /// Has the statements that follow named, if that can be.
    pub fn name_statements(&mut self, names: bool) {
        self.names = names && self.is_own;
    }
}

impl<'c> Executor<'c> for &'c mut Session {
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

/// A query by name or without.
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

/// Makes sessions, and says which are not to be used again.
#[derive(Debug)]
pub(super) struct Connector {
    options: Mutex<PgConnectOptions>,
    /// What a session of one's own is started with.
    settings: Vec<(&'static str, String)>,
    /// Sessions that were made before are thrown away.
    distrusted: Mutex<Instant>,
    /// Whether it is tried to have sessions of one's own.
    tries: AtomicBool,
    /// Whether names are wanted at all.
    may_name: AtomicBool,
}

impl Connector {
    pub fn new(options: PgConnectOptions, settings: Vec<(&'static str, String)>) -> Self {
        let distrusted = Mutex::new(Instant::now());
        Self { options: options.into(), settings, distrusted, tries: true.into(), may_name: true.into() }
    }

    /// Makes connections by other options from now on.
    pub fn change_options(&self, options: PgConnectOptions) {
        *self.options.lock().unwrap_or_else(PoisonError::into_inner) = options;
        self.tries.store(self.may_name.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Says whether statements may have names at all.
    pub fn name_statements(&self, may: bool) {
        self.may_name.store(may, Ordering::Relaxed);
        self.tries.store(may, Ordering::Relaxed);
    }

    pub fn may_name(&self) -> bool {
        self.may_name.load(Ordering::Relaxed)
    }

    /// Sessions that there are by now are not used again.
    pub fn distrust(&self) {
        *self.distrusted.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// A name turned out to be lost, or to be another's: something on the way pools transactions all the same.
    pub fn has_lost_names(&self) {
        if self.tries.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                "the database has lost a prepared statement: statements are prepared anew each time from now on. If a proxy is \
                 on the way, set database.prepared_statements = false"
            );
        }
    }

    /// A connection of which nothing is known.
    pub async fn connect(&self) -> Result<PgConnection, Error> {
        let options = self.options.lock().unwrap_or_else(PoisonError::into_inner).clone();
        PgConnection::connect_with(&options).await
    }

    /// A connection that was asked for with a token and the settings, and whether these reached the server; `None` if that was
    /// refused.
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

/// Whether a connection may have been refused for its startup parameters: protocol_violation, which PgBouncer says,
/// feature_not_supported, or an error of data, syntax or rights.
fn is_about_parameters(error: &Error) -> bool {
    sqlstate::sqlstate(error)
        .is_some_and(|state| state == "08P01" || ["0A", "22", "42"].iter().any(|class| state.starts_with(class)))
}

impl Manager for Connector {
    type Type = Session;
    type Error = Error;

    async fn create(&self) -> Result<Session, Error> {
        if !self.tries.load(Ordering::Relaxed) {
            return Ok(Session::shared(self.connect().await?));
        }
        let connection = match self.connect_with_token().await? {
            Some((connection, true)) => return Ok(Session { connection, is_own: true, names: false }),
            Some((connection, false)) => connection,
            None => self.connect().await?,
        };
        if self.tries.swap(false, Ordering::Relaxed) {
            tracing::info!("a proxy is on the way to the database: statements are prepared anew each time");
        }
        Ok(Session::shared(connection))
    }

    async fn recycle(&self, _: &mut Session, metrics: &Metrics) -> RecycleResult<Error> {
        let distrusted = *self.distrusted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_good = metrics.created > distrusted && metrics.age() < MAX_AGE;
        if is_good { Ok(()) } else { Err(RecycleError::message("too old")) }
    }
}
