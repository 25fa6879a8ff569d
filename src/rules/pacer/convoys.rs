//! Whether requests arrived in time, judged by those written just before and after them.
//!
//! A single slow answer proves nothing: the service may have been slow. But a blocked network delays requests
//! together. So attempts are judged in convoys of up to eight that were written one after the other, by the time in
//! which half of them were answered. That varies much less than single latencies, and a standstill shifts it by the
//! time for which it delayed the convoy. Pure.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Maximum number of attempts in a convoy; half as many are needed to judge it.
const LENGTH: usize = 8;

/// Number of convoys before and after one that must be in time too: a standstill shifts its last ones only a little.
const BEFORE: u64 = 2;
const AFTER: u64 = 1;

/// Maximum time to write a convoy: attempts further apart say nothing about a short standstill.
const LONGEST: Duration = Duration::from_millis(100);

/// Maximum time between a convoy and the next one, which proves that nothing was blocked meanwhile. A standstill lets
/// the connections run out, and then nothing is written until its end.
const WIDEST_GAP: Duration = Duration::from_millis(50);

/// Number of convoys kept: 20 s at 200 attempts per second.
const CONVOYS: usize = 500;

/// Number of convoys from which the ordinary time is learned: 10 s at 200 attempts per second.
const KNOWN: usize = 250;

/// Minimum number of known convoys; with fewer, nothing is ordinary.
const LEAST_KNOWN: usize = 25;

/// Minimum tolerance above the faster quarter of the convoys.
const LEAST_SPREAD: Duration = Duration::from_millis(5);

/// Maximum variation, or a quarter of the time if that is more. Beyond it, convoys say nothing about standstills.
const WIDEST_SPREAD: Duration = Duration::from_millis(100);

/// Time without answers after which attempts in flight tell about the network rather than the service.
const SILENCE: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Convoy {
    /// Time of writing and id of each attempt.
    members: Vec<(Instant, u64)>,
    /// Final number of members.
    size: usize,
    /// Latencies of the answers so far.
    latencies: Vec<Duration>,
    /// Number of answers in time.
    in_time: usize,
}

impl Convoy {
    fn half(&self) -> usize {
        self.size.div_ceil(2)
    }

    fn has_arrived_in_time(&self) -> bool {
        self.in_time >= self.half()
    }

    /// Whether half of it should have been answered by now.
    fn is_overdue(&self, ordinary: Duration, now: Instant) -> bool {
        let last = self.members.get(self.half());
        !self.has_arrived_in_time() && last.is_some_and(|(written, _)| now > *written + ordinary + WIDEST_SPREAD)
    }

    /// Whether it is complete, and large enough to judge.
    fn is_judged(&self) -> bool {
        self.members.len() == self.size && self.size >= LENGTH / 2
    }

    fn has_room(&self, now: Instant) -> bool {
        self.members.len() < LENGTH && self.members.first().is_none_or(|(first, _)| now - *first <= LONGEST)
    }
}

/// The latest attempts, in order of writing.
#[derive(Debug, Default)]
pub(crate) struct Convoys {
    convoys: VecDeque<Convoy>,
    /// The number of the first convoy in `convoys`.
    first: u64,
    /// Time in which half of each of the last convoys was answered.
    known: VecDeque<Duration>,
    ordinary: Duration,
    /// Time of the last answer, and latest time of writing of the answered attempts.
    last_answer: Option<(Instant, Instant)>,
    /// Nothing was answered for a while before this time.
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

    /// Notes the latency of an attempt in a convoy.
    ///
    /// Returns the attempts that are now known to have arrived in time: those of a convoy that was in time itself and
    /// whose neighbours were.
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

    /// The maximum ordinary time for half a convoy; zero while too little is known.
    pub fn ordinary(&self) -> Duration {
        self.ordinary
    }

    fn is_in_time(&self, number: u64) -> bool {
        self.is_judged(number)
            && self.is_followed(number)
            && around(number).filter_map(|number| self.get(number)).all(Convoy::has_arrived_in_time)
    }

    /// Whether the next convoy was written soon after this one. If not, a standstill may have delayed only the last
    /// attempts of this one, and have ended before the next.
    fn is_followed(&self, number: u64) -> bool {
        let last = self.get(number).and_then(|convoy| convoy.members.last());
        let next = self.get(number + 1).and_then(|convoy| convoy.members.first());
        last.zip(next).is_some_and(|((last, _), (next, _))| *next - *last <= WIDEST_GAP)
    }

    /// Notes a gap between answers that was not a gap between requests.
    fn listen(&mut self, written: Instant, now: Instant) {
        let (last, latest) = self.last_answer.unwrap_or((now, written));
        if now.saturating_duration_since(last) > SILENCE + written.saturating_duration_since(latest) {
            self.silent_until = Some(now);
        }
        self.last_answer = Some((now, latest.max(written)));
    }

    /// Standstills don't affect the faster quarter.
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

/// A convoy and the neighbours that must be in time too.
fn around(number: u64) -> std::ops::RangeInclusive<u64> {
    number.saturating_sub(BEFORE)..=number + AFTER
}
