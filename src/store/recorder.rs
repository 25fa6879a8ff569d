//! Gathers recordings and flushes them: every 200 ms or 4,000 rows, whichever comes first.
//!
//! A flush that fails is tried again until it succeeds: nothing that a call brought back is dropped. Meanwhile polling
//! stops. What the tables refuse is set aside row by row; what somebody else holds waits apart from the rest. A poll whose slot
//! somebody has changed since it was read is decided anew. That also tells whether a commit of which no answer came was made:
//! then the slot's last call is the poll's.

mod anew;
mod batch;
mod said;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::NaiveDate;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::batch::BatchSize;
use self::{batch::MAX_ROWS, said::Said};
pub use super::flush::{Committed, Made};
use super::{
    Store, StoreError,
    brief::Brief,
    flush::{Flushed, flush},
    set_aside::write_apart,
    sqlstate::Remedy,
};
use crate::{
    activity::Activity,
    recording::{Kept, pause},
    slot::SlotKey,
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

/// How the recorder is wired.
#[derive(Debug)]
pub struct RecorderSettings {
    /// Where it says what became of the slots, after each commit.
    pub committed: mpsc::UnboundedSender<Committed>,
    /// The term, which is over when the lease turns out to be lost.
    pub over: CancellationToken,
    /// Ends the attempts to write when the time for a clean stop is over.
    pub give_up: CancellationToken,
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

/// How a batch is to be written.
enum How {
    Whole,
    /// First it is to be decided anew: somebody has changed the slots.
    Anew,
    /// One poll that was refused for this reason.
    Apart(StoreError),
}

/// What became of a batch.
enum Written {
    /// It is stored, but for the polls of these slots, which somebody has changed.
    Done(HashSet<SlotKey>),
    /// It has been decided anew: so it is to be written.
    Decided(Vec<Kept>),
    /// Somebody holds one of its rows.
    Held,
    /// Somebody has changed something that it was decided on.
    Changed,
    /// The tables refuse something in it.
    Refused(StoreError),
    /// It was too much for the time that it had.
    TookTooLong,
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
            self.settings.over.cancel();
            while let Some(Some(_)) = self.settings.give_up.run_until_cancelled(self.queue.recv()).await {
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
        let Ok(first) = self.settings.give_up.run_until_cancelled(next).await? else { return Some(vec![]) };
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
        let give_up = self.settings.give_up.run_until_cancelled(sleep(TRY_LEFT_EVERY)).await.is_none();
        if give_up { Err(Lost { reason: Reason::Stopped, recordings: 0 }) } else { Ok(()) }
    }

    /// Writes polls, a batch at a time, however long it takes; but what is not written by `until` is left. What somebody holds or
    /// the tables refuse is searched for by halving.
    async fn write(&mut self, polls: Vec<Kept>, until: Option<Instant>) -> Result<(), Lost> {
        let mut parts = vec![(polls, How::Whole)];
        while let Some((mut part, how)) = parts.pop() {
            if until.is_some_and(|until| Instant::now() >= until) {
                let rest = parts.drain(..).rev().flat_map(|(part, _)| part);
                self.left.splice(..0, part.into_iter().chain(rest));
                break;
            }
            let batch = self.size.take(&mut part, rows);
            if batch.is_empty() {
                continue;
            }
            if !part.is_empty() {
                parts.push((part, if matches!(how, How::Anew) { How::Anew } else { How::Whole }));
            }
            let written = self.write_part(&batch, &how).await.map_err(|reason| {
                let others: usize = parts.iter().map(|(part, _)| part.len()).sum();
                Lost { reason, recordings: batch.len() + others }
            })?;
            parts.extend(self.after(batch, how, written));
        }
        Ok(())
    }

    /// What is to be written yet of a batch.
    fn after(&mut self, mut batch: Vec<Kept>, how: How, written: Written) -> Vec<(Vec<Kept>, How)> {
        let several = batch.len() > 1;
        match written {
            Written::Done(changed) => {
                self.size.ended_in_time();
                batch.retain(|kept| changed.contains(&kept.recording.slot));
                vec![(batch, How::Anew)]
            }
            Written::Decided(decided) => vec![(decided, How::Whole)],
            Written::Held | Written::Changed | Written::Refused(_) if several => {
                let second = batch.split_off(batch.len() / 2);
                vec![(second, How::Whole), (batch, How::Whole)]
            }
            Written::Held => {
                self.left.append(&mut batch);
                vec![]
            }
            Written::Changed => vec![(batch, How::Anew)],
            Written::Refused(refusal) => vec![(batch, How::Apart(refusal))],
            Written::TookTooLong => {
                self.size.took_too_long(batch.iter().map(rows).sum());
                vec![(batch, how)]
            }
        }
    }

    /// Writes one part until it is written, refused, or found to be too much. The error says why there is no use in going on.
    async fn write_part(&mut self, part: &[Kept], how: &How) -> Result<Written, Reason> {
        let mut wait = FIRST_WAIT;
        loop {
            let error = match self.attempt(part, how).await {
                Ok(written) => return Ok(written),
                Err(StoreError::LeaseLost { .. }) => return Err(Reason::LeaseLost),
                Err(error) => error,
            };
            let class = error.sqlstate().unwrap_or_else(|| "none".to_owned());
            metrics::counter!("receiptd_flush_failures_total", "sqlstate" => class).increment(1);
            match (error.remedy(), how) {
                (Remedy::Partition, _) if self.made_missing_partitions(part).await => continue,
                (Remedy::Partition | Remedy::SetAside, How::Whole) => return Ok(Written::Refused(error)),
                _ => {}
            }
            self.said.failed(&error, part.len());
            self.set_stuck(true);
            if error.is_timeout() && part.len() > 1 {
                return Ok(Written::TookTooLong);
            }
            if self.settings.give_up.run_until_cancelled(sleep(wait)).await.is_none() {
                return Err(Reason::Stopped);
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn attempt(&mut self, part: &[Kept], how: &How) -> Result<Written, StoreError> {
        let start = Instant::now();
        let flushed = match (how, part) {
            (How::Anew, _) => return self.decide_anew(part).await.map(Written::Decided),
            (How::Apart(refusal), [kept]) => self.write_apart(kept, refusal).await?,
            _ => flush(&self.store, part).await?,
        };
        Ok(match flushed {
            Brief::Done(flushed) => Written::Done(self.committed(part, flushed, how, start.elapsed())),
            Brief::Held => Written::Held,
            Brief::Changed => Written::Changed,
        })
    }

    async fn write_apart(&mut self, kept: &Kept, refusal: &StoreError) -> Result<Brief<Flushed>, StoreError> {
        let slot = kept.recording.slot;
        let refusals = self.refusals.get(&slot).map_or(1, |count| count.saturating_add(1));
        let not_before = self.store.clock().now() + pause(refusals);
        let aside = match write_apart(&self.store, kept, not_before).await? {
            Brief::Done(aside) => aside,
            Brief::Held => return Ok(Brief::Held),
            Brief::Changed => return Ok(Brief::Changed),
        };
        self.refusals.remove(&slot);
        if aside.waits {
            self.refusals.insert(slot, refusals);
        }
        metrics::counter!("receiptd_set_aside_total").increment(aside.rows as u64);
        if aside.rows > 0 {
            self.said.refused(&self.store, &kept.recording, refusal, &aside).await;
        }
        Ok(Brief::Done(aside.flushed))
    }

    /// Where a partition may be missing, makes those that the batch needs. True if one was.
    async fn made_missing_partitions(&mut self, recordings: &[Kept]) -> bool {
        match self.store.ensure_partitions(&days(recordings)).await {
            Ok(0) => false,
            Ok(made) => {
                tracing::warn!(
                    made,
                    "a daily partition was missing and is made now: the job that makes them ahead seems to have failed for days"
                );
                true
            }
            Err(error) => {
                self.said.unmade(&error);
                false
            }
        }
    }

    /// Tells what became of the slots. Returns those that somebody had changed.
    fn committed(&mut self, part: &[Kept], flushed: Flushed, how: &How, took: Duration) -> HashSet<SlotKey> {
        let Flushed { committed, changed } = flushed;
        let stored: Vec<&Kept> = part.iter().filter(|kept| !changed.contains(&kept.recording.slot)).collect();
        if matches!(how, How::Whole) {
            stored.iter().for_each(|kept| _ = self.refusals.remove(&kept.recording.slot));
        }
        self.count(&stored);
        metrics::histogram!("receiptd_flush_rows").record(stored.iter().map(|kept| rows(kept)).sum::<usize>() as f64);
        metrics::counter!("receiptd_flushes_total").increment(1);
        metrics::histogram!("receiptd_flush_seconds").record(took);
        committed.into_iter().for_each(|slot| self.tell(slot));
        changed
    }

    /// Counts what is stored.
    fn count(&self, stored: &[&Kept]) {
        let snapshots: usize = stored.iter().map(|kept| kept.recording.snapshots.len()).sum();
        let changes: usize = stored.iter().map(|kept| kept.recording.changes()).sum();
        self.settings.activity.stored(snapshots as u64, changes as u64, std::time::Instant::now());
        metrics::counter!("receiptd_snapshots_total").increment(snapshots as u64);
        metrics::counter!("receiptd_changes_total").increment(changes as u64);
    }

    fn tell(&self, slot: Committed) {
        // Without a poller there is nobody left who needs to know.
        _ = self.settings.committed.send(slot);
    }
}

fn rows(kept: &Kept) -> usize {
    let recording = &kept.recording;
    let closed = recording.messages.iter().filter(|change| change.closed.is_some()).count();
    1 + recording.snapshots.len() + recording.attempts.len() + closed
}

fn days(polls: &[Kept]) -> Vec<NaiveDate> {
    let recordings = || polls.iter().map(|kept| &kept.recording);
    let polled = recordings().flat_map(|recording| recording.snapshots.iter().map(|snapshot| snapshot.polled_at));
    let called = recordings().flat_map(|recording| recording.attempts.iter().map(|call| call.called_at));
    let days: BTreeSet<NaiveDate> = polled.chain(called).map(|time| time.date_naive()).collect();
    days.into_iter().collect()
}
