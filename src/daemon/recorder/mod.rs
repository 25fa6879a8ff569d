//! Collects recordings and flushes them: every 200 ms or 4,000 rows, whichever comes first.
//!
//! A failed flush is retried until it succeeds: no result of a call is dropped. Meanwhile polling stops. Refused rows
//! are set aside one by one; locked ones wait separately. A poll whose slot was changed since it was read is decided
//! again. That also shows whether an unanswered commit was made: then the slot's last call is the poll's.

mod anew;
mod batch;
mod failure_log;
mod stored;
mod writing;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::batch::BatchSize;
use self::{batch::MAX_ROWS, stored::rows};
use crate::{
    daemon::{activity::Activity, recorder::failure_log::FailureLog},
    rules::{recording::Kept, slot::SlotKey},
    store::{Committed, Store, StoreError},
};

/// Maximum time that a flush waits for more to write.
const GATHER: Duration = Duration::from_millis(200);

/// Maximum number of recordings waiting for a flush. At 200 polls per second that is some seconds of an outage; then
/// polls wait.
const QUEUE: usize = 1_000;

/// How often locked rows are retried.
const TRY_LEFT_EVERY: Duration = Duration::from_secs(1);

/// Maximum time per retry to search for rows that are free by now; the rest follows in the next retry.
const SEARCH: Duration = Duration::from_millis(500);

/// Maximum number of recordings waiting for other sessions' locks before everything waits.
const MAX_LEFT: usize = 2_000;

/// First delay between two attempts at a failed flush, doubled each time up to …
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// … this long.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How a batch has to be written.
enum WriteMode {
    Whole,
    /// After being decided again, since the slots were changed.
    Anew,
    /// One poll that was refused for this reason.
    Apart(StoreError),
}

/// The recorder's connections to other parts.
#[derive(Debug)]
pub struct RecorderSettings {
    /// Where it reports the results for slots, after each commit.
    pub committed: mpsc::UnboundedSender<Committed>,
    /// The term, which is over if the lease is lost.
    pub term_over: CancellationToken,
    /// Ends the attempts to write when the shutdown deadline is over.
    pub flush_deadline: CancellationToken,
    /// Set while results can't be stored: then no poll may start.
    pub storing_blocked: Arc<AtomicBool>,
    /// Records what was stored.
    pub activity: Arc<Activity>,
}

/// Writes recordings to the database.
#[derive(Debug)]
pub struct Recorder {
    store: Store,
    settings: RecorderSettings,
    queue: mpsc::Receiver<Kept>,
    /// Polls with a locked row.
    left: Vec<Kept>,
    try_left_at: Instant,
    said: FailureLog,
    /// Number of times in a row that the tables refused the row of a slot, or of its group.
    refusals: HashMap<SlotKey, i32>,
    /// The batch size.
    size: BatchSize,
}

/// Recordings that can't be written any more.
struct Lost {
    reason: Reason,
    recordings: usize,
}

/// Why the recorder gives up.
#[derive(Debug, Clone, Copy)]
enum Reason {
    Stopped,
    LeaseLost,
}

impl Reason {
    /// The value of the label `reason` of `receiptd_recordings_lost_total`, and what it means.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Stopped => ("stopped", "results could not be stored before the shutdown deadline and are lost"),
            Self::LeaseLost => {
                ("lease_lost", "results could not be stored, since another receiptd polls now, and are lost")
            }
        }
    }
}

impl Recorder {
    /// A recorder and its queue. It ends when all senders are gone and everything is written.
    pub fn new(store: Store, settings: RecorderSettings) -> (Self, mpsc::Sender<Kept>) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let (left, try_left_at, said) = (vec![], Instant::now(), FailureLog::default());
        let (refusals, size) = (HashMap::new(), BatchSize::default());
        (Self { store, settings, queue, left, try_left_at, said, refusals, size }, sender)
    }

    /// Writes until everything is written. Returns the number of recordings that could not be written.
    pub async fn run(mut self) -> usize {
        let Err(Lost { reason, recordings }) = self.write_all().await else { return 0 };
        let mut lost = recordings + self.left.len();
        if matches!(reason, Reason::LeaseLost) {
            // The task that renews the lease notices later; results in flight are lost with the rest.
            self.settings.term_over.cancel();
            while let Some(Some(_)) = self.settings.flush_deadline.run_until_cancelled(self.queue.recv()).await {
                lost += 1;
            }
        }
        self.queue.close();
        lost += std::iter::from_fn(|| self.queue.try_recv().ok()).count();
        let (reason, words) = reason.words();
        metrics::counter!("receiptd_recordings_lost_total", "reason" => reason).increment(lost as u64);
        if lost > 0 {
            tracing::error!(lost, reason, "{words}");
        }
        lost
    }

    async fn write_all(&mut self) -> Result<(), Lost> {
        loop {
            let gathered = self.gather().await;
            let is_end = gathered.is_none();
            if let Some(recordings) = gathered {
                self.write(recordings, None).await?;
            }
            if is_end || Instant::now() >= self.try_left_at {
                let left = std::mem::take(&mut self.left);
                self.write(left, Some(Instant::now() + SEARCH)).await?;
                self.try_left_at = Instant::now() + TRY_LEFT_EVERY;
            }
            let must_wait = !self.left.is_empty() && (is_end || self.left.len() > MAX_LEFT);
            self.set_stuck(must_wait);
            if must_wait {
                self.wait_for_others().await?;
            } else if is_end {
                return Ok(());
            }
        }
    }

    /// Notes whether polling has to wait.
    fn set_stuck(&self, storing_blocked: bool) {
        let was_stuck = self.settings.storing_blocked.swap(storing_blocked, Ordering::Relaxed);
        if was_stuck && !storing_blocked {
            tracing::info!("storing results again");
        }
    }

    /// Recordings to write, none if it was time to retry locked ones, or `None` at the end.
    async fn gather(&mut self) -> Option<Vec<Kept>> {
        let next = async {
            if self.left.is_empty() {
                return Ok(self.queue.recv().await);
            }
            timeout_at(self.try_left_at, self.queue.recv()).await
        };
        // A poll that hangs beyond the shutdown deadline is not waited for.
        let Ok(first) = self.settings.flush_deadline.run_until_cancelled(next).await? else { return Some(vec![]) };
        let first = first?;
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

    /// If too many rows are locked, and at the end, everything waits for them.
    async fn wait_for_others(&mut self) -> Result<(), Lost> {
        self.said.held(self.left.len());
        let give_up = self.settings.flush_deadline.run_until_cancelled(sleep(TRY_LEFT_EVERY)).await.is_none();
        if give_up { Err(Lost { reason: Reason::Stopped, recordings: 0 }) } else { Ok(()) }
    }
}
