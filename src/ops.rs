//! The HTTP side of the daemon: a page for people, is it alive, is it ready, what does it count. Read-only.

mod access;
mod catalogue;
mod health;
mod page;
mod status;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{HeaderName, header::CONTENT_TYPE},
    middleware::from_fn_with_state,
    routing::get,
};
pub use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use self::{access::Token, catalogue::install_metrics, page::Looked, status::ask};
use crate::{store::Store, term::TermStatus};

/// The HTTP listener can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("listening on http.listen = {listen:?} failed: is another process there? Set another address, or \"off\"")]
pub struct ListenError {
    listen: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// What the HTTP side tells of.
#[derive(Clone)]
pub struct Ops {
    /// The database, whose answer is asked for by `/readyz`.
    pub store: Store,
    /// Who polls, and how that goes.
    pub term: Arc<TermStatus>,
    /// What whoever looks has to give.
    pub token: Token,
    /// What the page has read from the database.
    pub looked: Looked,
    /// The metrics of this process.
    pub metrics: PrometheusHandle,
}

/// Opens the listener and serves until `stop` is cancelled.
///
/// # Errors
/// If the address can't be listened on.
pub async fn serve(ops: Ops, listen: SocketAddr, stop: CancellationToken) -> Result<(), ListenError> {
    let listener = TcpListener::bind(listen).await.map_err(|source| ListenError { listen, source })?;
    let app = Router::new()
        .route("/", get(page::page))
        .route("/readyz", get(health::ready))
        .route("/status.json", get(status::status))
        .route("/metrics", get(render_metrics))
        .layer(from_fn_with_state(ops.token.clone(), access::admit))
        // Whoever keeps the process alive need not know a secret.
        .route("/healthz", get(health::alive))
        .with_state(ops);
    tokio::spawn(async move {
        let served = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(error = &error as &dyn std::error::Error, "the HTTP listener ended");
        }
    });
    Ok(())
}

async fn render_metrics(State(ops): State<Ops>) -> ([(HeaderName, &'static str); 1], String) {
    catalogue::tell(&ops.term);
    ops.metrics.run_upkeep();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], ops.metrics.render())
}
