//! Other sessions in the database: they hold locks, keep transactions open, and win against the daemon.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::sleep;

use crate::{
    daemon::PATIENCE,
    harness::{Harness, seconds},
    oracle::{Breakage, Promises},
    stored::today,
};

#[tokio::test(flavor = "multi_thread")]
async fn deadlocks_and_serialization_failures_are_tried_again() {
    let scene = Harness::new("sqlstate").await;
    let fault = Breakage::begins(&scene);
    let trouble = "
        CREATE SEQUENCE public.trouble;
        CREATE FUNCTION public.trouble() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE n bigint := nextval('public.trouble');
        BEGIN
            IF n <= 6 THEN
                RAISE EXCEPTION 'trouble %', n USING ERRCODE = CASE n % 2 WHEN 0 THEN '40P01' ELSE '40001' END;
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER trouble BEFORE INSERT ON receiptd.receipt_snapshots EXECUTE FUNCTION public.trouble()";
    scene.sql(trouble).await;
    assert!(scene.until("SELECT last_value > 6 FROM public.trouble", PATIENCE).await);
    fault.ends(scene, Promises::saying("trouble 1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_deadlock_that_the_daemon_loses_is_tried_again() {
    let scene = Harness::new("deadlock").await;
    let today = today(&scene).await;
    let fault = Breakage::begins(&scene);
    // The daemon checks for deadlocks once, a second after it began to wait: a transaction that is later than that is
    // retried.
    while !scene.daemon.said().contains("deadlock detected") {
        let mut other = scene.pool.acquire().await.unwrap().detach();
        let mut transaction = other.begin().await.unwrap();
        // So the daemon is the one that detects the deadlock.
        let lock = format!("SET LOCAL deadlock_timeout = '1min'; LOCK TABLE receiptd_partitions.api_calls_{today}");
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *transaction).await.unwrap();
        let waits = "SELECT EXISTS (
            SELECT FROM pg_stat_activity WHERE application_name = 'receiptd' AND wait_event_type = 'Lock')";
        assert!(scene.until(waits, PATIENCE).await);
        // A flush writes snapshots before calls: it has locked their partition by now.
        let lock = format!("LOCK TABLE receiptd_partitions.receipt_snapshots_{today}");
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *transaction).await.unwrap();
        transaction.rollback().await.unwrap();
    }
    fault.ends(scene, Promises::saying("deadlock detected")).await;
}

/// Locks the snapshots of a day against everybody, until the transaction ends.
async fn lock_snapshots(transaction: &mut PgConnection, day: &str) {
    let lock = format!("LOCK TABLE receiptd_partitions.receipt_snapshots_{day} IN ACCESS EXCLUSIVE MODE");
    sqlx::query(AssertSqlSafe(lock)).execute(transaction).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_lock_on_todays_snapshots_is_waited_for() {
    let mut scene = Harness::new("lock").await;
    let today = today(&scene).await;
    let fault = Breakage::begins(&scene);
    let mut other = scene.pool.acquire().await.unwrap().detach();
    let mut transaction = other.begin().await.unwrap();
    lock_snapshots(&mut transaction, &today).await;
    scene.lasts(seconds(8)).await;
    transaction.rollback().await.unwrap();
    fault.ends(scene, Promises::silently()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_during_a_table_lock_waits_and_loses_nothing() {
    let mut scene = Harness::new("reload").await;
    let today = today(&scene).await;
    let fault = Breakage::begins(&scene);
    let mut other = scene.pool.acquire().await.unwrap().detach();
    let mut transaction = other.begin().await.unwrap();
    lock_snapshots(&mut transaction, &today).await;
    while scene.daemon.metric("receiptd_is_storing").await > 0.0 {
        sleep(Duration::from_millis(100)).await;
    }
    scene.daemon.signal("HUP");
    // Longer than a stop would wait for storing.
    scene.lasts(seconds(14)).await;
    assert!(scene.daemon.metric("receiptd_is_storing").await.abs() < f64::EPSILON);
    let (status, body) = scene.daemon.get("/readyz", PATIENCE).await.unwrap();
    assert!(status == 503 && body.contains("can't be stored"), "{body}");
    transaction.rollback().await.unwrap();
    // The next session begins with a quiet second.
    let grace = Duration::from_secs(3);
    fault.ends(scene, Promises { grace, ..Promises::saying("another session holds a lock") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_analyst_transaction_on_all_tables_disturbs_nothing() {
    let mut scene = Harness::new("analyst").await;
    let fault = Breakage::begins(&scene);
    let mut analyst = scene.pool.acquire().await.unwrap().detach();
    let mut transaction = analyst.begin().await.unwrap();
    sqlx::raw_sql(
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
         SELECT count(*) FROM receiptd.latest_receipts; SELECT count(*) FROM receiptd.receipt_history;
         SELECT count(*) FROM receiptd.api_calls; SELECT count(*) FROM receiptd.poll_slots",
    )
    .execute(&mut *transaction)
    .await
    .unwrap();
    scene.lasts(seconds(8)).await;
    // The transaction stays open while the oracle checks.
    fault.ends(scene, Promises { lines: 0..=0, ..Promises::default() }).await;
}
