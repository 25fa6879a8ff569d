//! `receiptd plan`: load forecast, hour by hour.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;
use receiptd::{
    domain::Timestamp,
    rules::forecast::{Cohort, Hour, Stream, plan, saturates_at},
    store::{LastDay, StoreError},
    text::counted::counted,
};
use serde::Serialize;

use super::{Global, as_json, database::Opened, exit::Refused, stdout};

/// Width of the bar of 100 %, in characters.
const WIDTH: f64 = 40.0;

/// Forecast the calls of each hour, and when the limit is used up
///
/// The forecast is for the messages watched now and the configured cadences. It assumes no new messages unless
/// --more-messages is given. Use --set to try other settings, for example --set 'cadence.default.tiers=[{ until =
/// "1d", every = "5m" }]' or --set polling.max_calls_per_second=100.
#[derive(Args)]
pub struct Arguments {
    /// Number of hours to forecast, at most 750
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=750))]
    hours: u32,
    /// Number of new messages per hour to assume
    #[arg(long, value_name = "MESSAGES", default_value_t = 0)]
    more_messages: u32,
    /// Number of groups that the new messages are spread over; messages of a group share calls
    #[arg(long, value_name = "GROUPS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    in_groups: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The command's output.
#[derive(Serialize)]
struct Answer {
    /// The limit, in calls per second.
    limit: u32,
    /// The time when it is first reached.
    saturates_at: Option<Timestamp>,
    /// The assumed new messages; null for none.
    assumed: Option<Stream>,
    /// Messages sent in the last 24 hours.
    last_day: LastDay,
    hours: Vec<Hour>,
}

pub async fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    refuse(arguments)?;
    let opened = Opened::open(global).await?;
    let (limit, cadences) = (opened.config.polling.max_calls_per_second, opened.config.cadences.clone());
    let batch_size = u32::try_from(opened.config.polling.batch_size).unwrap_or(u32::MAX);
    let found = look(&opened, batch_size).await;
    let now = opened.store.clock().now();
    let (cohorts, last_day) = opened.close(found).await?;
    let Arguments { hours, more_messages, in_groups, json } = *arguments;
    let assumed =
        (more_messages > 0).then_some(Stream { messages_per_hour: more_messages, groups: in_groups, batch_size });
    let hours = plan(&cohorts, assumed, &cadences, limit, hours, now);
    let answer = Answer { limit, saturates_at: saturates_at(&hours), assumed, last_day, hours };
    let mut out = stdout();
    if json {
        writeln!(out, "{}", as_json(&answer)?)?;
    } else {
        tell(&mut out, &answer)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn refuse(arguments: &Arguments) -> Result<(), Refused> {
    let Arguments { more_messages, in_groups, .. } = arguments;
    if *more_messages > 0 && more_messages < in_groups {
        let why = format!(
            "--more-messages {more_messages} can't be spread over {in_groups} groups: set --in-groups to \
             {more_messages} or fewer"
        );
        return Err(Refused::usage(why));
    }
    Ok(())
}

async fn look(opened: &Opened, batch_size: u32) -> Result<(Vec<Cohort>, LastDay), StoreError> {
    Ok((opened.store.cohorts(batch_size).await?, opened.store.last_day().await?))
}

fn tell(out: &mut impl Write, answer: &Answer) -> io::Result<()> {
    writeln!(out, "{:<16} {:>10} {:>7}", "FROM (UTC)", "CALLS/S", "SHARE")?;
    for hour in &answer.hours {
        let (from, percent) = (hour.from.format("%Y-%m-%d %H:%M"), hour.share * 100.0);
        let bar = bar(hour.share);
        writeln!(out, "{from:<16} {:>10.2} {percent:>6.1}% {bar}", hour.calls_per_second)?;
    }
    writeln!(out, "{}", assumption(answer.assumed, answer.last_day))?;
    match answer.saturates_at {
        Some(at) => writeln!(
            out,
            "The limit of {} calls per second is reached from {} on: polls will be late.",
            answer.limit,
            at.format("%Y-%m-%d %H:%M")
        ),
        None => writeln!(out, "The limit of {} calls per second is not reached.", answer.limit),
    }
}

/// A fraction of the limit as a bar. Draws nothing for 0.0 %, and cuts off everything beyond the limit, which can't
/// be called.
fn bar(share: f64) -> String {
    let share = if share < 0.0005 { 0.0 } else { share.min(1.0) };
    "#".repeat((share * WIDTH).ceil() as usize)
}

/// The assumed new messages, and what a plan like the last 24 hours would need.
fn assumption(assumed: Option<Stream>, last_day: LastDay) -> String {
    if let Some(Stream { messages_per_hour, groups, .. }) = assumed {
        let (messages, groups) = (counted(messages_per_hour.into(), "new message"), counted(groups.into(), "group"));
        return format!("Assumption: {messages} per hour, in {groups}.");
    }
    let LastDay { messages, groups } = last_day;
    if messages == 0 {
        return "No new messages are assumed; there were none in the last 24 hours.".to_owned();
    }
    let an_hour = messages.unsigned_abs().div_ceil(24);
    // With fewer messages than groups, each message counts as one of its own group.
    let in_groups = groups.unsigned_abs().min(an_hour);
    format!(
        "No new messages are assumed. In the last 24 hours there were {} per hour in {}: to plan with as many, add \
         --more-messages {an_hour} --in-groups {in_groups}.",
        counted(an_hour, "new message"),
        counted(groups.unsigned_abs(), "group")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_assumed_is_said_and_what_would_be_like_the_last_day() {
        let last_day = |messages, groups| assumption(None, LastDay { messages, groups });
        assert_eq!(last_day(0, 0), "No new messages are assumed; there were none in the last 24 hours.");
        assert!(
            last_day(48_001, 20).ends_with(
                "there were 2,001 new messages per hour in 20 groups: to plan with as many, add --more-messages 2001 \
                 --in-groups 20."
            ),
            "{}",
            last_day(48_001, 20)
        );
        assert!(last_day(48, 40).ends_with("add --more-messages 2 --in-groups 2."), "{}", last_day(48, 40));
        let stream = Stream { messages_per_hour: 1_000, groups: 7, batch_size: 50 };
        assert_eq!(
            assumption(Some(stream), LastDay { messages: 9, groups: 9 }),
            "Assumption: 1,000 new messages per hour, in 7 groups."
        );
    }

    #[test]
    fn a_bar_is_empty_at_zero_and_ends_at_the_limit() {
        assert_eq!((bar(0.0), bar(0.0004)), (String::new(), String::new()));
        assert_eq!(bar(0.0005), "#");
        assert_eq!((bar(1.0).len(), bar(7.0).len()), (WIDTH as usize, WIDTH as usize));
    }
}
