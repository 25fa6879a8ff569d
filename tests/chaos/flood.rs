//! Clients of the HTTP side that send half a request, read nothing, or ask as often as they can.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::{
    common::ScratchDirectory,
    harness::{Harness, LIMIT, Setup, is_long, seconds},
    oracle::{Breakage, Promises},
};

/// The rate in the long version: that of a whole app. A machine that runs all other tests too has no time for both.
const FULL_RATE: u32 = 200;

/// Fewer descriptors than clients, but enough for the daemon itself.
const DESCRIPTORS: &str = r#"ulimit -n 256; exec "$@""#;

/// Maximum number of connections kept open by each kind of client.
const KEPT: usize = 150;

/// Pause between the connections of one client: a flood that leaves this machine some time for other tests.
const PAUSE: Duration = Duration::from_millis(2);

/// Clients of all kinds, until it is dropped.
struct Flood {
    over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Flood {
    fn begins(at: SocketAddr) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let kinds = [
            ("GET / HTTP/1.1\r\nHost: localh".to_owned(), false),
            ("GET / HTTP/1.1\r\nX: ".to_owned() + &"x".repeat(20_000), false),
            (ask("/metrics").repeat(100), false),
            (String::new(), false),
            (ask("/readyz"), true),
            (ask("/"), true),
            (ask("/metrics"), true),
        ];
        let client = |(request, reads): (String, bool)| {
            let over = over.clone();
            thread::spawn(move || client(at, request.as_bytes(), reads, &over))
        };
        Self { clients: kinds.into_iter().map(client).collect(), over }
    }

    fn ends(self) {
        self.over.store(true, Ordering::Relaxed);
        self.clients.into_iter().for_each(|client| client.join().unwrap());
    }
}

/// Connects repeatedly and sends the same. Reads the answer, or doesn't.
fn client(at: SocketAddr, request: &[u8], reads: bool, over: &AtomicBool) {
    let mut kept = std::collections::VecDeque::new();
    while !over.load(Ordering::Relaxed) {
        thread::sleep(PAUSE);
        let Ok(mut connection) = TcpStream::connect_timeout(&at, Duration::from_secs(1)) else { continue };
        _ = connection.set_write_timeout(Some(Duration::from_millis(50)));
        _ = connection.set_read_timeout(Some(Duration::from_millis(200)));
        // The other end may have closed it already.
        _ = connection.write_all(request);
        if reads {
            _ = connection.read(&mut [0; 4_096]);
        } else {
            kept.push_back(connection);
            if kept.len() == KEPT {
                kept.pop_front();
            }
        }
    }
}

/// Calls per second over this duration.
async fn rate(scene: &Harness, duration: Duration) -> f64 {
    let (calls, start) = (scene.simulator.ledger().ended_calls(), Instant::now());
    sleep(duration).await;
    (scene.simulator.ledger().ended_calls() - calls) as f64 / start.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_clients_delays_no_poll_and_no_look_at_health() {
    let prefix = ["sh", "-c", DESCRIPTORS, "sh"].map(Into::into).into();
    let setup = Setup { prefix, limit: is_long().then_some(FULL_RATE), ..Setup::default() };
    let scene = Harness::with(ScratchDirectory::new("flood"), setup).await;
    let before = rate(&scene, Duration::from_secs(4)).await;
    let breakage = Breakage::begins(&scene);
    let flood = Flood::begins(scene.daemon.launch.http);
    let looks = async {
        let end = Instant::now() + seconds(10);
        let mut slowest = Duration::ZERO;
        while Instant::now() < end {
            let asked = Instant::now();
            let answer = scene.daemon.get("/healthz", Duration::from_secs(5)).await;
            assert_eq!(answer.map(|(status, _)| status), Some(200), "after {:?}", asked.elapsed());
            slowest = slowest.max(asked.elapsed());
            sleep(Duration::from_millis(100)).await;
        }
        slowest
    };
    let (during, slowest) = tokio::join!(rate(&scene, seconds(10)), looks);
    let displaced = scene.daemon.metric("receiptd_http_connections_displaced_total").await;
    flood.ends();
    println!("{before:.1} calls a second before, {during:.1} during, /healthz in {slowest:?}, {displaced} displaced");
    assert!(displaced > 100.0, "it was no flood: {displaced}");
    assert!(during > 0.9 * before && during > 0.8 * f64::from(scene.limit), "{during} calls a second, {before} before");
    breakage.ends(scene, Promises { lines: 0..=0, ..Promises::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_reloads_and_stops_in_time_in_a_flood_of_clients() {
    let mut scene = Harness::new("flood-stop").await;
    let flood = Flood::begins(scene.daemon.launch.http);
    scene.after_calls(u64::from(LIMIT)).await;
    scene.daemon.signal("HUP");
    scene.after_calls(2 * u64::from(LIMIT)).await;
    assert!(scene.daemon.said().contains("settings reloaded"), "{}", scene.daemon.said());
    let start = Instant::now();
    scene.daemon.signal("TERM");
    assert_eq!(scene.daemon.end().await.code(), Some(0), "{}", scene.daemon.said());
    println!("it stopped within {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    flood.ends();
}
