//! What is at fault for a failed poll: one message, its slot or the service. The faulty part waits, and the rest
//! continues.

use std::time::Duration;

use receiptd::simulator::{Fault, FaultRule, When};

use crate::harness::{Harness, simulator_config};

const HOUR: Duration = Duration::from_secs(3_600);

/// The number of messages of a group with counts, and how many of these are in a slot that does not fail.
const WELL: &str = "SELECT count(*) FROM receiptd.slot_messages m JOIN receiptd.poll_slots USING (group_key, slot_id)
    JOIN receiptd.watched_groups g USING (group_key)
    WHERE g.group_id = 'g' AND m.read_num IS NOT NULL AND failures = 0";

/// A daemon with a group of good messages, so that others are answered.
async fn rig() -> Harness {
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.settings.session.polling.request_timeout = Duration::from_millis(1_500);
    rig.start().await;
    rig.watch("other", 1..=3).await;
    rig
}

/// Watches messages of which some make their calls fail, and waits until all others have counts and are polled on.
async fn others_go_on(fault: Fault, messages: i64, bad: &[i64]) -> Harness {
    let mut rig = rig().await;
    bad.iter().for_each(|seq| rig.fail("g", *seq, fault.clone(), None));
    rig.watch("g", 1..=messages).await;
    let well = messages - i64::try_from(bad.len()).unwrap();
    rig.until(&format!("({WELL}) = {well}")).await;
    let list = bad.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    // Each faulty message waits in its own slot, which has failed.
    rig.until(&format!(
        "(SELECT count(DISTINCT slot_id) = {} AND min(failures) >= 3 FROM receiptd.watched_messages
            JOIN receiptd.watched_groups USING (group_key) JOIN receiptd.poll_slots USING (group_key, slot_id)
            WHERE group_id = 'g' AND msg_seq IN ({list}))",
        bad.len()
    ))
    .await;
    rig
}

fn code(code: i32) -> Fault {
    Fault::ErrorCode { code }
}

#[tokio::test]
async fn one_message_failing_with_10002_does_not_hold_up_the_others() {
    let rig = others_go_on(code(10002), 16, &[7]).await;
    assert_eq!(rig.count("receiptd.watched_messages WHERE state <> 'active'").await, 0);
    assert_eq!(rig.count("receiptd.api_calls WHERE messages_asked = 1 AND attempt = 1 AND class = 'retry'").await, 0);
}

#[tokio::test]
async fn one_message_failing_with_502_does_not_hold_up_the_others() {
    others_go_on(Fault::HttpStatus { status: 502 }, 16, &[1]).await;
}

#[tokio::test]
async fn one_message_whose_call_hangs_does_not_hold_up_the_others() {
    others_go_on(Fault::Hang { duration: HOUR }, 16, &[16]).await;
}

#[tokio::test]
async fn one_message_whose_body_is_cut_does_not_hold_up_the_others() {
    others_go_on(Fault::CutMidBody, 16, &[4]).await;
}

#[tokio::test]
async fn one_message_with_an_unknown_code_does_not_hold_up_the_others() {
    others_go_on(code(12345), 16, &[9]).await;
}

#[tokio::test]
async fn two_bad_messages_are_each_deferred_alone() {
    others_go_on(code(10002), 50, &[1, 50]).await;
}

#[tokio::test]
async fn a_bad_message_is_found_without_another_group() {
    let mut rig = Harness::new().await;
    rig.fail("g", 3, code(10002), None);
    rig.watch("g", 1..=5).await;
    rig.until(&format!("({WELL}) = 4")).await;
}

#[tokio::test]
async fn a_message_that_works_again_is_polled_with_the_others_again() {
    let mut rig = others_go_on(code(10002), 16, &[7]).await;
    rig.simulator.clear_faults();
    rig.until(&format!("({WELL}) = 16")).await;
    rig.until("(SELECT count(*) FROM receiptd.poll_slots JOIN receiptd.watched_groups USING (group_key) WHERE group_id = 'g') = 1")
        .await;
    let late: bool = rig
        .value("SELECT bool_and(prior_polled_at IS NULL) FROM receiptd.receipt_history WHERE group_id = 'g' AND msg_seq = 7")
        .await;
    assert!(late, "nothing was known of it before");
}

#[tokio::test]
async fn new_messages_do_not_join_a_slot_that_fails() {
    let mut rig = others_go_on(code(10002), 16, &[7]).await;
    rig.watch("g", 17..=20).await;
    rig.until(&format!("({WELL}) = 19")).await;
    let alone: i64 = rig
        .value(
            "SELECT count(*) FROM receiptd.watched_messages WHERE (group_key, slot_id) IN (
                SELECT group_key, slot_id FROM receiptd.watched_messages m JOIN receiptd.watched_groups USING (group_key)
                WHERE group_id = 'g' AND msg_seq = 7)",
        )
        .await;
    assert_eq!(alone, 1);
}

