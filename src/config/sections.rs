//! Splits the settings into the keys of each section. Finds all unknown keys, not only the first.

use std::collections::BTreeMap;

use config::{Map, Value, ValueKind};
use serde::de::DeserializeOwned;

use super::{
    cadence, chat, database, discovery, fields::fields_of, http, jobs, limits, log, polling, problem::Problems,
    readers, retention, settings::Config, snapshots, webhooks,
};
use crate::domain::Timestamp;

/// The names of the sections.
pub(super) const SECTIONS: [&str; 13] = [
    "chat",
    "database",
    "polling",
    "cadence",
    "discovery",
    "snapshots",
    "readers",
    "jobs",
    "retention",
    "limits",
    "http",
    "webhooks",
    "log",
];

/// Returns the names of a section's keys.
type Fields = fn() -> &'static [&'static str];

/// The keys of all sections except cadences, whose names are free.
pub(super) const KEYS: [(&str, Fields); 12] = [
    ("chat", fields_of::<chat::Keys>),
    ("database", fields_of::<database::Keys>),
    ("polling", fields_of::<polling::Keys>),
    ("discovery", fields_of::<discovery::Keys>),
    ("snapshots", fields_of::<snapshots::Keys>),
    ("readers", fields_of::<readers::Keys>),
    ("jobs", fields_of::<jobs::Keys>),
    ("retention", fields_of::<retention::Keys>),
    ("limits", fields_of::<limits::Keys>),
    ("http", fields_of::<http::Keys>),
    ("webhooks", fields_of::<webhooks::Keys>),
    ("log", fields_of::<log::Keys>),
];

/// The parsed sections; `None` if a section has the wrong form.
pub(super) struct Sections {
    chat: Option<chat::Keys>,
    database: Option<database::Keys>,
    polling: Option<polling::Keys>,
    cadences: Option<BTreeMap<String, cadence::Keys>>,
    discovery: Option<discovery::Keys>,
    snapshots: Option<snapshots::Keys>,
    readers: Option<readers::Keys>,
    jobs: Option<jobs::Keys>,
    retention: Option<retention::Keys>,
    limits: Option<limits::Keys>,
    http: Option<http::Keys>,
    webhooks: Option<webhooks::Keys>,
    log: Option<log::Keys>,
}

impl Sections {
    pub fn read(settings: Value, problems: &mut Problems) -> Self {
        let mut tables = into_table("the file", settings, problems).unwrap_or_default();
        refuse_unknown("", &mut tables, &SECTIONS, problems);
        Self {
            chat: section("chat", &mut tables, problems),
            database: section("database", &mut tables, problems),
            polling: section("polling", &mut tables, problems),
            cadences: cadences(tables.remove("cadence"), problems),
            discovery: section("discovery", &mut tables, problems),
            snapshots: section("snapshots", &mut tables, problems),
            readers: section("readers", &mut tables, problems),
            jobs: section("jobs", &mut tables, problems),
            retention: section("retention", &mut tables, problems),
            limits: section("limits", &mut tables, problems),
            http: section("http", &mut tables, problems),
            webhooks: section("webhooks", &mut tables, problems),
            log: section("log", &mut tables, problems),
        }
    }

    /// The trusted settings; `None` and problems if they are invalid.
    pub fn validate(self, now: Timestamp, problems: &mut Problems) -> Option<Config> {
        let chat = self.chat.map(|keys| keys.validate(problems));
        let database = self.database.map(|keys| keys.validate(problems));
        let polling = self.polling.map(|keys| keys.validate(problems));
        let cadences = self.cadences.and_then(|sections| cadence::validate(sections, now, problems));
        let discovery = self.discovery.map(|keys| keys.validate(cadences.as_ref(), problems));
        let snapshots = self.snapshots.map(|keys| keys.validate(problems));
        let readers = self.readers.map(|keys| keys.validate(problems));
        let jobs = self.jobs.and_then(|keys| keys.validate(now, problems));
        let retention = self.retention.map(|keys| keys.validate(problems));
        let limits = self.limits.map(|keys| keys.validate(problems));
        let http = self.http.map(|keys| keys.validate(problems));
        let page = http.as_ref().and_then(|http| http.listen);
        let webhooks = self.webhooks.map(|keys| keys.validate(page, problems));
        let log = self.log.map(|keys| keys.validate(problems));
        Some(Config {
            chat: chat?,
            database: database?,
            polling: polling?,
            cadences: cadences?,
            discovery: discovery?,
            snapshots: snapshots?,
            readers: readers?,
            jobs: jobs?,
            retention: retention?,
            limits: limits?,
            http: http?,
            webhooks: webhooks?,
            log: log?,
            settings: vec![],
            exposed_files: vec![],
        })
    }
}

fn section<T: DeserializeOwned + Default>(
    name: &str,
    tables: &mut Map<String, Value>,
    problems: &mut Problems,
) -> Option<T> {
    tables.remove(name).map_or_else(|| Some(T::default()), |value| keys(name, value, problems))
}

fn cadences(value: Option<Value>, problems: &mut Problems) -> Option<BTreeMap<String, cadence::Keys>> {
    let Some(value) = value else { return Some(BTreeMap::new()) };
    let mut all = Some(BTreeMap::new());
    for (name, value) in into_table("cadence", value, problems)? {
        if !cadence::is_name(&name) {
            let remedy = "is not a valid cadence name: use 1 to 63 of a-z, 0-9, _ and -";
            problems.refuse_silently(&format!("cadence.{name}"), remedy);
        }
        let keys = keys(&format!("cadence.{name}"), value, problems);
        all = all.zip(keys).map(|(mut all, keys)| {
            all.insert(name, keys);
            all
        });
    }
    all
}

fn keys<T: DeserializeOwned>(name: &str, value: Value, problems: &mut Problems) -> Option<T> {
    let mut table = into_table(name, value, problems)?;
    refuse_unknown(&format!("{name}."), &mut table, fields_of::<T>(), problems);
    Value::new(None, table)
        .try_deserialize()
        .map_err(|error| {
            let (key, reason) = located(error);
            problems.refuse_silently(&format!("{name}.{key}"), reason);
        })
        .ok()
}

fn into_table(name: &str, value: Value, problems: &mut Problems) -> Option<Map<String, Value>> {
    match value.kind {
        ValueKind::Table(table) => Some(table),
        _ => {
            problems.refuse_silently(name, format!("is a section, not a key: write [{name}] and its keys below"));
            None
        }
    }
}

fn refuse_unknown(prefix: &str, table: &mut Map<String, Value>, known: &[&str], problems: &mut Problems) {
    let what = if prefix.is_empty() { "section: the sections are" } else { "key: the keys here are" };
    table.retain(|key, _| {
        let is_known = known.contains(&key.as_str());
        if !is_known {
            problems.refuse_silently(&format!("{prefix}{key}"), format!("unknown {what} {}", known.join(", ")));
        }
        is_known
    });
}

/// The key of a value with the wrong form, and the problem.
fn located(error: config::ConfigError) -> (String, String) {
    match error {
        config::ConfigError::Type { key, unexpected, expected, .. } => {
            (key.unwrap_or_default(), format!("is a {unexpected}: use {expected}"))
        }
        config::ConfigError::At { key, error, .. } => (key.unwrap_or_default(), error.to_string()),
        other => (String::new(), other.to_string()),
    }
}
