//! The daemon's database is unavailable, newer, or private.

use std::net::TcpListener;

use sqlx::PgPool;

use crate::{
    common::TestDatabase,
    harness::{AWAY, Harness, count, end, get, migrate, signal, watch},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_url_the_daemon_runs_and_ends_its_own_database() {
    let place = Harness::new("private", 200).await;
    for round in 1..=2 {
        let daemon = place.spawn(None);
        place.hears("READY=1");
        let socket = place.path("postgres/socket");
        let url = format!("postgres://postgres@localhost/receiptd?host={}", socket.display());
        let pool = PgPool::connect(&url).await.unwrap();
        assert_eq!(
            count(&pool, "SELECT count(*) FROM receiptd.watched_messages").await,
            if round == 1 { 0 } else { 5 }
        );
        watch(&pool, 1, 5).await;
        let calls = place.simulator.ledger().calls();
        place.simulator.wait_for_ended_calls(calls + 2).await;
        pool.close().await;
        signal(&daemon, "-TERM");
        let (code, said) = end(daemon);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("private PostgreSQL"), "{said}");
        assert!(!place.path("postgres/cluster/postmaster.pid").exists(), "its server has ended");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_schema_ends_the_daemon_as_a_configuration_fault() {
    let (place, database) = (Harness::new("newer", 200).await, TestDatabase::new().await);
    migrate(&database);
    database.psql("INSERT INTO receiptd.schema_migrations VALUES (9999, 'from the future', now(), true, '', 0)");
    let (code, said) = end(place.spawn(Some(&database)));
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("newer receiptd"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_without_its_database_reports_it_and_can_stop() {
    let mut place = Harness::new("away", 200).await;
    let listen = place.listens();
    place.config += &format!("[database]\nurl = \"{AWAY}\"\n");
    let daemon = place.spawn(None);
    let waits = place.hears_of(|line| line.starts_with("STATUS=waiting for the database: "));
    assert!(waits.contains("refused"), "{waits}");
    assert_eq!(get(listen, "/healthz").await.0, 200);
    let (status, body) = get(listen, "/readyz").await;
    assert!(
        status == 503 && body.contains("\"lease\":{\"ok\":false,\"reason\":\"waiting for the database: "),
        "{body}"
    );
    assert!(get(listen, "/metrics").await.1.contains("receiptd_is_polling{sdk_app_id=\"1400000000\"} 0"));
    assert!(get(listen, "/status.json").await.1.contains("\"line\":\"waiting for the database: "));
    signal(&daemon, "-TERM");
    place.hears("STOPPING=1");
    let (code, said) = end(daemon);
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_address_ends_the_daemon_even_without_a_database() {
    let mut place = Harness::new("taken", 200).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    place.config = place.config.replace("\"off\"", &format!("\"{}\"", taken.local_addr().unwrap()));
    place.config += &format!("[database]\nurl = \"{AWAY}\"\n");
    let (code, said) = end(place.spawn(None));
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("is another process using it?"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_takes_over_what_the_database_was_waited_for() {
    let (mut place, database) = (Harness::new("waiting", 200).await, TestDatabase::new().await);
    let good = place.config.clone() + &format!("[database]\nurl = \"{}\"\n", database.url());
    let read_only = "&options=-cdefault_transaction_read_only=on\"\n";
    place.config = good.trim_end_matches("\"\n").to_owned() + read_only;
    let daemon = place.spawn(None);
    place.hears_of(|line| line.starts_with("STATUS=waiting for the database: ") && line.contains("read-only"));
    place.config = good;
    place.write_config();
    signal(&daemon, "-HUP");
    place.hears("READY=1");
    signal(&daemon, "-TERM");
    let (code, said) = end(daemon);
    assert_eq!(code, Some(0), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_says_that_the_database_only_reads() {
    let (mut place, database) = (Harness::new("reads", 200).await, TestDatabase::new().await);
    let listen = place.listens();
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    assert_eq!(get(listen, "/readyz").await.0, 200);
    let only_read = "ALTER DATABASE $name SET default_transaction_read_only = on;
        SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '$name' AND pid <> pg_backend_pid()";
    database.psql(&only_read.replace("$name", database.name()));
    let (mut status, mut body) = get(listen, "/readyz").await;
    while !body.contains("default_transaction_read_only is on") {
        (status, body) = get(listen, "/readyz").await;
    }
    assert!(status == 503 && body.contains("RESET default_transaction_read_only"), "{body}");
    signal(&daemon, "-TERM");
    end(daemon);
}
