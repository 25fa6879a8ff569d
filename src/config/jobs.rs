//! `[jobs]`: when new data is rolled up and old data removed.

use serde::Deserialize;

use super::problem::Problems;
use crate::{domain::Timestamp, rules::cadence::Cron};

/// When the jobs run: cron expressions in UTC.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// When to update hourly rows and gaps.
    pub rollup: Cron,
    /// When to remove old data.
    pub retention: Cron,
}

/// The keys of the section.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    rollup: Option<String>,
    retention: Option<String>,
}

impl Keys {
    /// `None` if an expression is invalid.
    pub fn validate(self, now: Timestamp, problems: &mut Problems) -> Option<Jobs> {
        let mut cron = |key: &str, given: Option<String>, default: &str| {
            let expression = given.unwrap_or_else(|| default.to_owned());
            Cron::parse(&expression, now).map_err(|error| problems.refuse_silently(key, error.to_string())).ok()
        };
        let rollup = cron("jobs.rollup", self.rollup, "*/5 * * * *");
        let retention = cron("jobs.retention", self.retention, "17 3 * * *");
        Some(Jobs { rollup: rollup?, retention: retention? })
    }
}
