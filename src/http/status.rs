//! The daemon's report at `/status.json`, and how other processes on the machine get it: only from a program of a
//! trusted account, and only up to the size of a report.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use axum::{Json, extract::State};
use reqwest::redirect::Policy;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::{peer, state::Ops};
use crate::{daemon::report::Report, domain::SdkAppId};

/// Timeout for the daemon's whole answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Maximum size of a report that is read, in bytes; one has about 1,000.
const MAX_BYTES: usize = 64 << 10;

/// Why there is no report from the daemon on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unheard {
    /// No answer, or one that is not a report.
    #[error("does not answer at http.listen")]
    Silent,
    /// Another account's program is listening.
    #[error(
        "was not asked: a program of the account {account} listens at {listen}, but only root, receiptd and the user \
         of this command are trusted"
    )]
    Stranger {
        /// Its account.
        account: String,
        /// The address.
        listen: SocketAddr,
    },
    /// The daemon there serves another app.
    #[error("at {listen} serves another app, {sdk_app_id}")]
    OtherApp {
        /// Its app.
        sdk_app_id: u64,
        /// The address.
        listen: SocketAddr,
    },
    /// The owner of the listening program is unknown.
    #[error("was not asked: the owner of the program listening at {listen} is unknown: {why}")]
    Unknown {
        /// The address.
        listen: SocketAddr,
        /// Why it is unknown.
        why: String,
    },
}

/// The response: the app, the report, and the same as a line.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    sdk_app_id: u32,
    line: String,
    #[serde(flatten)]
    report: Report,
}

/// `/status.json`.
pub(super) async fn status(State(ops): State<Ops>) -> Json<Status> {
    let report = Report::of(&ops.term, Instant::now());
    Json(Status { sdk_app_id: ops.store.sdk_app_id().get(), line: report.to_string(), report })
}

/// The report of the app's daemon that listens on the address.
///
/// # Errors
/// If it does not answer, serves another app, or a program of another account listens there: that neither gets the
/// token nor is trusted.
pub async fn ask(
    app: SdkAppId,
    listen: SocketAddr,
    token: Option<&SecretString>,
) -> Result<serde_json::Value, Unheard> {
    let listen = reachable(listen);
    refuse_strangers(listen)?;
    let answer = fetch(listen, token).await;
    // Checked again: a program that only just started there could have sent the answer.
    refuse_strangers(listen)?;
    let report = answer.ok_or(Unheard::Silent)?;
    match report["sdk_app_id"].as_u64() {
        Some(sdk_app_id) if sdk_app_id != u64::from(app.get()) => Err(Unheard::OtherApp { sdk_app_id, listen }),
        _ => Ok(report),
    }
}

fn refuse_strangers(listen: SocketAddr) -> Result<(), Unheard> {
    let listeners = peer::listeners(listen).map_err(|error| Unheard::Unknown { listen, why: error.to_string() })?;
    if listeners.is_empty() {
        return Err(Unheard::Silent);
    }
    match listeners.into_iter().find(|uid| !peer::is_believed(*uid)) {
        Some(uid) => Err(Unheard::Stranger { account: peer::in_words(uid), listen }),
        None => Ok(()),
    }
}

/// The report, if it arrives in time.
async fn fetch(listen: SocketAddr, token: Option<&SecretString>) -> Option<serde_json::Value> {
    // Another part of the process may have installed one first: any provider will do.
    _ = rustls::crypto::ring::default_provider().install_default();
    // The token is only for the daemon: not for a proxy in the environment, nor for the target of a redirect.
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().redirect(Policy::none()).build().ok()?;
    let mut request = client.get(format!("http://{listen}/status.json"));
    if let Some(token) = token {
        request = request.bearer_auth(token.expose_secret());
    }
    let mut answer = request.send().await.ok()?.error_for_status().ok()?;
    let mut report = vec![];
    while let Some(chunk) = answer.chunk().await.ok()? {
        if report.len() + chunk.len() > MAX_BYTES {
            return None;
        }
        report.extend_from_slice(&chunk);
    }
    serde_json::from_slice(&report).ok()
}

/// A listener on all addresses is reached through loopback.
pub(super) fn reachable(listen: SocketAddr) -> SocketAddr {
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