#[tokio::test]
async fn a_failing_group_is_asked_less_often_while_others_answer() {
    let mut rig = rig().await;
    (1..=5).for_each(|seq| rig.fail("g", seq, code(10002), None));
    rig.watch("g", 1..=5).await;
    rig.until("(SELECT max(failures) FROM receiptd.poll_slots) >= 4").await;
    let (slots, wait): (i64, f64) = sqlx::query_as(
        "SELECT count(*), extract(epoch FROM max(next_poll_at) - now())::float8 FROM receiptd.poll_slots
         JOIN receiptd.watched_groups USING (group_key) WHERE group_id = 'g'",
    )
    .fetch_one(&rig.pool)
    .await
    .unwrap();
    assert_eq!(slots, 1, "no message of it is at fault");
    assert!(wait > 5.0, "it is due in {wait} s, and not after its cadence of a second");
}

#[tokio::test]
async fn failing_messages_that_are_long_past_their_end_are_expired() {
    let mut rig = rig().await;
    (1..=3).for_each(|seq| rig.fail("g", seq, code(10002), None));
    sqlx::query("SELECT receiptd.watch_messages($1, 'g', ARRAY[1, 2, 3], now() - interval '40 days')")
        .bind(crate::harness::APP)
        .execute(&rig.pool)
        .await
        .unwrap();
    rig.until("(SELECT count(*) FROM receiptd.watched_messages WHERE state = 'expired') = 3").await;
    let calls = rig.count("receiptd.api_calls WHERE class = 'retry'").await;
    assert!(calls <= 15, "{calls} calls in three polls");
}

#[tokio::test]
async fn a_message_that_is_refused_once_is_not_closed_and_waits_alone() {
    let mut rig = rig().await;
    rig.fail("g", 3, code(10004), None);
    rig.watch("g", 1..=5).await;
    rig.until(&format!("({WELL}) = 4")).await;
    rig.until("(SELECT no_receipt_polls >= 2 AND refused_since IS NOT NULL FROM receiptd.slot_messages WHERE msg_seq = 3 AND group_key = (SELECT group_key FROM receiptd.watched_groups WHERE group_id = 'g'))").await;
    assert_eq!(rig.count("receiptd.watched_messages WHERE state <> 'active'").await, 0);
    rig.simulator.clear_faults();
    rig.until(&format!("({WELL}) = 5")).await;
    assert_eq!(rig.count("receiptd.slot_messages WHERE refused_since IS NOT NULL").await, 0);
}

#[tokio::test]
async fn a_minute_in_which_everything_is_refused_closes_no_message() {
    let mut rig = rig().await;
    rig.simulator.add_fault(FaultRule { fault: code(10004), when: When::All, times: None });
    rig.watch("g", 1..=4).await;
    rig.simulator.wait_until(|ledger| ledger.errors_by_code().get(&10004) >= Some(&14)).await;
    rig.simulator.clear_faults();
    rig.until(&format!("({WELL}) = 4")).await;
    rig.until("(SELECT count(*) FROM receiptd.slot_messages WHERE no_receipt_polls > 0) = 0").await;
    assert_eq!(rig.count("receiptd.watched_messages WHERE state <> 'active'").await, 0);
}

/// A daemon whose service accepts 20 messages per call, with a group of 60.
async fn limited() -> Harness {
    let mut config = simulator_config();
    config.max_batch = Some(20);
    let mut rig = Harness::stopped(config).await;
    rig.start().await;
    rig.watch("g", 1..=60).await;
    rig.until(&format!("({WELL}) = 60")).await;
    rig
}

const LIMIT_IS_KNOWN: &str = "(SELECT batch_taken = 20 AND batch_refused = 21 FROM receiptd.poller_leases)";

#[tokio::test]
async fn a_known_batch_limit_is_remembered_and_splits_slots() {
    let mut rig = limited().await;
    rig.until(LIMIT_IS_KNOWN).await;
    rig.until("(SELECT max(messages) <= 20 FROM (SELECT count(*) AS messages FROM receiptd.watched_messages GROUP BY slot_id) s)")
        .await;
    assert_eq!(rig.count("receiptd.watched_messages WHERE state = 'active'").await, 60, "none is at fault");
    // A successor knows the limit.
    rig.stop().await;
    let known: i64 = rig.count("receiptd.api_calls").await;
    rig.start().await;
    rig.watch("later", 1..=50).await;
    rig.until(&format!("(SELECT count(*) FROM receiptd.api_calls) >= {known} + 12")).await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE read_num IS NOT NULL) = 110").await;
    rig.stop().await;
    let refused: i64 = rig
        .value(&format!(
            "SELECT count(*) FILTER (WHERE class = 'split')
             FROM (SELECT class FROM receiptd.api_calls ORDER BY called_at OFFSET {known}) c"
        ))
        .await;
    assert_eq!(refused, 0);
}

#[tokio::test]
async fn one_bad_message_is_not_taken_for_a_small_limit() {
    let mut rig = rig().await;
    rig.fail("g", 3, code(10004), None);
    rig.watch("g", 1..=30).await;
    rig.until(&format!("({WELL}) = 29")).await;
    assert_eq!(rig.count("receiptd.poller_leases WHERE batch_taken IS NOT NULL").await, 0);
    assert_eq!(rig.daemon.as_ref().unwrap().status().poller().unwrap().batch_size(), 50);
}
