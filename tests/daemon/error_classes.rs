//! Every error class of the service, and every kind of unusable answer, behaves as documented.

use std::time::Duration;

use receiptd::simulator::{Fault, FaultRule, When};

use crate::harness::{Harness, group, seq};

fn code(code: i32) -> Fault {
    Fault::ErrorCode { code }
}

/// The calls of the first poll of group `g`, as `class code` in order.
pub const CLASSES: &str = "SELECT string_agg(class || ' ' || coalesce(code::text, '-'), ', ' ORDER BY called_at)
    FROM (SELECT * FROM receiptd.api_calls ORDER BY called_at LIMIT $1) c";

pub async fn first_calls(rig: &Harness, count: i64) -> String {
    sqlx::query_scalar(CLASSES).bind(count).fetch_one(&rig.pool).await.unwrap()
}

pub const POLLED: &str =
    "EXISTS (SELECT FROM receiptd.receipt_history WHERE group_id = 'g' AND msg_seq = 1 AND code = 0)";

/// Fails the first `times` calls with `fault` and waits until the message is polled nevertheless.
pub async fn polled_in_spite_of(fault: Fault, times: u64) -> Harness {
    let mut rig = Harness::new().await;
    rig.fail("g", 1, fault, Some(times));
    rig.watch("g", 1..=3).await;
    rig.until(POLLED).await;
    rig
}

#[tokio::test]
async fn class_retry_10002_is_tried_again_until_it_is_answered() {
    let rig = polled_in_spite_of(code(10002), 2).await;
    assert_eq!(first_calls(&rig, 3).await, "retry 10002, retry 10002, success 0");
    let attempts: Vec<i16> = sqlx::query_scalar("SELECT attempt FROM receiptd.api_calls ORDER BY called_at LIMIT 3")
        .fetch_all(&rig.pool)
        .await
        .unwrap();
    assert_eq!(attempts, [1, 2, 3]);
    let waits: Vec<f64> = sqlx::query_scalar(
        "SELECT extract(epoch FROM called_at - lag(called_at) OVER (ORDER BY called_at))::float8 FROM receiptd.api_calls
         ORDER BY called_at LIMIT 3",
    )
    .fetch_all(&rig.pool)
    .await
    .map(|waits: Vec<Option<f64>>| waits.into_iter().flatten().collect())
    .unwrap();
    assert!(waits[0] >= 0.2 && waits[1] >= 0.4, "exponential, with a jitter of half: {waits:?}");
}

#[tokio::test]
async fn class_retry_returns_to_the_schedule_after_five_attempts() {
    let mut rig = Harness::new().await;
    rig.fail("g", 1, code(60008), Some(5));
    rig.watch("g", 1..=3).await;
    rig.until(POLLED).await;
    rig.until("(SELECT failures FROM receiptd.poll_slots) = 0").await;
    let attempts: Vec<(i16, String)> =
        sqlx::query_as("SELECT attempt, class FROM receiptd.api_calls ORDER BY called_at LIMIT 6")
            .fetch_all(&rig.pool)
            .await
            .unwrap();
    let retries = (1..=5).map(|attempt| (attempt, "retry".to_owned()));
    let next_poll = std::iter::once((1, "success".to_owned()));
    assert_eq!(attempts, retries.chain(next_poll).collect::<Vec<_>>(), "the sixth is the first of another poll");
}

#[tokio::test]
async fn class_slow_down_lowers_the_rate_of_the_app_at_once() {
    let rig = polled_in_spite_of(code(60011), 1).await;
    assert_eq!(first_calls(&rig, 2).await, "slow_down 60011, success 0");
    let rate = rig.daemon.as_ref().unwrap().status().poller().unwrap().rate();
    assert!((100..200).contains(&rate), "halved from 200, and growing back by 10 a second: {rate}");
}

