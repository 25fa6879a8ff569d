//! `receiptd watch`: the watch list on the command line. Applications use the SQL functions instead.

mod import;
mod list;
mod readers;

use std::{io::Write, process::ExitCode};

use clap::{Args, Subcommand};
use indicatif::HumanCount;
use receiptd::{
    clock,
    config::Config,
    domain::{GroupId, GroupType, Label, Labels, MsgSeq},
    import::{AHEAD, WatchLine},
    store::Store,
    text::counted::counted,
};

use self::import::BATCH;
use super::{
    Global,
    database::Opened,
    exit::{Exit, Refused, not_watched},
    stdout, tell,
    time_argument::TimeArgument,
};

/// Edit the watch list: add, import, list, pause, resume or remove; turn readers on or off
#[derive(Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Watch a group and messages in it
    Add {
        /// Group id
        group: GroupId,
        /// Messages: seqs (7) or ranges (100-250); without any, only the group is watched
        #[arg(value_parser = seqs)]
        seqs: Vec<Seqs>,
        /// Type of the group: Private (Work), Public or ChatRoom (Meeting)
        #[arg(long = "type", value_name = "TYPE")]
        group_type: Option<GroupType>,
        /// Name of a configured cadence: how often messages are polled
        #[arg(long, value_name = "NAME")]
        cadence: Option<String>,
        /// Time of sending: RFC 3339, seconds since 1970, or an age such as 2h [default: now]
        #[arg(long, value_name = "TIME")]
        sent_at: Option<TimeArgument>,
        /// Label of the messages, for analysts to filter by; an empty value removes it. Repeat for more
        #[arg(long = "label", value_name = "NAME=VALUE")]
        labels: Vec<Label>,
        /// Label of the group
        #[arg(long = "group-label", value_name = "NAME=VALUE")]
        group_labels: Vec<Label>,
    },
    Import(import::Arguments),
    List(list::Arguments),
    /// Pause polling of groups until they are resumed
    Pause {
        /// Group ids
        #[arg(required = true)]
        groups: Vec<GroupId>,
    },
    /// Resume polling of paused or quarantined groups
    Resume {
        /// Group ids
        #[arg(required = true)]
        groups: Vec<GroupId>,
    },
    Readers(readers::Arguments),
    /// Stop watching messages, or a group and all its messages; the history is kept
    Remove {
        /// Group id
        group: GroupId,
        /// Messages: seqs (7) or ranges (100-250); without any, the group is removed
        #[arg(value_parser = seqs)]
        seqs: Vec<Seqs>,
    },
}

/// A range of messages.
#[derive(Clone, Copy)]
struct Seqs {
    first: u32,
    last: u32,
}

/// Maximum number of messages on a command line; an import may have more.
const MOST_SEQS: u64 = 10_000_000;

pub async fn execute(arguments: Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    refuse(&arguments.action)?;
    let opened = Opened::open(global).await?;
    let done = act(arguments.action, &opened.config, &opened.store).await;
    opened.close(done).await
}

/// Refuses impossible arguments before the database is asked.
fn refuse(action: &Action) -> Result<(), Refused> {
    match action {
        Action::Add { seqs, sent_at, labels, .. } => {
            refuse_future(*sent_at)?;
            if seqs.is_empty() && !labels.is_empty() {
                return Err(Refused::usage("--label is for messages: name some, or use --group-label".to_owned()));
            }
            refuse_too_many(seqs)
        }
        Action::Remove { seqs, .. } => refuse_too_many(seqs),
        Action::List(arguments) => list::refuse(arguments),
        Action::Readers(arguments) => readers::refuse(arguments),
        Action::Import(_) | Action::Pause { .. } | Action::Resume { .. } => Ok(()),
    }
}

async fn act(action: Action, config: &Config, store: &Store) -> anyhow::Result<ExitCode> {
    match action {
        Action::Add { group, seqs, group_type, cadence, sent_at, labels, group_labels } => {
            let labels = of(labels)?;
            if let Some(name) = cadence.as_deref().filter(|name| !config.cadences.has(name)) {
                tell(format_args!(
                    "Warning: cadence {name} is not configured here: unless the daemon's configuration has it, the \
                     default applies"
                ));
            }
            store.watch_group(&group, group_type, cadence.as_deref(), &of(group_labels)?).await?;
            add(store, &group, &seqs, sent_at, &labels).await
        }
        Action::Import(arguments) => import::execute(arguments, store).await,
        Action::List(arguments) => list::execute(arguments, store).await,
        Action::Readers(arguments) => readers::execute(&arguments, config, store).await,
        Action::Pause { groups } => {
            let done = async |group: &GroupId| Ok(store.pause_group(group).await?.then_some("paused"));
            for_each(store, &groups, done).await
        }
        Action::Resume { groups } => {
            let done = async |group: &GroupId| Ok(store.resume_group(group).await?.then_some("polled again"));
            for_each(store, &groups, done).await
        }
        Action::Remove { group, seqs } => remove(store, &group, &seqs).await,
    }
}

