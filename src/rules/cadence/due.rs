//! When a slot is due, by all of its messages together and the time of its last poll.
//!
//! It must never postpone a slot without bound, nor make one due again and again because of a message that answers
//! leave out.

use std::time::Duration;

use super::{Cadence, Pace, Phase, Rule, Tier, age, delta, interval, pace::Unread, seconds, span};
use crate::{domain::Timestamp, rules::milestones::AGES};

/// Maximum fraction of its wait by which a poll comes forward, to just before an age at which read rates are kept.
pub(super) const FORWARD: f64 = 0.7;

/// How long before that age, in seconds: the poll has to be answered by then.
const JUST_BEFORE: f64 = 2.0;

/// The facts of a message that a cadence depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Time from which its age is counted.
    pub sent_at: Timestamp,
    /// Time until which its counts are known; `None` if they never were.
    pub until: Option<Timestamp>,
    /// Whether all members have read it.
    pub is_read: bool,
}

/// A cadence as currently applied.
#[derive(Debug, Clone, Copy)]
pub struct Following<'a> {
    /// The cadence.
    pub cadence: &'a Cadence,
    /// Factor by which all intervals are longer while more is due than the limit allows; 1 if everything fits.
    pub stretch: f64,
}

impl<'a> From<&'a Cadence> for Following<'a> {
    fn from(cadence: &'a Cadence) -> Self {
        Self { cadence, stretch: 1.0 }
    }
}

/// When a slot is due again, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// The due time.
    pub due: Timestamp,
    /// The time between two polls that this comes from, without the stretch.
    pub every: Duration,
}

/// The rule that decides when a slot is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The unread messages, at the pace.
    Pace,
    /// The shortest time between two polls.
    Fastest,
    /// An age at which the read rate of a message is kept.
    Age,
    /// The maximum wait of a message, or the end of its life.
    Patience,
    /// The tier of a message.
    Tier,
    /// A cron expression.
    Cron,
}

/// Number of seconds after its last poll at which a slot is due, and the reason.
#[derive(Debug, Clone, Copy)]
struct Wait {
    seconds: f64,
    why: Reason,
}

impl Next {
    /// The earlier due time and the shorter interval of two messages of a slot.
    pub fn sooner(self, other: Self) -> Self {
        Self { due: self.due.min(other.due), every: self.every.min(other.every) }
    }
}

