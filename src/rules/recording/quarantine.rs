//! Which polls quarantine a group, or release it.

use chrono::TimeDelta;

use super::poll::{Poll, PollEnd};
use crate::{
    domain::Timestamp,
    rules::{
        protocol::error_class::{Code, remedy},
        slot::{GroupState, Slot},
    },
};

/// Delay until a quarantined group is probed.
pub(super) const PROBE_GROUP_AFTER: TimeDelta = TimeDelta::hours(6);

/// The same for a group that no longer exists.
pub(super) const PROBE_GONE_AFTER: TimeDelta = TimeDelta::hours(24);

/// The change of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupChange {
    /// It is refused and not polled until a probe succeeds or an operator resumes it.
    Quarantine {
        /// The error code.
        code: i64,
        /// The reason as text.
        reason: String,
        /// When it is probed; `None`: only after it is resumed.
        probe_at: Option<Timestamp>,
    },
    /// A probe succeeded.
    Release,
}

/// The change that the poll makes to the group of its slot.
pub(super) fn group_change(slot: &Slot, poll: &Poll, now: Timestamp) -> Option<GroupChange> {
    match &poll.end {
        PollEnd::GroupFault(failure) => {
            let code = failure.code.unwrap_or_default();
            let after =
                if Code::of(code).is_some_and(|known| known.is_final) { PROBE_GONE_AFTER } else { PROBE_GROUP_AFTER };
            let probe_at = Some(now + after);
            let remedy = remedy(code).unwrap_or("Tencent Chat refuses the group");
            Some(GroupChange::Quarantine { code, reason: format!("{remedy} ({})", failure.info), probe_at })
        }
        // Without an attempt the slot was empty, and nothing is known about the group.
        PollEnd::Complete if slot.group_state == GroupState::Quarantined && !poll.attempts.is_empty() => {
            Some(GroupChange::Release)
        }
        _ => None,
    }
}
