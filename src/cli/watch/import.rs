//! `receiptd watch import`: streams a watch list in CSV into the database, in batches.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use receiptd::{
    domain::Timestamp,
    import::{Lines, ReadError, WatchLine},
    store::Store,
    text::counted::counted,
};

use crate::cli::{
    exit::{Exit, Refused},
    stdout, tell,
};

/// Number of messages per transaction.
pub(super) const BATCH: usize = 10_000;

/// Number of bad lines reported individually; the rest is counted.
const TOLD: u64 = 100;

/// Watch the messages listed in a CSV file: group_id,msg_seq,sent_at
///
/// sent_at is optional and defaults to now. A first line with the names of the columns sets their order; a column
/// label.NAME holds a label of each message, which an empty field leaves as it is. Bad lines are reported with their
/// numbers and skipped; the exit code is 65 then. Importing the same lines again is safe.
#[derive(Args)]
pub struct Arguments {
    /// CSV file; - reads standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Counts so far.
#[derive(Default)]
struct Tally {
    lines: u64,
    new: u64,
    bad: u64,
    stored_up_to: u64,
}

pub async fn execute(arguments: Arguments, store: &Store) -> anyhow::Result<ExitCode> {
    let (input, size) = open(&arguments.file)?;
    if arguments.file == Path::new("-") && io::stdin().is_terminal() {
        tell("Reading lines group_id,msg_seq,sent_at from the terminal; end with Ctrl-D.");
    }
    let bar = progress(size);
    let mut tally = Tally::default();
    // One time for all lines without a time of sending.
    let now = store.clock().now();
    let done = import(Lines::new(input, now), now, store, &bar, &mut tally).await;
    bar.finish_and_clear();
    if tally.lines == 0 {
        done?;
    } else {
        done.with_context(|| {
            let stored = tally.stored_up_to;
            format!("import stopped: all valid lines up to line {stored} are stored; importing them again does no harm")
        })?;
    }
    let Tally { lines, new, bad, .. } = tally;
    writeln!(
        stdout(),
        "Added {} ({} already watched). Bad lines: {} of {}.",
        counted(new, "message"),
        HumanCount(lines - bad - new),
        HumanCount(bad),
        HumanCount(lines)
    )?;
    Ok(if bad == 0 { ExitCode::SUCCESS } else { Exit::Data.into() })
}

fn open(file: &Path) -> Result<(Box<dyn BufRead>, Option<u64>), Refused> {
    if file == Path::new("-") {
        return Ok((Box::new(BufReader::new(io::stdin())), None));
    }
    let input =
        File::open(file).map_err(|error| Refused::data(format!("opening {} failed: {error}", file.display())))?;
    let size = input.metadata().ok().filter(|metadata| metadata.is_file()).map(|metadata| metadata.len());
    Ok((Box::new(BufReader::with_capacity(1 << 16, input)), size))
}

fn progress(size: Option<u64>) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(size, ProgressDrawTarget::hidden());
    }
    let (bar, template) = match size {
        Some(size) => (ProgressBar::new(size), "{bar:30} {percent:>3} %  {msg}  {elapsed} of about {duration}"),
        None => (ProgressBar::new_spinner(), "{spinner} {msg}  {elapsed}"),
    };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

async fn import(
    mut lines: Lines<Box<dyn BufRead>>,
    now: Timestamp,
    store: &Store,
    bar: &ProgressBar,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    let mut batch: Vec<WatchLine> = Vec::with_capacity(BATCH);
    loop {
        let next = match lines.next_line() {
            Err(error @ ReadError::NoWatchList { .. }) => return Err(Refused::data(error.to_string()).into()),
            next => next?,
        };
        let is_end = next.is_none();
        if let Some((number, line)) = next {
            tally.lines += 1;
            match line {
                Ok(line) => batch.push(line),
                Err(error) => {
                    tally.bad += 1;
                    if tally.bad <= TOLD {
                        bar.suspend(|| tell(format_args!("line {number}: {error}")));
                    }
                }
            }
            tally.stored_up_to = if batch.is_empty() { number } else { tally.stored_up_to };
            if batch.len() < BATCH {
                continue;
            }
            tally.new += store.watch_lines(&batch, now).await?;
            tally.stored_up_to = number;
        } else {
            tally.new += store.watch_lines(&batch, now).await?;
        }
        batch.clear();
        bar.set_position(lines.bytes());
        bar.set_message(counted(tally.lines, "line"));
        if is_end {
            break;
        }
    }
    if tally.bad > TOLD {
        tell(format_args!("and {}", counted(tally.bad - TOLD, "more bad line")));
    }
    Ok(())
}
