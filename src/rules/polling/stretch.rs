//! The stretch: the factor by which all intervals of an app are longer while more is due than the limit allows. Pure.
//!
//! It follows the demand of the schedule without a stretch, which does not depend on the stretch itself, so it can't
//! oscillate. It must never differ from 1 while everything fits, and it only moves in small steps.

use std::time::{Duration, Instant};

/// Time between two steps.
const STEP: Duration = Duration::from_secs(10);

/// Maximum change of the factor's logarithm in a step: sixfold in six minutes.
const MOST: f64 = 0.05;

/// Fraction of the limit that is planned for: the rest is for first polls, retries and late polls.
const PLANNED: f64 = 0.95;

/// Time over which the demand is averaged.
const DEMAND_OVER: f64 = 300.0;

/// Time over which calls made are compared with calls planned.
const CALLS_OVER: f64 = 2.0 * 3_600.0;

/// Maximum factor by which that comparison raises the demand. It never lowers it: while polls are late, it is unknown
/// how many more would have been made, so the mean is too low rather than too high.
const CORRECTION: f64 = 2.0;

/// Lateness from which fewer calls than planned only mean that there was no room for them.
const LATE: Duration = Duration::from_secs(10);

/// The calls that are due, and those that were made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Calls per second that the schedule needs without a stretch.
    pub demand: f64,
    /// Calls per second since the last step.
    pub made: f64,
    /// Maximum number of calls per second.
    pub allowed: f64,
    /// Lateness of the most overdue poll.
    pub behind: Duration,
}

/// Decides the stretch of an app.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stretch {
    log: f64,
    stepped_at: Option<Instant>,
    /// Averages, in calls per second.
    means: Option<Means>,
}

#[derive(Debug, Clone, Copy)]
struct Means {
    demand: f64,
    made: f64,
    planned: f64,
}

impl Stretch {
    /// Adopts the stretch that an earlier poller has left.
    pub(crate) fn recalled(factor: f64) -> Self {
        Self { log: if factor > 1.0 { factor.ln() } else { 0.0 }, ..Self::default() }
    }

    /// The factor by which all intervals are longer.
    pub(crate) fn factor(&self) -> f64 {
        self.log.exp()
    }

    /// Whether it is time for a step.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.stepped_at.is_none_or(|stepped_at| now.saturating_duration_since(stepped_at) >= STEP)
    }

    /// Takes a step towards the stretch at which everything fits.
    pub(crate) fn step(&mut self, load: &Load, now: Instant) {
        let past = self.stepped_at.map_or(STEP, |stepped_at| now.saturating_duration_since(stepped_at)).min(2 * STEP);
        self.stepped_at = Some(now);
        let planned = load.demand / self.factor();
        let means = self.means.get_or_insert(Means { demand: load.demand, made: planned, planned });
        means.demand += (load.demand - means.demand) * share(past, DEMAND_OVER);
        let made = if load.behind < LATE { load.made } else { load.made.max(planned) };
        means.made += (made - means.made) * share(past, CALLS_OVER);
        means.planned += (planned - means.planned) * share(past, CALLS_OVER);
        let correction = if means.planned > 0.0 { means.made / means.planned } else { 1.0 };
        let demand = means.demand * correction.clamp(1.0, CORRECTION);
        self.log += (wanted(demand, 0.0, load.allowed).ln() - self.log).clamp(-MOST, MOST);
    }
}

/// The stretch at which a demand fits beside `others`, which are made at any stretch. All are in calls per second.
pub fn wanted(demand: f64, others: f64, allowed: f64) -> f64 {
    let room = PLANNED * allowed;
    (demand / (room - others).max(room / CORRECTION)).max(1.0)
}

