//! Postgres: the watch list, the schedule and the time series. All SQL of the daemon is here and nothing of HTTP.

mod flush;
mod partitions;
mod recorder;
mod schema;
mod slots;
mod slotting;
mod upkeep;
mod watch;

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    ConnectOptions, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub use self::{
    recorder::{Committed, Recorder, RecorderSettings},
    schema::SchemaError,
    slotting::Slotted,
    watch::{WatchedGroup, WatchedMessage},
};
use crate::domain::SdkAppId;

/// A database operation that failed: what was being done, and why.
#[derive(Debug, thiserror::Error)]
#[error("{doing} failed")]
pub struct StoreError {
    /// What was being done, and to what.
    pub doing: &'static str,
    /// What the database or the way to it said.
    #[source]
    pub source: sqlx::Error,
}

/// Adds what was being done to a database error.
trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError>;
}

impl<T> Doing<T> for Result<T, sqlx::Error> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError { doing, source })
    }
}

/// The database can't be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL can't be read. What it says is not repeated: it holds the password.
    #[error("database.url is not a Postgres URL such as postgres://receiptd@db.example/app: {0}")]
    Url(String),
}

/// A pool of connections to the database of one app.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    sdk_app_id: SdkAppId,
}

impl Store {
    /// Sets up the pool; connections are made when they are needed.
    ///
    /// # Errors
    /// If the URL is none.
    pub fn new(url: &SecretString, max_connections: u32, sdk_app_id: SdkAppId) -> Result<Self, ConnectError> {
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(connect_options(url)?);
        Ok(Self { pool, sdk_app_id })
    }

    /// The oldest PostgreSQL that the schema is written for and tested with.
    pub const OLDEST_SERVER: i32 = 15;

    /// The major version of the server.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn server_version(&self) -> Result<i32, StoreError> {
        sqlx::query_scalar("SELECT current_setting('server_version_num')::integer / 10000")
            .fetch_one(&self.pool)
            .await
            .doing("asking the database for its version")
    }

    /// How many groups of this app are polled, and how many messages in them.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn count_watched(&self) -> Result<(i64, i64), StoreError> {
        sqlx::query_as(
            "SELECT count(DISTINCT g.group_key), count(m.msg_seq) FROM receiptd.watched_groups g
             LEFT JOIN receiptd.watched_messages m ON m.group_key = g.group_key AND m.state = 'active'
             WHERE g.sdk_app_id = $1 AND g.state = 'active'",
        )
        .bind(self.app())
        .fetch_one(&self.pool)
        .await
        .doing("counting what is watched")
    }

    /// Makes one round trip.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1").execute(&self.pool).await.doing("asking the database for a sign of life").map(drop)
    }

    /// The app, as SQL knows it.
    fn app(&self) -> i64 {
        i64::from(self.sdk_app_id.get())
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// Reads the URL. One without a user gets the name of the operating system's user, as `psql` does it.
fn connect_options(url: &SecretString) -> Result<PgConnectOptions, ConnectError> {
    let options: PgConnectOptions = url.expose_secret().parse().map_err(|error: sqlx::Error| {
        let text = error.to_string();
        // Errors of the URL parser quote nothing, but nobody promises that they never will.
        ConnectError::Url(if text.contains(url.expose_secret()) { "it can't be parsed".to_owned() } else { text })
    })?;
    let named = ["PGUSER", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let options = match (options.get_username(), named) {
        ("anonymous" | "", Some(user)) => options.username(&user),
        _ => options,
    };
    // What is slow shows in metrics; statements in the log would bury what matters.
    Ok(options.application_name("receiptd").disable_statement_logging())
}
