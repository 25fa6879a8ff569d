//! `[cadence.NAME]`: how often messages are polled, as named policies that groups choose from.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::problem::Problems;
use crate::{
    cadence::{Cadence, Cadences, DEFAULT, InvalidCadence, Tier},
    domain::Timestamp,
};

/// The age at which messages of a cadence by cron are expired unless `expire_after` says otherwise.
const EXPIRE_AFTER: Duration = Duration::from_secs(30 * 86_400);

/// The keys of one cadence.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    /// Intervals by the age of the message.
    tiers: Option<Vec<TierKeys>>,
    /// A cron expression in UTC, instead of tiers.
    cron: Option<String>,
    /// With `cron`: the age at which a message is expired.
    expire_after: Option<String>,
    /// Whether a message that all have read is done.
    stop_when_all_read: Option<String>,
}

/// The keys of one tier.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TierKeys {
    /// The age at which the tier ends.
    until: Option<String>,
    /// The time between two polls.
    every: Option<String>,
}

/// The names of the keys.
pub(super) fn fields() -> &'static [&'static str] {
    super::fields::fields_of::<Keys>()
}

/// Makes the cadences of all sections `[cadence.NAME]`; `None` if one has a problem.
pub(super) fn validate(
    mut sections: BTreeMap<String, Keys>,
    now: Timestamp,
    problems: &mut Problems,
) -> Option<Cadences> {
    sections.entry(DEFAULT.to_owned()).or_default();
    // All are looked at before any is given up, so that all problems are found.
    let cadences: Vec<_> = sections
        .into_iter()
        .map(|(name, keys)| {
            let cadence = keys.validate(&name, now, problems);
            cadence.map(|cadence| (name, cadence))
        })
        .collect();
    Some(Cadences::new(cadences.into_iter().collect::<Option<_>>()?))
}

/// Names are keys of TOML, values of a column and parts of environment variables: the plainest characters do.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
    (1..=63).contains(&name.len()) && name.bytes().all(plain)
}

impl Keys {
    fn validate(self, name: &str, now: Timestamp, problems: &mut Problems) -> Option<Cadence> {
        let key = |key: &str| format!("cadence.{name}.{key}");
        let stop =
            problems.parsed(&key("stop_when_all_read"), self.stop_when_all_read, true, "give true or false", |text| {
                text.parse().ok()
            });
        if let Some(expression) = self.cron {
            let remedy = "give a span as in \"30d\"";
            let expire_after = problems.span(&key("expire_after"), self.expire_after, EXPIRE_AFTER, remedy, |_| true);
            return accept(&key("cron"), Cadence::by_cron(&expression, expire_after, stop, now), problems);
        }
        if let Some(span) = self.expire_after {
            let remedy = "goes with cron only: with tiers, messages are expired at the `until` of the last one";
            problems.refuse(&key("expire_after"), &span, remedy);
        }
        let Some(tiers) = self.tiers else {
            if name == DEFAULT {
                return Some(Cadence::built_in(stop));
            }
            let remedy = "does not say how often: give tiers = [{ until = \"1h\", every = \"1m\" }], or cron = \"…\"";
            problems.refuse_silently(&format!("cadence.{name}"), remedy);
            return None;
        };
        let tiers = tiers.into_iter().enumerate().map(|(at, tier)| tier.read(&key("tiers"), at, problems));
        let tiers: Vec<_> = tiers.collect();
        accept(&key("tiers"), Cadence::by_age(tiers.into_iter().collect::<Option<_>>()?, stop), problems)
    }
}

impl TierKeys {
    fn read(self, key: &str, at: usize, problems: &mut Problems) -> Option<Tier> {
        let mut span = |part: &str, text: Option<String>| {
            let (key, remedy) = (format!("{key}[{at}].{part}"), "give a span as in \"90s\", \"10m\", \"6h\" or \"7d\"");
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
