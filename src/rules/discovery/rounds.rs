//! When each group is checked for new messages: the busier, the more often. One call checks many groups, so due groups
//! wait a moment for others.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use crate::domain::GroupId;

/// Shortest interval, for groups with a message in the last minutes.
const FASTEST: Duration = Duration::from_secs(10);

/// Longest interval, for groups without a message for hours.
const SLOWEST: Duration = Duration::from_secs(600);

/// Number of checks of a group within a time as long as it has been quiet.
const LOOKS_A_QUIET_TIME: u32 = 20;

/// The interval between two checks of a group that has been quiet for this time.
pub fn interval(quiet: Duration) -> Duration {
    (quiet / LOOKS_A_QUIET_TIME).clamp(FASTEST, SLOWEST)
}

/// The groups by the time of their next check. Pure, given `now`.
#[derive(Debug, Default)]
pub struct Rounds {
    due: BTreeSet<(Instant, GroupId)>,
    times: HashMap<GroupId, Instant>,
}

impl Rounds {
    /// Number of groups, without those being checked.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Sets when a group is due, whatever was set before.
    pub fn set(&mut self, group: GroupId, at: Instant) {
        if let Some(before) = self.times.insert(group.clone(), at) {
            self.due.remove(&(before, group.clone()));
        }
        self.due.insert((at, group));
    }

    /// Sets when a known group is due at the latest.
    pub fn hurry(&mut self, group: &GroupId, at: Instant) {
        if self.times.get(group).is_some_and(|before| *before > at) {
            self.set(group.clone(), at);
        }
    }

    /// Forgets the group.
    pub fn forget(&mut self, group: &GroupId) {
        if let Some(at) = self.times.remove(group) {
            self.due.remove(&(at, group.clone()));
        }
    }

    /// Takes at most `most` due groups, the most overdue first. Each has to be set again.
    pub fn take(&mut self, most: usize, now: Instant) -> Vec<GroupId> {
        let mut taken = vec![];
        while taken.len() < most
            && let Some((at, _)) = self.due.first()
            && *at <= now
            && let Some((_, group)) = self.due.pop_first()
        {
            self.times.remove(&group);
            taken.push(group);
        }
        taken
    }

    /// When the first group is due.
    pub fn next_at(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// How long the most overdue group has been due.
    pub fn behind(&self, now: Instant) -> Duration {
        self.next_at().map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group(number: u8) -> GroupId {
        format!("g{number}").parse().unwrap()
    }

    #[test]
    fn busy_groups_are_asked_often_and_silent_ones_rarely() {
        let seconds = |quiet| interval(Duration::from_secs(quiet)).as_secs();
        assert_eq!([0, 60, 200, 1_000, 7_200, 86_400, 864_000].map(seconds), [10, 10, 10, 50, 360, 600, 600]);
    }

    #[test]
    fn a_group_can_be_hurried_but_not_delayed() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rounds = Rounds::default();
        rounds.set(group(1), at(100));
        rounds.hurry(&group(1), at(200));
        assert_eq!(rounds.next_at(), Some(at(100)));
        rounds.hurry(&group(1), at(5));
        rounds.hurry(&group(2), at(1));
        assert_eq!((rounds.next_at(), rounds.len()), (Some(at(5)), 1));
        assert_eq!(rounds.behind(at(9)), Duration::from_secs(4));
        rounds.forget(&group(1));
        assert!(rounds.is_empty() && rounds.next_at().is_none());
    }

    proptest! {
        #[test]
        fn due_groups_are_taken_once_and_the_most_overdue_first(
            steps in proptest::collection::vec((0_u8..20, 0_u64..50, 0_usize..4), 1..200)
        ) {
            let start = Instant::now();
            let mut rounds = Rounds::default();
            let mut model: HashMap<GroupId, Instant> = HashMap::new();
            for (clock, (number, delay, most)) in steps.into_iter().enumerate() {
                let now = start + Duration::from_secs(clock as u64);
                rounds.set(group(number), now + Duration::from_secs(delay));
                model.insert(group(number), now + Duration::from_secs(delay));
                let taken = rounds.take(most, now);
                let times: Vec<Instant> = taken.iter().map(|group| model.remove(group).unwrap()).collect();
                prop_assert!(times.is_sorted() && times.iter().all(|at| *at <= now));
                let is_rest_later = model.values().all(|at| times.last().is_none_or(|last| at >= last));
                prop_assert!(is_rest_later);
                prop_assert!(taken.len() == most || model.values().all(|at| *at > now));
                prop_assert_eq!(rounds.len(), model.len());
            }
        }
    }
}
