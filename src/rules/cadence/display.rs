//! A cadence as text, for logs and `receiptd check`.

use std::fmt;

use super::{Cadence, Pace, Rule};
use crate::text::duration;

impl fmt::Display for Cadence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.rule {
            Rule::Tiers { tiers, pace } => {
                if let Some(Pace { pace, patience, fastest }) = pace {
                    let (pace, fastest) = (duration::exactly(*pace), duration::exactly(*fastest));
                    write!(
                        f,
                        "unread messages at a pace of {pace}, at most every {fastest} and at least every {patience} intervals of their tier: "
                    )?;
                }
                for tier in tiers {
                    write!(f, "every {} until {} old, ", duration::exactly(tier.every), duration::exactly(tier.until))?;
                }
            }
            Rule::Cron { cron, expire_after } => {
                write!(f, "at \"{cron}\" (UTC) until {} old, ", duration::exactly(*expire_after))?;
            }
        }
        f.write_str(if self.stop_when_all_read {
            "or until all members have read it"
        } else {
            "even after all members have read \
            it"
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::rules::cadence::{Cadence, Tier};

    #[test]
    fn a_cadence_tells_its_tiers_and_its_end() {
        let tier = |until, every| Tier { until: Duration::from_secs(until), every: Duration::from_secs(every) };
        let cadence = Cadence::by_age(vec![tier(3_600, 60), tier(86_400, 600)], true).unwrap();
        assert_eq!(
            cadence.to_string(),
            "every 1m until 1h old, every 10m until 1d old, or until all members have \
            read it"
        );
    }

    #[test]
    fn a_cadence_with_a_pace_tells_that_first() {
        let said = Cadence::built_in(true).to_string();
        assert!(said.starts_with("unread messages at a pace of 12m, at most every 30s and at least every 8 intervals of their tier: every 1m until 1h old, "), "{said}");
    }

    #[test]
    fn a_cadence_by_cron_tells_the_expression_as_it_was_written() {
        let now = "2026-11-23T00:00:00Z".parse().unwrap();
        let week = Duration::from_secs(7 * 86_400);
        let cadence = Cadence::by_cron("*/15 8-11 * * MON-FRI", week, false, now).unwrap();
        assert_eq!(
            cadence.to_string(),
            "at \"*/15 8-11 * * MON-FRI\" (UTC) until 7d old, even after all members \
            have read it"
        );
    }
}
