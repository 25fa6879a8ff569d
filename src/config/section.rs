//! Reading a section: its keys, each with its kind, default and remedy. Keys that were not read are unknown.

use std::{
    collections::HashMap,
    fmt::Display,
    net::{Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use config::{Map, Value, ValueKind};
use secrecy::SecretString;
use serde::de::DeserializeOwned;

use super::{problem::Problems, secret};

/// A section while it is read. An invalid value is a problem, and counts as its default.
pub(super) struct Section<'a> {
    name: &'a str,
    table: Map<String, Value>,
    /// The keys read so far, in order.
    keys: Vec<String>,
    problems: &'a mut Problems,
}

impl<'a> Section<'a> {
    pub fn new(name: &'a str, table: Map<String, Value>, problems: &'a mut Problems) -> Self {
        Self { name, table, keys: vec![], problems }
    }

    /// Ends reading. Refuses the other keys of the section, and returns its own, each with its section.
    pub fn end(mut self) -> Vec<String> {
        let known = self.keys.join(", ");
        for key in std::mem::take(&mut self.table).into_keys() {
            self.refuse_silently(&key, format!("unknown key: the keys here are {known}"));
        }
        self.keys.iter().map(|key| self.full(key)).collect()
    }

    /// The value of a key in any form; `None` if there is none.
    pub fn value<T: DeserializeOwned>(&mut self, key: &str) -> Option<T> {
        self.keys.push(key.to_owned());
        // In a table, so that an error names the key, or its part.
        let table = Map::from_iter([(key.to_owned(), self.table.remove(key)?)]);
        match Value::new(None, table).try_deserialize::<HashMap<String, Option<T>>>() {
            Ok(values) => values.into_values().next().flatten(),
            Err(error) => {
                let (key, reason) = located(error);
                self.refuse_silently(&key, reason);
                None
            }
        }
    }

    /// A text.
    pub fn text(&mut self, key: &str) -> Option<String> {
        self.value(key)
    }

    /// The path of a file or directory.
    pub fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.value(key)
    }

    /// The valid entries of a list; `None` if there is none.
    pub fn list<T: FromStr<Err: Display>>(&mut self, key: &str) -> Option<Vec<T>> {
        let texts: Vec<String> = self.value(key)?;
        let mut valid = vec![];
        for text in texts {
            match text.parse::<T>() {
                Ok(entry) => valid.push(entry),
                Err(error) => self.refuse_silently(key, error.to_string()),
            }
        }
        Some(valid)
    }

    /// Whether a key that has not been read yet has a value, valid or not.
    pub fn is_given(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(|value| !matches!(value.kind, ValueKind::Nil))
    }

    /// A secret, in place or in the file that the key with `_file` names.
    pub fn secret(&mut self, key: &str) -> Option<SecretString> {
        let text = self.value(key);
        let file = self.path(&format!("{key}_file"));
        secret::take(&self.full(key), text, file.as_deref(), self.problems)
    }

    /// The value that `parse` returns for the text, or the default. The remedy says what can be parsed.
    pub fn parsed<T>(
        &mut self,
        key: &str,
        default: T,
        remedy: impl Into<String>,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> T {
        let text = self.text(key);
        self.parsed_text(key, text, default, remedy, parse)
    }

    /// The same for the text of a key, or of a part of its value, that was read before.
    pub fn parsed_text<T>(
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

    /// True or false.
    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        self.parsed(key, default, "use true or false", |text| text.parse().ok())
    }

    /// A whole number within `range`.
    pub fn number<T: FromStr + PartialOrd + Display>(&mut self, key: &str, default: T, range: RangeInclusive<T>) -> T {
        let text = self.text(key);
        self.number_text(key, text, default, range)
    }

    /// The same for a text that was read before.
    pub fn number_text<T>(&mut self, key: &str, text: Option<String>, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display,
    {
        let remedy = format!("use a whole number from {} to {}", range.start(), range.end());
        self.parsed_text(key, text, default, remedy, |text| text.parse().ok().filter(|number| range.contains(number)))
    }

    /// A duration such as `"50ms"` that satisfies `allowed`.
    pub fn span(
        &mut self,
        key: &str,
        default: Duration,
        remedy: &str,
        allowed: impl FnOnce(Duration) -> bool,
    ) -> Duration {
        self.parsed(key, default, remedy, |text| humantime::parse_duration(text).ok().filter(|span| allowed(*span)))
    }

    /// The address of a listener, or `off`. The default port is for the remedy, and for loopback if it `is_on`.
    pub fn address(&mut self, key: &str, default_port: u16, is_on: bool) -> Option<SocketAddr> {
        let default = is_on.then(|| SocketAddr::from((Ipv4Addr::LOCALHOST, default_port)));
        let remedy = format!(
            "use an IP address with a port, such as \"127.0.0.1:{default_port}\" or \"[::1]:{default_port}\", or \"off\""
        );
        self.parsed(key, default, remedy, |text| match text {
            "off" => Some(None),
            address => address.parse().ok().map(Some),
        })
    }

    /// Notes an invalid value. Never for secrets: see [`Self::refuse_silently`].
    pub fn refuse(&mut self, key: &str, value: &str, remedy: impl Into<String>) {
        self.problems.refuse(&self.full(key), value, remedy);
    }

    /// Notes a problem without showing a value: there is none, or it may contain a secret.
    pub fn refuse_silently(&mut self, key: &str, remedy: impl Into<String>) {
        self.problems.refuse_silently(&self.full(key), remedy);
    }

    /// Notes a problem of the section as a whole.
    pub fn refuse_whole(&mut self, remedy: &str) {
        self.problems.refuse_silently(self.name, remedy);
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }
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
