//! The one place that reads the wall clock. Decisions take `now` as an argument instead.

use chrono::{SubsecRound, Utc};

use crate::domain::Timestamp;

/// The time of the system clock, to the microsecond that Postgres keeps.
#[expect(clippy::disallowed_methods, reason = "this is the place that the ban points to")]
pub fn now() -> Timestamp {
    Utc::now().trunc_subsecs(6)
}
