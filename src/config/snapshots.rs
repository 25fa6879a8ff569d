//! `[snapshots]`: which polls leave a row in the time series.

use serde::Deserialize;

use super::problem::Problems;

/// Which polls leave a row in the time series.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshots {
    /// The rule.
    pub record: Record,
}

/// When a poll is kept as a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Record {
    /// When it differs from what was last seen.
    #[default]
    Changes,
    /// Always.
    EveryPoll,
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
        let remedy = "give \"changes\" or \"every_poll\"";
        let record = problems.parsed("snapshots.record", self.record, Record::default(), remedy, |text| match text {
            "changes" => Some(Record::Changes),
            "every_poll" => Some(Record::EveryPoll),
            _ => None,
        });
        Snapshots { record }
    }
}
