//! The simulated Chat over HTTP, with a plain client.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod control;
mod harness;

use std::time::Duration;

use receiptd::{
    domain::{Counts, Receipt},
    simulator::{Fault, FaultRule, Outcome, Simulator, SimulatorConfig, SimulatorError, When, WorldConfig},
};
use serde_json::{Value, json};

use crate::harness::{Caller, PATH, always, config, group, receipt, seq};

#[tokio::test]
async fn receipts_are_answered_and_the_ledger_knows_them() {
    let caller = Caller::start(config()).await;
    caller.simulator.world().set_receipt(&group("@TGS#1"), seq(1), Counts::new(1, 6).unwrap());
    caller.simulator.world().set_message_code(&group("@TGS#1"), seq(2), 10062);
    let body = caller.call("@TGS#1", &[1, 2]).await;
    assert_eq!(
        body,
        json!({"ActionStatus": "OK", "ErrorCode": 0, "ErrorInfo": "", "GroupMsgReceiptList": [
            {"Code": 0, "MsgSeq": 1, "ReadNum": 1, "UnreadNum": 6}, {"Code": 10062, "MsgSeq": 2},
        ]})
    );
    caller.simulator.world().set_receipt(&group("@TGS#1"), seq(1), Counts::new(2, 5).unwrap());
    caller.call("@TGS#1", &[1]).await;
    caller.call("@TGS#1", &[1]).await;
    let ledger = caller.simulator.ledger();
    assert_eq!(ledger.answers(&group("@TGS#1"), seq(1)), [receipt(1, 6), receipt(2, 5)]);
    assert_eq!(ledger.answers(&group("@TGS#1"), seq(2)), [Receipt { code: 10062, counts: None }]);
    assert_eq!((ledger.calls(), ledger.ended(Outcome::Answered), ledger.messages_asked()), (3, 3, 4));
    assert_eq!((ledger.connections(), ledger.repeated_randoms()), (1, 0), "keep-alive, and fresh randoms");
    caller.simulator.stop().await;
}

#[tokio::test]
async fn a_wrong_signature_is_refused_with_its_code_and_http_200() {
    let mut caller = Caller::start(config()).await;
    caller.user_sig = "AAAA".to_owned();
    let body = caller.call("g", &[1]).await;
    assert_eq!((&body["ActionStatus"], &body["ErrorCode"]), (&json!("FAIL"), &json!(70003)));
    assert_eq!(caller.error_count(70003), 1);
    assert_eq!(caller.simulator.ledger().ended(Outcome::Refused), 1);
}

#[tokio::test]
async fn a_bad_group_and_too_long_a_batch_are_refused() {
    let world = WorldConfig { open: false, ..WorldConfig::default() };
    let caller = Caller::start(SimulatorConfig { max_batch: Some(2), world, ..config() }).await;
    for (id, seqs, code) in
        [("g", vec![1, 2, 3], 10004), ("g", vec![1], 10010), ("@TGS#_1", vec![1], 10007), ("", vec![1], 10015)]
    {
        assert_eq!(caller.call(id, &seqs).await["ErrorCode"], code);
        assert_eq!(caller.error_count(code), 1);
    }
}

#[tokio::test]
async fn excess_calls_are_told_to_slow_down_and_count_as_arrivals() {
    let caller = Caller::start(SimulatorConfig { calls_per_second: 0, ..config() }).await;
    caller.simulator.add_fault(always(Fault::HttpStatus { status: 502 }));
    assert_eq!(caller.call("g", &[1]).await["ErrorCode"], 60011, "no fault hides the limit");
    let ledger = caller.simulator.ledger();
    assert_eq!((ledger.calls(), ledger.highest_sliding_second(), ledger.messages_asked()), (1, 1, 1));
    caller.send(9, "g", &[1]).await.unwrap();
    caller.send(9, "g", &[1]).await.unwrap();
    assert_eq!(caller.simulator.ledger().repeated_randoms(), 1, "a retry needs a fresh random too");
}

