//! Selects the database: the configured one, or a private PostgreSQL. Only `run` and `migrate` create one; for other
//! commands a new one would be empty, which is no useful answer.

use std::path::{Path, PathBuf};

use anyhow::Context;
use receiptd::{
    config::{self, Config},
    embedded::{self, EmbeddedPostgres},
    logging,
    store::{SchemaError, Store, StoreError},
};
use secrecy::SecretString;
use tokio::task::spawn_blocking;

use super::{
    Global,
    exit::{Refused, failure},
};

/// Name of receiptd's database on the private server.
const NAME: &str = "receiptd";

/// How a command gets the URL that systemd passes to the service, as in docs/operators.md.
pub const BY_SYSTEMD: &str = "systemd-run --pty --collect --property=User=receiptd \
                              --property=LoadCredential=database.url:receiptd.database.url receiptd …";

/// A database to connect to.
pub enum Database {
    /// The URL in the configuration.
    Configured(SecretString),
    /// A private server that stops with this process.
    Private(Box<EmbeddedPostgres>),
    /// URL of a private server that another receiptd runs.
    Shared(String),
}

/// State of the private server.
pub enum Private {
    /// URL of a server that another receiptd runs.
    Running(String),
    /// Data directory of a server that is not running.
    Stopped(PathBuf),
    /// Place without a server, or with one that this account may not use.
    Missing(PathBuf),
}

impl Private {
    /// Looks for the private server that is used if no database is configured.
    pub fn find(config: &config::Database) -> anyhow::Result<Self> {
        let place = options(config)?.data_dir;
        Ok(match embedded::url_of_running(&place, NAME) {
            Some(url) => Self::Running(url),
            None if embedded::is_usable(&place) => Self::Stopped(place),
            None => Self::Missing(place),
        })
    }
}

impl Database {
    /// Opens the database for the daemon: the configured one, or the private server, which is created if necessary.
    pub async fn open(config: &config::Database) -> anyhow::Result<Self> {
        if let Some(url) = &config.url {
            return Ok(Self::Configured(url.clone()));
        }
        let options = options(config)?;
        let data_dir = options.data_dir.display().to_string();
        let server = spawn_blocking(move || {
            let server = EmbeddedPostgres::start(&options)?;
            server.create_database(NAME).map(|()| server)
        });
        let server = server.await?.context("database.url is not set, and the private PostgreSQL can't be started")?;
        tracing::info!(data_dir, "using a private PostgreSQL; to query it: {}", server.psql_command(NAME));
        Ok(Self::Private(Box::new(server)))
    }

    /// Like `open`, but for use next to a daemon: uses its private server if that is running.
    pub async fn join_or_make(config: &config::Database) -> anyhow::Result<Self> {
        if config.url.is_none()
            && let Private::Running(url) = Private::find(config)?
        {
            return Ok(Self::Shared(url));
        }
        Self::open(config).await
    }

    /// For commands that need an existing database.
    pub async fn join(config: &config::Database) -> anyhow::Result<Self> {
        if config.url.is_none()
            && let Private::Missing(place) = Private::find(config)?
        {
            let why = format!(
                "{}: `receiptd run` starts one; if systemd passes the URL as a credential, run this with `{BY_SYSTEMD}`",
                no_database(&place)
            );
            return Err(Refused::config(why).into());
        }
        Self::join_or_make(config).await
    }

    /// The URL to connect to.
    pub fn url(&self) -> SecretString {
        match self {
            Self::Configured(url) => url.clone(),
            Self::Private(server) => server.url(NAME).into(),
            Self::Shared(url) => url.clone().into(),
        }
    }

    /// Stops the private server.
    pub async fn close(self) -> anyhow::Result<()> {
        if let Self::Private(server) = self {
            spawn_blocking(|| server.stop()).await??;
        }
        Ok(())
    }
}

/// The error text if there is no database.
pub fn no_database(place: &Path) -> String {
    let what = if let Ok(false) = place.try_exists() { "there is no" } else { "this account can't use a" };
    format!("database.url is not set, and {what} private PostgreSQL at {}", place.display())
}

