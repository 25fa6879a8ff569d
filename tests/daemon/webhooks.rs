//! Webhooks: the simulated Chat tells of reads as they happen, and polls confirm.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use receiptd::{
    config::Listener,
    domain::Counts,
    rules::webhooks::signature,
    simulator::{Delivery, SimulatorConfig, WebhookConfig},
};

use crate::{
    common::own_address,
    harness::{APP, Harness, group, seq, simulator_config},
};

const TOKEN: &str = "canary-token-of-thirty-two-letters";
const PATH: &str = "/canary-path";

/// A daemon that polls every message once an hour after its first poll, and listens for webhooks.
async fn listening(simulator: SimulatorConfig) -> Harness {
    let mut rig = Harness::stopped(simulator).await;
    rig.settings.webhooks = Some(Listener {
        listen: own_address(),
        path: PATH.into(),
        tokens: vec![TOKEN.into()],
        tls: None,
        forward: None,
    });
    rarely(&mut rig);
    rig
}

fn rarely(rig: &mut Harness) {
    use receiptd::rules::cadence::{Cadence, Cadences, Tier};
    let hour = Duration::from_secs(3_600);
    let cadence = Cadence::by_age(vec![Tier { until: hour * 24, every: hour }], true).unwrap();
    rig.settings.cadences = Cadences::new([("default".to_owned(), cadence)].into()).into();
}

fn url(rig: &Harness) -> String {
    format!("http://{}{PATH}", rig.settings.webhooks.as_ref().unwrap().listen)
}

fn deliver(rig: &Harness, delivery: Delivery) {
    let config = WebhookConfig { url: url(rig), token: TOKEN.into(), delivery };
    rig.simulator.send_webhooks(config);
}

fn set(rig: &Harness, msg_seq: i64, read: i64, unread: i64) {
    rig.simulator.world().set_receipt(&group("g"), seq(msg_seq), Counts::new(read, unread).unwrap());
}

/// A query with a valid signature.
fn query() -> String {
    let time = Utc::now().timestamp().to_string();
    format!("SdkAppid={APP}&contenttype=json&Sign={}&RequestTime={time}", signature(&TOKEN.into(), &time))
}

async fn post(url: &str, body: impl Into<reqwest::Body>) -> (u16, String) {
    _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::Client::new().post(url).body(body).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

fn receipts(msg_seq: i64, read: i64, unread: i64, members: usize, at: DateTime<Utc>) -> String {
    let readers: Vec<String> = (0..members).map(|member| format!(r#"{{"Member_Account":"canary{member}"}}"#)).collect();
    format!(
        r#"{{"CallbackCommand":"Group.CallbackAfterReadReceipt","GroupId":"g","Type":"Public","GroupMsgReceiptList":[
        {{"MsgSeq":{msg_seq},"ReadNum":{read},"UnreadNum":{unread},"ReadReceiptMembers":[{}]}}],"EventTime":"{}"}}"#,
        readers.join(","),
        at.timestamp_millis()
    )
}

#[tokio::test]
async fn a_read_is_recorded_when_it_happens() {
    let mut rig = listening(simulator_config()).await;
    set(&rig, 1, 0, 3);
    rig.start().await;
    deliver(&rig, Delivery::default());
    rig.watch("g", [1]).await;
    rig.until("(SELECT unread_num = 3 FROM receiptd.latest_receipts)").await;
    for read in 1..=3 {
        let before = rig.simulator.now();
        set(&rig, 1, read, 3 - read);
        rig.until(&format!("(SELECT read_num = {read} FROM receiptd.latest_receipts)")).await;
        let (at, prior, source): (DateTime<Utc>, DateTime<Utc>, String) = sqlx::query_as(
            "SELECT polled_at, prior_polled_at, source FROM receiptd.receipt_history ORDER BY polled_at DESC LIMIT 1",
        )
        .fetch_one(&rig.pool)
        .await
        .unwrap();
        assert_eq!((at - prior, source.as_str()), (TimeDelta::milliseconds(1), "webhook"), "one reader at a time");
        assert!(at >= before - TimeDelta::milliseconds(2) && at - before < TimeDelta::seconds(5), "{at} {before}");
    }
    // All have read it: a poll confirms and closes it.
    rig.until("(SELECT state = 'all_read' FROM receiptd.latest_receipts)").await;
    assert_eq!(rig.simulator.ledger().calls(), 2, "the first poll, and the one that confirms");
    let exact: bool = rig
        .value(
            "SELECT first_read_by - first_read_after = interval '1 ms' AND all_read_by - all_read_after = interval '1 ms'
             FROM receiptd.message_milestones",
        )
        .await;
    assert!(exact);
    rig.stop().await;
    assert_eq!(rig.simulator.webhooks().answered, 3);
}