/// Refuses every call with this code, waits until the daemon considers it a fault of the app, and checks that it has
/// stopped calling: new messages get a slot and no call except a probe.
async fn stops_calling(rig: &mut Harness, refusal: i32) -> String {
    rig.simulator.add_fault(FaultRule { fault: code(refusal), when: When::All, times: None });
    for number in 1..=8 {
        rig.watch(&format!("g{number}"), 1..=3).await;
    }
    let poller = loop {
        if let Some(poller) = rig.daemon.as_ref().unwrap().status().poller() {
            break poller;
        }
        tokio::task::yield_now().await;
    };
    let fault = loop {
        if let Some(fault) = poller.fault() {
            break fault;
        }
        tokio::task::yield_now().await;
    };
    let calls = rig.simulator.ledger().calls();
    rig.watch("later", 1..=3).await;
    rig.until("(SELECT count(*) FROM receiptd.watched_messages WHERE slot_id IS NULL) = 0").await;
    let probes = rig.simulator.ledger().calls() - calls;
    assert!(probes <= 12, "{probes} calls in the second after the app has stopped calling");
    assert!(calls <= 30, "{calls} calls until the app stopped calling");
    fault
}

#[tokio::test]
async fn class_wait_70050_stops_the_app_for_a_minute() {
    let mut rig = Harness::new().await;
    let fault = stops_calling(&mut rig, 70050).await;
    assert!(fault.contains("70050"), "{fault}");
}

#[tokio::test]
async fn class_sign_again_70001_makes_a_new_signature_once() {
    let rig = polled_in_spite_of(code(70001), 1).await;
    assert_eq!(first_calls(&rig, 2).await, "sign_again 70001, success 0");
}

#[tokio::test]
async fn class_sign_again_a_second_failure_is_a_credential_fault() {
    let mut rig = Harness::new().await;
    let fault = stops_calling(&mut rig, 70003).await;
    assert!(fault.contains("70003"), "{fault}");
}

#[tokio::test]
async fn class_app_fault_60021_stops_the_whole_app_and_says_why() {
    let mut rig = Harness::new().await;
    let fault = stops_calling(&mut rig, 60021).await;
    assert!(fault.contains("60021"), "{fault}");
    assert_eq!(rig.count("receiptd.poll_slots WHERE failures > 0").await, 0, "no slot is to blame");
}

#[tokio::test]
async fn the_loop_comes_round_while_no_calls_may_be_made() {
    let mut rig = Harness::new().await;
    stops_calling(&mut rig, 60021).await;
    let beats = || rig.daemon.as_ref().unwrap().status().heartbeat().beats();
    let before = beats();
    let comes_round = async {
        while beats() < before + 3 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), comes_round).await.unwrap();
}

#[tokio::test]
async fn class_group_fault_10010_quarantines_the_group_until_resumed() {
    let mut rig = Harness::new().await;
    rig.simulator.world().set_group_code(&group("g"), 10010);
    rig.watch("g", 1..=60).await;
    rig.watch("other", [1]).await;
    rig.until("(SELECT state = 'quarantined' FROM receiptd.watched_groups WHERE group_id = 'g')").await;
    let (code, reason, is_probed): (i32, String, bool) = sqlx::query_as(
        "SELECT state_code, state_reason, probe_at > now() + interval '20 hours' FROM receiptd.watched_groups WHERE group_id = 'g'",
    )
    .fetch_one(&rig.pool)
    .await
    .unwrap();
    assert_eq!((code, is_probed), (10010, true), "once a day");
    assert!(reason.contains("doesn't exist"), "{reason}");
    rig.until("(SELECT count(*) FROM receiptd.api_calls JOIN receiptd.watched_groups USING (group_key) WHERE group_id = 'other') >= 3").await;
    assert!(
        rig.count("receiptd.api_calls WHERE class = 'group_fault'").await <= 4,
        "two calls, or one for each slot under way"
    );

    rig.simulator.world().set_group_code(&group("g"), 0);
    rig.value::<bool>("SELECT receiptd.resume_group(1400000000, 'g')").await;
    rig.until(POLLED).await;
    let state: (String, Option<i32>, Option<String>) =
        sqlx::query_as("SELECT state, state_code, state_reason FROM receiptd.watched_groups WHERE group_id = 'g'")
            .fetch_one(&rig.pool)
            .await
            .unwrap();
    assert_eq!(state, ("active".into(), None, None));
}

