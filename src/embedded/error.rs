use std::{io, path::PathBuf, time::Duration};

/// Why the private PostgreSQL server can't be had, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The machine has no PostgreSQL server programs.
    #[error(
        "no PostgreSQL server programs (initdb, pg_ctl, postgres, psql) were found: install them (on Debian and Ubuntu: apt-get install postgresql), or set database.url to a server of yours"
    )]
    NotInstalled,
    /// All server programs on the machine are older than receiptd can use.
    #[error("PostgreSQL {found} is too old: receiptd needs PostgreSQL {minimum} or later")]
    TooOld {
        /// The newest major version on the machine.
        found: u32,
        /// The oldest major version that will do.
        minimum: u32,
    },
    /// The data was written by a major version of PostgreSQL that is not installed.
    #[error(
        "{data_dir} holds data of PostgreSQL {data}, but the server programs here are of PostgreSQL {found}: install PostgreSQL {data} (on Debian and Ubuntu: apt-get install postgresql-{data}), or choose another data directory"
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
        "PostgreSQL does not run as root, and /etc/passwd has neither the user postgres nor nobody to run it as: run receiptd as an ordinary user"
    )]
    NoAccount,
    /// The account the server runs under can't reach its data.
    #[error(
        "PostgreSQL runs as user {user} here, who may not enter {directory} (mode {mode:04o}): choose a data directory elsewhere, such as /var/lib/receiptd/postgres, or `chmod o+x` that one"
    )]
    ClosedDirectory {
        /// The account of the server.
        user: String,
        /// The parent of the data directory that is closed to it.
        directory: PathBuf,
        /// The permission bits of that directory.
        mode: u32,
    },
    /// Root's own directory has something in it, and the account that the server runs under can't use that.
    #[error(
        "{data_dir} belongs to root and is not empty, and PostgreSQL runs as user {user} here: choose another data directory, or `chown -R {user}:` that one if it holds nothing else"
    )]
    OfRoot {
        /// The data directory.
        data_dir: PathBuf,
        /// The account of the server.
        user: String,
    },
    /// There is no place to keep data in.
    #[error(
        "no data directory is known, since neither STATE_DIRECTORY, XDG_DATA_HOME nor HOME is set: set one of them"
    )]
    HomeUnknown,
    /// A file or directory could not be used.
    #[error("{doing} {path}: {cause}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// A program failed or could not be run.
    #[error("{program}: {message}")]
    Program {
        /// The program.
        program: String,
        /// Its own words.
        message: String,
    },
    /// The server ended before it accepted connections, or did not come to accept any.
    #[error("the PostgreSQL server {what}; the end of its log, {log}:\n{tail}")]
    NotStarted {
        /// What it did instead.
        what: String,
        /// The server's log.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// The server goes on after it was told to stop.
    #[error("the PostgreSQL server (process {pid}) did not end within {waited:?} of being told to stop")]
    NotStopped {
        /// The server's process id.
        pid: u32,
        /// How long it was given.
        waited: Duration,
    },
}

/// Turns the error of a file operation into ours, for `map_err`.
pub(super) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> EmbeddedError {
    let path = path.into();
    move |cause| EmbeddedError::File { doing, path, cause }
}
