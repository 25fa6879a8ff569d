//! `[database]`: where the history is kept.

use std::{fmt, path::PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{
    problem::Problems,
    secret::{self, SecretText},
};
use crate::postgres_url::PostgresUrl;

/// Where the history is kept.
#[derive(Debug, Clone)]
pub struct Database {
    /// The `postgres://` URL of the database; without it a private PostgreSQL is started.
    pub url: Option<SecretString>,
    /// Where the private PostgreSQL keeps its data; without it a place is chosen.
    pub data_dir: Option<PathBuf>,
    /// The most connections that are open at once.
    pub max_connections: u32,
    /// Whether statements are prepared once a connection, unless a proxy is recognised behind which that fails.
    pub prepared_statements: bool,
}

impl Default for Database {
    fn default() -> Self {
        Self { url: None, data_dir: None, max_connections: 6, prepared_statements: true }
    }
}

/// What the database is, for logs and people: without the password and without other parameters of the URL.
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(url) = &self.url else {
            f.write_str("a private PostgreSQL")?;
            return match &self.data_dir {
                Some(path) => write!(f, " in {}", path.display()),
                None => Ok(()),
            };
        };
        match PostgresUrl::from_environment(url.expose_secret()) {
            Ok(url) => url.fmt(f),
            Err(_) => f.write_str("a PostgreSQL whose URL can't be read"),
        }
    }
}

/// The keys of the section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// The URL of the database.
    url: Option<SecretText>,
    /// A file that holds the URL of the database.
    url_file: Option<PathBuf>,
    /// The data directory of a private PostgreSQL, instead of a URL.
    data_dir: Option<PathBuf>,
    /// The most connections that are open at once.
    max_connections: Option<String>,
    /// `auto` or `false`.
    prepared_statements: Option<String>,
}

impl Keys {
    pub fn validate(self, problems: &mut Problems) -> Database {
        let default = Database::default();
        let url = secret::take("database.url", self.url, self.url_file.as_deref(), problems);
        if let Some(url) = &url
            && let Err(fault) = PostgresUrl::from_environment(url.expose_secret())
        {
            problems.refuse_silently("database.url", fault.to_string());
        }
        if self.data_dir.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
            problems.refuse("database.data_dir", "", "give a directory, or remove the key");
        }
        Database {
            url,
            data_dir: self.data_dir,
            // With fewer a long flush and a roll-up would keep the lease from being renewed.
            max_connections: problems.number(
                "database.max_connections",
                self.max_connections,
                default.max_connections,
                3..=100,
            ),
            prepared_statements: problems.parsed(
                "database.prepared_statements",
                self.prepared_statements,
                default.prepared_statements,
                "give \"auto\" or false",
                |text| match text {
                    "auto" => Some(true),
                    "false" => Some(false),
                    _ => None,
                },
            ),
        }
    }
}
