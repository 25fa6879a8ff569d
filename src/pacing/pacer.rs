//! The limiter itself: exact over every sliding second, as the service counts it.
//!
//! An attempt reaches the service some time between its sending and its end. So a permit that is free again one
//! second after its attempt *ended* can't let `limit + 1` arrivals into any second, whatever the network does. Since a
//! slow service would cost budget that way, the end counts at most `transit_allowance` after the sending where no answer
//! comes sooner than that. Where answers do, an attempt that takes longer was probably held up on its way, so its end is
//! waited for, up to a second.
//!
//! A process that stands still (SIGSTOP, a frozen machine) may have attempts that were let go and not yet sent. After a
//! gap all that have not ended count as sent just then.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

const SECOND: Duration = Duration::from_secs(1);

/// How far attempts may catch up with their even spacing after a delay.
const CATCH_UP: Duration = Duration::from_millis(20);

/// So long the end of an attempt is waited for that takes longer than others.
const HELD_UP_AT_MOST: Duration = SECOND;

/// Answers that come later than the allowance for so long, and none sooner, are those of a slow service.
const SLOW_AFTER: Duration = Duration::from_secs(2);

/// A slowed rate grows back by this part of the limit every second.
const REGROWTH_STEPS: u32 = 20;

/// While attempts are under way the pacer must be told the time this often, see [`Pacer::beat`].
pub(super) const BEAT: Duration = Duration::from_millis(40);

/// If it was not told the time for so long, the process stood still.
const GAP: Duration = Duration::from_millis(100);

/// One attempt that was let go.
#[derive(Debug, PartialEq, Eq)]
pub struct Grant {
    id: u64,
    sent: Instant,
}

/// A pure limiter: at most `limit` attempts in every sliding second, evenly spaced.
#[derive(Debug)]
pub struct Pacer {
    limit: u32,
    transit_allowance: Duration,
    /// When each permit that is taken becomes free at the latest.
    taken: BTreeSet<(Instant, u64)>,
    /// The same time for each attempt that has not ended, also when its permit is free by now.
    under_way: BTreeMap<u64, Instant>,
    last_beat: Instant,
    next_id: u64,
    next_at: Instant,
    slowed: Option<Slowed>,
    /// Since when every attempt took longer than the allowance.
    slow_since: Option<Instant>,
}

/// The rate was cut to `rate` at `since` and has been growing back from there.
#[derive(Debug, Clone, Copy)]
struct Slowed {
    rate: u32,
    since: Instant,
}

impl Pacer {
    /// A limiter of `limit` attempts a second (at least 1), counting an end at most `transit_allowance` after its
    /// sending. It starts with a quiet second: what another process sent for this app just before may still count.
    pub fn new(limit: u32, transit_allowance: Duration, now: Instant) -> Self {
        Self {
            limit: limit.max(1),
            transit_allowance,
            taken: BTreeSet::new(),
            under_way: BTreeMap::new(),
            last_beat: now,
            next_id: 0,
            next_at: now + SECOND + transit_allowance,
            slowed: None,
            slow_since: None,
        }
    }

    /// Takes a permit, or tells when to ask again.
    ///
    /// # Errors
    /// The earliest time at which there can be one; an attempt that ends meanwhile may make it earlier.
    pub fn take(&mut self, now: Instant) -> Result<Grant, Instant> {
        self.beat(now);
        while self.taken.first().is_some_and(|(free_at, _)| *free_at <= now) {
            self.taken.pop_first();
        }
        let rate = self.rate(now);
        let surplus = (self.taken.len() + 1).saturating_sub(rate as usize);
        if let Some((free_at, _)) = surplus.checked_sub(1).and_then(|index| self.taken.iter().nth(index)) {
            return Err(*free_at);
        }
        if now < self.next_at {
            return Err(self.next_at);
        }
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        self.next_at = self.next_at.max(earliest) + SECOND / rate;
        let grant = Grant { id: self.next_id, sent: now };
        self.next_id += 1;
        let free_at = now + self.wait_for_end(now) + SECOND;
        self.taken.insert((free_at, grant.id));
        self.under_way.insert(grant.id, free_at);
        Ok(grant)
    }

    /// Tells the time. Where it was not told for longer than a beat the process stood still, and attempts that have not
    /// ended may reach the service only now. True if any is under way, so that more beats are needed.
    pub fn beat(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.last_beat) > GAP {
            let free_at = now + self.wait_for_end(now) + SECOND;
            for (id, old) in &mut self.under_way {
                self.taken.remove(&(*old, *id));
                self.taken.insert((free_at, *id));
                *old = free_at;
            }
        }
        self.last_beat = now;
        !self.under_way.is_empty()
    }

    /// How long after its sending the end of an attempt counts at the most.
    fn wait_for_end(&self, now: Instant) -> Duration {
        let is_slow = self.slow_since.is_some_and(|since| now.saturating_duration_since(since) >= SLOW_AFTER);
        if is_slow { self.transit_allowance } else { self.transit_allowance.max(HELD_UP_AT_MOST) }
    }

    /// Notes that an attempt has ended: by an answer, an error or a timeout.
    pub fn ended(&mut self, grant: &Grant, now: Instant) {
        let latency = now.saturating_duration_since(grant.sent);
        self.slow_since = self.slow_since.or(Some(now)).filter(|_| latency > self.transit_allowance);
        let Some(free_at) = self.under_way.remove(&grant.id) else { return };
        if self.taken.remove(&(free_at, grant.id)) {
            self.taken.insert((free_at.min(now + SECOND), grant.id));
        }
    }

    /// Halves the rate at once, for a slow-down that answered `grant`. Answers to attempts that were sent before the
    /// last halving don't halve it again: they tell of the old rate.
    pub fn slow_down(&mut self, grant: &Grant, now: Instant) {
        if self.slowed.is_some_and(|slowed| grant.sent < slowed.since) {
            return;
        }
        self.slowed = Some(Slowed { rate: (self.rate(now) / 2).max(1), since: now });
    }

    /// The attempts per second that are allowed at `now`.
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

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
