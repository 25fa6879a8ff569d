//! Counts of webhooks and their results since the start, for people and metrics. Decides nothing.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::HumanCount;
use serde::Serialize;

use crate::{
    domain::Timestamp,
    rules::webhooks::{Refusal, Tally, Trust},
    text::counted::counted,
};

/// How long an alert about the limit stays valid: Tencent Chat repeats it while that lasts.
const OVER_LIMIT_FOR: Duration = Duration::from_secs(600);

/// Why an event was dropped. Polls find its changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Its body is larger than 64 KB.
    TooLarge,
    /// Its body did not arrive in time.
    TooSlow,
    /// Its body is not a JSON object.
    Unreadable,
    /// Too many events were waiting.
    NoRoom,
    /// Its message or group is not watched, or not yet scheduled.
    Unwatched,
}

impl Dropped {
    /// All reasons.
    pub const ALL: [Self; 5] = [Self::TooLarge, Self::TooSlow, Self::Unreadable, Self::NoRoom, Self::Unwatched];

    /// The value of the label `reason` of `receiptd_webhooks_dropped_total`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::TooSlow => "too_slow",
            Self::Unreadable => "unreadable",
            Self::NoRoom => "no_room",
            Self::Unwatched => "unwatched",
        }
    }
}

/// Counts the results of webhooks.
#[derive(Debug, Default)]
pub struct Health {
    received: AtomicU64,
    refused: AtomicU64,
    dropped: AtomicU64,
    told: AtomicU64,
    untold: AtomicU64,
    late: AtomicU64,
    last_at: Mutex<Option<Timestamp>>,
    calls: Mutex<Option<(OverLimit, Instant)>>,
    trust: Mutex<Trust>,
}

/// The rate of calls for read receipts of this app, as Tencent Chat counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct OverLimit {
    /// Calls per second.
    pub calls: u32,
    /// Maximum number of calls per second.
    pub limit: u32,
}

/// The state of webhooks, as in `/status.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WebhookReport {
    /// Webhooks with a valid signature.
    pub received: u64,
    /// Requests without one.
    pub refused: u64,
    /// Webhooks, or parts of them, that were not recorded.
    pub dropped: u64,
    /// Read counts that changed and were reported by events first.
    pub told: u64,
    /// Read counts that changed and were only found by polls.
    pub untold: u64,
    /// Counts in events that were already known.
    pub late: u64,
    /// Fraction of changes that only polls find, which decides how rare polls become.
    pub untold_share: f64,
    /// When the last webhook with a valid signature arrived.
    pub last_at: Option<Timestamp>,
    /// Whether polls find changes while webhooks report none.
    pub is_silent: bool,
    /// The rate of calls as Tencent Chat counts it, if it was reported within ten minutes.
    pub over_limit: Option<OverLimit>,
}

impl Health {
    /// Counts a webhook with a valid signature.
    pub(crate) fn received(&self, at: Timestamp) {
        self.received.fetch_add(1, Ordering::Relaxed);
        *self.last_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
        metrics::gauge!("receiptd_last_webhook_timestamp_seconds").set(at.timestamp_millis() as f64 / 1_000.0);
    }

    /// Counts a refused request.
    pub(crate) fn refused(&self, why: Refusal) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("receiptd_webhooks_refused_total", "reason" => why.name()).increment(1);
    }

    /// Counts webhooks, or entries of webhooks, that were not recorded.
    pub(crate) fn dropped(&self, why: Dropped, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
        metrics::counter!("receiptd_webhooks_dropped_total", "reason" => why.name()).increment(count);
    }

    /// Counts stored changes.
    pub(crate) fn changed(&self, tally: Tally) {
        if tally == Tally::default() {
            return;
        }
        self.trust().add(tally);
        for (sum, count, found_by) in [(&self.told, tally.told, "webhook"), (&self.untold, tally.untold, "poll")] {
            sum.fetch_add(count.into(), Ordering::Relaxed);
            metrics::counter!("receiptd_read_changes_total", "found_by" => found_by).increment(count.into());
        }
    }

    /// How far events are trusted.
    pub(crate) fn trust(&self) -> MutexGuard<'_, Trust> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts events with counts that were already known.
    pub(crate) fn late(&self, count: u64) {
        self.late.fetch_add(count, Ordering::Relaxed);
        metrics::counter!("receiptd_webhook_counts_late_total").increment(count);
    }

    /// Notes the rate of calls that Tencent Chat counts.
    pub(crate) fn over_limit(&self, counted: OverLimit, now: Instant) {
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner) = Some((counted, now));
    }

    /// The totals at `now`.
    pub fn report(&self, now: Instant) -> WebhookReport {
        let over_limit = *self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let trust = *self.trust();
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        WebhookReport {
            received: count(&self.received),
            refused: count(&self.refused),
            dropped: count(&self.dropped),
            told: count(&self.told),
            untold: count(&self.untold),
            late: count(&self.late),
            last_at: *self.last_at.lock().unwrap_or_else(PoisonError::into_inner),
            untold_share: trust.untold(),
            is_silent: trust.is_silent(),
            over_limit: over_limit.filter(|(_, at)| now < *at + OVER_LIMIT_FOR).map(|(counted, _)| counted),
        }
    }
}

/// One line, for people.
impl fmt::Display for WebhookReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} found by polls alone; {}, {}, {} without a valid signature",
            counted(self.told, "change") + " reported",
            HumanCount(self.untold),
            counted(self.received, "webhook"),
            counted(self.dropped, "count") + " dropped",
            counted(self.refused, "request"),
        )?;
        if self.is_silent {
            f.write_str("; warning: webhooks are silent while polls find changes: check the URL, token and ticks in the Chat console")?;
        }
        self.over_limit.iter().try_for_each(|OverLimit { calls, limit }| {
            write!(f, "; Tencent Chat counts {calls} calls/s of at most {limit}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_webhooks_bring() {
        let (health, now) = (Health::default(), Instant::now());
        assert_eq!(
            health.report(now).to_string(),
            "0 changes reported, 0 found by polls alone; 0 webhooks, 0 counts dropped, 0 requests without a valid signature"
        );
        health.changed(Tally { told: 1, untold: 2 });
        health.received(Timestamp::UNIX_EPOCH);
        health.over_limit(OverLimit { calls: 240, limit: 200 }, now);
        assert_eq!(
            health.report(now).to_string(),
            "1 change reported, 2 found by polls alone; 1 webhook, 0 counts dropped, 0 requests without a valid signature; \
             Tencent Chat counts 240 calls/s of at most 200"
        );
        assert_eq!(health.report(now + OVER_LIMIT_FOR).over_limit, None, "it has not been repeated");
        health.changed(Tally { told: 0, untold: 500 });
        assert!(health.report(now).to_string().contains("webhooks are silent while polls find changes"));
    }
}
