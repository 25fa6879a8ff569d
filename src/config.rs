//! The configuration: built-in defaults < file < environment < `--set`, made into types that can be trusted.
//!
//! `config/receiptd.toml` is the reference of every key. What is given must be valid, or nothing is; what is missing
//! is asked for by the command that needs it ([`Config::chat`], [`Config::sdk_app_id`]). Errors name all problems at
//! once, each with its remedy. The value of a secret never gets into an error or a log.

mod cadence;
mod chat;
mod database;
mod effective;
mod exposure;
mod fields;
mod http;
mod jobs;
mod layers;
mod limits;
mod log;
mod polling;
mod problem;
mod retention;
mod secret;
mod sections;
mod snapshots;

use std::path::Path;

pub use self::{
    chat::{Chat, Signing},
    database::Database,
    effective::Setting,
    exposure::ExposedFile,
    http::Http,
    jobs::Jobs,
    polling::Polling,
    problem::{ConfigError, Problem},
    snapshots::Snapshots,
};
use self::{layers::Layers, problem::Problems, sections::Sections};
use crate::{
    cadence::Cadences,
    domain::{Bounds, SdkAppId, Timestamp},
    logging::Log,
    retention::Retention,
};

/// All settings, valid as far as they are given.
#[derive(Debug, Clone)]
pub struct Config {
    chat: chat::Settings,
    /// Where the history is kept.
    pub database: Database,
    /// How fast calls are made, and how much each asks for.
    pub polling: Polling,
    /// How often messages are polled.
    pub cadences: Cadences,
    /// Which polls leave a row in the time series.
    pub snapshots: Snapshots,
    /// When what is stored is rolled up, and what is old removed.
    pub jobs: Jobs,
    /// How long what is kept.
    pub retention: Retention,
    /// How much applications may have watched.
    pub limits: Bounds,
    /// Where health, readiness and metrics are served.
    pub http: Http,
    /// What is logged, and in which form.
    pub log: Log,
    /// All settings with where each came from, secrets redacted.
    pub settings: Vec<Setting>,
    /// Files with secrets that others can read, to be warned of.
    pub exposed_files: Vec<ExposedFile>,
}

impl Config {
    /// Reads the settings: those of `overrides` hold over `environment`, those over `file`, and those over the
    /// built-in defaults. `environment` may hold other variables; they are left alone. Cron expressions must still
    /// fire after `now`.
    ///
    /// # Errors
    /// If the file or a secret's file can't be read, or a key is unknown, refused, or at odds with another.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
        now: Timestamp,
    ) -> Result<Self, ConfigError> {
        let mut problems = Problems::default();
        let layers = Layers::read(file, environment, overrides, &mut problems)?;
        let sections = Sections::read(layers.merged(), &mut problems);
        let config = sections.validate(now, &mut problems);
        match config {
            Some(config) if problems.is_empty() => {
                let exposed_files =
                    layers.files_with_secrets().iter().filter_map(|path| ExposedFile::find(path)).collect();
                Ok(Self { exposed_files, settings: effective::settings(&layers), ..config })
            }
            _ => Err(problems.into_error(|key| layers.origin(key))),
        }
    }

    /// What a client of Tencent Chat needs.
    ///
    /// # Errors
    /// If the app, the credential or the destination is missing; all that is missing is named.
    pub fn chat(&self) -> Result<Chat, ConfigError> {
        let mut problems = Problems::default();
        self.chat.complete(&mut problems).ok_or_else(|| problems.into_error(|_| None))
    }

    /// What a signature needs.
    ///
    /// # Errors
    /// If the app or the credential is missing; all that is missing is named.
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
