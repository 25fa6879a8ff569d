//! TCP keepalive between the daemon and a PostgreSQL server over TCP.

use std::{fs, net::SocketAddr};

use receiptd::embedded::{EmbeddedPostgres, Options};
use sqlx::PgPool;

use crate::{
    common::{ScratchDirectory, own_address},
    harness::{Harness, simulator_config},
};

/// The port of the connection on which the daemon counts watched messages, an operation that may take minutes, while
/// that waits.
const WAITING: &str = "SELECT client_port FROM pg_stat_activity
    WHERE wait_event_type = 'Lock' AND client_port > 0 AND query LIKE '%count(*) FILTER%'";

/// The time until the kernel sends the next keepalive probe on the server's socket of the connection from `port`, in
/// seconds; `None` if it sends none.
fn next_probe(server: SocketAddr, port: i32) -> Option<f64> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let of_it = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|fields| {
        fields[1].ends_with(&format!(":{:04X}", server.port())) && fields[2].ends_with(&format!(":{port:04X}"))
    });
    // The type of the timer, 02 for keepalive, and its remaining time in hundredths of a second.
    let rest = of_it.unwrap()[5].strip_prefix("02:")?;
    Some(f64::from(u32::from_str_radix(rest, 16).unwrap()) / 100.0)
}

#[tokio::test]
async fn the_server_probes_the_connection_of_a_long_operation() {
    let scratch = ScratchDirectory::new("keepalive");
    let address = SocketAddr::new(own_address().ip(), 5_432);
    let hba = scratch.path().join("hba");
    fs::write(&hba, "local all all trust\nhost all all 127.0.0.0/8 trust\n").unwrap();
    let mut options = Options::new(scratch.path().join("postgres"));
    let settings =
        [("fsync", "off"), ("listen_addresses", &address.ip().to_string()), ("hba_file", hba.to_str().unwrap())];
    options.settings = settings.map(|(name, value)| (name.into(), value.into())).into();
    let server = EmbeddedPostgres::start(&options).unwrap();
    server.create_database("tcp").unwrap();
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.settings.database_url = format!("postgres://postgres@{address}/tcp?sslmode=disable").into();
    rig.start().await;
    let pool = PgPool::connect(&server.url("tcp")).await.unwrap();
    while !matches!(sqlx::query("SELECT FROM receiptd.apps").fetch_optional(&pool).await, Ok(Some(_))) {
        tokio::task::yield_now().await;
    }
    let mut locked = pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE receiptd.watched_groups").execute(&mut *locked).await.unwrap();
    let port = loop {
        match sqlx::query_scalar::<_, i32>(WAITING).fetch_optional(&pool).await.unwrap() {
            Some(port) => break port,
            None => tokio::task::yield_now().await,
        }
    };
    let probe = next_probe(address, port).expect("no keepalive");
    assert!(probe <= 30.0, "{probe} s");
    locked.rollback().await.unwrap();
    pool.close().await;
    rig.stop().await;
    server.stop().unwrap();
}
