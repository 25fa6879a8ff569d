//! Ordinary latencies of the service: of the fastest answer, and of nearly all.
//!
//! Slow answers are spread among fast ones, while those delayed by a standstill come in one run. So the maximum of
//! each run of answers is kept, and a latency is unusual if it exceeds those of most runs: a standstill only affects
//! its own. Pure.

use std::{collections::VecDeque, time::Duration};

/// Number of answers in a run.
const RUN: usize = 40;

/// Number of runs kept: 20 s at 200 answers per second.
const RUNS: usize = 100;

/// Minimum number of known runs; with fewer, nothing is ordinary.
const RUNS_TO_KNOW: usize = 5;

/// A run of answers: their number, the fastest and the slowest.
#[derive(Debug, Clone, Copy)]
struct Run {
    count: usize,
    shortest: Duration,
    longest: Duration,
}

const EMPTY: Run = Run { count: 0, shortest: Duration::MAX, longest: Duration::ZERO };

/// Latencies of the last answers, from the writing of a request to the end of its answer.
#[derive(Debug)]
pub(crate) struct Latencies {
    runs: VecDeque<Run>,
    current: Run,
    least: Duration,
    ordinary: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { runs: VecDeque::new(), current: EMPTY, least: Duration::ZERO, ordinary: Duration::ZERO }
    }
}

impl Latencies {
    /// A lower bound of the latency; zero while too little is known.
    pub fn least(&self) -> Duration {
        self.least
    }

    /// The maximum latency of nearly all answers, about 97 of 100; zero while too little is known.
    pub fn ordinary(&self) -> Duration {
        self.ordinary
    }

    /// Adds the latency of an answer.
    pub fn learn(&mut self, latency: Duration) {
        let Run { count, shortest, longest } = self.current;
        self.current = Run { count: count + 1, shortest: shortest.min(latency), longest: longest.max(latency) };
        self.least = self.least.min(latency);
        if self.current.count < RUN {
            return;
        }
        if self.runs.len() == RUNS {
            self.runs.pop_front();
        }
        self.runs.push_back(std::mem::replace(&mut self.current, EMPTY));
        if self.runs.len() >= RUNS_TO_KNOW {
            self.least = floor(self.runs.iter().map(|run| run.shortest).collect());
            let mut longest: Vec<Duration> = self.runs.iter().map(|run| run.longest).collect();
            longest.sort_unstable();
            self.ordinary = longest[longest.len() / 4];
        }
    }
}

/// The lower bound that the minima of the runs suggest: below the least of them by as much as that is below their
/// median. Where the minima differ much, all of them may have been delayed by standstills, and nothing is known.
fn floor(mut shortest: Vec<Duration>) -> Duration {
    shortest.sort_unstable();
    (shortest[0] * 2).saturating_sub(shortest[shortest.len() / 2])
}
