//! `[jobs]`: when new data is rolled up and old data removed.

use super::section::Section;
use crate::{domain::Timestamp, rules::cadence::Cron};

/// When the jobs run: cron expressions in UTC.
#[derive(Debug, Clone)]
pub struct Jobs {
    /// When to update hourly rows and gaps.
    pub rollup: Cron,
    /// When to remove old data.
    pub retention: Cron,
}

/// `None` if an expression is invalid.
pub(super) fn read(section: &mut Section<'_>, now: Timestamp) -> Option<Jobs> {
    let mut cron = |key: &str, default: &str| {
        let expression = section.text(key).unwrap_or_else(|| default.to_owned());
        Cron::parse(&expression, now).map_err(|error| section.refuse_silently(key, error.to_string())).ok()
    };
    let (rollup, retention) = (cron("rollup", "*/5 * * * *"), cron("retention", "17 3 * * *"));
    Some(Jobs { rollup: rollup?, retention: retention? })
}
