//! The simulator's own endpoints under `/simulator/`, for tests in another process: read the ledger; set faults,
//! groups, receipts, the limit and the latency; block the network. Requests here are not calls.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post, put},
};
use serde::{Deserialize, Serialize};

use super::{
    fault::{
        FaultRule,
        json::{as_number, as_text},
    },
    latency::Latency,
    ledger::{Ledger, Outcome},
    service::{Service, lock},
};
use crate::domain::{Counts, GroupId, MsgSeq, Receipt};

pub(super) fn routes() -> Router<Arc<Service>> {
    Router::new()
        .route("/simulator/ledger", get(ledger))
        .route("/simulator/answers", get(answers))
        .route("/simulator/calls/{number}", get(await_calls))
        .route("/simulator/faults", post(add_fault).delete(clear_faults))
        .route("/simulator/receipts", put(set_receipt))
        .route("/simulator/groups", put(set_group))
        .route("/simulator/limit", put(set_limit))
        .route("/simulator/latency", put(set_latency))
        .route("/simulator/stall", post(stall))
}

#[derive(Serialize)]
struct Summary {
    calls: u64,
    highest_sliding_second: usize,
    calls_per_second: Vec<u32>,
    answered: u64,
    refused: u64,
    faulted: u64,
    abandoned: u64,
    in_flight: u64,
    connections: u64,
    misdirected_requests: u64,
    repeated_randoms: u64,
    groups_asked: usize,
    messages_asked: u64,
    calls_by_batch_size: BTreeMap<usize, u64>,
    errors_by_code: BTreeMap<i32, u64>,
    faults_by_kind: BTreeMap<&'static str, u64>,
}

impl From<&Ledger> for Summary {
    fn from(ledger: &Ledger) -> Self {
        Self {
            calls: ledger.calls(),
            highest_sliding_second: ledger.highest_sliding_second(),
            calls_per_second: ledger.calls_per_second(),
            answered: ledger.ended(Outcome::Answered),
            refused: ledger.ended(Outcome::Refused),
            faulted: ledger.ended(Outcome::Faulted),
            abandoned: ledger.ended(Outcome::Abandoned),
            in_flight: ledger.calls() - ledger.ended_calls(),
            connections: ledger.connections(),
            misdirected_requests: ledger.misdirected_requests(),
            repeated_randoms: ledger.repeated_randoms(),
            groups_asked: ledger.calls_by_group().len(),
            messages_asked: ledger.messages_asked(),
            calls_by_batch_size: ledger.calls_by_batch_size().clone(),
            errors_by_code: ledger.errors_by_code().clone(),
            faults_by_kind: ledger.faults_by_kind().clone(),
        }
    }
}

/// A receipt as JSON, with counts if there are any.
#[derive(Debug, Clone, Copy, Serialize)]
struct ReceiptJson {
    code: i32,
    read_num: Option<u32>,
    unread_num: Option<u32>,
}

impl From<&Receipt> for ReceiptJson {
    fn from(receipt: &Receipt) -> Self {
        let Receipt { code, counts } = *receipt;
        Self { code, read_num: counts.map(Counts::read), unread_num: counts.map(Counts::unread) }
    }
}

/// The receipts answered for one message: the number of changes, the last one and all previous ones.
#[derive(Serialize)]
struct MessageAnswers {
    #[serde(with = "as_text")]
    group_id: GroupId,
    #[serde(with = "as_number")]
    msg_seq: MsgSeq,
    changes: usize,
    last: Option<ReceiptJson>,
    receipts: Vec<ReceiptJson>,
}

/// A receipt to set: counts, or a code (0: back to its curve).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FixedReceipt {
    #[serde(with = "as_text")]
    group_id: GroupId,
    #[serde(with = "as_number")]
    msg_seq: MsgSeq,
    code: Option<i32>,
    read_num: Option<i64>,
    unread_num: Option<i64>,
}

/// A group to set: its number of members, or the code that refuses its calls (0: none).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupOrder {
    #[serde(with = "as_text")]
    group_id: GroupId,
    members: Option<u16>,
    code: Option<i32>,
}

