//! `receiptd plan`: what polling will come to, hour by hour.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;
use receiptd::{
    clock,
    config::Config,
    plan::{Hour, Stream, plan, saturates_at},
};
use serde::Serialize;

use super::{Global, database::Opened, exit::Refused, stdout};

/// So wide is the bar of a whole limit.
const WIDTH: f64 = 40.0;

/// Say what polling will come to, hour by hour, and when the limit is used up
///
/// It counts with what is watched now and the cadences of the configuration. What if: other cadences with --set, as in
/// --set 'cadence.default.tiers=[{ until = "1d", every = "5m" }]', another limit with --set polling.max_calls_per_second=100,
/// more messages with --more-messages.
#[derive(Args)]
pub struct Arguments {
    /// How many hours ahead, up to 750
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=750))]
    hours: u32,
    /// What if so many messages more were sent each hour
    #[arg(long, value_name = "MESSAGES", default_value_t = 0)]
    more_messages: u32,
    /// To so many groups, evenly: messages of one group share a call
    #[arg(long, value_name = "GROUPS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    in_groups: u32,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

/// What the command answers.
#[derive(Serialize)]
struct Answer {
    /// The limit, in calls a second.
    limit: u32,
    /// When it is first used up.
    saturates_at: Option<receiptd::domain::Timestamp>,
    hours: Vec<Hour>,
}

pub async fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    refuse(arguments)?;
    let opened = Opened::open(global).await?;
    let cohorts = opened.store.cohorts().await;
    let config = opened.config.clone();
    let cohorts = opened.close(cohorts).await?;
    let stream = stream(arguments, &config);
    let limit = config.polling.max_calls_per_second;
    let hours = plan(&cohorts, stream, &config.cadences, limit, arguments.hours, clock::now());
    let answer = Answer { limit, saturates_at: saturates_at(&hours), hours };
    let mut out = stdout();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&answer)?)?;
    } else {
        tell(&mut out, &answer)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn refuse(arguments: &Arguments) -> Result<(), Refused> {
    let Arguments { more_messages, in_groups, .. } = arguments;
    if *more_messages > 0 && more_messages < in_groups {
        let why = format!(
            "--more-messages {more_messages} can't go to {in_groups} groups: give --in-groups {more_messages} or fewer"
        );
        return Err(Refused::usage(why));
    }
    Ok(())
}

fn stream(arguments: &Arguments, config: &Config) -> Stream {
    let Arguments { more_messages, in_groups, .. } = arguments;
    let batch_size = u32::try_from(config.polling.batch_size).unwrap_or(u32::MAX);
    Stream { calls_per_hour: more_messages.div_ceil(*in_groups).div_ceil(batch_size) * in_groups }
}

fn tell(out: &mut impl Write, answer: &Answer) -> io::Result<()> {
    writeln!(out, "{:<16} {:>10} {:>7}", "FROM (UTC)", "CALLS/S", "SHARE")?;
    for hour in &answer.hours {
        // What is over the limit is cut off: it can't be done.
        let bar = "#".repeat((hour.share.min(1.0) * WIDTH).ceil() as usize);
        let (from, percent) = (hour.from.format("%Y-%m-%d %H:%M"), hour.share * 100.0);
        writeln!(out, "{from:<16} {:>10.2} {percent:>6.1}% {bar}", hour.calls_per_second)?;
    }
    match answer.saturates_at {
        Some(at) => writeln!(
            out,
            "The limit of {} calls a second is used up from {} on: polls will be late.",
            answer.limit,
            at.format("%Y-%m-%d %H:%M")
        ),
        None => writeln!(out, "The limit of {} calls a second is not used up.", answer.limit),
    }
}
