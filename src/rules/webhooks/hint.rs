//! When slots are polled because of events that tell no counts. Such events may be frequent, so they must never make a
//! slot due again and again.

use chrono::TimeDelta;

use crate::domain::Timestamp;

/// Minimum time between a slot's last poll and one that an event asks for.
const AGAIN: TimeDelta = TimeDelta::seconds(10);

/// The same after members have joined or left: that is frequent, and changes little.
const AFTER_MEMBERS: TimeDelta = TimeDelta::seconds(60);

/// Then polls become at most this many times as frequent.
const OFTENER: i32 = 4;

/// What happened, as a poll has to confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// A message was recalled, or a group dissolved.
    Gone,
    /// Members have joined a group or left it, so that the counts of its messages may have changed.
    Members,
}

impl Hint {
    /// When a slot is due that was last polled at `polled_at`, if it was, and would be due at `next`.
    pub fn due(self, polled_at: Option<Timestamp>, next: Timestamp, now: Timestamp) -> Timestamp {
        let Some(polled_at) = polled_at else { return now };
        let wait = match self {
            Self::Gone => AGAIN,
            Self::Members => ((next - polled_at) / OFTENER).max(AFTER_MEMBERS),
        };
        now.max(polled_at + wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_due_soon_but_not_at_once_again() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let due = |hint: Hint, polled_ago: i64, next_in: i64| {
            let at = |seconds| now + TimeDelta::seconds(seconds);
            (hint.due(Some(at(-polled_ago)), at(next_in), now) - now).num_seconds()
        };
        for (hint, polled_ago, next_in, expected) in [
            (Hint::Gone, 3, 3_600, 7),
            (Hint::Gone, 60, 3_600, 0),
            (Hint::Members, 20, 100, 40),
            (Hint::Members, 61, 100, 0),
            (Hint::Members, 0, 86_400, 21_600),
            (Hint::Members, 86_000, 400, 0),
            (Hint::Members, 10, -100, 50),
        ] {
            assert_eq!(due(hint, polled_ago, next_in), expected, "{hint:?} {polled_ago} {next_in}");
        }
        assert_eq!(Hint::Members.due(None, now + TimeDelta::days(1), now), now);
    }
}
