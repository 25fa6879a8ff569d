//! A session: polling with one set of settings. When the settings change, a session ends like a term, with all results
//! stored, and the next one begins under the same lease.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{
    chat::ChatClient,
    config::{Jobs, Polling, Readers, Snapshots},
    daemon::{
        discovery::{self, DiscoveryParts},
        events::{EventRecorder, ToldReaders},
        jobs,
        other_calls::OtherCalls,
        parts::spawn_noted,
        poller::{Poller, PollerParts, Slotter},
        readers::ReaderAsking,
        recorder::{Recorder, RecorderSettings},
        status::DaemonStatus,
    },
    logging::log_throttle::LogThrottle,
    rules::{
        cadence::Cadences,
        discovery::Discovery,
        lease::{ASK_AGAIN, GRACE_FOR_FLUSH, GRACE_FOR_POLLS},
        protocol::Api,
        retention::Retention,
    },
    store::{Store, StoreError},
    text::counted::counted,
};

/// The settings of a session.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// Rate, batch size and timeouts of polls.
    pub polling: Polling,
    /// The polls that add snapshots.
    pub snapshots: Snapshots,
    /// How often messages are polled.
    pub cadences: Arc<Cadences>,
    /// How readers are asked for.
    pub readers: Readers,
    /// When new data is rolled up and old data removed.
    pub jobs: Jobs,
    /// How long data is kept.
    pub retention: Retention,
    /// What is watched without being added to the watch list; `None` if discovery is switched off.
    pub discovery: Option<Arc<Discovery>>,
}

/// Everything that a session polls with.
#[derive(Debug)]
pub struct SessionParts {
    /// The client for Tencent Chat, with its credential.
    pub client: Arc<ChatClient>,
    /// Its settings.
    pub settings: SessionSettings,
}

/// How a session or a term ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Number of polls that could not be stored.
    pub lost: usize,
    /// Whether a part ended that never should.
    pub has_failed: bool,
}

/// One session.
#[derive(Debug)]
pub(crate) struct PollingSession<'a> {
    pub parts: Arc<SessionParts>,
    /// The store under the lease of the term.
    pub store: &'a Store,
    pub status: &'a DaemonStatus,
    /// The term, which is over if the lease is lost.
    pub term_over: &'a CancellationToken,
    /// Cancelled when no more polls may start.
    pub session_over: CancellationToken,
}

