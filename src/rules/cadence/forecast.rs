//! How often slots are polled on average, for forecasts. It decides nothing.

use std::time::Duration;

use super::{Cadence, Pace, Rule, Tier, age, delta, due::FORWARD, pace::Unread};
use crate::{domain::Timestamp, rules::milestones::AGES};

/// Mean factor by which intervals at a pace are longer, so that similar slots don't stay together.
const SPREAD: f64 = 1.06;

/// The contents of a slot, as assumed by a forecast: messages sent evenly between two times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Held {
    /// When the youngest message was sent.
    pub youngest: Timestamp,
    /// When the oldest message was sent.
    pub oldest: Timestamp,
    /// Number of messages that somebody may still read.
    pub unread: f64,
}

impl Cadence {
    /// How often a slot is polled between two times, on average, if only its cadence decides and its messages stay
    /// unread.
    pub fn polls_between(&self, held: &Held, from: Timestamp, until: Timestamp) -> f64 {
        let from = from.max(held.youngest);
        match &self.rule {
            Rule::Tiers { tiers, pace } => {
                let (youngest, oldest) = (age(held.youngest, from), age(held.youngest, until));
                let begins = std::iter::once(Duration::ZERO).chain(tiers.iter().map(|tier| tier.until));
                let within = |(begin, tier): (Duration, &Tier)| {
                    let (begin, end) = (begin.max(youngest), tier.until.min(oldest));
                    match pace {
                        _ if begin >= end => 0.0,
                        None => (end - begin).as_secs_f64() / tier.every.as_secs_f64(),
                        Some(pace) => self.polls_at_pace(pace, tier, held, begin, end),
                    }
                };
                begins.zip(tiers).map(within).sum()
            }
            Rule::Cron { cron, expire_after } => {
                let until = until.min(held.youngest + delta(*expire_after));
                let fires = std::iter::successors(cron.next_after(from), |last| cron.next_after(*last));
                fires.take_while(|fires_at| *fires_at <= until).count() as f64
            }
        }
    }

    /// How often a growing slot is polled between two times, on average. A new message joins it after each `gap`, until
    /// it holds `messages`; so its youngest message is never older than that.
    pub fn polls_while_joined(&self, gap: Duration, messages: u32, from: Timestamp, until: Timestamp) -> f64 {
        match &self.rule {
            Rule::Tiers { .. } => {
                let span = (until - from).to_std().unwrap_or_default();
                // It holds half of them on average, if they live long enough.
                let lives = self.expires_after().as_secs_f64() / gap.as_secs_f64();
                let unread = (f64::from(messages) / 2.0).min(lives).max(1.0);
                let held = Held { youngest: from, oldest: from - delta(gap.mul_f64(unread - 1.0)), unread };
                self.polls_between(&held, from, from + delta(gap)) * span.as_secs_f64() / gap.as_secs_f64()
            }
            Rule::Cron { expire_after, .. } => {
                let alive = (expire_after.as_secs_f64() / gap.as_secs_f64()).min(1.0);
                let held = Held { youngest: from, oldest: from, unread: 1.0 };
                self.polls_between(&held, from, until) * alive
            }
        }
    }

    /// The same within a tier, from one age of the youngest message to another. Steps are short while it is young.
    fn polls_at_pace(&self, pace: &Pace, tier: &Tier, held: &Held, begin: Duration, end: Duration) -> f64 {
        let (mut at, end, mut polls) = (begin.as_secs_f64(), end.as_secs_f64(), 0.0);
        let latest = f64::from(pace.patience) * tier.every.as_secs_f64();
        while at < end {
            let step = (at / 10.0).max(30.0).min(end - at);
            let wait = (SPREAD * pace.interval(self.unread(held, at + step / 2.0))).min(latest);
            polls += step / come_forward(wait, pace.fastest.as_secs_f64(), ages(held, at, at + step, wait) / step);
            at += step;
        }
        polls
    }

    /// How much there is to learn about a slot whose youngest message has this age.
    fn unread(&self, held: &Held, age_of_youngest: f64) -> Unread {
        let oldest = age_of_youngest + (held.youngest - held.oldest).as_seconds_f64().max(0.0);
        let end = self.expires_after().as_secs_f64();
        let alive = if oldest > end { (end - age_of_youngest) / (oldest - age_of_youngest) } else { 1.0 };
        let messages = held.unread * alive;
        Unread::evenly(age_of_youngest, oldest.min(end), messages.max(1.0)) * messages.min(1.0)
    }
}

/// How many times messages of a slot reach an age at which read rates are kept, while its youngest message passes from
/// one age to another. Messages that reach it within the same wait count once.
fn ages(held: &Held, from: f64, until: f64, wait: f64) -> f64 {
    let apart = (held.youngest - held.oldest).as_seconds_f64();
    let (times, span) = if apart > wait { (held.unread, apart) } else { (held.unread.min(1.0), wait) };
    let overlap = |age: f64| (age.min(until) - (age - span).max(from)).max(0.0);
    AGES.iter().map(|age| times * overlap(age.as_seconds_f64()) / span).sum()
}

/// The mean of waits that come forward to the last of the ages in them, of which there are so many in a second at random.
fn come_forward(wait: f64, fastest: f64, ages_per_second: f64) -> f64 {
    let window = (FORWARD * wait).min((wait - fastest).max(0.0));
    let expected = ages_per_second * window;
    if expected < 1e-6 { wait } else { wait - (1.0 - (-expected).exp() * (1.0 + expected)) / ages_per_second }
}
