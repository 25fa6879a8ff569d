//! A simulated Tencent Chat on a loopback port: the read-receipt call and those that discover groups and messages,
//! strict about the protocol and the rate of each.
//!
//! Written from the documentation, independently of our client, so that a misreading in the client shows. It keeps a
//! [`Ledger`] of what it saw and answered, for tests to compare with. It must never listen where another machine
//! could reach it, nor contain anything but invented receipts.

mod answer;
mod apis;
mod config;
mod control;
mod curve;
mod fault;
mod latency;
mod ledger;
mod rate;
mod refusal;
mod request;
mod server;
mod service;
mod signature;
mod webhooks;
mod wire;
mod world;

use std::{net::SocketAddr, panic::Location, sync::Arc, time::Duration};

use axum::{Router, routing::post};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};

pub use self::{
    config::{SimulatorConfig, SimulatorError},
    curve::ReadingCurve,
    fault::{BadNumber, Fault, FaultRule, NoList, NumberForm, Numbers, When},
    latency::Latency,
    ledger::{ApiLedger, Ledger, Outcome},
    webhooks::{Delivery, WebhookConfig, WebhookLedger},
    world::{PostKind, World, WorldConfig},
};
use self::{
    service::{Service, lock},
    wire::{Wire, WireListener},
};
use crate::domain::Timestamp;

/// Maximum time a stop waits for clients to read their answers.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Timeout of a test waiting for calls, far longer than any of them takes.
const WAIT_PATIENCE: Duration = Duration::from_secs(60);

/// A running service. Dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct Simulator {
    service: Arc<Service>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Simulator {
    /// Starts the service; it accepts calls on return.
    pub async fn start(config: SimulatorConfig) -> Result<Self, SimulatorError> {
        config.validate()?;
        let address = config.listen;
        let cannot_listen = |source| SimulatorError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(cannot_listen)?;
        let address = listener.local_addr().map_err(cannot_listen)?;
        let service = Arc::new(Service::new(config));
        let task = tokio::spawn(serve(listener, service.clone()));
        Ok(Self { service, address, task })
    }

    /// The base URL of the API, such as `http://127.0.0.1:9000`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its groups and messages, which may be changed while it runs.
    pub fn world(&self) -> &World {
        &self.service.world
    }

    /// The time on the world's clock.
    pub fn now(&self) -> Timestamp {
        self.service.now()
    }

    /// The time on the ledger's clock, in microseconds since the service started.
    pub fn now_micros(&self) -> u64 {
        self.service.now_micros()
    }

    /// A copy of the present ledger.
    pub fn ledger(&self) -> Ledger {
        self.service.ledger.borrow().clone()
    }

    /// Adds a fault after the existing ones; the first matching one applies.
    pub fn add_fault(&self, rule: FaultRule) {
        lock(&self.service.faults).add(rule);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        lock(&self.service.faults).clear();
    }

    /// Changes the maximum number of calls in any sliding second, from now on.
    pub fn set_calls_per_second(&self, calls_per_second: u32) {
        lock(&self.service.rate).set_limit(calls_per_second);
    }

    /// The same for an API other than that for receipts, such as `get_group_info`.
    pub fn set_api_limit(&self, api: &str, calls_per_second: u32) {
        self.service.set_api_limit(api, calls_per_second);
    }

    /// Sends webhooks from now on.
    pub fn send_webhooks(&self, config: WebhookConfig) {
        self.service.world.keep_fresh();
        tokio::spawn(webhooks::send_all(self.service.clone(), config));
    }

    /// The deliveries of webhooks.
    pub fn webhooks(&self) -> WebhookLedger {
        *lock(&self.service.webhooks)
    }

    /// Changes the latency of answers, from the next call on.
    pub fn set_latency(&self, latency: Latency) {
        *lock(&self.service.latency) = latency;
    }

    /// Blocks the network for this duration: until its end no request arrives and no answer leaves, then everything
    /// queued is delivered at once. Extends an existing stall, never shortens it.
    pub fn stall(&self, duration: Duration) {
        self.service.stall(duration);
    }

    /// Waits until `is_wanted` is true of the ledger; checked immediately and after every change.
    ///
    /// # Panics
    /// After a minute, with the caller's location and the ledger's summary: the caller is a test that has failed.
    #[track_caller]
    pub fn wait_until(&self, wanted: impl FnMut(&Ledger) -> bool) -> impl Future<Output = ()> {
        let (waiter, mut ledger) = (Location::caller(), self.service.ledger.subscribe());
        async move {
            // The inner wait only fails if the sender is gone, and self holds it.
            let waited = timeout(WAIT_PATIENCE, ledger.wait_for(wanted)).await.map(drop);
            assert!(waited.is_ok(), "{waiter}: timed out waiting for the simulated Chat: {}", self.ledger().summary());
        }
    }

    /// Waits until this many calls have arrived since the start.
    ///
    /// # Panics
    /// After a minute, like [`wait_until`](Self::wait_until).
    #[track_caller]
    pub fn wait_for_calls(&self, calls: u64) -> impl Future<Output = ()> {
        self.wait_until(move |ledger| ledger.calls() >= calls)
    }

    /// Waits until this many calls have ended since the start.
    ///
    /// # Panics
    /// After a minute, like [`wait_until`](Self::wait_until).
    #[track_caller]
    pub fn wait_for_ended_calls(&self, calls: u64) -> impl Future<Output = ()> {
        self.wait_until(move |ledger| ledger.ended_calls() >= calls)
    }

    /// Stops accepting connections and ends open ones; a hanging call is cut short.
    pub async fn stop(mut self) {
        self.service.stop.cancel();
        if timeout(STOP_PATIENCE, &mut self.task).await.is_err() {
            tracing::warn!("the simulated Chat closed a connection whose client does not read its answer");
            self.task.abort();
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.service.stop.cancel();
    }
}

async fn serve(listener: TcpListener, service: Arc<Service>) {
    let stop = service.stop.clone();
    let router = Router::new()
        .route(server::PATH, post(server::receipt_call))
        .merge(apis::routes())
        .merge(control::routes())
        .fallback(server::misdirected)
        .method_not_allowed_fallback(server::misdirected)
        .with_state(service.clone());
    let listener = WireListener::new(listener, service);
    let serving = axum::serve(listener, router.into_make_service_with_connect_info::<Wire>());
    if let Err(error) = serving.with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!(%error, "the simulated Chat ended");
    }
}
