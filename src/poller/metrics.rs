//! Counts attempts, and tells how late polls are.

use std::time::Duration;

use crate::{cadence::Cadences, chat::Attempt, domain::Timestamp, slot::Slot};

/// Counts one attempt by class and code.
pub(super) fn count(attempt: &Attempt) {
    let code = match &attempt.outcome {
        Ok(_) => "0".to_owned(),
        Err(failure) => failure.code.map_or_else(|| "none".to_owned(), |code| code.to_string()),
    };
    ::metrics::counter!("receiptd_calls_total", "class" => attempt.class().name(), "code" => code).increment(1);
    ::metrics::counter!("receiptd_messages_asked_total").increment(attempt.asked as u64);
    ::metrics::histogram!("receiptd_call_seconds").record(attempt.latency);
    ::metrics::histogram!("receiptd_call_messages").record(attempt.asked as f64);
    if attempt.outcome.is_ok() {
        let ended_at = attempt.ended_at.timestamp_millis() as f64 / 1e3;
        ::metrics::gauge!("receiptd_last_success_timestamp_seconds").set(ended_at);
    }
}

/// Notes how late the poll of a slot is that begins at `now`, by its cadence and the tier of its youngest message.
pub(super) fn note_lag(slot: &Slot, cadences: &Cadences, now: Timestamp) -> Duration {
    let late_by = (now - slot.next_poll_at).to_std().unwrap_or_default();
    let (cadence, policy) = cadences.named(slot.cadence.as_deref());
    if let Some(youngest) = slot.messages.iter().map(|message| message.sent_at).max() {
        let labels = [("cadence", cadence.to_owned()), ("tier", policy.tier_name(youngest, now))];
        ::metrics::gauge!("receiptd_due_lag_seconds", &labels).set(late_by.as_secs_f64());
    }
    late_by
}
