//! When a slot is due: what its messages ask for together, from the time of its last poll.
//!
//! It must never put a slot off without bound, nor let one be due again and again because of a message that no answer tells of.

use super::{Cadence, Pace, Phase, Rule, Tier, age, delta, interval, pace::Unread, seconds};
use crate::domain::Timestamp;

/// What a cadence goes by of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// From when its age counts.
    pub sent_at: Timestamp,
    /// Until when it is known; `None` if nothing was ever told of it.
    pub until: Option<Timestamp>,
    /// Whether nobody is left who may read it.
    pub is_read: bool,
}

/// A cadence as it is followed just now.
#[derive(Debug, Clone, Copy)]
pub struct Following<'a> {
    /// The cadence.
    pub cadence: &'a Cadence,
    /// All intervals are longer by this factor, since more is due than the limit carries; 1 while all fits.
    pub stretch: f64,
}

impl<'a> From<&'a Cadence> for Following<'a> {
    fn from(cadence: &'a Cadence) -> Self {
        Self { cadence, stretch: 1.0 }
    }
}

impl Following<'_> {
    /// When a slot is due whose last poll was at `polled_at`, by those of its messages that are not expired then; `None` if
    /// there is none.
    pub fn due(
        &self,
        phase: Phase,
        polled_at: Timestamp,
        messages: impl IntoIterator<Item = Known>,
    ) -> Option<Timestamp> {
        let messages = messages.into_iter().filter(|message| !self.cadence.is_expired(message.sent_at, polled_at));
        match &self.cadence.rule {
            Rule::Tiers { tiers, pace: Some(pace) } => self.due_at_pace(tiers, pace, phase, polled_at, messages),
            _ => messages.map(|message| self.after(phase, message.sent_at, polled_at)).min(),
        }
    }

    fn due_at_pace(
        &self,
        tiers: &[Tier],
        pace: &Pace,
        phase: Phase,
        polled_at: Timestamp,
        messages: impl Iterator<Item = Known>,
    ) -> Option<Timestamp> {
        let (mut unread, mut latest) = (Unread::default(), None);
        for message in messages {
            if !message.is_read {
                unread += Unread::of_age(age(message.sent_at, polled_at).as_secs_f64());
            }
            let latest_of = self.latest(tiers, pace, polled_at, message);
            latest = latest.into_iter().chain([latest_of]).min();
        }
        // Slots that are alike don't stay together.
        let spread = 1.0 + phase.share() / 8.0;
        let due = polled_at + seconds(self.stretch * spread * pace.interval(unread));
        latest.map(|latest| due.min(latest))
    }

    /// When a message is asked for at the latest: after `patience` intervals of the tier that it had when it was last known, and
    /// an interval after the end of its life. What an answer leaves out waits for an interval at least.
    fn latest(&self, tiers: &[Tier], pace: &Pace, polled_at: Timestamp, message: Known) -> Timestamp {
        let every = |at| self.stretch * interval(tiers, age(message.sent_at, at)).as_secs_f64();
        let known_until = message.until.unwrap_or(polled_at).min(polled_at);
        let by_patience = known_until + seconds(f64::from(pace.patience) * every(known_until));
        let next = polled_at + seconds(every(polled_at));
        let end = message.sent_at + delta(self.cadence.expires_after());
        by_patience.min(end + seconds(every(polled_at))).max(next)
    }

    /// When a slot is due whose group has a new cadence, or is polled again after a pause.
    pub fn due_again(
        &self,
        phase: Phase,
        polled_at: Option<Timestamp>,
        messages: impl IntoIterator<Item = Known>,
        now: Timestamp,
    ) -> Timestamp {
        let Some(polled_at) = polled_at else {
            let first = |message: Known| self.first_poll(None, message.sent_at, now);
            return messages.into_iter().map(first).min().unwrap_or(now);
        };
        self.due(phase, polled_at.min(now), messages).unwrap_or(now).max(now)
    }

    /// When a message that was never polled is due in a slot whose last poll was at `slot_polled_at`.
    ///
    /// At once in a new slot; in a slot that is already being polled no sooner than the interval allows, so that a
    /// group whose messages trickle in is not polled for each of them. A cron expression is followed to the letter.
    pub fn first_poll(&self, slot_polled_at: Option<Timestamp>, sent_at: Timestamp, now: Timestamp) -> Timestamp {
        let step = match (&self.cadence.rule, slot_polled_at) {
            (Rule::Cron { .. }, _) => return self.after(Phase::default(), sent_at, now),
            (_, None) => return now,
            (Rule::Tiers { pace: Some(pace), .. }, _) => pace.interval(Unread::of_age(age(sent_at, now).as_secs_f64())),
            (Rule::Tiers { tiers, .. }, _) => interval(tiers, age(sent_at, now)).as_secs_f64(),
        };
        slot_polled_at.map_or(now, |polled_at| now.max(polled_at.min(now) + seconds(self.stretch * step)))
    }

    /// When a message is due by its own tier or the expression, after a poll at `polled_at`. Steps by age end on a grid of the
    /// interval, moved by the slot's own `phase`. So the steps of many slots spread over the interval, whatever made them start
    /// together, and lateness of one poll never adds up. Of stretched steps there is no grid that stays where it is.
    pub(crate) fn after(&self, phase: Phase, sent_at: Timestamp, polled_at: Timestamp) -> Timestamp {
        match &self.cadence.rule {
            Rule::Tiers { tiers, .. } => {
                let every = interval(tiers, age(sent_at, polled_at));
                if self.stretch > 1.0 {
                    return polled_at + seconds(self.stretch * every.as_secs_f64());
                }
                phase.next_after(polled_at, every)
            }
            Rule::Cron { cron, expire_after } => {
                // An expression with its last date behind it leaves nothing but the end of the message's life.
                cron.next_after(polled_at).unwrap_or(polled_at + delta(*expire_after))
            }
        }
    }
}
