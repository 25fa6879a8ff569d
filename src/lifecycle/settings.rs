//! The settings of the daemon, as the command line passes them on.

use std::{net::SocketAddr, sync::Arc};

use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::SecretString;

use crate::{
    chat::ChatSettings,
    config::{Jobs, Listener, Polling, Readers, Snapshots},
    domain::{Bounds, Timestamp},
    rules::{cadence::Cadences, discovery::Discovery, retention::Retention},
};

/// Settings of the daemon.
#[derive(Debug, Clone)]
pub struct DaemonSettings {
    /// The app, its credential and the destination of its calls.
    pub chat: ChatSettings,
    /// The database.
    pub database_url: SecretString,
    /// Maximum number of connections.
    pub max_connections: u32,
    /// Whether statements are prepared once per connection (unless a proxy is detected, behind which that would
    /// fail).
    pub prepared_statements: bool,
    /// Rate, batch size and timeouts of polls.
    pub polling: Polling,
    /// Which polls add snapshots.
    pub snapshots: Snapshots,
    /// How often messages are polled.
    pub cadences: Arc<Cadences>,
    /// How readers are asked for.
    pub readers: Readers,
    /// When new data is rolled up and old data removed.
    pub jobs: Jobs,
    /// How long data is kept.
    pub retention: Retention,
    /// What is watched without being added to the watch list; `None` if discovery is switched off.
    pub discovery: Option<Arc<Discovery>>,
    /// How much applications may watch.
    pub limits: Bounds,
    /// Reads this machine's clock: [`crate::clock::now`], except in tests.
    pub wall: fn() -> Timestamp,
    /// The HTTP address, and the metrics to serve there.
    pub http: Option<(SocketAddr, PrometheusHandle)>,
    /// The token that HTTP requires.
    pub http_token: Option<SecretString>,
    /// Where webhooks arrive.
    pub webhooks: Option<Listener>,
}
