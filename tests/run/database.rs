//! Its database is unavailable, newer, or private.

use std::net::TcpListener;

use sqlx::PgPool;

use crate::{
    common::TestDatabase,
    place::{AWAY, Place, count, end, get, migrate, signal, watch},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_database_url_it_has_a_private_one_and_takes_it_along_when_it_ends() {
    let place = Place::new("private", 200).await;
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
async fn a_schema_that_is_newer_ends_it_as_a_fault_of_the_configuration() {
    let (place, database) = (Place::new("newer", 200).await, TestDatabase::new().await);
    migrate(&database);
    database.psql("INSERT INTO receiptd.schema_migrations VALUES (9999, 'from the future', now(), true, '', 0)");
    let (code, said) = end(place.spawn(Some(&database)));
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("newer receiptd"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_its_database_is_away_it_lives_says_so_and_can_be_stopped() {
    let mut place = Place::new("away", 200).await;
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
async fn an_address_that_somebody_has_ends_it_at_once_though_its_database_is_away() {
    let mut place = Place::new("taken", 200).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    place.config = place.config.replace("\"off\"", &format!("\"{}\"", taken.local_addr().unwrap()));
    place.config += &format!("[database]\nurl = \"{AWAY}\"\n");
    let (code, said) = end(place.spawn(None));
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("is another process using it?"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_takes_over_what_the_database_was_waited_for() {
    let (mut place, database) = (Place::new("waiting", 200).await, TestDatabase::new().await);
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
    let (mut place, database) = (Place::new("reads", 200).await, TestDatabase::new().await);
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
