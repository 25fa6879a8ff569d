//! The database is stopped, hangs, refuses and drops connections.

use crate::{
    common::ScratchDirectory,
    daemon::PATIENCE,
    harness::{DATABASE, Harness, Setup, seconds},
    oracle::{Breakage, Promises},
    signals,
    stored::{Tables, scalar, today},
};

/// The daemon's connections.
const BACKENDS: &str = "FROM pg_stat_activity WHERE application_name = 'receiptd'";

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_stops_and_starts_again_costs_no_receipt() {
    let mut scene = Harness::new("stop").await;
    let fault = Breakage::begins(&scene);
    scene.server.stop();
    scene.lasts(seconds(8)).await;
    scene.server.start_again();
    fault.ends(scene, Promises::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_refuses_connections_costs_no_receipt() {
    let mut scene = Harness::new("refuse").await;
    let fault = Breakage::begins(&scene);
    scene.admin(&format!("ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS false")).await;
    scene.admin(&format!("SELECT pg_terminate_backend(pid) {BACKENDS}")).await;
    scene.lasts(seconds(8)).await;
    scene.admin(&format!("ALTER DATABASE {DATABASE} ALLOW_CONNECTIONS true")).await;
    fault.ends(scene, Promises::saying("not currently accepting connections")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_database_costs_no_receipt() {
    let mut scene = Harness::new("hang").await;
    let fault = Breakage::begins(&scene);
    let frozen = scene.server.freeze();
    scene.lasts(seconds(12)).await;
    drop(frozen);
    fault.ends(scene, Promises::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_read_only_for_a_while_costs_no_receipt() {
    let mut scene = Harness::new("read-only").await;
    let fault = Breakage::begins(&scene);
    scene.admin("ALTER SYSTEM SET default_transaction_read_only = on").await;
    scene.admin("SELECT pg_reload_conf()").await;
    scene.lasts(seconds(8)).await;
    scene.admin("ALTER SYSTEM SET default_transaction_read_only = off").await;
    scene.admin("SELECT pg_reload_conf()").await;
    fault.ends(scene, Promises::saying("read-only transaction")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_ended_again_and_again_cost_no_receipt() {
    let mut scene = Harness::new("terminate").await;
    let fault = Breakage::begins(&scene);
    for _ in 0..5 {
        scene.admin(&format!("SELECT pg_terminate_backend(pid) {BACKENDS}")).await;
        scene.lasts(seconds(8) / 5).await;
    }
    fault.ends(scene, Promises::silently()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_backend_that_ends_all_others_costs_no_receipt() {
    let mut scene = Harness::new("crash").await;
    let fault = Breakage::begins(&scene);
    for _ in 0..2 {
        let backends: Vec<i32> = scalar(&scene.admin, &format!("SELECT array_agg(pid) {BACKENDS}")).await;
        signals::send("KILL", &[backends[0].unsigned_abs()]);
        scene.lasts(seconds(6) / 2).await;
        let others = format!("SELECT count(*) > 0 AND NOT bool_or(pid = ANY (ARRAY{backends:?})) {BACKENDS}");
        assert!(scene.until(&others, PATIENCE).await, "the server has ended all backends and started again");
    }
    fault.ends(scene, Promises::silently()).await;
}

/// A commit waits for a standby server that does not exist. Its answer is not waited for, and it is made in the end.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_hang_and_are_made_in_the_end_are_stored_once() {
    let mut scene = Harness::new("standby").await;
    let fault = Breakage::begins(&scene);
    scene.admin("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    scene.admin("SELECT pg_reload_conf()").await;
    scene.lasts(seconds(14)).await;
    scene.admin("ALTER SYSTEM RESET synchronous_standby_names").await;
    scene.admin("SELECT pg_reload_conf()").await;
    fault.ends(scene, Promises::saying("storing results failed")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn todays_partitions_are_made_anew_when_they_are_missing() {
    let scene = Harness::idle(ScratchDirectory::new("partition"), Setup::default()).await;
    let today = today(&scene).await;
    let before_the_first = Breakage::begins(&scene);
    scene
        .sql(&format!(
            "DROP TABLE receiptd_partitions.receipt_snapshots_{today}, receiptd_partitions.api_calls_{today}"
        ))
        .await;
    scene.watch_all().await;
    scene.at_full_load().await;
    // Now they hold rows, which the oracle counts where they are put.
    for table in ["receipt_snapshots", "api_calls"] {
        let put_aside = format!(
            "ALTER TABLE receiptd.{table} DETACH PARTITION receiptd_partitions.{table}_{today};
             ALTER TABLE receiptd_partitions.{table}_{today} SET SCHEMA public; ALTER TABLE public.{table}_{today} RENAME TO aside_{table}"
        );
        scene.sql(&put_aside).await;
    }
    let tables = Tables {
        snapshots: "(SELECT * FROM receiptd.receipt_snapshots UNION ALL SELECT * FROM public.aside_receipt_snapshots)",
        calls: "(SELECT * FROM receiptd.api_calls UNION ALL SELECT * FROM public.aside_api_calls) c",
    };
    before_the_first.ends(scene, Promises { tables, ..Promises::saying("partition was missing") }).await;
}
