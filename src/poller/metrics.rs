//! Counts attempts.

use crate::chat::Attempt;

/// Counts one attempt by class and code.
pub(super) fn count(attempt: &Attempt) {
    let code = match &attempt.outcome {
        Ok(_) => "0".to_owned(),
        Err(failure) => failure.code.map_or_else(|| "none".to_owned(), |code| code.to_string()),
    };
    ::metrics::counter!("receiptd_calls_total", "class" => attempt.class().name(), "code" => code).increment(1);
    ::metrics::counter!("receiptd_messages_asked_total").increment(attempt.asked as u64);
    ::metrics::histogram!("receiptd_call_seconds").record(attempt.latency);
}
