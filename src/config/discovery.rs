//! `[discovery]`: which groups and messages are watched without being added to the watch list.

use chrono::TimeDelta;

use super::section::Section;
use crate::{
    domain::GroupType,
    rules::{
        cadence::{Cadences, DEFAULT},
        discovery::{Discovery as Rules, Selection, Wanted},
    },
};

/// The longest history that Tencent Chat keeps.
const LONGEST_HISTORY: TimeDelta = TimeDelta::days(90);

/// The types with receipts.
const TYPES: [GroupType; 3] = [GroupType::Private, GroupType::Public, GroupType::ChatRoom];

/// Whether and what to discover.
#[derive(Debug, Clone, PartialEq)]
pub struct Discovery {
    /// Whether it is switched on.
    pub enabled: bool,
    /// What is watched.
    pub rules: Rules,
}

/// `cadences` are the configured ones, if they are valid.
pub(super) fn read(section: &mut Section<'_>, cadences: Option<&Cadences>) -> Discovery {
    let enabled = section.flag("enabled", false);
    let selection = Selection {
        types: section.list("types").unwrap_or_else(|| TYPES.to_vec()),
        include: section.list("include").unwrap_or_default(),
        exclude: section.list("exclude").unwrap_or_default(),
        ids: section.list("ids").unwrap_or_default().into_iter().collect(),
    };
    if enabled && selection.types.is_empty() && selection.ids.is_empty() {
        section.refuse_silently("types", "selects no group: name types, or groups in discovery.ids");
    }
    let since = "use \"new\", or a duration of at most 90d such as \"2d\"";
    let not_before = "use a time such as \"2026-01-31T00:00:00Z\"";
    let wanted = Wanted {
        since: section.parsed("since", TimeDelta::zero(), since, span),
        not_before: section.parsed("not_before", None, not_before, |text| text.parse().ok().map(Some)),
    };
    let cadence = section.text("cadence").filter(|name| name != DEFAULT);
    if let (Some(name), Some(cadences)) = (&cadence, cadences)
        && !cadences.has(name)
    {
        section.refuse("cadence", name, format!("is not configured: add a section [cadence.{name}]"));
    }
    let rules = Rules {
        selection,
        wanted,
        cadence,
        groups: section.number("groups", 100_000, 1..=10_000_000),
        messages: section.number("messages", 1_000_000, 1..=1_000_000_000),
        messages_per_group: section.number("messages_per_group", 5_000, 1..=100_000),
        max_calls_per_second: section.number("max_calls_per_second", 200, 1..=1_000),
    };
    Discovery { enabled, rules }
}

fn span(text: &str) -> Option<TimeDelta> {
    if text == "new" {
        return Some(TimeDelta::zero());
    }
    let span = TimeDelta::from_std(humantime::parse_duration(text).ok()?).ok()?;
    Some(span).filter(|span| *span <= LONGEST_HISTORY)
}
