//! SIGHUP: reloads the settings. If they are invalid, logs the problems and keeps the old ones.

use std::net::SocketAddr;

use anyhow::bail;
use receiptd::{
    config::Config,
    lifecycle::{self, Daemon, Reloads},
    logging::LogLevel,
};

use super::settings::{daemon_settings, warn_of};
use crate::cli::{database::Database, global::Global};

/// Reloads the settings on each SIGHUP, also while waiting for the database. Never returns.
pub async fn on_request(
    mut reloads: Reloads,
    mut config: Config,
    global: &Global,
    daemon: &Daemon,
    database: &Database,
    log_level: &LogLevel,
) {
    loop {
        reloads.next().await;
        // systemd must not be told "ready" before the first time.
        let is_ready = daemon.is_ready();
        if is_ready {
            lifecycle::notify_reloading();
        }
        match reload(&config, global, daemon, database, log_level) {
            Ok(new) => {
                tracing::info!("settings reloaded");
                config = new;
            }
            Err(error) => {
                tracing::error!("keeping the old settings: the new ones are invalid: {error:#}")
            }
        }
        if is_ready {
            lifecycle::notify_ready();
        }
    }
}

/// Applies the current settings, or none of them if one is invalid.
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
        bail!("chat.sdk_app_id can't be changed by a reload: restart receiptd");
    }
    for key in wait_for_restart(old, &new) {
        tracing::warn!("{key} has changed and takes effect after a restart");
    }
    warn_of(&new, &chat);
    // Settings that need a restart count as unchanged until then.
    if old.database.to_string() != new.database.to_string() {
        new.database.url = old.database.url.clone();
    }
    new.database.max_connections = old.database.max_connections;
    new.database.prepared_statements = old.database.prepared_statements;
    (new.http.listen, new.log.format) = (old.http.listen, old.log.format);
    if address(old) != address(&new) || has_certificate(old) != has_certificate(&new) {
        new.webhooks = old.webhooks.clone();
    }
    let url = new.database.url.clone().unwrap_or_else(|| database.url());
    daemon.reload(&daemon_settings(&new, chat, url, None))?;
    log_level.change(&new.log.level)?;
    Ok(new)
}

/// The keys that have changed and need a restart.
fn wait_for_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        // Its password and parameters, which are not shown, take effect.
        ("database.url", old.database.to_string() != new.database.to_string()),
        ("database.max_connections", old.database.max_connections != new.database.max_connections),
        ("database.prepared_statements", old.database.prepared_statements != new.database.prepared_statements),
        ("http.listen", old.http.listen != new.http.listen),
        ("webhooks.listen", address(old) != address(new)),
        ("webhooks.tls_certificate_file", address(old).is_some() && has_certificate(old) != has_certificate(new)),
        ("log.format", old.log.format != new.log.format),
    ];
    changed.into_iter().filter(|(_, has_changed)| *has_changed).map(|(key, _)| key).collect()
}

/// Where webhooks arrive.
fn address(config: &Config) -> Option<SocketAddr> {
    config.webhooks.listener.as_ref().map(|listener| listener.listen)
}

fn has_certificate(config: &Config) -> bool {
    config.webhooks.listener.as_ref().is_some_and(|listener| listener.tls.is_some())
}
