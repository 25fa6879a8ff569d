//! `receiptd run`: the daemon.

mod reload;
mod settings;

use std::process::ExitCode;

use clap::Args;
use receiptd::{
    lifecycle::{self, Daemon, StartError},
    logging,
};

use self::settings::warn_of;
pub use self::settings::{daemon_settings, http};
use super::{Global, database::Database, exit::Exit};

/// Run the daemon: poll due messages until stopped
#[derive(Args)]
pub struct Arguments {}

pub async fn execute(_: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let chat = config.chat()?;
    let log_level = logging::init(&config.log)?;
    let (stop, reloads) = lifecycle::stop_or_reload_on_signal()?;
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
        () = reload::on_request(reloads, config, global, &daemon, &database, &log_level) => Ok(()),
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
