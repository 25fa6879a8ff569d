//! Slots in the order in which they are polled when too much is due: by their lateness, as a multiple of their own
//! interval.
//!
//! So lateness is shared in proportion: while a slot with an interval of a minute waits for two, one with an hour waits
//! for two hours. Slots with similar intervals are kept together in the order of their due times, and only the first
//! ones of each kind are compared.

use std::collections::{BTreeMap, BTreeSet};

use crate::rules::slot::SlotKey;

/// A time on the schedule's timeline, in microseconds.
pub(super) type Place = i64;

/// The time between two polls of a slot, in seconds.
pub(super) type Seconds = f32;

/// Waiting slots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lane(BTreeMap<Kind, BTreeSet<(Place, SlotKey)>>);

/// Intervals that differ by less than a factor of two: the whole part of their binary logarithm, in seconds.
type Kind = i32;

fn kind(every: Seconds) -> Kind {
    every.max(1.0).log2() as Kind
}

impl Lane {
    pub fn insert(&mut self, every: Seconds, place: Place, slot: SlotKey) {
        self.0.entry(kind(every)).or_default().insert((place, slot));
    }

    pub fn remove(&mut self, every: Seconds, place: Place, slot: SlotKey) {
        if let Some(slots) = self.0.get_mut(&kind(every)) {
            slots.remove(&(place, slot));
            if slots.is_empty() {
                self.0.remove(&kind(every));
            }
        }
    }

    /// The latest slot in terms of its own interval, with its lateness in intervals; negative if it is not due yet.
    pub fn latest(&self, present: Place) -> Option<(f64, SlotKey)> {
        let late = |(kind, slots): (&Kind, &BTreeSet<(Place, SlotKey)>)| {
            let (place, slot) = slots.first()?;
            Some(((present - place) as f64 / 2_f64.powi(*kind), *slot))
        };
        self.0.iter().filter_map(late).max_by(|one, other| one.0.total_cmp(&other.0))
    }

    /// The first due time.
    pub fn first(&self) -> Option<Place> {
        self.0.values().filter_map(|slots| Some(slots.first()?.0)).min()
    }

    /// Up to `count` slots, by rising due times.
    pub fn soonest(&self, count: usize) -> Vec<(Place, SlotKey)> {
        let mut soonest: Vec<_> = self.0.values().flat_map(|slots| slots.iter().take(count)).copied().collect();
        soonest.sort_unstable();
        soonest.truncate(count);
        soonest
    }

    /// All slots, by rising due times.
    #[cfg(test)]
    pub fn all(&self) -> BTreeSet<(Place, SlotKey)> {
        self.0.values().flatten().copied().collect()
    }
}
