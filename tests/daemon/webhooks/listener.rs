//! The listener for webhooks: signatures, passing on, reloads, a standby, and a flood.

use std::time::Duration;

use chrono::TimeDelta;
use receiptd::{clock, rules::webhooks::signature};

use super::{PATH, TOKEN, listening, post, query, receipts, set, url};
use crate::{
    common::own_address,
    harness::{APP, simulator_config},
};

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
async fn webhooks_passed_on_to_receiptd_itself_come_back_once() {
    let mut rig = listening(simulator_config()).await;
    let itself = url(&rig);
    rig.settings.webhooks.as_mut().unwrap().forward = Some(itself.parse().unwrap());
    rig.start().await;
    let received = |rig: &crate::harness::Harness| {
        rig.daemon.as_ref().unwrap().status().webhooks().unwrap().report(std::time::Instant::now()).received
    };
    for number in 1..=3 {
        let body = format!(r#"{{"CallbackCommand":"Bot.OnC2CMessage","Number":{number}}}"#);
        assert_eq!(post(&format!("{itself}?{}", query()), body).await.0, 200);
        while received(&rig) < 2 * number {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(received(&rig), 6);
    rig.stop().await;
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
    daemon.reload(&rig.settings).unwrap();
    assert_eq!((status(TOKEN).await, status(NEXT).await), (200, 200), "both while the console changes");
    rig.settings.webhooks.as_mut().unwrap().tokens = vec![NEXT.into()];
    std::fs::write(&certificate, "none").unwrap();
    let refusal = daemon.reload(&rig.settings).unwrap_err().to_string();
    assert!(refusal.contains("webhooks.tls_certificate_file") || refusal.contains("can't be used"), "{refusal}");
    assert_eq!(status(TOKEN).await, 200, "nothing has changed");
    make("third");
    daemon.reload(&rig.settings).unwrap();
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
        rig.settings.session.cadences =
            receiptd::rules::cadence::Cadences::new([("default".to_owned(), crate::harness::every_second())].into())
                .into();
        rig.settings.session.polling.max_calls_per_second = 50;
        rig.simulator.set_calls_per_second(50);
        rig.start().await;
        for number in 1..=100 {
            rig.watch(&format!("g{number}"), 1..=5).await;
        }
        rig.watch("g", 1..=8).await;
        rig.until("(SELECT count(*) FROM receiptd.api_calls) > 100").await;
        let before = rig.simulator.ledger().calls();
        let latencies = elsewhere.spawn(flood(url(&rig), 8, 500)).await.unwrap();
        // Polls continue meanwhile and afterwards.
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
