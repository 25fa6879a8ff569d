//! `[snapshots]`: which polls add a row to the time series.

use serde::Deserialize;

use super::problem::Problems;
use crate::rules::recording::KeepSnapshots;

/// Which polls add a row to the time series.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshots {
    /// The rule.
    pub record: KeepSnapshots,
}

/// The keys of the section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// `changes` or `every_poll`.
    record: Option<String>,
}

impl Keys {
    pub fn validate(self, problems: &mut Problems) -> Snapshots {
        let remedy = "use \"changes\" or \"every_poll\"";
        let record =
            problems.parsed("snapshots.record", self.record, KeepSnapshots::default(), remedy, |text| match text {
                "changes" => Some(KeepSnapshots::Changes),
                "every_poll" => Some(KeepSnapshots::EveryPoll),
                _ => None,
            });
        Snapshots { record }
    }
}