/// Maximum number of calls in any sliding second.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitOrder {
    calls_per_second: u32,
}

/// Latency of answers, such as `10ms..30ms` or `1*20ms, 9*300ms`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LatencyOrder {
    #[serde(with = "as_text")]
    latency: Latency,
}

/// Duration of a stall.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StallOrder {
    #[serde(with = "humantime_serde")]
    duration: Duration,
}

async fn ledger(State(service): State<Arc<Service>>) -> Json<Summary> {
    Json((&*service.ledger.borrow()).into())
}

async fn answers(State(service): State<Arc<Service>>) -> Json<Vec<MessageAnswers>> {
    let ledger = service.ledger.borrow();
    let message = |(group, msg_seq, receipts): (&GroupId, MsgSeq, &[Receipt])| MessageAnswers {
        group_id: group.clone(),
        msg_seq,
        changes: receipts.len(),
        last: receipts.last().map(ReceiptJson::from),
        receipts: receipts.iter().map(ReceiptJson::from).collect(),
    };
    Json(ledger.all_answers().map(message).collect())
}

/// Answers with the summary once this many calls have ended.
async fn await_calls(
    State(service): State<Arc<Service>>,
    Path(number): Path<u64>,
) -> Result<Json<Summary>, StatusCode> {
    let mut ledger = service.ledger.subscribe();
    let stopped = || StatusCode::SERVICE_UNAVAILABLE;
    tokio::select! {
        ledger = ledger.wait_for(|ledger| ledger.ended_calls() >= number) => {
            Ok(Json((&*ledger.map_err(|_| stopped())?).into()))
        }
        () = service.stop.cancelled() => Err(stopped()),
    }
}

async fn add_fault(State(service): State<Arc<Service>>, Json(rule): Json<FaultRule>) -> StatusCode {
    lock(&service.faults).add(rule);
    StatusCode::NO_CONTENT
}

async fn clear_faults(State(service): State<Arc<Service>>) -> StatusCode {
    lock(&service.faults).clear();
    StatusCode::NO_CONTENT
}

async fn set_group(State(service): State<Arc<Service>>, Json(order): Json<GroupOrder>) -> StatusCode {
    let GroupOrder { group_id, members, code } = order;
    members.into_iter().for_each(|members| service.world.add_group(&group_id, members));
    code.into_iter().for_each(|code| service.world.set_group_code(&group_id, code));
    StatusCode::NO_CONTENT
}

async fn set_limit(State(service): State<Arc<Service>>, Json(order): Json<LimitOrder>) -> StatusCode {
    lock(&service.rate).set_limit(order.calls_per_second);
    StatusCode::NO_CONTENT
}

async fn set_latency(State(service): State<Arc<Service>>, Json(order): Json<LatencyOrder>) -> StatusCode {
    *lock(&service.latency) = order.latency;
    StatusCode::NO_CONTENT
}

/// The answer to this request is delayed too.
async fn stall(State(service): State<Arc<Service>>, Json(order): Json<StallOrder>) -> StatusCode {
    service.stall(order.duration);
    StatusCode::NO_CONTENT
}

async fn set_receipt(
    State(service): State<Arc<Service>>,
    Json(fixed): Json<FixedReceipt>,
) -> Result<StatusCode, (StatusCode, &'static str)> {
    let FixedReceipt { group_id, msg_seq, code, read_num, unread_num } = fixed;
    let refuse = |reason| (StatusCode::UNPROCESSABLE_ENTITY, reason);
    match (code, read_num, unread_num) {
        (Some(code), None, None) => service.world.set_message_code(&group_id, msg_seq, code),
        (None | Some(0), Some(read), Some(unread)) => {
            let counts =
                Counts::new(read, unread).ok_or(refuse("counts and their sum must be from 0 to 2147483647"))?;
            service.world.set_receipt(&group_id, msg_seq, counts);
        }
        _ => return Err(refuse("set either code, or read_num and unread_num")),
    }
    Ok(StatusCode::NO_CONTENT)
}
