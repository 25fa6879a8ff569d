//! A simulated Tencent Chat: the read-receipt call on a loopback port, strict about the protocol and the rate.
//!
//! Written from what the documentation says and from no client of ours, so that a client that misreads it is
//! found out. It keeps a [`Ledger`] of what it saw and answered, for tests to compare with. It must never listen
//! where another machine could reach it, nor carry anything but invented receipts.

mod answer;
mod control;
mod curve;
mod fault;
mod latency;
mod ledger;
mod rate;
mod refusal;
mod request;
mod server;
mod signature;
mod wire;
mod world;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    panic::Location,
    sync::Arc,
    time::Duration,
};

use axum::{Router, routing::post};
use secrecy::SecretString;
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};

pub use self::{
    fault::{BadNumber, Fault, FaultRule, NoList, NumberForm, Numbers, When},
    latency::Latency,
    ledger::{Ledger, Outcome},
    world::{World, WorldConfig},
};
use self::{
    server::{Service, lock},
    wire::{Wire, WireListener},
};
use crate::domain::{SdkAppId, Timestamp};

/// How long a stop waits for clients to take their answers.
const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// How long a test waits for calls before it has failed: far longer than any of them takes.
const WAIT_PATIENCE: Duration = Duration::from_secs(60);

/// What the simulated service is and how it behaves.
#[derive(Debug, Clone)]
pub struct SimulatorConfig {
    /// A loopback address; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The one app that it serves.
    pub sdk_app_id: SdkAppId,
    /// The app's admin, the only identifier that may call.
    pub identifier: String,
    /// The key that the admin's UserSig is verified with.
    pub secret_key: SecretString,
    /// Calls admitted in any sliding second; those above get 60011.
    pub calls_per_second: u32,
    /// The longest `MsgSeqList` that is taken; above it, 10004. The service documents none.
    pub max_batch: Option<usize>,
    /// How long an answer takes.
    pub latency: Latency,
    /// Its groups and messages.
    pub world: WorldConfig,
}

impl SimulatorConfig {
    /// The documented service: 200 calls per second, no limit on batches, 10 to 30 ms of latency, every group
    /// exists; on a free port of 127.0.0.1.
    pub fn new(sdk_app_id: SdkAppId, identifier: impl Into<String>, secret_key: SecretString) -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            sdk_app_id,
            identifier: identifier.into(),
            secret_key,
            calls_per_second: 200,
            max_batch: None,
            latency: (Duration::from_millis(10)..=Duration::from_millis(30)).into(),
            world: WorldConfig::default(),
        }
    }

    fn validate(&self) -> Result<(), SimulatorError> {
        if !self.listen.ip().is_loopback() {
            return Err(SimulatorError::NotLoopback(self.listen));
        }
        let fault = self.latency.fault().or_else(|| self.world.fault());
        fault.map_or(Ok(()), |reason| Err(SimulatorError::Config(reason)))
    }
}

/// Why the simulator did not start.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// The address is reachable from elsewhere.
    #[error("the simulated Chat does not listen on {0}: give it a loopback address such as 127.0.0.1:9000")]
    NotLoopback(SocketAddr),
    /// The port could not be had.
    #[error("the simulated Chat cannot listen on {address}: is the port taken? Port 0 takes a free one")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The config is impossible.
    #[error("the simulated Chat cannot be set up: {0}")]
    Config(&'static str),
}

/// A running service. Dropped, it stops as well, but nobody waits for it.
#[derive(Debug)]
pub struct Simulator {
    service: Arc<Service>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Simulator {
    /// Starts the service; on return it takes calls.
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

    /// Where the API is, such as `http://127.0.0.1:9000`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its groups and messages, to be arranged while it runs.
    pub fn world(&self) -> &World {
        &self.service.world
    }

    /// The time by the clock of the world.
    pub fn now(&self) -> Timestamp {
        self.service.now()
    }

    /// The time by the clock of the ledger, in microseconds since the service started.
    pub fn now_micros(&self) -> u64 {
        self.service.now_micros()
    }

    /// A copy of the ledger as it stands.
    pub fn ledger(&self) -> Ledger {
        self.service.ledger.borrow().clone()
    }

    /// Adds a fault after those already in force; the first that is for a call strikes.
    pub fn add_fault(&self, rule: FaultRule) {
        lock(&self.service.faults).add(rule);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        lock(&self.service.faults).clear();
    }

    /// Changes how many calls are admitted in any sliding second, from now on.
    pub fn set_calls_per_second(&self, calls_per_second: u32) {
        lock(&self.service.rate).set_limit(calls_per_second);
    }

    /// Changes how long answers take, from the next call on.
    pub fn set_latency(&self, latency: Latency) {
        *lock(&self.service.latency) = latency;
    }

    /// The way to the service stands still for so long and then lets go: meanwhile nothing that was sent arrives, and no
    /// answer leaves. What piles up comes all at once. A stall under way is made longer, never shorter.
    pub fn stall(&self, duration: Duration) {
        self.service.stall(duration);
    }

    /// Waits until the ledger is as wanted; it is asked at once and after every change.
    ///
    /// # Panics
    /// After a minute, with the place of the wait and what was seen: who waits is a test, and it has failed.
    #[track_caller]
    pub fn wait_until(&self, wanted: impl FnMut(&Ledger) -> bool) -> impl Future<Output = ()> {
        let (waiter, mut ledger) = (Location::caller(), self.service.ledger.subscribe());
        async move {
            // The only error of the inner wait is that the sender is gone, and self holds it.
            let waited = timeout(WAIT_PATIENCE, ledger.wait_for(wanted)).await.map(drop);
            assert!(
                waited.is_ok(),
                "{waiter}: the simulated Chat never saw what was waited for, but {}",
                self.ledger().summary()
            );
        }
    }

    /// Waits until so many calls have arrived since the start.
    ///
    /// # Panics
    /// After a minute, as [`wait_until`](Self::wait_until).
    #[track_caller]
    pub fn wait_for_calls(&self, calls: u64) -> impl Future<Output = ()> {
        self.wait_until(move |ledger| ledger.calls() >= calls)
    }

    /// Waits until so many calls have ended since the start.
    ///
    /// # Panics
    /// After a minute, as [`wait_until`](Self::wait_until).
    #[track_caller]
    pub fn wait_for_ended_calls(&self, calls: u64) -> impl Future<Output = ()> {
        self.wait_until(move |ledger| ledger.ended_calls() >= calls)
    }

    /// Stops taking connections and ends those in use; a call that hangs is cut short.
    pub async fn stop(mut self) {
        self.service.stop.cancel();
        if timeout(STOP_PATIENCE, &mut self.task).await.is_err() {
            tracing::warn!("the simulated Chat stopped with a client that does not take its answer");
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
