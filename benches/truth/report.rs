//! The tables.

use receiptd::daemon::poller::replay::{Findings, Sent};

use super::{policies::Policy, worlds::World};

/// What is printed, and what it comes to in the end.
#[derive(Default)]
pub struct Report {
    tiers: f64,
    fixed: f64,
    ratios: Vec<(String, f64, f64)>,
    part: String,
}

impl Report {
    pub fn world(&mut self, world: &World, messages: &[Vec<Sent>]) {
        let sent: usize = messages.iter().map(Vec::len).sum();
        println!("\n{}: {}, {sent} messages in {} runs", world.name, world.about, messages.len());
        self.part = world.name.to_owned();
    }

    pub fn part(&mut self, part: &str) {
        println!(
            "\n  {part:<24} {:>9} | {:^83} | {:>7} | {:^31} | {:>6}",
            "calls a", "errors in minutes, mean and 90 %", "seen", "error of read rates, points", "longest"
        );
        println!(
            "  {:<24} {:>9} | {:>7} {:>15} {:>15} {:>15} {:>15} {:>11} | {:>7} | {:>7} {:>7} {:>7} {:>7} | {:>6}",
            "",
            "message",
            "mean",
            "first",
            "half",
            "80 %",
            "90 %",
            "all",
            "after",
            "15 min",
            "1 h",
            "24 h",
            "7 d",
            "wait"
        );
    }

    /// A row, the mean of several runs.
    pub fn row(&mut self, policy: Policy, found: &[Findings]) {
        let mean = |of: &dyn Fn(&Findings) -> f64| found.iter().map(of).sum::<f64>() / found.len() as f64;
        let error = mean(&Findings::milestone_error);
        let minutes = |at: usize| {
            let (of, most) = (|f: &Findings| f.milestones[at].mean(), |f: &Findings| f.milestones[at].percentile(90));
            format!("{:.2} {:.2}", mean(&of) / 60.0, mean(&most) / 60.0)
        };
        let points = |at: usize| 100.0 * mean(&|f: &Findings| f.rates[at].mean());
        println!(
            "  {:<24} {:>9.1} | {:>7.2} {:>15} {:>15} {:>15} {:>15} {:>11} | {:>7.2} | {:>7.2} {:>7.2} {:>7.2} {:>7.2} | {:>6.1}",
            policy.name(),
            mean(&|f: &Findings| f.calls as f64 / f.messages as f64),
            error / 60.0,
            minutes(0),
            minutes(1),
            minutes(2),
            minutes(3),
            minutes(4),
            mean(&|f: &Findings| f.seen_after.mean()) / 60.0,
            points(0),
            points(1),
            points(2),
            points(3),
            mean(&|f: &Findings| f.waits.most()),
        );
        match policy {
            Policy::Fixed => self.fixed = error,
            Policy::Tiers => self.tiers = error,
            Policy::Pace => self.ratios.push((self.part.clone(), error / self.tiers, error / self.fixed)),
        }
    }

    /// The errors of the pace as parts of those of others, over all worlds.
    pub fn end(&self) {
        println!(
            "\nErrors of the milestones at the pace, as a part of those of tiers and of a fixed interval, at equal calls:"
        );
        for (world, tiers, fixed) in &self.ratios {
            println!("  {world:<12} {tiers:.2} {fixed:.3}");
        }
        let mean = |of: &dyn Fn(&(String, f64, f64)) -> f64| {
            self.ratios.iter().map(of).sum::<f64>() / self.ratios.len() as f64
        };
        let most = self.ratios.iter().map(|ratio| ratio.1).fold(0.0, f64::max);
        println!("  mean         {:.2} {:.3}; worst {most:.2}", mean(&|ratio| ratio.1), mean(&|ratio| ratio.2));
    }
}
