//! The daemon's HTTP side with clients that send half a request, too much, nothing, or far too often.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command},
    time::{Duration, Instant},
};

use sqlx::PgPool;

use crate::{
    common::TestDatabase,
    harness::{Harness, PATIENCE, end, get, signal, watch},
};

const TOKEN: &str = "canary-http-token";

/// A daemon that serves HTTP, with these additional settings in `[http]`.
async fn serving(name: &str, http: &str) -> (Harness, TestDatabase, Child, SocketAddr) {
    let (mut place, database) = (Harness::new(name, 200).await, TestDatabase::new().await);
    let listen = place.listens();
    place.config = place.config.replace("[http]\n", &format!("[http]\n{http}\n"));
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    (place, database, daemon, listen)
}

fn stops(daemon: Child) {
    signal(&daemon, "-TERM");
    let (code, said) = end(daemon);
    assert_eq!(code, Some(0), "{said}");
}

fn connect(listen: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(listen).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn begin(listen: SocketAddr, text: &[u8]) -> TcpStream {
    let mut stream = connect(listen);
    // If the other end has closed already, that is the answer.
    _ = stream.write_all(text);
    stream
}

/// Everything received until the other end closes the connection.
fn rest(mut stream: TcpStream) -> String {
    let mut bytes = vec![];
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn ask(listen: SocketAddr, request: &str) -> String {
    rest(begin(listen, request.as_bytes()))
}

fn memory_peak(daemon: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1_024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_sent_heads_keep_nobody_out_and_end_by_themselves() {
    let (place, database, daemon, listen) = serving("heads", "").await;
    let limited = Command::new("prlimit").args(["--nofile=256:256", "--pid", &daemon.id().to_string()]).status();
    assert!(limited.unwrap().success());
    let half: Vec<TcpStream> = (0..345).map(|_| begin(listen, b"GET /healthz HTTP/1.1\r\nX: ")).collect();
    assert_eq!(get(listen, "/healthz").await.0, 200);
    watch(&PgPool::connect(&database.url()).await.unwrap(), 1, 1).await;
    place.simulator.wait_for_ended_calls(2).await;
    assert!(half.into_iter().map(rest).all(|answer| answer.is_empty() || answer.starts_with("HTTP/1.1 408")));
    stops(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_says_nothing_more_is_closed() {
    let (_place, _database, daemon, listen) = serving("idle", "").await;
    let start = Instant::now();
    let silent = connect(listen);
    let kept_alive = begin(listen, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(rest(silent), "");
    assert!(rest(kept_alive).starts_with("HTTP/1.1 200"));
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    stops(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_requests_are_refused_and_take_no_memory() {
    let (_place, _database, daemon, listen) = serving("large", "").await;
    let before = memory_peak(&daemon);
    let ten_megabytes = "a".repeat(10 << 20);
    for large in [
        format!("GET /{ten_megabytes} HTTP/1.1\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nX: {ten_megabytes}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1_000)),
    ] {
        let answer = ask(listen, &large);
        let is_refused = answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 414");
        assert!(answer.is_empty() || is_refused, "{answer}");
    }
    let host = "Host: localhost\r\n";
    for body in ["Content-Length: 1000000000\r\n\r\nx", "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"] {
        for path in ["/", "/healthz", "/nothing"] {
            let answer = ask(listen, &format!("GET {path} HTTP/1.1\r\n{host}{body}"));
            assert!(answer.starts_with("HTTP/1.1 413 "), "{path} {answer}");
        }
        let answer = ask(listen, &format!("POST / HTTP/1.1\r\n{host}{body}"));
        assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET,HEAD\r\n"), "{answer}");
    }
    let many: Vec<TcpStream> = (0..500).map(|_| begin(listen, "a".repeat(300_000).as_bytes())).collect();
    assert_eq!(get(listen, "/healthz").await.0, 200);
    drop(many);
    let grown = memory_peak(&daemon) - before;
    assert!(grown < 16, "{grown} MB");
    stops(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_every_form_get_the_security_headers() {
    let (_place, _database, daemon, listen) = serving("forms", "").await;
    let local = "Host: 127.0.0.1\r\nConnection: close\r\n\r\n";
    for (request, status) in [
        (format!("GET / HTTP/1.1\r\n{local}"), 200),
        (format!("HEAD / HTTP/1.1\r\n{local}"), 200),
        (format!("GET /healthz HTTP/1.1\r\n{local}"), 200),
        (format!("HEAD /healthz HTTP/1.1\r\n{local}"), 200),
        (format!("HEAD /metrics HTTP/1.1\r\n{local}"), 200),
        (format!("HEAD /status.json HTTP/1.1\r\n{local}"), 200),
        (format!("GET /readyz HTTP/1.1\r\n{local}"), 200),
        ("GET /status.json HTTP/1.0\r\n\r\n".to_owned(), 200),
        (format!("GET http://{listen}/ HTTP/1.1\r\n{local}"), 200),
        (format!("GET http://evil.example/ HTTP/1.1\r\n{local}"), 421),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".to_owned(), 421),
        (format!("DELETE / HTTP/1.1\r\n{local}"), 405),
        (format!("OPTIONS /healthz HTTP/1.1\r\n{local}"), 405),
        (format!("GET /nothing HTTP/1.1\r\n{local}"), 404),
        (format!("GET /healthz HTTP/1.1\r\n{local}GET /healthz HTTP/1.1\r\n{local}"), 200),
    ] {
        let answer = ask(listen, &request).to_lowercase();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(head.split(' ').nth(1).unwrap(), status.to_string(), "{request}");
        for header in [
            "x-content-type-options: nosniff",
            "cache-control: no-store",
            "cross-origin-resource-policy: same-origin",
            "referrer-policy: no-referrer",
            "frame-ancestors 'none'",
        ] {
            assert!(head.contains(header), "{request}: {header} is not in {head}");
        }
        assert!(status != 405 || head.contains("allow: get,head"), "{head}");
        assert!(body.is_empty() || !request.starts_with("HEAD"), "{request}: {body}");
    }
    let pipelined = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(50);
    let answers = ask(listen, &format!("{pipelined}GET /healthz HTTP/1.1\r\n{local}"));
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 51);
    stops(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_the_token_keeps_its_connection_in_a_flood() {
    let (mut place, _database, daemon, listen) = serving("room", &format!("token = \"{TOKEN}\"")).await;
    let trusted = format!("GET /metrics HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n");
    let mut kept = connect(listen);
    let mut answered = |end: &str| {
        kept.write_all(format!("{trusted}{end}\r\n").as_bytes()).unwrap();
        let mut head = [0; 12];
        kept.read_exact(&mut head).unwrap();
        String::from_utf8_lossy(&head).into_owned()
    };
    assert_eq!(answered(""), "HTTP/1.1 200");
    let _strangers: Vec<TcpStream> = (0..200).map(|_| begin(listen, b"GET /metrics HTTP/1.1\r\n")).collect();
    assert!(ask(listen, "GET /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 401"));
    assert_eq!(get(listen, "/healthz").await.0, 200, "for liveness probes");
    // Another token takes effect immediately, also on connections that have shown the old one.
    place.config = place.config.replace(TOKEN, "canary-another-token");
    place.reload(&daemon);
    let mut kept = rest_after(kept, &format!("{trusted}Connection: close\r\n\r\n"));
    kept.retain(|line| line.starts_with("HTTP/1.1 "));
    assert_eq!(kept, ["HTTP/1.1 401 Unauthorized"]);
    stops(daemon);
}

/// The lines received after one more request.
fn rest_after(mut stream: TcpStream, request: &str) -> Vec<String> {
    stream.write_all(request.as_bytes()).unwrap();
    rest(stream).lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_requests_share_one_database_connection() {
    let (mut place, database) = (Harness::new("readiness", 200).await, TestDatabase::new().await);
    let listen = place.listens();
    place.config += "[database]\nmax_connections = 3\n";
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let pool = PgPool::connect(&database.url()).await.unwrap();
    watch(&pool, 1, 1).await;
    // The database does not answer queries for the version of the schema.
    let mut lock = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE receiptd.schema_migrations").execute(&mut *lock).await.unwrap();
    let request = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let clients: Vec<TcpStream> = (0..300).map(|_| begin(listen, request)).collect();
    place.simulator.wait_for_ended_calls(place.simulator.ledger().ended_calls() + 2).await;
    let connections = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'receiptd' AND query LIKE '%schema_migrations%' AND state = 'active'";
    let waiting: i64 = sqlx::query_scalar(connections).fetch_one(&pool).await.unwrap();
    // One, and on a busy machine one more that was given up a moment ago.
    assert!(waiting <= 2, "{waiting} connections wait");
    lock.rollback().await.unwrap();
    assert!(clients.into_iter().next_back().map(rest).unwrap().starts_with("HTTP/1.1 "));
    stops(daemon);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stops_in_time_though_clients_hold_connections() {
    let (_place, _database, daemon, listen) = serving("hold", "").await;
    let _half: Vec<TcpStream> = (0..100).map(|_| begin(listen, b"GET / HTTP/1.1\r\n")).collect();
    let metrics = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(300);
    let _unread: Vec<TcpStream> = (0..20).map(|_| begin(listen, metrics.as_bytes())).collect();
    let start = Instant::now();
    stops(daemon);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_without_descriptors_recovers_when_one_is_free() {
    let (place, database, daemon, listen) = serving("descriptors", "").await;
    watch(&PgPool::connect(&database.url()).await.unwrap(), 1, 1).await;
    place.simulator.wait_for_ended_calls(1).await;
    let limit = |descriptors: &str| {
        let pid = daemon.id().to_string();
        assert!(Command::new("prlimit").args([descriptors, "--pid", &pid]).status().unwrap().success());
    };
    limit("--nofile=8:1024");
    let waiting: Vec<TcpStream> = (0..20).map(|_| begin(listen, b"GET /healthz HTTP/1.0\r\n\r\n")).collect();
    // Calls use an existing connection, once a second.
    place.simulator.wait_for_ended_calls(place.simulator.ledger().ended_calls() + 2).await;
    limit("--nofile=1024:1024");
    assert!(waiting.into_iter().map(rest).all(|answer| answer.starts_with("HTTP/1.0 200")));
    signal(&daemon, "-TERM");
    let (code, said) = end(daemon);
    assert_eq!((code, said.matches("accepting a connection to http.listen failed").count()), (Some(0), 1), "{said}");
}
