//! The settings of the world.

use std::{ops::RangeInclusive, time::Duration};

/// Maximum number of members of a group with receipts.
pub(super) const MAX_MEMBERS: u16 = 200;

/// Defaults of the world.
#[derive(Debug, Clone)]
pub struct WorldConfig {
    /// Seed of everything random.
    pub seed: u64,
    /// Number of members of a group, including the sender, drawn evenly from this range within 2..=200.
    pub members: RangeInclusive<u16>,
    /// Typical time until half of a message's readers have read it.
    pub median_reading_time: Duration,
    /// Factor by which members read faster than the clock: with 60, an hour's reading takes a minute. Above 0.
    pub speed: f64,
    /// True: every well-formed group id exists. False: only the groups that were added.
    pub open: bool,
    /// Fraction of messages, 0 to 1, without a receipt (code 10062).
    pub no_receipt_share: f64,
    /// Fraction of messages, 0 to 1, that are online-only (code 10061).
    pub online_only_share: f64,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            members: 2..=MAX_MEMBERS,
            median_reading_time: Duration::from_secs(300),
            speed: 1.0,
            open: true,
            no_receipt_share: 0.0,
            online_only_share: 0.0,
        }
    }
}

impl WorldConfig {
    /// What is invalid, if anything.
    pub(in crate::simulator) fn fault(&self) -> Option<&'static str> {
        let share = 0.0..=1.0;
        let checks = [
            (*self.members.start() >= 2 && *self.members.end() <= MAX_MEMBERS, "members must lie within 2 to 200"),
            (!self.members.is_empty(), "the range of members must not be empty"),
            (!self.median_reading_time.is_zero(), "the median reading time must be above zero"),
            (self.speed.is_finite() && self.speed > 0.0, "speed must be above zero"),
            (share.contains(&self.no_receipt_share), "the share without receipt must lie within 0 to 1"),
            (share.contains(&self.online_only_share), "the share of online-only messages must lie within 0 to 1"),
        ];
        checks.into_iter().find_map(|(holds, reason)| (!holds).then_some(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_configs_are_named() {
        let default = WorldConfig::default;
        assert_eq!(default().fault(), None);
        for (config, word) in [
            (WorldConfig { members: 1..=5, ..default() }, "2 to 200"),
            (WorldConfig { members: 2..=201, ..default() }, "2 to 200"),
            #[expect(clippy::reversed_empty_ranges, reason = "an empty range is what is tested")]
            (WorldConfig { members: 9..=5, ..default() }, "empty"),
            (WorldConfig { median_reading_time: Duration::ZERO, ..default() }, "median"),
            (WorldConfig { speed: 0.0, ..default() }, "speed"),
            (WorldConfig { speed: f64::NAN, ..default() }, "speed"),
            (WorldConfig { no_receipt_share: 1.1, ..default() }, "without receipt"),
            (WorldConfig { online_only_share: -0.1, ..default() }, "online-only"),
        ] {
            assert!(config.fault().is_some_and(|reason| reason.contains(word)), "{word}");
        }
    }
}
