//! A way to the database that can break: it swallows an answer, or falls silent.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};

/// A proxy in front of a server's socket. It ends with the test's runtime.
pub struct Proxy {
    url: String,
    shared: Arc<Shared>,
}

struct Shared {
    /// The answer to the next COMMIT after a statement with this text is swallowed, and the connection closed.
    swallow: Mutex<Option<&'static str>>,
    swallowed: watch::Sender<u32>,
    /// Connections that are older than this generation are silent.
    generation: watch::Sender<u32>,
}

impl Proxy {
    /// `url` is that of a database on a socket.
    pub async fn start(url: &str) -> Self {
        let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
        let socket = options.get_socket().cloned().unwrap_or_else(|| options.get_host().into());
        let socket = socket.join(format!(".s.PGSQL.{}", options.get_port()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, database) = (listener.local_addr().unwrap(), options.get_database().unwrap().to_owned());
        let url = format!("postgres://{}@{address}/{database}?sslmode=disable", options.get_username());
        let shared = Arc::new(Shared {
            swallow: Mutex::default(),
            swallowed: watch::Sender::new(0),
            generation: watch::Sender::new(0),
        });
        tokio::spawn(accept(listener, socket, shared.clone()));
        Self { url, shared }
    }

    pub fn url(&self) -> String {
        self.url.clone()
    }

    pub fn swallow_the_answer_to_the_next_commit_of(&self, statement: &'static str) {
        *self.shared.swallow.lock().unwrap() = Some(statement);
    }

    /// Waits until an answer was swallowed since the last call.
    pub async fn has_swallowed(&self) {
        let mut swallowed = self.shared.swallowed.subscribe();
        let wait = swallowed.wait_for(|swallowed| *swallowed > 0);
        tokio::time::timeout(std::time::Duration::from_secs(60), wait).await.unwrap().unwrap();
        self.shared.swallowed.send_replace(0);
    }

    /// From now on, nothing comes through the connections that there are, and they stay open.
    pub fn silence_open_connections(&self) {
        self.shared.generation.send_modify(|generation| *generation += 1);
    }
}

async fn accept(listener: TcpListener, socket: PathBuf, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let server = UnixStream::connect(&socket).await.unwrap();
        tokio::spawn(connection(client, server, shared.clone()));
    }
}

async fn connection(client: TcpStream, server: UnixStream, shared: Arc<Shared>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let generation = *shared.generation.borrow();
    let is_swallowing = watch::Sender::new(false);
    let asks = copy(&mut from_client, &mut to_server, |bytes, seen| {
        let mut wanted = shared.swallow.lock().unwrap();
        if contains(bytes, b"BEGIN") {
            seen.clear();
        }
        seen.extend_from_slice(bytes);
        if wanted.is_some_and(|statement| contains(seen, statement.as_bytes())) && contains(bytes, b"COMMIT") {
            *wanted = None;
            is_swallowing.send_replace(true);
        }
        true
    });
    let answers = copy(&mut from_server, &mut to_client, |_, _| {
        let swallows = *is_swallowing.borrow();
        if swallows {
            shared.swallowed.send_modify(|swallowed| *swallowed += 1);
        }
        !swallows
    });
    let mut silence = shared.generation.subscribe();
    tokio::select! {
        () = asks => {}
        () = answers => {}
        () = async { _ = silence.wait_for(|now| *now != generation).await } => std::future::pending().await,
    }
}

/// Passes on what comes, as long as `look` lets it.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    look: impl Fn(&[u8], &mut Vec<u8>) -> bool,
) {
    let (mut bytes, mut seen) = (vec![0; 1 << 16], vec![]);
    while let Ok(length @ 1..) = from.read(&mut bytes).await {
        if !look(&bytes[..length], &mut seen) || to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}
