//! Why the daemon can't start, or take new settings.

use std::net::SocketAddr;

use crate::{
    chat::ClientError,
    http::ListenError,
    store::{ConnectError, SchemaError},
    webhooks::{TlsError, WebhookError},
};

/// The daemon can't start. Transient problems, such as an unavailable database, are waited for instead.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database URL is invalid.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The schema does not suit this program.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The HTTP client can't be set up.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The HTTP listener can't be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The listener for webhooks can't be opened.
    #[error(transparent)]
    Webhooks(#[from] WebhookError),
    /// The daemon was asked to stop during the start.
    #[error("stopped before the database answered")]
    Stopped,
}

/// The new settings can't be applied, and the old ones stay.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The database URL is invalid.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The HTTP client can't be set up.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The certificate for webhooks can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Other machines would have access without a token.
    #[error(
        "http.token can't be removed while receiptd listens at {0}, which can be reached from other machines: keep \
         it until the restart that applies the new http.listen"
    )]
    Open(SocketAddr),
}
