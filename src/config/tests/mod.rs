use super::*;
use crate::chat::{Credential, Destination};

mod effective;
mod layers;
mod reference;
mod refusals;
mod secrets;

fn now() -> Timestamp {
    "2026-11-23T00:00:00Z".parse().unwrap()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Loads a file with this text, overridden by these variables and flags.
fn load(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    Config::load(Some(file.path()), pairs(environment).into_iter(), &pairs(flags), now())
}

fn load_file(text: &str) -> Result<Config, ConfigError> {
    load(text, &[], &[])
}

/// The keys of the problems in a file with this text.
fn problem_keys(text: &str) -> Vec<String> {
    match load_file(text).unwrap_err() {
        ConfigError::Invalid(problems) => problems.into_iter().map(|problem| problem.key).collect(),
        other => panic!("{other}"),
    }
}
