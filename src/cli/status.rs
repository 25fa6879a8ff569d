//! `receiptd status`: how things stand, from the database, and from the running daemon where it answers.

use std::{io::Write, process::ExitCode};

use clap::Args;
use indicatif::HumanCount;
use receiptd::{
    clock,
    config::Http,
    domain::Timestamp,
    lease::Holder,
    ops, span,
    store::{Overview, Store, Watched},
};
use serde::Serialize;

use super::{Global, database::Opened, stdout};

/// Say how things stand: who polls, what is due, what calls came to, how far all is rolled up
#[derive(Args)]
pub struct Arguments {
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

/// What the command answers.
#[derive(Serialize)]
struct Status {
    database: Overview,
    /// What the daemon on this machine says of itself; null where none answers.
    daemon: Option<serde_json::Value>,
}

pub async fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let opened = Opened::open(global).await?;
    let status = look(&opened.store, &opened.config.http).await;
    let place = opened.config.database.to_string();
    let status = opened.close(status).await?;
    let mut out = stdout();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string(&status)?)?;
    } else {
        for (what, how) in lines(&status, &place, clock::now()) {
            writeln!(out, "{what:<11} {how}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn look(store: &Store, http: &Http) -> anyhow::Result<Status> {
    let database = store.overview().await?;
    let daemon = match http.listen {
        Some(listen) => ops::ask(listen, http.token.as_ref()).await,
        None => None,
    };
    Ok(Status { database, daemon })
}

fn lines(status: &Status, place: &str, now: Timestamp) -> Vec<(&'static str, String)> {
    let Status { database, daemon } = status;
    let Watched { groups, messages, quarantined } = database.watched;
    let number = |number: i64| HumanCount(number.unsigned_abs()).to_string();
    let refused =
        if quarantined > 0 { format!("; {} groups are quarantined", number(quarantined)) } else { String::new() };
    let calls: i64 = database.calls.iter().map(|(_, count)| count).sum();
    let classes: Vec<String> =
        database.calls.iter().map(|(class, count)| format!("{class} {}", number(*count))).collect();
    let ago = |time: Timestamp| format!("{} ago", since(time, now));
    vec![
        ("database", place.to_owned()),
        (
            "polled by",
            match (&database.holder, database.polling_since) {
                (Some(holder), Some(from)) => format!("{}, for {}", Holder::in_words(holder), since(from, now)),
                _ => "nobody: start receiptd, or see why it waits with `receiptd check`".to_owned(),
            },
        ),
        ("watched", format!("{} messages in {} groups{refused}", number(messages), number(groups))),
        (
            "due",
            match database.overdue_since {
                Some(first) => {
                    format!("{} calls, the first of them for {}", number(database.overdue_calls), since(first, now))
                }
                None => "nothing: all polls are in time".to_owned(),
            },
        ),
        (
            "calls",
            match database.last_call_at {
                Some(last) => {
                    format!("{} in 10 minutes ({}), the last one {}", number(calls), classes.join(", "), ago(last))
                }
                None => "none in 10 minutes".to_owned(),
            },
        ),
        (
            "rolled up",
            database.rolled_up_until.map_or_else(|| "nothing yet".to_owned(), |until| format!("until {}", ago(until))),
        ),
        ("partitions", format!("made for {} days, today included", database.partition_runway_days)),
        ("set aside", format!("{} rows", number(database.set_aside))),
        (
            "daemon",
            match daemon.as_ref().and_then(|daemon| daemon["line"].as_str()) {
                Some(line) => line.to_owned(),
                None => "does not answer at http.listen".to_owned(),
            },
        ),
    ]
}

/// How long it is from then until now.
pub fn since(then: Timestamp, now: Timestamp) -> String {
    span::roughly((now - then).to_std().unwrap_or_default())
}
