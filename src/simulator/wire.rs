//! Connections that faults can cut or block: an ordinary TCP listener whose connections carry no byte after they are
//! cut, and none while the network is blocked.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::{
    extract::connect_info::Connected,
    serve::{IncomingStream, Listener},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, Sleep, sleep_until},
};

/// A handle on one connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Wire {
    cut: Arc<AtomicBool>,
}

impl Wire {
    /// Nothing is written from now on: the server closes the connection at the first attempt.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    fn check(&self) -> io::Result<()> {
        match self.cut.load(Ordering::Relaxed) {
            true => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut by a fault")),
            false => Ok(()),
        }
    }
}

/// The network, shared by all connections.
pub(super) trait Way: Send + Sync {
    /// Counts a connection.
    fn record_connection(&self);

    /// End of the present stall of the network, if any.
    fn stalled_until(&self) -> Option<std::time::Instant>;
}

/// Accepts connections and counts them in the ledger.
pub(super) struct WireListener {
    listener: TcpListener,
    way: Arc<dyn Way>,
}

impl WireListener {
    pub fn new(listener: TcpListener, way: Arc<dyn Way>) -> Self {
        Self { listener, way }
    }
}

impl Listener for WireListener {
    type Io = WireStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (WireStream, SocketAddr) {
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "could not set TCP_NODELAY on a simulated connection");
        }
        self.way.record_connection();
        let gate = || Gate { way: self.way.clone(), opens: None };
        (WireStream { stream, wire: Wire::default(), inbound: gate(), outbound: gate() }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, WireListener>> for Wire {
    fn connect_info(stream: IncomingStream<'_, WireListener>) -> Self {
        stream.io().wire.clone()
    }
}

/// A TCP stream that its [`Wire`] can cut and the service can block.
pub(super) struct WireStream {
    stream: TcpStream,
    wire: Wire,
    inbound: Gate,
    outbound: Gate,
}

/// Lets nothing through while the network is blocked.
struct Gate {
    way: Arc<dyn Way>,
    opens: Option<Pin<Box<Sleep>>>,
}

impl Gate {
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(until) = self.way.stalled_until() {
            let opens = self.opens.insert(Box::pin(sleep_until(Instant::from_std(until))));
            ready!(opens.as_mut().poll(cx));
        }
        self.opens = None;
        Poll::Ready(())
    }
}

impl AsyncRead for WireStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(self.inbound.poll_open(cx));
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for WireStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.outbound.poll_open(cx));
        self.wire.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
