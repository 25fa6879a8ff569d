//! Webhooks as fast as they may come, beside polls at the full rate: how soon they are answered, and how they affect
//! polls.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use receiptd::{
    clock,
    domain::{Counts, GroupId, MsgSeq},
    rules::webhooks::signature,
    simulator::World,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep_until,
};

use crate::{
    cost, refused,
    setup::{APP, Setup, Watch},
    share,
};

/// Webhooks per second, over all connections.
const RATE: usize = 5_000;
const CONNECTIONS: usize = 25;
const TOKEN: &str = "token-of-the-bench-of-32-letters";
const GROUPS: usize = 950;
const MESSAGES: usize = 50;
/// Members of a group without the sender.
const READERS: i64 = 199;

/// The senders' results.
struct Sent {
    latencies: Vec<Duration>,
    cpu: Duration,
}

/// Measures polls without and then with a flood of webhooks, each of which reports a read.
pub async fn flood(span: Duration) {
    let mut setup = Setup::unread().await;
    setup.watch(Watch { groups: GROUPS as i32, messages: MESSAGES as i64, every: "5s", members: 200 }).await;
    let listener: SocketAddr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let daemon = setup.start_daemon_with("5s", &format!("[webhooks]\nlisten = \"{listener}\"\ntoken = \"{TOKEN}\"\n"));
    // Until each slot has been polled and the rate is steady.
    setup.simulator.wait_for_calls(2 * GROUPS as u64).await;
    println!("\n950 groups with 50 messages each, 190 due calls a second, 10 to 30 ms of latency");
    for is_flooded in [false, true] {
        let (before, start) = (setup.simulator.ledger().calls(), Instant::now());
        let (daemon_before, postgres_before, here_before) =
            (cost::cpu(daemon.id()), setup.postgres_cpu(), cost::cpu(std::process::id()));
        let sent = if is_flooded {
            let world = setup.simulator.world();
            thread::scope(|scope| scope.spawn(|| send(world, listener, span)).join().unwrap())
        } else {
            tokio::time::sleep(span).await;
            Sent { latencies: vec![], cpu: Duration::ZERO }
        };
        let took = start.elapsed().as_secs_f64();
        let (ledger, here) = (setup.simulator.ledger(), cost::cpu(std::process::id()) - here_before - sent.cpu);
        let calls = (ledger.calls() - before) as f64 / took;
        println!("{}, {took:.0} s", if is_flooded { "With webhooks" } else { "Without webhooks" });
        println!(
            "  calls                  {calls:.1} /s, highest sliding second {}, {} refused",
            ledger.highest_sliding_second(),
            refused(&ledger)
        );
        println!("  polls late             {}", setup.lateness(took).await);
        println!("  receiptd               {:.1} % of a core", share(cost::cpu(daemon.id()) - daemon_before, took));
        println!("  Postgres               {:.1} % of a core", share(setup.postgres_cpu() - postgres_before, took));
        println!("  simulated Chat         {:.1} % of a core", share(here, took));
        if is_flooded {
            tell(sent, took);
        }
    }
    // Events are held for half a second, and stored a fifth of a second later.
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!(
        "  recorded               {} counts told by webhooks",
        setup.count("receipt_snapshots WHERE is_webhook").await
    );
    daemon.stop();
}

fn tell(mut sent: Sent, took: f64) {
    sent.latencies.sort_unstable();
    let count = sent.latencies.len();
    let millis = |share: f64| sent.latencies[((count - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("  senders                {:.1} % of a core", share(sent.cpu, took));
    println!("  webhooks               {:.0} /s, {count} in all", count as f64 / took);
    println!(
        "  answered after         {:.2} ms (median), {:.2} ms (90 %), {:.2} ms (99 %), {:.0} ms at the most",
        millis(0.5),
        millis(0.9),
        millis(0.99),
        millis(1.0)
    );
}

/// Sends webhooks for `span`, on a thread of its own.
fn send(world: &World, listener: SocketAddr, span: Duration) -> Sent {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let senders = (0..CONNECTIONS).map(|place| sender(world, listener, place, span));
    let latencies = runtime.block_on(futures::future::join_all(senders)).into_iter().flatten().collect();
    Sent { latencies, cpu: cost::cpu_of_thread() }
}

async fn sender(world: &World, listener: SocketAddr, place: usize, span: Duration) -> Vec<Duration> {
    let (mut latencies, start) = (vec![], tokio::time::Instant::now());
    let mut connection = TcpStream::connect(listener).await.unwrap();
    connection.set_nodelay(true).unwrap();
    let mut answer = [0; 1_024];
    for number in 0.. {
        let at = start + Duration::from_secs_f64((number * CONNECTIONS + place) as f64 / RATE as f64);
        if at > start + span {
            return latencies;
        }
        sleep_until(at).await;
        let request = webhook(world, number * CONNECTIONS + place);
        let began = Instant::now();
        connection.write_all(request.as_bytes()).await.unwrap();
        let length = connection.read(&mut answer).await.unwrap();
        let answer = std::str::from_utf8(&answer[..length]).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with('}'), "{answer}");
        latencies.push(began.elapsed());
        if answer.contains("connection: close") {
            connection = TcpStream::connect(listener).await.unwrap();
            connection.set_nodelay(true).unwrap();
        }
    }
    latencies
}

/// The webhook that reports the next read of a message, which polls find too.
fn webhook(world: &World, number: usize) -> String {
    let (message, read) = (number % (GROUPS * MESSAGES), (number / (GROUPS * MESSAGES)) as i64 + 1);
    let (group, seq) = (format!("group {}", message % GROUPS + 1), message / GROUPS + 1);
    let (id, number): (GroupId, MsgSeq) = (group.parse().unwrap(), MsgSeq::try_from(seq as i64).unwrap());
    world.set_receipt(&id, number, Counts::new(read, READERS - read).unwrap());
    let now = clock::now();
    let body = format!(
        r#"{{"CallbackCommand":"Group.CallbackAfterReadReceipt","GroupId":"{group}","Type":"Public","GroupMsgReceiptList":[{{"MsgSeq":{seq},"ReadNum":{read},"UnreadNum":{},"ReadReceiptMembers":[{{"Member_Account":"user{read}"}}]}}],"EventTime":"{}"}}"#,
        READERS - read,
        now.timestamp_millis()
    );
    let time = now.timestamp().to_string();
    format!(
        "POST /?SdkAppid={APP}&CallbackCommand=Group.CallbackAfterReadReceipt&contenttype=json&ClientIP=127.0.0.1\
         &OptPlatform=RESTAPI&Sign={}&RequestTime={time} HTTP/1.1\r\nHost: receiptd\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        signature(&TOKEN.into(), &time),
        body.len()
    )
}
