//! The limiter: at most `limit` calls in every sliding second, as the service counts them.
//!
//! An attempt counts until a second after its arrival at the service. That is not visible here, so it counts as on
//! its way until an answer proves that the network was open: its own answer, or the answer to an attempt that was
//! written later. It arrived no later than this proof, less the minimum latency of the service.
//!
//! If the attempts written just before and after it were answered in ordinary time too (see [`Convoys`]), nothing was
//! blocked, and it arrived within `transit_allowance`. A service that takes longer than a second can't prove that in
//! time: attempts are presumed to have arrived while their answers are not overdue, and count again once they are.
//!
//! This module must never presume anything about attempts whose answers, or those of their neighbours, are overdue.

pub mod convoys;
pub mod latencies;
pub mod place;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::rules::pacer::{
    convoys::Convoys,
    latencies::Latencies,
    place::{Overtaken, Place, Written},
};

const SECOND: Duration = Duration::from_secs(1);

/// Maximum time by which attempts may catch up with their even spacing after a delay.
const CATCH_UP: Duration = Duration::from_millis(50);

/// Regrowth of a slowed rate per second, as a fraction of the limit.
const REGROWTH_STEPS: u32 = 20;

/// Time without a known arrival after which the network may be blocked.
const DOUBTFUL_AFTER: Duration = Duration::from_millis(500);

/// Fraction of the limit that is kept back in that case, at least one attempt: for the attempts that find out whether
/// the network is open again, and for a process that takes over.
const RESERVE_PART: u32 = 20;

/// Number of permits kept back at this rate while the network may be blocked.
pub(crate) fn reserve_of(rate: u32) -> u32 {
    (rate / RESERVE_PART).max(1)
}

/// The permit of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    id: u64,
    granted: Instant,
}

/// A pure limiter: at most `limit` attempts in every sliding second, evenly spaced.
#[derive(Debug)]
pub struct Pacer {
    limit: u32,
    transit_allowance: Duration,
    /// Every attempt that has not ended, or whose permit may become free earlier.
    attempts: BTreeMap<u64, Place>,
    unwritten: usize,
    /// Attempts that may not have arrived, by time of writing.
    on_the_way: BTreeSet<(Instant, u64)>,
    /// Attempts that are presumed to have arrived, by time of writing.
    presumed: BTreeSet<(Instant, u64)>,
    /// Times at which the permits of arrived attempts become free.
    leaving: BTreeSet<(Instant, u64)>,
    latencies: Latencies,
    convoys: Convoys,
    next_id: u64,
    next_at: Instant,
    slowed: Option<Slowed>,
    /// Attempts from before this time may arrive at any time: nothing sent since has been answered.
    silent_since: Option<Instant>,
    /// Requests of an earlier process may be delayed on their way.
    is_heir: bool,
}

/// The rate was reduced to `rate` at `since` and has been growing back from there.
#[derive(Debug, Clone, Copy)]
struct Slowed {
    rate: u32,
    since: Instant,
}

impl Pacer {
    /// A limiter of `limit` attempts per second (at least 1). It starts with a quiet second, since recent attempts of
    /// another process for this app may still count. Then it makes one attempt per second until one is answered,
    /// since attempts of that process may be delayed on their way. These attempts are no more than that process has
    /// kept back.
    pub fn new(limit: u32, transit_allowance: Duration, now: Instant) -> Self {
        Self {
            limit: limit.max(1),
            transit_allowance,
            attempts: BTreeMap::new(),
            unwritten: 0,
            on_the_way: BTreeSet::new(),
            presumed: BTreeSet::new(),
            leaving: BTreeSet::new(),
            latencies: Latencies::default(),
            convoys: Convoys::default(),
            next_id: 0,
            next_at: now + SECOND + transit_allowance,
            slowed: None,
            silent_since: Some(now),
            is_heir: true,
        }
    }

    /// Takes a permit, or tells when to ask again; `None` is after the next attempt that ends.
    ///
    /// # Errors
    /// The earliest known time at which there can be a permit; an attempt that ends before may make it earlier.
    pub fn take(&mut self, now: Instant) -> Result<Grant, Option<Instant>> {
        self.free(now);
        let most = self.available(now);
        let surplus = (self.unwritten + self.on_the_way.len() + self.leaving.len() + 1).saturating_sub(most as usize);
        if let Some(index) = surplus.checked_sub(1) {
            return Err(self.permit_at(index, now));
        }
        if now < self.next_at {
            return Err(Some(self.next_at));
        }
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        self.next_at = match self.silent_since {
            Some(_) => now + SECOND,
            None => self.next_at.max(earliest) + SECOND / self.rate(now),
        };
        let grant = Grant { id: self.next_id, granted: now };
        self.next_id += 1;
        self.attempts.insert(grant.id, Place::Unwritten);
        self.unwritten += 1;
        Ok(grant)
    }

