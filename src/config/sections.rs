//! Reads all sections of the settings. Finds all unknown sections and keys, not only the first.

use std::collections::BTreeMap;

use config::{Map, Value, ValueKind};

use super::{
    cadence, chat, discovery, http, jobs, limits, log, polling, problem::Problems, readers, retention,
    section::Section, settings::Config, snapshots, webhooks,
};
use crate::{
    config::database,
    domain::Timestamp,
    rules::cadence::{Cadences, DEFAULT},
};

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

/// Reads all sections. Also returns all keys that exist, each with its section, the cadences last. The settings are
/// `None` if a section without valid values can't have defaults either.
pub(super) fn read(settings: Value, now: Timestamp, problems: &mut Problems) -> (Option<Config>, Vec<String>) {
    let mut tables = into_table("the file", settings, problems).unwrap_or_default();
    tables.retain(|name, _| {
        let is_known = SECTIONS.contains(&name.as_str());
        if !is_known {
            problems.refuse_silently(name, format!("unknown section: the sections are {}", SECTIONS.join(", ")));
        }
        is_known
    });
    let mut sections = Sections { tables, keys: vec![], problems };
    let cadences = sections.cadences(now);
    let cadence_keys = std::mem::take(&mut sections.keys);
    let config = sections.all(cadences, now);
    (config, [sections.keys, cadence_keys].concat())
}

/// The sections that are still to be read.
struct Sections<'a> {
    tables: Map<String, Value>,
    /// The keys of the sections read so far.
    keys: Vec<String>,
    problems: &'a mut Problems,
}

impl Sections<'_> {
    fn all(&mut self, cadences: Option<Cadences>, now: Timestamp) -> Option<Config> {
        let chat = self.section("chat", chat::read);
        let database = self.section("database", database::read);
        let polling = self.section("polling", polling::read);
        let discovery = self.section("discovery", |section| discovery::read(section, cadences.as_ref()));
        let snapshots = self.section("snapshots", snapshots::read);
        let readers = self.section("readers", readers::read);
        let jobs = self.section("jobs", |section| jobs::read(section, now));
        let retention = self.section("retention", retention::read);
        let limits = self.section("limits", limits::read);
        let http = self.section("http", http::read);
        let webhooks = self.section("webhooks", |section| webhooks::read(section, http.listen));
        let log = self.section("log", log::read);
        Some(Config {
            chat,
            database,
            polling,
            cadences: cadences?,
            discovery,
            snapshots,
            readers,
            jobs: jobs?,
            retention,
            limits,
            http,
            webhooks,
            log,
            settings: vec![],
            exposed_files: vec![],
        })
    }

    /// Reads a section; a missing one is empty.
    fn section<T>(&mut self, name: &str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let table = self.tables.remove(name).and_then(|value| into_table(name, value, self.problems));
        self.table(name, table.unwrap_or_default(), read)
    }

    fn table<T>(&mut self, name: &str, table: Map<String, Value>, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let mut section = Section::new(name, table, self.problems);
        let read = read(&mut section);
        self.keys.extend(section.end());
        read
    }

    /// Reads the cadences of all sections `[cadence.NAME]`, the default first; `None` if one has a problem.
    fn cadences(&mut self, now: Timestamp) -> Option<Cadences> {
        let tables = self.tables.remove("cadence").and_then(|value| into_table("cadence", value, self.problems));
        let mut tables: BTreeMap<_, _> = tables.unwrap_or_default().into_iter().collect();
        let default = tables.remove(DEFAULT).unwrap_or_else(|| Value::new(None, Map::<String, Value>::new()));
        // All are read before one that has a problem ends this, so that all problems are reported.
        let mut cadences = vec![];
        for (name, value) in std::iter::once((DEFAULT.to_owned(), default)).chain(tables) {
            let section = format!("cadence.{name}");
            if !cadence::is_name(&name) {
                let remedy = "is not a valid cadence name: use 1 to 63 of a-z, 0-9, _ and -";
                self.problems.refuse_silently(&section, remedy);
            }
            let table = into_table(&section, value, self.problems);
            let read = |table| self.table(&section, table, |section| cadence::read(section, &name, now));
            cadences.push(table.and_then(read).map(|cadence| (name.clone(), cadence)));
        }
        Some(Cadences::new(cadences.into_iter().collect::<Option<_>>()?))
    }
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
