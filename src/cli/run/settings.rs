//! The settings of the daemon, from the configuration.

use std::{net::SocketAddr, sync::Arc};

use receiptd::{
    chat::ChatSettings,
    clock,
    config::Config,
    daemon::leadership::SessionSettings,
    domain::SdkAppId,
    http::{self, PrometheusHandle},
    lifecycle::DaemonSettings,
};
use secrecy::SecretString;

/// Warns about settings that are valid but hardly intended.
pub fn warn_of(config: &Config, chat: &ChatSettings) {
    if chat.credential.is_example() {
        tracing::warn!("chat.secret_key is the example from the reference file: every call would fail");
    }
    if let Some((found, remedy)) = config.idle_reader_patterns() {
        tracing::warn!("{found}: {remedy}");
    }
    for file in &config.exposed_files {
        tracing::warn!("{file}");
    }
}

/// The HTTP side, with the metrics of this process.
pub fn http(config: &Config, app: SdkAppId) -> anyhow::Result<Option<(SocketAddr, PrometheusHandle)>> {
    let serve = |listen| Ok((listen, http::install_metrics(app)?));
    config.http.listen.map(serve).transpose()
}

/// The daemon's settings, from the configuration.
pub fn daemon_settings(
    config: &Config,
    chat: ChatSettings,
    database_url: SecretString,
    http: Option<(SocketAddr, PrometheusHandle)>,
) -> DaemonSettings {
    DaemonSettings {
        chat,
        database_url,
        max_connections: config.database.max_connections,
        prepared_statements: config.database.prepared_statements,
        session: SessionSettings {
            polling: config.polling.clone(),
            snapshots: config.snapshots.clone(),
            cadences: Arc::new(config.cadences.clone()),
            readers: config.readers.clone(),
            jobs: config.jobs.clone(),
            retention: config.retention,
            discovery: config.discovery.enabled.then(|| Arc::new(config.discovery.rules.clone())),
        },
        limits: config.limits,
        wall: clock::now,
        http,
        http_token: config.http.token.clone(),
        webhooks: config.webhooks.listener.clone(),
    }
}
