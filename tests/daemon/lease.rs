//! Several daemons for one app: one polls, the others stand by, and nothing is written under an old lease.

use std::time::Duration;

use receiptd::{
    daemon::status::Role,
    lifecycle::Daemon,
    simulator::{Fault, When},
};
use tokio_util::sync::CancellationToken;

use crate::harness::{APP, Harness, simulator_config};

/// Waits until a daemon has this role.
async fn until_role(daemon: &Daemon, wanted: impl Fn(&Role) -> bool) {
    let wait = async {
        while !wanted(&daemon.status().role()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let patience = Duration::from_secs(60);
    assert!(tokio::time::timeout(patience, wait).await.is_ok(), "{:?}", daemon.status().role());
}

fn stands_by(role: &Role) -> bool {
    matches!(role, Role::StandingBy(Some(_)))
}

/// As if another receiptd had taken the lease, which is impossible while this one renews it.
async fn take_the_lease_away(rig: &Harness) {
    let sql = "UPDATE receiptd.poller_leases SET epoch = epoch + 1, holder = 'another', expires_at = now() + '1 h'";
    sqlx::query(sql).execute(&rig.pool).await.unwrap();
}

#[tokio::test]
async fn a_clean_stop_hands_polling_over_within_two_seconds() {
    let mut config = simulator_config();
    config.calls_per_second = 40;
    let mut rig = Harness::stopped(config).await;
    rig.settings.session.polling.max_calls_per_second = 40;
    rig.start().await;
    for number in 1..=60 {
        rig.watch(&format!("g{number}"), [1]).await;
    }
    let mut others = vec![];
    for _ in 0..2 {
        others.push(Daemon::start(rig.settings.clone(), CancellationToken::new()).await.unwrap());
    }
    for other in &others {
        until_role(other, stands_by).await;
    }
    rig.simulator.wait_for_ended_calls(80).await;
    assert_eq!(rig.count("receiptd.poller_leases WHERE epoch = 1").await, 1);
    rig.stop().await;
    let calls = rig.simulator.ledger().calls();
    rig.simulator.wait_for_ended_calls(calls + 60).await;
    let ledger = rig.simulator.ledger();
    let gap = ledger.arrivals().windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(gap > 1_000_000, "the second that is under way is waited out: {gap} µs");
    assert!(gap < 2_000_000, "the successor polls within two seconds: {gap} µs");
    assert!(ledger.highest_sliding_second() <= 40, "{}", ledger.highest_sliding_second());
    assert!(ledger.errors_by_code().is_empty());
    for other in others {
        assert_eq!(other.stop().await, 0);
    }
    assert_eq!(rig.count("receiptd.poller_leases WHERE epoch > 1 AND holder IS NULL").await, 1, "released");
}

#[tokio::test]
async fn a_daemon_that_lost_its_lease_writes_nothing_and_stands_by() {
    let mut rig = Harness::new().await;
    rig.watch("g", 1..=3).await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE known_until IS NOT NULL) = 3").await;
    rig.simulator.add_fault(receiptd::simulator::FaultRule {
        fault: Fault::ExtraDelay { duration: Duration::from_secs(2) },
        when: When::All,
        times: None,
    });
    let calls = rig.simulator.ledger().calls();
    rig.simulator.wait_for_calls(calls + 1).await;
    take_the_lease_away(&rig).await;
    let rows = "SELECT count(*) FROM receiptd.api_calls";
    let stored: i64 = rig.value(rows).await;
    rig.simulator.wait_for_ended_calls(calls + 1).await;
    until_role(rig.daemon.as_ref().unwrap(), stands_by).await;
    let calls = rig.simulator.ledger().calls();
    rig.watch("later", 1..=3).await;
    assert_eq!(rig.daemon.take().unwrap().stop().await, 1, "the poll that was in flight is lost, and counted");
    assert_eq!(rig.value::<i64>(rows).await, stored);
    assert_eq!(rig.count("receiptd.watched_messages WHERE slot_id IS NULL").await, 3, "nobody assigned them to a slot");
    assert_eq!(rig.simulator.ledger().calls(), calls);
}

#[tokio::test]
async fn a_flush_without_the_lease_makes_the_daemon_stand_by() {
    let mut rig = Harness::new().await;
    // Polled every second each: some flush comes before the next renewal.
    for number in 1..=10 {
        rig.watch(&format!("g{number}"), [1]).await;
    }
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE known_until IS NOT NULL) = 10").await;
    take_the_lease_away(&rig).await;
    until_role(rig.daemon.as_ref().unwrap(), stands_by).await;
    sqlx::query("UPDATE receiptd.poller_leases SET holder = NULL").execute(&rig.pool).await.unwrap();
    until_role(rig.daemon.as_ref().unwrap(), |role| *role == Role::Polling).await;
    let calls = rig.simulator.ledger().calls();
    rig.simulator.wait_for_ended_calls(calls + 10).await;
    assert!(rig.daemon.take().unwrap().stop().await <= 10, "what was in flight, and no more");
}

#[tokio::test]
async fn a_lost_lease_discards_results_that_could_not_be_stored() {
    let mut rig = Harness::new().await;
    let trouble = "CREATE FUNCTION public.trouble() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'trouble' USING ERRCODE = '40001'; END $$;
        CREATE TRIGGER trouble BEFORE INSERT ON receiptd.receipt_snapshots EXECUTE FUNCTION public.trouble()";
    sqlx::raw_sql(trouble).execute(&rig.pool).await.unwrap();
    rig.watch("g", 1..=3).await;
    let daemon = rig.daemon.take().unwrap();
    while !daemon.status().storing_blocked() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    take_the_lease_away(&rig).await;
    sqlx::raw_sql("DROP TRIGGER trouble ON receiptd.receipt_snapshots").execute(&rig.pool).await.unwrap();
    until_role(&daemon, stands_by).await;
    assert!(!daemon.status().storing_blocked(), "it stands by, and would be ready");
    assert!(daemon.stop().await > 0, "what could not be stored is counted");
}

#[tokio::test]
async fn a_lease_that_stands_still_is_taken_over() {
    let mut rig = Harness::stopped(simulator_config()).await;
    let lease =
        "INSERT INTO receiptd.poller_leases VALUES ($1, 'a machine that has burnt down', 7, now(), now() + '1 s')";
    sqlx::query(lease).bind(APP).execute(&rig.pool).await.unwrap();
    rig.start().await;
    assert!(stands_by(&rig.daemon.as_ref().unwrap().status().role()));
    rig.watch("g", 1..=3).await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE known_until IS NOT NULL) = 3").await;
    assert_eq!(rig.count("receiptd.poller_leases WHERE epoch = 8").await, 1);
}

#[tokio::test]
async fn apps_that_share_a_database_are_polled_by_a_daemon_each() {
    let mut rig = Harness::new().await;
    let mut settings = rig.settings.clone();
    settings.chat.sdk_app_id = 77.try_into().unwrap();
    let other = Daemon::start(settings, CancellationToken::new()).await.unwrap();
    until_role(&other, |role| *role == Role::Polling).await;
    rig.watch("g", 1..=3).await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE known_until IS NOT NULL) = 3").await;
    assert_eq!(other.stop().await, 0);
}
