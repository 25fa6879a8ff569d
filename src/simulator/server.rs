//! One call from its arrival to its answer: count it, check it, apply a fault, wait, answer, record.
//!
//! The limit comes first and applies to every attempt, so that no fault hides a client that calls too often. Faults
//! only apply to calls that are well-formed and within the limit. Receipts are read when the request arrives, or
//! later if a fault delays it; the answer may follow later. They are recorded, with the time of reading, when it
//! leaves.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{ConnectInfo, Query, Request, State},
    http::{StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
};
use fastrand::Rng;
use futures::{StreamExt, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    SimulatorConfig, World,
    answer::{self, Answer, HTML},
    apis::APIS,
    fault::{Asked, Fault, FaultRule, FaultRules},
    latency::Latency,
    ledger::{Ledger, Outcome},
    rate::RateWindow,
    refusal::Refusal,
    request::{ReceiptRequest, RecentRandoms, check_parameters, parse_body},
    signature::Credentials,
    webhooks::{self, WebhookLedger},
    wire::{Way, Wire},
};
use crate::{
    clock,
    domain::{MsgSeq, Receipt, Timestamp},
};

/// The API's path.
pub(super) const PATH: &str = "/v4/group_open_http_svc/get_group_msg_receipt";
/// The API's name.
const RECEIPTS: &str = "get_group_msg_receipt";
/// Maximum size of a request: about 50,000 seqs, far more than an answer of 1 MB can contain.
const MAX_REQUEST_BYTES: usize = 1 << 20;

/// The part of the world that a call reads.
struct Reading {
    /// Time of reading, in microseconds since the service started.
    micros: u64,
    receipts: Result<Vec<(MsgSeq, Receipt)>, Refusal>,
}

/// What all connections share.
#[derive(Debug)]
pub(super) struct Service {
    credentials: Credentials,
    max_batch: Option<usize>,
    pub latency: Mutex<Latency>,
    stalled_until: Mutex<Option<Instant>>,
    started: Instant,
    started_at: Timestamp,
    pub rate: Mutex<RateWindow>,
    /// The limits of the other APIs, by name.
    api_rates: HashMap<&'static str, Mutex<RateWindow>>,
    randoms: Mutex<RecentRandoms>,
    pub faults: Mutex<FaultRules>,
    pub world: World,
    /// The deliveries of webhooks.
    pub webhooks: Mutex<WebhookLedger>,
    pub ledger: watch::Sender<Ledger>,
    pub stop: CancellationToken,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Way for Service {
    fn stalled_until(&self) -> Option<Instant> {
        lock(&self.stalled_until).filter(|until| *until > Instant::now())
    }

    fn record_connection(&self) {
        self.record(Ledger::record_connection);
    }
}

impl Service {
    pub fn new(config: SimulatorConfig) -> Self {
        Self {
            credentials: Credentials {
                sdk_app_id: config.sdk_app_id,
                identifier: config.identifier,
                secret_key: config.secret_key,
            },
            max_batch: config.max_batch,
            latency: Mutex::new(config.latency),
            stalled_until: Mutex::default(),
            started: Instant::now(),
            started_at: clock::now(),
            rate: Mutex::new(RateWindow::new(config.calls_per_second)),
            api_rates: APIS.iter().map(|api| (api.name, Mutex::new(RateWindow::new(api.calls_per_second)))).collect(),
            randoms: Mutex::default(),
            faults: Mutex::default(),
            world: World::new(config.world),
            webhooks: Mutex::default(),
            ledger: watch::Sender::new(Ledger::default()),
            stop: CancellationToken::new(),
        }
    }

    /// The app that it serves.
    pub fn app(&self) -> u32 {
        self.credentials.sdk_app_id.get()
    }

    /// The clock's time at the start plus the time since: it never goes back, so no count falls.
    pub fn now(&self) -> Timestamp {
        self.started_at + self.started.elapsed()
    }

