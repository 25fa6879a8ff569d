//! `receiptd check`: checks the configuration, shows what receiptd would do with it, and checks the database and
//! Tencent Chat.

mod database;
mod finding;
mod service;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;
use receiptd::{
    chat::{ChatSettings, Destination},
    config::{Config, ExposedFile, Readers},
    logging::LogFormat,
    rules::{discovery::Discovery, readers::pseudonym::Naming, recording::KeepSnapshots},
    text::{counted::counted, duration, printable::printable},
};
use serde::Serialize;

use self::finding::{Finding, Verdict};
use super::{Global, as_json, stdout};

/// Check the settings, the database and Tencent Chat, and show what receiptd would do
#[derive(Args)]
pub struct Arguments {
    /// Use neither the network nor the database
    #[arg(long)]
    offline: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The command's output.
#[derive(Serialize)]
struct Answer {
    /// What receiptd would do, as pairs of a verb and its object.
    would: Vec<(&'static str, String)>,
    findings: Vec<Finding>,
}

pub async fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    let chat = config.chat()?;
    let would = plan(&config, &chat);
    if !arguments.json {
        tell_plan(&would, global)?;
    }
    let mut findings = cautions(&config, &chat);
    if !arguments.offline {
        let (found, polled) = database::look(&config, &chat).await?;
        findings.extend(found);
        findings.extend(service::look(chat, config.polling.request_timeout, polled).await);
    }
    // The most severe failure decides.
    let failed = findings.iter().filter(|finding| finding.verdict == Verdict::Failed).map(|finding| finding.exit);
    let exit = failed.max_by_key(|exit| *exit as u8).map_or(ExitCode::SUCCESS, Into::into);
    let mut out = stdout();
    if arguments.json {
        writeln!(out, "{}", as_json(&Answer { would, findings })?)?;
    } else {
        findings.iter().try_for_each(|finding| writeln!(out, "{}", printable(&finding.line())))?;
    }
    Ok(exit)
}

fn tell_plan(would: &[(&'static str, String)], global: &Global) -> io::Result<()> {
    let mut out = stdout();
    match global.config_file() {
        Some(file) => writeln!(out, "{} is valid. receiptd would", file.display())?,
        None => writeln!(out, "The settings are valid; there is no configuration file. receiptd would")?,
    }
    would.iter().try_for_each(|(what, how)| writeln!(out, "  {what:<10} {how}"))
}

/// What receiptd would do, one line each.
fn plan(config: &Config, chat: &ChatSettings) -> Vec<(&'static str, String)> {
    let polling = &config.polling;
    let mut plan = vec![
        ("poll", format!("app {} as {}", chat.sdk_app_id, chat.identifier)),
        ("at", chat.destination.to_string()),
        ("with", chat.credential.to_string()),
        (
            "making",
            format!(
                "at most {} in any second, including retries",
                counted(polling.max_calls_per_second.into(), "call")
            ),
        ),
        ("asking for", format!("at most {} per call", counted(polling.batch_size as u64, "message"))),
        (
            "waiting",
            format!(
                "up to {} for an answer, with at most {} in flight; transit allowance {}",
                duration::exactly(polling.request_timeout),
                counted(polling.max_in_flight as u64, "call"),
                duration::exactly(polling.transit_allowance)
            ),
        ),
    ];
    plan.extend(config.cadences.iter().map(|(name, cadence)| ("cadence", format!("{name}: {cadence}"))));
    plan.extend(config.discovery.enabled.then(|| ("discover", discovered(&config.discovery.rules))));
    plan.push(("keep", recorded(config.snapshots.record).to_owned()));
    plan.push(("readers", members(config)));
    plan.push(("roll up", format!("at \"{}\" (UTC)", config.jobs.rollup)));
    plan.push(("remove", format!("at \"{}\" (UTC), {}", config.jobs.retention, config.retention)));
    plan.push(("in", format!("{}, with at most {} connections", config.database, config.database.max_connections)));
    plan.push((
        "serve",
        match config.http.listen {
            Some(address) => {
                let token = if config.http.token.is_some() { ", token required" } else { "" };
                format!("the status page, health and metrics at http://{address}{token}")
            }
            None => "nothing over HTTP".to_owned(),
        },
    ));
    if let Some(listener) = &config.webhooks.listener {
        let encryption = if listener.tls.is_some() { "with its own certificate" } else { "behind a TLS proxy" };
        let forward = listener.forward.as_ref().map_or_else(String::new, |url| format!(", and pass them on to {url}"));
        plan.push(("receive", format!("webhooks at {} {encryption}{forward}", listener.listen)));
    }
    plan.push(("log", format!("{} {}", config.log.level, form(config.log.format))));
    plan
}

fn recorded(record: KeepSnapshots) -> &'static str {
    match record {
        KeepSnapshots::Changes => "a snapshot for each change of the counts",
        KeepSnapshots::EveryPoll => "a snapshot for each poll",
    }
}

/// Which messages are watched without being added.
fn discovered(rules: &Discovery) -> String {
    let types: Vec<&str> = rules.selection.types.iter().map(|group_type| group_type.as_str()).collect();
    let types = if types.is_empty() { "the named groups".to_owned() } else { format!("{} groups", types.join(", ")) };
    format!(
        "the messages of {types}: at most {} in {}",
        counted(rules.messages.unsigned_abs(), "message"),
        counted(rules.groups as u64, "group")
    )
}

/// How members are stored.
fn members(config: &Config) -> String {
    let Readers { naming, reader_cadence, groups, max_calls_per_second } = &config.readers;
    let named = match naming {
        Naming::Accounts => "account",
        Naming::Pseudonyms(_) => "pseudonym",
    };
    let patterns: Vec<String> = groups.iter().map(ToString::to_string).collect();
    let added = match patterns.as_slice() {
        [] => String::new(),
        patterns => format!(" (also turned on in discovered groups that match {})", patterns.join(", ")),
    };
    format!(
        "of groups that have them on{added}: by {named}, asked at most every {} per message, with at most {} in any second",
        duration::exactly(reader_cadence.to_std().unwrap_or_default()),
        counted((*max_calls_per_second).into(), "call")
    )
}

fn form(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Auto => "for the journal under systemd, else human-readable",
        LogFormat::Human => "human-readable",
        LogFormat::Journal => "for the journal",
        LogFormat::Json => "as JSON",
    }
}

/// Warnings about settings that are valid but hardly intended.
fn cautions(config: &Config, chat: &ChatSettings) -> Vec<Finding> {
    let mut cautions = Vec::new();
    if chat.credential.is_example() {
        let found = "chat.secret_key is the example from the reference file: every call would fail";
        cautions.push(Finding::warning("key", found, "enter your own key"));
    } else if chat.credential.has_odd_form() {
        let found = "chat.secret_key does not consist of 64 digits 0-9 and a-f, as keys in the console do";
        cautions.push(Finding::warning("key", found, "copy it from the console again, without blanks or quotes"));
    }
    if config.polling.max_calls_per_second > 200 && matches!(chat.destination, Destination::Region(_)) {
        let found = "polling.max_calls_per_second is over 200, the documented limit of Tencent Chat";
        cautions.push(Finding::warning("limit", found, "lower it, unless your edition allows more"));
    }
    if let Some((found, remedy)) = config.idle_reader_patterns() {
        cautions.push(Finding::warning("readers", found, remedy));
    }
    // The message contains the remedy.
    let exposed = |file: &ExposedFile| Finding { verdict: Verdict::Warning, ..Finding::ok("files", file.to_string()) };
    cautions.extend(config.exposed_files.iter().map(exposed));
    cautions
}
