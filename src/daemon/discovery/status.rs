//! The public status of discovery.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;

use crate::{clock, domain::Timestamp, rules::discovery::Passed, store::DiscoveryTotals};

/// The state of discovery.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DiscoveryReport {
    /// Number of groups that it follows.
    pub groups: usize,
    /// Whether there are more groups than `discovery.groups` allows.
    pub is_full: bool,
    /// When all lists were last read to their end.
    pub listed_at: Option<Timestamp>,
    /// Time for which the most overdue group has been due, in seconds.
    pub behind_seconds: f64,
    /// Number of discovered messages that are polled, as last counted.
    pub active: i64,
    /// Totals of its work, as last counted.
    pub totals: DiscoveryTotals,
    /// Fraction of discovered messages that have a receipt, from 0 to 1; `None` if none was polled.
    pub receipt_share: Option<f64>,
}

/// The status, kept up to date by discovery. Empty while it is not running.
#[derive(Debug, Default)]
pub struct DiscoveryStatus(Mutex<Option<DiscoveryReport>>);

impl DiscoveryStatus {
    /// The state; `None` if it is not running.
    pub fn report(&self) -> Option<DiscoveryReport> {
        self.lock().clone()
    }

    /// Notes that discovery runs, or has ended.
    pub(crate) fn runs(&self, runs: bool) {
        *self.lock() = runs.then(DiscoveryReport::default);
    }

    pub(super) fn follows(&self, groups: usize) {
        self.change(|report| report.groups = groups);
    }

    pub(super) fn is_full(&self) {
        self.change(|report| report.is_full = true);
    }

    pub(super) fn listed(&self) {
        self.change(|report| report.listed_at = Some(clock::now()));
    }

    pub(super) fn is_behind(&self, behind: Duration) {
        self.change(|report| report.behind_seconds = behind.as_secs_f64());
    }

    pub(super) fn counted(&self, totals: DiscoveryTotals, active: i64) {
        self.change(|report| {
            (report.totals, report.active, report.receipt_share) = (totals, active, totals.receipt_share());
        });
    }

    pub(super) fn watched(&self, watched: u64, passed: &HashMap<Passed, u64>) {
        metrics::counter!("receiptd_discovered_messages_total").increment(watched);
        for (why, count) in passed {
            metrics::counter!("receiptd_passed_messages_total", "reason" => why.name()).increment(*count);
        }
    }

    fn change(&self, change: impl FnOnce(&mut DiscoveryReport)) {
        if let Some(report) = self.lock().as_mut() {
            change(report);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<DiscoveryReport>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
