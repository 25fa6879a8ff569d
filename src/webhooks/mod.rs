//! The listener for Tencent Chat's webhooks.
//!
//! It has its own thread and its own bounds, and answers from memory: neither a flood nor the database delays an
//! answer, and no webhook delays a poll. A sender without a valid signature learns nothing. URLs, which contain
//! signatures, are never logged, and neither are bodies.

mod forward;
mod receive;
mod settings;
mod tls;

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    thread::JoinHandle,
    time::Duration,
};

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::tls::TlsError;
use self::{
    receive::{Receiver, receive},
    settings::Settings,
};
use crate::{
    clock::Clock,
    config::Listener,
    daemon::status::DaemonStatus,
    domain::SdkAppId,
    http::server::{self, Server, Tls},
};

/// Maximum number of connections of each kind of client. Tencent Chat keeps them open.
const CONNECTIONS: usize = 256;

/// Time after which a connection accepts no further requests: a webhook may be lost when it is closed.
const LIFETIME: Duration = Duration::from_secs(3_600);

/// The listener can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// The address is not available.
    #[error(
        "listening on webhooks.listen = {listen:?} failed: is another process using it? Set another address, or \"off\""
    )]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// The certificate can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The running listener.
#[derive(Debug)]
pub struct Webhooks {
    listen: SocketAddr,
    settings: Arc<RwLock<Arc<Settings>>>,
    tls: Option<Tls>,
    thread: JoinHandle<()>,
}

impl Webhooks {
    /// Opens the listener and serves until `stop` is cancelled, on a thread that then ends.
    ///
    /// # Errors
    /// If the address can't be listened on, or the certificate can't be used.
    pub async fn serve(
        listener: &Listener,
        sdk_app_id: SdkAppId,
        (clock, status): (Arc<Clock>, Arc<DaemonStatus>),
        stop: CancellationToken,
    ) -> Result<Self, WebhookError> {
        let listen = listener.listen;
        let failed = |source| WebhookError::Listen { listen, source };
        let tls = listener.tls.as_ref().map(tls::load).transpose()?;
        let tls: Option<Tls> = tls.map(|tls| Arc::new(RwLock::new(tls)));
        let settings = Arc::new(RwLock::new(Arc::new(Settings::of(listener, sdk_app_id))));
        let socket = TcpListener::bind(listen).await.map_err(failed)?;
        // With port 0, any free one.
        let listen = socket.local_addr().map_err(failed)?;
        let receiver = Arc::new(Receiver::new(settings.clone(), clock, status.clone()));
        let app = Router::new().fallback(receive).with_state(receiver);
        let server = Server {
            name: "webhooks",
            setting: "webhooks.listen",
            connections: CONNECTIONS,
            displaced: "receiptd_webhook_connections_displaced_total",
            lifetime: LIFETIME,
            tls: tls.clone(),
        };
        let thread = server::spawn(server, socket, app, stop).map_err(failed)?;
        status.receives_webhooks();
        Ok(Self { listen, settings, tls, thread })
    }

    /// Applies new settings, with the certificate as it is now. The address, and whether there is a certificate, stay
    /// those of the start.
    ///
    /// # Errors
    /// If the certificate can't be used; then nothing has changed.
    pub fn change(&self, listener: &Listener, sdk_app_id: SdkAppId) -> Result<(), TlsError> {
        if let (Some(tls), Some(files)) = (&self.tls, &listener.tls) {
            *tls.write().unwrap_or_else(PoisonError::into_inner) = tls::load(files)?;
        }
        let settings = Arc::new(Settings::of(listener, sdk_app_id));
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
        Ok(())
    }

    /// The address.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Waits for the thread's end, after its stop.
    pub fn join(self) {
        _ = self.thread.join();
    }
}
