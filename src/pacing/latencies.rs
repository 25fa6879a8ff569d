//! What is ordinary for the answers of the service: how soon the fastest comes, and how late an answer is unusual.
//!
//! Slow answers are spread among fast ones, while those that a standstill held up come in one run. So the longest of each run of
//! answers is kept, and unusual is what is longer than in most runs: a standstill only reaches its own. Pure.

use std::{collections::VecDeque, time::Duration};

/// How many answers make a run.
const RUN: usize = 40;

/// How many runs are remembered: 20 s at 200 answers a second.
const RUNS: usize = 100;

/// Until so many runs are known, nothing is ordinary.
const RUNS_TO_KNOW: usize = 5;

/// The answers of one run: how many, the fastest and the slowest.
#[derive(Debug, Clone, Copy)]
struct Run {
    count: usize,
    shortest: Duration,
    longest: Duration,
}

const EMPTY: Run = Run { count: 0, shortest: Duration::MAX, longest: Duration::ZERO };

/// Latencies of the last answers, from the writing of a request to the end of its answer.
#[derive(Debug)]
pub(super) struct Latencies {
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
    /// What every answer took at least; zero while too little is known.
    pub fn least(&self) -> Duration {
        self.least
    }

    /// What nearly all answers took at most, some 97 of 100; zero while too little is known.
    pub fn ordinary(&self) -> Duration {
        self.ordinary
    }

    /// Learns what an answer took.
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
            self.least = self.runs.iter().map(|run| run.shortest).min().unwrap_or_default();
            let mut longest: Vec<Duration> = self.runs.iter().map(|run| run.longest).collect();
            longest.sort_unstable();
            self.ordinary = longest[longest.len() / 4];
        }
    }
}
