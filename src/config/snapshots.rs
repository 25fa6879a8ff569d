//! `[snapshots]`: which polls add a row to the time series.

use super::section::Section;
use crate::rules::recording::KeepSnapshots;

/// Which polls add a row to the time series.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshots {
    /// The rule.
    pub record: KeepSnapshots,
}

pub(super) fn read(section: &mut Section<'_>) -> Snapshots {
    let remedy = "use \"changes\" or \"every_poll\"";
    let record = section.parsed("record", KeepSnapshots::default(), remedy, |text| match text {
        "changes" => Some(KeepSnapshots::Changes),
        "every_poll" => Some(KeepSnapshots::EveryPoll),
        _ => None,
    });
    Snapshots { record }
}
