//! How fast a message was read: what a change of its counts makes known for good.
//!
//! Pure: in goes what was known before the change and what was seen then, out come the milestones that it reached and the counts at
//! the ages that it settles. What was found for a message earlier is not known here: the store keeps the earliest of each. It
//! must never read the history, which the roll-up of an earlier version had to.

use chrono::TimeDelta;

use crate::domain::{Counts, Timestamp};

/// How far a message has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Milestone {
    /// By anybody.
    First,
    /// By half of the members.
    Half,
    /// By four fifths of them.
    P80,
    /// By nine tenths of them.
    P90,
    /// By all.
    All,
}

impl Milestone {
    /// All of them, in the order in which they are reached.
    pub const ALL: [Self; 5] = [Self::First, Self::Half, Self::P80, Self::P90, Self::All];

    /// Whether it is reached with these counts. Without any other member nothing is: there may be some later.
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

/// The ages of a message at which its counts are kept.
pub const AGES: [TimeDelta; 4] =
    [TimeDelta::minutes(15), TimeDelta::hours(1), TimeDelta::hours(24), TimeDelta::days(7)];

/// What was known of a message until a poll, and what the poll saw.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// When the message was sent: the earliest time that was given.
    pub sent_at: Timestamp,
    /// The counts that were known; `None` if there were none.
    pub before: Option<Counts>,
    /// Since when its receipt was as it was; `None` if there was none.
    pub since: Option<Timestamp>,
    /// Until when it was known to be so.
    pub known_until: Option<Timestamp>,
    /// Whether the last answer told counts; if it told that there is no receipt, they may have changed before it.
    pub is_counted: bool,
    /// Until when it can be carried forward: no poll was due before that. `None` if that is not known.
    pub carried_until: Option<Timestamp>,
    /// The counts that the poll saw, if it saw any.
    pub seen: Option<Counts>,
    /// The time of the poll.
    pub polled_at: Timestamp,
    /// Whether what was known carries times in the future, which a wrong clock has left.
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

/// What a change makes known for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Milestones {
    /// The milestones that it reached, in the order of [`Milestone::ALL`].
    pub reached: [Option<Reached>; 5],
    /// The counts at the ages that it settles, in the order of [`AGES`].
    pub counts: [Option<Counts>; 4],
    /// The time of the poll, if no milestone of the message can have a later one: those that do were dated by a wrong clock.
    pub none_after: Option<Timestamp>,
}

impl Milestones {
    /// What the change makes known; `None` if that is nothing.
    pub fn of(change: &Change) -> Option<Self> {
        let made = Self {
            reached: Milestone::ALL.map(|milestone| change.reaches(milestone)),
            counts: AGES.map(|age| change.counts_at(change.sent_at + age)),
            none_after: change.is_redated.then_some(change.polled_at),
        };
        let is_empty = made.reached.iter().all(Option::is_none) && made.counts.iter().all(Option::is_none);
        (!is_empty || change.is_redated).then_some(made)
    }
}

impl Change {
    /// A milestone that the counts before had reached was found by an earlier change, unless that is dated wrongly.
    fn reaches(&self, milestone: Milestone) -> Option<Reached> {
        let is_found = !self.is_redated && self.before.is_some_and(|before| milestone.is_reached(before));
        let is_reached = self.seen.is_some_and(|seen| milestone.is_reached(seen));
        let after = self.before.and(self.known_until).filter(|_| self.is_counted);
        (is_reached && !is_found).then_some(Reached { after, by: self.polled_at })
    }

    /// The counts at a time that lies between the change before and this one: those that were known before, unless the time lies in
    /// a gap in which polls were due and nothing was observed.
    fn counts_at(&self, time: Timestamp) -> Option<Counts> {
        let holds_until = self.known_until.max(self.carried_until)?;
        self.before
            .filter(|_| self.since.is_some_and(|since| since <= time) && time < self.polled_at && time <= holds_until)
    }
}

#[cfg(test)]
mod tests;
