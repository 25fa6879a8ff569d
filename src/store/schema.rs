//! Migrations: plain SQL in `migrations/`, applied in order, each once. An applied migration is never edited, from
//! 0.1.0 on.

use std::time::Duration;

use sqlx::{
    Connection, Executor, PgConnection,
    migrate::{MigrateError, Migrator},
};
use tokio::time::timeout;

use super::{
    Store, StoreError,
    sqlstate::{self, Remedy},
    statement::{query, query_as, query_scalar},
    transaction::{RENEWAL, SHORT},
};
use crate::store::connection::StoreConnection;

/// The schema can't be upgraded to this program's version.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// A newer receiptd has upgraded it.
    #[error(
        "the schema receiptd in this database is at migration {found}, but this receiptd only knows migrations up to \
         {known}: install the newer receiptd that created it, or point database.url elsewhere"
    )]
    Newer {
        /// The newest migration in the database.
        found: i64,
        /// The newest migration of this program.
        known: i64,
    },
    /// The database is unsuitable.
    #[error("the database can't be used: {0}")]
    Unfit(String),
    /// A migration failed or was edited.
    #[error("upgrading the schema receiptd failed{}", remedy_of(.0))]
    Migrate(#[source] MigrateError),
    /// The database could not be queried.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SchemaError {
    /// The remedy, if there is one.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Self::Store(error) => error.advice(),
            _ => None,
        }
    }

    /// The operation, the cause and the remedy, on one line.
    pub fn explain(&self) -> String {
        match self {
            Self::Store(error) => error.explain(),
            Self::Migrate(cause) => format!("{self}: {cause}"),
            Self::Newer { .. } | Self::Unfit(_) => self.to_string(),
        }
    }

    /// Whether retrying may help: the database was unavailable, and the schema is not wrong.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Newer { .. } | Self::Unfit(_) => false,
            Self::Store(_) => true,
            Self::Migrate(error @ (MigrateError::Execute(_) | MigrateError::ExecuteMigration(..))) => {
                sqlstate_of(error)
                    .is_none_or(|sqlstate| matches!(sqlstate::remedy(&sqlstate), Remedy::Retry | Remedy::Reconnect))
            }
            Self::Migrate(_) => false,
        }
    }
}

/// The SQLSTATE with which the server refused a migration.
fn sqlstate_of(error: &MigrateError) -> Option<String> {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else { return None };
    sqlstate::sqlstate(error)
}

fn remedy_of(error: &MigrateError) -> String {
    let advice = sqlstate_of(error).and_then(|sqlstate| sqlstate::advice(&sqlstate));
    advice.map_or_else(String::new, |advice| format!(" ({advice})"))
}

/// Unqualified names mean PostgreSQL's own objects, as in every other transaction.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL search_path = pg_catalog, pg_temp";

/// A migration may rewrite large tables.
const PATIENCE: Duration = Duration::from_secs(6 * 3_600);

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.dangerous_set_table_name("receiptd.schema_migrations");
    // Its lock belongs to the session, which a proxy that pools transactions does not keep.
    migrator.set_locking(false);
    migrator
}

/// Applies missing migrations, all or nothing. A second process waits, and then finds nothing to do.
async fn run(connection: &mut PgConnection, migrator: &Migrator) -> Result<(), MigrateError> {
    let mut transaction = connection.begin_with(BEGIN).await?;
    // IF NOT EXISTS requires the right to create schemas even if it exists.
    let (has_schema, has_partitions, has_table): (bool, bool, bool) = query_as(
        "SELECT to_regnamespace('receiptd') IS NOT NULL, to_regnamespace('receiptd_partitions') IS NOT NULL,
            to_regclass('receiptd.schema_migrations') IS NOT NULL",
    )
    .fetch_one(&mut *transaction)
    .await?;
    if !has_schema {
        transaction.execute("CREATE SCHEMA receiptd").await?;
    }
    if !has_partitions {
        transaction.execute("CREATE SCHEMA receiptd_partitions").await?;
    }
    if has_table {
        // Only the owner can hold it, unlike an advisory lock. Before the table exists, unique names prevent a race.
        transaction.execute("LOCK TABLE receiptd.schema_migrations IN SHARE UPDATE EXCLUSIVE MODE").await?;
    }
    migrator.run_direct(None, &mut *transaction, false).await?;
    // The library names its statements, and behind a proxy the next client would meet them.
    transaction.execute("DEALLOCATE ALL").await?;
    Ok(transaction.commit().await?)
}

/// Whether another process created the schema or its first table at the same time: unique_violation,
/// duplicate_schema, duplicate_table.
fn came_second(error: &MigrateError) -> bool {
    matches!(error, MigrateError::Execute(_))
        && sqlstate_of(error).is_some_and(|state| ["23505", "42P06", "42P07"].contains(&state.as_str()))
}

impl Store {
    /// Applies missing migrations. Safe to call from several processes concurrently.
    ///
    /// # Errors
    /// If the database is unsuitable, the schema is newer than this program, or a migration fails.
    pub async fn migrate(&self) -> Result<(), SchemaError> {
        self.refuse_unfit_database().await?;
        let migrator = migrator();
        let known = migrator.iter().map(|migration| migration.version).max().unwrap_or_default();
        let found = self.schema_version().await?;
        if let Some(found) = found.filter(|found| *found > known) {
            return Err(SchemaError::Newer { found, known });
        }
        if found == Some(known) {
            return self.grant_roles().await;
        }
        let doing = "upgrading the schema receiptd";
        let mut connection = self.connections.connect(doing).await?;
        let ran = timeout(PATIENCE, async {
            match run(&mut connection, &migrator).await {
                Err(error) if came_second(&error) => run(&mut connection, &migrator).await,
                ran => ran,
            }
        });
        ran.await.map_err(|_| StoreError::Deadline { doing, patience: PATIENCE })?.map_err(SchemaError::Migrate)?;
        self.grant_roles().await
    }

    /// Grants the roles for analysts and applications their missing rights: they may have been created after the
    /// schema.
    async fn grant_roles(&self) -> Result<(), SchemaError> {
        let grant = query("SELECT receiptd.grant_roles()");
        let doing = "granting rights to the roles";
        self.run(doing, SHORT, async |database| grant.execute(database).await).await?;
        Ok(())
    }

    /// The newest migration in the database, if it has the schema at all.
    ///
    /// # Errors
    /// If the database can't be queried.
    pub async fn schema_version(&self) -> Result<Option<i64>, StoreError> {
        self.run("reading the schema version of receiptd", RENEWAL, async |database| version(database).await).await
    }

    /// The newest migration of this program.
    pub fn known_schema_version() -> i64 {
        migrator().iter().map(|migration| migration.version).max().unwrap_or_default()
    }
}

async fn version(connection: &mut StoreConnection) -> Result<Option<i64>, sqlx::Error> {
    let exists: bool = query_scalar("SELECT to_regclass('receiptd.schema_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !exists {
        return Ok(None);
    }
    query_scalar("SELECT max(version) FROM receiptd.schema_migrations WHERE success").fetch_one(connection).await
}
