//! `[database]`: where the history is kept.

use std::{fmt, path::PathBuf, str::FromStr};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sqlx::postgres::PgConnectOptions;

use super::{
    problem::Problems,
    secret::{self, SecretText},
};

/// Where the history is kept.
#[derive(Debug, Clone)]
pub struct Database {
    /// The `postgres://` URL of the database; without it a private PostgreSQL is started.
    pub url: Option<SecretString>,
    /// Where the private PostgreSQL keeps its data; without it a place is chosen.
    pub data_dir: Option<PathBuf>,
    /// The most connections that are open at once.
    pub max_connections: u32,
}

impl Default for Database {
    fn default() -> Self {
        Self { url: None, data_dir: None, max_connections: 6 }
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
        let Ok(options) = PgConnectOptions::from_str(url.expose_secret()) else {
            return f.write_str("a PostgreSQL whose URL can't be read");
        };
        let password = if has_password(url.expose_secret()) { ":***" } else { "" };
        write!(f, "postgres://{}{password}@", options.get_username())?;
        match options.get_socket() {
            Some(socket) => write!(f, "{}", socket.display())?,
            None => write!(f, "{}:{}", options.get_host(), options.get_port())?,
        }
        write!(f, "/{}", options.get_database().unwrap_or(options.get_username()))
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
}

impl Keys {
    pub fn validate(self, problems: &mut Problems) -> Database {
        let default = Database::default();
        let url = secret::take("database.url", self.url, self.url_file.as_deref(), problems);
        if let Some(remedy) = url.as_ref().and_then(|url| fault(url.expose_secret())) {
            problems.refuse_silently("database.url", remedy);
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
        }
    }
}

/// What is wrong with the URL, in words that show nothing of it.
fn fault(url: &str) -> Option<&'static str> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    if !matches!(scheme, Some("postgres" | "postgresql")) {
        return Some("is no PostgreSQL URL: give postgres://USER:PASSWORD@HOST:PORT/DATABASE");
    }
    let unreadable = "can't be read: give postgres://USER:PASSWORD@HOST:PORT/DATABASE, and write characters such as \
                      @ : / # % of a password as %40 %3A %2F %23 %25";
    if PgConnectOptions::from_str(url).is_err() {
        return Some(unreadable);
    }
    // sqlx does not ask the system who runs it, as psql does.
    let nobody = reqwest::Url::parse(url).is_ok_and(|url| url.username().is_empty() && !has_parameter(&url, "user"));
    nobody.then_some("names no user: give postgres://USER@HOST:PORT/DATABASE")
}

fn has_password(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| url.password().is_some() || has_parameter(&url, "password"))
}

fn has_parameter(url: &reqwest::Url, name: &str) -> bool {
    url.query_pairs().any(|(parameter, _)| parameter == name)
}
