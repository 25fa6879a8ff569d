//! One call from its arrival to its answer: count it, check it, apply a fault, wait, answer, record.
//!
//! The limit comes first and applies to every attempt, so that no fault hides a client that calls too often. Faults
//! only apply to calls that are well-formed and within the limit. Receipts are read when the request arrives, or
//! later if a fault delays it; the answer may follow later. They are recorded, with the time of reading, when it
//! leaves.

use std::{io, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{ConnectInfo, Request, State},
    http::{StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
};
use fastrand::Rng;
use futures::{StreamExt, stream};

use super::{
    answer::{self, Answer, HTML},
    fault::{Fault, FaultRule},
    ledger::{Ledger, Outcome},
    refusal::Refusal,
    request::ReceiptRequest,
    service::{Reading, Service, lock},
    wire::Wire,
};

/// The API's path.
pub(super) const PATH: &str = "/v4/group_open_http_svc/get_group_msg_receipt";
/// Maximum size of a request: about 50,000 seqs, far more than an answer of 1 MB can contain.
const MAX_REQUEST_BYTES: usize = 1 << 20;

/// A call that has arrived. However its handler ends, the ledger records it exactly once.
struct CallInFlight {
    service: Arc<Service>,
    number: u64,
    /// In microseconds since the service started.
    arrival: u64,
    ended: bool,
}

impl Drop for CallInFlight {
    fn drop(&mut self) {
        if !self.ended {
            self.service.record(|ledger| ledger.record_end(Outcome::Abandoned));
        }
    }
}

/// The API: everything except a network fault is HTTP 200.
pub(super) async fn receipt_call(
    State(service): State<Arc<Service>>,
    ConnectInfo(wire): ConnectInfo<Wire>,
    request: Request,
) -> Response {
    let (number, arrival, within_limit) = service.arrive();
    let call = CallInFlight { service: service.clone(), number, arrival, ended: false };
    let (head, body) = request.into_parts();
    let body = to_bytes(body, MAX_REQUEST_BYTES).await;
    // A call above the limit is parsed too: its `random` and its messages count.
    let judged = service.judge(&head.uri, body);
    let judged = if within_limit { judged } else { Err(Refusal::TooManyCalls) };
    let rule = judged.as_ref().ok().and_then(|request| service.strike(request));
    let fault = rule.as_ref().map(|rule| &rule.fault);
    if let Some(wait) = fault.and_then(Fault::wait_before_reading) {
        service.wait(wait).await;
    }
    let read = judged.map(|request| (service.read(&request), request));
    service.wait(call.latency() + fault.map_or(Duration::ZERO, Fault::wait_before_answering)).await;
    match read {
        Ok((reading, request)) => call.answer(&request, rule.as_ref(), reading, &wire),
        Err(refusal) => call.refuse(&refusal),
    }
}

/// Any other request, answered like an HTTP server does.
pub(super) async fn misdirected(State(service): State<Arc<Service>>, uri: Uri) -> StatusCode {
    service.record(Ledger::record_misdirected);
    if uri.path() == PATH { StatusCode::METHOD_NOT_ALLOWED } else { StatusCode::NOT_FOUND }
}

impl CallInFlight {
    fn latency(&self) -> Duration {
        lock(&self.service.latency).draw(&mut Rng::with_seed(self.number))
    }

    fn end(mut self, entry: impl FnOnce(&mut Ledger)) {
        self.ended = true;
        self.service.record(entry);
    }

    fn end_faulted(self) {
        self.end(|ledger| ledger.record_end(Outcome::Faulted));
    }

    fn refuse(self, refusal: &Refusal) -> Response {
        self.end(|ledger| {
            ledger.record_error(refusal.code());
            ledger.record_end(Outcome::Refused);
        });
        json(answer::refuse(refusal).into())
    }

    fn answer(self, request: &ReceiptRequest, rule: Option<&FaultRule>, reading: Reading, wire: &Wire) -> Response {
        match rule.map(|rule| &rule.fault) {
            Some(Fault::ErrorCode { code }) => self.refuse(&Refusal::Ordered(*code)),
            Some(fault @ (Fault::HttpStatus { .. } | Fault::CutBeforeAnswer | Fault::Hang { .. })) => {
                self.end_faulted();
                spoilt(fault, Bytes::new(), wire)
            }
            _ => self.answer_with_receipts(request, rule, reading),
        }
    }

    fn answer_with_receipts(self, request: &ReceiptRequest, rule: Option<&FaultRule>, reading: Reading) -> Response {
        let cut = rule.is_some_and(|rule| rule.fault == Fault::CutMidBody);
        let arrival = self.arrival;
        let Answer { body, answered } = match reading.receipts.and_then(|receipts| answer::compose(&receipts, rule)) {
            Ok(answer) => answer,
            Err(refusal) => return self.refuse(&refusal),
        };
        self.end(|ledger| {
            if cut || answered.is_empty() {
                ledger.record_end(Outcome::Faulted);
            } else {
                ledger.record_answers(&request.group, &answered, (arrival, reading.micros));
                ledger.record_end(Outcome::Answered);
            }
        });
        if cut { half(body.into()) } else { json(body.into()) }
    }
}

/// The answer to a call that a fault of the network or the whole body applies to.
pub(super) fn spoilt(fault: &Fault, body: Bytes, wire: &Wire) -> Response {
    match fault {
        Fault::HttpStatus { status } => {
            let status = StatusCode::from_u16(*status).ok().filter(|status| !status.is_informational());
            (status.unwrap_or(StatusCode::BAD_GATEWAY), Html(HTML)).into_response()
        }
        Fault::CutBeforeAnswer | Fault::Hang { .. } => {
            wire.cut();
            StatusCode::NO_CONTENT.into_response()
        }
        Fault::NotJson => json(HTML.into()),
        Fault::TruncatedJson => json(body.slice(..body.len() / 2)),
        Fault::CutMidBody => half(body),
        _ => json(body),
    }
}

pub(super) fn json(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Announces the whole body, sends half of it and breaks the connection.
fn half(body: Bytes) -> Response {
    let first_half = stream::iter([Ok(body.slice(..body.len() / 2))]);
    let broken = stream::once(async {
        // Waiting once makes the server flush its buffer before the break.
        tokio::task::yield_now().await;
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "cut by a fault"))
    });
    let headers =
        [(header::CONTENT_TYPE, "application/json".to_owned()), (header::CONTENT_LENGTH, body.len().to_string())];
    (headers, Body::from_stream(first_half.chain(broken))).into_response()
}
