//! The share of places and calls for failing slots, so that they don't delay the others.
//!
//! They get a tenth of the places for polls, and a tenth of the calls in any second may go to them and fail. An
//! answered call doesn't count, so that slots return after an outage as fast as they are answered. Pure, given `now`.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// Failing slots get one place or call in this many.
const ONE_IN: u32 = 10;

/// Minimum number of places for polls of failing slots.
const PLACES_AT_LEAST: usize = 4;

/// Maximum number of polls in flight of failing slots, out of `max_in_flight`.
pub(crate) fn places(max_in_flight: usize) -> usize {
    max_in_flight.div_ceil(ONE_IN as usize).max(PLACES_AT_LEAST).min(max_in_flight)
}

/// Counts failed calls of failing slots.
#[derive(Debug)]
pub(crate) struct FailingCalls {
    /// Maximum number of calls in `span`.
    most: usize,
    span: Duration,
    /// Number of calls that may be sent and have not been yet.
    taken: usize,
    /// When calls were sent that failed or are in flight.
    sent: VecDeque<Instant>,
}

impl FailingCalls {
    /// For a limit in calls per second, which may arrive up to `allowance` after they are sent.
    pub(crate) fn new(limit: u32, allowance: Duration) -> Self {
        let most = (limit / ONE_IN).max(1);
        let micros = (u64::from(most * ONE_IN) * 1_000_000).div_ceil(u64::from(limit.max(1)));
        let span = Duration::from_micros(micros).max(Duration::from_secs(1)) + allowance;
        Self { most: most as usize, span, taken: 0, sent: VecDeque::new() }
    }

    /// Takes the right to send one call.
    ///
    /// # Errors
    /// With the earliest time for it, or `None` if another call must be given back first.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Option<Instant>> {
        while self.sent.front().is_some_and(|sent| *sent + self.span <= now) {
            self.sent.pop_front();
        }
        if self.taken + self.sent.len() < self.most {
            self.taken += 1;
            return Ok(());
        }
        Err(self.sent.front().map(|sent| *sent + self.span))
    }

    /// The call is sent: it counts from now on.
    pub(crate) fn sends(&mut self, now: Instant) {
        self.taken = self.taken.saturating_sub(1);
        self.sent.push_back(now);
    }

    /// The call sent at this time doesn't count: it was answered, or not made. `None` if it wasn't sent at all.
    pub(crate) fn give_back(&mut self, sent: Option<Instant>) {
        match sent {
            None => self.taken = self.taken.saturating_sub(1),
            Some(sent) => {
                if let Some(at) = self.sent.iter().position(|other| *other == sent) {
                    self.sent.remove(at);
                }
            }
        }
    }

    /// Numbers of calls that may be sent, and of calls that count.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.taken, self.sent.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn failing_slots_get_a_tenth_of_the_places_and_a_few_at_least() {
        for (max_in_flight, expected) in [(1, 1), (3, 3), (10, 4), (60, 6), (400, 40), (405, 41)] {
            assert_eq!(places(max_in_flight), expected, "of {max_in_flight}");
        }
    }

    #[test]
    fn a_tenth_of_the_limit_may_fail_however_low_it_is() {
        for (limit, most, millis) in [(1, 1, 10_000), (4, 1, 2_500), (10, 1, 1_000), (19, 1, 1_000), (200, 20, 1_000)] {
            let start = Instant::now();
            let mut calls = FailingCalls::new(limit, Duration::ZERO);
            for _ in 0..most {
                assert_eq!(calls.take(start), Ok(()), "limit {limit}");
                calls.sends(start);
            }
            assert_eq!(calls.take(start), Err(Some(start + Duration::from_millis(millis))), "limit {limit}");
            assert_eq!(calls.take(start + Duration::from_millis(millis)), Ok(()), "limit {limit}");
        }
    }

    #[test]
    fn a_call_that_was_answered_or_not_made_does_not_count() {
        let now = Instant::now();
        let mut calls = FailingCalls::new(10, Duration::ZERO);
        for sent in [true, false, true, true] {
            assert_eq!(calls.take(now), Ok(()));
            assert_eq!(calls.take(now), Err(None));
            if sent {
                calls.sends(now);
            }
            calls.give_back(sent.then_some(now));
        }
    }

    proptest! {
        #[test]
        fn in_no_span_of_a_second_more_than_a_tenth_is_sent_and_fails(
            limit in 1_u32..400,
            steps in proptest::collection::vec((0_u64..120, 0_u8..4), 1..400),
        ) {
            let mut now = Instant::now();
            let mut calls = FailingCalls::new(limit, Duration::ZERO);
            let (mut taken, mut failed) = (0, Vec::new());
            for (millis, step) in steps {
                now += Duration::from_millis(millis);
                match step {
                    0 | 1 => taken += usize::from(calls.take(now).is_ok()),
                    2 if taken > 0 => {
                        taken -= 1;
                        calls.sends(now);
                        failed.push(now);
                    }
                    3 if taken > 0 => {
                        taken -= 1;
                        calls.sends(now);
                        calls.give_back(Some(now));
                    }
                    _ => {}
                }
            }
            for (at, first) in failed.iter().enumerate() {
                let within = failed[at..].iter().filter(|sent| **sent < *first + Duration::from_secs(1)).count();
                prop_assert!(within <= (limit as usize / 10).max(1), "{within} of {limit}");
            }
        }
    }
}
