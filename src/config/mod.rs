//! The configuration: built-in defaults < file < environment < `--set`, parsed into trusted types.
//!
//! `config/receiptd.toml` is the reference of all keys. An invalid setting makes the whole configuration invalid. A
//! missing one is only reported by commands that need it ([`Config::chat`], [`Config::sdk_app_id`]). All problems are
//! reported at once, each with its remedy. The value of a secret never appears in an error or a log.

mod cadence;
mod chat;
mod database;
mod discovery;
mod effective;
mod exposure;
mod http;
mod jobs;
mod layers;
mod limits;
mod log;
mod polling;
mod problem;
mod readers;
mod retention;
mod secret;
mod section;
mod sections;
mod settings;
mod snapshots;
mod webhooks;

use std::path::Path;

pub use self::{
    chat::Signing,
    database::Database,
    discovery::Discovery,
    exposure::ExposedFile,
    http::Http,
    jobs::Jobs,
    polling::Polling,
    problem::{ConfigError, Problem},
    readers::Readers,
    settings::{Config, Setting},
    snapshots::Snapshots,
    webhooks::{Listener, TlsFiles, Webhooks},
};
use self::{layers::Layers, problem::Problems};
use crate::{
    chat::ChatSettings,
    domain::{SdkAppId, Timestamp},
};

impl Config {
    /// Loads the settings: `overrides` take precedence over `environment`, that over `file`, and that over the
    /// built-in defaults. Other variables in `environment` are ignored. Cron expressions must match a time after
    /// `now`.
    ///
    /// # Errors
    /// If the file or a secret's file can't be read, or a key is unknown, invalid, or excluded by another.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
        now: Timestamp,
    ) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        let layers = Layers::read(file, environment, overrides, &mut problems)?;
        let (config, keys) = sections::read(layers.merged(), now, &mut problems);
        match config {
            Some(config) if problems.is_empty() => {
                let exposed_files =
                    layers.files_with_secrets().iter().filter_map(|path| ExposedFile::find(path)).collect();
                Ok(Self { exposed_files, settings: effective::settings(&keys, &layers), ..config })
            }
            _ => Err(problems.into_error(|key| layers.origin(key))),
        }
    }

    /// Whether `readers.groups` has no effect, since only discovery applies it: what is wrong, and the remedy.
    pub fn idle_reader_patterns(&self) -> Option<(&'static str, &'static str)> {
        let are_idle = !self.readers.groups.is_empty() && !self.discovery.enabled;
        are_idle.then_some((
            "readers.groups has no effect: only discovery turns readers on by it, and discovery.enabled is false",
            "switch discovery on, or turn readers on with `receiptd watch readers GROUP on`",
        ))
    }

    /// The settings of a Tencent Chat client.
    ///
    /// # Errors
    /// If the app, the credential or the destination is missing; names everything that is missing.
    pub fn chat(&self) -> Result<ChatSettings, ConfigError> {
        let mut problems = Problems::default();
        self.chat.complete(&mut problems).ok_or_else(|| problems.into_error(|_| None))
    }

    /// The settings of a signature.
    ///
    /// # Errors
    /// If the app or the credential is missing; names everything that is missing.
    pub fn signing(&self) -> Result<Signing, ConfigError> {
        let mut problems = Problems::default();
        self.chat.signing(&mut problems).ok_or_else(|| problems.into_error(|_| None))
    }

    /// The app, for commands that make no calls.
    ///
    /// # Errors
    /// If it is missing.
    pub fn sdk_app_id(&self) -> Result<SdkAppId, ConfigError> {
        let mut problems = Problems::default();
        self.chat.app(&mut problems).ok_or_else(|| problems.into_error(|_| None))
    }
}

#[cfg(test)]
mod tests;
