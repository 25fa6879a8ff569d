//! SIGHUP: the settings are read again. What is wrong with them is said, and the old ones stay.

use anyhow::bail;
use receiptd::{
    config::Config,
    lifecycle::{self, Daemon},
    logging::LogLevel,
};
use tokio::signal::unix::Signal;

use super::{super::database::Database, Global, daemon_settings, warn_of};

/// Reads the settings again at each SIGHUP, also while the database is waited for. It never ends.
pub async fn on_hangup(
    mut hangups: Signal,
    mut config: Config,
    global: &Global,
    daemon: &Daemon,
    database: &Database,
    log_level: &LogLevel,
) {
    loop {
        if hangups.recv().await.is_none() {
            return std::future::pending().await;
        }
        // Before it is ready systemd must not hear that it is again.
        let is_ready = daemon.is_ready();
        if is_ready {
            lifecycle::notify_reloading();
        }
        match reload(&config, global, daemon, database, log_level) {
            Ok(new) => {
                tracing::info!("the settings have been read again");
                config = new;
            }
            Err(error) => {
                tracing::error!("the settings stay as they were, since the new ones can't be taken: {error:#}")
            }
        }
        if is_ready {
            lifecycle::notify_ready();
        }
    }
}

/// Takes over the settings as they are now. Nothing is taken over where anything is wrong.
fn reload(
    old: &Config,
    global: &Global,
    daemon: &Daemon,
    database: &Database,
    log_level: &LogLevel,
) -> anyhow::Result<Config> {
    let mut new = global.load_config()?;
    let chat = new.chat()?;
    if chat.sdk_app_id != old.chat()?.sdk_app_id {
        bail!("chat.sdk_app_id can't change while receiptd runs: restart it");
    }
    for key in wait_for_restart(old, &new) {
        tracing::warn!("{key} has changed, which holds from the next start on");
    }
    warn_of(&new, &chat);
    // What waits for the next start counts as unchanged until then.
    if old.database.to_string() != new.database.to_string() {
        new.database.url = old.database.url.clone();
    }
    new.database.max_connections = old.database.max_connections;
    new.database.prepared_statements = old.database.prepared_statements;
    (new.http.listen, new.log.format) = (old.http.listen, old.log.format);
    let url = new.database.url.clone().unwrap_or_else(|| database.url());
    daemon.reload(daemon_settings(&new, chat, url, None))?;
    log_level.change(&new.log.level)?;
    Ok(new)
}

/// The keys whose values have changed and yet stay what they were until the next start.
fn wait_for_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        // Its password and parameters, which are not shown, are taken over.
        ("database.url", old.database.to_string() != new.database.to_string()),
        ("database.max_connections", old.database.max_connections != new.database.max_connections),
        ("database.prepared_statements", old.database.prepared_statements != new.database.prepared_statements),
        ("http.listen", old.http.listen != new.http.listen),
        ("log.format", old.log.format != new.log.format),
    ];
    changed.into_iter().filter(|(_, has_changed)| *has_changed).map(|(key, _)| key).collect()
}
