//! A poll that is written.

use crate::{
    domain::MsgSeq,
    rules::recording::{Kept, Outcome, Recording},
    store::slot_rows::SlotRow,
};

/// A poll and its effect on the messages.
#[derive(Debug)]
pub(in crate::store) struct Item<'k> {
    pub kept: &'k Kept,
    pub outcome: Outcome,
}

impl<'k> Item<'k> {
    /// A poll without the messages in `refused`.
    pub fn of(kept: &'k Kept, refused: &[MsgSeq]) -> Self {
        Self { kept, outcome: kept.outcome(refused) }
    }

    pub fn recording(&self) -> &'k Recording {
        &self.kept.recording
    }

    pub fn slot(&self) -> SlotRow<'_> {
        let recording = self.recording();
        SlotRow {
            key: recording.slot,
            version: self.kept.version(),
            next_poll_at: recording.next_poll_at,
            last_polled_at: recording.last_polled_at,
            known_until: recording.known_until,
            last_called_at: self.kept.last_called_at(),
            quiet_polls: recording.quiet_polls,
            failures: recording.failures,
            contents: &self.outcome.contents,
        }
    }
}
