//! The simulator's own endpoints, for tests in another process.

use std::time::Duration;

use receiptd::simulator::{Fault, Latency, Simulator, SimulatorConfig};
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Caller, always, config};

#[tokio::test]
async fn faults_and_receipts_are_set_over_http_and_the_ledger_is_read() {
    let caller = Caller::start(config()).await;
    let fixed = json!({"group_id": "g", "msg_seq": 1, "read_num": 3, "unread_num": 4});
    assert_eq!(caller.control(Method::PUT, "receipts", Some(fixed)).await.status(), 204);
    let coded = json!({"group_id": "g", "msg_seq": 2, "code": 10061});
    assert_eq!(caller.control(Method::PUT, "receipts", Some(coded)).await.status(), 204);
    let rule = json!({"fault": {"kind": "error_code", "code": 10002}, "times": 1});
    assert_eq!(caller.control(Method::POST, "faults", Some(rule)).await.status(), 204);
    assert_eq!(caller.call("g", &[1, 2]).await["ErrorCode"], 10002);
    assert_eq!(caller.call("g", &[1, 2]).await["ErrorCode"], 0);

    let summary: Value = caller.control(Method::GET, "calls/2", None).await.json().await.unwrap();
    for (field, value) in [("calls", 2), ("answered", 1), ("refused", 1), ("in_flight", 0), ("messages_asked", 4)] {
        assert_eq!(summary[field], value, "{field}");
    }
    assert_eq!(summary["errors_by_code"], json!({"10002": 1}));
    assert_eq!(summary["faults_by_kind"], json!({"error_code": 1}));
    assert_eq!(summary, caller.control(Method::GET, "ledger", None).await.json::<Value>().await.unwrap());

    let mut answers: Vec<Value> = caller.control(Method::GET, "answers", None).await.json().await.unwrap();
    answers.sort_by_key(|message| message["msg_seq"].as_u64());
    let counted = json!({"code": 0, "read_num": 3, "unread_num": 4});
    let coded = json!({"code": 10061, "read_num": null, "unread_num": null});
    let message =
        |seq, last: &Value| json!({"group_id": "g", "msg_seq": seq, "changes": 1, "last": last, "receipts": [last]});
    assert_eq!(answers, [message(1, &counted), message(2, &coded)]);
}

#[tokio::test]
async fn groups_limit_latency_and_stalls_are_set_over_http() {
    let caller = Caller::start(config()).await;
    let put = |path, body| caller.control(Method::PUT, path, Some(body));
    assert_eq!(put("groups", json!({"group_id": "g", "code": 60003})).await.status(), 204);
    assert_eq!(caller.call("g", &[1]).await["ErrorCode"], 60003);
    assert_eq!(put("groups", json!({"group_id": "g", "code": 0, "members": 3})).await.status(), 204);
    assert_eq!(caller.call("g", &[1]).await["GroupMsgReceiptList"][0]["UnreadNum"], 2);
    assert_eq!(put("latency", json!({"latency": "1*50ms, 1*60ms"})).await.status(), 204);
    let began = std::time::Instant::now();
    caller.call("g", &[1]).await;
    assert!(began.elapsed() >= Duration::from_millis(50));
    assert_eq!(put("latency", json!({"latency": "soon"})).await.status(), 422);
    let stall = json!({"duration": "300ms"});
    let began = std::time::Instant::now();
    assert_eq!(caller.control(Method::POST, "stall", Some(stall)).await.status(), 204);
    assert!(began.elapsed() >= Duration::from_millis(300), "the answer to the order is held up too");
    assert_eq!(put("limit", json!({"calls_per_second": 0})).await.status(), 204);
    assert_eq!(caller.call("g", &[1]).await["ErrorCode"], 60011);
}

#[tokio::test]
async fn an_impossible_latency_is_refused() {
    assert!(Latency::mix([]).is_err());
    let latency = (Duration::from_secs(2)..=Duration::from_secs(1)).into();
    let refused = Simulator::start(SimulatorConfig { latency, ..config() }).await.unwrap_err();
    assert!(refused.to_string().contains("latencies"), "{refused}");
}

#[tokio::test]
async fn faults_are_cleared_over_http() {
    let caller = Caller::start(config()).await;
    caller.simulator.add_fault(always(Fault::NotJson));
    assert_eq!(caller.control(Method::DELETE, "faults", None).await.status(), 204);
    assert_eq!(caller.call("g", &[1]).await["ErrorCode"], 0);
}

#[tokio::test]
async fn mistaken_orders_over_http_are_refused() {
    let caller = Caller::start(config()).await;
    for body in [
        json!({"group_id": "g", "msg_seq": 1}),
        json!({"group_id": "g", "msg_seq": 1, "read_num": 1}),
        json!({"group_id": "g", "msg_seq": 1, "read_num": -1, "unread_num": 1}),
        json!({"group_id": "g", "msg_seq": 1, "code": 10062, "read_num": 1, "unread_num": 1}),
        json!({"group_id": "g", "msg_seq": 0, "code": 10062}),
    ] {
        assert_eq!(caller.control(Method::PUT, "receipts", Some(body.clone())).await.status(), 422, "{body}");
    }
    let rule = json!({"fault": {"kind": "unheard_of"}});
    assert_eq!(caller.control(Method::POST, "faults", Some(rule)).await.status(), 422);
}
