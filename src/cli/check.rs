//! `receiptd check`: is the configuration right, what would receiptd do with it, and do the database and Tencent Chat
//! agree?

mod online;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;
use humantime::format_duration;
use receiptd::{
    chat::Destination,
    config::{Chat, Config, Format},
    recording::KeepSnapshots,
};

use super::{Global, exit::Exit};

/// Check the configuration, say what receiptd would do with it, and ask the database and Tencent Chat
#[derive(Args)]
pub struct Arguments {
    /// Touch neither the network nor the database
    #[arg(long)]
    offline: bool,
}

pub async fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let chat = config.chat()?;
    tell_plan(&config, &chat, global)?;
    if arguments.offline {
        return Ok(ExitCode::SUCCESS);
    }
    let mut exit = ExitCode::SUCCESS;
    for online::Finding { what, result } in online::look(&config, chat).await {
        match result {
            Ok(found) => println!("Asked: {what}: {found}"),
            Err(fault) => {
                println!("Failed: {what}: {fault}");
                exit = Exit::Unavailable.into();
            }
        }
    }
    Ok(exit)
}

fn tell_plan(config: &Config, chat: &Chat, global: &Global) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match global.config_file() {
        Some(file) => writeln!(out, "{} is valid. receiptd would", file.display())?,
        None => writeln!(out, "The settings are valid; there is no configuration file. receiptd would")?,
    }
    for (what, how) in plan(config, chat) {
        writeln!(out, "  {what:<10} {how}")?;
    }
    for caution in cautions(config, chat) {
        writeln!(out, "Mind: {caution}")?;
    }
    Ok(())
}

/// What receiptd would do, a line for each thing.
fn plan(config: &Config, chat: &Chat) -> Vec<(&'static str, String)> {
    let polling = &config.polling;
    let mut plan = vec![
        ("poll", format!("app {} as {}", chat.sdk_app_id, chat.identifier)),
        ("at", chat.destination.to_string()),
        ("with", chat.credential.to_string()),
        ("making", format!("at most {} calls in any second, retries included", polling.max_calls_per_second)),
        ("asking for", format!("at most {} messages in a call", polling.batch_size)),
        (
            "waiting",
            format!(
                "up to {} for an answer, for at most {} answers at once; calls arrive within {}",
                format_duration(polling.request_timeout),
                polling.max_in_flight,
                format_duration(polling.transit_allowance)
            ),
        ),
    ];
    plan.extend(config.cadences.iter().map(|(name, cadence)| ("cadence", format!("{name}: {cadence}"))));
    plan.push(("keep", recorded(config.snapshots.record).to_owned()));
    plan.push(("roll up", format!("at \"{}\" (UTC)", config.jobs.rollup)));
    plan.push(("remove", format!("at \"{}\" (UTC), {}", config.jobs.retention, config.retention)));
    plan.push(("in", format!("{}, with at most {} connections", config.database, config.database.max_connections)));
    plan.push((
        "serve",
        match config.http.listen {
            Some(address) => format!("health and metrics at http://{address}"),
            None => "nothing over HTTP".to_owned(),
        },
    ));
    plan.push(("log", format!("{} {}", config.log.level, form(config.log.format))));
    plan
}

fn recorded(record: KeepSnapshots) -> &'static str {
    match record {
        KeepSnapshots::Changes => "a snapshot where counts differ from those last seen",
        KeepSnapshots::EveryPoll => "a snapshot of every poll",
    }
}

fn form(format: Format) -> &'static str {
    match format {
        Format::Auto => "for the journal under systemd, else for people",
        Format::Human => "for people",
        Format::Journal => "for the journal",
        Format::Json => "as JSON",
    }
}

/// What is valid and yet hardly meant.
fn cautions(config: &Config, chat: &Chat) -> Vec<String> {
    let mut cautions = Vec::new();
    if chat.has_placeholder_key() {
        let what =
            "chat.secret_key is the example of the reference file, with which no call succeeds: put your own there";
        cautions.push(what.to_owned());
    }
    if config.polling.max_calls_per_second > 200 && matches!(chat.destination, Destination::Region(_)) {
        let what = "polling.max_calls_per_second is over 200, the limit that Tencent Chat documents";
        cautions.push(what.to_owned());
    }
    cautions.extend(config.exposed_files.iter().map(ToString::to_string));
    cautions
}
