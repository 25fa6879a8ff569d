//! The picture: redrawn in place on a terminal that can, otherwise plain lines.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use receiptd::text::sparkline::sparkline;

use super::figures::{Curve, Figures};
use crate::cli::stdout;

/// The service's limit, in calls per second.
const LIMIT: u64 = 200;

/// Time between plain lines, in seconds.
const PLAIN_EVERY: u64 = 2;

/// Draws the figures.
pub struct Picture {
    bars: Option<Bars>,
}

struct Bars {
    all: MultiProgress,
    budget: ProgressBar,
    lines: Vec<ProgressBar>,
}

impl Picture {
    pub fn new() -> Self {
        let is_redrawn = io::stdout().is_terminal() && !console::is_dumb();
        Self { bars: is_redrawn.then(Bars::new) }
    }

    pub fn draw(&mut self, figures: &Figures, elapsed: Duration) -> io::Result<()> {
        match &mut self.bars {
            Some(bars) => bars.draw(figures, elapsed),
            None if elapsed.as_secs().is_multiple_of(PLAIN_EVERY) => writeln!(stdout(), "{}", plain(figures, elapsed))?,
            None => {}
        }
        Ok(())
    }

    /// Removes the picture to make room for the summary.
    pub fn clear(&self) {
        if let Some(bars) = &self.bars {
            _ = bars.all.clear();
        }
    }
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::stdout());
        let style =
            ProgressStyle::with_template("calls    {bar:32} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        let budget = all.add(ProgressBar::new(LIMIT).with_style(style.progress_chars("█▉▊▋▌▍▎▏ ")));
        Self { all, budget, lines: vec![] }
    }

    fn draw(&mut self, figures: &Figures, elapsed: Duration) {
        let calls = u64::try_from(figures.calls).unwrap_or(0);
        self.budget.set_position(calls.min(LIMIT));
        self.budget.set_message(format!("{calls}/s, {} % of the budget", calls * 100 / LIMIT));
        let mut lines = vec![
            format!("seen     at most {} calls in any second by the service", figures.highest_second),
            format!("asked    {:.1} messages per call", figures.messages_per_call),
            format!(
                "stored   {} snapshots of {} messages; {} read by all",
                figures.snapshots,
                figures.active + figures.all_read,
                figures.all_read
            ),
            format!("reported {} reads by webhooks, {} found by polls alone", figures.told, figures.found),
            format!("found    {} messages by discovery", figures.discovered),
            format!("time     {} s; stop with Ctrl-C", elapsed.as_secs()),
            String::new(),
        ];
        lines.extend(figures.curves.iter().map(curve_line));
        while self.lines.len() < lines.len() {
            let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            self.lines.push(self.all.add(ProgressBar::new_spinner().with_style(style)));
        }
        for (bar, line) in self.lines.iter().zip(lines) {
            bar.set_message(line);
            bar.tick();
        }
    }
}

fn plain(figures: &Figures, elapsed: Duration) -> String {
    format!(
        "{:>3} s  {:>3} calls/s ({:>3} % of {LIMIT}, at most {} in any second)  {:.1} messages per call  {} \
         discovered  {} snapshots  {} reported by webhooks, {} found by polls  {} read by all",
        elapsed.as_secs(),
        figures.calls,
        figures.calls * 100 / i64::try_from(LIMIT).unwrap_or(1),
        figures.highest_second,
        figures.messages_per_call,
        figures.discovered,
        figures.snapshots,
        figures.told,
        figures.found,
        figures.all_read
    )
}

fn curve_line(curve: &Curve) -> String {
    format!(
        "{:<14} {} {:>3} of {} have read it",
        curve.name,
        sparkline(&curve.seconds, &curve.shares),
        curve.read,
        curve.readers
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_lines_carry_the_same_figures() {
        let figures = Figures {
            calls: 150,
            messages_per_call: 20.25,
            highest_second: 199,
            snapshots: 7,
            active: 3,
            all_read: 1,
            discovered: 4,
            told: 6,
            found: 2,
            curves: vec![],
        };
        let line = plain(&figures, Duration::from_secs(4));
        assert_eq!(
            line,
            "  4 s  150 calls/s ( 75 % of 200, at most 199 in any second)  20.2 messages per call  4 \
             discovered  7 snapshots  6 reported by webhooks, 2 found by polls  1 read by all"
        );
    }
}
