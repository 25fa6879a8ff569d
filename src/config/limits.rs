//! `[limits]`: how much applications may watch.

use super::section::Section;
use crate::domain::Bounds;

pub(super) fn read(section: &mut Section<'_>) -> Bounds {
    let default = Bounds::default();
    Bounds {
        messages_per_call: section.number("messages_per_call", default.messages_per_call, 1..=10_000_000),
        messages: section.number("messages", default.messages, 1..=1_000_000_000_000),
        groups: section.number("groups", default.groups, 1..=2_000_000_000),
    }
}