#[tokio::test]
async fn a_repeated_random_is_noticed() {
    let caller = Caller::start(config()).await;
    for random in [5, 5, 6] {
        caller.send(random, "g", &[1]).await.unwrap();
    }
    assert_eq!(caller.simulator.ledger().repeated_randoms(), 1);
}

#[tokio::test]
async fn a_wrong_path_or_method_is_no_call() {
    let caller = Caller::start(config()).await;
    let url = |path: &str| caller.simulator.endpoint() + path;
    assert_eq!(caller.client.get(url(PATH)).send().await.unwrap().status(), 405);
    assert_eq!(caller.client.post(url("/v4/other")).send().await.unwrap().status(), 404);
    let ledger = caller.simulator.ledger();
    assert_eq!((ledger.calls(), ledger.misdirected_requests()), (0, 2));
}

#[tokio::test]
async fn an_ordered_code_strikes_as_often_as_ordered() {
    let caller = Caller::start(config()).await;
    caller.simulator.add_fault(FaultRule { times: Some(2), ..always(Fault::ErrorCode { code: 10002 }) });
    let mut codes = Vec::new();
    for _ in 0..3 {
        codes.push(caller.call("g", &[1]).await["ErrorCode"].clone());
    }
    assert_eq!(codes, [10002, 10002, 0]);
    assert_eq!(caller.error_count(10002), 2);
    assert_eq!(caller.simulator.ledger().faults_by_kind()["error_code"], 2);
}

#[tokio::test]
async fn a_proxys_error_is_html() {
    let caller = Caller::start(config()).await;
    for (ordered, status) in [(502, 502), (429, 429), (100, 502), (1, 502)] {
        caller.simulator.add_fault(always(Fault::HttpStatus { status: ordered }));
        let response = caller.send(fastrand::u32(..), "g", &[1]).await.unwrap();
        assert_eq!(response.status(), status);
        assert!(response.text().await.unwrap().starts_with("<html>"));
        caller.simulator.clear_faults();
    }
}

#[tokio::test]
async fn a_connection_cut_before_the_answer_gives_no_byte() {
    let caller = Caller::start(config()).await;
    caller.simulator.add_fault(always(Fault::CutBeforeAnswer));
    assert!(caller.send(1, "g", &[1]).await.is_err());
    caller.simulator.clear_faults();
    assert_eq!(caller.call("g", &[1]).await["ErrorCode"], 0, "on a new connection");
    let ledger = caller.simulator.ledger();
    assert_eq!((ledger.ended(Outcome::Faulted), ledger.connections()), (1, 2));
}

#[tokio::test]
async fn a_cut_body_sends_head_and_half_and_counts_as_unanswered() {
    let caller = Caller::start(config()).await;
    caller.simulator.add_fault(always(Fault::CutMidBody));
    let mut response = caller.send(1, "g", &[1]).await.unwrap();
    let announced = response.content_length().unwrap();
    let half = response.chunk().await.unwrap().unwrap();
    assert!(half.starts_with(b"{\"ActionStatus\":\"OK\"") && half.len() as u64 == announced / 2);
    assert!(response.chunk().await.is_err());
    let ledger = caller.simulator.ledger();
    assert_eq!((ledger.ended(Outcome::Faulted), ledger.all_answers().count()), (1, 0));
}

#[tokio::test]
async fn spoilt_bodies_come_complete_over_http() {
    let caller = Caller::start(config()).await;
    let fault_for = |id: &str, fault| FaultRule { when: When::Group { group_id: group(id) }, ..always(fault) };
    caller.simulator.add_fault(fault_for("truncated", Fault::TruncatedJson));
    caller.simulator.add_fault(fault_for("html", Fault::NotJson));
    caller.simulator.add_fault(fault_for("large", Fault::OversizedBody { bytes: 5_000_000 }));
    for id in ["truncated", "html"] {
        let text = caller.send(fastrand::u32(..), id, &[1]).await.unwrap().text().await.unwrap();
        assert!(!text.is_empty() && serde_json::from_str::<Value>(&text).is_err(), "{text}");
    }
    let large = caller.send(fastrand::u32(..), "large", &[1]).await.unwrap().bytes().await.unwrap();
    assert!(large.len() > 5_000_000);
    assert_eq!(caller.simulator.ledger().ended(Outcome::Faulted), 3);
}

