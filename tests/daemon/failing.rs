//! Failing groups only cost their share: a tenth of the calls, and the others are polled by their cadence.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use receiptd::{
    rules::cadence::{Cadence, Cadences, Tier},
    simulator::{Fault, FaultRule, When},
};

use crate::harness::{Harness, group, simulator_config};

const OF_FAILING: &str = "receiptd.api_calls JOIN receiptd.watched_groups USING (group_key) WHERE group_id LIKE 'bad%'";

/// All retried failures of a group's calls.
fn ways() -> [Fault; 5] {
    [
        Fault::ErrorCode { code: 10002 },
        Fault::ErrorCode { code: 12345 },
        Fault::HttpStatus { status: 502 },
        Fault::CutMidBody,
        Fault::Hang { duration: Duration::from_secs(60) },
    ]
}

#[tokio::test]
async fn failing_groups_get_a_tenth_of_calls_and_delay_no_others() {
    let mut rig = Harness::stopped(simulator_config()).await;
    let tier = Tier { until: Duration::from_secs(3_600), every: Duration::from_secs(10) };
    let cadence = Cadence::by_age(vec![tier], true).unwrap();
    rig.settings.session.cadences = Arc::new(Cadences::new(BTreeMap::from([("default".to_owned(), cadence)])));
    rig.settings.session.polling.request_timeout = Duration::from_secs(2);
    rig.value::<i64>(
        "SELECT sum(receiptd.watch_messages(1400000000, 'well' || g, '{1}'))::bigint FROM generate_series(1, 1000) g",
    )
    .await;
    for number in 0..300 {
        let id = format!("bad{number}");
        rig.watch(&id, 1..=8).await;
        let (fault, when) = (ways()[number % 5].clone(), When::Group { group_id: group(&id) });
        rig.simulator.add_fault(FaultRule { fault, when, times: None });
    }
    rig.start().await;
    // On a busy machine that takes longer than the timeout of one wait.
    for known in [100, 200, 300] {
        rig.until(&format!("(SELECT count(*) FROM receiptd.poll_slots WHERE failures > 0) >= {known}")).await;
    }
    let known_at: chrono::DateTime<chrono::Utc> = rig.value("SELECT clock_timestamp()").await;
    let since = known_at.to_rfc3339();
    rig.until(&format!("(SELECT count(*) FROM {OF_FAILING} AND called_at > '{since}') >= 250")).await;
    rig.stop().await;
    let most: i64 = rig
        .value(&format!(
            "SELECT max(calls) FROM (SELECT count(*) OVER (ORDER BY called_at RANGE BETWEEN CURRENT ROW AND interval '0.999 s' FOLLOWING) AS calls
             FROM {OF_FAILING} AND called_at > '{since}') AS seconds"
        ))
        .await;
    assert!(most <= 20, "{most} failing calls within a second");
    let longest: f64 = rig
        .value(&format!(
            "SELECT max(extract(epoch FROM called_at - before))::float8 FROM (
                SELECT called_at, lag(called_at) OVER (PARTITION BY group_key ORDER BY called_at) AS before
                FROM receiptd.api_calls JOIN receiptd.watched_groups USING (group_key)
                WHERE group_id LIKE 'well%' AND called_at > '{since}') AS gaps",
        ))
        .await;
    // The cadence and 10 s.
    assert!(longest <= 20.0, "{longest} s between two polls of a group that is well");
}
