//! A connection to the database that can be slow or break: it swallows an answer, or goes silent. It knows
//! PostgreSQL's protocol, and records what was sent and how the server refused it.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// A proxy in front of a server's socket. It ends with the test's runtime.
pub struct Proxy {
    url: String,
    shared: Arc<Shared>,
}

/// A message to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// One or several statements as text.
    Query(String),
    /// A statement to prepare, with its name, which may be empty, and its text.
    Parse(String, String),
    /// The execution of a prepared statement.
    Bind(String),
    /// The end of a group of messages that are answered together.
    Sync,
    /// The end of the data of a COPY.
    CopyDone,
}

impl Sent {
    /// The name of the prepared statement.
    pub fn prepared(&self) -> Option<&str> {
        match self {
            Self::Parse(name, _) => Some(name),
            _ => None,
        }
    }

    /// Whether the sender waits for the server after it.
    pub fn is_round_trip(&self) -> bool {
        matches!(self, Self::Query(_) | Self::Sync | Self::CopyDone)
    }

    /// What is executed.
    pub fn executed(&self) -> Option<&str> {
        match self {
            Self::Query(text) | Self::Bind(text) => Some(text),
            _ => None,
        }
    }
}

struct Shared {
    /// Delay in either direction.
    delay: Duration,
    /// Swallows the answer to the next COMMIT after a statement with this text, and closes the connection.
    swallow: Mutex<Option<&'static str>>,
    swallowed: watch::Sender<u32>,
    /// Connections older than this generation are silent.
    generation: watch::Sender<u32>,
    /// Number of connections.
    connections: AtomicUsize,
    /// With the number of its connection, in order.
    sent: Mutex<Vec<(usize, Sent)>>,
    /// The SQLSTATEs of errors.
    errors: watch::Sender<Vec<String>>,
}

impl Proxy {
    /// `url` is that of a database on a socket.
    pub async fn start(url: &str) -> Self {
        Self::far_away(url, Duration::ZERO).await
    }

