use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Why the private PostgreSQL server can't be used, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The machine has no PostgreSQL server programs.
    #[error(
        "PostgreSQL's server programs (initdb, pg_ctl, postgres, psql) were not found: install them (on Debian and \
         Ubuntu: apt-get install postgresql), or set database.url"
    )]
    NotInstalled,
    /// All server programs on the machine are older than receiptd supports.
    #[error("PostgreSQL {found} is too old: receiptd needs PostgreSQL {minimum} or later")]
    TooOld {
        /// The newest major version on the machine.
        found: u32,
        /// The oldest supported major version.
        minimum: u32,
    },
    /// The data was written by a major version of PostgreSQL that is not installed.
    #[error(
        "{data_dir} contains data of PostgreSQL {data}, but the server programs here are of PostgreSQL {found}: \
         install PostgreSQL {data} (on Debian and Ubuntu: apt-get install postgresql-{data}), or choose another data \
         directory"
    )]
    OtherVersion {
        /// The data directory.
        data_dir: PathBuf,
        /// The major version of the data.
        data: u32,
        /// The major versions on the machine.
        found: String,
    },
    /// Another live process has its server in the data directory.
    #[error(
        "{data_dir} is in use by another receiptd ({holder}): stop that one first, or choose another data directory"
    )]
    InUse {
        /// The data directory.
        data_dir: PathBuf,
        /// The process that uses it.
        holder: String,
    },
    /// PostgreSQL refuses to run as root, and there is no account to run it under.
    #[error(
        "PostgreSQL refuses to run as root, and /etc/passwd has neither the user postgres nor the user nobody: run \
         receiptd as an ordinary user"
    )]
    NoAccount,
    /// The server's account can't reach its data.
    #[error(
        "PostgreSQL would run as user {user}, who can't enter {directory} (mode {mode:04o}): choose another data \
         directory, such as /var/lib/receiptd/postgres, or run `chmod o+x` on that one"
    )]
    ClosedDirectory {
        /// The account of the server.
        user: String,
        /// The parent of the data directory that it can't enter.
        directory: PathBuf,
        /// The permission bits of that directory.
        mode: u32,
    },
    /// Root's own directory is not empty, and the server's account can't use it.
    #[error(
        "{data_dir} belongs to root and is not empty, and PostgreSQL would run as user {user}: choose another data \
         directory, or run `chown -R {user}:` on that one if it contains nothing else"
    )]
    OfRoot {
        /// The data directory.
        data_dir: PathBuf,
        /// The account of the server.
        user: String,
    },
    /// There is no default data directory.
    #[error(
        "there is no default data directory, since STATE_DIRECTORY, XDG_DATA_HOME and HOME are all unset: set one of \
         them"
    )]
    HomeUnknown,
    /// A file or directory could not be used.
    #[error("{doing} {path}: {cause}")]
    File {
        /// The action, as a gerund.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// A program failed or could not be run.
    #[error("{program}: {message}")]
    Program {
        /// The program.
        program: String,
        /// Its error message.
        message: String,
    },
    /// The server ended or hung before it accepted connections.
    #[error("the PostgreSQL server {what}; {}", end_of_log(.log, .tail))]
    NotStarted {
        /// What happened.
        what: String,
        /// The server's log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// The server is still running after the stop timeout.
    #[error("the PostgreSQL server (process {pid}) did not stop within {waited:?}")]
    NotStopped {
        /// The server's process id.
        pid: u32,
        /// The timeout.
        waited: Duration,
    },
}

fn end_of_log(log: &Path, tail: &str) -> String {
    match tail {
        "" => format!("its log, {}, is empty, as on a full disk", log.display()),
        _ => format!("the end of its log, {}:\n{tail}", log.display()),
    }
}

/// Converts the error of a file operation, for `map_err`.
pub(super) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> EmbeddedError {
    let path = path.into();
    move |cause| EmbeddedError::File { doing, path, cause }
}
