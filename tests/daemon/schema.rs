//! The schema: documented throughout, applied once, and refused if it is newer.

use chrono::TimeDelta;
use receiptd::{
    daemon::jobs::{catch_up, enforce},
    domain::{Counts, Timestamp},
    rules::{retention::Retention, rollup::SETTLED_AFTER},
    store::{SchemaError, Seed, Store},
};
use sqlx::AssertSqlSafe;

use crate::{
    common::TestDatabase,
    harness::{Harness, app, group, seq, simulator_config},
};

/// Objects in the schema without a COMMENT.
const UNDOCUMENTED: &str = "
    SELECT c.oid::regclass::text FROM pg_class c
    WHERE c.relnamespace = 'receiptd'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
        AND obj_description(c.oid, 'pg_class') IS NULL
    UNION ALL
    SELECT c.oid::regclass || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    WHERE c.relnamespace = 'receiptd'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
        AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL
    UNION ALL
    SELECT p.oid::regprocedure::text FROM pg_proc p
    WHERE p.pronamespace = 'receiptd'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL";

#[tokio::test]
async fn every_table_column_view_and_function_carries_a_comment() {
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.start().await;
    let bare: Vec<String> = sqlx::query_scalar(UNDOCUMENTED).fetch_all(&rig.pool).await.unwrap();
    assert!(bare.is_empty(), "{bare:?}");
    assert!(
        rig.count(
            "pg_class WHERE relnamespace = 'receiptd_partitions'::regnamespace AND relispartition AND relkind = 'r'"
        )
        .await
            >= 18
    );
}

#[tokio::test]
async fn concurrent_and_repeated_migrations_do_no_harm() {
    let rig = Harness::stopped(simulator_config()).await;
    sqlx::raw_sql("DROP SCHEMA receiptd CASCADE").execute(&rig.pool).await.unwrap();
    let store = Store::new(&rig.settings.database_url, 5, app()).unwrap();
    let results = futures::future::join_all((0..4).map(|_| store.migrate())).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(store.schema_version().await.unwrap(), Some(Store::known_schema_version()));
    store.migrate().await.unwrap();
}

#[tokio::test]
async fn a_schema_newer_than_this_program_is_refused() {
    let rig = Harness::stopped(simulator_config()).await;
    let insert = "INSERT INTO receiptd.schema_migrations (version, description, success, checksum, execution_time) VALUES (9999, 'from the future', true, '', 0)";
    sqlx::query(insert).execute(&rig.pool).await.unwrap();
    let store = Store::new(&rig.settings.database_url, 2, app()).unwrap();
    let error = store.migrate().await.unwrap_err();
    assert!(matches!(error, SchemaError::Newer { found: 9999, .. }) && !error.is_transient());
    assert!(error.to_string().contains("newer receiptd"), "{error}");
}

#[tokio::test]
async fn the_schema_refuses_what_cannot_be() {
    let rig = Harness::stopped(simulator_config()).await;
    rig.watch("g", [1]).await;
    for (sql, constraint) in [
        ("UPDATE receiptd.watched_messages SET state = 'removed'", "closed_at_says_since_when"),
        ("UPDATE receiptd.watched_messages SET sent_at = 'infinity'", "sent_at_is_a_date_of_this_age"),
        ("UPDATE receiptd.watched_messages SET read_num = 1", "counts_come_in_pairs"),
        (
            "UPDATE receiptd.watched_messages SET first_polled_at = now()",
            "a_polled_message_without_slot_says_until_when_it_is_known",
        ),
        ("UPDATE receiptd.watched_messages SET slot_id = 12345", "a_message_is_in_a_slot_of_its_group"),
        ("UPDATE receiptd.watched_groups SET state = 'off'", "state_is_known"),
        ("UPDATE receiptd.watched_groups SET group_id = '@TGS#_x'", "communities_and_topics_have_no_read_receipts"),
        ("UPDATE receiptd.watched_groups SET group_type = 'AVChatRoom'", "group_type_has_read_receipts"),
        ("UPDATE receiptd.watched_groups SET probe_at = now()", "only_quarantine_has_a_code_and_a_probe"),
    ] {
        let error = sqlx::query(AssertSqlSafe(sql)).execute(&rig.pool).await.unwrap_err().to_string();
        assert!(error.contains(constraint), "{sql}: {error}");
    }
}

/// How to distribute tables over several servers.
const SPREADING: &str = include_str!("../../docs/operators.md");

