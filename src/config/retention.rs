//! `[retention]`: how long data is kept.

use std::time::Duration;

use chrono::TimeDelta;
use serde::Deserialize;

use super::problem::Problems;
use crate::rules::retention::Retention;

/// Partitions cover a day, and late results must find theirs.
const SHORTEST: Duration = Duration::from_secs(86_400);

/// The keys of the section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// Days, or `forever`.
    snapshots: Option<String>,
    /// Days, or `forever`.
    calls: Option<String>,
    /// Days, or `forever`.
    rollups: Option<String>,
    /// Days, or `forever`.
    message_days: Option<String>,
    /// Days, or `forever`.
    readers: Option<String>,
}

impl Keys {
    pub fn validate(self, problems: &mut Problems) -> Retention {
        let mut span = |key: &str, given: Option<String>, default| {
            problems.parsed(key, given, default, "use a duration of 1d or more, such as \"90d\", or \"forever\"", span)
        };
        let default = Retention::default();
        let retention = Retention {
            snapshots: span("retention.snapshots", self.snapshots, default.snapshots),
            calls: span("retention.calls", self.calls, default.calls),
            rollups: span("retention.rollups", self.rollups, default.rollups),
            message_days: span("retention.message_days", self.message_days, default.message_days),
            readers: span("retention.readers", self.readers, default.readers),
        };
        for (key, kept) in
            [("retention.rollups", retention.rollups), ("retention.message_days", retention.message_days)]
        {
            if let Some(kept) = kept
                && retention.snapshots.is_none_or(|snapshots| snapshots > kept)
            {
                problems.refuse_silently(
                    key,
                    "is shorter than retention.snapshots: roll-ups must be kept at least as long as snapshots",
                );
            }
        }
        retention
    }
}

fn span(text: &str) -> Option<Option<TimeDelta>> {
    if text == "forever" {
        return Some(None);
    }
    let span = humantime::parse_duration(text).ok().filter(|span| *span >= SHORTEST)?;
    TimeDelta::from_std(span).ok().filter(|span| *span <= TimeDelta::days(36_525)).map(Some)
}