/// Share of an average over `over` seconds that is replaced in a step.
fn share(past: Duration, over: f64) -> f64 {
    1.0 - (-past.as_secs_f64() / over).exp()
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use super::*;

    /// Slots that are polled second by second, by due times and the stretch.
    struct Polled {
        start: Instant,
        second: u64,
        stretch: Stretch,
        /// When each slot is due, in milliseconds.
        due: BinaryHeap<Reverse<u64>>,
        every: u64,
        made: u64,
    }

    impl Polled {
        fn of(slots: u64, every: u64) -> Self {
            let (start, stretch) = (Instant::now(), Stretch::default());
            let mut polled = Self { start, second: 0, stretch, due: BinaryHeap::new(), every, made: 0 };
            polled.add(slots);
            polled
        }

        fn add(&mut self, slots: u64) {
            let due = |slot| Reverse(1_000 * self.second + 1_000 * self.every * slot / slots);
            self.due.extend((0..slots).map(due));
        }

        /// Polls for this number of seconds. Returns the stretch after each step.
        fn run(&mut self, seconds: u64, allowed: impl Fn(u64) -> u32) -> Vec<f64> {
            let mut factors = vec![];
            for _ in 0..seconds {
                self.second += 1;
                let (now, at) = (1_000 * self.second, self.start + Duration::from_secs(self.second));
                let allowed = allowed(self.second);
                for _ in 0..allowed {
                    let Some(mut due) = self.due.peek_mut().filter(|due| due.0 <= now) else { break };
                    *due = Reverse(now + (self.stretch.factor() * 1e3 * self.every as f64) as u64);
                    self.made += 1;
                }
                if self.stretch.is_due(at) {
                    let behind = self.due.peek().map_or(0, |due| now.saturating_sub(due.0));
                    let load = Load {
                        demand: self.due.len() as f64 / self.every as f64,
                        made: std::mem::take(&mut self.made) as f64 / 10.0,
                        allowed: allowed.into(),
                        behind: Duration::from_millis(behind),
                    };
                    self.stretch.step(&load, at);
                    factors.push(self.stretch.factor());
                }
            }
            factors
        }
    }

    /// It neither overshoots the right value by much, nor leaves it again.
    fn settles(factors: &[f64], right: f64, within: u64) {
        let before = factors[0];
        let (low, high) = (before.min(right) * 0.93, before.max(right) * 1.07);
        assert!(factors.iter().all(|factor| (low..=high).contains(factor)), "{before} to {right}: {factors:?}");
        let settled = &factors[(within / 10) as usize..];
        assert!(settled.iter().all(|factor| (factor / right - 1.0).abs() < 0.07), "{right}: {settled:?}");
        let steps = factors.windows(2).map(|pair| (pair[1] / pair[0]).ln().abs());
        assert!(steps.into_iter().all(|step| step < MOST + 1e-9), "{factors:?}");
    }

    #[test]
    fn while_everything_fits_nothing_is_stretched() {
        let is_one = |factor: &f64| (factor - 1.0).abs() < f64::EPSILON;
        assert!(Polled::of(550, 60).run(7_200, |_| 10).iter().all(is_one), "9.2 of 10 calls a second");
        assert!(Polled::of(0, 60).run(600, |_| 10).iter().all(is_one));
    }

    #[test]
    fn when_too_much_is_due_it_settles_where_everything_fits() {
        settles(&Polled::of(1_800, 60).run(3 * 3_600, |_| 10), 3.0 / 0.95, 1_200);
    }

    #[test]
    fn it_follows_changes_of_the_limit_without_ringing() {
        let mut polled = Polled::of(600, 60);
        settles(&polled.run(3_600, |_| 20), 1.0, 0);
        settles(&polled.run(4 * 3_600, |_| 2), 5.0 / 0.95, 1_200);
        settles(&polled.run(4 * 3_600, |_| 4), 2.5 / 0.95, 1_200);
        settles(&polled.run(4 * 3_600, |_| 20), 1.0, 1_200);
    }

    #[test]
    fn twenty_times_the_slots_make_it_follow_and_not_swing() {
        let mut polled = Polled::of(300, 60);
        polled.run(1_800, |_| 10);
        polled.add(5_700);
        settles(&polled.run(6 * 3_600, |_| 10), 10.0 / 0.95, 1_800);
    }

    #[test]
    fn it_follows_day_and_night() {
        let mut polled = Polled::of(3_000, 300);
        // Between half and twice the demand.
        let exact = |second: u64| 10.0 * 2_f64.powf((std::f64::consts::TAU * second as f64 / 86_400.0).sin());
        polled.run(3_600, |second| exact(second).round() as u32);
        for hour in 1..48 {
            let factor = *polled.run(3_600, |second| exact(second).round() as u32).last().unwrap();
            let right = (10.0 / 0.95 / exact(3_600 * (hour + 1))).max(1.0);
            assert!((factor / right - 1.0).abs() < 0.12, "{factor} and not {right} in hour {hour}");
        }
    }

    #[test]
    fn calls_that_nobody_planned_are_made_room_for() {
        // A third of all calls are retries.
        let (start, mut stretch) = (Instant::now(), Stretch::default());
        for step in 0..3 * 360 {
            let planned = 190.0 / stretch.factor();
            let load = Load { demand: 190.0, made: 1.5 * planned, allowed: 200.0, behind: Duration::ZERO };
            stretch.step(&load, start + step * STEP);
        }
        assert!((1.3..1.55).contains(&stretch.factor()), "{}", stretch.factor());
    }

    #[test]
    fn a_successor_begins_where_the_last_poller_was() {
        assert!((Stretch::recalled(3.5).factor() - 3.5).abs() < 1e-9);
        for nonsense in [0.0, -1.0, f64::NAN, 1.0] {
            assert!((Stretch::recalled(nonsense).factor() - 1.0).abs() < f64::EPSILON, "{nonsense}");
        }
    }
}
