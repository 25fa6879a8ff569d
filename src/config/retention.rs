//! `[retention]`: how long data is kept.

use std::time::Duration;

use chrono::TimeDelta;

use super::section::Section;
use crate::rules::retention::Retention;

/// Partitions cover a day, and late results must find theirs.
const SHORTEST: Duration = Duration::from_secs(86_400);

pub(super) fn read(section: &mut Section<'_>) -> Retention {
    let default = Retention::default();
    let remedy = "use a duration of 1d or more, such as \"90d\", or \"forever\"";
    let retention = Retention {
        snapshots: section.parsed("snapshots", default.snapshots, remedy, span),
        calls: section.parsed("calls", default.calls, remedy, span),
        rollups: section.parsed("rollups", default.rollups, remedy, span),
        message_days: section.parsed("message_days", default.message_days, remedy, span),
        readers: section.parsed("readers", default.readers, remedy, span),
    };
    for (key, kept) in [("rollups", retention.rollups), ("message_days", retention.message_days)] {
        if let Some(kept) = kept
            && retention.snapshots.is_none_or(|snapshots| snapshots > kept)
        {
            let remedy = "is shorter than retention.snapshots: roll-ups must be kept at least as long as snapshots";
            section.refuse_silently(key, remedy);
        }
    }
    retention
}

fn span(text: &str) -> Option<Option<TimeDelta>> {
    if text == "forever" {
        return Some(None);
    }
    let span = humantime::parse_duration(text).ok().filter(|span| *span >= SHORTEST)?;
    TimeDelta::from_std(span).ok().filter(|span| *span <= TimeDelta::days(36_525)).map(Some)
}