fn options(config: &config::Database) -> anyhow::Result<embedded::Options> {
    Ok(match &config.data_dir {
        Some(data_dir) => embedded::Options::new(data_dir),
        None => embedded::Options::new(embedded::default_data_dir()?),
    })
}

/// An open database, for a command that runs next to the daemon.
pub struct Opened {
    pub config: Config,
    pub store: Store,
    database: Database,
}

impl Opened {
    /// Connects to a database whose schema has the version of this program. Never creates the schema: only the
    /// daemon's role may do that, and `receiptd migrate` does.
    pub async fn open(global: &Global) -> anyhow::Result<Self> {
        let opened = Self::open_any(global).await?;
        refuse_other_schema(&opened).await?;
        opened.read_clock().await
    }

    /// The same for a read-only command, which doesn't start a private server.
    pub async fn open_running(global: &Global) -> anyhow::Result<Self> {
        let config = global.load_config()?;
        if config.database.url.is_none()
            && let Private::Stopped(place) = Private::find(&config.database)?
        {
            let place = place.display();
            let why = format!("the private PostgreSQL in {place} is not running: start it with `receiptd run`");
            return Err(Refused::unavailable(why).into());
        }
        Self::open(global).await
    }

    /// The same for roles that may not read the version of the schema: another version is only refused if it is
    /// known.
    pub async fn open_to_read(global: &Global) -> anyhow::Result<Self> {
        let opened = Self::open_any(global).await?;
        match refuse_other_schema(&opened).await {
            Err(error) if is_not_permitted(&error) => {}
            refused => refused?,
        }
        opened.read_clock().await
    }

    /// From now on `store.clock()` has the database's time, which relative times use.
    async fn read_clock(self) -> anyhow::Result<Self> {
        self.store.now().await.with_context(|| using(&self.config.database))?;
        Ok(self)
    }

    async fn open_any(global: &Global) -> anyhow::Result<Self> {
        let config = global.load_config()?;
        logging::init(&config.log)?;
        let database = Database::join(&config.database).await?;
        let store = Store::new(&database.url(), config.database.max_connections, config.sdk_app_id()?)?
            .with_prepared_statements(config.database.prepared_statements);
        Ok(Self { config, store, database })
    }

    /// Disconnects. An error of the database in `done` gets the name of that database.
    pub async fn close<T, E: Into<anyhow::Error>>(self, done: Result<T, E>) -> anyhow::Result<T> {
        let Self { config, store, database } = self;
        store.close();
        database.close().await?;
        done.map_err(Into::into).map_err(|error| match error.chain().any(|cause| failure(cause).is_some()) {
            true => error.context(using(&config.database)),
            false => error,
        })
    }
}

/// Refuses a schema of another version.
async fn refuse_other_schema(opened: &Opened) -> anyhow::Result<()> {
    let known = Store::known_schema_version();
    let version = opened.store.schema_version().await.with_context(|| connecting(&opened.config.database))?;
    let why = match version {
        Some(found) if found == known => return Ok(()),
        Some(found) if found > known => return Err(SchemaError::Newer { found, known }.into()),
        Some(found) => format!("the schema is at migration {found}, not {known}: run `receiptd migrate` first"),
        None => "the database has no schema receiptd yet: run `receiptd migrate` first".to_owned(),
    };
    Err(Refused::config(why).into())
}

/// Whether the error is a missing right.
fn is_not_permitted(error: &anyhow::Error) -> bool {
    error.downcast_ref::<StoreError>().and_then(StoreError::sqlstate).is_some_and(|sqlstate| sqlstate == "42501")
}

/// Context for the first query's error.
pub fn connecting(config: &config::Database) -> String {
    format!("connecting to {config}")
}

/// Context for later errors.
pub fn using(config: &config::Database) -> String {
    format!("using {config}")
}

/// The remedy for a database failure, if there is one.
pub fn advice(error: &StoreError) -> Option<&'static str> {
    let is_unreachable = matches!(error, StoreError::Failed { source, .. } if matches!(**source, sqlx::Error::Io(_)))
        || matches!(error, StoreError::Deadline { .. } | StoreError::Unanswered { .. });
    error.advice().or(is_unreachable.then_some("is it running, and can this machine reach it?"))
}
