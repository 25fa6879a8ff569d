//! When a slot is due again, and the reaction to failures in a row. Nothing here is written or closed.

use chrono::TimeDelta;

use super::poll::{Others, Poll, PollEnd};
use crate::{
    domain::Timestamp,
    rules::{
        cadence::{Cadence, Following, Phase},
        slot::{Slot, SlotMessage},
    },
};

/// Delay after a failed poll, doubled for each failure in a row, …
const RETRY_AFTER: TimeDelta = TimeDelta::seconds(10);

/// … up to this time, and no later than by the cadence.
pub(crate) const RETRY_AT_MOST: TimeDelta = TimeDelta::minutes(5);

/// Number of failed polls in a row from which the slot is at fault if others are answered: the delay is doubled
/// regardless of the cadence, …
pub(super) const TO_BLAME_FROM: i32 = 3;

/// … up to this time.
const RETRY_TO_BLAME_AT_MOST: TimeDelta = TimeDelta::hours(6);

/// When the slot was due after its last poll. Later changes of the schedule, by a failure or an owner's pause, don't
/// count: the messages should have been observed then. Messages that joined since were not there yet.
pub(super) fn due_by_cadence(slot: &Slot, cadence: &Cadence, phase: Phase) -> Timestamp {
    let was_there = |message: &&SlotMessage| {
        message.known_until.is_some() && (!message.known_apart || message.known_until >= slot.known_until)
    };
    let due = |last| {
        let there = slot.messages.iter().filter(was_there).map(SlotMessage::known);
        Following::from(cadence).due(phase, last, there)
    };
    slot.last_polled_at.and_then(due).unwrap_or(slot.next_poll_at)
}

/// Time until which the known counts of a message hold: when its next poll was due, in a slot that was due at `due_at`.
pub(super) fn carried_until(
    message: &SlotMessage,
    cadence: &Cadence,
    phase: Phase,
    due_at: Timestamp,
) -> Option<Timestamp> {
    let alone = Following::from(cadence).due(phase, message.known_until?, [message.known()])?;
    // With tiers alone each message is due by itself; at a pace the slot is due as a whole.
    Some(if cadence.pace().is_some() { alone.min(due_at) } else { alone })
}

/// Number of failed polls in a row. If others fail too, a failed poll counts as the first, which is enough for the
/// pause: no slot is at fault in an outage of any length.
pub(super) fn failures(slot: &Slot, poll: &Poll) -> i32 {
    match poll.end {
        PollEnd::Complete => 0,
        PollEnd::GivenUp if poll.others == Others::Failing => slot.failures.max(1),
        PollEnd::GivenUp => slot.failures.saturating_add(1),
        PollEnd::GroupFault(_) | PollEnd::Stopped => slot.failures,
    }
}

/// The delay after this many failures in a row.
pub(crate) fn pause(failures: i32) -> TimeDelta {
    doubled(failures - 1).min(RETRY_AT_MOST)
}

/// When a slot is due again after `poll`, if its messages are due by their cadence then; `None` if all of them are
/// expired.
pub(super) fn due(
    poll: &Poll,
    by_cadence: Option<Timestamp>,
    failures: i32,
    was_due: Timestamp,
    now: Timestamp,
) -> Timestamp {
    match poll.end {
        PollEnd::Complete => by_cadence.unwrap_or(now),
        PollEnd::GivenUp if failures >= TO_BLAME_FROM && poll.others == Others::Answered => {
            now + wait_of_one_to_blame(failures)
        }
        PollEnd::GivenUp => {
            let retry = now + pause(failures);
            by_cadence.map_or(retry, |due| due.min(retry))
        }
        // Unchanged: immediately when the group is resumed, or when the app calls again.
        PollEnd::GroupFault(_) | PollEnd::Stopped => was_due.min(now),
    }
}

/// The delay of a slot that fails while others are answered.
pub(super) fn wait_of_one_to_blame(failures: i32) -> TimeDelta {
    doubled(failures - TO_BLAME_FROM).min(RETRY_TO_BLAME_AT_MOST)
}

fn doubled(times: i32) -> TimeDelta {
    RETRY_AFTER * 2_i32.pow(times.clamp(0, 12).unsigned_abs())
}
