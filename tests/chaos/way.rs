//! The network to the service: a proxy that holds back data and releases it all at once, or drops its connections.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

/// What is blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    Nothing,
    Requests,
    Answers,
    Both,
}

/// A proxy in front of the simulated Chat. It ends with the test's runtime.
pub struct Way {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    held: watch::Sender<Held>,
    /// Connections of an earlier generation are dropped.
    generation: watch::Sender<u64>,
    /// Milliseconds until a new connection carries data.
    sets_up_in: AtomicU64,
}

impl Way {
    pub async fn to(service: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            held: watch::Sender::new(Held::Nothing),
            generation: watch::Sender::new(0),
            sets_up_in: AtomicU64::new(0),
        });
        tokio::spawn(accept(listener, service, shared.clone()));
        Self { address, shared }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Holds this back from now on. Anything no longer held back continues immediately.
    pub fn hold(&self, held: Held) {
        self.shared.held.send_replace(held);
    }

    /// Drops all connections. New ones take this long until they carry data, as if the service were far away.
    pub fn drop_connections(&self, set_up: Duration) {
        self.shared.sets_up_in.store(u64::try_from(set_up.as_millis()).unwrap(), Ordering::Relaxed);
        self.shared.generation.send_modify(|generation| *generation += 1);
    }
}

async fn accept(listener: TcpListener, service: SocketAddr, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        tokio::spawn(connection(client, service, shared.clone()));
    }
}

async fn connection(client: TcpStream, service: SocketAddr, shared: Arc<Shared>) {
    let mut generation = shared.generation.subscribe();
    let own = *generation.borrow_and_update();
    sleep(Duration::from_millis(shared.sets_up_in.load(Ordering::Relaxed))).await;
    let Ok(server) = TcpStream::connect(service).await else { return };
    // Small writes must not be merged: the service's clock counts.
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    tokio::select! {
        () = pass(&mut from_client, &mut to_server, &shared, Held::Requests) => {}
        () = pass(&mut from_server, &mut to_client, &shared, Held::Answers) => {}
        _ = generation.wait_for(|now| *now != own) => {}
    }
}

/// Passes on data, unless it is held back.
async fn pass(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin), shared: &Shared, what: Held) {
    let mut held = shared.held.subscribe();
    let mut bytes = vec![0; 1 << 14];
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        let is_free = held.wait_for(|held| *held != what && *held != Held::Both).await.is_ok();
        if !is_free || to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
