//! Logs the recorder's problems: each kind once, and then once a minute.

use crate::{
    clock,
    logging::log_throttle::LogThrottle,
    rules::{recording::Recording, slot::SlotKey},
    store::{Store, StoreError},
};

/// The throttles by kind.
#[derive(Debug, Default)]
pub(crate) struct FailureLog {
    failed: LogThrottle,
    held: LogThrottle,
    refused: LogThrottle,
    unmade: LogThrottle,
    mended: LogThrottle,
}

impl FailureLog {
    /// A flush of this number of polls failed.
    pub fn failed(&mut self, error: &StoreError, polls: usize) {
        if let Some(count) = self.failed.happened(clock::uptime()) {
            let (cause, advice) = (error as &dyn std::error::Error, error.advice());
            let what = "storing results failed: retrying, while polling waits";
            tracing::error!(error = cause, count, polls, advice, "{what}");
        }
    }

    /// This number of polls wait for rows locked by other sessions.
    pub fn held(&mut self, polls: usize) {
        if let Some(count) = self.held.happened(clock::uptime()) {
            let what = "other sessions hold locks on rows that results belong to: polling waits until they are free";
            tracing::warn!(count, polls, "{what}");
        }
    }

    /// A part of a poll was set aside, since the tables had refused the whole with `refusal`.
    pub async fn refused(&mut self, store: &Store, recording: &Recording, refusal: &StoreError, rows: usize) {
        if let Some(count) = self.refused.happened(clock::uptime()) {
            let group = store.group_id(recording.slot.group_key).await.ok();
            let (cause, sqlstate) = (refusal as &dyn std::error::Error, refusal.sqlstate());
            let what = "the tables refused a result: it is kept in receiptd.set_aside, with the reason";
            tracing::error!(error = cause, count, group, sqlstate, rows, "{what}");
        }
    }

    /// A slot contained something other than a message, or a message twice.
    pub fn mended(&mut self, slot: SlotKey) {
        if let Some(count) = self.mended.happened(clock::uptime()) {
            let SlotKey { group_key, slot_id } = slot;
            let what = "a row of receiptd.poll_slots was edited and contained an invalid or duplicate message: it is \
                removed, and messages missing from it get another slot";
            tracing::warn!(count, group_key, slot_id, "{what}");
        }
    }

    /// A partition could not be created.
    pub fn unmade(&mut self, error: &StoreError) {
        error.log(&mut self.unmade, "a daily partition may be missing and could not be created");
    }
}
