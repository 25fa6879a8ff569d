//! `[readers]`: how members who have read messages are asked for and named.

use std::{path::PathBuf, time::Duration};

use chrono::TimeDelta;
use secrecy::ExposeSecret;
use serde::Deserialize;

use super::{
    problem::Problems,
    secret::{self, SecretText},
};
use crate::rules::{discovery::Pattern, readers::pseudonym::Naming};

/// Minimum length of the key of pseudonyms, in characters.
const MIN_KEY: usize = 32;

/// The example key in the reference file.
const PLACEHOLDER: &str = "replace-with-at-least-32-random-characters";

/// The settings of the section.
#[derive(Debug, Clone)]
pub struct Readers {
    /// How members are named in the database.
    pub naming: Naming,
    /// Minimum time between two questions for the readers of a message; 1s to 1d.
    pub reader_cadence: TimeDelta,
    /// Patterns of the groups whose readers are turned on when discovery adds them.
    pub groups: Vec<Pattern>,
    /// Maximum number of calls for readers in any second; 1 to 1000.
    pub max_calls_per_second: u32,
}

impl Default for Readers {
    fn default() -> Self {
        Self {
            naming: Naming::Accounts,
            reader_cadence: TimeDelta::seconds(30),
            groups: vec![],
            max_calls_per_second: 200,
        }
    }
}

/// The keys of the section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// Whether members are stored by pseudonyms.
    pseudonyms: Option<String>,
    /// Key of the pseudonyms.
    pseudonym_key: Option<SecretText>,
    /// File with the key of the pseudonyms.
    pseudonym_key_file: Option<PathBuf>,
    reader_cadence: Option<String>,
    groups: Option<Vec<String>>,
    max_calls_per_second: Option<String>,
}

impl Keys {
    pub fn validate(self, problems: &mut Problems) -> Readers {
        const KEY: &str = "readers.pseudonym_key";
        let default = Readers::default();
        let wanted = problems
            .parsed("readers.pseudonyms", self.pseudonyms, false, "use true or false", |text| text.parse().ok());
        let is_given = self.pseudonym_key.is_some() || self.pseudonym_key_file.is_some();
        let key = secret::take(KEY, self.pseudonym_key, self.pseudonym_key_file.as_deref(), problems);
        let given = key.as_ref().map(ExposeSecret::expose_secret);
        if given.is_some_and(|key| key.chars().count() < MIN_KEY) {
            problems.refuse_silently(KEY, "is shorter than 32 characters: `openssl rand -hex 32` makes a key");
        }
        if given == Some(PLACEHOLDER) {
            let remedy = "is the example from the reference file: `openssl rand -hex 32` makes a key";
            problems.refuse_silently(KEY, remedy);
        }
        if wanted && !is_given {
            let remedy = "is missing: set it or readers.pseudonym_key_file, since readers.pseudonyms is true; \
                          `openssl rand -hex 32` makes a key";
            problems.refuse_silently(KEY, remedy);
        }
        let day = Duration::from_secs(86_400);
        let cadence = problems.span(
            "readers.reader_cadence",
            self.reader_cadence,
            default.reader_cadence.to_std().unwrap_or_default(),
            "use a duration from 1s to 1d, such as \"30s\"",
            |span| span >= Duration::from_secs(1) && span <= day,
        );
        Readers {
            naming: key.filter(|_| wanted).map_or(default.naming, Naming::Pseudonyms),
            reader_cadence: TimeDelta::from_std(cadence).unwrap_or(default.reader_cadence),
            groups: problems.listed("readers.groups", self.groups.unwrap_or_default()),
            max_calls_per_second: problems.number(
                "readers.max_calls_per_second",
                self.max_calls_per_second,
                default.max_calls_per_second,
                1..=1_000,
            ),
        }
    }
}
