//! `receiptd plan`: load forecast, hour by hour.

mod trial;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;
use receiptd::{
    domain::Timestamp,
    rules::{
        cadence::Cadences,
        forecast::{Cohort, Hour, OtherPace, Stream, other_paces, plan, saturates_at},
    },
    store::{LastDay, PastRead, StoreError},
    text::{counted::counted, duration},
};
use serde::Serialize;

use self::trial::{Trial, Trials, Tried};
use super::{Global, as_json, database::Opened, exit::Refused, stdout};

/// Width of the bar of 100 %, in characters.
const WIDTH: f64 = 40.0;

/// Forecast the calls of each hour, and when the limit is used up
///
/// The forecast is for the messages watched now and the configured cadences. It assumes no new messages unless
/// --more-messages is given. Use --set to try other settings, for example --set 'cadence.default.tiers=[{ until = "1d",
/// every = "5m" }]' or --set polling.max_calls_per_second=100. With --try, messages of the last 14 days whose reads are
/// stored are polled again in memory, by the configured cadence and by another one: --try pace=24m, or --try
/// mornings.pace=24m for the groups of the cadence mornings.
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
    /// Setting of a cadence to try on stored reads: pace, patience or fastest, of the default unless a name is given
    #[arg(long = "try", value_name = "[NAME.]KEY=VALUE")]
    trials: Vec<Trial>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The command's output.
#[derive(Serialize)]
struct Answer {
    /// The limit, in calls per second.
    limit: u32,
    /// The time from which on more is due than it allows.
    saturates_at: Option<Timestamp>,
    /// The assumed new messages; null for none.
    assumed: Option<Stream>,
    /// Messages sent in the last 24 hours.
    last_day: LastDay,
    hours: Vec<Hour>,
    /// The cost and benefit of half and twice the pace of the default cadence.
    other_paces: Vec<OtherPace>,
    /// The result of `--try`; null without it, or if no reads are stored.
    tried: Option<Tried>,
}

pub async fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    refuse(arguments)?;
    let opened = Opened::open(global).await?;
    let (limit, cadences) = (opened.config.polling.max_calls_per_second, opened.config.cadences.clone());
    let batch_size = u32::try_from(opened.config.polling.batch_size).unwrap_or(u32::MAX);
    let trial = (!arguments.trials.is_empty()).then(|| Trials::of(&cadences, &arguments.trials)).transpose();
    let trial = trial.map_err(Refused::usage)?;
    let found = look(&opened, batch_size, trial.as_ref(), &cadences).await;
    let now = opened.store.clock().now();
    let (cohorts, last_day, reads) = opened.close(found).await?;
    let Arguments { hours, more_messages, in_groups, json, .. } = *arguments;
    let assumed =
        (more_messages > 0).then_some(Stream { messages_per_hour: more_messages, groups: in_groups, batch_size });
    let other_paces = other_paces(&cohorts, assumed, &cadences, hours, now);
    let tried = trial.as_ref().and_then(|trial| trial.on(&reads, batch_size as usize));
    let hours = plan(&cohorts, assumed, &cadences, limit, hours, now);
    let answer = Answer { limit, saturates_at: saturates_at(&hours), assumed, last_day, hours, other_paces, tried };
    let mut out = stdout();
    if json {
        writeln!(out, "{}", as_json(&answer)?)?;
    } else {
        tell(&mut out, &answer)?;
        if trial.is_some() {
            let trials: Vec<String> = arguments.trials.iter().map(ToString::to_string).collect();
            trial::tell(&mut out, answer.tried.as_ref(), &trials.join(" "))?;
        }
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

/// The load, the messages of the last day, and, if a cadence is tried, past reads in its groups.
async fn look(
    opened: &Opened,
    batch_size: u32,
    trial: Option<&Trials>,
    cadences: &Cadences,
) -> Result<(Vec<Cohort>, LastDay, Vec<PastRead>), StoreError> {
    let reads = match trial {
        Some(trial) => opened.store.past_reads(&trial.groups(cadences)).await?,
        None => vec![],
    };
    Ok((opened.store.cohorts(batch_size).await?, opened.store.last_day().await?, reads))
}

fn tell(out: &mut impl Write, answer: &Answer) -> io::Result<()> {
    writeln!(out, "{:<16} {:>10} {:>7} {:>8}", "FROM (UTC)", "CALLS/S", "SHARE", "STRETCH")?;
    for hour in &answer.hours {
        let (from, percent) = (hour.from.format("%Y-%m-%d %H:%M"), hour.share * 100.0);
        let bar = bar(hour.share);
        writeln!(out, "{from:<16} {:>10.2} {percent:>6.1}% {:>8.2} {bar}", hour.calls_per_second, hour.stretch)?;
    }
    writeln!(out, "{}", assumption(answer.assumed, answer.last_day))?;
    for OtherPace { pace_seconds, calls, widths } in &answer.other_paces {
        let (pace, percent) = (duration::exactly(std::time::Duration::from_secs_f64(*pace_seconds)), calls * 100.0);
        writeln!(
            out,
            "At a pace of {pace}: {percent:.0} % of the calls, {widths:.1} times the time between two polls."
        )?;
    }
    match answer.saturates_at {
        Some(at) => writeln!(
            out,
            "From {} on, more is due than the limit of {} per second allows: {}.",
            at.format("%Y-%m-%d %H:%M"),
            counted(answer.limit.into(), "call"),
            too_much(&answer.hours)
        ),
        None => writeln!(out, "The limit of {} calls per second is not reached.", answer.limit),
    }
}

/// What receiptd does in hours in which more is due than the limit allows.
fn too_much(hours: &[Hour]) -> String {
    let longest = hours.iter().map(|hour| hour.stretch).fold(1.0, f64::max);
    let stretched = (longest > 1.0).then(|| format!("intervals will be up to {longest:.1} times as long"));
    let late = hours.iter().any(|hour| hour.share >= 1.0);
    let late = late.then(|| "polls by cron expressions, which are not stretched, will be late".to_owned());
    stretched.into_iter().chain(late).collect::<Vec<_>>().join(", and ")
}

/// A fraction of the limit as a bar. Draws nothing for 0.0 %, and cuts off everything beyond the limit, which can't
/// be called.
fn bar(share: f64) -> String {
    let share = if share < 0.0005 { 0.0 } else { share.min(1.0) };
    "#".repeat((share * WIDTH).ceil() as usize)
}

/// The assumed new messages, and what to run for a forecast like the last 24 hours.
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
        "No new messages are assumed. In the last 24 hours there {} {} per hour in {}: to plan with as many, add \
         --more-messages {an_hour} --in-groups {in_groups}.",
        if an_hour == 1 { "was" } else { "were" },
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
        assert!(last_day(20, 1).contains(" there was 1 new message per hour in 1 group: "), "{}", last_day(20, 1));
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
