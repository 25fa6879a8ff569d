//! The state of the service, which all connections share, and what a call does to it: its arrival, its limit, the
//! faults that strike it, and its reading of the world.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{body::Bytes, extract::Query, http::Uri};
use fastrand::Rng;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    apis::APIS,
    config::SimulatorConfig,
    fault::{Asked, Fault, FaultRule, FaultRules},
    latency::Latency,
    ledger::Ledger,
    rate::RateWindow,
    refusal::Refusal,
    request::{ReceiptRequest, RecentRandoms, check_parameters, parse_body},
    signature::Credentials,
    webhooks::{self, WebhookLedger},
    wire::Way,
    world::World,
};
use crate::{
    clock,
    domain::{MsgSeq, Receipt, Timestamp},
};

/// The API's name.
const RECEIPTS: &str = "get_group_msg_receipt";
/// The part of the world that a call reads.
pub(super) struct Reading {
    /// Time of reading, in microseconds since the service started.
    pub micros: u64,
    pub receipts: Result<Vec<(MsgSeq, Receipt)>, Refusal>,
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

    pub fn record<T>(&self, entry: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut result = None;
        self.ledger.send_modify(|ledger| result = Some(entry(ledger)));
        result.unwrap_or_else(|| unreachable!("send_modify calls its closure"))
    }

    /// Records the arrival and checks the limit in one step, so that arrivals ascend. Returns the number of the call,
    /// its time in microseconds since the start, and whether it is within the limit.
    pub fn arrive(&self) -> (u64, u64, bool) {
        let mut rate = lock(&self.rate);
        let micros = self.now_micros();
        let number = self.record(|ledger| {
            ledger.record_arrival(micros);
            ledger.calls()
        });
        let is_within_limit = self.admit(&mut rate, RECEIPTS, micros);
        (number, micros, is_within_limit)
    }

    /// Counts a call. A webhook reports that an API is near its limit.
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

    pub fn judge(&self, uri: &Uri, body: Result<Bytes, axum::Error>) -> Result<ReceiptRequest, Refusal> {
        let random = self.check_url(uri)?;
        let body = body.map_err(|error| Refusal::Body(error.to_string()))?;
        let request = parse_body(&body, self.max_batch)?;
        let repeats = lock(&self.randoms).repeats(random, &request);
        self.record(|ledger| ledger.record_request(&request, repeats));
        Ok(request)
    }

    pub fn strike(&self, request: &ReceiptRequest) -> Option<FaultRule> {
        let rule = lock(&self.faults).strike(&Asked::Receipts(request))?;
        self.record(|ledger| ledger.record_fault(rule.fault.kind()));
        Some(rule)
    }

    /// Readings are in order of time, since one is made at a time.
    pub fn read(&self, request: &ReceiptRequest) -> Reading {
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
