//! `receiptd export`: snapshots, messages, milestones or hourly rows as a file for analysts. It only reads. The output
//! file has its final name only when it is complete.

mod output;

use std::{
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use receiptd::{
    clock,
    domain::Timestamp,
    export::{Batch, Dataset, Format, Writer, days},
    store::Store,
    text::counted::counted,
};

use self::output::Output;
use super::{Global, database::Opened, exit::Refused, tell, time_argument::TimeArgument};

/// Export data of the configured app as CSV or Parquet
///
/// Times are RFC 3339, dates (midnight in UTC) or ages such as 30d. The export goes day by day, so it needs little
/// memory for any number of rows. The file is named FILE.part until it is complete.
#[derive(Args)]
pub struct Arguments {
    /// Data to export
    dataset: What,
    /// Start, inclusive [default: time of the earliest row]
    #[arg(long, value_name = "TIME")]
    from: Option<TimeArgument>,
    /// End, exclusive [default: now]
    #[arg(long, value_name = "TIME")]
    to: Option<TimeArgument>,
    /// Only rows that have changed since this time, to bring a copy up to date
    #[arg(long, value_name = "TIME")]
    changed_since: Option<TimeArgument>,
    /// Output format
    #[arg(long, default_value = "csv")]
    format: How,
    /// Protect against formulas in spreadsheets: put a ' before text that begins with = + - or @, as group ids do
    #[arg(long)]
    spreadsheet: bool,
    /// Output file, which must not exist yet; - writes to standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Every change of counts, by the time of the poll (receipt_history)
    Snapshots,
    /// How far and how fast each message was read, by its time of sending (messages)
    Messages,
    /// When each message reached which share of its readers, by its time of sending (message_milestones)
    Milestones,
    /// Activity of each group in each hour (hourly_receipts)
    Hourly,
}

#[derive(Clone, Copy, ValueEnum)]
enum How {
    /// Comma-separated values with a header line; null is empty
    Csv,
    /// Apache Parquet, compressed with Snappy
    Parquet,
}

pub async fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    // Checked before the database is asked for its time: impossible by any clock.
    span(arguments, clock::now())?;
    let opened = Opened::open_to_read(global).await?;
    let now = opened.store.clock().now();
    let (from, until) = span(arguments, now)?;
    let since = arguments.changed_since.map(|moment| moment.at(now));
    let done = export(arguments, &opened.store, (from, until), since).await;
    tell(format_args!("Exported {}.", counted(opened.close(done).await?, "row")));
    Ok(ExitCode::SUCCESS)
}

/// The reason to refuse before starting, if any; otherwise the time span to export.
fn span(arguments: &Arguments, now: Timestamp) -> Result<(Timestamp, Timestamp), Refused> {
    let from = arguments.from.map_or(Timestamp::UNIX_EPOCH, |moment| moment.at(now));
    let until = arguments.to.map_or(now, |moment| moment.at(now));
    refusal(arguments, from, until).map_or(Ok((from, until)), |reason| Err(Refused::usage(reason)))
}

fn refusal(arguments: &Arguments, from: Timestamp, until: Timestamp) -> Option<String> {
    let file = Some(arguments.output.as_path()).filter(|file| *file != Path::new("-"));
    if from > until {
        return Some(format!("--from {} is later than --to {}", from.to_rfc3339(), until.to_rfc3339()));
    }
    if let Some(file) = file.filter(|file| file.symlink_metadata().is_ok()) {
        return Some(format!(
            "{} exists already and is not overwritten: remove it or choose another name",
            file.display()
        ));
    }
    if arguments.spreadsheet && matches!(arguments.format, How::Parquet) {
        return Some("--spreadsheet only applies to CSV: Parquet stores text unchanged".to_owned());
    }
    let is_shown = file.is_none() && io::stdout().is_terminal();
    (is_shown && matches!(arguments.format, How::Parquet))
        .then(|| "Parquet can't be written to a terminal: name a file with --output".to_owned())
}

/// Returns the number of rows.
async fn export(
    arguments: &Arguments,
    store: &Store,
    (from, until): (Timestamp, Timestamp),
    since: Option<Timestamp>,
) -> anyhow::Result<u64> {
    let dataset = Dataset::from(arguments.dataset);
    let span = store.export_span(dataset, from, until).await?;
    let (from, until) = span.unwrap_or((from, from));
    let output = Output::open(&arguments.output)?;
    let format = match arguments.spreadsheet {
        true => Format::Spreadsheet,
        false => arguments.format.into(),
    };
    let begin = |out| format.begin(dataset.columns(), out);
    let writer = output.writer().and_then(begin).with_context(|| output.failure())?;
    // Messages that have changed are found in one query, whenever they were sent.
    let spans: Vec<(Timestamp, Timestamp)> = match (dataset, since) {
        (Dataset::Messages | Dataset::Milestones, Some(_)) => vec![(from, until)],
        _ => days(from, until).collect(),
    };
    let mut copy = Copy { dataset, since, writer, bar: progress(spans.len(), &output), rows: 0 };
    let copied = copy.spans(store, &spans, &output).await;
    copy.bar.finish_and_clear();
    copied?;
    copy.writer.finish().with_context(|| output.failure())?;
    output.complete()?;
    Ok(copy.rows)
}

/// Rows on the way from the database to the output.
struct Copy {
    dataset: Dataset,
    since: Option<Timestamp>,
    writer: Box<dyn Writer>,
    bar: ProgressBar,
    rows: u64,
}

impl Copy {
    async fn spans(&mut self, store: &Store, spans: &[(Timestamp, Timestamp)], output: &Output) -> anyhow::Result<()> {
        for (start, end) in spans {
            let taken = store.export(self.dataset, *start, *end, self.since, |batch| self.take(batch)).await?;
            taken.with_context(|| output.failure())?;
            self.bar.inc(1);
        }
        Ok(())
    }

    fn take(&mut self, batch: Batch) -> io::Result<()> {
        self.rows += batch.rows() as u64;
        self.bar.set_message(counted(self.rows, "row"));
        self.writer.write(batch)
    }
}

/// A progress bar of days; none if it would appear between the rows.
fn progress(days: usize, output: &Output) -> ProgressBar {
    let days = days as u64;
    if !io::stderr().is_terminal() || output.is_terminal() {
        return ProgressBar::with_draw_target(Some(days), ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} days  {msg}  {elapsed}");
    ProgressBar::new(days).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl From<What> for Dataset {
    fn from(what: What) -> Self {
        match what {
            What::Snapshots => Self::Snapshots,
            What::Messages => Self::Messages,
            What::Milestones => Self::Milestones,
            What::Hourly => Self::Hourly,
        }
    }
}

impl From<How> for Format {
    fn from(how: How) -> Self {
        match how {
            How::Csv => Self::Csv,
            How::Parquet => Self::Parquet,
        }
    }
}
