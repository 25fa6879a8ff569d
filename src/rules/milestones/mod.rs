//! How fast a message was read: the milestones and read rates that a change of its counts settles.
//!
//! Pure. In: the state before the change, and the new counts. Out: the milestones that were reached, and the counts at
//! the ages that are settled. Earlier results for a message are unknown here: the store keeps the earliest of each. It
//! must never read the history, as the roll-up of an earlier version had to.

use chrono::TimeDelta;

use crate::domain::{Counts, Timestamp};

/// How far a message has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Milestone {
    /// By at least one member.
    First,
    /// By half of the members.
    Half,
    /// By 80 % of the members.
    P80,
    /// By 90 % of the members.
    P90,
    /// By all.
    All,
}

impl Milestone {
    /// All milestones, in the order in which they are reached.
    pub const ALL: [Self; 5] = [Self::First, Self::Half, Self::P80, Self::P90, Self::All];

    /// Whether these counts reach it. Without any other member none is reached: there may be some later.
    pub fn is_reached(self, counts: Counts) -> bool {
        let read = u64::from(counts.read());
        let members = read + u64::from(counts.unread());
        members > 0
            && match self {
                Self::First => read > 0,
                Self::Half => read * 2 >= members,
                Self::P80 => read * 10 >= members * 8,
                Self::P90 => read * 10 >= members * 9,
                Self::All => read == members,
            }
    }
}

/// Ages of a message at which its counts are kept.
pub const AGES: [TimeDelta; 4] =
    [TimeDelta::minutes(15), TimeDelta::hours(1), TimeDelta::hours(24), TimeDelta::days(7)];

/// The known state of a message before a poll, and what the poll saw.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// Time of sending: the earliest one given.
    pub sent_at: Timestamp,
    /// The known counts; `None` if there were none.
    pub before: Option<Counts>,
    /// Time since which its receipt was unchanged; `None` if there was none.
    pub since: Option<Timestamp>,
    /// Time until which it was known to be unchanged.
    pub known_until: Option<Timestamp>,
    /// Whether the last answer had counts; if it found no receipt, they may have changed before it.
    pub is_counted: bool,
    /// Time until which it can be carried forward, because no poll was due before; `None` if unknown.
    pub carried_until: Option<Timestamp>,
    /// The counts in the poll, if any.
    pub seen: Option<Counts>,
    /// Time of the poll.
    pub polled_at: Timestamp,
    /// Whether the known state contains times in the future, from a wrong clock.
    pub is_redated: bool,
}

/// When a milestone was reached, as exactly as polls can prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// After this time; `None` if no counts were known just before.
    pub after: Option<Timestamp>,
    /// By this time.
    pub by: Timestamp,
}

/// The results that a change settles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milestones {
    /// The milestones that it reached, in the order of [`Milestone::ALL`].
    pub reached: [Option<Reached>; 5],
    /// The counts at the ages that it settles, in the order of [`AGES`].
    pub counts: [Option<Counts>; 4],
    /// Time of the poll, if no milestone of the message can have a later one: later ones were dated by a wrong clock.
    pub none_after: Option<Timestamp>,
}

impl Milestones {
    /// What the change settles; `None` if nothing.
    pub fn of(change: &Change) -> Option<Self> {
        let made = Self {
            reached: Milestone::ALL.map(|milestone| change.reaches(milestone)),
            counts: change.counts_at_ages(),
            none_after: change.is_redated.then_some(change.polled_at),
        };
        let is_empty = made.reached.iter().all(Option::is_none) && made.counts.iter().all(Option::is_none);
        (!is_empty || change.is_redated).then_some(made)
    }

    /// The combined results of this and a later change of the same message.
    pub fn and_later(self, later: Self) -> Self {
        Self {
            reached: std::array::from_fn(|index| self.reached[index].or(later.reached[index])),
            counts: std::array::from_fn(|index| self.counts[index].or(later.counts[index])),
            none_after: self.none_after.or(later.none_after),
        }
    }
}

impl Change {
    /// A milestone reached by the earlier counts was found by an earlier change, unless that has a wrong date.
    fn reaches(&self, milestone: Milestone) -> Option<Reached> {
        let is_found = !self.is_redated && self.before.is_some_and(|before| milestone.is_reached(before));
        let is_reached = self.seen.is_some_and(|seen| milestone.is_reached(seen));
        let after = self.before.and(self.known_until).filter(|_| self.is_counted);
        (is_reached && !is_found).then_some(Reached { after, by: self.polled_at })
    }

    /// The counts at the ages between the previous change and this one: the previous ones, unless an age is in a gap
    /// in which polls were due and nothing was observed.
    fn counts_at_ages(&self) -> [Option<Counts>; 4] {
        let held = self.since.zip(self.known_until.max(self.carried_until));
        let Some((since, until)) = held else { return [None; 4] };
        let [since, until, polled_at] = [since, until, self.polled_at].map(|time| time - self.sent_at);
        AGES.map(|age| self.before.filter(|_| since <= age && age < polled_at && age <= until))
    }
}

#[cfg(test)]
mod tests;