#[tokio::test]
async fn a_delayed_answer_is_a_good_one() {
    let caller = Caller::start(config()).await;
    caller.simulator.add_fault(always(Fault::ExtraDelay { duration: Duration::from_millis(1) }));
    assert_eq!(caller.call("g", &[1]).await["ErrorCode"], 0);
    let ledger = caller.simulator.ledger();
    assert_eq!((ledger.ended(Outcome::Answered), ledger.faults_by_kind()["extra_delay"]), (1, 1));
}

#[tokio::test]
async fn counts_date_from_the_arrival_of_a_call_unless_it_is_held() {
    let caller = Caller::start(config()).await;
    let set = |read| caller.simulator.world().set_receipt(&group("g"), seq(1), Counts::new(read, 9 - read).unwrap());
    for (fault, read) in [
        (Fault::ExtraDelay { duration: Duration::from_millis(300) }, 1),
        (Fault::HeldRequest { duration: Duration::from_millis(300) }, 2),
    ] {
        let kind = fault.kind();
        set(1);
        caller.simulator.add_fault(FaultRule { times: Some(1), ..always(fault) });
        let change = async {
            caller.simulator.wait_until(|ledger| ledger.faults_by_kind().contains_key(kind)).await;
            set(2);
        };
        let (body, ()) = tokio::join!(caller.call("g", &[1]), change);
        assert_eq!(body["GroupMsgReceiptList"][0]["ReadNum"], read, "{kind}");
    }
    assert_eq!(caller.simulator.ledger().answers(&group("g"), seq(1)), [receipt(1, 8), receipt(2, 7)]);
}

#[tokio::test]
async fn a_bad_message_fails_every_call_for_it_and_no_other() {
    let caller = Caller::start(config()).await;
    let when = When::Message { group_id: group("g"), msg_seq: seq(3) };
    caller.simulator.add_fault(FaultRule { when, ..always(Fault::ErrorCode { code: 10002 }) });
    for (id, seqs, code) in [("g", [1, 3], 10002), ("g", [1, 2], 0), ("other", [1, 3], 0), ("g", [3, 4], 10002)] {
        assert_eq!(caller.call(id, &seqs).await["ErrorCode"], code, "{id} {seqs:?}");
    }
    let ledger = caller.simulator.ledger();
    assert_eq!((ledger.answered_arrivals(&group("g")).len(), ledger.answered_arrivals(&group("other")).len()), (1, 1));
}

#[tokio::test]
async fn a_stall_holds_calls_back_and_lets_them_go_at_once() {
    let stall = Duration::from_millis(400);
    let caller = Caller::start(config()).await;
    caller.call("g", &[1]).await;
    caller.simulator.stall(stall);
    let began = std::time::Instant::now();
    futures::future::join_all((0..20).map(|_| caller.call("g", &[1]))).await;
    assert!(began.elapsed() >= stall);
    let arrivals = caller.simulator.ledger().arrivals()[1..].to_vec();
    assert_eq!(arrivals.len(), 20);
    assert!(arrivals[0] - caller.simulator.ledger().arrivals()[0] >= 399_000, "nothing arrives during a stall");
}

#[tokio::test]
async fn a_caller_who_goes_away_is_counted_as_abandoned() {
    let caller = Caller::start(config()).await;
    caller.simulator.add_fault(always(Fault::Hang { duration: Duration::from_secs(3600) }));
    tokio::select! {
        answer = caller.send(1, "g", &[1]) => panic!("a hanging call was answered: {answer:?}"),
        () = caller.simulator.wait_for_calls(1) => {}
    }
    caller.simulator.wait_for_ended_calls(1).await;
    let ledger = caller.simulator.ledger();
    assert_eq!((ledger.ended(Outcome::Abandoned), ledger.all_answers().count()), (1, 0));
}

