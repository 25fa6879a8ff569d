//! The sources of settings, lowest first: the file, systemd credentials, `DATABASE_URL`, the variables
//! `RECEIPTD_SECTION__KEY`, and `--set`. Two mutually exclusive keys in one source are an error. Between sources, the
//! higher one replaces the other, so that `RECEIPTD_DATABASE__URL` overrides a file's `url_file`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use config::{Config, File, FileFormat, Map, Value, ValueKind};

use super::{
    problem::{ConfigError, Problems},
    sections::SECTIONS,
};

const PREFIX: &str = "RECEIPTD_";

const FLAG: &str = "--set";

/// Sections and their mutually exclusive keys.
const ALTERNATIVES: [(&str, &[&str]); 8] = [
    ("chat", &["secret_key", "secret_key_file", "user_sig", "user_sig_file"]),
    ("chat", &["region", "endpoint"]),
    ("database", &["url", "url_file", "data_dir"]),
    ("http", &["token", "token_file"]),
    ("webhooks", &["path", "path_file"]),
    ("webhooks", &["token", "token_file"]),
    ("webhooks", &["previous_token", "previous_token_file"]),
    ("readers", &["pseudonym_key", "pseudonym_key_file"]),
];

/// The same within a cadence.
const CADENCE_ALTERNATIVES: &[&str] = &["tiers", "cron"];

/// Keys with lists as values, besides tiers.
const LISTS: [&str; 4] = ["discovery.types", "discovery.include", "discovery.exclude", "discovery.ids"];

/// Keys that `--set` refuses, since all users of the machine can read the arguments of a process.
const SECRETS: [&str; 8] = [
    "chat.secret_key",
    "chat.user_sig",
    "database.url",
    "http.token",
    "webhooks.path",
    "webhooks.token",
    "webhooks.previous_token",
    "readers.pseudonym_key",
];

/// All sources combined.
pub(super) struct Layers {
    merged: Config,
    file: Option<PathBuf>,
}

impl Layers {
    pub fn read(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
        problems: &mut Problems,
    ) -> Result<Self, ConfigError> {
        // Compose files and shells use empty variables for unset ones.
        let environment: Vec<_> = environment.filter(|(_, value)| !value.is_empty()).collect();
        let layers = [
            file.map(from_file).transpose()?.unwrap_or_default(),
            from_entries(credentials(&environment), problems)?,
            from_entries(database_url(&environment), problems)?,
            from_entries(variables(&environment, problems), problems)?,
            from_entries(set_by_flags(overrides, problems), problems)?,
        ];
        let merged = layers.into_iter().fold(Config::builder(), |merged, mut layer| {
            choose_alternatives(&mut layer, problems);
            merged.add_source(layer)
        });
        Ok(Self { merged: merged.build()?, file: file.map(Path::to_owned) })
    }

    /// The settings of all sources combined.
    pub fn merged(&self) -> Value {
        self.merged.cache.clone()
    }

    /// The origin of the value of `key`, if it has one.
    pub fn origin(&self, key: &str) -> Option<String> {
        self.origin_of(self.value(key)?)
    }

    fn origin_of(&self, value: &Value) -> Option<String> {
        match (value.origin(), &value.kind) {
            (Some(origin), _) => Some(origin.to_owned()),
            (None, ValueKind::Nil) => None,
            // Where a section comes from is where one of its keys does.
            (None, ValueKind::Table(keys)) => keys.values().filter_map(|value| self.origin_of(value)).min(),
            (None, _) => self.file.as_ref().map(|path| path.display().to_string()),
        }
    }

    /// The files with secrets in use: separate files, or the configuration file itself.
    pub fn files_with_secrets(&self) -> Vec<PathBuf> {
        let text = |key: &str| self.value(key)?.clone().into_string().ok();
        let files = SECRETS.into_iter().filter_map(|key| match text(key) {
            Some(secret) if self.value(key)?.origin().is_none() && has_secret(key, &secret) => self.file.clone(),
            Some(_) => None,
            None => text(&format!("{key}_file")).map(PathBuf::from),
        });
        files.collect()
    }

    /// The value of `key`, if any source sets it; nil if a higher source sets an alternative.
    pub fn value(&self, key: &str) -> Option<&Value> {
        lookup(&self.merged.cache, key.split('[').next()?)
    }
}

/// The value of a key (with its section) in the settings.
pub(super) fn lookup<'a>(settings: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(settings, |value, part| match &value.kind {
        ValueKind::Table(table) => table.get(part),
        _ => None,
    })
}

/// Parses TOML into settings.
pub(super) fn parse(text: &str) -> Option<Value> {
    Config::builder().add_source(File::from_str(text, FileFormat::Toml)).build().ok().map(|parsed| parsed.cache)
}

/// Whether the value of a key must not be shown.
pub(super) fn is_secret(key: &str) -> bool {
    SECRETS.contains(&key)
}

/// The database URL is only secret if it contains a password.
fn has_secret(key: &str, value: &str) -> bool {
    let account = || value.split_once("://")?.1.split_once('@').map(|(account, _)| account);
    key != "database.url" || value.contains("password=") || account().is_some_and(|account| account.contains(':'))
}

fn from_file(path: &Path) -> Result<Config, ConfigError> {
    let text = fs::read_to_string(path).map_err(|reason| ConfigError::Unreadable { path: path.to_owned(), reason })?;
    Config::builder()
        .add_source(File::from_str(&text, FileFormat::Toml))
        .build()
        .map_err(|error| ConfigError::Syntax { path: path.to_owned(), reason: without_excerpt(&error.to_string()) })
}

