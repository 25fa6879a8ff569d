//! Webhooks: the simulated Chat reports reads as they happen, and polls confirm them.

mod listener;
mod moving;

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use receiptd::{
    clock,
    config::Listener,
    domain::{Counts, Timestamp},
    rules::webhooks::signature,
    simulator::{Delivery, Fault, FaultRule, PostKind, SimulatorConfig, WebhookConfig, When},
};

use crate::{
    common::own_address,
    discovery::last_hour,
    harness::{APP, Harness, group, seq, simulator_config},
};

/// Group, message, read count, time, previous time, previous count.
type Row = (String, i64, i32, Timestamp, Option<Timestamp>, Option<i32>);

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
    rig.settings.session.cadences = Cadences::new([("default".to_owned(), cadence)].into()).into();
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
    let time = clock::now().timestamp().to_string();
    format!("SdkAppid={APP}&contenttype=json&Sign={}&RequestTime={time}", signature(&TOKEN.into(), &time))
}

async fn post(url: &str, body: impl Into<reqwest::Body>) -> (u16, String) {
    _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::Client::new().post(url).body(body).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

fn receipts(msg_seq: i64, read: i64, unread: i64, members: usize, at: Timestamp) -> String {
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
        let (at, prior, source): (Timestamp, Timestamp, String) = sqlx::query_as(
            "SELECT polled_at, prior_polled_at, source FROM receiptd.receipt_history ORDER BY polled_at DESC LIMIT 1",
        )
        .fetch_one(&rig.pool)
        .await
        .unwrap();
        assert_eq!((at - prior, source.as_str()), (TimeDelta::milliseconds(1), "webhook"), "one reader at a time");
        assert!(at >= before - TimeDelta::milliseconds(2) && at - before < TimeDelta::seconds(5), "{at} {before}");
    }
    // All members have read it. The poll that is due anyway confirms that and closes it.
    assert_eq!(rig.value::<String>("SELECT state FROM receiptd.latest_receipts").await, "active");
    assert_eq!(rig.simulator.ledger().calls(), 1, "the first poll");
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
async fn discovery_watches_a_message_that_was_told() {
    let mut rig = listening(simulator_config()).await;
    rig.settings.session.discovery = Some(Arc::new(last_hour()));
    // Only the webhook can have reported it.
    let (fault, api) = (Fault::ErrorCode { code: 10002 }, "group_msg_get_simple".into());
    rig.simulator.add_fault(FaultRule { fault, when: When::Api { api }, times: None });
    rig.start().await;
    // Webhooks are accepted as soon as lists are read.
    rig.until("(SELECT count(*) FROM receiptd.discovery_lists WHERE listed_at IS NOT NULL) = 2").await;
    deliver(&rig, Delivery::default());
    let sent_at = rig.simulator.now();
    let sent = rig.simulator.world().post(&group("g"), sent_at, PostKind::Ordinary);
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE receipt_code = 0) = 1").await;
    let (msg_seq, stored, is_discovered): (i64, Timestamp, bool) =
        sqlx::query_as("SELECT msg_seq, sent_at, discovered_at IS NOT NULL FROM receiptd.watched_messages")
            .fetch_one(&rig.pool)
            .await
            .unwrap();
    assert_eq!((msg_seq, stored.timestamp(), is_discovered), (sent.get().into(), sent_at.timestamp(), true));
    rig.stop().await;
}

#[tokio::test]
async fn an_event_names_readers_only_where_readers_are_on() {
    let mut rig = listening(simulator_config()).await;
    for (name, on) in [("on", true), ("off", false)] {
        rig.simulator.world().set_receipt(&group(name), seq(1), Counts::new(0, 3).unwrap());
        rig.watch(name, [1]).await;
        let readers = sqlx::query("SELECT receiptd.watch_group($1, $2, readers => $3)").bind(APP).bind(name).bind(on);
        readers.execute(&rig.pool).await.unwrap();
    }
    rig.start().await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE unread_num = 3) = 2").await;
    let (url, at) = (url(&rig), clock::now() - TimeDelta::milliseconds(20));
    // The second event contains all readers so far: it doesn't say which of them has just read the message.
    for (read, members, millis) in [(1, 1, 0), (2, 2, 10)] {
        for name in ["off", "on"] {
            let body = receipts(1, read, 3 - read, members, at + TimeDelta::milliseconds(millis));
            let body = body.replace(r#""GroupId":"g""#, &format!(r#""GroupId":"{name}""#));
            let body = body.replace("canary", &format!("canary-{name}-"));
            assert_eq!(post(&format!("{url}?{}", query()), body).await.0, 200);
        }
    }
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE read_num = 2) = 2").await;
    rig.stop().await;
    let told: Vec<(String, String, i64, bool)> = sqlx::query_as(
        "SELECT group_id, member, (extract(epoch FROM read_by) * 1000)::bigint, read_after = read_by
         FROM receiptd.member_reads WHERE source = 'webhook'",
    )
    .fetch_all(&rig.pool)
    .await
    .unwrap();
    assert_eq!(told, [("on".to_owned(), "canary-on-0".to_owned(), at.timestamp_millis(), true)]);
    let named = ["canary-off".to_owned(), "canary-on-1".to_owned()];
    assert_eq!(crate::readers::search(&rig, &named).await, 0);
    assert_eq!(crate::readers::search(&rig, &["canary-on-0".to_owned()]).await, 1, "the search finds what there is");
}

