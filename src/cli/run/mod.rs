//! `receiptd run`: the daemon.

mod reload;

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use clap::Args;
use receiptd::{
    chat::ChatSettings,
    clock,
    config::{Chat, Config},
    daemon::{jobs::JobSettings, poller::PollerSettings, readers::ReaderSettings},
    domain::SdkAppId,
    http::{self, PrometheusHandle},
    lifecycle::{self, Daemon, DaemonSettings, StartError},
    logging,
    store::AskingLimits,
};
use secrecy::SecretString;

use super::{Global, database::Database, exit::Exit};

/// Run the daemon: poll due messages until stopped
#[derive(Args)]
pub struct Arguments {}

pub async fn execute(_: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let chat = config.chat()?;
    let log_level = logging::init(&config.log)?;
    let (stop, hangups) = (lifecycle::stop_on_signal()?, lifecycle::reload_signal()?);
    warn_of(&config, &chat);
    let database = Database::open(&config.database).await?;
    let (app, at) = (chat.sdk_app_id, chat.destination.to_string());
    let webhooks = config.webhooks.listener.as_ref().map(|listener| listener.listen);
    let settings = daemon_settings(&config, chat, database.url(), http(&config, app)?);
    let daemon = Daemon::open(settings, stop.clone()).await?;
    let work = async {
        daemon.begin().await?;
        lifecycle::notify_ready();
        tracing::info!(%app, at, "ready to poll app {app} at {at}");
        if let Some(page) = daemon.page() {
            tracing::info!("status page at http://{page}/");
        }
        if let Some(listen) = webhooks {
            tracing::info!("receiving webhooks at {listen}");
        }
        daemon.ended().await;
        Ok(())
    };
    let ended: Result<(), StartError> = tokio::select! {
        // First, since the daemon stops on this signal too.
        biased;
        () = stop.cancelled() => Ok(()),
        ended = work => ended,
        () = reload::on_hangup(hangups, config, global, &daemon, &database, &log_level) => Ok(()),
    };
    let is_asked_for = stop.is_cancelled();
    lifecycle::notify_stopping().await;
    tracing::info!("stopping: draining in-flight polls and storing their results");
    let lost = daemon.stop().await;
    database.close().await?;
    tracing::info!("stopped");
    ended?;
    Ok(if is_asked_for && lost == 0 { ExitCode::SUCCESS } else { Exit::Software.into() })
}

/// Warns about settings that are valid but hardly intended.
fn warn_of(config: &Config, chat: &Chat) {
    if chat.has_placeholder_key() {
        tracing::warn!("chat.secret_key is the example from the reference file: every call would fail");
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
    chat: Chat,
    database_url: SecretString,
    http: Option<(SocketAddr, PrometheusHandle)>,
) -> DaemonSettings {
    let polling = &config.polling;
    DaemonSettings {
        chat: ChatSettings {
            sdk_app_id: chat.sdk_app_id,
            identifier: chat.identifier,
            credential: chat.credential,
            destination: chat.destination,
            request_timeout: polling.request_timeout,
            max_connections: polling.max_in_flight,
        },
        database_url,
        max_connections: config.database.max_connections,
        prepared_statements: config.database.prepared_statements,
        poller: PollerSettings {
            max_calls_per_second: polling.max_calls_per_second,
            transit_allowance: polling.transit_allowance,
            batch_size: polling.batch_size,
            max_in_flight: polling.max_in_flight,
            keep: config.snapshots.record,
        },
        cadences: Arc::new(config.cadences.clone()),
        readers: ReaderSettings {
            naming: config.readers.naming.clone(),
            limits: AskingLimits { every: config.readers.reader_cadence, kept: config.retention.readers },
            groups: config.readers.groups.clone(),
            max_calls_per_second: config.readers.max_calls_per_second,
        },
        jobs: JobSettings {
            rollup: config.jobs.rollup.clone(),
            retention: config.jobs.retention.clone(),
            keep: config.retention,
        },
        discovery: config.discovery.enabled.then(|| Arc::new(config.discovery.rules.clone())),
        limits: config.limits,
        wall: clock::now,
        http,
        http_token: config.http.token.clone(),
        webhooks: config.webhooks.listener.clone(),
    }
}
