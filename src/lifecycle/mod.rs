//! The life of the daemon: its start and stop, in order.
//!
//! Start: HTTP, which shows the state from then on, and the listener for webhooks; schema and partitions, as soon as
//! the database is available; then one term of polling after the other. Stop: the term ends, then HTTP, then the
//! connections are closed.
//!
//! | token | cancelled by | heard by | then |
//! |---|---|---|---|
//! | `stop` | a signal | everything below | the term ends |
//! | `leader_known` | standing by, once it has seen the lease | the start | the service is ready |
//! | `term_over` | `stop`; the renewal or the recorder, if the lease is lost | the session, the recorder | no calls are made |
//! | `session_over` | `term_over`; a change of the settings; a part that failed | the poller and the other parts, except the recorder | calls in flight end |
//! | `flush_deadline` | 10 s after `term_over`, or after a part failed | the recorder | remaining results are lost, and counted |
//! | `polling_ended` | the end of the last session | the renewal | the lease is given back |
//! | `tasks_ended` | the end of all terms | the command | the process ends |
//! | `http_stop` | the end of all else | the HTTP server | the connections close |

mod error;
mod housekeeping;
mod settings;
mod signals;
mod systemd;

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    thread,
    time::Duration,
};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub use self::{
    error::{ReloadError, StartError},
    settings::DaemonSettings,
    signals::{Reloads, stop_on_signal, stop_or_reload_on_signal},
    systemd::{notify_ready, notify_reloading, notify_stopping},
};
use crate::{
    chat::{ChatClient, ClientError},
    clock::{self, Clock},
    config::Polling,
    daemon::{
        leadership::{Leadership, SessionParts},
        parts::spawn_noted,
        status::DaemonStatus,
    },
    domain::Bounds,
    host::Holder,
    http::{self, Looks, Ops, Token},
    logging::log_throttle::LogThrottle,
    store::{SchemaError, Store},
    webhooks::Webhooks,
};

/// A daemon.
#[derive(Debug)]
pub struct Daemon {
    stop: CancellationToken,
    /// Cancelled when everything else has ended, so that HTTP serves until then.
    http_stop: CancellationToken,
    /// Cancelled once the lease holder is known.
    leader_known: CancellationToken,
    tasks_ended: CancellationToken,
    status: Arc<DaemonStatus>,
    store: Store,
    http: Option<Http>,
    webhooks: Option<Webhooks>,
    parts: watch::Sender<Arc<SessionParts>>,
    limits: watch::Sender<Bounds>,
    terms: OnceLock<JoinHandle<usize>>,
}

/// The HTTP side, which keeps the address of the start.
#[derive(Debug)]
struct Http {
    listen: SocketAddr,
    token: Token,
    /// Its own connection: clients wait for each other, and polling waits for none of them.
    store: Store,
    thread: thread::JoinHandle<()>,
}

impl Daemon {
    /// Starts everything, and returns when the app's lease holder is known. `stop` ends the wait for an unavailable
    /// database.
    ///
    /// # Errors
    /// If the settings can't work, however long it waits.
    pub async fn start(settings: DaemonSettings, stop: CancellationToken) -> Result<Self, StartError> {
        let daemon = Self::open(settings, stop).await?;
        if let Err(error) = daemon.begin().await {
            daemon.stop().await;
            return Err(error);
        }
        Ok(daemon)
    }

    /// Serves HTTP until everything else has ended. Does nothing else before [`Self::begin`].
    ///
    /// # Errors
    /// If the settings can't work, or the HTTP address is not available.
    pub async fn open(settings: DaemonSettings, stop: CancellationToken) -> Result<Self, StartError> {
        let store = Store::new(&settings.database_url, settings.max_connections, settings.chat.sdk_app_id)?;
        let store = store.beside(settings.wall).with_prepared_statements(settings.prepared_statements);
        let parts = watch::Sender::new(Arc::new(parts(&settings, store.clock())?));
        let (status, http_stop) = (Arc::new(DaemonStatus::default()), CancellationToken::new());
        let http = match settings.http.clone() {
            Some((listen, metrics)) => Some(serve(&settings, listen, metrics, (&store, &status), &http_stop).await?),
            None => None,
        };
        let webhooks = match &settings.webhooks {
            Some(listener) => {
                let parts = (store.clock().clone(), status.clone());
                let app = settings.chat.sdk_app_id;
                Some(Webhooks::serve(listener, app, parts, http_stop.clone()).await?)
            }
            None => None,
        };
        let (leader_known, tasks_ended) = (CancellationToken::new(), CancellationToken::new());
        let limits = watch::Sender::new(settings.limits);
        Ok(Self {
            stop,
            http_stop,
            leader_known,
            tasks_ended,
            status,
            store,
            http,
            webhooks,
            parts,
            limits,
            terms: OnceLock::new(),
        })
    }

