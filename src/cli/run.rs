//! `receiptd run`: the daemon.

use std::{process::ExitCode, sync::Arc};

use clap::Args;
use receiptd::{
    chat::ChatSettings,
    config::{Chat, Config},
    jobs::JobSettings,
    lifecycle::{self, Daemon, DaemonSettings, StartError},
    logging, ops,
    poller::PollerSettings,
};
use secrecy::SecretString;

use super::{Global, database::Database, exit::Exit};

/// Poll what is due, until told to stop
#[derive(Args)]
pub struct Arguments {}

pub async fn execute(_: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let chat = config.chat()?;
    logging::init(&config.log)?;
    let stop = lifecycle::stop_on_signal()?;
    if chat.has_placeholder_key() {
        tracing::warn!("chat.secret_key is the example of the reference file, with which no call succeeds");
    }
    for file in &config.exposed_files {
        tracing::warn!("{file}");
    }
    let database = Database::open(&config.database).await?;
    let (app, at) = (chat.sdk_app_id, chat.destination.to_string());
    let settings = daemon_settings(&config, chat, database.url())?;
    let daemon = match Daemon::start(settings, stop.clone()).await {
        Ok(daemon) => daemon,
        Err(StartError::Stopped) => return Ok(ExitCode::SUCCESS),
        Err(error) => return Err(error.into()),
    };
    lifecycle::notify_ready();
    tracing::info!(%app, at, "ready to poll app {app} at {at}");
    tokio::select! { () = stop.cancelled() => {} () = daemon.ended() => {} }
    let is_asked_for = stop.is_cancelled();
    lifecycle::notify_stopping();
    tracing::info!("stopping: polls in flight end, what they brought back is stored");
    let lost = daemon.stop().await;
    database.close().await?;
    tracing::info!("stopped");
    Ok(if is_asked_for && lost == 0 { ExitCode::SUCCESS } else { Exit::Software.into() })
}

/// What the daemon needs to know, from the configuration.
pub fn daemon_settings(config: &Config, chat: Chat, database_url: SecretString) -> anyhow::Result<DaemonSettings> {
    let polling = &config.polling;
    let http = match config.http.listen {
        Some(listen) => Some((listen, ops::install_metrics()?)),
        None => None,
    };
    Ok(DaemonSettings {
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
        poller: PollerSettings {
            max_calls_per_second: polling.max_calls_per_second,
            transit_allowance: polling.transit_allowance,
            batch_size: polling.batch_size,
            max_in_flight: polling.max_in_flight,
            keep: config.snapshots.record,
        },
        cadences: Arc::new(config.cadences.clone()),
        jobs: JobSettings {
            rollup: config.jobs.rollup.clone(),
            retention: config.jobs.retention.clone(),
            keep: config.retention,
        },
        http,
    })
}
