//! The server below the pages: connections with bounds in number, size and time, on a thread of its own, so that whatever
//! comes in, polling and the lease never wait for it.
//!
//! It knows nothing of what is served. It never waits for a client without a deadline.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, thread, time::Duration};

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
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::rooms::{Client, Rooms, Seat};
use crate::{clock, log_throttle::LogThrottle};

/// Maximum time from the start of a connection, or from the last answer on it, until the next request's head is whole.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum size of a request's head.
const HEAD_BYTES: usize = 16 << 10;

/// Maximum number of its headers.
const HEADERS: usize = 64;

/// After this time a connection takes no further request …
const LIFETIME: Duration = Duration::from_secs(25);

/// … and after this time more it is closed, whether its client has read the answer or not.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// Delay after a connection could not be accepted, as when all descriptors are in use.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What every answer carries. It is nobody's business but the asker's: not that of caches, of other sites' pages, or of pages
/// that a link leads to. The page loads nothing, runs nothing, and may not be framed.
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

/// Serves `app` on a thread of its own until `stop` is cancelled.
///
/// # Errors
/// If the thread can't be started.
pub(super) fn spawn(
    listener: TcpListener,
    app: Router,
    stop: CancellationToken,
) -> std::io::Result<thread::JoinHandle<()>> {
    let listener = listener.into_std()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::Builder::new().name("http".to_owned()).spawn(move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => _ = stop.run_until_cancelled(accept(listener, app)).await,
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "HTTP can't be served"),
            }
        });
        // Connections end with the runtime, whatever their clients do.
        runtime.shutdown_background();
    })
}

async fn accept(listener: TcpListener, app: Router) {
    let rooms = Arc::new(Rooms::default());
    let mut trouble = LogThrottle::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let seat = rooms.enter(client(peer));
                tokio::spawn(serve(stream, Arc::new(seat), app.clone()));
                // Whoever has lost a seat closes its connection before the next one is accepted.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                if let Some(count) = trouble.happened(clock::uptime()) {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        error,
                        count,
                        "a connection to http.listen could not be accepted: are all file descriptors in use?"
                    );
                }
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

fn client(peer: SocketAddr) -> Client {
    if peer.ip().to_canonical().is_loopback() { Client::Local } else { Client::Remote }
}

/// Serves one connection until it is over, has lived long enough, or has to make way for another.
async fn serve(stream: TcpStream, seat: Arc<Seat>, app: Router) {
    // Only latency suffers without it.
    _ = stream.set_nodelay(true);
    let app = TowerToHyperService::new(app);
    let of_connection = seat.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(of_connection.clone());
        let answer = app.call(request);
        async {
            // One request a turn: who sends many in a row takes no turn of another connection.
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
        // What went wrong is the client's affair.
        _ = connection.as_mut() => return,
        () = seat.displaced() => return,
        () = sleep(LIFETIME) => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! { _ = connection => {} () = seat.displaced() => {} () = sleep(LAST_ANSWER) => {} }
}

/// Refuses bodies, which nothing here has a use for, and gives every answer its headers.
pub(super) async fn guard(request: Request, next: Next) -> Result<Response, Infallible> {
    let has_body = !request.body().is_end_stream();
    // Other methods are refused further in, where it is known which ones are not.
    let is_get = [Method::GET, Method::HEAD].contains(request.method());
    let mut answer = match has_body && is_get {
        true => (StatusCode::PAYLOAD_TOO_LARGE, "a request has no body here\n").into_response(),
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