#[tokio::test]
async fn nothing_without_a_valid_signature_is_taken() {
    let mut rig = listening(simulator_config()).await;
    set(&rig, 1, 0, 3);
    rig.start().await;
    rig.watch("g", [1]).await;
    rig.until("(SELECT unread_num = 3 FROM receiptd.latest_receipts)").await;
    let (url, body) = (url(&rig), || receipts(1, 1, 2, 1, Utc::now()));
    let stranger = format!("{url}?SdkAppid={APP}&Sign=0&RequestTime={}", Utc::now().timestamp());
    let twice = format!("{url}?{0}&{0}", query());
    let elsewhere = format!("{url}/?{}", query());
    for refused in [url.clone(), stranger, twice, elsewhere] {
        assert_eq!(post(&refused, body()).await, (404, String::new()), "{refused}");
    }
    for odd in ["", "[]", "{}", r#"{"CallbackCommand":"Group.CallbackAfterSendMsg"}"#] {
        let (status, answer) = post(&format!("{url}?{}", query()), odd).await;
        assert_eq!((status, answer.contains(r#""ActionStatus":"OK""#)), (200, true), "{odd}");
    }
    let (status, _) = post(&format!("{url}?{}", query()), vec![b' '; 100_000]).await;
    assert_eq!(status, 200, "what is too large is dropped");
    let report = rig.daemon.as_ref().unwrap().status().webhooks().unwrap().report(std::time::Instant::now());
    assert_eq!((report.received, report.refused, report.told), (5, 4, 0));
    assert!(report.dropped == 3, "{report:?}");
    assert_eq!(post(&format!("{url}?{}", query()), body()).await.0, 200);
    rig.until("(SELECT read_num = 1 FROM receiptd.latest_receipts)").await;
    rig.stop().await;
    let stored = rig.database.psql("SELECT * FROM receiptd.receipt_history; SELECT * FROM receiptd.poll_slots");
    assert!(!stored.contains("canary"), "nothing of members is kept: {stored}");
}

#[tokio::test]
async fn lost_events_make_an_interval_and_repeated_ones_nothing() {
    let mut rig = listening(simulator_config()).await;
    set(&rig, 1, 0, 9);
    rig.start().await;
    rig.watch("g", [1]).await;
    rig.until("(SELECT unread_num = 9 FROM receiptd.latest_receipts)").await;
    let (url, now) = (url(&rig), Utc::now());
    let at = |millis| now + TimeDelta::milliseconds(millis);
    // The second event is lost; the third and fourth overtake each other, and the last is sent three times.
    for (read, millis) in [(1, 0), (4, 3), (3, 2), (4, 3), (4, 3)] {
        let body = receipts(1, read, 9 - read, 1, at(millis - 20));
        assert_eq!(post(&format!("{url}?{}", query()), body).await.0, 200);
    }
    rig.until("(SELECT read_num = 4 FROM receiptd.latest_receipts)").await;
    rig.stop().await;
    let history: Vec<(i32, bool)> = sqlx::query_as(
        "SELECT read_num, polled_at - prior_polled_at <= interval '1 ms' FROM receiptd.receipt_history
         WHERE source = 'webhook' ORDER BY polled_at",
    )
    .fetch_all(&rig.pool)
    .await
    .unwrap();
    let milliseconds = |read: i32| history.iter().find(|row| row.0 == read).map(|row| row.1);
    assert_eq!(history.len(), 3, "{history:?}");
    assert_eq!((milliseconds(1), milliseconds(4)), (Some(true), Some(true)), "{history:?}");
}

#[tokio::test]
async fn whatever_happens_to_webhooks_the_history_is_true() {
    let mut config = simulator_config();
    config.world.median_reading_time = Duration::from_secs(4);
    let mut rig = listening(config).await;
    rig.settings.cadences =
        receiptd::rules::cadence::Cadences::new([("default".to_owned(), crate::harness::every_second())].into()).into();
    rig.start().await;
    let delivery = Delivery { lost: 0.1, late: 0.1, doubled: 0.2, disordered: 0.3, wrongly_signed: 0.05 };
    deliver(&rig, delivery);
    for number in 1..=5 {
        rig.watch(&format!("g{number}"), 1..=10).await;
    }
    rig.until("(SELECT count(*) FROM receiptd.receipt_snapshots WHERE is_webhook) > 300").await;
    rig.until(
        "(SELECT count(*) FROM receiptd.receipt_snapshots WHERE NOT is_webhook AND prior_read_num < read_num) > 20",
    )
    .await;
    rig.stop().await;
    let history: Vec<(String, i64, i32, DateTime<Utc>, Option<DateTime<Utc>>, Option<i32>)> = sqlx::query_as(
        "SELECT group_id, msg_seq, read_num, polled_at, prior_polled_at, prior_read_num FROM receiptd.receipt_history
         ORDER BY group_id, msg_seq, polled_at",
    )
    .fetch_all(&rig.pool)
    .await
    .unwrap();
    let (mut last, mut exact) = (None, 0);
    for (group_id, msg_seq, read, at, prior, prior_read) in &history {
        let key = (group_id.clone(), *msg_seq);
        let before = last.as_ref().filter(|(of, _)| *of == key).map(|(_, read)| *read);
        assert_eq!(before, *prior_read, "each row continues from the one before: {key:?}");
        assert!(before.is_none_or(|before| before < *read), "counts only rise: {key:?} {before:?} {read}");
        last = Some((key, *read));
        let (Some(prior), Ok(count)) = (prior, u32::try_from(*read)) else { continue };
        let truth = rig.simulator.world().read_at(&group(group_id), seq(*msg_seq), count).unwrap();
        // An event's time is told to the millisecond.
        let tolerance = TimeDelta::milliseconds(2);
        assert!(*prior - tolerance <= truth && truth <= *at + tolerance, "{group_id} {msg_seq}: {prior} {truth} {at}");
        exact += usize::from(*at - *prior <= TimeDelta::milliseconds(1));
    }
    assert!(exact > 150, "{exact} of {} are exact", history.len());
}

#[tokio::test]
async fn a_recalled_message_is_polled_at_once() {
    let mut rig = listening(simulator_config()).await;
    rig.start().await;
    deliver(&rig, Delivery::default());
    rig.watch("g", [1]).await;
    rig.until("(SELECT count(*) FROM receiptd.api_calls) = 1").await;
    let body = serde_json::json!({
        "CallbackCommand": "Group.CallbackAfterRecallMsg", "GroupId": "g", "MsgSeqList": [{ "MsgSeq": 1 }],
    });
    rig.simulator.world().announce(body);
    // No sooner than some seconds after its last poll.
    rig.until("(SELECT count(*) FROM receiptd.api_calls) = 2").await;
    let body = serde_json::json!({ "CallbackCommand": "Group.CallbackAfterGroupDestroyed", "GroupId": "g" });
    rig.simulator.world().announce(body);
    rig.until("(SELECT count(*) FROM receiptd.api_calls) = 3").await;
    rig.stop().await;
}
