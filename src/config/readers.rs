//! `[readers]`: how members who have read messages are asked for and named.

use std::time::Duration;

use chrono::TimeDelta;
use secrecy::ExposeSecret;

use super::section::Section;
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

pub(super) fn read(section: &mut Section<'_>) -> Readers {
    const KEY: &str = "pseudonym_key";
    let default = Readers::default();
    let wanted = section.flag("pseudonyms", false);
    let is_given = section.is_given(KEY) || section.is_given("pseudonym_key_file");
    let key = section.secret(KEY);
    let given = key.as_ref().map(ExposeSecret::expose_secret);
    if given.is_some_and(|key| key.chars().count() < MIN_KEY) {
        section.refuse_silently(KEY, "is shorter than 32 characters: `openssl rand -hex 32` makes a key");
    }
    if given == Some(PLACEHOLDER) {
        section.refuse_silently(KEY, "is the example from the reference file: `openssl rand -hex 32` makes a key");
    }
    if wanted && !is_given {
        let remedy = "is missing: set it or readers.pseudonym_key_file, since readers.pseudonyms is true; \
                      `openssl rand -hex 32` makes a key";
        section.refuse_silently(KEY, remedy);
    }
    let day = Duration::from_secs(86_400);
    let cadence = section.span(
        "reader_cadence",
        default.reader_cadence.to_std().unwrap_or_default(),
        "use a duration from 1s to 1d, such as \"30s\"",
        |span| span >= Duration::from_secs(1) && span <= day,
    );
    Readers {
        naming: key.filter(|_| wanted).map_or(default.naming, Naming::Pseudonyms),
        reader_cadence: TimeDelta::from_std(cadence).unwrap_or(default.reader_cadence),
        groups: section.list("groups").unwrap_or_default(),
        max_calls_per_second: section.number("max_calls_per_second", default.max_calls_per_second, 1..=1_000),
    }
}
