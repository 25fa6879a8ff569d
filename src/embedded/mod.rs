//! A private PostgreSQL server for `receiptd run` without a `database.url`, for the demo and for the tests.
//!
//! It is created from the server programs installed on the machine and keeps everything in one directory. It is
//! reached through a unix socket that only its owner and root may open, and stops with the process that started it,
//! even if that is killed. When run by root, the server and all work on its files switch to an ordinary account,
//! since PostgreSQL refuses to run as root. It must never listen on the network, nor touch any other server on the
//! machine.
//!
//! Everything here blocks: use `spawn_blocking` in async code.

mod account;
mod data_directory;
mod error;
mod installation;
mod programs;
mod server;

use std::{
    env,
    ffi::OsString,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

pub use self::error::EmbeddedError;
use self::{data_directory::DataDirectory, installation::Installation, programs::Programs, server::Server};
use crate::{
    host::account::{Account, we_are_root},
    text::shell,
};

/// Data directory and settings of the server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory of the cluster, the socket, the server's log and a lock. Created if it is missing. When run by
    /// root, the server runs as the owner of the first directory on this path that doesn't belong to root, or else as
    /// `postgres`, and that account must be able to enter all parents.
    pub data_dir: PathBuf,
    /// Settings of the server by name, as in postgresql.conf, which override PostgreSQL's defaults.
    pub settings: Vec<(String, String)>,
}

impl Options {
    /// A server with PostgreSQL's default settings, in `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), settings: Vec::new() }
    }
}

/// Data directory of the service.
const SYSTEM_DATA_DIR: &str = "/var/lib/receiptd/postgres";

/// The default data directory: `$STATE_DIRECTORY/postgres` under systemd, `/var/lib/receiptd/postgres` for root and
/// for accounts that may use the server there, otherwise `receiptd/postgres` in `$XDG_DATA_HOME` (`~/.local/share`).
///
/// # Errors
/// If no home directory is known.
pub fn default_data_dir() -> Result<PathBuf, EmbeddedError> {
    let user_data = data_home(env::var_os("XDG_DATA_HOME"), env::home_dir());
    let is_the_systems = we_are_root() || is_usable(Path::new(SYSTEM_DATA_DIR));
    choose_data_dir(env::var_os("STATE_DIRECTORY"), is_the_systems, user_data).ok_or(EmbeddedError::HomeUnknown)
}

fn choose_data_dir(
    state_directory: Option<OsString>,
    is_the_systems: bool,
    user_data: Option<PathBuf>,
) -> Option<PathBuf> {
    // systemd separates several state directories by colons, as in PATH.
    let state = state_directory.and_then(|list| env::split_paths(&list).find(|path| path.is_absolute()));
    match (state, is_the_systems) {
        (Some(state), _) => Some(state.join("postgres")),
        (None, true) => Some(SYSTEM_DATA_DIR.into()),
        (None, false) => Some(user_data?.join("receiptd/postgres")),
    }
}

/// The XDG base directory specification requires relative paths to be ignored.
fn data_home(xdg_data_home: Option<OsString>, home: Option<PathBuf>) -> Option<PathBuf> {
    let xdg = xdg_data_home.map(PathBuf::from).filter(|path| path.is_absolute());
    xdg.or_else(|| home.filter(|path| path.is_absolute()).map(|home| home.join(".local/share")))
}

/// A running private server. Dropping it also stops it, without reporting errors.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    // The server is dropped, and thereby stopped, before the lock on the data directory is released.
    server: Server,
    programs: Programs,
    socket_dir: PathBuf,
    data_directory: DataDirectory,
}

impl EmbeddedPostgres {
    /// Starts the server, creating its data directory if it is missing, and waits until it accepts connections. First
    /// stops a server that a killed receiptd left running in the same directory.
    ///
    /// # Errors
    /// If PostgreSQL is not installed or has another version than the data, if another receiptd uses the directory,
    /// or if the server doesn't start; that error ends with the last lines of its log.
    pub fn start(options: &Options) -> Result<Self, EmbeddedError> {
        let account = match we_are_root() {
            true => Some(account::for_directory(&options.data_dir)?),
            false => None,
        };
        if let Some(account) = &account {
            account::refuse_closed_directories(account, &options.data_dir)?;
        }
        let (data_directory, programs, socket_dir) =
            account::act(account.as_ref(), || prepare(&options.data_dir, account.clone()))?;
        let server = Server::start(&programs, &data_directory, &socket_dir, &options.settings)?;
        Ok(Self { server, programs, socket_dir, data_directory })
    }

    /// The URL of a database on this server, for sqlx and libpq, without a password.
    pub fn url(&self, database: &str) -> String {
        url(&self.socket_dir.to_string_lossy(), database)
    }

    /// The directory of the server's unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The shell command with which the server's owner, or root, opens `database` in psql.
    pub fn psql_command(&self, database: &str) -> String {
        let psql = match programs::in_search_path("psql") {
            Some(_) => "psql".into(),
            None => self.programs.path_of("psql"),
        };
        let words = [&psql.to_string_lossy(), "-h", &self.socket_dir.to_string_lossy(), "-U", "postgres", database];
        words.map(shell::quoted).join(" ")
    }