    /// Notes that the request of an attempt is being written: it may arrive from now on.
    pub fn written(&mut self, grant: &Grant, now: Instant) {
        let Some(place @ Place::Unwritten) = self.attempts.get_mut(&grant.id) else { return };
        *place = Place::OnTheWay(Written { at: now, convoy: self.convoys.written(grant.id, now) });
        self.unwritten -= 1;
        self.on_the_way.insert((now, grant.id));
    }

    /// Notes that an attempt was answered, whatever the answer says.
    pub fn answered(&mut self, grant: &Grant, now: Instant) {
        let Some(place) = self.attempts.remove(&grant.id) else { return };
        let written = match place {
            Place::Unwritten => return self.unwritten -= 1,
            Place::Ended(_) => return,
            Place::OnTheWay(written) | Place::Presumed(written) | Place::Overtaken(Overtaken { written, .. }) => {
                written
            }
        };
        let latency = now.saturating_duration_since(written.at);
        // First, since it may be faster than any before: what it proves follows from that.
        self.latencies.learn(latency);
        match place {
            Place::Overtaken(overtaken) => self.overtaken_has_ended(grant.id, overtaken, now),
            _ => self.way_was_open((written.at, grant.id), now),
        }
        for (written, id) in self.convoys.answered(written.convoy, latency, now) {
            self.was_in_time(id, written);
        }
    }

    /// Notes that an attempt ended without an answer: by an error, a timeout, or because it was abandoned. If its
    /// request was not written it is not a call.
    pub fn failed(&mut self, grant: &Grant, now: Instant) {
        match self.attempts.remove(&grant.id) {
            None | Some(Place::Ended(_)) => {}
            Some(Place::Unwritten) => {
                self.unwritten -= 1;
                // The attempt of this second has not been made yet.
                if self.silent_since.is_some() && self.next_at == grant.granted + SECOND {
                    self.next_at = grant.granted;
                }
            }
            Some(Place::Overtaken(overtaken)) => self.overtaken_has_ended(grant.id, overtaken, now),
            Some(Place::OnTheWay(Written { at: written, .. }) | Place::Presumed(Written { at: written, .. })) => {
                self.on_the_way.remove(&(written, grant.id));
                self.presumed.remove(&(written, grant.id));
                self.leaving.insert((now.max(written + self.transit_allowance) + SECOND, grant.id));
                // Whatever delays it may still hold it.
                if now.saturating_duration_since(written) >= DOUBTFUL_AFTER {
                    self.silent_since = self.silent_since.max(Some(written));
                    // Attempts written before it are considered lost as well.
                    self.is_heir = false;
                }
            }
        }
    }

    /// Everything written up to `answered`, the attempt that was just answered, has arrived.
    fn way_was_open(&mut self, answered: (Instant, u64), now: Instant) {
        if self.silent_since.is_some_and(|since| since <= answered.0) {
            (self.silent_since, self.is_heir) = (None, false);
            // Attempts that were lost track of have arrived by now.
            self.next_at = now + SECOND;
        }
        let proved_by = self.arrived_by(now);
        while let Some((written, id)) = pop_until(&mut self.on_the_way, answered) {
            let arrived = if id == answered.1 { proved_by } else { proved_by.max(written + self.transit_allowance) };
            let free_at = arrived + SECOND;
            self.leaving.insert((free_at, id));
            match self.attempts.get_mut(&id) {
                Some(place) => place.is_overtaken(now, free_at),
                None => _ = self.attempts.insert(id, Place::Ended(free_at)),
            }
        }
        while let Some((_, id)) = pop_until(&mut self.presumed, answered) {
            self.attempts.entry(id).and_modify(|place| place.is_overtaken(now, now));
        }
    }

    /// Time of arrival proved by an answer at `now`: earlier by the service's minimum latency, as far as that exceeds
    /// the transit allowance.
    fn arrived_by(&self, now: Instant) -> Instant {
        now - self.latencies.least().saturating_sub(self.transit_allowance)
    }

    /// An overtaken attempt ends: it arrived before, and usually within the allowance. One that took unusually long
    /// may have been delayed on its way, since the attempt that overtook it used another connection.
    fn overtaken_has_ended(&mut self, id: u64, overtaken: Overtaken, now: Instant) {
        let Overtaken { written, free_at, .. } = overtaken;
        if self.leaving.remove(&(free_at, id)) {
            let by_end = self.arrived_by(now) + SECOND;
            if now.saturating_duration_since(written.at) > self.latencies.ordinary() + self.transit_allowance {
                self.leaving.insert((by_end, id));
            } else {
                self.leaving.insert((by_end.min(free_at), id));
                self.attempts.insert(id, Place::Ended(by_end.min(free_at)));
            }
        }
    }

    /// The attempts written with this one arrived in time, so it did too.
    fn was_in_time(&mut self, id: u64, written: Instant) {
        let in_time = written + self.transit_allowance + SECOND;
        let place = self.attempts.get_mut(&id);
        let Some(Place::Ended(free_at) | Place::Overtaken(Overtaken { free_at, .. })) = place else { return };
        if *free_at > in_time && self.leaving.remove(&(*free_at, id)) {
            *free_at = in_time;
            self.leaving.insert((in_time, id));
        }
    }

