//! `receiptd discover`: what discovery has found, or would find and cost.

use std::{collections::BTreeMap, io::Write, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Args;
use futures::{StreamExt, stream};
use indicatif::HumanCount;
use receiptd::{
    chat::ChatClient,
    config::Config,
    daemon::other_calls::OtherCalls,
    domain::{GroupId, Timestamp},
    rules::{
        discovery::{Discovery, Pattern, looks_per_second, messages_per_hour},
        forecast::{Stream, plan},
        protocol::{
            Call, Failure,
            others::{Cursor, GetGroupInfo, GetHistory, GroupInfo, ListGroups},
        },
    },
    store::{DiscoveryTotals, Store},
    text::counted::counted,
};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{Global, as_json, database::Opened, exit::Refused, stdout};

/// Number of groups whose messages are read for the estimate.
const SAMPLE: usize = 500;

/// Number of calls in flight.
const IN_FLIGHT: usize = 32;

/// Time after which a group counts as quiet.
const QUIET: Duration = Duration::from_secs(86_400);

/// Number of hours after which the forecast counts: by then, there are messages of each age.
const SETTLED: u32 = 168;

/// Show what discovery has found, or would find and cost
///
/// With --dry-run, the app's groups are listed, and the messages of up to 500 of them are looked at: at most one call
/// per 10,000 groups for the lists, one per 50 groups for their state, and 500 for messages. Nothing is stored.
#[derive(Args)]
pub struct Arguments {
    /// Ask Tencent Chat what would be watched with the present settings, without watching it
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The totals of discovery.
#[derive(Serialize)]
struct Done {
    enabled: bool,
    /// Time since which it is switched on in the daemon.
    began_at: Option<Timestamp>,
    #[serde(flatten)]
    totals: DiscoveryTotals,
    /// Fraction of discovered messages that have a receipt.
    receipt_share: Option<f64>,
}

/// The estimate of a dry run.
#[derive(Debug, Default, Serialize)]
struct Estimate {
    /// Number of groups that would be followed.
    followed: usize,
    /// Number of other groups, by reason.
    others: BTreeMap<String, usize>,
    /// Whether there are more groups than `discovery.groups`.
    is_full: bool,
    /// Number of groups with a message within a day.
    busy: usize,
    /// Number of these whose messages were looked at.
    sampled: usize,
    /// Number of followed groups in which readers would be turned on, unless they are on the watch list already.
    with_readers: usize,
    /// New messages per hour in all groups.
    messages_per_hour: f64,
    /// Calls per second for receipts once messages of each age are there, if all have receipts.
    receipt_calls_per_second: f64,
    /// Their limit.
    receipt_calls_limit: u32,
    /// Calls per second to find new messages.
    look_calls_per_second: f64,
}

pub async fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let opened = Opened::open(global).await?;
    let said = match arguments.dry_run {
        true => estimate(&opened.config, &opened.store).await.and_then(|estimate| {
            if arguments.json { as_json(&estimate).map_err(Into::into) } else { Ok(estimate.in_words()) }
        }),
        false => done(&opened.config, &opened.store)
            .await
            .and_then(|done| if arguments.json { as_json(&done).map_err(Into::into) } else { Ok(done.in_words()) }),
    };
    writeln!(stdout(), "{}", opened.close(said).await?)?;
    Ok(ExitCode::SUCCESS)
}

async fn done(config: &Config, store: &Store) -> anyhow::Result<Done> {
    let totals = store.discovery_totals().await?;
    let (enabled, began_at) = (config.discovery.enabled, store.discovery_began().await?);
    Ok(Done { enabled, began_at, receipt_share: totals.receipt_share(), totals })
}

impl Done {
    fn in_words(&self) -> String {
        let state = match (self.enabled, self.began_at) {
            (_, Some(began)) => format!("on since {}", began.format("%Y-%m-%d %H:%M:%S UTC")),
            (true, None) => "configured, but no daemon has begun it yet".to_owned(),
            (false, None) => "off: set discovery.enabled = true to switch it on".to_owned(),
        };
        let DiscoveryTotals { groups, refused, watched, passed, with_receipt, without_receipt } = self.totals;
        let number = |number: i64, what| counted(number.unsigned_abs(), what);
        let share = self.receipt_share.map_or_else(
            || "none has been polled yet".to_owned(),
            |share| {
                let known = number(with_receipt + without_receipt, "message");
                format!("{:.0} % of the latest {known} have one; the others are asked for once", share * 100.0)
            },
        );
        format!(
            "discovery   {state}\ngroups      {} followed, {} refused by Tencent Chat\nmessages    {} watched, {} passed \
             over\nreceipts    {share}",
            HumanCount(groups.unsigned_abs()),
            HumanCount(refused.unsigned_abs()),
            HumanCount(watched.unsigned_abs()),
            HumanCount(passed.unsigned_abs()),
        )
    }
}

async fn estimate(config: &Config, store: &Store) -> anyhow::Result<Estimate> {
    if store.discovery_began().await?.is_some() && store.holder().await?.is_some() {
        let why = "discovery is running, and its calls share one limit: use `receiptd discover` without --dry-run";
        return Err(Refused::usage(why.to_owned()).into());
    }
    let (rules, calls) = (&config.discovery.rules, calls(config)?);
    let now = store.clock().now();
    let mut estimate = Estimate { receipt_calls_limit: config.polling.max_calls_per_second, ..Estimate::default() };
    let groups = list(&calls, rules, &mut estimate).await?;
    let infos = look(&calls, rules, &groups, &mut estimate).await?;
    let quiet =
        |info: &GroupInfo| info.last_message_at.map_or(Duration::MAX, |at| (now - at).to_std().unwrap_or_default());
    estimate.followed = infos.len();
    let has_readers = |(group, _): &&(GroupId, GroupInfo)| Pattern::any_matches(&config.readers.groups, group);
    estimate.with_readers = infos.iter().filter(has_readers).count();
    estimate.look_calls_per_second = looks_per_second(infos.iter().map(|(_, info)| quiet(info)));
    let busy: Vec<&(GroupId, GroupInfo)> =
        infos.iter().filter(|(_, info)| info.next_seq > 1 && quiet(info) < QUIET).collect();
    estimate.busy = busy.len();
    let step = busy.len().div_ceil(SAMPLE).max(1);
    let sampled: Vec<&(GroupId, GroupInfo)> = busy.iter().copied().step_by(step).collect();
    estimate.sampled = sampled.len();
    let rate = sample(&calls, &sampled, now).await?;
    if !sampled.is_empty() {
        estimate.messages_per_hour = rate * busy.len() as f64 / sampled.len() as f64;
    }
    estimate.receipt_calls_per_second = receipt_calls(config, &estimate, now);
    Ok(estimate)
}

fn calls(config: &Config) -> anyhow::Result<OtherCalls> {
    let chat = config.chat()?;
    let (limits, allowance) = (config.discovery.rules.call_limits(), config.polling.transit_allowance);
    let client = ChatClient::new(chat, config.polling.request_timeout, IN_FLIGHT)?;
    Ok(OtherCalls::new(Arc::new(client), None, limits, allowance, CancellationToken::new()))
}

/// Makes a call; a failure ends the command.
async fn ask<C: Call>(calls: &OtherCalls, call: &C) -> anyhow::Result<C::Answer> {
    let answer = calls.call(call).await.context("the call could not be made")?;
    let refused = |failure: Failure| anyhow::anyhow!("{} failed: {}", C::API.name(), failure.of_app(None));
    answer.map_err(refused)
}

/// The groups that patterns and types select.
async fn list(calls: &OtherCalls, rules: &Discovery, estimate: &mut Estimate) -> anyhow::Result<Vec<GroupId>> {
    let mut groups: Vec<GroupId> = rules.selection.ids.iter().cloned().collect();
    for group_type in &rules.selection.types {
        let mut from = Some(Cursor::default());
        while let Some(page) = from {
            let page = ask(calls, &ListGroups { group_type: *group_type, from: page }).await?;
            for group in page.groups {
                match rules.selection.refuses(&group, Some(*group_type)) {
                    Some(why) => estimate.note(why.in_words()),
                    None if rules.selection.ids.contains(&group) => {}
                    None => groups.push(group),
                }
            }
            from = page.next;
        }
    }
    estimate.is_full = groups.len() > rules.groups;
    groups.truncate(rules.groups);
    Ok(groups)
}

/// The state of the groups that can be followed.
async fn look(
    calls: &OtherCalls,
    rules: &Discovery,
    groups: &[GroupId],
    estimate: &mut Estimate,
) -> anyhow::Result<Vec<(GroupId, GroupInfo)>> {
    let calls_for =
        groups.chunks(GetGroupInfo::MOST).map(|groups| async move { ask(calls, &GetGroupInfo { groups }).await });
    let mut answers = stream::iter(calls_for).buffer_unordered(IN_FLIGHT);
    let mut infos = vec![];
    while let Some(answer) = answers.next().await {
        for (group, info) in answer? {
            match info {
                Ok(info) if info.members.is_some_and(|members| members > 200) => {
                    estimate.note("it has more than 200 members");
                }
                Ok(info) => match rules.selection.refuses(&group, info.group_type) {
                    Some(why) => estimate.note(why.in_words()),
                    None => infos.push((group, info)),
                },
                Err(_) => estimate.note("Tencent Chat refuses it"),
            }
        }
    }
    Ok(infos)
}

/// Number of messages per hour in these groups.
async fn sample(calls: &OtherCalls, groups: &[&(GroupId, GroupInfo)], now: Timestamp) -> anyhow::Result<f64> {
    let newest = groups.iter().filter_map(|(group, info)| {
        let from = receiptd::domain::MsgSeq::try_from(i64::from(info.next_seq) - 1).ok()?;
        Some((group, from))
    });
    let pages = newest.map(|(group, from)| async move { ask(calls, &GetHistory { group, from }).await });
    let mut pages = stream::iter(pages).buffer_unordered(IN_FLIGHT);
    let mut rate = 0.0;
    while let Some(page) = pages.next().await {
        rate += messages_per_hour(&page?, now);
    }
    Ok(rate)
}

/// Calls per second for receipts, as in `receiptd plan`.
fn receipt_calls(config: &Config, estimate: &Estimate, now: Timestamp) -> f64 {
    let messages_per_hour = estimate.messages_per_hour.ceil() as u32;
    if messages_per_hour == 0 {
        return 0.0;
    }
    let groups = u32::try_from(estimate.busy).unwrap_or(u32::MAX).clamp(1, messages_per_hour);
    let batch_size = u32::try_from(config.polling.batch_size).unwrap_or(u32::MAX);
    let stream = Stream { messages_per_hour, groups, batch_size };
    let hours = plan(&[], Some(stream), &config.cadences, config.polling.max_calls_per_second, SETTLED, now);
    hours.last().map_or(0.0, |hour| hour.calls_per_second)
}

impl Estimate {
    fn note(&mut self, why: &str) {
        *self.others.entry(why.to_owned()).or_default() += 1;
    }

    fn in_words(&self) -> String {
        let mut lines = vec![format!("groups      {} would be followed", HumanCount(self.followed as u64))];
        for (why, number) in &self.others {
            lines.push(format!("            {} would not: {why}", HumanCount(*number as u64)));
        }
        if self.with_readers > 0 {
            lines.push(format!(
                "readers     would be stored in {}, by readers.groups, unless they are on the watch list already",
                HumanCount(self.with_readers as u64)
            ));
        }
        if self.is_full {
            lines.push("            Warning: there are more groups than discovery.groups allows".to_owned());
        }
        lines.push(format!(
            "messages    about {} per hour in {}, by the latest messages of {}",
            HumanCount(self.messages_per_hour.ceil() as u64),
            counted(self.busy as u64, "group"),
            HumanCount(self.sampled as u64)
        ));
        lines.push(format!(
            "receipts    about {:.1} calls per second after a week, of {} allowed, if all messages have receipts",
            self.receipt_calls_per_second, self.receipt_calls_limit
        ));
        lines.push(format!(
            "looks       about {:.1} calls per second for new messages, which take nothing from these",
            self.look_calls_per_second + self.messages_per_hour / 3_600.0
        ));
        lines.join("\n")
    }
}
