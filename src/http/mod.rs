//! The HTTP side of the daemon: a page for people, liveness, readiness and metrics. Read-only.
//!
//! It has its own thread and database connection: no number of clients delays polling.

mod auth;
mod health;
pub(crate) mod lanes;
mod look;
mod metrics;
mod page;
mod peer;
pub(crate) mod server;
mod state;
mod status;

use std::{net::SocketAddr, thread::JoinHandle};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderName, header::CONTENT_TYPE},
    middleware::{from_fn, from_fn_with_state},
    routing::get,
};
pub use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::server::Server;
pub use self::{
    auth::Token,
    metrics::install_metrics,
    state::{Looks, Ops},
    status::{Unheard, ask},
};

/// The HTTP listener can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("listening on http.listen = {listen:?} failed: is another process using it? Set another address, or \"off\"")]
pub struct ListenError {
    listen: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// Opens the listener and serves until `stop` is cancelled, on a thread that then ends. Returns the address, whose port
/// is a free one if `listen` has port 0.
///
/// # Errors
/// If the address can't be listened on.
pub async fn serve(
    ops: Ops,
    listen: SocketAddr,
    stop: CancellationToken,
) -> Result<(SocketAddr, JoinHandle<()>), ListenError> {
    let failed = |source| ListenError { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let app = Router::new()
        .route("/", get(page::page))
        .route("/readyz", get(health::ready))
        .route("/status.json", get(status::status))
        .route("/metrics", get(render_metrics))
        .layer(from_fn_with_state(ops.token.clone(), auth::admit))
        // Liveness probes need no secret.
        .route("/healthz", get(health::alive))
        .layer(from_fn(server::guard))
        .with_state(ops);
    Ok((address, server::spawn(Server::of_page(), listener, app, stop).map_err(failed)?))
}

async fn render_metrics(State(ops): State<Ops>) -> ([(HeaderName, &'static str); 1], Bytes) {
    let (term, metrics) = (ops.term.clone(), ops.metrics.clone());
    let render = async move {
        metrics::tell(&term);
        metrics.run_upkeep();
        metrics.render().into()
    };
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], ops.looks.metrics.get(render).await)
}