    pub fn now_micros(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    pub fn stall(&self, duration: Duration) {
        let mut until = lock(&self.stalled_until);
        *until = (*until).max(Some(Instant::now() + duration));
    }

    fn record<T>(&self, entry: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut result = None;
        self.ledger.send_modify(|ledger| result = Some(entry(ledger)));
        result.unwrap_or_else(|| unreachable!("send_modify calls its closure"))
    }

    /// Records the arrival and checks the limit in one step, so that arrivals ascend.
    fn arrive(self: &Arc<Self>) -> (CallInFlight, bool) {
        let mut rate = lock(&self.rate);
        let micros = self.now_micros();
        let number = self.record(|ledger| {
            ledger.record_arrival(micros);
            ledger.calls()
        });
        let is_within_limit = self.admit(&mut rate, RECEIPTS, micros);
        (CallInFlight { service: self.clone(), number, arrival: micros, ended: false }, is_within_limit)
    }

    /// Counts a call. Webhooks tell when an API is near its limit.
    fn admit(&self, rate: &mut RateWindow, api: &str, micros: u64) -> bool {
        let is_within_limit = rate.admit(micros);
        if let Some((calls, limit)) = rate.warning(micros) {
            self.world.announce(webhooks::over_limit(api, calls, limit));
        }
        is_within_limit
    }

    /// The same for a call of another API. Returns whether it is within the limit.
    pub fn arrive_at(&self, api: &'static str) -> bool {
        let Some(rate) = self.api_rates.get(api) else { return false };
        let mut rate = lock(rate);
        let micros = self.now_micros();
        self.record(|ledger| ledger.record_arrival_at(api, micros));
        self.admit(&mut rate, api, micros)
    }

    /// Changes the limit of another API, from the next call on.
    pub fn set_api_limit(&self, api: &str, calls_per_second: u32) {
        if let Some(rate) = self.api_rates.get(api) {
            lock(rate).set_limit(calls_per_second);
        }
    }

    /// Records the end of a call of another API: with this code, or spoilt by a fault.
    pub fn end_at(&self, api: &'static str, code: Option<i32>) {
        self.record(|ledger| ledger.record_end_at(api, code));
    }

    /// The fault that applies to a call of another API.
    pub fn strike_api(&self, api: &str) -> Option<Fault> {
        let rule = lock(&self.faults).strike(&Asked::Api(api))?;
        self.record(|ledger| ledger.record_fault(rule.fault.kind()));
        Some(rule.fault)
    }

    /// Checks the URL of a call and returns `random`.
    pub fn check_url(&self, uri: &Uri) -> Result<u32, Refusal> {
        let Query(parameters) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|_| Refusal::UrlParameters("the query can't be read"))?;
        check_parameters(&parameters, &self.credentials, self.now())
    }

    fn judge(&self, uri: &Uri, body: Result<Bytes, axum::Error>) -> Result<ReceiptRequest, Refusal> {
        let random = self.check_url(uri)?;
        let body = body.map_err(|error| Refusal::Body(error.to_string()))?;
        let request = parse_body(&body, self.max_batch)?;
        let repeats = lock(&self.randoms).repeats(random, &request);
        self.record(|ledger| ledger.record_request(&request, repeats));
        Ok(request)
    }

    fn strike(&self, request: &ReceiptRequest) -> Option<FaultRule> {
        let rule = lock(&self.faults).strike(&Asked::Receipts(request))?;
        self.record(|ledger| ledger.record_fault(rule.fault.kind()));
        Some(rule)
    }

    /// Readings are in order of time, since one is made at a time.
    fn read(&self, request: &ReceiptRequest) -> Reading {
        self.record(|_| Reading {
            micros: self.now_micros(),
            receipts: self.world.receipts(&request.group, &request.seqs, self.now()),
        })
    }

    /// The latency of a call of another API.
    pub fn latency(&self) -> Duration {
        lock(&self.latency).draw(&mut Rng::new())
    }

    /// Returns early when the service stops.
    pub async fn wait(&self, duration: Duration) {
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = self.stop.cancelled() => {}
        }
    }
}

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
    let (call, within_limit) = service.arrive();
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
