//! The settings of all sections.

use serde::Serialize;

use super::{
    chat, database::Database, discovery::Discovery, exposure::ExposedFile, http::Http, jobs::Jobs, polling::Polling,
    readers::Readers, snapshots::Snapshots, webhooks::Webhooks,
};
use crate::{
    domain::Bounds,
    logging::Log,
    rules::{cadence::Cadences, retention::Retention},
};

/// All settings; those that are set are valid.
#[derive(Debug, Clone)]
pub struct Config {
    pub(super) chat: chat::Settings,
    /// `[database]`
    pub database: Database,
    /// `[polling]`
    pub polling: Polling,
    /// `[cadence.NAME]`
    pub cadences: Cadences,
    /// `[discovery]`
    pub discovery: Discovery,
    /// `[snapshots]`
    pub snapshots: Snapshots,
    /// `[jobs]`
    pub jobs: Jobs,
    /// `[retention]`
    pub retention: Retention,
    /// `[readers]`
    pub readers: Readers,
    /// `[limits]`
    pub limits: Bounds,
    /// `[http]`
    pub http: Http,
    /// `[webhooks]`
    pub webhooks: Webhooks,
    /// `[log]`
    pub log: Log,
    /// All settings with their origins, secrets redacted.
    pub settings: Vec<Setting>,
    /// Files with secrets that other users can read, for warnings.
    pub exposed_files: Vec<ExposedFile>,
}

/// An effective setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// The key, including its section.
    pub key: String,
    /// The value in the format of the file; `None` if unset.
    pub value: Option<String>,
    /// The origin of the value: a file, a variable, `--set`, or `default`.
    pub origin: Option<String>,
}
