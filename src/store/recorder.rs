//! Gathers recordings and flushes them: every 100 ms or 2,000 rows, whichever comes first.
//!
//! A flush that fails is tried again until it succeeds: nothing that a call brought back is dropped. Meanwhile the queue
//! in front fills up and polling stops by itself.

use std::time::Duration;

use chrono::NaiveDate;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

pub use super::flush::Committed;
use super::{Store, StoreError, flush};
use crate::{recording::Recording, repeated::Repeated};

/// A flush waits at most this long for more to write.
const GATHER: Duration = Duration::from_millis(100);

/// A flush has at most about this many rows.
const MAX_ROWS: usize = 2_000;

/// How many recordings may wait for a flush. At 200 polls a second that is some seconds of an outage; then polls wait.
const QUEUE: usize = 1_000;

/// SQLSTATE of a row that fits no partition (and of other broken checks).
const CHECK_VIOLATION: &str = "23514";

/// How the recorder is wired.
#[derive(Debug)]
pub struct RecorderSettings {
    /// Where it says what became of the slots, after each commit.
    pub committed: mpsc::UnboundedSender<Committed>,
    /// Ends the attempts to write when the time for a clean stop is over.
    pub give_up: CancellationToken,
}

/// Writes recordings to the database.
#[derive(Debug)]
pub struct Recorder {
    store: Store,
    settings: RecorderSettings,
    queue: mpsc::Receiver<Recording>,
}

impl Recorder {
    /// A recorder and the way to it. It ends when all senders are gone and everything is written.
    pub fn new(store: Store, settings: RecorderSettings) -> (Self, mpsc::Sender<Recording>) {
        let (sender, queue) = mpsc::channel(QUEUE);
        (Self { store, settings, queue }, sender)
    }

    /// Writes until there is nothing more to come. Returns how many recordings could not be written.
    pub async fn run(mut self) -> usize {
        while let Some(recordings) = self.gather().await {
            if !self.write(&recordings).await {
                self.queue.close();
                let lost = recordings.len() + std::iter::from_fn(|| self.queue.try_recv().ok()).count();
                metrics::counter!("receiptd_recordings_lost_total").increment(lost as u64);
                tracing::error!(lost, "polls could not be stored before the time for stopping was over: they are lost");
                return lost;
            }
        }
        0
    }

    async fn gather(&mut self) -> Option<Vec<Recording>> {
        // A poll that hangs beyond the time for stopping is not waited for.
        let first = self.settings.give_up.run_until_cancelled(self.queue.recv()).await??;
        let mut rows = rows(&first);
        let mut recordings = vec![first];
        let deadline = Instant::now() + GATHER;
        while rows < MAX_ROWS {
            let Ok(Some(recording)) = timeout_at(deadline, self.queue.recv()).await else { break };
            rows += self::rows(&recording);
            recordings.push(recording);
        }
        Some(recordings)
    }

    /// Writes one batch, however long it takes. False if it was told to give up.
    async fn write(&self, recordings: &[Recording]) -> bool {
        let mut wait = Duration::from_millis(50);
        let mut trouble = Repeated::default();
        loop {
            let start = Instant::now();
            let error = match flush::flush(&self.store.pool, recordings).await {
                Ok(committed) => {
                    self.committed(recordings, committed, start.elapsed());
                    return true;
                }
                Err(error) => error,
            };
            metrics::counter!("receiptd_flush_failures_total").increment(1);
            if trouble.is_due() {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    polls = recordings.len(),
                    "storing what polls brought back failed: it is kept and tried again"
                );
            }
            let error = self.make_missing_partitions(&error, recordings).await;
            let wait_now = if error.is_some() { wait } else { Duration::ZERO };
            tokio::select! {
                () = self.settings.give_up.cancelled() => return false,
                () = tokio::time::sleep(wait_now) => {}
            }
            wait = (wait * 2).min(Duration::from_secs(5));
        }
    }

    /// Where a partition may be missing, makes those that the batch needs. Returns what still stands in the way.
    async fn make_missing_partitions(&self, error: &StoreError, recordings: &[Recording]) -> Option<()> {
        let code = error.source.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        if code.as_deref() != Some(CHECK_VIOLATION) {
            return Some(());
        }
        match self.store.ensure_partitions(&days(recordings)).await {
            Ok(made) if made > 0 => None,
            Ok(_) => Some(()),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a daily partition is missing and could not be made"
                );
                Some(())
            }
        }
    }

    fn committed(&self, recordings: &[Recording], committed: Vec<Committed>, took: Duration) {
        let snapshots: usize = recordings.iter().map(|recording| recording.snapshots.len()).sum();
        metrics::counter!("receiptd_snapshots_total").increment(snapshots as u64);
        metrics::counter!("receiptd_flushes_total").increment(1);
        metrics::histogram!("receiptd_flush_seconds").record(took);
        for slot in committed {
            // Without a poller there is nobody left who needs to know.
            _ = self.settings.committed.send(slot);
        }
    }
}

fn rows(recording: &Recording) -> usize {
    1 + recording.snapshots.len() + recording.messages.len() + recording.attempts.len()
}

fn days(recordings: &[Recording]) -> Vec<NaiveDate> {
    let polled = recordings.iter().flat_map(|recording| recording.snapshots.iter().map(|snapshot| snapshot.polled_at));
    let called = recordings.iter().flat_map(|recording| recording.attempts.iter().map(|call| call.called_at));
    let days: std::collections::BTreeSet<NaiveDate> = polled.chain(called).map(|time| time.date_naive()).collect();
    days.into_iter().collect()
}