#[tokio::test]
async fn class_group_fault_10007_is_released_by_a_good_probe() {
    let mut rig = Harness::new().await;
    rig.simulator.world().set_group_code(&group("g"), 10007);
    rig.watch("g", 1..=60).await;
    rig.until("(SELECT state = 'quarantined' AND probe_at > now() + interval '1 hour' FROM receiptd.watched_groups)")
        .await;
    rig.until("(SELECT count(*) FROM receiptd.watched_messages WHERE slot_id IS NULL) = 0").await;
    // It was refused again, and then a third time, since there is no other group to ask.
    rig.until("(SELECT count(*) = 3 FROM receiptd.api_calls)").await;
    let before = rig.simulator.ledger().calls();
    // The time of a probe has come: it fails, and the next is hours away again.
    sqlx::query("UPDATE receiptd.watched_groups SET probe_at = now()").execute(&rig.pool).await.unwrap();
    rig.until("(SELECT probe_at > now() + interval '1 hour' FROM receiptd.watched_groups)").await;
    assert_eq!(rig.simulator.ledger().calls(), before + 1, "one slot probes for all");
    // Again, and this time the group may be read.
    rig.simulator.world().set_group_code(&group("g"), 0);
    sqlx::query("UPDATE receiptd.watched_groups SET probe_at = now()").execute(&rig.pool).await.unwrap();
    rig.until("(SELECT state = 'active' FROM receiptd.watched_groups)").await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE read_num IS NOT NULL) = 60").await;
}

#[tokio::test]
async fn every_quarantined_group_due_for_a_probe_is_tried() {
    let mut rig = Harness::new().await;
    for number in 1..=120 {
        rig.watch(&format!("g{number}"), [1]).await;
    }
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE known_until IS NOT NULL) = 120").await;
    sqlx::query("UPDATE receiptd.watched_groups SET state = 'quarantined', state_code = 10007")
        .execute(&rig.pool)
        .await
        .unwrap();
    sqlx::query("UPDATE receiptd.watched_groups SET probe_at = now()").execute(&rig.pool).await.unwrap();
    rig.until("(SELECT count(*) FROM receiptd.watched_groups WHERE state = 'active') = 120").await;
}

#[tokio::test]
async fn a_probe_deferred_by_more_than_two_days_is_made_at_once() {
    let mut rig = Harness::new().await;
    for group in ["soon", "far"] {
        rig.watch(group, [1]).await;
    }
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE known_until IS NOT NULL) = 2").await;
    sqlx::query(
        "UPDATE receiptd.watched_groups SET state = 'quarantined', state_code = 10007,
            probe_at = now() + CASE group_id WHEN 'far' THEN interval '49 hours' ELSE interval '47 hours' END",
    )
    .execute(&rig.pool)
    .await
    .unwrap();
    rig.until("(SELECT state = 'active' FROM receiptd.watched_groups WHERE group_id = 'far')").await;
    assert_eq!(rig.count("receiptd.watched_groups WHERE group_id = 'soon' AND state = 'quarantined'").await, 1);
}

#[tokio::test]
async fn class_split_10004_sets_one_bad_seq_aside_and_polls_the_rest() {
    let mut rig = Harness::new().await;
    rig.fail("g", 37, code(10004), None);
    rig.watch("g", 1..=50).await;
    rig.until("(SELECT refused_since IS NOT NULL FROM receiptd.slot_messages WHERE msg_seq = 37)").await;
    // It was refused long ago, as the daemon finds at its next start.
    rig.stop().await;
    sqlx::query(
        "UPDATE receiptd.poll_slots SET no_receipt_polls = array(SELECT CASE seq WHEN 37 THEN 2 ELSE 0 END FROM unnest(msg_seqs) AS seq),
            refused_since = array(SELECT CASE seq WHEN 37 THEN now() - interval '5 minutes' END FROM unnest(msg_seqs) AS seq)
         WHERE 37 = ANY (msg_seqs)",
    )
    .execute(&rig.pool)
    .await
    .unwrap();
    sqlx::query("UPDATE receiptd.poll_slots SET next_poll_at = now()").execute(&rig.pool).await.unwrap();
    rig.start().await;
    rig.until("(SELECT state = 'rejected' FROM receiptd.watched_messages WHERE msg_seq = 37)").await;
    let rejected: (Option<i32>, Option<i64>) =
        sqlx::query_as("SELECT receipt_code, slot_id FROM receiptd.watched_messages WHERE msg_seq = 37")
            .fetch_one(&rig.pool)
            .await
            .unwrap();
    assert_eq!(rejected, (Some(10004), None));
    assert_eq!(rig.count("receiptd.latest_receipts WHERE receipt_code = 0 AND state = 'active'").await, 49);
    let refused = rig.count("receiptd.api_calls WHERE class = 'split' AND messages_asked > 1").await;
    assert!(refused <= 6, "it is halved once: {refused}");
}

