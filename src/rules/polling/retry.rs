//! Delays before an attempt is repeated: exponential backoff with jitter, a bounded number of times.
//!
//! Crate `backoff` only provides the policy: the loop is the caller's, since every attempt takes a permit and is
//! judged by its body.

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff};

/// Maximum number of attempts of a call before it returns to the schedule.
pub(crate) const MAX_ATTEMPTS: u32 = 5;

/// The delays between the attempts of a call.
#[derive(Debug)]
pub(crate) struct Retry {
    policy: ExponentialBackoff,
    left: u32,
}

impl Default for Retry {
    fn default() -> Self {
        let policy = ExponentialBackoff {
            initial_interval: Duration::from_millis(400),
            current_interval: Duration::from_millis(400),
            multiplier: 2.0,
            // The jitter is added below, by a generator with a seed, so that a run can be repeated.
            randomization_factor: 0.0,
            max_interval: Duration::from_secs(5),
            // Bounded by the number of attempts instead.
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        Self { policy, left: MAX_ATTEMPTS - 1 }
    }
}

impl Retry {
    /// The delay before the next attempt, or `None` if they are used up.
    pub(crate) fn next_wait(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        Some(self.policy.next_backoff()?.mul_f64(0.5 + fastrand::f64()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_with_jitter_and_end_after_five_attempts() {
        let mut retry = Retry::default();
        for expected in [400, 800, 1_600, 3_200] {
            let wait = retry.next_wait().unwrap().as_millis();
            assert!((expected / 2..=expected * 3 / 2).contains(&wait), "{wait} ms is not within half of {expected}");
        }
        assert_eq!(retry.next_wait(), None);
    }

    #[test]
    fn two_calls_that_fail_together_do_not_come_back_together() {
        let first_waits: std::collections::HashSet<_> = (0..50).map(|_| Retry::default().next_wait()).collect();
        assert!(first_waits.len() > 40);
    }
}