    /// Creates `database` if it doesn't exist.
    ///
    /// # Errors
    /// If the server refuses; with its message.
    pub fn create_database(&self, database: &str) -> Result<(), EmbeddedError> {
        let create = "SELECT format('CREATE DATABASE %I', :'name') \
            WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'name') \\gexec";
        self.run_about(database, create)
    }

    /// Drops `database` with its contents if it exists, even if there are connections to it.
    ///
    /// # Errors
    /// If the server refuses; with its message.
    pub fn drop_database(&self, database: &str) -> Result<(), EmbeddedError> {
        self.run_about(database, "SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE)', :'name') \\gexec")
    }

    /// Runs SQL in which `:'name'` is the name of a database.
    fn run_about(&self, database: &str, sql: &str) -> Result<(), EmbeddedError> {
        let mut psql = self.programs.command("psql");
        psql.args(["-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-p", "5432", "-U", "postgres", "-d", "postgres", "-h"]);
        psql.arg(&self.socket_dir).arg("-v").arg(format!("name={database}"));
        programs::run(psql, sql)
    }

    /// Stops the server: open transactions are rolled back, committed ones are kept.
    ///
    /// # Errors
    /// If the server can't be told to stop, or doesn't.
    pub fn stop(mut self) -> Result<(), EmbeddedError> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<(), EmbeddedError> {
        self.server.stop(&self.programs)?;
        account::act(self.programs.account(), || self.data_directory.remove_socket_dir(&self.socket_dir))
    }
}

/// Creates and locks everything that the server needs in its data directory, with the rights of its account.
fn prepare(data_dir: &Path, account: Option<Account>) -> Result<(DataDirectory, Programs, PathBuf), EmbeddedError> {
    let data_directory = DataDirectory::open(data_dir)?;
    let installation = Installation::find(data_directory.version()?, data_directory.path())?;
    let programs = Programs::new(installation.bin, account, data_directory.path());
    data_directory.initialize(&programs)?;
    server::stop_left_server(&data_directory.cluster(), &programs)?;
    let socket_dir = data_directory.make_socket_dir()?;
    Ok((data_directory, programs, socket_dir))
}

impl Drop for EmbeddedPostgres {
    fn drop(&mut self) {
        // There is nobody to report an error to; after `stop` there is nothing left to do either.
        let _ = self.shut_down();
    }
}

/// The URL of a database on the server that another process runs in `data_dir`, if it accepts connections and this
/// process may use it.
pub fn url_of_running(data_dir: &Path, database: &str) -> Option<String> {
    let pid_file = server::pid_file(&DataDirectory::cluster_in(data_dir).join("postmaster.pid"))?;
    let socket_dir = socket_dir_of(&pid_file)?;
    UnixStream::connect(Path::new(socket_dir).join(".s.PGSQL.5432")).ok()?;
    Some(url(socket_dir, database))
}

/// Whether `data_dir` contains a server that this process may use, running or not.
pub fn is_usable(data_dir: &Path) -> bool {
    DataDirectory::is_usable(data_dir)
}

/// The directory of the socket, from the fifth line of PostgreSQL's pid file.
fn socket_dir_of(pid_file: &str) -> Option<&str> {
    pid_file.lines().nth(4).filter(|directory| !directory.is_empty())
}

fn url(socket_dir: &str, database: &str) -> String {
    let host = percent_encoded(socket_dir);
    format!("postgres://postgres@localhost:5432/{}?host={host}&sslmode=disable", percent_encoded(database))
}

/// Percent-encodes all characters except letters, digits and `-._~`, for any part of a URL.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_chooses_the_data_directory_before_system_and_user() {
        let chosen = |state: Option<&str>, systems, user: Option<&str>| {
            choose_data_dir(state.map(Into::into), systems, user.map(Into::into)).map(|path| path.display().to_string())
        };
        let table = [
            (Some("/var/lib/receiptd"), false, Some("/home/ann/.local/share"), Some("/var/lib/receiptd/postgres")),
            (Some("/var/lib/a:/var/lib/b"), true, None, Some("/var/lib/a/postgres")),
            (Some(""), true, None, Some("/var/lib/receiptd/postgres")),
            (None, true, Some("/root/.local/share"), Some("/var/lib/receiptd/postgres")),
            (None, false, Some("/home/ann/.local/share"), Some("/home/ann/.local/share/receiptd/postgres")),
            (None, false, None, None),
        ];
        for (state, systems, user, expected) in table {
            assert_eq!(chosen(state, systems, user).as_deref(), expected, "{state:?} {systems} {user:?}");
        }
    }

    #[test]
    fn the_users_data_is_where_xdg_says_unless_that_is_relative() {
        let home = |xdg: Option<&str>, home: Option<&str>| data_home(xdg.map(Into::into), home.map(Into::into));
        assert_eq!(home(Some("/data"), Some("/home/ann")), Some("/data".into()));
        assert_eq!(home(Some("data"), Some("/home/ann")), Some("/home/ann/.local/share".into()));
        assert_eq!(home(None, Some("/home/ann")), Some("/home/ann/.local/share".into()));
        assert_eq!(home(Some(""), None), None);
        assert_eq!(home(None, Some("")), None);
    }

    #[test]
    fn what_a_url_would_misread_is_encoded() {
        assert_eq!(percent_encoded("/srv/a b+c%d?é"), "%2Fsrv%2Fa%20b%2Bc%25d%3F%C3%A9");
    }
}
