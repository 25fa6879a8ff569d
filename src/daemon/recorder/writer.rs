//! Does what [`Writing`] asks for: writes polls through the store, reads slots again, counts and logs the outcome, and
//! reports the results for the slots. Nothing is decided here.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{NaiveDate, TimeDelta};
use tokio::sync::mpsc;

use super::failure_log::FailureLog;
use crate::{
    daemon::{activity::Activity, events::Health},
    domain::{GroupId, MsgSeq},
    rules::{
        recording::{Kept, Recording},
        slot::SlotKey,
        writing::{Committed, Failure, Present, Task, Writing, to_read},
    },
    store::{Aside, Brief, Flushed, Remedy, Store, StoreError, flush, write_apart},
};

/// The recorder's access to the database.
#[derive(Debug)]
pub(super) struct Writer {
    store: Store,
    committed: mpsc::UnboundedSender<Committed>,
    activity: Arc<Activity>,
    events: Arc<Health>,
    pub said: FailureLog,
    /// Why the tables refused the latest poll.
    refusal: Option<StoreError>,
}

/// The outcome of a task.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The polls are stored, except those of these slots.
    Wrote(HashSet<SlotKey>),
    /// The refused rows are set aside; whether the slot waits.
    SetAside(bool),
    Read(Present),
    Locked,
    Changed,
    Failed {
        failure: Failure,
        error: StoreError,
        polls: usize,
    },
}

impl Writer {
    pub fn new(
        store: Store,
        committed: mpsc::UnboundedSender<Committed>,
        activity: Arc<Activity>,
        events: Arc<Health>,
    ) -> Self {
        Self { store, committed, activity, events, said: FailureLog::default(), refusal: None }
    }

