//! What the daemon says of itself at `/status.json`, and how another process on the machine asks for it: only a program of an
//! account that is believed, and no more than a report's worth.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use axum::{Json, extract::State};
use reqwest::redirect::Policy;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use super::{Ops, peer};
use crate::report::Report;

/// Maximum time that the daemon is waited for, until the last byte.
const PATIENCE: Duration = Duration::from_secs(3);

/// Maximum size of a report that is read; one has some 1,000 bytes.
const MAX_BYTES: usize = 64 << 10;

/// The daemon on this machine was not heard.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unheard {
    /// No answer, or none that is a report.
    #[error("does not answer at http.listen")]
    Silent,
    /// Somebody else's program is there.
    #[error(
        "was not asked: a program of the account {account} listens at {listen}, and is believed only if that is root,          receiptd or this command's own"
    )]
    Stranger {
        /// Its account.
        account: String,
        /// Where it listens.
        listen: SocketAddr,
    },
    /// Whose program is there is not known.
    #[error("was not asked: whose program listens at {listen} can't be told: {why}")]
    Unknown {
        /// Where it listens.
        listen: SocketAddr,
        /// Why it is not known.
        why: String,
    },
}

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

/// What the daemon that listens there says of itself.
///
/// # Errors
/// If it does not answer, or a program of another account would: that gets neither the token nor a hearing.
pub async fn ask(listen: SocketAddr, token: Option<&SecretString>) -> Result<serde_json::Value, Unheard> {
    let listen = reachable(listen);
    refuse_strangers(listen)?;
    let answer = fetch(listen, token).await;
    // Had it only just come there, the answer would be a stranger's.
    refuse_strangers(listen)?;
    answer.ok_or(Unheard::Silent)
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

/// The report, if one comes in time.
async fn fetch(listen: SocketAddr, token: Option<&SecretString>) -> Option<serde_json::Value> {
    // Another part of the process may have been first: any provider will do.
    _ = rustls::crypto::ring::default_provider().install_default();
    // The token is for the daemon alone: neither for a proxy of the environment nor for whoever it might be sent on to.
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

/// Who listens at all addresses is reached at the loopback one.
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