impl PollingSession<'_> {
    /// Polls until the session is over or a part fails.
    pub async fn run(&self) -> Ended {
        match self.load().await {
            Some((poller, recorder, flush_deadline)) => self.poll(poller, recorder, flush_deadline).await,
            None => Ended::default(),
        }
    }

    /// Sets up the poller with its schedule, and the recorder with its deadline for shutdown. `None` if the session ends
    /// before the schedule is loaded.
    async fn load(&self) -> Option<(Poller, Recorder, CancellationToken)> {
        let (mut poller, recorder, flush_deadline) = self.set_up();
        let mut trouble = LogThrottle::default();
        loop {
            self.status.heartbeat.beat();
            match self.session_over.run_until_cancelled(self.prepare(&mut poller)).await? {
                Ok((slots, is_partial)) => {
                    let more = if is_partial { ", while more are loading" } else { "" };
                    tracing::info!(slots, "polling, with {} on the schedule{more}", counted(slots as u64, "call"));
                    return Some((poller, recorder, flush_deadline));
                }
                Err(error) => error.log(&mut trouble, "loading the schedule failed: polling waits"),
            }
            self.session_over.run_until_cancelled(sleep(ASK_AGAIN)).await?;
        }
    }

    /// The poller, without a schedule, and the recorder with its deadline for shutdown.
    fn set_up(&self) -> (Poller, Recorder, CancellationToken) {
        let (committed_sender, committed) = mpsc::unbounded_channel();
        let (flush_deadline, storing_blocked) = (CancellationToken::new(), self.status.storing_blocked.clone());
        let settings = RecorderSettings {
            committed: committed_sender,
            term_over: self.term_over.clone(),
            flush_deadline: flush_deadline.clone(),
            storing_blocked: storing_blocked.clone(),
            activity: self.status.activity.clone(),
            events: self.status.events.clone(),
        };
        let (recorder, recordings) = Recorder::new(self.store.clone(), settings);
        let parts = PollerParts {
            store: self.store.clone(),
            client: self.parts.client.clone(),
            lease: self.status.lease.clone(),
            cadences: self.parts.settings.cadences.clone(),
            recorder: recordings,
            committed,
            storing_blocked,
            heartbeat: self.status.heartbeat.clone(),
            activity: self.status.activity.clone(),
            events: self.status.events.clone(),
        };
        let poller = Poller::new(
            parts,
            &self.parts.settings.polling,
            self.parts.settings.snapshots.record,
            self.session_over.clone(),
        );
        (poller, recorder, flush_deadline)
    }

    /// Updates the schedule to the cadences, and loads its beginning. Returns the number of loaded slots, and whether
    /// there are more.
    async fn prepare(&self, poller: &mut Poller) -> Result<(usize, bool), StoreError> {
        let words = |(name, cadence): (&str, &crate::rules::cadence::Cadence)| (name.to_owned(), cadence.to_string());
        let cadences: BTreeMap<String, String> = self.parts.settings.cadences.iter().map(words).collect();
        let groups = self.store.follow_cadences(cadences).await?;
        if groups > 0 {
            tracing::info!(groups, "cadences have changed: rescheduling the messages of the groups affected");
        }
        self.status.reader_groups.refresh(self.store).await?;
        poller.recall().await?;
        poller.load().await
    }

    /// Polls until the session is over, then waits for polls in flight to end and their results to be stored.
    async fn poll(&self, poller: Poller, recorder: Recorder, flush_deadline: CancellationToken) -> Ended {
        self.status.set_poller(Some(poller.status()));
        let session_over = &self.session_over;
        let (store, cadences) = (self.store.clone(), self.parts.settings.cadences.clone());
        let slotter = Slotter {
            store,
            cadences,
            events: self.status.events.clone(),
            poller: poller.status(),
            news: poller.news(),
        };
        let (store, cadences) = (self.store.clone(), self.parts.settings.cadences.clone());
        let (inbox, health) = (self.status.inbox.clone(), self.status.events.clone());
        let (discovery, news) = (self.status.announced.clone(), poller.news());
        let (recorder_of_events, readers) = (poller.recorder(), self.told_readers());
        let events =
            EventRecorder { store, cadences, inbox, health, readers, discovery, recorder: recorder_of_events, news };
        let failed = CancellationToken::new();
        let poller = spawn_noted(&failed, poller.run(GRACE_FOR_POLLS));
        let slotter = spawn_noted(&failed, slotter.run(session_over.clone()));
        let events = spawn_noted(&failed, events.run(session_over.clone()));
        let (jobs, keep) = (self.parts.settings.jobs.clone(), self.parts.settings.retention);
        let jobs = spawn_noted(&failed, jobs::run(self.store.clone(), jobs, keep, session_over.clone()));
        let readers = spawn_noted(&failed, self.readers().run(session_over.clone()));
        let discovery =
            spawn_noted(&failed, discovery::run(self.store.clone(), self.discovery(), session_over.clone()));
        let recorder = spawn_noted(&failed, recorder.run());
        tokio::select! { () = session_over.cancelled() => {} () = failed.cancelled() => {} }
        let has_failed = !session_over.is_cancelled();
        session_over.cancel();
        for part in [poller.await, slotter.await, events.await, jobs.await, readers.await, discovery.await] {
            if let Err(error) = part {
                tracing::error!(error = &error as &dyn std::error::Error, "a part of the daemon failed");
            }
        }
        let lost = self.write_the_rest(recorder, flush_deadline, has_failed).await;
        Ended { lost, has_failed }
    }

    /// The part that asks for readers, within the limit of its own API.
    fn readers(&self) -> ReaderAsking {
        let SessionSettings { polling, readers, retention, .. } = &self.parts.settings;
        let limits = [(Api::Readers, readers.max_calls_per_second)];
        let (lease, over) = (Some(self.status.lease.clone()), self.session_over.clone());
        let calls = OtherCalls::new(self.parts.client.clone(), lease, limits, polling.transit_allowance, over);
        ReaderAsking::new(self.store.clone(), calls.into(), readers, retention.readers, self.store.sdk_app_id())
    }

    /// The part that stores the readers in events.
    fn told_readers(&self) -> ToldReaders {
        ToldReaders {
            store: self.store.clone(),
            groups: self.status.reader_groups.clone(),
            naming: self.parts.settings.readers.naming.clone(),
            app: self.store.sdk_app_id(),
        }
    }

    /// The parts that discovery uses; `None` if it is switched off.
    fn discovery(&self) -> Option<DiscoveryParts> {
        let rules = self.parts.settings.discovery.clone()?;
        let (client, lease) = (self.parts.client.clone(), Some(self.status.lease.clone()));
        let (allowance, session_over) = (self.parts.settings.polling.transit_allowance, self.session_over.clone());
        let calls = OtherCalls::new(client, lease, rules.call_limits(), allowance, session_over);
        Some(DiscoveryParts {
            store: self.store.clone(),
            calls: calls.into(),
            rules,
            readers: self.parts.settings.readers.groups.clone(),
            inbox: self.status.announced.clone(),
            status: self.status.discovery.clone(),
        })
    }

    /// Waits until results are stored, without a time limit unless the term is over or a part has failed. Returns the
    /// number of results that could not be stored.
    async fn write_the_rest(
        &self,
        recorder: JoinHandle<usize>,
        flush_deadline: CancellationToken,
        has_failed: bool,
    ) -> usize {
        let term_over = self.term_over.clone();
        let deadline = tokio::spawn(async move {
            if !has_failed {
                term_over.cancelled().await;
            }
            sleep(GRACE_FOR_FLUSH).await;
            flush_deadline.cancel();
        });
        let lost = self.status.heartbeat.while_waiting(recorder).await.unwrap_or_else(|error| {
            tracing::error!(error = &error as &dyn std::error::Error, "the recorder failed");
            0
        });
        deadline.abort();
        self.status.set_poller(None);
        // The rest is lost by now: nothing waits any more.
        self.status.storing_blocked.store(false, Ordering::Relaxed);
        lost
    }
}