/// The message of a TOML error without the quoted line: its first line has the place, its last one the cause.
fn without_excerpt(message: &str) -> String {
    let lines: Vec<_> = message.trim_end().lines().collect();
    match lines[..] {
        [place, .., reason] => format!("{place}: {reason}"),
        _ => lines.concat(),
    }
}

/// A setting from outside the file: key, value and origin.
struct Entry {
    key: String,
    value: String,
    origin: String,
}

fn from_entries(entries: Vec<Entry>, problems: &mut Problems) -> Result<Config, ConfigError> {
    let mut layer = Config::builder();
    for Entry { key, value, origin } in entries {
        let is_list = key.ends_with(".tiers") || LISTS.contains(&key.as_str());
        let kind = if is_list { list(&value) } else { None };
        let value = Value::new(Some(&origin), kind.unwrap_or(ValueKind::String(value)));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if key.split('.').all(|part| !part.is_empty() && part.bytes().all(plain)) {
            layer = layer.set_override(key, value)?;
        } else {
            problems.refuse_from(&origin, &key, "is not a key: keys are SECTION.KEY");
        }
    }
    Ok(layer.build()?)
}

/// A list in the format of the file: `[{ until = "1h", every = "1m" }]`.
fn list(value: &str) -> Option<ValueKind> {
    let text = format!("list = {value}");
    let parsed = Config::builder().add_source(File::from_str(&text, FileFormat::Toml)).build().ok()?;
    parsed.get_array("list").ok().map(ValueKind::Array)
}

/// The secrets passed by systemd, each in a file named like its key: see `LoadCredential=` in systemd.exec(5).
fn credentials(environment: &[(String, String)]) -> Vec<Entry> {
    const VARIABLE: &str = "CREDENTIALS_DIRECTORY";
    let Some((_, directory)) = environment.iter().find(|(name, _)| name == VARIABLE) else { return vec![] };
    let entry = |key: &str| {
        let path = Path::new(directory).join(key);
        let entry = Entry {
            key: format!("{key}_file"),
            value: path.display().to_string(),
            origin: format!("{VARIABLE}/{key}"),
        };
        path.exists().then_some(entry)
    };
    SECRETS.into_iter().filter_map(entry).collect()
}

fn database_url(environment: &[(String, String)]) -> Vec<Entry> {
    let named = environment.iter().find(|(name, _)| name == "DATABASE_URL");
    let entry = |(name, value): &(String, String)| Entry {
        key: "database.url".to_owned(),
        value: value.clone(),
        origin: name.clone(),
    };
    named.map(entry).into_iter().collect()
}

/// The variables that are settings, with two underscores after the section. Others with the prefix are ignored,
/// unless they look like a setting with only one underscore.
fn variables(environment: &[(String, String)], problems: &mut Problems) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        let key = rest.to_lowercase();
        if key.contains("__") {
            entries.push(Entry { key: key.replace("__", "."), value: value.clone(), origin: name.clone() });
        } else if let Some((section, key)) = key.split_once('_').filter(|(section, _)| SECTIONS.contains(section)) {
            let meant = format!("{PREFIX}{section}__{key}").to_uppercase();
            problems.refuse_silently(
                name,
                format!(
                    "is not a setting: two underscores follow the section, as in \
                {meant}"
                ),
            );
        }
    }
    entries
}

fn set_by_flags(overrides: &[(String, String)], problems: &mut Problems) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (key, value) in overrides {
        if SECRETS.contains(&key.as_str()) {
            let variable = format!("{PREFIX}{}", key.replace('.', "__")).to_uppercase();
            let remedy = "is a secret, and all users of this machine can read the arguments of a process: set";
            problems.refuse_from(FLAG, key, format!("{remedy} {key}_file, or set {variable}"));
        } else {
            entries.push(Entry { key: key.clone(), value: value.clone(), origin: FLAG.to_owned() });
        }
    }
    entries
}

/// Removes the alternatives of the keys in `layer` from lower sources.
fn choose_alternatives(layer: &mut Config, problems: &mut Problems) {
    for (section, keys) in ALTERNATIVES {
        if let Some(table) = table(&mut layer.cache, section) {
            choose(section, keys, table, problems);
        }
    }
    for (name, cadence) in table(&mut layer.cache, "cadence").into_iter().flatten() {
        if let ValueKind::Table(cadence) = &mut cadence.kind {
            choose(&format!("cadence.{name}"), CADENCE_ALTERNATIVES, cadence, problems);
        }
    }
}

fn table<'a>(root: &'a mut Value, section: &str) -> Option<&'a mut Map<String, Value>> {
    let ValueKind::Table(sections) = &mut root.kind else { return None };
    match &mut sections.get_mut(section)?.kind {
        ValueKind::Table(table) => Some(table),
        _ => None,
    }
}

fn choose(section: &str, keys: &[&str], table: &mut Map<String, Value>, problems: &mut Problems) {
    let given: Vec<_> = keys.iter().filter(|key| table.contains_key(**key)).collect();
    match given[..] {
        [] => {}
        [_] => {
            for key in keys {
                table.entry((*key).to_owned()).or_insert(Value::new(None, ValueKind::Nil));
            }
        }
        [first, ..] => {
            let key = format!("{section}.{first}");
            let others: Vec<_> = given[1..].iter().map(|other| format!("{section}.{other}")).collect();
            let remedy = format!("conflicts with {}: keep one", others.join(", "));
            match table.get(*first).cloned().and_then(|value| value.into_string().ok()) {
                Some(value) if !SECRETS.contains(&key.as_str()) => problems.refuse(&key, &value, remedy),
                _ => problems.refuse_silently(&key, remedy),
            }
        }
    }
}