#[tokio::test]
async fn stopping_cuts_a_call_that_hangs_and_frees_the_port() {
    let caller = Caller::start(config()).await;
    caller.simulator.add_fault(always(Fault::Hang { duration: Duration::from_secs(3600) }));
    let hanging = tokio::spawn(caller.request(1, "g", &[1]).send());
    caller.simulator.wait_until(|ledger| ledger.faults_by_kind().contains_key("hang")).await;
    let url = caller.simulator.endpoint() + PATH;
    caller.simulator.stop().await;
    assert!(hanging.await.unwrap().is_err());
    assert!(caller.client.post(url).send().await.unwrap_err().is_connect(), "nobody listens any more");
}

#[tokio::test]
async fn counts_rise_along_a_curve_and_the_ledger_has_every_step() {
    let world = WorldConfig { speed: 1e6, members: 50..=50, ..WorldConfig::default() };
    let caller = Caller::start(SimulatorConfig { calls_per_second: u32::MAX, world, ..config() }).await;
    let mut seen: Vec<u64> = Vec::new();
    while seen.last().is_none_or(|read| *read < 30) {
        let body = caller.call("g", &[1]).await;
        let entry = &body["GroupMsgReceiptList"][0];
        let read = entry["ReadNum"].as_u64().unwrap();
        assert_eq!(read + entry["UnreadNum"].as_u64().unwrap(), 49);
        if seen.last() != Some(&read) {
            seen.push(read);
        }
    }
    assert!(seen.is_sorted() && seen[0] == 0);
    let ledger = caller.simulator.ledger();
    let answered = ledger.answers(&group("g"), seq(1)).iter().map(|receipt| receipt.counts.unwrap().read().into());
    assert_eq!(answered.collect::<Vec<u64>>(), seen);
}

#[tokio::test]
async fn concurrent_calls_are_all_accounted_for_within_the_limit() {
    let caller = Caller::start(SimulatorConfig { calls_per_second: 20, ..config() }).await;
    let calls = (0..100).map(|_| caller.call("g", &[1, 2, 3]));
    let codes: Vec<i64> =
        futures::future::join_all(calls).await.iter().map(|body| body["ErrorCode"].as_i64().unwrap()).collect();
    assert!(codes.iter().all(|code| [0, 60011].contains(code)));
    let answered = codes.iter().filter(|code| **code == 0).count() as u64;
    let ledger = caller.simulator.ledger();
    assert_eq!((ledger.calls(), ledger.ended_calls(), ledger.ended(Outcome::Answered)), (100, 100, answered));
    assert_eq!(ledger.errors_by_code().get(&60011).copied(), Some(100 - answered));
    assert!(ledger.arrivals().is_sorted() && answered >= 20);
}

#[tokio::test]
async fn it_refuses_to_listen_where_others_could_reach_it() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9000"] {
        let refused = Simulator::start(SimulatorConfig { listen: address.parse().unwrap(), ..config() }).await;
        assert!(matches!(refused, Err(SimulatorError::NotLoopback(_))), "{address}");
    }
}

#[tokio::test]
async fn a_taken_port_and_an_impossible_world_are_said() {
    let caller = Caller::start(config()).await;
    let listen = caller.simulator.endpoint().trim_start_matches("http://").parse().unwrap();
    let taken = Simulator::start(SimulatorConfig { listen, ..config() }).await.unwrap_err();
    assert!(taken.to_string().contains("is the port taken"), "{taken}");
    let world = WorldConfig { speed: -1.0, ..WorldConfig::default() };
    let impossible = Simulator::start(SimulatorConfig { world, ..config() }).await.unwrap_err();
    assert!(impossible.to_string().contains("speed"), "{impossible}");
}
