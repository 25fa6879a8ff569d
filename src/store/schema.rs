//! Migrations: plain SQL in `migrations/`, applied in order, each once. An applied migration is never edited.

use sqlx::migrate::{MigrateError, Migrator};

use super::{Doing, Store, StoreError};

/// The schema can't be brought to the state that this receiptd knows.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// A newer receiptd was here.
    #[error(
        "the schema receiptd in this database has migration {found}, and this receiptd knows only up to {known}: it was made by \
         a newer receiptd. Install that version, or point database.url elsewhere"
    )]
    Newer {
        /// The newest migration in the database.
        found: i64,
        /// The newest migration that this program has.
        known: i64,
    },
    /// A migration failed or was edited.
    #[error("bringing the schema receiptd up to date failed")]
    Migrate(#[source] MigrateError),
    /// The database could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SchemaError {
    /// Whether trying again may help: the database was away, and not the schema wrong.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Newer { .. } => false,
            Self::Store(_) => true,
            Self::Migrate(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => {
                !matches!(error, sqlx::Error::Database(_))
            }
            Self::Migrate(_) => false,
        }
    }
}

fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.dangerous_set_table_name("receiptd.schema_migrations");
    migrator.create_schema("receiptd");
    migrator
}

impl Store {
    /// Applies the migrations that are missing. Safe to call from several processes at once.
    ///
    /// # Errors
    /// If the schema is newer than this program, or a migration fails.
    pub async fn migrate(&self) -> Result<(), SchemaError> {
        let migrator = migrator();
        let known = migrator.iter().map(|migration| migration.version).max().unwrap_or_default();
        let found = self.schema_version().await?;
        if let Some(found) = found.filter(|found| *found > known) {
            return Err(SchemaError::Newer { found, known });
        }
        if found == Some(known) {
            return Ok(());
        }
        migrator.run(&self.pool).await.map_err(SchemaError::Migrate)
    }

    /// The newest migration that the database has, if it has the schema at all.
    ///
    /// # Errors
    /// If the database can't be asked.
    pub async fn schema_version(&self) -> Result<Option<i64>, StoreError> {
        const DOING: &str = "reading the version of the schema receiptd";
        let exists: bool = sqlx::query_scalar("SELECT to_regclass('receiptd.schema_migrations') IS NOT NULL")
            .fetch_one(&self.pool)
            .await
            .doing(DOING)?;
        if !exists {
            return Ok(None);
        }
        let query = sqlx::query_scalar("SELECT max(version) FROM receiptd.schema_migrations WHERE success");
        query.fetch_one(&self.pool).await.doing(DOING)
    }

    /// The newest migration that this program has.
    pub fn known_schema_version() -> i64 {
        migrator().iter().map(|migration| migration.version).max().unwrap_or_default()
    }
}