#[tokio::test]
async fn class_split_10018_halves_a_batch_that_is_too_large() {
    let mut config = crate::harness::simulator_config();
    config.max_batch = Some(10);
    let mut rig = Harness::stopped(config).await;
    rig.start().await;
    rig.watch("g", 1..=40).await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE receipt_code = 0) = 40").await;
    assert_eq!(first_calls(&rig, 3).await, "split 10004, split 10004, success 0");
}

#[tokio::test]
async fn class_message_10062_is_seen_a_few_times_and_then_closed() {
    let mut rig = Harness::new().await;
    rig.simulator.world().set_message_code(&group("g"), seq(2), 10062);
    rig.watch("g", 1..=3).await;
    rig.until("(SELECT state = 'no_receipt' FROM receiptd.watched_messages WHERE msg_seq = 2)").await;
    assert_eq!(rig.count("receiptd.receipt_history WHERE msg_seq = 2").await, 1, "seen often, changed once");
    assert!(rig.simulator.ledger().calls() >= 3);
    assert_eq!(rig.count("receiptd.watched_messages WHERE state = 'active'").await, 2);
}

#[tokio::test]
async fn class_message_10062_that_was_only_early_is_polled_on() {
    let mut rig = Harness::new().await;
    rig.simulator.world().set_message_code(&group("g"), seq(1), 10061);
    rig.watch("g", 1..=3).await;
    rig.until("(SELECT no_receipt_polls >= 1 FROM receiptd.slot_messages WHERE msg_seq = 1)").await;
    rig.simulator.world().set_message_code(&group("g"), seq(1), 0);
    rig.until(POLLED).await;
    rig.until("(SELECT no_receipt_polls = 0 FROM receiptd.slot_messages WHERE msg_seq = 1)").await;
}

#[tokio::test]
async fn class_unknown_is_tried_again_and_recorded_under_its_code() {
    let rig = polled_in_spite_of(code(12345), 1).await;
    assert_eq!(first_calls(&rig, 2).await, "unknown 12345, success 0");
}

#[tokio::test]
async fn answers_that_are_none_are_tried_again() {
    for (fault, classes) in [
        (Fault::HttpStatus { status: 502 }, "retry -, success 0"),
        (Fault::NotJson, "retry -, success 0"),
        (Fault::TruncatedJson, "retry -, success 0"),
        (Fault::CutBeforeAnswer, "retry -, success 0"),
        (Fault::CutMidBody, "retry -, success 0"),
        (Fault::OversizedBody { bytes: 5 << 20 }, "retry -, success 0"),
        (Fault::FailWithoutCode, "unknown 0, success 0"),
    ] {
        let kind = fault.kind();
        let rig = polled_in_spite_of(fault, 1).await;
        assert_eq!(first_calls(&rig, 2).await, classes, "{kind}");
        let error: String = rig.value("SELECT error FROM receiptd.api_calls ORDER BY called_at LIMIT 1").await;
        assert!(!error.is_empty() && !error.contains("usersig") && !error.contains("http://"), "{kind}: {error}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_ends_with_the_timeout() {
    let mut rig = Harness::stopped(crate::harness::simulator_config()).await;
    rig.settings.session.polling.request_timeout = Duration::from_millis(300);
    rig.start().await;
    rig.fail("g", 1, Fault::Hang { duration: Duration::from_secs(3_600) }, Some(1));
    rig.watch("g", 1..=3).await;
    rig.until(POLLED).await;
    assert_eq!(first_calls(&rig, 2).await, "retry -, success 0");
    let latency: f32 = rig.value("SELECT latency_ms FROM receiptd.api_calls ORDER BY called_at LIMIT 1").await;
    assert!(latency >= 300.0, "{latency} ms");
}
