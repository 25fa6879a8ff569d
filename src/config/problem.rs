//! What is wrong with a configuration, told all at once: each problem with key, value, origin and remedy.
//!
//! Problems are shown to people and written to logs: the value of a secret must never get into one.

use std::{
    fmt::{self, Display},
    io,
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

/// What helps where a configuration file can't be read.
fn unreadable(reason: &io::Error) -> &'static str {
    match reason.kind() {
        io::ErrorKind::PermissionDenied => {
            "run this as the service's account (sudo -u receiptd receiptd …), or name another file with --config"
        }
        _ => "name another file with --config",
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
        /// What the system says.
        reason: io::Error,
    },
    /// The configuration file is not TOML. The offending line is left out: it may hold a secret.
    #[error("the configuration file {} is not valid TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// The layers can't be put together.
    #[error("can't put the settings together: {0}")]
    Layers(#[from] config::ConfigError),
    /// Keys or values are refused or missing.
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

/// One thing that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key as in `polling.batch_size`, or the environment variable that means none.
    pub key: String,
    /// The value as given; absent where there is none, and always absent for secrets.
    pub value: Option<String>,
    /// Where the value comes from: a file, an environment variable or `--set`.
    pub origin: Option<String>,
    /// What to do.
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

/// Collects problems, so that a configuration is put right in one go.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    /// Notes a value that can't be taken. Never for secrets: see [`Self::refuse_silently`].
    pub fn refuse(&mut self, key: &str, value: &str, remedy: impl Into<String>) {
        self.push(key, Some(value.to_owned()), remedy.into());
    }

    /// Notes a problem without showing a value: there is none, or it may hold a secret.
    pub fn refuse_silently(&mut self, key: &str, remedy: impl Into<String>) {
        self.push(key, None, remedy.into());
    }

    fn push(&mut self, key: &str, value: Option<String>, remedy: String) {
        self.0.push(Problem { key: key.to_owned(), value, origin: None, remedy });
    }

    /// The value that `parse` finds in `text`; if it finds none the problem is noted and `default` stands in.
    pub fn parsed<T>(
        &mut self,
        key: &str,
        text: Option<String>,
        default: T,
        remedy: impl Into<String>,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> T {
        let Some(text) = text else { return default };
        parse(&text).unwrap_or_else(|| {
            self.refuse(key, &text, remedy);
            default
        })
    }

    /// A whole number within `range`.
    pub fn number<T>(&mut self, key: &str, text: Option<String>, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display,
    {
        let remedy = format!("give a whole number from {} to {}", range.start(), range.end());
        self.parsed(key, text, default, remedy, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    /// A span of time such as `"50ms"`, of which `allowed` says whether it will do.
    pub fn span(
        &mut self,
        key: &str,
        text: Option<String>,
        default: Duration,
        remedy: &str,
        allowed: impl FnOnce(Duration) -> bool,
    ) -> Duration {
        self.parsed(key, text, default, remedy, |text| {
            humantime::parse_duration(text).ok().filter(|span| allowed(*span))
        })
    }

    /// True if nothing is wrong so far.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends the collection. `origin_of` tells where the value of a key comes from.
    pub fn into_error(mut self, origin_of: impl Fn(&str) -> Option<String>) -> ConfigError {
        for problem in &mut self.0 {
            problem.origin = origin_of(&problem.key);
        }
        self.0.sort_by(|one, other| one.key.cmp(&other.key));
        ConfigError::Invalid(self.0)
    }
}
