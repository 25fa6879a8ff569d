//! A daemon with nothing to do.

use receiptd::embedded::{EmbeddedPostgres, Options};

use sqlx::PgPool;

use crate::{
    common::ScratchDirectory,
    harness::{Harness, simulator_config},
};

const RENEWALS: i64 = 5;

/// Whether a daemon's initial work is done: the partitions of a week, and the first roll-up.
const IS_READY: &str = "SELECT (SELECT count(*) FROM pg_class WHERE relispartition AND relkind = 'r'
        AND relnamespace = 'receiptd_partitions'::regnamespace) >= 18
    AND EXISTS (SELECT FROM receiptd.poller_leases WHERE rolled_up_until > now() - interval '5 minutes')";

/// The next transaction id: each writing transaction takes one.
const NEXT_ID: &str = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint";

#[tokio::test]
async fn an_idle_daemon_writes_nothing_but_its_lease() {
    let scratch = ScratchDirectory::new("idle");
    let mut options = Options::new(scratch.path().join("postgres"));
    options.settings =
        [("autovacuum", "off"), ("fsync", "off")].map(|(name, value)| (name.into(), value.into())).into();
    // Its own server: ids are counted for all databases of a server.
    let server = EmbeddedPostgres::start(&options).unwrap();
    server.create_database("idle").unwrap();
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.settings.database_url = server.url("idle").into();
    rig.start().await;
    let pool = PgPool::connect(&server.url("idle")).await.unwrap();
    while !sqlx::query_scalar::<_, bool>(IS_READY).fetch_one(&pool).await.unwrap_or(false) {
        tokio::task::yield_now().await;
    }
    renewal(&pool).await;
    let before: i64 = sqlx::query_scalar(NEXT_ID).fetch_one(&pool).await.unwrap();
    for _ in 0..RENEWALS {
        renewal(&pool).await;
    }
    let written = sqlx::query_scalar::<_, i64>(NEXT_ID).fetch_one(&pool).await.unwrap() - before;
    assert!(written <= RENEWALS, "{written} transactions wrote something in {RENEWALS} renewals");
    pool.close().await;
    rig.stop().await;
    server.stop().unwrap();
}

/// Waits for the next renewal of the lease.
async fn renewal(pool: &PgPool) {
    let until = "SELECT max(expires_at)::text FROM receiptd.poller_leases";
    let look = async || sqlx::query_scalar::<_, Option<String>>(until).fetch_one(pool).await.ok().flatten();
    let before = look().await;
    while look().await == before {
        tokio::task::yield_now().await;
    }
}
