//! Where the database is: the one of the configuration, or a private PostgreSQL that is started for this process.

use anyhow::{Context, bail};
use receiptd::{
    config::{self, Config},
    embedded::{self, EmbeddedPostgres},
    logging,
    store::Store,
};
use secrecy::SecretString;
use tokio::task::spawn_blocking;

use super::Global;

/// The name of receiptd's database on the private server.
const NAME: &str = "receiptd";

/// A database that can be connected to.
pub enum Database {
    /// The configured one.
    Configured(SecretString),
    /// A private server, which ends with this process.
    Private(Box<EmbeddedPostgres>),
    /// The private server of another receiptd, which is running.
    Shared(String),
}

impl Database {
    /// Takes the configured database, or starts the private server where none is configured.
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
        tracing::info!(data_dir, "using a private PostgreSQL; to look into it: {}", server.psql_command(NAME));
        Ok(Self::Private(Box::new(server)))
    }

    /// The same, for commands beside the daemon: where its private server is running, they use that one.
    pub async fn join(config: &config::Database) -> anyhow::Result<Self> {
        if config.url.is_none()
            && let Some(url) = embedded::url_of_running(&options(config)?.data_dir, NAME)
        {
            return Ok(Self::Shared(url));
        }
        Self::open(config).await
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

fn options(config: &config::Database) -> anyhow::Result<embedded::Options> {
    Ok(match &config.data_dir {
        Some(data_dir) => embedded::Options::new(data_dir),
        None => embedded::Options::new(embedded::default_data_dir()?),
    })
}

/// The configured database, for a command beside the daemon.
pub struct Opened {
    pub config: Config,
    pub store: Store,
    database: Database,
}

impl Opened {
    /// Connects to a database that has the schema as this program knows it. It is never made here: the daemon's role may do
    /// that, and `receiptd migrate` does.
    pub async fn open(global: &Global) -> anyhow::Result<Self> {
        let config = global.load_config()?;
        logging::init(&config.log)?;
        let database = Database::join(&config.database).await?;
        let store = Store::new(&database.url(), config.database.max_connections, config.sdk_app_id()?)?;
        let known = Store::known_schema_version();
        match store.schema_version().await? {
            Some(version) if version == known => Ok(Self { config, store, database }),
            Some(version) if version > known => {
                bail!("the schema is a newer receiptd's (migration {version}, not {known})")
            }
            Some(version) => bail!("the schema is at migration {version}, not {known}: run `receiptd migrate` first"),
            None => bail!("the database has no schema receiptd yet: run `receiptd migrate` first"),
        }
    }

    pub async fn close(self) -> anyhow::Result<()> {
        self.store.close();
        self.database.close().await
    }
}
