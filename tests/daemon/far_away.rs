//! A database that is far away.

use std::time::Duration;

use crate::{
    harness::{APP, Harness, simulator_config},
    proxy::Proxy,
};

/// Half of the usual limit, for a busy machine: 60 ms are to this limit what 30 ms are to the full one.
const LIMIT: u32 = 100;

/// Number of calls before the rate is measured, and of those measured.
const FIRST: usize = 400;
const MEASURED: usize = 500;

/// The rate of a daemon with more due than the limit allows, if the database is this many milliseconds away.
async fn calls_per_second(round_trip: u64, prepared_statements: bool) -> f64 {
    let mut rig = Harness::stopped(simulator_config()).await;
    let proxy = Proxy::far_away(&rig.database.url(), Duration::from_millis(round_trip)).await;
    (rig.settings.database_url, rig.settings.prepared_statements) = (proxy.url().into(), prepared_statements);
    rig.settings.session.polling.max_calls_per_second = LIMIT;
    let watch = "SELECT receiptd.watch_messages($1, 'group ' || g, ARRAY[1]) FROM generate_series(1, 500) g";
    sqlx::query(watch).bind(APP).execute(&rig.pool).await.unwrap();
    rig.start().await;
    rig.simulator.wait_for_ended_calls((FIRST + MEASURED) as u64).await;
    let arrivals = rig.simulator.ledger().arrivals()[FIRST..][..MEASURED].to_vec();
    rig.stop().await;
    MEASURED as f64 * 1e6 / (arrivals[MEASURED - 1] - arrivals[0]) as f64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_distant_database_does_not_lower_the_call_rate() {
    for (round_trip, prepared_statements) in [(60, true), (200, true), (120, false)] {
        // Next to another one, on an equally busy machine.
        let (far, near) = tokio::join!(calls_per_second(round_trip, prepared_statements), calls_per_second(0, true));
        let what = format!("{round_trip} ms away, prepared statements: {prepared_statements}");
        assert!(far > 0.75 * near, "{what}: {far:.1} calls a second instead of {near:.1}");
    }
}
