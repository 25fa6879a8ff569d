//! Partitions have their own schema: lists of tables don't show them, and other objects in that schema are not
//! touched.

use chrono::{NaiveDate, TimeDelta};
use receiptd::{
    daemon::jobs::enforce,
    rules::retention::{Retention, runway},
};

use crate::history::History;

/// Other objects in the schema of the partitions, with receiptd's own names and comments.
const FOREIGN: &str = "
    CREATE ROLE owner_of_$database; GRANT USAGE ON SCHEMA receiptd_partitions TO owner_of_$database;
    CREATE TABLE receiptd_partitions.saved (group_key integer); INSERT INTO receiptd_partitions.saved VALUES (1);
    CREATE TABLE receiptd_partitions.receipt_snapshots_20250101 (group_key integer);
    ALTER TABLE receiptd_partitions.receipt_snapshots_20250101 OWNER TO owner_of_$database;
    COMMENT ON TABLE receiptd_partitions.receipt_snapshots_20250101 IS 'Detached by retention, to be dropped.';
    CREATE TABLE public.theirs (group_key integer, day date) PARTITION BY RANGE (day);
    CREATE TABLE receiptd_partitions.api_calls_20250101 PARTITION OF public.theirs DEFAULT;";

const UNTOUCHED: &str = "SELECT string_agg(format('%s %s %s', c.relname, c.relrowsecurity, obj_description(c.oid)), ', ' ORDER BY c.relname)
    FROM pg_class c WHERE c.relname IN ('saved', 'receipt_snapshots_20250101', 'api_calls_20250101')";

#[tokio::test]
async fn retention_and_roles_leave_foreign_objects_untouched() {
    let history = History::new().await;
    history.psql(&FOREIGN.replace("$database", history.database.name()));
    let before = history.psql(UNTOUCHED);
    assert_eq!(before.matches(" f").count(), 3, "{before}");
    let days = Some(TimeDelta::days(1));
    let keep = Retention { snapshots: days, calls: days, rollups: days, message_days: days, readers: days };
    let removed = enforce(&history.store, &keep, "2025-11-24T12:00:00Z".parse().unwrap()).await.unwrap();
    assert_eq!((removed.partitions, removed.waiting), (10, 0), "its own go");
    // As the schema's owner, if that were not a superuser.
    history.psql(
        "ALTER TABLE receiptd.role_apps DISABLE TRIGGER ALL; INSERT INTO receiptd.role_apps VALUES (current_user::regrole, 1)",
    );
    history.psql("SELECT receiptd.limit_readers()");
    let limited = "SELECT bool_and(relrowsecurity) FROM pg_class JOIN pg_inherits ON inhrelid = pg_class.oid
        WHERE inhparent IN ('receiptd.api_calls'::regclass, 'receiptd.receipt_snapshots'::regclass)";
    assert_eq!(history.psql(limited), "t", "its own partitions follow their tables");
    assert_eq!(history.psql(UNTOUCHED), before);
    let partitions = history.store.partitions().await.unwrap();
    assert_eq!(runway(&partitions, NaiveDate::from_ymd_opt(2025, 1, 1).unwrap()), 0);
}

#[tokio::test]
async fn who_looks_for_tables_finds_a_dozen_and_not_every_day() {
    let history = History::new().await;
    let listed = history.psql("SELECT count(*) FROM information_schema.tables WHERE table_schema = 'receiptd'");
    let partitions = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'receiptd_partitions'";
    assert!(listed.parse::<u32>().unwrap() < 50, "{listed}");
    assert_eq!(history.psql(partitions), "26");
    assert_eq!(
        history.psql("SELECT count(*) FROM pg_class WHERE relispartition AND relnamespace = 'receiptd'::regnamespace"),
        "0"
    );
}
