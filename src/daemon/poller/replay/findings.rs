//! The errors of polls: their results compared with the truth.

use super::input::Sent;
use crate::{
    domain::{Counts, Timestamp},
    rules::{
        cadence::Following,
        milestones::{AGES, Milestone, Milestones},
    },
};

/// Errors or times in seconds, or shares.
#[derive(Debug, Clone, Default)]
pub struct Measure(Vec<f64>);

impl Measure {
    /// The mean; 0 of nothing.
    pub fn mean(&self) -> f64 {
        self.0.iter().sum::<f64>() / (self.0.len().max(1)) as f64
    }

    /// This percentile; 0 of nothing.
    pub fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// The largest; 0 of nothing.
    pub fn most(&self) -> f64 {
        self.0.iter().copied().fold(0.0, f64::max)
    }
}

/// Cost and errors of a cadence.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Number of messages.
    pub messages: usize,
    /// Number of calls.
    pub calls: usize,
    /// Distance from the middle of each milestone's interval to the truth, in the order of [`Milestone::ALL`].
    pub milestones: [Measure; Milestone::ALL.len()],
    /// Width of their intervals.
    pub widths: [Measure; Milestone::ALL.len()],
    /// Number of messages whose known counts were wrong after a poll of them.
    pub lost: usize,
    /// Delay from a read until it was known.
    pub seen_after: Measure,
    /// Error of the read rate at each of [`AGES`], as a fraction of the members.
    pub rates: [Measure; 4],
    /// Longest time for which a message was not known, in stretched intervals of the tier in which it was last known.
    pub waits: Measure,
    /// The largest factor by which intervals were longer.
    pub stretch: f64,
}

impl Findings {
    /// The mean width of the intervals of the first four milestones, each of which counts alike.
    pub fn milestone_width(&self) -> f64 {
        self.widths[..4].iter().map(Measure::mean).sum::<f64>() / 4.0
    }

    /// The mean error of the milestones, each of which counts alike.
    pub fn milestone_error(&self) -> f64 {
        self.milestones.iter().map(Measure::mean).sum::<f64>() / Milestone::ALL.len() as f64
    }
}

/// The results for the messages so far.
pub(super) struct Watching<'a> {
    pub messages: &'a [Sent],
    pub calls: usize,
    seen: Vec<Seen>,
    found: Findings,
}

#[derive(Debug, Clone, Default)]
struct Seen {
    /// Number of members who had read it at the last poll.
    read: u32,
    polled_at: Option<Timestamp>,
    /// The stretch at that time.
    stretch: f64,
    /// Number of [`AGES`] that it had passed then.
    ages: usize,
    has_reached: [bool; Milestone::ALL.len()],
}

impl<'a> Watching<'a> {
    pub fn of(messages: &'a [Sent]) -> Self {
        let found = Findings { messages: messages.len(), ..Findings::default() };
        Self { messages, calls: 0, seen: vec![Seen::default(); messages.len()], found }
    }

    /// A poll of a message, by the cadence as currently applied. Returns how many members have read it, and how many
    /// may.
    pub fn polled(&mut self, index: usize, at: Timestamp, following: Following<'_>) -> (u32, u32) {
        let (message, seen) = (&self.messages[index], &mut self.seen[index]);
        let read = message.reads[seen.read as usize..].iter().take_while(|read_at| **read_at <= at).count() as u32;
        let new = &message.reads[seen.read as usize..(seen.read + read) as usize];
        self.found.seen_after.0.extend(new.iter().map(|read_at| (at - *read_at).as_seconds_f64()));
        while let Some(age) = AGES.get(seen.ages).filter(|age| message.sent_at + **age < at) {
            let then = message.sent_at + *age;
            let missed = new.iter().filter(|read_at| **read_at <= then).count();
            self.found.rates[seen.ages].0.push(missed as f64 / f64::from(message.members.max(1)));
            seen.ages += 1;
        }
        if let Some(polled_at) = seen.polled_at {
            let every = following.cadence.every(message.sent_at, polled_at).as_secs_f64();
            let every = every * following.stretch.max(seen.stretch);
            self.found.waits.0.push((at - polled_at).as_seconds_f64() / every);
        }
        (seen.polled_at, seen.stretch) = (Some(at), following.stretch);
        self.found.stretch = self.found.stretch.max(following.stretch);
        seen.read += read;
        (seen.read, message.members)
    }

    /// An event reports that this number of members has read a message.
    pub fn heard(&mut self, index: usize, at: Timestamp, read: u32) {
        let (message, seen) = (&self.messages[index], &mut self.seen[index]);
        let new = message.reads.get(seen.read as usize..read as usize).unwrap_or_default();
        self.found.seen_after.0.extend(new.iter().map(|read_at| (at - *read_at).as_seconds_f64()));
        seen.read = seen.read.max(read);
    }

    /// Notes that this number of members is known to have read a message after a poll of it.
    pub fn is_known(&mut self, index: usize, at: Timestamp, read: u32) {
        let truth = self.messages[index].reads.iter().take_while(|read_at| **read_at <= at).count();
        self.found.lost += usize::from(self.seen[index].polled_at == Some(at) && read as usize != truth);
    }

    /// Notes the milestones that a poll or an event has settled.
    pub fn made_known(&mut self, index: usize, made: &Milestones) {
        let message = &self.messages[index];
        for (at, milestone) in Milestone::ALL.into_iter().enumerate() {
            let Some(reached) = made.reached[at].filter(|_| !self.seen[index].has_reached[at]) else { continue };
            let Some(truth) = message.reached_at(milestone) else { continue };
            self.seen[index].has_reached[at] = true;
            let after = reached.after.unwrap_or(message.sent_at);
            self.found.widths[at].0.push((reached.by - after).as_seconds_f64());
            let middle = after + (reached.by - after) / 2;
            self.found.milestones[at].0.push((middle - truth).as_seconds_f64().abs());
        }
    }

    pub fn findings(self) -> Findings {
        Findings { calls: self.calls, ..self.found }
    }
}

impl Sent {
    /// The true time of a milestone.
    fn reached_at(&self, milestone: Milestone) -> Option<Timestamp> {
        let is_reached = |read: usize| {
            let counts = Counts::new(read as i64, i64::from(self.members) - read as i64);
            counts.is_some_and(|counts| milestone.is_reached(counts))
        };
        let first = (1..=self.reads.len()).find(|read| is_reached(*read))?;
        Some(self.reads[first - 1])
    }
}