fn of(labels: Vec<Label>) -> Result<Labels, Refused> {
    Labels::of(labels).map_err(|error| Refused::usage(error.to_string()))
}

async fn add(
    store: &Store,
    group: &GroupId,
    seqs: &[Seqs],
    sent_at: Option<TimeArgument>,
    labels: &Labels,
) -> anyhow::Result<ExitCode> {
    let now = store.clock().now();
    let sent_at = sent_at.map(|moment| moment.at(now));
    let (mut total, mut new) = (0_u64, 0);
    let line = |seq| WatchLine { group: group.clone(), seq, sent_at, labels: labels.clone() };
    let lines: Vec<WatchLine> = expand(seqs)?.into_iter().map(line).collect();
    for batch in lines.chunks(BATCH) {
        new += store.watch_lines(batch, now).await?;
        total += batch.len() as u64;
    }
    let told = match total {
        0 => format!("{group} is watched."),
        _ => format!("Added {} of {group} ({} already watched).", counted(new, "message"), HumanCount(total - new)),
    };
    writeln!(stdout(), "{told}")?;
    Ok(ExitCode::SUCCESS)
}

async fn remove(store: &Store, group: &GroupId, seqs: &[Seqs]) -> anyhow::Result<ExitCode> {
    if store.group_state(group).await?.is_none() {
        return Err(not_watched(group).into());
    }
    let removed = store.unwatch(group, &expand(seqs)?).await?;
    writeln!(stdout(), "Removed {} of {group}.", counted(removed.unsigned_abs(), "message"))?;
    Ok(ExitCode::SUCCESS)
}

/// Changes each group and reports the result. A group that is not on the list doesn't stop the others, and neither
/// does a closed standard output.
async fn for_each(
    store: &Store,
    groups: &[GroupId],
    done: impl AsyncFn(&GroupId) -> anyhow::Result<Option<&'static str>>,
) -> anyhow::Result<ExitCode> {
    let (mut exit, mut told) = (ExitCode::SUCCESS, Ok(()));
    for group in groups {
        let became = match (done(group).await?, store.group_state(group).await?) {
            (Some(now), _) => format!("is {now}"),
            (None, Some(state)) => format!("is unchanged: {state}"),
            (None, None) => {
                tell(not_watched(group));
                exit = Exit::Data.into();
                continue;
            }
        };
        told = told.and_then(|()| writeln!(stdout(), "{group} {became}."));
    }
    told?;
    Ok(exit)
}

fn refuse_future(sent_at: Option<TimeArgument>) -> Result<(), Refused> {
    let now = clock::now();
    match sent_at.map(|moment| moment.at(now)).filter(|sent_at| *sent_at > now + AHEAD) {
        Some(sent_at) => {
            Err(Refused::usage(format!("--sent-at {} is more than a day in the future", sent_at.to_rfc3339())))
        }
        None => Ok(()),
    }
}

fn refuse_too_many(seqs: &[Seqs]) -> Result<(), Refused> {
    let count: u64 = seqs.iter().map(|seqs| u64::from(seqs.last - seqs.first) + 1).sum();
    if count > MOST_SEQS {
        let why =
            format!("{count} messages exceed the maximum of {MOST_SEQS} per command: use `receiptd watch import`");
        return Err(Refused::usage(why));
    }
    Ok(())
}

fn expand(seqs: &[Seqs]) -> anyhow::Result<Vec<MsgSeq>> {
    let mut numbers: Vec<u32> = seqs.iter().flat_map(|seqs| seqs.first..=seqs.last).collect();
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers.into_iter().map(|number| MsgSeq::try_from(i64::from(number))).collect::<Result<_, _>>()?)
}

fn seqs(text: &str) -> Result<Seqs, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse::<MsgSeq>().map(MsgSeq::get).map_err(|error| error.to_string());
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        Err(format!("the range ends before it begins: use {last}-{first}"))
    } else {
        Ok(Seqs { first, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seqs_are_numbers_or_ranges() {
        let read = |text| seqs(text).map(|seqs| (seqs.first, seqs.last));
        assert_eq!(read("7"), Ok((7, 7)));
        assert_eq!(read("100-250"), Ok((100, 250)));
        for (bad, reason) in [("0", "from 1"), ("9-7", "use 7-9"), ("x-3", "message seq"), ("-3", "message seq")] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(reason), "{bad}: {error}");
        }
    }

    #[test]
    fn overlapping_ranges_merge_and_oversized_ones_are_refused() {
        let numbers = |seqs: &[Seqs]| expand(seqs).map(|seqs| seqs.into_iter().map(MsgSeq::get).collect::<Vec<_>>());
        assert_eq!(numbers(&[Seqs { first: 2, last: 4 }, Seqs { first: 1, last: 3 }]).unwrap(), [1, 2, 3, 4]);
        let error = refuse_too_many(&[Seqs { first: 1, last: u32::MAX }]).unwrap_err().to_string();
        assert!(error.contains("watch import"), "{error}");
    }
}
