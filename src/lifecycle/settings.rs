//! The settings of the daemon, as the command line passes them on.

use std::net::SocketAddr;

use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::SecretString;

use crate::{
    chat::ChatSettings,
    config::Listener,
    daemon::leadership::SessionSettings,
    domain::{Bounds, Timestamp},
};

/// Settings of the daemon.
#[derive(Debug, Clone)]
pub struct DaemonSettings {
    /// The app, its credential and the destination of its calls.
    pub chat: ChatSettings,
    /// The database.
    pub database_url: SecretString,
    /// Maximum number of database connections.
    pub max_connections: u32,
    /// Whether statements are prepared once per connection (unless a proxy is detected, behind which that would
    /// fail).
    pub prepared_statements: bool,
    /// The settings of each polling session.
    pub session: SessionSettings,
    /// How much applications may watch.
    pub limits: Bounds,
    /// Reads this machine's clock: [`crate::clock::now`], except in tests.
    pub wall: fn() -> Timestamp,
    /// The HTTP address, and the metrics to serve there.
    pub http: Option<(SocketAddr, PrometheusHandle)>,
    /// The token that HTTP requires.
    pub http_token: Option<SecretString>,
    /// Where webhooks arrive; `None` if they are not listened for.
    pub webhooks: Option<Listener>,
}
