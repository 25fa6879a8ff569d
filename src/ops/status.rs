//! What the daemon says of itself at `/status.json`, and how another process on the machine asks for it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use axum::{Json, extract::State};
use reqwest::redirect::Policy;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::Ops;
use crate::report::Report;

/// So long the daemon is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is answered: the report, and the same in a line.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    line: String,
    #[serde(flatten)]
    report: Report,
}

/// `/status.json`.
pub(super) async fn status(State(ops): State<Ops>) -> Json<Status> {
    let report = Report::of(&ops.term, Instant::now());
    Json(Status { line: report.to_string(), report })
}

/// What the daemon that listens there says of itself, if it answers.
pub async fn ask(listen: SocketAddr, token: Option<&SecretString>) -> Option<serde_json::Value> {
    // Another part of the process may have been first: any provider will do.
    _ = rustls::crypto::ring::default_provider().install_default();
    // The token is for the daemon alone: neither for a proxy of the environment nor for whoever it might be sent on to.
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().redirect(Policy::none()).build().ok()?;
    let mut request = client.get(format!("http://{}/status.json", reachable(listen)));
    if let Some(token) = token {
        request = request.bearer_auth(token.expose_secret());
    }
    let answer = request.send().await.ok()?;
    answer.error_for_status().ok()?.json().await.ok()
}

/// Who listens at all addresses is reached at the loopback one.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_asked_here() {
        for (listen, asked) in
            [("0.0.0.0:9464", "127.0.0.1:9464"), ("[::]:9464", "[::1]:9464"), ("192.0.2.7:1", "192.0.2.7:1")]
        {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}
