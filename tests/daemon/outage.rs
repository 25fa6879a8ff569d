//! During an outage of the service few calls are made; afterwards everything overdue is polled soon.

use std::time::{Duration, Instant};

use receiptd::{
    chat::Destination,
    simulator::{Fault, FaultRule, Simulator, When},
};

use crate::harness::{APP, Harness, simulator_config};

const GROUPS: i64 = 3_000;

/// A daemon with thousands of slots, none ever answered, while every call fails.
async fn out(fault: Fault) -> Harness {
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.settings.session.polling.request_timeout = Duration::from_millis(1_500);
    rig.simulator.add_fault(FaultRule { fault, when: When::All, times: None });
    watch_thousands(&rig).await;
    rig.start().await;
    is_out(&rig).await;
    rig
}

async fn watch_thousands(rig: &Harness) {
    sqlx::query("SELECT receiptd.watch_messages($1, 'g' || n, ARRAY[1]) FROM generate_series(1, $2) n")
        .bind(APP)
        .bind(GROUPS)
        .execute(&rig.pool)
        .await
        .unwrap();
}

async fn is_out(rig: &Harness) {
    let status = rig.daemon.as_ref().unwrap().status();
    while status.poller().is_none_or(|poller| poller.outage().is_none()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(status.poller().unwrap().fault(), None);
}

/// Waits for this number of additional calls. Returns the calls per second.
async fn rate_of(rig: &Harness, calls: u64) -> f64 {
    let (first, start) = (rig.simulator.ledger().calls(), Instant::now());
    rig.simulator.wait_until(|ledger| ledger.calls() >= first + calls).await;
    calls as f64 / start.elapsed().as_secs_f64()
}

/// The service answers again: all groups are polled, and the outage is over.
async fn answers_again(mut rig: Harness) {
    let poller = rig.daemon.as_ref().unwrap().status().poller().unwrap();
    rig.simulator.clear_faults();
    rig.until(&format!("(SELECT count(known_until) = {GROUPS} FROM receiptd.latest_receipts)")).await;
    assert_eq!((poller.outage(), poller.rate()), (None, 200));
    assert_eq!(rig.count("receiptd.watched_groups WHERE state <> 'active'").await, 0);
    assert_eq!(rig.count("receiptd.watched_messages WHERE state <> 'active'").await, 0);
    rig.stop().await;
}

async fn costs_few_calls(fault: Fault) {
    let rig = out(fault).await;
    // Calls in flight when it was noticed end first: at most a second's calls, and some more on a busy machine.
    let mut calls = 0;
    while rate_of(&rig, 5).await >= 4.0 {
        calls += 5;
        assert!(calls < 500, "{calls} calls after it was known");
    }
    let rate = rate_of(&rig, 15).await;
    assert!(rate < 4.0, "{rate} calls a second");
    let trouble = rig.daemon.as_ref().unwrap().status().trouble();
    assert!(trouble.as_ref().is_some_and(|said| said.contains("is not answering calls")), "{trouble:?}");
    answers_again(rig).await;
}

#[tokio::test]
async fn thousands_of_slots_cost_few_calls_while_all_get_a_502() {
    costs_few_calls(Fault::HttpStatus { status: 502 }).await;
}

#[tokio::test]
async fn thousands_of_slots_cost_few_calls_while_all_get_10002() {
    costs_few_calls(Fault::ErrorCode { code: 10002 }).await;
}

#[tokio::test]
async fn thousands_of_slots_cost_few_calls_while_all_calls_hang() {
    costs_few_calls(Fault::Hang { duration: Duration::from_secs(3_600) }).await;
}

#[tokio::test]
async fn thousands_of_slots_resume_soon_after_refused_connections() {
    let mut rig = Harness::stopped(simulator_config()).await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    rig.settings.chat.destination = Destination::Endpoint(format!("http://{address}"));
    watch_thousands(&rig).await;
    rig.start().await;
    is_out(&rig).await;
    // Calls in flight when it was noticed end first.
    let mut rate = f64::MAX;
    for _ in 0..50 {
        let (first, start) = (rig.count("receiptd.api_calls").await, Instant::now());
        rig.until(&format!("(SELECT count(*) FROM receiptd.api_calls) >= {}", first + 10)).await;
        rate = 10.0 / start.elapsed().as_secs_f64();
        if rate < 4.0 {
            break;
        }
    }
    assert!(rate < 4.0, "{rate} calls a second");
    let mut config = simulator_config();
    config.listen = address;
    rig.simulator = Simulator::start(config).await.unwrap();
    answers_again(rig).await;
}
