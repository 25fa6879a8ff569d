//! `[limits]`: how much applications may watch.

use serde::Deserialize;

use super::problem::Problems;
use crate::domain::Bounds;

/// The keys of the section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// Maximum number of messages in one call of `watch_messages` or `unwatch_messages`.
    messages_per_call: Option<String>,
    /// Maximum number of active messages.
    messages: Option<String>,
    /// Maximum number of watched groups.
    groups: Option<String>,
}

impl Keys {
    pub fn validate(self, problems: &mut Problems) -> Bounds {
        let default = Bounds::default();
        Bounds {
            messages_per_call: problems.number(
                "limits.messages_per_call",
                self.messages_per_call,
                default.messages_per_call,
                1..=10_000_000,
            ),
            messages: problems.number("limits.messages", self.messages, default.messages, 1..=1_000_000_000_000),
            groups: problems.number("limits.groups", self.groups, default.groups, 1..=2_000_000_000),
        }
    }
}
