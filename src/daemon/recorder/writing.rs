//! Writing a batch: as a whole, decided again, or in parts, until it is stored or the recorder gives up.

use std::collections::{BTreeSet, HashSet};

use chrono::NaiveDate;
use tokio::time::{Instant, sleep};

use super::{FIRST_WAIT, LONGEST_WAIT, Lost, Reason, Recorder, WriteMode, stored::rows};
use crate::{
    rules::{
        recording::{Kept, pause},
        slot::SlotKey,
    },
    store::{Brief, Flushed, Remedy, StoreError, flush, write_apart},
};

/// The result for a batch.
enum Written {
    /// It is stored, except for the polls of these slots, which were changed.
    Done(HashSet<SlotKey>),
    /// It has been decided again, and has to be written.
    Decided(Vec<Kept>),
    /// Another session has locked one of its rows.
    Held,
    /// Something that it was decided on has changed.
    Changed,
    /// The tables refuse something in it.
    Refused(StoreError),
    /// It exceeded its deadline.
    TookTooLong,
}

impl Recorder {
    /// Writes polls in batches, however long it takes; polls not written by `until` are postponed. Locked and refused
    /// rows are found by halving.
    pub(super) async fn write(&mut self, polls: Vec<Kept>, until: Option<Instant>) -> Result<(), Lost> {
        let mut parts = vec![(polls, WriteMode::Whole)];
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
                parts.push((part, if matches!(how, WriteMode::Anew) { WriteMode::Anew } else { WriteMode::Whole }));
            }
            let written = self.write_part(&batch, &how).await.map_err(|reason| {
                let others: usize = parts.iter().map(|(part, _)| part.len()).sum();
                Lost { reason, recordings: batch.len() + others }
            })?;
            parts.extend(self.after(batch, how, written));
        }
        Ok(())
    }

    /// The part of a batch that remains to be written.
    fn after(&mut self, mut batch: Vec<Kept>, how: WriteMode, written: Written) -> Vec<(Vec<Kept>, WriteMode)> {
        let several = batch.len() > 1;
        match written {
            Written::Done(changed) => {
                self.size.ended_in_time();
                batch.retain(|kept| changed.contains(&kept.recording.slot));
                vec![(batch, WriteMode::Anew)]
            }
            Written::Decided(decided) => vec![(decided, WriteMode::Whole)],
            Written::Held | Written::Changed | Written::Refused(_) if several => {
                let second = batch.split_off(batch.len() / 2);
                vec![(second, WriteMode::Whole), (batch, WriteMode::Whole)]
            }
            Written::Held => {
                self.left.append(&mut batch);
                vec![]
            }
            Written::Changed => vec![(batch, WriteMode::Anew)],
            Written::Refused(refusal) => vec![(batch, WriteMode::Apart(refusal))],
            Written::TookTooLong => {
                self.size.took_too_long(batch.iter().map(rows).sum());
                vec![(batch, how)]
            }
        }
    }

    /// Writes one part until it is written, refused, or found to be too large. The error is the reason to give up.
    async fn write_part(&mut self, part: &[Kept], how: &WriteMode) -> Result<Written, Reason> {
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
                (Remedy::Partition | Remedy::SetAside, WriteMode::Whole) => return Ok(Written::Refused(error)),
                _ => {}
            }
            self.said.failed(&error, part.len());
            self.set_stuck(true);
            if error.is_timeout() && part.len() > 1 {
                return Ok(Written::TookTooLong);
            }
            if self.settings.flush_deadline.run_until_cancelled(sleep(wait)).await.is_none() {
                return Err(Reason::Stopped);
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn attempt(&mut self, part: &[Kept], how: &WriteMode) -> Result<Written, StoreError> {
        let start = Instant::now();
        let flushed = match (how, part) {
            (WriteMode::Anew, _) => return self.decide_anew(part).await.map(Written::Decided),
            (WriteMode::Apart(refusal), [kept]) => self.write_apart(kept, refusal).await?,
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

    /// Creates the partitions that the batch needs, if one may be missing. True if one was created.
    async fn made_missing_partitions(&mut self, recordings: &[Kept]) -> bool {
        match self.store.ensure_partitions(&days(recordings)).await {
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
}

fn days(polls: &[Kept]) -> Vec<NaiveDate> {
    let recordings = || polls.iter().flat_map(Kept::recordings);
    let polled = recordings().flat_map(|recording| recording.snapshots.iter().map(|snapshot| snapshot.polled_at));
    let called = recordings().flat_map(|recording| recording.attempts.iter().map(|call| call.called_at));
    let days: BTreeSet<NaiveDate> = polled.chain(called).map(|time| time.date_naive()).collect();
    days.into_iter().collect()
}
