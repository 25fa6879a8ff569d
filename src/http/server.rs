//! The HTTP server: connections with bounds in number, size and time, on a separate thread, so that polling and the
//! lease never wait for a client.
//!
//! It doesn't know what is served, and never waits for a client without a deadline.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::Duration,
};

use axum::{
    Router,
    body::{Body, HttpBody},
    extract::Request,
    http::{
        HeaderValue, Method, StatusCode,
        header::{
            CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, HeaderName, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    http::lanes::{Client, LANE, Lanes, Seat},
    logging::log_throttle::LogThrottle,
};

/// Maximum time from the start of a connection, or from the last response on it, to the end of the next request's
/// head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum size of a request's head, in bytes.
const HEAD_BYTES: usize = 16 << 10;

/// Maximum number of its headers.
const HEADERS: usize = 64;

/// Additional time after a connection's lifetime after which it is closed, even if its client hasn't read the response.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// A certificate with its key, which a reload may change.
pub(crate) type Tls = Arc<RwLock<Arc<ServerConfig>>>;

/// A server and its bounds.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// The name of its thread.
    pub name: &'static str,
    /// The setting of its address.
    pub setting: &'static str,
    /// Maximum number of connections of each kind of client.
    pub connections: usize,
    /// The metric that counts connections closed for newer ones.
    pub displaced: &'static str,
    /// Time after which a connection accepts no further requests.
    pub lifetime: Duration,
    /// Its certificate; `None` for plain HTTP.
    pub tls: Option<Tls>,
}

impl Server {
    /// The server of the page.
    pub fn of_page() -> Self {
        Self {
            name: "http",
            setting: "http.listen",
            connections: LANE,
            displaced: "receiptd_http_connections_displaced_total",
            lifetime: Duration::from_secs(25),
            tls: None,
        }
    }
}

/// Delay after accepting a connection failed, for example because all file descriptors are in use.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Headers of every response. It is private to the client, not for caches, other sites' pages or linked pages. The
/// page loads nothing, runs nothing, and can't be framed.
const HEADERS_OF_ALL: [(HeaderName, &str); 5] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (REFERRER_POLICY, "no-referrer"),
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
];

/// Serves `app` on a separate thread until `stop` is cancelled.
///
/// # Errors
/// If the thread can't be started.
pub(crate) fn spawn(
    server: Server,
    listener: TcpListener,
    app: Router,
    stop: CancellationToken,
) -> std::io::Result<thread::JoinHandle<()>> {
    let listener = listener.into_std()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name(server.name.to_owned()).spawn(move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => _ = stop.run_until_cancelled(accept(server, listener, app)).await,
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "an HTTP server failed"),
            }
        });
        // Connections end with the runtime, whatever their clients do.
        runtime.shutdown_background();
    })
}

async fn accept(server: Server, listener: TcpListener, app: Router) {
    let rooms = Arc::new(Lanes::new(server.connections, server.displaced));
    let mut trouble = LogThrottle::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let seat = rooms.enter(client(peer));
                tokio::spawn(connect(server.clone(), stream, Arc::new(seat), app.clone()));
                // A displaced connection is closed before the next one is accepted.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                if let Some(count) = trouble.happened(clock::uptime()) {
                    let (error, setting) = (&error as &dyn std::error::Error, server.setting);
                    let what = "are all file descriptors in use?";
                    tracing::warn!(error, count, "accepting a connection to {setting} failed: {what}");
                }
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

fn client(peer: SocketAddr) -> Client {
    if peer.ip().to_canonical().is_loopback() { Client::Local } else { Client::Remote }
}

/// Serves a connection, after its TLS handshake if there is a certificate.
async fn connect(server: Server, stream: TcpStream, seat: Arc<Seat>, app: Router) {
    // Failure only affects latency.
    _ = stream.set_nodelay(true);
    let Some(tls) = &server.tls else { return serve(stream, seat, app, server.lifetime).await };
    let acceptor = TlsAcceptor::from(tls.read().unwrap_or_else(PoisonError::into_inner).clone());
    tokio::select! {
        // Errors only concern the client.
        handshake = timeout(HEAD_TIMEOUT, acceptor.accept(stream)) => {
            if let Ok(Ok(stream)) = handshake {
                serve(stream, seat, app, server.lifetime).await;
            }
        }
        () = seat.displaced() => {}
    }
}

/// Serves a connection until it ends, reaches its maximum age, or is displaced.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    seat: Arc<Seat>,
    app: Router,
    lifetime: Duration,
) {
    let app = TowerToHyperService::new(app);
    let of_connection = seat.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(of_connection.clone());
        let answer = app.call(request);
        async {
            // One request per turn: a client that sends many in a row takes no turn of another connection.
            tokio::task::yield_now().await;
            answer.await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // Errors only concern the client.
        _ = connection.as_mut() => return,
        () = seat.displaced() => return,
        () = sleep(lifetime) => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! { _ = connection => {} () = seat.displaced() => {} () = sleep(LAST_ANSWER) => {} }
}

/// Refuses request bodies, which nothing here uses, and adds the headers to every response.
pub(super) async fn guard(request: Request, next: Next) -> Result<Response, Infallible> {
    let has_body = !request.body().is_end_stream();
    // Other methods are refused by the routes.
    let is_get = [Method::GET, Method::HEAD].contains(request.method());
    let mut answer = match has_body && is_get {
        true => (StatusCode::PAYLOAD_TOO_LARGE, "request bodies are not accepted\n").into_response(),
        false => next.run(request).await,
    };
    let headers = answer.headers_mut();
    for (name, value) in HEADERS_OF_ALL {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if has_body {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok::<_, Infallible>(answer.map(Body::new))
}
