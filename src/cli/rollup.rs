//! `receiptd rollup`: updates hourly rows and gaps, or repeats a time span.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::bail;
use chrono::TimeDelta;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use receiptd::{
    clock,
    daemon::jobs::catch_up,
    domain::Timestamp,
    rules::rollup::{Reach, Stretch, hour_of},
    store::Store,
    text::counted::counted,
};

use super::{Global, database::Opened, exit::Refused, stdout, time_argument::TimeArgument};

/// Roll up new data, or a time span again
///
/// The daemon does this by itself, see [jobs] in the configuration. Repeating it is safe, also while the daemon runs.
/// Hours whose snapshots or calls have been removed keep their rows.
#[derive(Args)]
pub struct Arguments {
    /// Repeat from this hour on: UTC date, RFC 3339, seconds since 1970, or an age such as 2d
    #[arg(long, value_name = "TIME")]
    from: Option<TimeArgument>,
    /// Repeat up to this time [default: end of the roll-up]
    #[arg(long, value_name = "TIME", requires = "from")]
    to: Option<TimeArgument>,
}

pub async fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    // Checked before the database is asked for its time: impossible by any clock.
    span(arguments, clock::now())?;
    let opened = Opened::open(global).await?;
    let done = roll_up(arguments, &opened.store).await;
    opened.close(done).await.map(|()| ExitCode::SUCCESS)
}

async fn roll_up(arguments: &Arguments, store: &Store) -> anyhow::Result<()> {
    let now = store.clock().now();
    match span(arguments, now)? {
        Some((from, to)) => do_again(store, from, to).await,
        None => bring_up_to_date(store, now).await,
    }
}

/// The time span to repeat, if any.
fn span(arguments: &Arguments, now: Timestamp) -> Result<Option<(Timestamp, Timestamp)>, Refused> {
    let Some(from) = arguments.from.map(|from| from.at(now)) else { return Ok(None) };
    let to = arguments.to.map_or(now, |to| to.at(now));
    if from > to {
        let (from, to) = (from.to_rfc3339(), to.to_rfc3339());
        return Err(Refused::usage(format!("nothing to do: --from {from} is later than --to {to}")));
    }
    Ok(Some((from, to)))
}

async fn do_again(store: &Store, from: Timestamp, to: Timestamp) -> anyhow::Result<()> {
    let Some(done) = store.rolled_up_until().await? else { bail!("nothing is rolled up yet: run it without --from") };
    let from = hour_of(store.history_begins().await?.map_or(from, |begin| from.max(begin)));
    let until = done.min(end_of_hour(to));
    if from >= until {
        let why = format!("nothing to do: --from must be before {done}, the end of the roll-up");
        return Err(Refused::usage(why).into());
    }
    let bar = progress(number_of_hours(from, until));
    let mut left = 0;
    // The first stretch does not rely on what was rolled up before.
    let mut next = Stretch::next(from, until, Reach::Hour);
    while let Some(stretch) = next {
        bar.set_message(stretch.from.format("%Y-%m-%d %H:00").to_string());
        let hours = number_of_hours(stretch.from, stretch.until);
        if !store.roll_up_again(stretch, stretch.from == from).await? {
            left += hours;
        }
        bar.inc(hours);
        next = Stretch::next(stretch.until, until, Reach::Day);
    }
    bar.finish_and_clear();
    let number = counted(number_of_hours(from, until), "hour");
    writeln!(stdout(), "Rolled up {number} again, from {from} until {until}.")?;
    if left > 0 {
        writeln!(
            stdout(),
            "For {left} of them the snapshots or calls are no longer kept; their hourly rows are unchanged."
        )?;
    }
    Ok(())
}

/// The time itself if it is a whole hour, otherwise the end of its hour.
fn end_of_hour(time: Timestamp) -> Timestamp {
    let hour = hour_of(time);
    if hour == time { hour } else { hour + TimeDelta::hours(1) }
}

/// Number of hours from `from`, which begins one, that have begun before `until`.
fn number_of_hours(from: Timestamp, until: Timestamp) -> u64 {
    (end_of_hour(until) - from).num_hours().unsigned_abs()
}

async fn bring_up_to_date(store: &Store, now: Timestamp) -> anyhow::Result<()> {
    let behind = store.rolled_up_until().await?.map_or(0, |done| (now - done).num_hours());
    let bar = progress(behind.unsigned_abs());
    catch_up(store, now, |stretch| {
        bar.set_message(stretch.until.format("%Y-%m-%d %H:%M").to_string());
        bar.inc(stretch.completes().map_or(0, |hours| hours.hours().count() as u64));
    })
    .await?;
    bar.finish_and_clear();
    let told = match store.rolled_up_until().await? {
        Some(done) => format!("Everything is rolled up until {done}."),
        None => "This app has never been polled: there is nothing to roll up.".to_owned(),
    };
    Ok(writeln!(stdout(), "{told}")?)
}

/// A progress bar on a terminal, otherwise nothing.
fn progress(hours: u64) -> ProgressBar {
    if !io::IsTerminal::is_terminal(&io::stderr()) {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} hours  {msg}  {elapsed} of about {duration}");
    ProgressBar::new(hours).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_that_began_a_moment_ago_is_one_to_repeat() {
        let hour = Timestamp::from_timestamp(1_790_000_000, 0).map(hour_of).unwrap();
        for (until, expected) in [
            (TimeDelta::zero(), 0),
            (TimeDelta::microseconds(1), 1),
            (TimeDelta::seconds(30), 1),
            (TimeDelta::hours(1), 1),
            (TimeDelta::hours(1) + TimeDelta::microseconds(1), 2),
        ] {
            assert_eq!(number_of_hours(hour, hour + until), expected, "{until}");
        }
    }
}
