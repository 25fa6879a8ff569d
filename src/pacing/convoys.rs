//! Whether requests arrived in time, told by those that were written right before and after them.
//!
//! One slow answer says nothing: the service may have taken its time. But requests that stand still do so together. So
//! attempts are judged in convoys of up to eight that were written one after the other, by how long half of them took: that varies
//! far less than single latencies do, and a standstill shifts it by as much as it held the convoy up. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The most attempts of a convoy; half as many are needed to judge it.
const LENGTH: usize = 8;

/// How many convoys before and after one have a say in whether it was in time: a standstill shifts its last ones by little.
const BEFORE: u64 = 2;
const AFTER: u64 = 1;

/// A convoy that would take longer to write is smaller, for what is written far apart tells nothing of a short standstill.
const LONGEST: Duration = Duration::from_millis(100);

/// How many convoys are remembered: 20 s at 200 attempts a second.
const CONVOYS: usize = 500;

/// From how many convoys it is learned what is ordinary: 10 s at 200 attempts a second.
const KNOWN: usize = 250;

/// Until so many are known, nothing is ordinary.
const LEAST_KNOWN: usize = 25;

/// By how much convoys take longer than the faster quarter of them, at least.
const LEAST_SPREAD: Duration = Duration::from_millis(5);

/// If they differ by more than this, or a quarter of what they take, they tell nothing of standstills.
const WIDEST_SPREAD: Duration = Duration::from_millis(100);

/// What was under way while nothing was answered for so long tells of the way rather than of the service.
const SILENCE: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Convoy {
    /// When each attempt was written, and which one it is.
    members: Vec<(Instant, u64)>,
    /// How many members it has in the end.
    size: usize,
    /// What the answers so far took.
    latencies: Vec<Duration>,
    /// How many were answered in time.
    in_time: usize,
}

impl Convoy {
    fn half(&self) -> usize {
        self.size.div_ceil(2)
    }

    fn has_arrived_in_time(&self) -> bool {
        self.in_time >= self.half()
    }

    /// Whether half of it ought to have been answered by now.
    fn is_overdue(&self, ordinary: Duration, now: Instant) -> bool {
        let last = self.members.get(self.half());
        !self.has_arrived_in_time() && last.is_some_and(|(written, _)| now > *written + ordinary + WIDEST_SPREAD)
    }

    /// Whether it is complete, and large enough to tell anything.
    fn is_judged(&self) -> bool {
        self.members.len() == self.size && self.size >= LENGTH / 2
    }

    fn has_room(&self, now: Instant) -> bool {
        self.members.len() < LENGTH && self.members.first().is_none_or(|(first, _)| now - *first <= LONGEST)
    }
}

/// The attempts that were written last, in order.
#[derive(Debug, Default)]
pub(super) struct Convoys {
    convoys: VecDeque<Convoy>,
    /// The number of the first one in `convoys`.
    first: u64,
    /// What half of each of the last convoys took.
    known: VecDeque<Duration>,
    ordinary: Duration,
    /// When the last answer came, and when the latest of those that were answered was written.
    last_answer: Option<(Instant, Instant)>,
    /// Before this time nothing was answered for a while.
    silent_until: Option<Instant>,
}

impl Convoys {
    /// Notes that an attempt was written.
    ///
    /// Returns the number of its convoy.
    pub fn written(&mut self, id: u64, now: Instant) -> u64 {
        if self.convoys.back().is_none_or(|last| !last.has_room(now)) {
            if let Some(last) = self.convoys.back_mut() {
                last.size = last.members.len();
            }
            if self.convoys.len() == CONVOYS {
                self.convoys.pop_front();
                self.first += 1;
            }
            let (members, latencies) = (Vec::with_capacity(LENGTH), Vec::with_capacity(LENGTH));
            self.convoys.push_back(Convoy { members, size: LENGTH, latencies, in_time: 0 });
        }
        if let Some(last) = self.convoys.back_mut() {
            last.members.push((now, id));
        }
        self.first + self.convoys.len() as u64 - 1
    }

    /// Notes how long the answer to an attempt of a convoy took.
    ///
    /// Returns the attempts of which it is known by this that they arrived in time: those of a convoy that came in time
    /// itself, as did those around it.
    pub fn answered(&mut self, number: u64, latency: Duration, now: Instant) -> Vec<(Instant, u64)> {
        let ordinary = self.ordinary;
        self.listen(now - latency, now);
        let silent_until = self.silent_until;
        let Some(convoy) = self.get_mut(number) else { return Vec::new() };
        convoy.latencies.push(latency);
        convoy.in_time += usize::from(latency <= ordinary);
        let decides = latency <= ordinary && convoy.in_time == convoy.half();
        let is_undisturbed = Some(convoy.members[0].0) > silent_until;
        if convoy.latencies.len() == LENGTH * 3 / 4 && is_undisturbed {
            convoy.latencies.sort_unstable();
            let half = convoy.latencies[LENGTH / 2 - 1];
            self.learn(half);
        }
        if !decides {
            return Vec::new();
        }
        let known = (number.saturating_sub(AFTER)..=number + BEFORE).filter(|number| self.is_in_time(*number));
        known.filter_map(|number| self.get(number)).flat_map(|convoy| &convoy.members).copied().collect()
    }

    /// Whether the answers of a convoy, or of one of its neighbours, are overdue.
    pub fn is_overdue(&self, number: u64, now: Instant) -> bool {
        let mut around = around(number).filter_map(|number| self.get(number));
        around.any(|convoy| convoy.is_overdue(self.ordinary, now))
    }

    /// Whether a convoy and its neighbours can be judged.
    pub fn is_judged(&self, number: u64) -> bool {
        around(number).all(|number| self.get(number).is_some_and(Convoy::is_judged))
    }

    /// What half of a convoy takes at most, as a rule; zero while too little is known.
    pub fn ordinary(&self) -> Duration {
        self.ordinary
    }

    fn is_in_time(&self, number: u64) -> bool {
        self.is_judged(number) && around(number).filter_map(|number| self.get(number)).all(Convoy::has_arrived_in_time)
    }

    /// Notes a gap between answers that is none between requests.
    fn listen(&mut self, written: Instant, now: Instant) {
        let (last, latest) = self.last_answer.unwrap_or((now, written));
        if now.saturating_duration_since(last) > SILENCE + written.saturating_duration_since(latest) {
            self.silent_until = Some(now);
        }
        self.last_answer = Some((now, latest.max(written)));
    }

    /// The faster quarter is what standstills do not reach.
    fn learn(&mut self, half: Duration) {
        if self.known.len() == KNOWN {
            self.known.pop_front();
        }
        self.known.push_back(half);
        if self.known.len() >= LEAST_KNOWN {
            let mut known: Vec<Duration> = self.known.iter().copied().collect();
            known.sort_unstable();
            let (quarter, fastest) = (known[known.len() / 4], known[known.len() / 20]);
            let spread = ((quarter - fastest) * 3).max(LEAST_SPREAD);
            let is_telling = spread <= WIDEST_SPREAD.max(quarter / 4);
            self.ordinary = if is_telling { quarter + spread } else { Duration::ZERO };
        }
    }

    fn get(&self, number: u64) -> Option<&Convoy> {
        self.convoys.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut Convoy> {
        self.convoys.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

/// A convoy, and those that have a say in whether it was in time.
fn around(number: u64) -> std::ops::RangeInclusive<u64> {
    number.saturating_sub(BEFORE)..=number + AFTER
}