    /// The same for a database with this round-trip time.
    pub async fn far_away(url: &str, round_trip: Duration) -> Self {
        let options: sqlx::postgres::PgConnectOptions = url.parse().unwrap();
        let socket = options.get_socket().cloned().unwrap_or_else(|| options.get_host().into());
        let socket = socket.join(format!(".s.PGSQL.{}", options.get_port()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, database) = (listener.local_addr().unwrap(), options.get_database().unwrap().to_owned());
        let url = format!("postgres://{}@{address}/{database}?sslmode=disable", options.get_username());
        let shared = Arc::new(Shared {
            delay: round_trip / 2,
            swallow: Mutex::default(),
            swallowed: watch::Sender::new(0),
            generation: watch::Sender::new(0),
            connections: AtomicUsize::new(0),
            sent: Mutex::default(),
            errors: watch::Sender::new(vec![]),
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
        tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap().unwrap();
        self.shared.swallowed.send_replace(0);
    }

    /// Existing connections carry nothing and stay open from now on.
    pub fn silence_open_connections(&self) {
        self.shared.generation.send_modify(|generation| *generation += 1);
    }

    /// The messages sent since the last call, by connection.
    pub fn take_sent(&self) -> Vec<Vec<Sent>> {
        let mut by_connection = vec![vec![]; self.shared.connections.load(Ordering::Relaxed)];
        let sent = std::mem::take(&mut *self.shared.sent.lock().unwrap());
        sent.into_iter().for_each(|(connection, sent)| by_connection[connection].push(sent));
        by_connection
    }

    /// The same in order, over all connections.
    pub fn take_sent_in_order(&self) -> Vec<Sent> {
        let sent = std::mem::take(&mut *self.shared.sent.lock().unwrap());
        sent.into_iter().map(|(_, sent)| sent).collect()
    }

    /// Waits until the server has refused something with this SQLSTATE.
    pub async fn has_refused(&self, sqlstate: &str) {
        let mut errors = self.shared.errors.subscribe();
        let wait = errors.wait_for(|errors| errors.iter().any(|error| error == sqlstate));
        tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap().unwrap();
    }
}

async fn accept(listener: TcpListener, socket: PathBuf, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let server = UnixStream::connect(&socket).await.unwrap();
        tokio::spawn(connection(client, server, shared.clone()));
    }
}

async fn connection(client: TcpStream, server: UnixStream, shared: Arc<Shared>) {
    client.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let generation = *shared.generation.borrow();
    let is_swallowing = watch::Sender::new(false);
    let (mut asked, mut transaction) = (Asked::default(), vec![]);
    let number = shared.connections.fetch_add(1, Ordering::Relaxed);
    let asks = copy(&mut from_client, &mut to_server, shared.delay, |bytes| {
        for sent in asked.read(bytes) {
            let mut wanted = shared.swallow.lock().unwrap();
            if let Some(text) = sent.executed() {
                if text.contains("BEGIN") {
                    transaction.clear();
                }
                transaction.push(text.to_owned());
                let is_wanted = |text: &String| wanted.is_some_and(|statement| text.contains(statement));
                if text.contains("COMMIT") && transaction.iter().any(is_wanted) {
                    *wanted = None;
                    is_swallowing.send_replace(true);
                }
            }
            shared.sent.lock().unwrap().push((number, sent));
        }
        true
    });
    let mut answers = Messages::default();
    let answers = copy(&mut from_server, &mut to_client, shared.delay, |bytes| {
        let errors: Vec<String> = answers.read(bytes).iter().filter_map(refusal).collect();
        if !errors.is_empty() {
            shared.errors.send_modify(|all| all.extend(errors));
        }
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

/// Passes on data, as long as `look` allows it, each part after the same delay.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    delay: Duration,
    mut look: impl FnMut(&[u8]) -> bool,
) {
    let (sender, mut under_way) = mpsc::unbounded_channel();
    let reading = async move {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from.read(&mut bytes).await {
            if !look(&bytes[..length]) || sender.send((Instant::now() + delay, bytes[..length].to_vec())).is_err() {
                return;
            }
        }
    };
    let writing = async {
        while let Some((at, bytes)) = under_way.recv().await {
            if !delay.is_zero() {
                sleep_until(at).await;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

/// Splits data into messages: a letter, a length that includes itself, and the rest.
#[derive(Default)]
struct Messages(Vec<u8>);

impl Messages {
    fn read(&mut self, bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
        self.0.extend_from_slice(bytes);
        let mut messages = Vec::new();
        while let Some(length) = self.0.get(1..5) {
            let end = 1 + u32::from_be_bytes(length.try_into().unwrap()) as usize;
            if self.0.len() < end {
                break;
            }
            let message: Vec<u8> = self.0.drain(..end).collect();
            messages.push((message[0], message[5..].to_vec()));
        }
        messages
    }
}

/// A client's messages.
#[derive(Default)]
struct Asked {
    messages: Messages,
    has_started: bool,
    /// Its prepared statements, by name.
    prepared: HashMap<String, String>,
}

impl Asked {
    fn read(&mut self, bytes: &[u8]) -> Vec<Sent> {
        // The first message has no letter; without TLS it comes alone.
        if !std::mem::replace(&mut self.has_started, true) {
            return vec![];
        }
        let messages = self.messages.read(bytes);
        messages.into_iter().filter_map(|(letter, content)| self.sent(letter, &content)).collect()
    }

    fn sent(&mut self, letter: u8, content: &[u8]) -> Option<Sent> {
        let mut texts = content.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
        match letter {
            b'Q' => texts.next().map(Sent::Query),
            b'P' => {
                let (name, text) = (texts.next()?, texts.next()?);
                self.prepared.insert(name.clone(), text.clone());
                Some(Sent::Parse(name, text))
            }
            // The name of the portal comes first.
            b'B' => self.prepared.get(&texts.nth(1)?).cloned().map(Sent::Bind),
            b'S' => Some(Sent::Sync),
            b'c' => Some(Sent::CopyDone),
            _ => None,
        }
    }
}

/// The SQLSTATE if a message of the server is an error.
fn refusal((letter, content): &(u8, Vec<u8>)) -> Option<String> {
    let mut fields = content.split(|byte| *byte == 0).filter(|_| *letter == b'E');
    let code = fields.find(|field| field.first() == Some(&b'C'))?;
    Some(String::from_utf8_lossy(&code[1..]).into_owned())
}
