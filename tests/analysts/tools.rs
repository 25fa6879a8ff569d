//! Other tools with the schema: libraries without intervals, logical replication, and foreign tables.

use receiptd::{
    embedded::{EmbeddedPostgres, Options},
    store::Store,
};

use crate::{
    common::{ScratchDirectory, psql},
    harness::app,
    history::History,
};

#[tokio::test]
async fn every_interval_that_analysts_see_has_a_twin_in_seconds() {
    let history = History::new().await;
    let lonely = "SELECT string_agg(c.relname || '.' || a.attname, ', ')
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'receiptd'::regnamespace AND a.atttypid = 'interval'::regtype AND a.attnum > 0
            AND NOT EXISTS (SELECT FROM pg_attribute t WHERE t.attrelid = c.oid AND t.attname = a.attname || '_s'
                AND t.atttypid = 'double precision'::regtype)";
    assert_eq!(history.psql(lonely), "");
    history.message(1, "08:00");
    history.polls(1, &[("08:01", 0, 2), ("09:00", 1, 1)]).await;
    let differs =
        "SELECT count(*) FROM receiptd.read_speed WHERE extract(epoch FROM half_read_at_most) = half_read_at_most_s";
    assert_eq!(history.psql(differs), "1");
    assert_eq!(
        history.psql("SELECT age_s FROM receiptd.receipt_curve('g', 1, '10 minutes') ORDER BY 1 LIMIT 1 OFFSET 1"),
        "600"
    );
}

/// A server that logs what logical replication needs, with a database of receiptd's and another with its schema.
async fn two_databases() -> (ScratchDirectory, EmbeddedPostgres) {
    let directory = ScratchDirectory::new("replication");
    let mut options = Options::new(directory.path().join("postgres"));
    options.settings =
        [("wal_level", "logical"), ("fsync", "off")].map(|(name, value)| (name.into(), value.into())).into();
    let server = EmbeddedPostgres::start(&options).unwrap();
    for name in ["source", "copy"] {
        server.create_database(name).unwrap();
        let store = Store::new(&server.url(name).into(), 2, app()).unwrap();
        store.migrate().await.unwrap();
        psql(
            &server,
            name,
            "SELECT receiptd.ensure_partition(t, d::date) FROM unnest(ARRAY['receipt_snapshots', 'api_calls']) t,
                generate_series('2025-11-19'::date, '2025-11-23', '1 day') d",
        );
    }
    (directory, server)
}

const SNAPSHOTS: &str =
    "INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, read_num, unread_num, code)
    SELECT 1, seq, '2025-11-20 08:00Z'::timestamptz + n * interval '1 minute', n, 100 - n, 0
    FROM generate_series($from, $from + 99) seq, generate_series(0, 9) n";

const ANSWER: &str = "SELECT count(*), sum(read_num), max(polled_at) AT TIME ZONE 'UTC' FROM receiptd.receipt_history";

fn snapshots(server: &EmbeddedPostgres, from: i64) {
    psql(server, "source", &SNAPSHOTS.replace("$from", &from.to_string()));
}

fn wait_until_same(server: &EmbeddedPostgres) {
    // The commit of the last request has been applied.
    psql(server, "source", "SELECT pg_logical_emit_message(true, 'test', 'end')");
    while psql(server, "copy", ANSWER) != psql(server, "source", ANSWER) {}
}

#[tokio::test]
async fn an_all_tables_publication_survives_rewritten_days() {
    let (_directory, server) = two_databases().await;
    psql(&server, "source", "SELECT receiptd.watch_messages(1400000000, 'g', ARRAY[1, 2, 3])");
    snapshots(&server, 1);
    psql(&server, "source", "CREATE PUBLICATION everything FOR ALL TABLES WITH (publish_via_partition_root = true)");
    // A subscription to the same server would wait for itself if it made its slot.
    psql(&server, "source", "SELECT pg_create_logical_replication_slot('copy', 'pgoutput')");
    // It has its own migrations already.
    psql(&server, "copy", "TRUNCATE receiptd.schema_migrations");
    let place = psql(&server, "source", "SELECT current_setting('unix_socket_directories')");
    let place = place.trim_matches('"');
    psql(
        &server,
        "copy",
        &format!(
            "CREATE SUBSCRIPTION copy CONNECTION 'host={place} port=5432 user=postgres dbname=source' PUBLICATION everything
             WITH (create_slot = false, slot_name = copy)"
        ),
    );
    wait_until_same(&server);
    let store = Store::new(&server.url("source").into(), 2, app()).unwrap();
    let day = "2025-11-20".parse().unwrap();
    let rewritten = store.rewrite_day(day).await.unwrap();
    assert!(matches!(rewritten, receiptd::store::Rewritten::Done { rows: 1_000 }), "{rewritten:?}");
    snapshots(&server, 1_001);
    // For a day whose partition each side creates by itself.
    for name in ["source", "copy"] {
        psql(&server, name, "SELECT receiptd.ensure_partition('receipt_snapshots', '2025-11-30')");
    }
    psql(
        &server,
        "source",
        "INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, code) VALUES (1, 1, '2025-11-30 08:00Z', 10062)",
    );
    wait_until_same(&server);
    assert!(psql(&server, "copy", ANSWER).starts_with("2001|"));
    assert_eq!(psql(&server, "copy", "SELECT count(*) FROM receiptd.messages"), "3");
    psql(&server, "copy", "DROP SUBSCRIPTION copy");
}

#[tokio::test]
async fn foreign_tables_in_another_database_answer_the_same() {
    let (_directory, server) = two_databases().await;
    psql(&server, "source", "SELECT receiptd.watch_messages(1400000000, 'g', ARRAY[1, 2, 3])");
    snapshots(&server, 1);
    let place = psql(&server, "source", "SELECT current_setting('unix_socket_directories')");
    let place = place.trim_matches('"');
    server.create_database("warehouse").unwrap();
    psql(
        &server,
        "warehouse",
        &format!(
            "CREATE EXTENSION postgres_fdw;
             CREATE SERVER chat FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '{place}', port '5432', dbname 'source');
             CREATE USER MAPPING FOR CURRENT_USER SERVER chat OPTIONS (user 'postgres');
             CREATE SCHEMA receiptd; IMPORT FOREIGN SCHEMA receiptd FROM SERVER chat INTO receiptd"
        ),
    );
    assert_eq!(psql(&server, "warehouse", ANSWER), psql(&server, "source", ANSWER));
    let imported = "SELECT count(*) FROM information_schema.foreign_tables WHERE foreign_table_name ~ '_2025'";
    assert_eq!(psql(&server, "warehouse", imported), "0", "no day is a table of its own there");
    for view in ["messages", "latest_receipts", "hourly_receipts", "poll_coverage", "message_days"] {
        let count = format!("SELECT count(*) FROM receiptd.{view}");
        assert_eq!(psql(&server, "warehouse", &count), psql(&server, "source", &count), "{view}");
    }
}
