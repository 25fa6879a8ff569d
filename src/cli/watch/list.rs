//! `receiptd watch list`: the groups of the watch list, or the messages of one.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;
use receiptd::{
    domain::{GroupId, Timestamp},
    store::{Store, WatchedGroup, WatchedMessage},
    text::printable::printable,
};
use serde::Serialize;

use crate::cli::{
    as_json,
    exit::{Refused, not_watched},
    stdout, tell,
};

/// States of a group.
const GROUP_STATES: [&str; 4] = ["active", "paused", "quarantined", "removed"];

/// States of a message.
const MESSAGE_STATES: [&str; 6] = ["active", "all_read", "no_receipt", "expired", "rejected", "removed"];

/// List watched groups, or the messages of one group
#[derive(Args)]
pub struct Arguments {
    /// List the messages of this group
    group: Option<GroupId>,
    /// Only list this state, for example quarantined or all_read
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Refuses a state that doesn't exist.
pub fn refuse(arguments: &Arguments) -> Result<(), Refused> {
    let Some(state) = &arguments.state else { return Ok(()) };
    let (what, known) = match arguments.group {
        None => ("group", &GROUP_STATES[..]),
        Some(_) => ("message", &MESSAGE_STATES[..]),
    };
    if known.contains(&state.as_str()) {
        return Ok(());
    }
    Err(Refused::usage(format!("{state:?} is not a state of a {what}: use one of {}", known.join(", "))))
}

pub async fn execute(arguments: Arguments, store: &Store) -> anyhow::Result<ExitCode> {
    let Arguments { group, state, json } = arguments;
    let mut out = stdout();
    let now = store.clock().now();
    if !store.look_at_lease().await?.is_some_and(|lease| lease.holder.is_some() && lease.expires_at > now) {
        tell("Warning: no receiptd polls this app: start one, or run `receiptd check` to see why it waits.");
    }
    let Some(group) = group else {
        let columns = ["GROUP", "STATE", "CADENCE", "ADDED BY", "READERS", "ACTIVE", "CLOSED", "LABELS", "WHY"];
        heading(&mut out, json, &group_line(columns))?;
        let mut page = store.groups(state.as_deref(), None).await?;
        while let Some(last) = page.last().map(|group| group.group_id.clone()) {
            page.iter().try_for_each(|group| row(&mut out, json, group, group_row))?;
            page = store.groups(state.as_deref(), Some(&last)).await?;
        }
        return Ok(ExitCode::SUCCESS);
    };
    if store.group_state(&group).await?.is_none() {
        return Err(not_watched(&group).into());
    }
    heading(
        &mut out,
        json,
        &message_line(["SEQ", "STATE", "ADDED BY", "READ", "UNREAD", "CODE", "SENT", "KNOWN UNTIL", "LABELS"]),
    )?;
    let mut page = store.messages(&group, state.as_deref(), 0).await?;
    while let Some(last) = page.last().map(|message| message.msg_seq) {
        page.iter().try_for_each(|message| row(&mut out, json, message, message_row))?;
        page = store.messages(&group, state.as_deref(), last).await?;
    }
    Ok(ExitCode::SUCCESS)
}

fn heading(out: &mut impl Write, json: bool, heading: &str) -> io::Result<()> {
    if json { Ok(()) } else { writeln!(out, "{heading}") }
}

fn row<T: Serialize>(out: &mut impl Write, json: bool, row: &T, plain: impl Fn(&T) -> String) -> io::Result<()> {
    if json { writeln!(out, "{}", as_json(row)?) } else { writeln!(out, "{}", printable(&plain(row))) }
}

fn group_row(group: &WatchedGroup) -> String {
    let cadence = group.cadence.as_deref().unwrap_or("default");
    let (active, closed) = (group.active.to_string(), group.closed.to_string());
    let (by, why) = (added_by(group.discovered_at), group.state_reason.as_deref().unwrap_or(""));
    let readers = if group.readers { "on" } else { "off" };
    group_line([&group.group_id, &group.state, cadence, by, readers, &active, &closed, &in_words(&group.labels), why])
}

fn group_line([group, state, cadence, by, readers, active, closed, labels, why]: [&str; 9]) -> String {
    format!("{group:<32} {state:<12} {cadence:<12} {by:<9} {readers:<7} {active:>9} {closed:>9}  {labels:<24}  {why}")
        .trim_end()
        .to_owned()
}

/// The origin of a group or a message.
fn added_by(discovered_at: Option<Timestamp>) -> &'static str {
    if discovered_at.is_some() { "discovery" } else { "owner" }
}

/// Labels as on the command line: `branch=north, floor=2`.
fn in_words(labels: &serde_json::Value) -> String {
    let value = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let labels = labels.as_object().into_iter().flatten();
    labels.map(|(name, label)| format!("{name}={}", value(label))).collect::<Vec<_>>().join(", ")
}

fn message_row(message: &WatchedMessage) -> String {
    let number = |number: Option<i32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let time = |time: Timestamp| time.format("%Y-%m-%d %H:%M:%S").to_string();
    message_line([
        &message.msg_seq.to_string(),
        &message.state,
        added_by(message.discovered_at),
        &number(message.read_num),
        &number(message.unread_num),
        &number(message.receipt_code),
        &time(message.sent_at),
        &message.known_until.map_or_else(|| "-".to_owned(), time),
        &in_words(&message.labels),
    ])
}

fn message_line([seq, state, by, read, unread, code, sent, known, labels]: [&str; 9]) -> String {
    format!("{seq:>10} {state:<10} {by:<9} {read:>6} {unread:>6} {code:>6}  {sent:<19}  {known:<19}  {labels}")
        .trim_end()
        .to_owned()
}