impl Following<'_> {
    /// When a slot that was last polled at `polled_at` is due, according to its messages that are not expired then;
    /// `None` if there are none.
    pub fn due(
        &self,
        phase: Phase,
        polled_at: Timestamp,
        messages: impl IntoIterator<Item = Known>,
    ) -> Option<Timestamp> {
        self.next(phase, polled_at, messages).map(|next| next.due)
    }

    /// The same, with the time between two polls.
    pub fn next(&self, phase: Phase, polled_at: Timestamp, messages: impl IntoIterator<Item = Known>) -> Option<Next> {
        if let Rule::Tiers { tiers, pace: Some(pace) } = &self.cadence.rule {
            let wait = self.wait_at_pace(tiers, pace, phase, polled_at, messages)?.seconds;
            return Some(Next { due: polled_at + seconds(wait), every: span(wait / self.stretch) });
        }
        let age = |message: Known| age(message.sent_at, polled_at);
        let ages = messages.into_iter().map(age).filter(|age| *age < self.cadence.expires_after());
        // Messages of one tier are due together, and mostly follow each other.
        let mut last = None;
        let steps = ages.map(|age| self.cadence.step(age)).filter(|step| last.replace(*step) != Some(*step));
        let next = |step| Next { due: self.after_step(phase, step, polled_at), every: self.every(step, polled_at) };
        steps.map(next).reduce(Next::sooner)
    }

    /// The rule that makes such a slot due.
    pub fn reason(
        &self,
        phase: Phase,
        polled_at: Timestamp,
        messages: impl IntoIterator<Item = Known>,
    ) -> Option<Reason> {
        match &self.cadence.rule {
            Rule::Cron { .. } => Some(Reason::Cron),
            Rule::Tiers { pace: None, .. } => Some(Reason::Tier),
            Rule::Tiers { tiers, pace: Some(pace) } => {
                self.wait_at_pace(tiers, pace, phase, polled_at, messages).map(|wait| wait.why)
            }
        }
    }

    /// The wait after a poll; `None` if all messages are expired. Since this is decided for each poll, times become
    /// numbers first.
    fn wait_at_pace(
        &self,
        tiers: &[Tier],
        pace: &Pace,
        phase: Phase,
        polled_at: Timestamp,
        messages: impl IntoIterator<Item = Known>,
    ) -> Option<Wait> {
        let polled_at = polled_at.timestamp_micros();
        let before = |time: Timestamp| (polled_at - time.timestamp_micros()) as f64 / 1e6;
        let (end, patience) = (self.cadence.expires_after().as_secs_f64(), f64::from(pace.patience));
        let tiers: Vec<_> = tiers.iter().map(|tier| (tier.until.as_secs_f64(), tier.every.as_secs_f64())).collect();
        let tier = |age: f64| tiers.iter().find(|(until, _)| age < *until).or(tiers.last());
        let every = |age: f64| self.stretch * tier(age).map_or(end, |(_, every)| *every);
        let (mut unread, mut latest) = (Unread::default(), None);
        let messages = messages.into_iter();
        let just_before = AGES.map(|age| age.as_seconds_f64() - JUST_BEFORE);
        let mut until_ages = Vec::with_capacity(messages.size_hint().0);
        for message in messages {
            let age = before(message.sent_at);
            if age >= end {
                continue;
            }
            if !message.is_read {
                unread += Unread::of_age(age.max(0.0));
                until_ages.extend(just_before.iter().map(|at| at - age).find(|until| *until > 0.0));
            }
            // A message is polled again at the latest after `patience` intervals of the tier in which it was last
            // known, and one interval after the end of its life. A message that answers leave out waits for at least
            // one interval.
            let unknown_for = message.until.map_or(0.0, before).max(0.0);
            let (next, by_patience) = (every(age), patience * every(age - unknown_for) - unknown_for);
            let of_message = by_patience.min(end - age.max(0.0) + next).max(next);
            latest = Some(latest.map_or(of_message, |latest: f64| latest.min(of_message)));
        }
        let fastest = self.stretch * spread(phase) * pace.fastest.as_secs_f64();
        let by_pace = self.stretch * spread(phase) * pace.interval(unread * self.cadence.untold);
        let wait = match latest? {
            latest if by_pace > latest => Wait { seconds: latest, why: Reason::Patience },
            _ if by_pace <= fastest => Wait { seconds: fastest, why: Reason::Fastest },
            _ => Wait { seconds: by_pace, why: Reason::Pace },
        };
        // The last of these ages costs the least, and is the only one that the poll can just precede. While more is due
        // than the limit allows, or events report reads, other polls are worth more.
        let forward = FORWARD * self.cadence.untold / self.stretch;
        let earliest = (wait.seconds * (1.0 - forward)).max(fastest);
        let age = until_ages.into_iter().filter(|until| (earliest..wait.seconds).contains(until)).reduce(f64::max);
        Some(age.map_or(wait, |seconds| Wait { seconds, why: Reason::Age }))
    }

    /// The time between two polls of a slot with a single message that somebody may still read, without the stretch.
    pub fn alone(&self, sent_at: Timestamp, now: Timestamp) -> Duration {
        match &self.cadence.rule {
            Rule::Tiers { pace: Some(pace), .. } => {
                span(pace.interval(Unread::of_age(age(sent_at, now).as_secs_f64())))
            }
            Rule::Tiers { .. } | Rule::Cron { .. } => self.every(self.cadence.every(sent_at, now), now),
        }
    }

    /// The time between two polls for this step of the tiers, or by the cron expression, without the stretch.
    fn every(&self, step: Duration, now: Timestamp) -> Duration {
        match &self.cadence.rule {
            Rule::Tiers { .. } => step,
            Rule::Cron { .. } => (self.after_step(Phase::default(), step, now) - now).to_std().unwrap_or_default(),
        }
    }

    /// When a slot is due after its group's cadence has changed, or after a pause.
    pub fn due_again(
        &self,
        phase: Phase,
        polled_at: Option<Timestamp>,
        messages: impl IntoIterator<Item = Known>,
        now: Timestamp,
    ) -> Next {
        let next = match polled_at {
            Some(polled_at) => self.next(phase, polled_at.min(now), messages),
            None => {
                let first = |message: Known| self.first_poll(None, message.sent_at, now);
                messages.into_iter().map(first).reduce(Next::sooner)
            }
        };
        // Without messages, it has to be deleted.
        let next = next.unwrap_or(Next { due: now, every: self.cadence.first_step() });
        Next { due: next.due.max(now), ..next }
    }

    /// When a message that was never polled is due, in a slot that was last polled at `slot_polled_at`.
    ///
    /// In a new slot, immediately. In a slot that has been polled, no sooner than the interval allows, so that a group
    /// whose messages trickle in is not polled for each of them. A cron expression is followed exactly.
    pub fn first_poll(&self, slot_polled_at: Option<Timestamp>, sent_at: Timestamp, now: Timestamp) -> Next {
        let every = self.alone(sent_at, now);
        let due = match (&self.cadence.rule, slot_polled_at) {
            (Rule::Cron { .. }, _) => self.after(Phase::default(), sent_at, now),
            (_, None) => now,
            (_, Some(polled_at)) => {
                let [interval, wait] =
                    [every.as_secs_f64(), self.joins_after(sent_at, now)].map(|wait| seconds(self.stretch * wait));
                // The additional wait for events applies in any case.
                (now - interval).max(polled_at.min(now)) + wait
            }
        };
        Next { due, every }
    }

    /// Number of seconds after a slot's last poll at which a message that joins it within its interval is due. It yields
    /// to events, within the patience.
    fn joins_after(&self, sent_at: Timestamp, now: Timestamp) -> f64 {
        let alone = self.alone(sent_at, now).as_secs_f64();
        let Rule::Tiers { tiers, pace: Some(pace) } = &self.cadence.rule else { return alone };
        let age = age(sent_at, now);
        let longest = f64::from(pace.patience) * interval(tiers, age).as_secs_f64();
        pace.interval(Unread::of_age(age.as_secs_f64()) * self.cadence.untold).min(longest).max(alone)
    }

    /// When a message is due by its own tier or the expression, after a poll at `polled_at`. Intervals by age end on a
    /// grid, offset by the slot's own `phase`. So the polls of many slots spread over the interval even if they started
    /// together, and lateness does not accumulate. Stretched intervals have no fixed grid.
    pub(crate) fn after(&self, phase: Phase, sent_at: Timestamp, polled_at: Timestamp) -> Timestamp {
        self.after_step(phase, self.cadence.every(sent_at, polled_at), polled_at)
    }

    /// The same for all messages whose tier has this interval.
    fn after_step(&self, phase: Phase, step: Duration, polled_at: Timestamp) -> Timestamp {
        match &self.cadence.rule {
            Rule::Tiers { .. } if self.stretch > 1.0 => polled_at + seconds(self.stretch * step.as_secs_f64()),
            Rule::Tiers { .. } => phase.next_after(polled_at, step),
            Rule::Cron { cron, expire_after } => {
                // After the last date of the expression, only the end of the message's life is left.
                cron.next_after(polled_at).unwrap_or(polled_at + delta(*expire_after))
            }
        }
    }
}

/// Keeps similar slots apart, by making each interval longer by up to an eighth.
fn spread(phase: Phase) -> f64 {
    1.0 + phase.share() / 8.0
}
