//! Counts attempts, and tells how late polls are.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{
    cadence::Cadences,
    chat::{Attempt, Class},
    domain::Timestamp,
    slot::Slot,
};

/// So many codes that receiptd does not know are counted under their own names.
const UNKNOWN_CODES: usize = 1_000;

/// Counts one attempt by class and code.
pub(super) fn count(attempt: &Attempt) {
    /// Of the whole process, as what is counted is.
    static UNKNOWN: Mutex<BTreeSet<i64>> = Mutex::new(BTreeSet::new());
    let code = label(attempt.code(), &mut UNKNOWN.lock().unwrap_or_else(PoisonError::into_inner));
    ::metrics::counter!("receiptd_calls_total", "class" => attempt.class().name(), "code" => code).increment(1);
    ::metrics::counter!("receiptd_messages_asked_total").increment(attempt.asked as u64);
    ::metrics::histogram!("receiptd_call_seconds").record(attempt.latency);
    ::metrics::histogram!("receiptd_call_messages").record(attempt.asked as f64);
    if attempt.outcome.is_ok() {
        let ended_at = attempt.ended_at.timestamp_millis() as f64 / 1e3;
        ::metrics::gauge!("receiptd_last_success_timestamp_seconds").set(ended_at);
    }
}

/// What a code is counted under. Codes come from outside: a service that makes up ever new ones must fill neither the memory nor
/// whoever collects the metrics.
fn label(code: Option<i64>, unknown: &mut BTreeSet<i64>) -> String {
    let Some(code) = code else { return "none".to_owned() };
    let is_known = Class::of_code(code) != Class::Unknown || unknown.contains(&code);
    if is_known || (unknown.len() < UNKNOWN_CODES && unknown.insert(code)) {
        return code.to_string();
    }
    "other".to_owned()
}

/// Notes how late the poll of a slot is that begins at `now`, by its cadence and the tier of its youngest message.
pub(super) fn note_lag(slot: &Slot, cadences: &Cadences, now: Timestamp) -> Duration {
    let late_by = (now - slot.next_poll_at).to_std().unwrap_or_default();
    let (cadence, policy) = cadences.named(slot.cadence.as_deref());
    if let Some(youngest) = slot.messages.iter().map(|message| message.sent_at).max() {
        let (cadence, tier) = (cadence.to_owned(), policy.tier_name(youngest, now).clone());
        ::metrics::gauge!("receiptd_due_lag_seconds", "cadence" => cadence, "tier" => tier).set(late_by.as_secs_f64());
    }
    late_by
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
