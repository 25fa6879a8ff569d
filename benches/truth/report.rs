//! The tables.

use receiptd::daemon::poller::replay::{Findings, Sent};

use super::{policies::Policy, worlds::World};

/// The printed rows and their summary.
#[derive(Default)]
pub struct Report {
    tiers: f64,
    fixed: Option<f64>,
    /// Fractions: the errors of the pace relative to those of tiers, and to those of a fixed interval if there is one.
    ratios: Vec<(String, f64, Option<f64>)>,
    world: &'static str,
    part: String,
}

impl Report {
    pub fn world(&mut self, world: &World, messages: &[Vec<Sent>]) {
        let sent: usize = messages.iter().map(Vec::len).sum();
        println!("\n{}: {}, {sent} messages in {} runs", world.name, world.about, messages.len());
        self.world = world.name;
    }

    pub fn part(&mut self, part: &str) {
        (self.part, self.fixed) = (format!("{}, {part}", self.world), None);
        println!(
            "\n  {part:<24} {:>9} | {:^83} | {:>7} | {:^31} | {:>7} | {:>7}",
            "calls a", "errors in minutes, mean and 90 %", "seen", "error of read rates, points", "longest", "largest"
        );
        println!(
            "  {:<24} {:>9} | {:>7} {:>15} {:>15} {:>15} {:>15} {:>11} | {:>7} | {:>7} {:>7} {:>7} {:>7} | {:>7} | {:>7}",
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
            "wait",
            "stretch"
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
            "  {:<24} {:>9.1} | {:>7.2} {:>15} {:>15} {:>15} {:>15} {:>11} | {:>7.2} | {:>7.2} {:>7.2} {:>7.2} {:>7.2} | {:>7.1} | {:>7.1}",
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
            mean(&|f: &Findings| f.stretch),
        );
        match policy {
            Policy::Fixed => self.fixed = Some(error),
            Policy::Tiers => self.tiers = error,
            Policy::Pace => {
                self.ratios.push((self.part.clone(), error / self.tiers, self.fixed.map(|fixed| error / fixed)));
            }
            Policy::Queue => {}
        }
    }

    /// The errors of the pace relative to those of others, over all worlds.
    pub fn end(&self) {
        println!("\nErrors of the milestones at the pace, as a part of those of tiers and of a fixed interval:");
        for (part, tiers, fixed) in &self.ratios {
            let fixed = fixed.map_or_else(String::new, |fixed| format!("{fixed:.3}"));
            println!("  {part:<36} {tiers:.2} {fixed}");
        }
        let of = |is_overloaded: bool| {
            let ratios = self.ratios.iter().filter(move |ratio| ratio.2.is_none() == is_overloaded);
            ratios.map(|ratio| ratio.1)
        };
        for (name, is_overloaded) in [("at equal calls", false), ("with too much due", true)] {
            let mean = of(is_overloaded).sum::<f64>() / of(is_overloaded).count() as f64;
            println!("  mean {name}: {mean:.2}; worst {:.2}", of(is_overloaded).fold(0.0, f64::max));
        }
    }
}
