//! Webhooks: the simulated Chat tells of reads as they happen, and polls confirm.

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

/// Group, message, read count, its time, the time before, the count before.
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
    // All have read it. The poll that is due anyway confirms and closes it.
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
    rig.settings.discovery = Some(Arc::new(last_hour()));
    // Only the webhook can tell.
    let (fault, api) = (Fault::ErrorCode { code: 10002 }, "group_msg_get_simple".into());
    rig.simulator.add_fault(FaultRule { fault, when: When::Api { api }, times: None });
    rig.start().await;
    // Webhooks are heard as soon as lists are read.
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
async fn nothing_without_a_valid_signature_is_taken() {
    let mut rig = listening(simulator_config()).await;
    set(&rig, 1, 0, 3);
    rig.start().await;
    rig.watch("g", [1]).await;
    rig.until("(SELECT unread_num = 3 FROM receiptd.latest_receipts)").await;
    let (url, body) = (url(&rig), || receipts(1, 1, 2, 1, clock::now()));
    let stranger = format!("{url}?SdkAppid={APP}&Sign=0&RequestTime={}", clock::now().timestamp());
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
    // The second event names all so far: which of them has just read the message is not told.
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

#[tokio::test]
async fn readers_in_events_are_stored_by_their_pseudonyms() {
    let mut rig = listening(simulator_config()).await;
    let key = "canary-key-of-32-characters-or-so";
    rig.settings.readers.naming = receiptd::rules::readers::pseudonym::Naming::Pseudonyms(key.into());
    set(&rig, 1, 0, 3);
    rig.watch("g", [1]).await;
    let readers = sqlx::query("SELECT receiptd.watch_group($1, 'g', readers => true)").bind(APP);
    readers.execute(&rig.pool).await.unwrap();
    rig.start().await;
    rig.until("(SELECT unread_num = 3 FROM receiptd.latest_receipts)").await;
    let body = receipts(1, 1, 2, 1, clock::now() - TimeDelta::milliseconds(20));
    assert_eq!(post(&format!("{}?{}", url(&rig), query()), body).await.0, 200);
    rig.until("(SELECT read_num = 1 FROM receiptd.latest_receipts)").await;
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
        // An event's time is told to the millisecond.
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
        "UPDATE receiptd.poll_slots SET last_polled_at = last_polled_at - interval '1 minute', version = version + 1
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

/// A handler that notes the query and body of each request.
async fn handler() -> (reqwest::Url, tokio::sync::mpsc::UnboundedReceiver<(String, String)>) {
    use axum::{Router, extract::RawQuery, routing::post};
    let (sender, received) = tokio::sync::mpsc::unbounded_channel();
    let take = move |RawQuery(query): RawQuery, body: String| async move {
        _ = sender.send((query.unwrap_or_default(), body));
    };
    let listener = tokio::net::TcpListener::bind(own_address()).await.unwrap();
    let url = format!("http://{}/tencent", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/tencent", post(take))).await });
    (url, received)
}

#[tokio::test]
async fn verified_webhooks_are_passed_on_as_they_came() {
    let mut rig = listening(simulator_config()).await;
    let (forward, mut received) = handler().await;
    rig.settings.webhooks.as_mut().unwrap().forward = Some(forward);
    rig.start().await;
    let (url, query) = (url(&rig), query());
    assert_eq!(post(&format!("{url}?SdkAppid={APP}"), "{}").await.0, 404);
    let body = r#"{"CallbackCommand":"Bot.OnC2CMessage", "Odd" : [1]}"#;
    for _ in 0..2 {
        assert_eq!(post(&format!("{url}?{query}"), body).await.0, 200);
    }
    assert_eq!(received.recv().await.unwrap(), (query, body.to_owned()));
    rig.stop().await;
    assert!(received.try_recv().is_err(), "once, and nothing without a signature");
}

#[tokio::test]
async fn a_reload_changes_token_and_certificate() {
    let place = crate::common::ScratchDirectory::new("webhooks");
    let make = |name: &str| {
        let script = r#"cd "$1" && openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj "/CN=$2" -keyout key.pem -out certificate.pem"#;
        let made = std::process::Command::new("sh").args(["-c", script, "sh"]).arg(place.path()).arg(name).output();
        assert!(made.unwrap().status.success());
    };
    make("first");
    let mut rig = listening(simulator_config()).await;
    let listener = rig.settings.webhooks.as_mut().unwrap();
    let (certificate, key) = (place.path().join("certificate.pem"), place.path().join("key.pem"));
    listener.tls = Some(receiptd::config::TlsFiles { certificate: certificate.clone(), key });
    rig.start().await;
    let url = url(&rig).replace("http://", "https://");
    let status = |token: &'static str| {
        let time = clock::now().timestamp().to_string();
        let url = format!("{url}?SdkAppid={APP}&Sign={}&RequestTime={time}", signature(&token.into(), &time));
        let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).build().unwrap();
        async move { client.post(url).body("{}").send().await.unwrap().status().as_u16() }
    };
    const NEXT: &str = "canary-token-of-another-32-letters";
    assert_eq!((status(TOKEN).await, status(NEXT).await), (200, 404));
    rig.settings.webhooks.as_mut().unwrap().tokens = vec![NEXT.into(), TOKEN.into()];
    make("second");
    let daemon = rig.daemon.as_ref().unwrap();
    daemon.reload(rig.settings.clone()).unwrap();
    assert_eq!((status(TOKEN).await, status(NEXT).await), (200, 200), "both while the console changes");
    rig.settings.webhooks.as_mut().unwrap().tokens = vec![NEXT.into()];
    std::fs::write(&certificate, "none").unwrap();
    let refusal = daemon.reload(rig.settings.clone()).unwrap_err().to_string();
    assert!(refusal.contains("webhooks.tls_certificate_file") || refusal.contains("can't be used"), "{refusal}");
    assert_eq!(status(TOKEN).await, 200, "nothing has changed");
    make("third");
    daemon.reload(rig.settings.clone()).unwrap();
    assert_eq!((status(TOKEN).await, status(NEXT).await), (404, 200));
    rig.stop().await;
}

#[tokio::test]
async fn who_stands_by_sends_webhooks_to_who_polls() {
    let mut rig = listening(simulator_config()).await;
    rig.start().await;
    let mut settings = rig.settings.clone();
    settings.webhooks.as_mut().unwrap().listen = own_address();
    let standby_url = format!("http://{}{PATH}", settings.webhooks.as_ref().unwrap().listen);
    let standby =
        receiptd::lifecycle::Daemon::start(settings, tokio_util::sync::CancellationToken::new()).await.unwrap();
    assert_eq!(post(&format!("{}?{}", url(&rig), query()), "{}").await.0, 200);
    assert_eq!(post(&format!("{standby_url}?{}", query()), "{}").await.0, 503);
    assert_eq!(post(&standby_url, "{}").await.0, 404, "strangers don't learn who polls");
    assert_eq!(standby.stop().await, 0);
    rig.stop().await;
}

/// Sends events as fast as they are answered, over a few connections. Returns the latencies.
async fn flood(url: String, connections: usize, each: usize) -> Vec<Duration> {
    let mut tasks = tokio::task::JoinSet::new();
    for connection in 0..connections {
        let url = url.clone();
        tasks.spawn(async move {
            let client = reqwest::Client::new();
            let mut latencies = vec![];
            for number in 0..each {
                let url = format!("{url}?{}", query());
                let at = clock::now() - TimeDelta::milliseconds(i64::try_from(number).unwrap());
                let body = receipts(i64::try_from(connection).unwrap() + 1, 1 + number as i64 % 100, 100, 1, at);
                let began = std::time::Instant::now();
                assert_eq!(client.post(url).body(body).send().await.unwrap().status(), 200);
                latencies.push(began.elapsed());
            }
            latencies
        });
    }
    tasks.join_all().await.into_iter().flatten().collect()
}

#[test]
fn a_flood_of_events_neither_stops_polls_nor_exceeds_the_limit() {
    // The senders have a thread of their own, as on another machine.
    let elsewhere = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let here = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (report, calls, highest, latencies) = here.block_on(async {
        let mut rig = listening(simulator_config()).await;
        rig.settings.cadences =
            receiptd::rules::cadence::Cadences::new([("default".to_owned(), crate::harness::every_second())].into())
                .into();
        rig.settings.polling.max_calls_per_second = 50;
        rig.simulator.set_calls_per_second(50);
        rig.start().await;
        for number in 1..=100 {
            rig.watch(&format!("g{number}"), 1..=5).await;
        }
        rig.watch("g", 1..=8).await;
        rig.until("(SELECT count(*) FROM receiptd.api_calls) > 100").await;
        let before = rig.simulator.ledger().calls();
        let latencies = elsewhere.spawn(flood(url(&rig), 8, 500)).await.unwrap();
        // Polls go on beside it and afterwards.
        rig.simulator.wait_for_ended_calls(before + 100).await;
        let report = rig.daemon.as_ref().unwrap().status().webhooks().unwrap().report(std::time::Instant::now());
        rig.stop().await;
        let ledger = rig.simulator.ledger();
        (report, ledger.calls() - before, ledger.highest_sliding_second(), latencies)
    });
    elsewhere.shutdown_background();
    assert_eq!((report.received, report.refused), (4_000, 0));
    assert!(calls >= 100 && highest <= 50, "{calls} calls, at most {highest} in a second");
    assert_eq!(latencies.len(), 4_000);
}