    /// Frees the permits whose time has come, except those of late attempts.
    fn free(&mut self, now: Instant) {
        self.presume(now);
        let (ordinary, is_doubtful) = (self.latencies.ordinary() + self.transit_allowance, self.is_doubtful(now));
        while let Some((_, id)) = self.leaving.first().copied().filter(|(free_at, _)| *free_at <= now) {
            self.leaving.pop_first();
            let Some(place) = self.attempts.get_mut(&id) else { continue };
            let Place::Overtaken(overtaken) = place else {
                self.attempts.remove(&id);
                continue;
            };
            let is_late = now.saturating_duration_since(overtaken.written.at) > ordinary;
            let late_until = overtaken.arrived() + SECOND;
            if is_late && is_doubtful {
                // The attempt that overtook it may have been the last to get through.
                self.on_the_way.insert((overtaken.written.at, id));
                *place = Place::OnTheWay(overtaken.written);
            } else if is_late && late_until > now {
                overtaken.free_at = late_until;
                self.leaving.insert((late_until, id));
            }
        }
    }

    /// A service that takes longer than a second can't prove arrivals in time. While its answers are not overdue,
    /// attempts are presumed to have arrived; once they are, they count as on their way again.
    fn presume(&mut self, now: Instant) {
        while let Some((written, id)) = self.presumed.first().copied() {
            let Some(place) = self.attempts.get_mut(&id) else { break };
            let Place::Presumed(at) = *place else { break };
            if !self.convoys.is_overdue(at.convoy, now) {
                break;
            }
            *place = Place::OnTheWay(at);
            self.presumed.pop_first();
            self.on_the_way.insert((written, id));
        }
        let ordinary = self.latencies.ordinary() + self.transit_allowance;
        let due = self.on_the_way.iter().copied().take_while(|(at, _)| *at + self.transit_allowance + SECOND <= now);
        // An attempt that is late itself may be held up, even if half of its convoy was in time.
        let due = due.filter(|(at, _)| now.saturating_duration_since(*at) <= ordinary);
        for (written, id) in due.collect::<Vec<_>>() {
            let Some(place) = self.attempts.get_mut(&id) else { break };
            let Place::OnTheWay(at) = *place else { break };
            if self.convoys.is_overdue(at.convoy, now) {
                break;
            }
            if self.convoys.is_judged(at.convoy) {
                *place = Place::Presumed(at);
                self.on_the_way.remove(&(written, id));
                self.presumed.insert((written, id));
            }
        }
    }

    /// The known time at which the permit with this index becomes free; earlier if one may be presumed to be.
    fn permit_at(&self, index: usize, now: Instant) -> Option<Instant> {
        let leaving = self.leaving.iter().nth(index).map(|(free_at, _)| *free_at);
        let presumed_at = |(written, _): &(Instant, u64)| *written + self.transit_allowance + SECOND;
        let presumed = self.on_the_way.iter().map(presumed_at).find(|at| *at > now);
        leaving.into_iter().chain(presumed).min()
    }

    /// Whether nothing sent for a while is known to have arrived.
    fn is_doubtful(&self, now: Instant) -> bool {
        let oldest = self.on_the_way.first();
        let doubtful_after = DOUBTFUL_AFTER.max(self.convoys.ordinary() + self.transit_allowance);
        oldest.is_some_and(|(written, _)| now.saturating_duration_since(*written) >= doubtful_after)
    }

    /// The number of permits, without those kept back.
    fn available(&mut self, now: Instant) -> u32 {
        let rate = self.rate(now);
        let reserve = reserve_of(rate);
        match self.is_doubtful(now) {
            _ if self.is_heir => reserve,
            true => (rate - reserve).max(1),
            false => rate,
        }
    }

    /// Halves the rate immediately, for a slow-down that answered `grant`. Answers to attempts from before the last
    /// halving don't halve it again: they are about the old rate.
    pub fn slow_down(&mut self, grant: &Grant, now: Instant) {
        if self.slowed.is_some_and(|slowed| grant.granted < slowed.since) {
            return;
        }
        self.slowed = Some(Slowed { rate: (self.rate(now) / 2).max(1), since: now });
    }

    /// The rate at `now`, in attempts per second.
    pub fn rate(&mut self, now: Instant) -> u32 {
        let Some(slowed) = self.slowed else { return self.limit };
        let seconds = now.saturating_duration_since(slowed.since).as_secs();
        let step = u64::from(self.limit.div_ceil(REGROWTH_STEPS));
        let rate = u64::from(slowed.rate).saturating_add(seconds.saturating_mul(step));
        if rate >= u64::from(self.limit) {
            self.slowed = None;
        }
        u32::try_from(rate).unwrap_or(u32::MAX).min(self.limit)
    }
}

/// Removes the first attempt if it was written no later than `last`.
fn pop_until(attempts: &mut BTreeSet<(Instant, u64)>, last: (Instant, u64)) -> Option<(Instant, u64)> {
    attempts.first().is_some_and(|first| *first <= last).then(|| attempts.pop_first())?
}

#[cfg(test)]
mod network;
#[cfg(test)]
mod tests;
