//! The facts that the command shows, and their sources.

use std::time::Duration;

use receiptd::{
    config::Http,
    store::{DiscoveryTotals, Overview, Store, StoreError},
};
use serde::Serialize;

use crate::cli::diagnosis;

/// Time between two looks of --watch.
pub const EVERY: Duration = Duration::from_secs(2);

/// The command's output.
#[derive(Serialize)]
pub struct Status {
    pub database: Overview,
    /// Why the app is not being polled, with the remedy if there is one.
    pub trouble: Option<String>,
    /// What is wrong with this machine's or the database's clock, if anything.
    pub clock: Option<String>,
    /// The report of the daemon on this machine; null if there is none.
    pub daemon: Option<serde_json::Value>,
    /// Why there is none.
    pub daemon_unheard: Option<String>,
    /// The results of discovery; null if it is off.
    pub discovery: Option<DiscoveryTotals>,
}

pub async fn look(store: &Store, http: &Http) -> Result<Status, StoreError> {
    let database = store.overview().await?;
    let heard = diagnosis::ask(store.sdk_app_id(), http).await;
    let daemon_unheard = heard.as_ref().err().map(ToString::to_string);
    let daemon = heard.ok();
    let trouble = diagnosis::of_app(daemon.as_ref(), store.last_call().await?.as_ref());
    let clock = store.clock().doubt().map(|doubt| doubt.to_string());
    let discovery = match store.discovery_began().await? {
        Some(_) => Some(store.discovery_totals().await?),
        None => None,
    };
    Ok(Status { database, trouble, clock, daemon, daemon_unheard, discovery })
}
