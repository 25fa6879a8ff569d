//! `[discovery]`: which groups and messages are watched without being added to the watch list.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use serde::Deserialize;

use super::problem::Problems;
use crate::{
    domain::{GroupType, Timestamp},
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

/// The keys of the section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    enabled: Option<String>,
    /// Types of the groups.
    types: Option<Vec<String>>,
    /// Patterns of ids, one of which must match.
    include: Option<Vec<String>>,
    /// Patterns of ids, none of which may match.
    exclude: Option<Vec<String>>,
    /// Ids of groups that are followed in any case.
    ids: Option<Vec<String>>,
    /// `new`, or how long before the beginning of discovery messages may have been sent.
    since: Option<String>,
    /// The earliest time of sending.
    not_before: Option<String>,
    /// The cadence of discovered groups.
    cadence: Option<String>,
    /// Maximum number of groups.
    groups: Option<String>,
    /// Maximum number of messages.
    messages: Option<String>,
    /// Maximum number of messages of a group.
    messages_per_group: Option<String>,
    /// Maximum number of calls in any second.
    max_calls_per_second: Option<String>,
}

impl Keys {
    pub fn validate(self, cadences: Option<&Cadences>, problems: &mut Problems) -> Discovery {
        let enabled =
            problems.parsed("discovery.enabled", self.enabled, false, "use true or false", |text| text.parse().ok());
        let selection = Selection {
            types: self.types.map_or_else(|| TYPES.to_vec(), |types| problems.listed("discovery.types", types)),
            include: problems.listed("discovery.include", self.include.unwrap_or_default()),
            exclude: problems.listed("discovery.exclude", self.exclude.unwrap_or_default()),
            ids: BTreeSet::from_iter(problems.listed("discovery.ids", self.ids.unwrap_or_default())),
        };
        if enabled && selection.types.is_empty() && selection.ids.is_empty() {
            problems.refuse_silently("discovery.types", "selects no group: name types, or groups in discovery.ids");
        }
        let since = "use \"new\", or a duration of at most 90d such as \"2d\"";
        let not_before = "use a time such as \"2026-01-31T00:00:00Z\"";
        let wanted = Wanted {
            since: problems.parsed("discovery.since", self.since, TimeDelta::zero(), since, span),
            not_before: problems.parsed("discovery.not_before", self.not_before, None, not_before, |text| {
                text.parse::<Timestamp>().ok().map(Some)
            }),
        };
        let cadence = self.cadence.filter(|name| name != DEFAULT);
        if let (Some(name), Some(cadences)) = (&cadence, cadences)
            && !cadences.has(name)
        {
            problems.refuse("discovery.cadence", name, format!("is not configured: add a section [cadence.{name}]"));
        }
        let rules = Rules {
            selection,
            wanted,
            cadence,
            groups: problems.number("discovery.groups", self.groups, 100_000, 1..=10_000_000),
            messages: problems.number("discovery.messages", self.messages, 1_000_000, 1..=1_000_000_000),
            messages_per_group: problems.number(
                "discovery.messages_per_group",
                self.messages_per_group,
                5_000,
                1..=100_000,
            ),
            max_calls_per_second: problems.number(
                "discovery.max_calls_per_second",
                self.max_calls_per_second,
                200,
                1..=1_000,
            ),
        };
        Discovery { enabled, rules }
    }
}

fn span(text: &str) -> Option<TimeDelta> {
    if text == "new" {
        return Some(TimeDelta::zero());
    }
    let span = TimeDelta::from_std(humantime::parse_duration(text).ok()?).ok()?;
    Some(span).filter(|span| *span <= LONGEST_HISTORY)
}
