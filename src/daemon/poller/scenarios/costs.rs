//! The cost of one flaw for everything else: nothing beyond the time needed to find out what is at fault.

use std::collections::{BTreeMap, VecDeque};

use super::{
    flaw::Flaw,
    plan::{Micros, Plan, SECOND},
};
use crate::{domain::MsgSeq, rules::slot::GroupKey};

/// Maximum additional delay, beyond its cadence, that a flaw may cause for others.
const HELD_UP_AT_MOST: Micros = 10 * SECOND;

/// Maximum time to find out which message of a slot is at fault, or how many messages a call may ask for.
const LEARNING: Micros = 180 * SECOND;

/// Duration of a life after everything has been found out.
const LOOKED_AT_FOR: Micros = 60 * SECOND;

/// Time over which failed calls are counted.
const WINDOW: Micros = 60 * SECOND;

/// Maximum number of calls above a tenth that may come together.
const POLLS_AT_ONCE: u64 = 16;

type Key = (GroupKey, MsgSeq);

#[derive(Debug)]
pub(super) struct Costs {
    flaws: Vec<(Micros, Flaw)>,
    is_busy: bool,
    stretches_for: Option<Micros>,
    /// The longest stretch so far.
    stretch: f64,
    limit: u32,
    /// The longest wait by the cadence, without stretch.
    longest: Micros,
    /// Time from which everything except the flaws works.
    works_from: Option<Micros>,
    told: BTreeMap<Key, Micros>,
    failed: VecDeque<Micros>,
}

impl Costs {
    pub fn of(plan: &Plan) -> Self {
        let longest = plan.cadence * plan.patience;
        Self {
            flaws: plan.flaws.clone(),
            is_busy: plan.is_busy,
            stretches_for: plan.stretches_for,
            stretch: 1.0,
            limit: plan.limit,
            longest: u64::try_from(longest.as_micros()).unwrap(),
            works_from: None,
            told: BTreeMap::new(),
            failed: VecDeque::new(),
        }
    }

    /// Sets the factor by which intervals are longer from now on.
    pub fn is_stretched(&mut self, factor: f64) {
        self.stretch = self.stretch.max(factor);
    }

    /// The longest wait by the cadence, plus extra time.
    fn patience(&self) -> Micros {
        (self.longest as f64 * self.stretch) as Micros + HELD_UP_AT_MOST
    }

    /// Notes that everything except the flaws works from now on. Returns the end of the life.
    pub fn works_from(&mut self, now: Micros) -> Micros {
        self.works_from = Some(now);
        let known_from = self.flaws.iter().map(|(from, _)| from + LEARNING).max();
        if let Some(span) = self.stretches_for {
            return now.max(span) + 2 * self.patience() + LOOKED_AT_FOR;
        }
        known_from.map_or(now + self.patience(), |known_from| known_from.max(now) + self.patience() + LOOKED_AT_FOR)
    }

    /// Checks a receipt of a message. The error says that it was too late.
    pub fn told(&mut self, key: Key, now: Micros) -> Result<(), String> {
        let before = self.told.insert(key, now);
        self.look(key, before, now)
    }

    /// Checks a watched message with a receipt at `before`, and none until `now`.
    fn look(&self, key: Key, before: Option<Micros>, now: Micros) -> Result<(), String> {
        let Some(due_from) = self.due_from(key) else { return Ok(()) };
        let since = before.unwrap_or(0).max(due_from);
        if now <= since + self.patience() {
            return Ok(());
        }
        let flaws = &self.flaws;
        Err(format!("{key:?} was not observed from {since} to {now} µs, though nothing is wrong with it but {flaws:?}"))
    }

    /// The same at the end of the life.
    pub fn is_known(&self, key: Key, now: Micros) -> Result<(), String> {
        self.look(key, self.told.get(&key).copied(), now)
    }

    /// Whether the message can't be observed.
    pub fn is_bad(&self, key: Key) -> bool {
        self.flaws.iter().any(|(_, flaw)| flaw.is_of(key))
    }

    /// Time from which the message has to be observed in time, if it can be at all.
    fn due_from(&self, key: Key) -> Option<Micros> {
        let works_from = match self.stretches_for {
            Some(span) => self.works_from?.max(span),
            None => self.works_from.filter(|_| !self.is_busy)?,
        };
        if self.is_bad(key) {
            return None;
        }
        let near = self.flaws.iter().filter(|(_, flaw)| flaw.is_near(key.0));
        Some(near.map(|(from, _)| from + LEARNING).fold(works_from, Micros::max))
    }

    fn tenth_of_limit(&self, span: Micros) -> u64 {
        // A poll that searches for the messages at fault makes some calls at once.
        Micros::from(self.limit) * span / SECOND / 10 + POLLS_AT_ONCE
    }

    /// Checks a call that failed because of a flaw. While other slots are due, such calls take at most a tenth of the
    /// limit.
    pub fn failed(&mut self, now: Micros) -> Result<(), String> {
        let known_from = self.flaws.iter().map(|(from, _)| from + LEARNING).max().unwrap_or(0);
        let Some(known_from) = self.works_from.map(|from| from.max(known_from)).filter(|from| now > *from) else {
            return Ok(());
        };
        let (count, most) = (count_within(&mut self.failed, now, WINDOW), self.tenth_of_limit(WINDOW));
        // Without a pause, a slot would be polled as often as the limit allows.
        let paused = self.flaws.len() as u64 * WINDOW / SECOND;
        if count <= if self.is_busy { most } else { most.max(paused) } {
            return Ok(());
        }
        Err(format!("{count} calls within a minute failed, the promised maximum is {most}, from {known_from} µs on"))
    }
}

/// Adds an event of now, and counts those of the last `span`.
fn count_within(events: &mut VecDeque<Micros>, now: Micros, span: Micros) -> u64 {
    events.push_back(now);
    while events.front().is_some_and(|first| now - first >= span) {
        events.pop_front();
    }
    events.len() as u64
}
