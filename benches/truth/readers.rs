//! Simulated readers: which member reads which message, and when.

use fastrand::Rng;
use receiptd::simulator::ReadingCurve;

use super::worlds::DAY;

/// Reading habits of the members of a group.
#[derive(Debug, Clone, Copy)]
pub enum Readers {
    /// They look into the group now and then, mostly by day, and read everything unread; some soon after a message,
    /// some hardly ever.
    Visitors,
    /// Each member reads each message independently, by the curves of the simulated Chat.
    Curves,
}

impl Readers {
    /// For each message, sent at these times, the times when it was read, rising.
    pub fn reads(self, sent: &[f64], members: u32, until: f64, rng: &mut Rng) -> Vec<Vec<f64>> {
        match self {
            Self::Visitors => visitors(sent, members, until, rng),
            Self::Curves => curves(sent, members, rng),
        }
    }
}

fn curves(sent: &[f64], members: u32, rng: &mut Rng) -> Vec<Vec<f64>> {
    let median = 600.0 * log_normal(rng, 1.2);
    let reads = |sent_at: &f64| {
        let curve = ReadingCurve::new(rng.u64(..), members, median);
        (1..members).map_while(|count| curve.age_at(count)).map(|age| sent_at + age).collect()
    };
    sent.iter().map(reads).collect()
}

fn visitors(sent: &[f64], members: u32, until: f64, rng: &mut Rng) -> Vec<Vec<f64>> {
    // Groups differ in speed, and so do their members.
    let pace = log_normal(rng, 0.8);
    let mut reads = vec![vec![]; sent.len()];
    for _ in 1..members {
        let visits = visits(sent, pace, until, rng);
        let mut next = 0;
        for (sent_at, reads) in sent.iter().zip(&mut reads) {
            while visits.get(next).is_some_and(|visit| visit <= sent_at) {
                next += 1;
            }
            reads.extend(visits.get(next));
        }
    }
    reads.iter_mut().for_each(|reads| reads.sort_by(f64::total_cmp));
    reads
}

/// The times at which a member opens a group.
fn visits(sent: &[f64], pace: f64, until: f64, rng: &mut Rng) -> Vec<f64> {
    let kind = rng.f64();
    let a_day = pace * log_normal(rng, 0.7) * if kind < 0.15 { 0.3 } else { 6.0 };
    if kind < 0.04 {
        return vec![];
    }
    let mut visits = vec![];
    let mut at = 0.0;
    while at < until {
        at += exponential(rng, DAY / a_day / 2.0);
        if rng.f64() < daytime(at) {
            visits.push(at);
        }
    }
    // Some look soon after a message, if they are awake.
    let alert = if kind < 0.15 { 0.0 } else { 0.5 * rng.f64() };
    for sent_at in sent {
        if rng.f64() < alert && rng.f64() < daytime(*sent_at) {
            visits.push(sent_at + 240.0 * log_normal(rng, 1.0));
        }
    }
    visits.sort_by(f64::total_cmp);
    visits
}

/// Fraction of people who are awake at a time; 0.5 on average.
pub fn daytime(at: f64) -> f64 {
    let hour = at.rem_euclid(DAY) / 3_600.0;
    (0.5 - 0.49 * (std::f64::consts::TAU * (hour - 2.0) / 24.0).cos()).clamp(0.01, 1.0)
}

pub fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.f64()).ln()
}

/// A factor with a median of 1.
pub fn log_normal(rng: &mut Rng, sigma: f64) -> f64 {
    let (one, other) = (1.0 - rng.f64(), rng.f64());
    (sigma * (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos()).exp()
}
