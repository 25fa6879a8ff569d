//! Exit codes of sysexits(3), by which units and scripts recognize the reason.
//!
//! | code | meaning | remedy |
//! |---|---|---|
//! | 0 | done | |
//! | 64 | the command line is wrong | `receiptd --help` |
//! | 65 | the input is wrong: an import file or a line in it, or a group that is not watched | see standard error |
//! | 69 | the database, the service or the address of `http.listen` is not available | retrying may help |
//! | 70 | something else failed, such as writing a file | the message |
//! | 78 | the configuration is wrong or incomplete, there is no database, it or its schema does not suit this program, or a private PostgreSQL can't run here | retrying doesn't help |

use std::process::ExitCode;

use receiptd::{
    chat::ClientError,
    config::ConfigError,
    domain::GroupId,
    embedded::EmbeddedError,
    lifecycle::StartError,
    store::{ConnectError, SchemaError, StoreError},
};

/// Why a command failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Usage = 64,
    Data = 65,
    Unavailable = 69,
    Software = 70,
    Config = 78,
}

/// A refusal with its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    exit: Exit,
    why: String,
}

impl Refused {
    /// Impossible arguments.
    pub fn usage(why: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, why: why.into() }
    }

    /// Invalid input.
    pub fn data(why: impl Into<String>) -> Self {
        Self { exit: Exit::Data, why: why.into() }
    }

    /// Something needed is not running.
    pub fn unavailable(why: impl Into<String>) -> Self {
        Self { exit: Exit::Unavailable, why: why.into() }
    }

    /// Something has to be set up first.
    pub fn config(why: impl Into<String>) -> Self {
        Self { exit: Exit::Config, why: why.into() }
    }
}

/// SQLSTATEs of a missing or old schema: no such schema, table, column or function.
const OTHER_SCHEMA: [&str; 4] = ["3F000", "42P01", "42703", "42883"];

impl Exit {
    /// The exit code of an error, by the causes in its chain.
    pub fn of(error: &anyhow::Error) -> Self {
        let kind = |cause: &(dyn std::error::Error + 'static)| {
            if let Some(refused) = cause.downcast_ref::<Refused>() {
                return Some(refused.exit);
            }
            let is_config = cause.is::<ConfigError>() || cause.is::<ConnectError>();
            if is_config || is_unfit(cause) || is_of_proxy(cause) || is_of_machine(cause) {
                return Some(Self::Config);
            }
            if failure(cause).and_then(StoreError::sqlstate).is_some_and(|state| OTHER_SCHEMA.contains(&&*state)) {
                return Some(Self::Config);
            }
            let is_away = cause.is::<sqlx::Error>()
                || is_unavailable(cause)
                || matches!(cause.downcast_ref(), Some(StartError::Listen(_)));
            is_away.then_some(Self::Unavailable)
        };
        error.chain().find_map(kind).unwrap_or(Self::Software)
    }
}

/// Whether the database or its schema does not suit this program.
fn is_unfit(cause: &(dyn std::error::Error + 'static)) -> bool {
    let schema = match cause.downcast_ref() {
        Some(StartError::Schema(error)) => Some(error),
        _ => cause.downcast_ref::<SchemaError>(),
    };
    matches!(schema, Some(SchemaError::Newer { .. } | SchemaError::Unfit(_)))
}

/// Whether the database could not be used just now.
fn is_unavailable(cause: &(dyn std::error::Error + 'static)) -> bool {
    use StoreError::{Deadline, Failed, Unanswered};
    matches!(failure(cause), Some(Failed { .. } | Deadline { .. } | Unanswered { .. }))
}

/// Whether the environment names a proxy that can't be used.
fn is_of_proxy(cause: &(dyn std::error::Error + 'static)) -> bool {
    matches!(cause.downcast_ref(), Some(StartError::Client(ClientError::Proxy(_))))
}

/// Whether this machine can't run a private PostgreSQL as it is set up: its programs, accounts or data directory.
fn is_of_machine(cause: &(dyn std::error::Error + 'static)) -> bool {
    use EmbeddedError::{
        ClosedDirectory, File, HomeUnknown, InUse, NoAccount, NotInstalled, NotStarted, NotStopped, OfRoot,
        OtherVersion, Program, TooOld,
    };
    match cause.downcast_ref() {
        Some(NotInstalled | TooOld { .. } | OtherVersion { .. } | NoAccount | HomeUnknown) => true,
        Some(ClosedDirectory { .. } | OfRoot { .. } | File { .. }) => true,
        Some(InUse { .. } | Program { .. } | NotStarted { .. } | NotStopped { .. }) | None => false,
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The database failure, if the cause is one.
pub fn failure<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a StoreError> {
    match cause.downcast_ref() {
        Some(SchemaError::Store(failure)) => Some(failure),
        _ => cause.downcast_ref(),
    }
}

/// The refusal for a group that is not watched.
pub fn not_watched(group: &GroupId) -> Refused {
    Refused::data(format!("{group} is not on the watch list of this app: see `receiptd watch list`"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn the_cause_decides_whatever_was_said_around_it() {
        let config = Err::<(), _>(ConfigError::Invalid(vec![])).context("starting").unwrap_err();
        assert_eq!(Exit::of(&config), Exit::Config);
        let database = Err::<(), _>(sqlx::Error::PoolTimedOut).context("migrating").unwrap_err();
        assert_eq!(Exit::of(&database), Exit::Unavailable);
        let slow = StoreError::Deadline { doing: "watching messages", patience: Duration::from_secs(1) };
        assert_eq!(Exit::of(&anyhow!(slow)), Exit::Unavailable);
        let refused = Err::<(), _>(Refused::usage("--from is later than --to")).context("rolling up").unwrap_err();
        assert_eq!(Exit::of(&refused), Exit::Usage);
        let closed = EmbeddedError::ClosedDirectory { user: "postgres".into(), directory: "/root".into(), mode: 0o700 };
        assert_eq!(Exit::of(&anyhow!(closed).context("starting")), Exit::Config);
        let in_use = EmbeddedError::InUse { data_dir: "/data".into(), holder: "process 7".into() };
        assert_eq!(Exit::of(&anyhow!(in_use)), Exit::Software);
        assert_eq!(Exit::of(&anyhow!("else")), Exit::Software);
    }
}
