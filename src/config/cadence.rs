//! `[cadence.NAME]`: how often messages are polled, as named policies that groups select.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::problem::Problems;
use crate::{
    domain::Timestamp,
    rules::cadence::{Cadence, Cadences, DEFAULT, InvalidCadence, Pace, Tier},
};

/// Default of `expire_after`.
const EXPIRE_AFTER: Duration = Duration::from_secs(30 * 86_400);

/// The keys of one cadence.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// Intervals by age of the message, in rising order of `until`.
    tiers: Option<Vec<TierKeys>>,
    /// The time between two polls of a lone unread message that is an hour old.
    pace: Option<String>,
    /// With `pace`: maximum number of intervals of its tier that a message waits.
    patience: Option<String>,
    /// With `pace`: the shortest time between two polls.
    fastest: Option<String>,
    /// A cron expression in UTC, instead of tiers.
    cron: Option<String>,
    /// Age at which a message expires, with `cron`.
    expire_after: Option<String>,
    /// Whether to stop polling a message that all members have read.
    stop_when_all_read: Option<String>,
}

/// The keys of one tier.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TierKeys {
    /// The age at which the tier ends.
    until: Option<String>,
    /// Time between two polls, at least 1s.
    every: Option<String>,
}

/// The names of the keys.
pub(super) fn fields() -> &'static [&'static str] {
    super::fields::fields_of::<Keys>()
}

/// Parses the cadences of all sections `[cadence.NAME]`; `None` if one has a problem.
pub(super) fn validate(
    mut sections: BTreeMap<String, Keys>,
    now: Timestamp,
    problems: &mut Problems,
) -> Option<Cadences> {
    sections.entry(DEFAULT.to_owned()).or_default();
    // All are parsed first, so that all problems are reported.
    let cadences: Vec<_> = sections
        .into_iter()
        .map(|(name, keys)| {
            let cadence = keys.validate(&name, now, problems);
            cadence.map(|cadence| (name, cadence))
        })
        .collect();
    Some(Cadences::new(cadences.into_iter().collect::<Option<_>>()?))
}

/// Names are TOML keys, column values and parts of environment variables, so only the plainest characters are
/// allowed.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    (1..=63).contains(&name.len()) && name.bytes().all(plain)
}

impl Keys {
    fn validate(mut self, name: &str, now: Timestamp, problems: &mut Problems) -> Option<Cadence> {
        let key = |key: &str| format!("cadence.{name}.{key}");
        let stop = self.stop_when_all_read.take();
        let stop =
            problems.parsed(&key("stop_when_all_read"), stop, true, "use true or false", |text| text.parse().ok());
        let is_built_in = name == DEFAULT && self.tiers.is_none() && self.cron.is_none();
        if self.pace.is_none() && !is_built_in {
            let remedy = match self.cron {
                Some(_) => "applies to a pace, and not with cron",
                None => "only applies to a pace: set pace = \"12m\" too",
            };
            for (part, text) in [("patience", self.patience.take()), ("fastest", self.fastest.take())] {
                text.into_iter().for_each(|text| problems.refuse(&key(part), &text, remedy));
            }
        }
        if let Some(expression) = self.cron.take() {
            if let Some(pace) = self.pace.take() {
                problems.refuse(&key("pace"), &pace, "applies to tiers only: a cron expression sets the times");
            }
            let remedy = "use a duration such as \"30d\"";
            let expire_after = problems.span(&key("expire_after"), self.expire_after, EXPIRE_AFTER, remedy, |_| true);
            return accept(&key("cron"), Cadence::by_cron(&expression, expire_after, stop, now), problems);
        }
        if let Some(span) = self.expire_after.take() {
            let remedy = "only applies to cron: with tiers, messages expire at the `until` of the last tier";
            problems.refuse(&key("expire_after"), &span, remedy);
        }
        let cadence = match self.tiers.take() {
            Some(tiers) => {
                let tiers = tiers.into_iter().enumerate().map(|(at, tier)| tier.read(&key("tiers"), at, problems));
                let tiers: Vec<_> = tiers.collect();
                accept(&key("tiers"), Cadence::by_age(tiers.into_iter().collect::<Option<_>>()?, stop), problems)?
            }
            None if name == DEFAULT => Cadence::built_in(stop),
            None => {
                let remedy = "has no schedule: set tiers = [{ until = \"1h\", every = \"1m\" }] or cron = \"…\"";
                problems.refuse_silently(&format!("cadence.{name}"), remedy);
                return None;
            }
        };
        self.at_pace(cadence, &key, problems)
    }

    /// The cadence with the given pace, or else with its own.
    fn at_pace(self, cadence: Cadence, key: &impl Fn(&str) -> String, problems: &mut Problems) -> Option<Cadence> {
        let remedy = "use a duration such as \"12m\"";
        if self.pace.is_none() && cadence.pace().is_none() {
            return Some(cadence);
        }
        let pace = problems.span(&key("pace"), self.pace, Pace::DEFAULT_PACE, remedy, |_| true);
        let patience = problems.number(&key("patience"), self.patience, Pace::DEFAULT_PATIENCE, Pace::PATIENCE);
        let fastest = problems.span(&key("fastest"), self.fastest, cadence.usual_fastest(), remedy, |_| true);
        accept(&key("pace"), cadence.at_pace(Pace { pace, patience, fastest }), problems)
    }
}

impl TierKeys {
    fn read(self, key: &str, at: usize, problems: &mut Problems) -> Option<Tier> {
        let mut span = |part: &str, text: Option<String>| {
            let (key, remedy) = (
                format!("{key}[{at}].{part}"),
                "use a duration such as \"90s\", \"10m\", \"6h\" or \
                \"7d\"",
            );
            if text.is_none() {
                problems.refuse_silently(&key, format!("is missing: {remedy}"));
            }
            problems.parsed(&key, text, None, remedy, |text| humantime::parse_duration(text).ok().map(Some))
        };
        let (until, every) = (span("until", self.until), span("every", self.every));
        Some(Tier { until: until?, every: every? })
    }
}

fn accept(key: &str, cadence: Result<Cadence, InvalidCadence>, problems: &mut Problems) -> Option<Cadence> {
    cadence.map_err(|fault| problems.refuse_silently(key, fault.to_string())).ok()
}
