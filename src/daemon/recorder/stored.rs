//! After polls are stored: counts them, and reports the slots to the schedule.

use std::{collections::HashSet, time::Duration};

use super::{Recorder, WriteMode};
use crate::{
    rules::{
        recording::{Kept, Recording},
        slot::SlotKey,
    },
    store::{Committed, Flushed},
};

impl Recorder {
    /// Reports the results for the slots. Returns the changed ones.
    pub(super) fn committed(
        &mut self,
        part: &[Kept],
        flushed: Flushed,
        how: &WriteMode,
        took: Duration,
    ) -> HashSet<SlotKey> {
        let Flushed { committed, changed, dropped } = flushed;
        let stored: Vec<&Kept> = part.iter().filter(|kept| !changed.contains(&kept.recording.slot)).collect();
        if matches!(how, WriteMode::Whole) {
            stored.iter().for_each(|kept| _ = self.refusals.remove(&kept.recording.slot));
        }
        let wrong = stored.iter().filter(|kept| kept.is_slot_wrong());
        wrong.for_each(|kept| self.said.mended(kept.recording.slot));
        self.count(&stored);
        metrics::counter!("receiptd_receipts_dropped_total").increment(dropped as u64);
        metrics::histogram!("receiptd_flush_rows").record(stored.iter().map(|kept| rows(kept)).sum::<usize>() as f64);
        metrics::counter!("receiptd_flushes_total").increment(1);
        metrics::histogram!("receiptd_flush_seconds").record(took);
        committed.into_iter().for_each(|slot| self.tell(slot));
        changed
    }

    /// Counts what was stored.
    pub(super) fn count(&self, stored: &[&Kept]) {
        let recordings = || stored.iter().flat_map(|kept| kept.recordings());
        let snapshots: usize = recordings().map(|recording| recording.snapshots.len()).sum();
        let changes: usize = recordings().map(Recording::changes).sum();
        self.settings.activity.stored(snapshots as u64, changes as u64, std::time::Instant::now());
        metrics::counter!("receiptd_snapshots_total").increment(snapshots as u64);
        metrics::counter!("receiptd_changes_total").increment(changes as u64);
    }

    pub(super) fn tell(&self, slot: Committed) {
        // Without a poller, nobody needs to know.
        _ = self.settings.committed.send(slot);
    }
}

/// Maximum number of rows that a poll writes.
pub(super) fn rows(kept: &Kept) -> usize {
    let of = |recording: &Recording| recording.snapshots.len() + recording.attempts.len();
    let closed = kept.recording.messages.iter().filter(|change| change.closed.is_some()).count();
    1 + closed + kept.unwatched().count() + kept.recordings().map(of).sum::<usize>()
}
