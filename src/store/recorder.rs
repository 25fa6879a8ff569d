//! Gathers recordings and flushes them: every 200 ms or 4,000 rows, whichever comes first.
//!
//! A flush that fails is tried again until it succeeds: nothing that a call brought back is dropped. Meanwhile polling
//! stops. What the tables refuse is set aside row by row; what somebody else holds waits apart from the rest. A poll whose slot
//! somebody has changed since it was read is decided anew. That also tells whether a commit of which no answer came was made:
//! then the slot's last call is the poll's.

mod anew;
mod batch;
mod said;
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
use self::{batch::MAX_ROWS, said::Said, stored::rows};
use crate::{
    activity::Activity,
    recording::Kept,
    slot::SlotKey,
    store::{Committed, Store, StoreError},
};

/// A flush waits at most this long for more to write.
const GATHER: Duration = Duration::from_millis(200);

/// How many recordings may wait for a flush. At 200 polls a second that is some seconds of an outage; then polls wait.
const QUEUE: usize = 1_000;

/// What somebody else holds is tried again this often.
const TRY_LEFT_EVERY: Duration = Duration::from_secs(1);

/// What is left is searched for what is free by now for so long at a time; the rest is searched the next time.
const SEARCH: Duration = Duration::from_millis(500);

/// So many recordings may wait for somebody else's locks before everything waits.
const MAX_LEFT: usize = 2_000;

/// Between two attempts at a failed flush it waits this long at first, and doubled each time up to …
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// … this long.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How a batch is to be written.
enum How {
    Whole,
    /// First it is to be decided anew: somebody has changed the slots.
    Anew,
    /// One poll that was refused for this reason.
    Apart(StoreError),
}

/// How the recorder is wired.
#[derive(Debug)]
pub struct RecorderSettings {
    /// Where it says what became of the slots, after each commit.
    pub committed: mpsc::UnboundedSender<Committed>,
    /// The term, which is over when the lease turns out to be lost.
    pub term_over: CancellationToken,
    /// Ends the attempts to write when the time for a clean stop is over.
    pub flush_deadline: CancellationToken,
    /// Set while nothing can be stored: then no poll is to start.
    pub is_stuck: Arc<AtomicBool>,
    /// Where it notes what it has stored.
    pub activity: Arc<Activity>,
}

/// Writes recordings to the database.
#[derive(Debug)]
pub struct Recorder {
    store: Store,
    settings: RecorderSettings,
    queue: mpsc::Receiver<Kept>,
    /// Polls of which somebody else holds a row.
    left: Vec<Kept>,
    try_left_at: Instant,
    said: Said,
    /// How many times in a row the tables have refused the row of a slot, or of its group.
    refusals: HashMap<SlotKey, i32>,
    /// How much is written at once.
    size: BatchSize,
}

/// Recordings can't be written any more.
struct Lost {
    reason: Reason,
    recordings: usize,
}

/// Why there is no use in going on.
#[derive(Debug, Clone, Copy)]
enum Reason {
    Stopped,
    LeaseLost,
}

impl Reason {
    /// The value of the label `reason` of `receiptd_recordings_lost_total`, and what it means.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Stopped => {
                ("stopped", "polls could not be stored before the time for stopping was over: they are lost")
            }
            Self::LeaseLost => {
                ("lease_lost", "polls could not be stored since another receiptd polls by now: they are lost")
            }
        }
    }
}

impl Recorder {
    /// A recorder and the way to it. It ends when all senders are gone and everything is written.
    pub fn new(store: Store, settings: RecorderSettings) -> (Self, mpsc::Sender<Kept>) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let (left, try_left_at, said) = (vec![], Instant::now(), Said::default());
        let (refusals, size) = (HashMap::new(), BatchSize::default());
        (Self { store, settings, queue, left, try_left_at, said, refusals, size }, sender)
    }

    /// Writes until there is nothing more to come. Returns how many recordings could not be written.
    pub async fn run(mut self) -> usize {
        let Err(Lost { reason, recordings }) = self.write_all().await else { return 0 };
        let mut lost = recordings + self.left.len();
        if matches!(reason, Reason::LeaseLost) {
            // Whoever renews the lease hears of it later; and what is in flight is lost with the rest.
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

    /// Notes whether polling is to wait.
    fn set_stuck(&self, is_stuck: bool) {
        let was_stuck = self.settings.is_stuck.swap(is_stuck, Ordering::Relaxed);
        if was_stuck && !is_stuck {
            tracing::info!("what polls bring back is stored again");
        }
    }

    /// Recordings to write, none if it was time for those that were left, or `None` at the end.
    async fn gather(&mut self) -> Option<Vec<Kept>> {
        let next = async {
            if self.left.is_empty() {
                return Ok(self.queue.recv().await);
            }
            timeout_at(self.try_left_at, self.queue.recv()).await
        };
        // A poll that hangs beyond the time for stopping is not waited for.
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

    /// Where what somebody else holds is too much, and at the end, everything waits for it.
    async fn wait_for_others(&mut self) -> Result<(), Lost> {
        self.said.held(self.left.len());
        let give_up = self.settings.flush_deadline.run_until_cancelled(sleep(TRY_LEFT_EVERY)).await.is_none();
        if give_up { Err(Lost { reason: Reason::Stopped, recordings: 0 }) } else { Ok(()) }
    }
}
