//! The problems of a configuration, reported together, each with key, value, origin and remedy.
//!
//! Problems are shown to people and logged: they must never contain the value of a secret.

use std::{
    fmt::{self, Display},
    io,
    path::PathBuf,
};

/// The remedy for an unreadable configuration file.
fn unreadable(reason: &io::Error) -> &'static str {
    match reason.kind() {
        io::ErrorKind::PermissionDenied => {
            "run this as the service's account (sudo -u receiptd receiptd …), or choose another file with --config"
        }
        io::ErrorKind::InvalidData => "save it as UTF-8",
        _ => "choose another file with --config",
    }
}

/// Why there is no usable configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file can't be read.
    #[error("can't read the configuration file {}: {reason}: {}", path.display(), unreadable(reason))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        reason: io::Error,
    },
    /// The configuration file is not TOML. The offending line is left out, since it may contain a secret.
    #[error("the configuration file {} is not valid TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Place and cause.
        reason: String,
    },
    /// The sources can't be combined.
    #[error("can't combine the settings: {0}")]
    Layers(#[from] config::ConfigError),
    /// Keys or values are invalid or missing.
    #[error("{}", listed(.0))]
    Invalid(Vec<Problem>),
}

fn listed(problems: &[Problem]) -> String {
    match problems {
        [only] => format!("the configuration has a problem: {only}"),
        many => {
            let lines: String = many.iter().map(|problem| format!("\n  - {problem}")).collect();
            format!("the configuration has {} problems:{lines}", many.len())
        }
    }
}

/// A problem and its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, as in `polling.batch_size`, or an environment variable that is no key.
    pub key: String,
    /// The invalid value; `None` if there is none, and always for secrets.
    pub value: Option<String>,
    /// The origin of the value: a file, an environment variable or `--set`.
    pub origin: Option<String>,
    /// The remedy.
    pub remedy: String,
}

impl Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value:?}")?;
        }
        if let Some(origin) = &self.origin {
            write!(f, " (from {origin})")?;
        }
        write!(f, ": {}", self.remedy)
    }
}

/// Collects problems, so that a configuration can be corrected in one go.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    /// Notes an invalid value. Never for secrets: see [`Self::refuse_silently`].
    pub fn refuse(&mut self, key: &str, value: &str, remedy: impl Into<String>) {
        self.push(key, Some(value.to_owned()), None, remedy.into());
    }

    /// Notes a problem without showing a value: there is none, or it may contain a secret.
    pub fn refuse_silently(&mut self, key: &str, remedy: impl Into<String>) {
        self.push(key, None, None, remedy.into());
    }

    /// The same for what `origin` gives and the settings have no place for.
    pub fn refuse_from(&mut self, origin: &str, key: &str, remedy: impl Into<String>) {
        self.push(key, None, Some(origin.to_owned()), remedy.into());
    }

    fn push(&mut self, key: &str, value: Option<String>, origin: Option<String>, remedy: String) {
        self.0.push(Problem { key: key.to_owned(), value, origin, remedy });
    }

    /// True if there are no problems so far.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the problems. `origin_of` has the origin of a key's value.
    pub fn into_error(mut self, origin_of: impl Fn(&str) -> Option<String>) -> ConfigError {
        for problem in &mut self.0 {
            problem.origin = problem.origin.take().or_else(|| origin_of(&problem.key));
        }
        self.0.sort_by(|one, other| one.key.cmp(&other.key));
        ConfigError::Invalid(self.0)
    }
}
