//! The life of the daemon: what starts in which order, and what stops in which.
//!
//! Start: schema, partitions, HTTP, then term after term of polling. Stop: the term ends, and the connections close.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use metrics_exporter_prometheus::PrometheusHandle;
use sd_notify::NotifyState;
use secrecy::SecretString;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    cadence::Cadences,
    chat::{ChatClient, ChatSettings, ClientError},
    clock,
    jobs::JobSettings,
    lease::Holder,
    ops::{self, ListenError, Ops},
    poller::PollerSettings,
    repeated::Repeated,
    retention,
    store::{ConnectError, SchemaError, Store, StoreError},
    term::{TermStatus, Terms, spawn_noted},
};

/// The numbers of the signals that stop the daemon: a process that one ends at once has 128 plus it as its exit code.
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// Partitions are looked after this often.
const PARTITIONS_EVERY: Duration = Duration::from_secs(3_600);

/// Everything a daemon needs to know.
#[derive(Debug, Clone)]
pub struct DaemonSettings {
    /// The app, its credential and where its calls go.
    pub chat: ChatSettings,
    /// The database.
    pub database_url: SecretString,
    /// The most connections to it.
    pub max_connections: u32,
    /// How polls are made.
    pub poller: PollerSettings,
    /// How often messages are polled.
    pub cadences: Arc<Cadences>,
    /// When what is stored is rolled up, and what is old removed.
    pub jobs: JobSettings,
    /// Where HTTP is served, and the metrics that are served there.
    pub http: Option<(SocketAddr, PrometheusHandle)>,
}

/// The daemon can't start. What may pass by itself, such as a database that is away, is waited for instead.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database URL is none.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The schema is not for this program.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The HTTP client can't be set up.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The HTTP listener can't be opened.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// It was told to stop before it had started.
    #[error("stopped before the database answered")]
    Stopped,
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    stop: CancellationToken,
    ended: CancellationToken,
    status: Arc<TermStatus>,
    store: Store,
    terms: JoinHandle<usize>,
}

impl Daemon {
    /// Starts everything, until it is known who polls the app. `stop` ends the wait for a database that does not answer.
    ///
    /// # Errors
    /// If the settings can't work, whatever the wait.
    pub async fn start(settings: DaemonSettings, stop: CancellationToken) -> Result<Self, StartError> {
        let client = Arc::new(ChatClient::new(settings.chat.clone())?);
        let store = Store::new(&settings.database_url, settings.max_connections, settings.chat.sdk_app_id)?;
        until_it_works(&stop, async || prepare(&store).await).await?;
        let status = Arc::new(TermStatus::default());
        if let Some((listen, metrics)) = settings.http {
            let ops = Ops { store: store.clone(), term: status.clone(), metrics: metrics.clone() };
            ops::serve(ops, listen, stop.clone()).await?;
            tokio::spawn(keep_metrics_small(metrics, stop.clone()));
        }
        tokio::spawn(look_after_partitions(store.clone(), stop.clone()));
        let (ended, decided) = (CancellationToken::new(), CancellationToken::new());
        let terms = Terms {
            store: store.clone(),
            client,
            poller: settings.poller,
            cadences: settings.cadences,
            jobs: settings.jobs,
            status: status.clone(),
            decided: decided.clone(),
            holder: Holder::new(),
        };
        let terms = spawn_noted(&ended, terms.run(stop.clone()));
        tokio::select! { () = decided.cancelled() => {} () = ended.cancelled() => {} }
        Ok(Self { stop, ended, status, store, terms })
    }

    /// What others may know of it.
    pub fn status(&self) -> &TermStatus {
        &self.status
    }

    /// Stops cleanly. Returns how many polls could not be stored.
    pub async fn stop(self) -> usize {
        self.stop.cancel();
        let lost = self.terms.await.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "the daemon had failed");
            0
        });
        self.store.close();
        lost
    }

    /// Ends when the daemon has ended, which it never should by itself.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

async fn prepare(store: &Store) -> Result<(), SchemaError> {
    store.migrate().await?;
    Ok(prepare_days(store).await?)
}

/// Makes the partitions of the days ahead, and notes how many there are.
async fn prepare_days(store: &Store) -> Result<(), StoreError> {
    let today = clock::now().date_naive();
    store.ensure_partitions_ahead(today).await?;
    let runway = retention::runway(&store.partitions().await?, today);
    metrics::gauge!("receiptd_partition_runway_days").set(runway as f64);
    Ok(())
}

/// Tries until it works, or until trying again can't help. A database that is away is said once, then once a minute.
async fn until_it_works<T>(
    stop: &CancellationToken,
    mut attempt: impl AsyncFnMut() -> Result<T, SchemaError>,
) -> Result<T, StartError> {
    let mut trouble = Repeated::default();
    loop {
        let error = match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if error.is_transient() => error,
            Err(error) => return Err(error.into()),
        };
        if trouble.is_due() {
            let (cause, advice) = (&error as &dyn std::error::Error, error.advice());
            tracing::error!(error = cause, advice, "the database can't be used yet: trying again");
        }
        tokio::select! {
            () = stop.cancelled() => return Err(StartError::Stopped),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

async fn look_after_partitions(store: Store, stop: CancellationToken) {
    let mut wait = PARTITIONS_EVERY;
    loop {
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(wait) => {} }
        wait = match prepare_days(&store).await {
            Ok(_) => PARTITIONS_EVERY,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "daily partitions could not be made ahead");
                Duration::from_secs(60)
            }
        };
    }
}

/// Histograms gather samples until somebody sums them up, scraped or not.
async fn keep_metrics_small(metrics: PrometheusHandle, stop: CancellationToken) {
    loop {
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(Duration::from_secs(10)) => {} }
        metrics.run_upkeep();
    }
}

/// A token that SIGTERM and SIGINT cancel. A second signal ends the process at once: nothing that is committed is lost.
///
/// # Errors
/// If the signals can't be listened for.
pub fn stop_on_signal() -> std::io::Result<CancellationToken> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        token.cancel();
        let number = tokio::select! { _ = terminate.recv() => SIGTERM, _ = interrupt.recv() => SIGINT };
        std::process::exit(128 + number);
    });
    Ok(stop)
}

/// Tells systemd that the daemon polls. Without systemd this does nothing.
pub fn notify_ready() {
    notify(&[NotifyState::Ready]);
}

/// Tells systemd that the daemon stops.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(error = &error as &dyn std::error::Error, "systemd could not be told");
    }
}
