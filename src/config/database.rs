//! `[database]`: where the history is stored.

use std::{fmt, path::PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::section::Section;
use crate::postgres_url::PostgresUrl;

/// Where the history is stored.
#[derive(Debug, Clone)]
pub struct Database {
    /// The `postgres://` URL of the database; if `None`, a private PostgreSQL is started.
    pub url: Option<SecretString>,
    /// Data directory of the private PostgreSQL; if `None`, the default one.
    pub data_dir: Option<PathBuf>,
    /// Maximum number of connections, 3 to 100.
    pub max_connections: u32,
    /// Whether statements are prepared once per connection (unless a proxy is detected, behind which that would
    /// fail).
    pub prepared_statements: bool,
}

impl Default for Database {
    fn default() -> Self {
        Self { url: None, data_dir: None, max_connections: 6, prepared_statements: true }
    }
}

/// Describes the database for logs and people, without the password and other parameters of the URL.
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
            Err(_) => f.write_str("a PostgreSQL whose URL is invalid"),
        }
    }
}

pub(super) fn read(section: &mut Section<'_>) -> Database {
    let default = Database::default();
    let url = section.secret("url");
    if let Some(url) = &url
        && let Err(fault) = PostgresUrl::from_environment(url.expose_secret())
    {
        section.refuse_silently("url", fault.to_string());
    }
    let data_dir = section.path("data_dir");
    if data_dir.as_ref().is_some_and(|path| path.as_os_str().is_empty()) {
        section.refuse("data_dir", "", "set a directory, or remove the key");
    }
    Database {
        url,
        data_dir,
        // With fewer connections, a long flush and a roll-up would prevent renewals of the lease.
        max_connections: section.number("max_connections", default.max_connections, 3..=100),
        prepared_statements: section.parsed(
            "prepared_statements",
            default.prepared_statements,
            "use \"auto\" or false",
            |text| match text {
                "auto" => Some(true),
                "false" => Some(false),
                _ => None,
            },
        ),
    }
}
