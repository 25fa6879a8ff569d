//! The service's view of the limit: the number of calls within any one second, on a clock of microseconds.
//!
//! A second is half-open: two calls exactly one second apart are not in the same one. Pure; `now` comes from the
//! caller and never goes backwards.

use std::collections::VecDeque;

const SECOND_MICROS: u64 = 1_000_000;

/// Admits at most this many calls in any sliding second.
#[derive(Debug)]
pub(super) struct RateWindow {
    limit: usize,
    admitted: VecDeque<u64>,
    /// All calls of the last second, also those that were refused.
    arrived: VecDeque<u64>,
    warned_at: Option<u64>,
}

impl RateWindow {
    pub fn new(calls_per_second: u32) -> Self {
        Self { limit: calls_per_second as usize, admitted: VecDeque::new(), arrived: VecDeque::new(), warned_at: None }
    }

    /// Applies from the next call on.
    pub fn set_limit(&mut self, calls_per_second: u32) {
        self.limit = calls_per_second as usize;
    }

    /// True if the call at `now` is within the limit; refused calls don't count.
    pub fn admit(&mut self, now: u64) -> bool {
        for calls in [&mut self.admitted, &mut self.arrived] {
            while calls.front().is_some_and(|first| first + SECOND_MICROS <= now) {
                calls.pop_front();
            }
        }
        self.arrived.push_back(now);
        let within = self.admitted.len() < self.limit;
        if within {
            self.admitted.push_back(now);
        }
        within
    }

    /// The number of calls in the last second and the limit, if that is more than 80 % of it; at most once a second.
    /// [Tencent's documentation]
    pub fn warning(&mut self, now: u64) -> Option<(usize, usize)> {
        let (calls, limit) = (self.arrived.len(), self.limit);
        let is_due = self.warned_at.is_none_or(|at| at + SECOND_MICROS <= now);
        (is_due && calls * 10 > limit * 8).then(|| {
            self.warned_at = Some(now);
            (calls, limit)
        })
    }
}

/// Maximum number of arrivals in any half-open window of one second; `arrivals` in ascending order.
pub(super) fn highest_sliding_second(arrivals: &[u64]) -> usize {
    let mut first = 0;
    let mut highest = 0;
    for (last, arrival) in arrivals.iter().enumerate() {
        while arrivals[first] + SECOND_MICROS <= *arrival {
            first += 1;
        }
        highest = highest.max(last - first + 1);
    }
    highest
}

/// Arrivals in each whole second of the clock, from its start to the last arrival.
pub(super) fn by_whole_second(arrivals: &[u64]) -> Vec<u32> {
    let seconds = arrivals.last().map_or(0, |last| last / SECOND_MICROS + 1);
    let mut counts = vec![0; seconds as usize];
    for arrival in arrivals {
        counts[(arrival / SECOND_MICROS) as usize] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_place_is_free_again_exactly_one_second_later() {
        let mut window = RateWindow::new(2);
        let admitted: Vec<bool> =
            [0, 10, 20, 999_999, 1_000_000, 1_000_009, 1_000_010].map(|now| window.admit(now)).to_vec();
        assert_eq!(admitted, [true, true, false, false, true, false, true]);
    }

    #[test]
    fn a_limit_of_nothing_admits_nothing() {
        assert!(!RateWindow::new(0).admit(5));
    }

    #[test]
    fn a_new_limit_applies_at_once_and_counts_earlier_calls() {
        let mut window = RateWindow::new(2);
        assert!(window.admit(0) && window.admit(10));
        window.set_limit(1);
        assert!(!window.admit(1_000_000) && window.admit(1_000_010), "the call at 10 has its place for a second");
        window.set_limit(2);
        assert!(window.admit(1_000_020));
    }

    #[test]
    fn calls_beyond_four_fifths_of_the_limit_are_told_once_a_second() {
        let mut window = RateWindow::new(5);
        let told: Vec<_> = [0, 1, 2, 3, 4, 5, 6, 1_000_004]
            .map(|now| {
                window.admit(now);
                window.warning(now)
            })
            .into_iter()
            .flatten()
            .collect();
        assert_eq!(told, [(5, 5)], "the sixth and seventh are counted, but not told again so soon");
        window.admit(1_000_005);
        assert_eq!(window.warning(1_000_005), None);
        assert_eq!(RateWindow::new(200).warning(0), None);
    }

    #[test]
    fn the_highest_second_is_found_across_whole_seconds() {
        assert_eq!(highest_sliding_second(&[]), 0);
        assert_eq!(highest_sliding_second(&[7]), 1);
        assert_eq!(highest_sliding_second(&[0, 1_000_000]), 1, "exactly one second apart");
        assert_eq!(highest_sliding_second(&[1, 1_000_000]), 2);
        assert_eq!(highest_sliding_second(&[0, 900_000, 950_000, 1_100_000, 1_899_999, 1_900_000]), 4);
    }

    #[test]
    fn whole_seconds_are_counted_from_the_start_with_empty_ones() {
        assert_eq!(by_whole_second(&[]), [] as [u32; 0]);
        assert_eq!(by_whole_second(&[0, 999_999, 1_000_000, 3_500_000]), [2, 1, 0, 1]);
    }

    fn ascending() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(0u64..400_000, 0..80).prop_map(|steps| {
            steps
                .into_iter()
                .scan(0, |now, step| {
                    *now += step;
                    Some(*now)
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn the_highest_second_is_what_counting_at_every_arrival_finds(arrivals in ascending()) {
            let within = |start: u64| arrivals.iter().filter(|at| (start..start + SECOND_MICROS).contains(*at)).count();
            let counted = arrivals.iter().map(|start| within(*start)).max().unwrap_or(0);
            prop_assert_eq!(highest_sliding_second(&arrivals), counted);
        }

        #[test]
        fn admitted_calls_never_exceed_the_limit_and_no_place_is_wasted(arrivals in ascending(), limit in 0u32..8) {
            let mut window = RateWindow::new(limit);
            let mut admitted: Vec<u64> = Vec::new();
            for now in arrivals {
                let taken = admitted.iter().filter(|at| **at + SECOND_MICROS > now).count();
                let admits = window.admit(now);
                prop_assert_eq!(admits, taken < limit as usize);
                if admits {
                    admitted.push(now);
                }
            }
            prop_assert!(highest_sliding_second(&admitted) <= limit as usize);
        }
    }
}