#[tokio::test]
async fn what_is_of_groups_can_be_spread_by_group() {
    let rig = Harness::stopped(simulator_config()).await;
    let of_groups = "WITH of_groups AS (
        SELECT c.oid, a.attnum FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'group_key'
        WHERE c.relnamespace = 'receiptd'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
            AND c.relname <> 'watched_groups'
    )";
    let mut spread: Vec<&str> = SPREADING.split("create_distributed_table('receiptd.").skip(1).collect();
    spread.iter_mut().for_each(|table| *table = table.split('\'').next().unwrap());
    spread.sort_unstable();
    let names = rig.database.psql(&format!("{of_groups} SELECT oid::regclass FROM of_groups"));
    let mut names: Vec<&str> = names.lines().map(|name| name.trim_start_matches("receiptd.")).collect();
    names.sort_unstable();
    assert_eq!(spread, names, "docs/operators.md says how to spread them");
    let without = format!(
        "{of_groups} SELECT indexrelid::regclass FROM pg_index i JOIN of_groups g ON g.oid = i.indrelid
            WHERE i.indisunique AND i.indkey[0] <> g.attnum
         UNION ALL
         SELECT k.conrelid::regclass FROM pg_constraint k JOIN of_groups g ON g.oid = k.conrelid
            WHERE k.contype = 'f' AND k.conkey[1] <> g.attnum"
    );
    assert_eq!(rig.database.psql(&without), "", "a unique or foreign key that does not begin with group_key");
}

#[tokio::test]
async fn analyze_counts_no_elements_of_slots() {
    let rig = Harness::stopped(simulator_config()).await;
    let counted = "SELECT string_agg(attname, ', ') FROM pg_attribute WHERE attrelid = 'receiptd.poll_slots'::regclass
        AND attnum > 0 AND atttypid IN (SELECT typarray FROM pg_type) AND attstattarget IS DISTINCT FROM 0";
    assert_eq!(rig.database.psql(counted), "", "SET STATISTICS 0");
}

#[test]
fn migrations_are_ascii() {
    let migrations = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    for migration in migrations.map(|entry| entry.unwrap().path()) {
        let text = std::fs::read(&migration).unwrap();
        assert!(text.is_ascii(), "{}", migration.display());
    }
}

/// As a tool for change data capture creates it: from then on, a table without a key refuses updates and deletes.
const PUBLISH: &str = "CREATE PUBLICATION everything FOR ALL TABLES";

#[tokio::test]
async fn a_publication_of_all_tables_stops_nothing() {
    let mut rig = Harness::stopped(simulator_config()).await;
    sqlx::raw_sql(PUBLISH).execute(&rig.pool).await.unwrap();
    rig.start().await;
    rig.watch("g", 1..=60).await;
    rig.watch("removed", 1..=3).await;
    rig.until("(SELECT bool_and(known_until IS NOT NULL) FROM receiptd.latest_receipts)").await;
    for number in 1..=55 {
        rig.simulator.world().set_receipt(&group("g"), seq(number), Counts::new(500, 0).unwrap());
    }
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE state = 'all_read') = 55").await;
    sqlx::raw_sql("SELECT receiptd.unwatch_group(1400000000, 'removed')").execute(&rig.pool).await.unwrap();
    sqlx::raw_sql("ALTER TABLE receiptd.receipt_snapshots ADD CONSTRAINT no_60 CHECK (msg_seq <> 60 OR read_num <> 499) NOT VALID")
        .execute(&rig.pool)
        .await
        .unwrap();
    rig.simulator.world().set_receipt(&group("g"), seq(60), Counts::new(499, 1).unwrap());
    rig.until("(SELECT max(times) FROM receiptd.set_aside) > 1").await;
    rig.stop().await;
}

#[tokio::test]
async fn roll_up_and_retention_run_under_a_publication_of_all_tables() {
    let database = TestDatabase::new().await;
    let store = Store::new(&database.url().into(), 4, app()).unwrap();
    store.migrate().await.unwrap();
    database.psql(PUBLISH);
    let until: Timestamp = "2026-11-20T00:00:00Z".parse().unwrap();
    let seed = Seed { groups: 3, messages: 40, days: 3, members: 12, until };
    store.seed_groups(&seed).await.unwrap();
    store.seed_messages(&seed, 0).await.unwrap();
    store.seed_slots(&seed).await.unwrap();
    database.psql("INSERT INTO receiptd.rollup_redo (sdk_app_id, hour) VALUES (1400000000, '2026-11-18 10:00Z')");
    catch_up(&store, until + SETTLED_AFTER, |_| {}).await.unwrap();
    catch_up(&store, until + SETTLED_AFTER + TimeDelta::minutes(5), |_| {}).await.unwrap();
    let days = Some(TimeDelta::days(1));
    let keep = Retention { snapshots: days, calls: days, rollups: days, message_days: days, readers: days };
    let removed = enforce(&store, &keep, until + TimeDelta::days(1)).await.unwrap();
    assert!(removed.partitions > 0 && removed.rows > 0, "{removed:?}");
    assert_eq!(database.psql("SELECT count(*) FROM receiptd.rollup_redo"), "0");
}

#[tokio::test]
async fn every_table_but_the_log_of_calls_has_a_primary_key() {
    let rig = Harness::stopped(simulator_config()).await;
    let without = "SELECT string_agg(c.relname, ', ' ORDER BY c.relname) FROM pg_class c
        WHERE c.relnamespace = 'receiptd'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
            AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)";
    assert_eq!(rig.database.psql(without), "api_calls");
}
