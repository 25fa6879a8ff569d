//! When readers are asked for again after a failure.

use chrono::TimeDelta;

use crate::rules::protocol::{Class, Failure};

/// Delay after a first failure, doubled by each further one, …
const FIRST: TimeDelta = TimeDelta::seconds(15);

/// … up to this time.
const LONGEST: TimeDelta = TimeDelta::hours(1);

/// Delay after a refusal of the group, which its polls notice too.
const GROUP: TimeDelta = TimeDelta::hours(1);

/// Delay before readers are asked for again, after `failures` earlier failures in a row; `None` to wait until the
/// counts change.
pub fn retry_after(failure: &Failure, failures: i16) -> Option<TimeDelta> {
    match failure.class {
        Class::Message => None,
        Class::GroupFault => Some(GROUP),
        _ => Some(repeated_after(failures)),
    }
}

/// Delay before the next attempt after a failure of unknown cause, after `failures` earlier ones in a row.
pub fn repeated_after(failures: i16) -> TimeDelta {
    (FIRST * 2_i32.pow(u32::from(failures.clamp(0, 10).unsigned_abs()))).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_repeated_more_and_more_rarely() {
        let after = |class, failures| retry_after(&Failure::new(class, None, ""), failures);
        assert_eq!(after(Class::Retry, 0), Some(TimeDelta::seconds(15)));
        assert_eq!(after(Class::Unknown, 2), Some(TimeDelta::seconds(60)));
        assert_eq!(after(Class::AppFault, i16::MAX), Some(LONGEST));
        assert_eq!(after(Class::GroupFault, 0), Some(GROUP));
        assert_eq!(after(Class::Message, 0), None);
    }
}
