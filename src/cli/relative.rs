//! Times relative to now, as text.

use receiptd::{domain::Timestamp, text::duration};

/// The time between then and now.
pub fn since(then: Timestamp, now: Timestamp) -> String {
    duration::roughly((now - then).to_std().unwrap_or_default())
}

/// How far a time lies ahead, or back.
pub fn when(at: Timestamp, now: Timestamp) -> String {
    if at > now { format!("in {}", since(now, at)) } else { format!("{} ago", since(at, now)) }
}
