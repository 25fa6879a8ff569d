//! How far polls yield to events, from counting the changes that events had reported before a poll saw them.
//!
//! Trust is earned slowly, over thousands of changes, and lost within tens: a long memory bounds how far polls are
//! stretched, and a short one brings them back. Pure.

/// Approximate number of changes in the long memory. So the smallest share is 0.25 %, and polls become up to 20 times
/// rarer, as far as `patience` allows.
const LONG: f64 = 8_000.0;

/// The same for the short memory.
const SHORT: f64 = 100.0;

/// Number of changes, counted as unreported, that the long memory starts with: so trust has to be earned.
const DOUBT: f64 = 20.0;

/// Number of changes found only by polls from which webhooks count as silent.
const SILENT_FROM: f64 = 20.0;

/// Changed read counts, by how they were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Number of changes that events reported.
    pub told: u32,
    /// Number of changes that polls found before any event reported them.
    pub untold: u32,
}

/// Remembered counts.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Trust {
    long: Memory,
    short: Memory,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Memory {
    told: f64,
    untold: f64,
}

impl Memory {
    fn add(&mut self, tally: Tally, holds: f64) {
        let changes = f64::from(tally.told) + f64::from(tally.untold);
        let kept = (-changes / holds).exp();
        // Counts that are added together fade as if they had come one by one.
        let added = if changes > 0.0 { holds * (1.0 - kept) / changes } else { 0.0 };
        self.told = self.told * kept + added * f64::from(tally.told);
        self.untold = self.untold * kept + added * f64::from(tally.untold);
    }

    fn untold_share(self, doubt: f64) -> f64 {
        (self.untold + doubt) / (self.told + self.untold + DOUBT)
    }
}

impl Trust {
    /// The trust of an earlier process, from [`Trust::remembered`]. Anything else is no trust.
    pub fn recall(told: f64, untold: f64) -> Self {
        let is_memory = |number: f64| (0.0..=LONG).contains(&number);
        match is_memory(told) && is_memory(untold) {
            true => Self { long: Memory { told, untold }, short: Memory::default() },
            false => Self::default(),
        }
    }

    /// The numbers to store: changes that events reported, and changes that only polls found.
    pub fn remembered(&self) -> (f64, f64) {
        (self.long.told, self.long.untold)
    }

    /// Counts changes.
    pub fn add(&mut self, tally: Tally) {
        self.long.add(tally, LONG);
        self.short.add(tally, SHORT);
    }

    /// Whether polls find changes while events report none.
    pub fn is_silent(&self) -> bool {
        self.short.untold > SILENT_FROM && self.short.told < 1.0
    }

    /// The share of changes that only polls find, as far as known: from 1, without trust, to almost 0.
    pub fn untold(&self) -> f64 {
        self.long.untold_share(DOUBT).max(self.short.untold_share(0.0)).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(told: u32, untold: u32, times: u32) -> Trust {
        let mut trust = Trust::default();
        (0..times).for_each(|_| trust.add(Tally { told, untold }));
        trust
    }

    #[test]
    fn without_webhooks_polls_are_as_frequent_as_ever() {
        assert_eq!(Trust::default().untold(), 1.0);
        assert!(after(0, 7, 1_000).untold() > 0.999);
    }

    #[test]
    fn trust_is_earned_by_what_events_tell() {
        assert!((0.45..0.55).contains(&after(1, 0, 20).untold()));
        assert!((0.10..0.18).contains(&after(1, 0, 150).untold()));
        let all = after(1, 0, 30_000).untold();
        assert!((0.0024..0.003).contains(&all), "{all}");
        let most = after(9, 1, 5_000).untold();
        assert!((0.09..0.12).contains(&most), "{most}");
    }

    #[test]
    fn trust_is_lost_within_tens_of_changes() {
        let mut trust = after(1, 0, 30_000);
        (0..30).for_each(|_| trust.add(Tally { told: 0, untold: 1 }));
        assert!(trust.untold() > 0.2, "{}", trust.untold());
        (0..70).for_each(|_| trust.add(Tally { told: 0, untold: 1 }));
        assert!(trust.untold() > 0.5, "{}", trust.untold());
    }

    #[test]
    fn webhooks_are_silent_if_polls_find_everything() {
        assert!(!Trust::default().is_silent() && !after(0, 1, 20).is_silent() && after(0, 1, 30).is_silent());
        assert!(!after(1, 9, 20).is_silent() && !after(1, 0, 200).is_silent());
        let mut trust = after(1, 0, 5_000);
        trust.add(Tally { told: 0, untold: 1_000 });
        assert!(trust.is_silent());
    }

    #[test]
    fn changes_count_the_same_together_as_one_by_one() {
        let (together, single) = (after(400, 100, 3), after(4, 1, 300));
        assert!((together.untold() - single.untold()).abs() < 0.01, "{together:?} {single:?}");
        let mut flood = Trust::default();
        flood.add(Tally { told: u32::MAX, untold: 0 });
        assert!(flood.untold() < 0.003);
    }

    #[test]
    fn trust_survives_a_restart_and_nonsense_is_none() {
        let trust = after(50, 1, 200);
        let (told, untold) = trust.remembered();
        let recalled = Trust::recall(told, untold);
        assert!((recalled.untold() - trust.long.untold_share(DOUBT)).abs() < 1e-12);
        for (told, untold) in [(-1.0, 0.0), (f64::NAN, 0.0), (0.0, f64::INFINITY), (1e9, 0.0)] {
            assert_eq!(Trust::recall(told, untold), Trust::default());
        }
    }
}
