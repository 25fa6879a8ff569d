//! Counts attempts, and measures how late polls are.
//!
//! Metrics of every call have a handle that is looked up once, since the lookup takes longer than counting.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use ::metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

use crate::{
    domain::Timestamp,
    rules::{
        cadence::Cadences,
        protocol::{Attempt, Class},
        slot::Slot,
    },
};

/// Maximum number of unknown codes counted under their own names.
const UNKNOWN_CODES: usize = 1_000;

/// The metrics of attempts and polls.
#[derive(Debug)]
pub(super) struct Metrics {
    /// Calls with receipts for all messages.
    succeeded: Counter,
    asked: Counter,
    seconds: Histogram,
    messages: Histogram,
    /// It must not exist before the first success.
    last_success: OnceLock<Gauge>,
    /// Lateness of polls, by cadence and tier.
    lag: Mutex<BTreeMap<String, BTreeMap<Arc<str>, Gauge>>>,
}

impl Metrics {
    /// Handles of the currently installed recorder.
    pub(super) fn new() -> Self {
        Self {
            succeeded: calls(Class::Success, "0".to_owned()),
            asked: counter!("receiptd_messages_asked_total"),
            seconds: histogram!("receiptd_call_seconds"),
            messages: histogram!("receiptd_call_messages"),
            last_success: OnceLock::new(),
            lag: Mutex::default(),
        }
    }

    /// Counts an attempt by class and code.
    pub(super) fn count(&self, attempt: &Attempt) {
        /// Shared by the whole process, like the metrics.
        static UNKNOWN: Mutex<BTreeSet<i64>> = Mutex::new(BTreeSet::new());
        match attempt.class() {
            Class::Success => self.succeeded.increment(1),
            class => {
                let code = label(attempt.code(), &mut UNKNOWN.lock().unwrap_or_else(PoisonError::into_inner));
                calls(class, code).increment(1);
            }
        }
        self.asked.increment(attempt.asked as u64);
        self.seconds.record(attempt.latency);
        self.messages.record(attempt.asked as f64);
        if attempt.outcome.is_ok() {
            let gauge = self.last_success.get_or_init(|| gauge!("receiptd_last_success_timestamp_seconds"));
            gauge.set(attempt.ended_at.timestamp_millis() as f64 / 1e3);
        }
    }

    /// Notes the lateness of a slot's poll that begins at `now`, by its cadence and the tier of its youngest message.
    pub(super) fn note_lag(&self, slot: &Slot, cadences: &Cadences, now: Timestamp) -> Duration {
        let late_by = (now - slot.next_poll_at).to_std().unwrap_or_default();
        let (cadence, policy) = cadences.named(slot.cadence.as_deref());
        if let Some(youngest) = slot.messages.iter().map(|message| message.sent_at).max() {
            self.set_lag(cadence, policy.tier_name(youngest, now), late_by.as_secs_f64());
        }
        late_by
    }

    fn set_lag(&self, cadence: &str, tier: &Arc<str>, seconds: f64) {
        let mut lag = self.lag.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gauge) = lag.get(cadence).and_then(|tiers| tiers.get(tier)) {
            return gauge.set(seconds);
        }
        let gauge = gauge!("receiptd_due_lag_seconds", "cadence" => cadence.to_owned(), "tier" => tier.clone());
        gauge.set(seconds);
        lag.entry(cadence.to_owned()).or_default().insert(tier.clone(), gauge);
    }
}

fn calls(class: Class, code: String) -> Counter {
    counter!("receiptd_calls_total", "class" => class.name(), "code" => code)
}

/// The label of a code. Codes come from outside: a service that invents new ones must fill neither the memory nor the
/// metrics' store.
fn label(code: Option<i64>, unknown: &mut BTreeSet<i64>) -> String {
    let Some(code) = code else { return "none".to_owned() };
    let is_known = Class::of_code(code) != Class::Unknown || unknown.contains(&code);
    if is_known || (unknown.len() < UNKNOWN_CODES && unknown.insert(code)) {
        return code.to_string();
    }
    "other".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ever_new_codes_are_counted_under_a_bounded_number_of_names() {
        let mut unknown = BTreeSet::new();
        let labels: BTreeSet<String> = (1_000_000..1_005_000).map(|code| label(Some(code), &mut unknown)).collect();
        assert_eq!(labels.len(), UNKNOWN_CODES + 1);
        let label = |code| label(code, &mut unknown.clone());
        assert_eq!(label(Some(1_000_000)), "1000000", "the first ones keep their names");
        assert_eq!([label(Some(1_004_000)), label(Some(10002)), label(None)], ["other", "10002", "none"]);
    }
}