    /// Begins to work as soon as the database answers, and returns when the lease holder is known.
    ///
    /// # Errors
    /// If the schema does not suit this program, or it was asked to stop before the database answered.
    pub async fn begin(&self) -> Result<(), StartError> {
        let prepared = self.status.heartbeat().while_waiting(self.prepare());
        self.stop.run_until_cancelled(prepared).await.ok_or(StartError::Stopped)??;
        let (store, status, stop) = (&self.store, &self.status, &self.stop);
        tokio::spawn(housekeeping::look_after_partitions(store.clone(), stop.clone()));
        tokio::spawn(housekeeping::compare_clocks(store.clone(), status.clone(), stop.clone()));
        tokio::spawn(housekeeping::count_watched(store.clone(), status.clone(), self.limits.subscribe(), stop.clone()));
        tokio::spawn(housekeeping::sum_up(status.clone(), stop.clone()));
        let terms = Leadership {
            store: store.clone(),
            parts: self.parts.subscribe(),
            status: status.clone(),
            leader_known: self.leader_known.clone(),
            holder: Holder::new(),
        };
        self.terms.get_or_init(|| spawn_noted(&self.tasks_ended, terms.run(stop.clone())));
        tokio::select! { () = self.leader_known.cancelled() => {} () = self.tasks_ended.cancelled() => {} }
        tokio::spawn(systemd::tell_status(status.clone(), stop.clone()));
        tokio::spawn(systemd::feed_watchdog(status.clone(), stop.clone()));
        Ok(())
    }

    /// Upgrades the schema and creates partitions in advance. Waits for an unavailable database, logging that once,
    /// then once a minute.
    async fn prepare(&self) -> Result<(), SchemaError> {
        let mut trouble = LogThrottle::default();
        self.status.waits_for(Some("starting: upgrading the schema".to_owned()));
        loop {
            let error = match prepare(&self.store).await {
                Ok(()) => break,
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            let waits = format!("waiting for the database: {}", error.explain());
            if let Some(count) = trouble.happened(clock::uptime()) {
                let (cause, advice) = (&error as &dyn std::error::Error, error.advice());
                tracing::error!(error = cause, count, advice, "the database is not usable yet: retrying");
                systemd::notify_status(&waits);
            }
            self.status.waits_for(Some(waits));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.status.waits_for(None);
        Ok(())
    }

    /// Whether the lease holder is known.
    pub fn is_ready(&self) -> bool {
        self.leader_known.is_cancelled()
    }

    /// Applies new settings: calls in flight end, and their results are stored, before the first call with the new
    /// ones. The app, the database (except its password) and the HTTP address stay those of the start.
    ///
    /// # Errors
    /// If the settings can't work; the old ones stay.
    pub fn reload(&self, settings: &DaemonSettings) -> Result<(), ReloadError> {
        if let (Some(Http { listen, .. }), None) = (&self.http, &settings.http_token)
            && !listen.ip().is_loopback()
        {
            return Err(ReloadError::Open(*listen));
        }
        let parts = Arc::new(parts(settings, self.store.clock())?);
        if let (Some(webhooks), Some(listener)) = (&self.webhooks, &settings.webhooks) {
            webhooks.change(listener, settings.chat.sdk_app_id)?;
        }
        self.store.change_url(&settings.database_url)?;
        if let Some(http) = &self.http {
            http.store.change_url(&settings.database_url)?;
            http.token.change(settings.http_token.clone());
        }
        self.limits.send_replace(settings.limits);
        self.parts.send_replace(parts);
        Ok(())
    }

    /// The address of the page, if it is served.
    pub fn page(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(|http| http.listen)
    }

    /// The address at which webhooks arrive, if there is one.
    pub fn listener(&self) -> Option<SocketAddr> {
        self.webhooks.as_ref().map(Webhooks::listen)
    }

    /// Its public status.
    pub fn status(&self) -> &DaemonStatus {
        &self.status
    }

    /// Stops cleanly. Returns the number of polls that could not be stored.
    pub async fn stop(self) -> usize {
        self.stop.cancel();
        let lost = match self.terms.into_inner() {
            Some(terms) => terms.await.unwrap_or_else(|error| {
                tracing::error!(error = &error as &dyn std::error::Error, "the daemon had failed");
                0
            }),
            None => 0,
        };
        self.http_stop.cancel();
        if let Some(http) = self.http {
            http.store.close();
            // It ends immediately, whatever its clients do.
            _ = tokio::task::spawn_blocking(|| http.thread.join()).await;
        }
        if let Some(webhooks) = self.webhooks {
            _ = tokio::task::spawn_blocking(|| webhooks.join()).await;
        }
        self.store.close();
        lost
    }

    /// Returns when the daemon has ended, which it never should by itself.
    pub async fn ended(&self) {
        self.tasks_ended.cancelled().await;
    }
}

/// Begins to serve HTTP, until `http_stop`.
async fn serve(
    settings: &DaemonSettings,
    listen: SocketAddr,
    metrics: PrometheusHandle,
    (store, status): (&Store, &Arc<DaemonStatus>),
    http_stop: &CancellationToken,
) -> Result<Http, StartError> {
    let (store, token) = (store.apart(&settings.database_url, 1)?, Token::default());
    token.change(settings.http_token.clone());
    let (term, looks) = (status.clone(), Arc::<Looks>::default());
    let ops = Ops { store: store.clone(), term, token: token.clone(), metrics: metrics.clone(), looks };
    let (listen, thread) = http::serve(ops, listen, http_stop.clone()).await?;
    tokio::spawn(housekeeping::keep_metrics_small(metrics, http_stop.clone()));
    Ok(Http { listen, token, store, thread })
}

fn parts(settings: &DaemonSettings, clock: &Arc<Clock>) -> Result<SessionParts, ClientError> {
    let (settings, chat) = (settings.session.clone(), settings.chat.clone());
    let Polling { request_timeout, max_in_flight, .. } = settings.polling;
    let client = ChatClient::new(chat, request_timeout, max_in_flight)?.dated_by(clock.clone());
    Ok(SessionParts { client: Arc::new(client), settings })
}

async fn prepare(store: &Store) -> Result<(), SchemaError> {
    store.migrate().await?;
    Ok(housekeeping::prepare_days(store).await?)
}
