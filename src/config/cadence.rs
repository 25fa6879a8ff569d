//! `[cadence.NAME]`: how often messages are polled, as named policies that groups select.

use std::time::Duration;

use serde::Deserialize;

use super::section::Section;
use crate::{
    domain::Timestamp,
    rules::cadence::{Cadence, DEFAULT, InvalidCadence, Pace, Tier},
};

/// Default of `expire_after`.
const EXPIRE_AFTER: Duration = Duration::from_secs(30 * 86_400);

/// The keys of one tier.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TierKeys {
    /// The age at which the tier ends.
    until: Option<String>,
    /// Time between two polls, at least 1s.
    every: Option<String>,
}

/// Names are TOML keys, column values and parts of environment variables, so only the plainest characters are
/// allowed.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    (1..=63).contains(&name.len()) && name.bytes().all(plain)
}

/// Reads the cadence `name`; `None` if it has a problem.
pub(super) fn read(section: &mut Section<'_>, name: &str, now: Timestamp) -> Option<Cadence> {
    let (has_tiers, tiers) = (section.is_given("tiers"), section.value::<Vec<TierKeys>>("tiers"));
    let pace =
        PaceKeys { pace: section.text("pace"), patience: section.text("patience"), fastest: section.text("fastest") };
    let (cron, expire_after) = (section.text("cron"), section.text("expire_after"));
    let stop = section.flag("stop_when_all_read", true);
    if let Some(expression) = cron {
        pace.refuse(
            section,
            "applies to tiers only: a cron expression sets the times",
            "applies to a pace, and not with cron",
        );
        let remedy = "use a duration such as \"30d\"";
        let expire_after = section.parsed_text("expire_after", expire_after, EXPIRE_AFTER, remedy, span);
        return accept("cron", Cadence::by_cron(&expression, expire_after, stop, now), section);
    }
    if let Some(span) = expire_after {
        let remedy = "only applies to cron: with tiers, messages expire at the `until` of the last tier";
        section.refuse("expire_after", &span, remedy);
    }
    let cadence = match tiers {
        Some(tiers) => {
            let tiers: Vec<_> = tiers.into_iter().enumerate().map(|(at, tier)| tier.read(at, section)).collect();
            accept("tiers", Cadence::by_age(tiers.into_iter().collect::<Option<_>>()?, stop), section)?
        }
        None if has_tiers => return None,
        None if name == DEFAULT => Cadence::built_in(stop),
        None => {
            let remedy = "has no schedule: set tiers = [{ until = \"1h\", every = \"1m\" }] or cron = \"…\"";
            section.refuse_whole(remedy);
            return None;
        }
    };
    pace.apply(cadence, section)
}

/// The keys of a pace, as text.
struct PaceKeys {
    pace: Option<String>,
    patience: Option<String>,
    fastest: Option<String>,
}

impl PaceKeys {
    /// The cadence with this pace, or else with its own.
    fn apply(self, cadence: Cadence, section: &mut Section<'_>) -> Option<Cadence> {
        let remedy = "use a duration such as \"12m\"";
        if self.pace.is_none() && cadence.pace().is_none() {
            self.refuse(section, "", "only applies to a pace: set pace = \"12m\" too");
            return Some(cadence);
        }
        let pace = section.parsed_text("pace", self.pace, Pace::DEFAULT_PACE, remedy, span);
        let patience = section.number_text("patience", self.patience, Pace::DEFAULT_PATIENCE, Pace::PATIENCE);
        let fastest = section.parsed_text("fastest", self.fastest, cadence.usual_fastest(), remedy, span);
        accept("pace", cadence.at_pace(Pace { pace, patience, fastest }), section)
    }

    /// Refuses the keys that are set: the pace for one reason, its other keys for another.
    fn refuse(self, section: &mut Section<'_>, pace: &str, others: &str) {
        for (key, text, remedy) in
            [("pace", self.pace, pace), ("patience", self.patience, others), ("fastest", self.fastest, others)]
        {
            if let Some(text) = text {
                section.refuse(key, &text, remedy);
            }
        }
    }
}

fn span(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

impl TierKeys {
    fn read(self, at: usize, section: &mut Section<'_>) -> Option<Tier> {
        let mut part = |part: &str, text: Option<String>| {
            let (key, remedy) = (format!("tiers[{at}].{part}"), r#"use a duration such as "90s", "10m", "6h" or "7d""#);
            if text.is_none() {
                section.refuse_silently(&key, format!("is missing: {remedy}"));
            }
            section.parsed_text(&key, text, None, remedy, |text| span(text).map(Some))
        };
        let (until, every) = (part("until", self.until), part("every", self.every));
        Some(Tier { until: until?, every: every? })
    }
}

fn accept(key: &str, cadence: Result<Cadence, InvalidCadence>, section: &mut Section<'_>) -> Option<Cadence> {
    cadence.map_err(|fault| section.refuse_silently(key, fault.to_string())).ok()
}
