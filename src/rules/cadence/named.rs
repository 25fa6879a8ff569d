//! The configured cadences by name, and the default for unknown names.

use std::{collections::BTreeMap, time::Duration};

use super::{Cadence, InvalidCadence, Pace, Rule, Tier};

/// Name of the cadence for groups without one.
pub const DEFAULT: &str = "default";

/// Named cadences, which always include the default.
#[derive(Debug, Clone)]
pub struct Cadences {
    default: Cadence,
    named: BTreeMap<String, Cadence>,
}

impl Cadences {
    /// Creates them from the configuration. A cadence named `default` replaces the built-in default.
    pub fn new(mut named: BTreeMap<String, Cadence>) -> Self {
        let default = named.remove(DEFAULT).unwrap_or_else(|| Cadence::built_in(true));
        Self { default, named }
    }

    /// The tiers of the built-in default, and no pace.
    #[cfg(test)]
    pub(crate) fn of_tiers() -> Self {
        let mut default = Cadence::built_in(true);
        if let Rule::Tiers { pace, .. } = &mut default.rule {
            *pace = None;
        }
        Self { default, named: BTreeMap::new() }
    }

    /// The same, while polls find only the share `untold` of all changes and events report the others.
    pub fn giving_way(&self, untold: f64) -> Self {
        let named = self.named.iter().map(|(name, cadence)| (name.clone(), cadence.clone().giving_way(untold)));
        Self { default: self.default.clone().giving_way(untold), named: named.collect() }
    }

    /// The same with another pace of the default.
    ///
    /// # Errors
    /// If the default follows a cron expression, or the pace is out of range.
    pub fn with_pace(&self, pace: Pace) -> Result<Self, InvalidCadence> {
        Ok(Self { default: self.default.clone().at_pace(pace)?, named: self.named.clone() })
    }

    /// The cadence that a group names; the default if it names none, or one that is not configured.
    pub fn of(&self, name: Option<&str>) -> &Cadence {
        self.named(name).1
    }

    /// The same with its configured name.
    pub fn named(&self, name: Option<&str>) -> (&str, &Cadence) {
        let named = name.and_then(|name| self.named.get_key_value(name));
        named.map_or((DEFAULT, &self.default), |(name, cadence)| (name.as_str(), cadence))
    }

    /// Whether a cadence with this name is configured.
    pub fn has(&self, name: &str) -> bool {
        name == DEFAULT || self.named.contains_key(name)
    }

    /// All cadences with their names, the default first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Cadence)> {
        let named = self.named.iter().map(|(name, cadence)| (name.as_str(), cadence));
        std::iter::once((DEFAULT, &self.default)).chain(named)
    }
}

impl Default for Cadences {
    fn default() -> Self {
        Self::new(BTreeMap::new())
    }
}

impl Cadence {
    /// The built-in default: at a pace of 12 minutes, with tiers of a minute in the first hour, 10 minutes for a day,
    /// an hour for a week and 6 hours for 30 days.
    pub fn built_in(stop_when_all_read: bool) -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        const DAY: u64 = 24 * HOUR;
        let tiers = [(HOUR, MINUTE), (DAY, 10 * MINUTE), (7 * DAY, HOUR), (30 * DAY, 6 * HOUR)];
        let tier = |(until, every)| Tier { until: Duration::from_secs(until), every: Duration::from_secs(every) };
        let fastest = Duration::from_secs(MINUTE / 2);
        let pace = Pace { pace: Pace::DEFAULT_PACE, patience: Pace::DEFAULT_PATIENCE, fastest };
        Self::of(Rule::Tiers { tiers: tiers.map(tier).to_vec(), pace: Some(pace) }, stop_when_all_read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(seconds: u64) -> Cadence {
        let tier = Tier { until: Duration::from_secs(3_600), every: Duration::from_secs(seconds) };
        Cadence::by_age(vec![tier], false).unwrap()
    }

    fn expiry(cadences: &Cadences, name: Option<&str>) -> u64 {
        cadences.of(name).expires_after().as_secs()
    }

    #[test]
    fn a_name_that_the_config_lacks_gets_the_default() {
        let cadences = Cadences::new(BTreeMap::from([("fast".to_owned(), every(1))]));
        assert_eq!(expiry(&cadences, Some("fast")), 3_600);
        for name in [None, Some("default"), Some("gone")] {
            assert_eq!(expiry(&cadences, name), 30 * 86_400, "{name:?}");
        }
        assert_eq!((cadences.named(Some("fast")).0, cadences.named(Some("gone")).0), ("fast", DEFAULT));
        assert!(cadences.has("fast") && cadences.has("default") && !cadences.has("gone"));
    }

    #[test]
    fn the_default_can_be_replaced() {
        let cadences = Cadences::new(BTreeMap::from([(DEFAULT.to_owned(), every(1))]));
        assert_eq!(expiry(&cadences, None), 3_600);
        assert_eq!(cadences.iter().map(|(name, _)| name).collect::<Vec<_>>(), [DEFAULT]);
    }
}