    /// Performs a task that needs the database.
    pub async fn perform(&mut self, task: Task<'_, Kept>) -> Outcome {
        let polls: &[Kept] = match task {
            Task::Write(polls) | Task::Read(polls) => polls,
            Task::SetAside(poll, _) => std::slice::from_ref(poll),
            _ => &[],
        };
        let outcome = match task {
            Task::Read(polls) => self.read(polls).await,
            Task::SetAside(poll, pause) => self.set_aside(poll, pause).await,
            _ => self.write(polls).await,
        };
        match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                let class = error.sqlstate().unwrap_or_else(|| "none".to_owned());
                metrics::counter!("receiptd_flush_failures_total", "sqlstate" => class).increment(1);
                Outcome::Failed { failure: self.failure(&error, polls).await, error, polls: polls.len() }
            }
        }
    }

    /// Reports the outcome of a task.
    pub fn report(&mut self, outcome: Outcome, writing: &mut Writing<Kept>, now: Instant) {
        match outcome {
            Outcome::Wrote(changed) => writing.wrote(&changed),
            Outcome::SetAside(waits) => writing.set_aside(waits),
            Outcome::Locked => writing.found_locked(),
            Outcome::Changed => writing.found_changed(),
            Outcome::Read(present) => {
                let decided = writing.read(present);
                decided.committed.into_iter().for_each(|slot| self.tell(slot));
                self.count(&decided.stored.iter().collect::<Vec<_>>());
            }
            Outcome::Failed { failure, error, polls } => {
                if writing.failed(failure, now) {
                    self.said.failed(&error, polls);
                }
                self.refusal = Some(error);
            }
        }
    }

    async fn write(&mut self, polls: &[Kept]) -> Result<Outcome, StoreError> {
        let start = Instant::now();
        Ok(match flush(&self.store, polls).await? {
            Brief::Done(flushed) => Outcome::Wrote(self.wrote(polls, flushed, start.elapsed())),
            Brief::Held => Outcome::Locked,
            Brief::Changed => Outcome::Changed,
        })
    }

    async fn set_aside(&mut self, poll: &Kept, pause: TimeDelta) -> Result<Outcome, StoreError> {
        let (start, not_before) = (Instant::now(), self.store.clock().now() + pause);
        let Aside { flushed, rows, waits } = match write_apart(&self.store, poll, not_before).await? {
            Brief::Done(aside) => aside,
            Brief::Held => return Ok(Outcome::Locked),
            Brief::Changed => return Ok(Outcome::Changed),
        };
        metrics::counter!("receiptd_set_aside_total").increment(rows as u64);
        if let Some(refusal) = self.refusal.take().filter(|_| rows > 0) {
            self.said.refused(&self.store, &poll.recording, &refusal, rows).await;
        }
        self.wrote(std::slice::from_ref(poll), flushed, start.elapsed());
        Ok(Outcome::SetAside(waits))
    }

    async fn read(&self, polls: &[Kept]) -> Result<Outcome, StoreError> {
        let (mut slots, groups) = to_read(polls);
        let heard: Vec<(&GroupId, MsgSeq)> = polls.iter().flat_map(Kept::heard).collect();
        if !heard.is_empty() {
            slots.extend(self.store.slots_of_messages(&heard).await?.into_iter().map(|(_, slot)| slot));
        }
        let mut present = Present { slots: self.store.read_slots(&slots).await?, of_groups: vec![] };
        for group in groups {
            present.of_groups.extend(self.store.slots_of_group(group).await?);
        }
        Ok(Outcome::Read(present))
    }

    /// The consequence of a failure for the polls. Creates the partitions that they need, if one may be missing.
    async fn failure(&mut self, error: &StoreError, polls: &[Kept]) -> Failure {
        match (error, error.remedy()) {
            (StoreError::LeaseLost { .. }, _) => Failure::LeaseLost,
            (_, Remedy::Partition) if self.made_missing_partitions(polls).await => Failure::Mended,
            (_, Remedy::SetAside) if error.asks_for_another_attempt() => Failure::RefusedForNow,
            (_, Remedy::Partition | Remedy::SetAside) => Failure::Refused,
            _ if error.is_timeout() => Failure::TimedOut,
            _ => Failure::Other,
        }
    }

    /// Creates the partitions that the polls need. True if one was created.
    async fn made_missing_partitions(&mut self, polls: &[Kept]) -> bool {
        match self.store.ensure_partitions(&days(polls)).await {
            Ok(0) => false,
            Ok(made) => {
                tracing::warn!(
                    made,
                    "a daily partition was missing and has been created: the hourly job seems to have failed for days"
                );
                true
            }
            Err(error) => {
                self.said.unmade(&error);
                false
            }
        }
    }

    /// Counts a commit, and reports its results for the slots. Returns the changed ones.
    fn wrote(&mut self, polls: &[Kept], flushed: Flushed, took: Duration) -> HashSet<SlotKey> {
        let Flushed { committed, changed, dropped } = flushed;
        let stored: Vec<&Kept> = polls.iter().filter(|kept| !changed.contains(&kept.recording.slot)).collect();
        let wrong = stored.iter().filter(|kept| kept.is_slot_wrong());
        wrong.for_each(|kept| self.said.mended(kept.recording.slot));
        self.count(&stored);
        metrics::counter!("receiptd_receipts_dropped_total").increment(dropped as u64);
        metrics::histogram!("receiptd_flush_rows").record(stored.iter().map(|kept| kept.rows()).sum::<usize>() as f64);
        metrics::counter!("receiptd_flushes_total").increment(1);
        metrics::histogram!("receiptd_flush_seconds").record(took);
        committed.into_iter().for_each(|slot| self.tell(slot));
        changed
    }

    /// Counts the stored rows.
    fn count(&self, stored: &[&Kept]) {
        let recordings = || stored.iter().flat_map(|kept| kept.recordings());
        let snapshots: usize = recordings().map(|recording| recording.snapshots.len()).sum();
        let changes: usize = recordings().map(Recording::changes).sum();
        self.activity.stored(snapshots as u64, changes as u64, Instant::now());
        metrics::counter!("receiptd_snapshots_total").increment(snapshots as u64);
        metrics::counter!("receiptd_changes_total").increment(changes as u64);
        recordings().for_each(|recording| self.events.changed(recording.tally()));
    }

    fn tell(&self, slot: Committed) {
        // Without a poller, nobody needs to know.
        _ = self.committed.send(slot);
    }
}

fn days(polls: &[Kept]) -> Vec<NaiveDate> {
    let recordings = || polls.iter().flat_map(Kept::recordings);
    let polled = recordings().flat_map(|recording| recording.snapshots.iter().map(|snapshot| snapshot.polled_at));
    let called = recordings().flat_map(|recording| recording.attempts.iter().map(|call| call.called_at));
    let days: BTreeSet<NaiveDate> = polled.chain(called).map(|time| time.date_naive()).collect();
    days.into_iter().collect()
}