/// Starts the daemon with a message of a group whose readers are on, which three members have not read.
async fn starts_with_readers(rig: &mut Harness) {
    set(rig, 1, 0, 3);
    rig.watch("g", [1]).await;
    let readers = sqlx::query("SELECT receiptd.watch_group($1, 'g', readers => true)").bind(APP);
    readers.execute(&rig.pool).await.unwrap();
    rig.start().await;
    rig.until("(SELECT unread_num = 3 FROM receiptd.latest_receipts)").await;
}

/// An event reports that one of them has read it.
async fn one_reads(rig: &mut Harness) {
    let body = receipts(1, 1, 2, 1, clock::now() - TimeDelta::milliseconds(20));
    assert_eq!(post(&format!("{}?{}", url(rig), query()), body).await.0, 200);
    rig.until("(SELECT read_num = 1 FROM receiptd.latest_receipts)").await;
}

#[tokio::test]
async fn a_locked_table_of_readers_holds_up_no_event() {
    let mut rig = listening(simulator_config()).await;
    starts_with_readers(&mut rig).await;
    let mut open = rig.pool.begin().await.unwrap();
    // As an index is built.
    sqlx::query("LOCK TABLE receiptd.message_readers IN SHARE MODE").execute(&mut *open).await.unwrap();
    one_reads(&mut rig).await;
    open.rollback().await.unwrap();
    rig.stop().await;
}

#[tokio::test]
async fn readers_in_events_are_stored_by_their_pseudonyms() {
    let mut rig = listening(simulator_config()).await;
    let key = "canary-key-of-32-characters-or-so";
    rig.settings.session.readers.naming = receiptd::rules::readers::pseudonym::Naming::Pseudonyms(key.into());
    starts_with_readers(&mut rig).await;
    one_reads(&mut rig).await;
    rig.stop().await;
    let told = "SELECT string_agg(member, ' ') FROM receiptd.member_reads WHERE source = 'webhook'";
    let member: String = rig.value(told).await;
    assert!(member.starts_with('~') && member.len() == 33, "{member}");
    assert_eq!(crate::readers::search(&rig, &["canary0".to_owned()]).await, 0);
}

#[tokio::test]
async fn lost_events_make_an_interval_and_repeated_ones_nothing() {
    let mut rig = listening(simulator_config()).await;
    set(&rig, 1, 0, 9);
    rig.start().await;
    rig.watch("g", [1]).await;
    rig.until("(SELECT unread_num = 9 FROM receiptd.latest_receipts)").await;
    let (url, now) = (url(&rig), clock::now());
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
    rig.settings.session.cadences =
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
    let history: Vec<Row> = sqlx::query_as(
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
        // An event's time is exact to the millisecond.
        let tolerance = TimeDelta::milliseconds(2);
        assert!(*prior - tolerance <= truth && truth <= *at + tolerance, "{group_id} {msg_seq}: {prior} {truth} {at}");
        exact += usize::from(*at - *prior <= TimeDelta::milliseconds(1));
    }
    assert!(exact > 150, "{exact} of {} are exact", history.len());
}

#[tokio::test]
async fn recalled_messages_are_polled_at_once_changed_groups_soon() {
    let mut rig = listening(simulator_config()).await;
    rig.start().await;
    deliver(&rig, Delivery::default());
    rig.watch("g", [1]).await;
    rig.watch("changed", [1]).await;
    rig.until("(SELECT count(*) FROM receiptd.api_calls) = 2").await;
    // As if it had been polled a while ago.
    let earlier =
        "UPDATE receiptd.poll_slots SET last_polled_at = last_polled_at - interval '30 minutes', version = version + 1
        WHERE group_key = (SELECT group_key FROM receiptd.watched_groups WHERE group_id = 'changed')";
    sqlx::query(earlier).execute(&rig.pool).await.unwrap();
    rig.simulator.world().join(&group("changed"), rig.simulator.now());
    rig.until("(SELECT count(*) FROM receiptd.api_calls) = 3").await;
    assert_eq!(rig.simulator.ledger().calls_by_group()[&group("changed")], 2);
    rig.simulator.world().recall(&group("g"), seq(1));
    // No sooner than some seconds after its last poll.
    rig.until("(SELECT count(*) FROM receiptd.api_calls) = 4").await;
    rig.simulator.world().dissolve(&group("g"));
    rig.until("(SELECT count(*) FROM receiptd.api_calls WHERE code = 10010) > 0").await;
    rig.stop().await;
}
