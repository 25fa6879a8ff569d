//! `receiptd explain`: why a group or message is or isn't polled, and when it is due.

mod cause;
mod discovery;
mod lines;
mod reasons;

use std::{io::Write, process::ExitCode};

use clap::Args;
use receiptd::{
    domain::{GroupId, MsgSeq},
    http::Unheard,
    rules::{
        recording::KnownLimit,
        slot::{Slot, SlotKey},
    },
    store::{DiscoveredGroup, Explained, StoreError},
    text::printable::printable,
};

use self::{
    lines::{Answer, write},
    reasons::{batch_limit, is_active, slot_in_question, why},
};
use super::{Global, as_json, database::Opened, diagnosis, exit::not_watched, stdout, tell};

/// Explain when and why a group or a message is polled
#[derive(Args)]
pub struct Arguments {
    /// Group id
    group: GroupId,
    /// Seq of a message of the group
    seq: Option<MsgSeq>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub async fn execute(arguments: Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let Arguments { group, seq, json } = arguments;
    let opened = Opened::open(global).await?;
    let (cadences, batch_size) = (opened.config.cadences.clone(), opened.config.polling.batch_size);
    let discovery = opened.config.discovery.clone();
    let now = opened.store.clock().now();
    let known = look(&opened, &group, seq).await;
    let Known { facts, discovered, slot, stretch, holder, trouble, held, limit } = opened.close(known).await?;
    let found = discovery::why(&group, seq, &discovery, discovered.as_ref(), facts.as_ref(), now);
    let Some(facts) = facts else { return unwatched(&group, &found, discovered.as_ref(), json) };
    let stopped = trouble.as_ref().map(|trouble| format!("No message of this app is being polled: {trouble}."));
    let idle = holder.is_none().then(|| "No receiptd polls this app: start one, or run `receiptd check`.".into());
    let of_group = why(&group, &facts, seq, &cadences, now);
    let limit = batch_limit(limit, batch_size);
    let cadence = cadences.of(facts.group.cadence.as_deref());
    let cause = slot.filter(|_| is_active(&facts)).and_then(|slot| cause::cause(&slot, cadence, stretch, now));
    let why =
        stopped.into_iter().chain(idle).chain(held).chain(cause).chain(of_group).chain(limit).chain(found).collect();
    let answer = Answer { why, trouble, holder, facts };
    let mut out = stdout();
    if json {
        writeln!(out, "{}", as_json(&answer)?)?;
    } else {
        write(&mut out, &answer, seq, now)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Explains a group without a watched message, if discovery follows it.
fn unwatched(
    group: &GroupId,
    why: &[String],
    discovered: Option<&DiscoveredGroup>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    if discovered.is_none() {
        why.iter().for_each(|sentence| tell(printable(sentence)));
        return Err(not_watched(group).into());
    }
    let mut out = stdout();
    if json {
        writeln!(out, "{}", as_json(&serde_json::json!({"why": why, "discovered": discovered}))?)?;
    } else {
        why.iter().try_for_each(|sentence| writeln!(out, "{}", printable(sentence)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The facts, from the database and the daemon.
struct Known {
    /// The group.
    facts: Option<Explained>,
    /// Its state in discovery.
    discovered: Option<DiscoveredGroup>,
    /// The call that is explained.
    slot: Option<Slot>,
    /// Factor by which intervals are longer.
    stretch: f64,
    /// The lease holder of the app.
    holder: Option<String>,
    /// Why no message of the app is being polled.
    trouble: Option<String>,
    /// Why the group is not being asked for although it is active.
    held: Vec<String>,
    /// The known batch limit.
    limit: Option<KnownLimit>,
}

async fn look(opened: &Opened, group: &GroupId, seq: Option<MsgSeq>) -> Result<Known, StoreError> {
    let Opened { store, config, .. } = opened;
    let (facts, holder, last_call) =
        (store.explain(group, seq).await?, store.holder().await?, store.last_call().await?);
    let heard = diagnosis::ask(store.sdk_app_id(), &config.http).await;
    if let Err(unheard) = &heard
        && *unheard != Unheard::Silent
    {
        tell(format_args!("Warning: the daemon {unheard}"));
    }
    let daemon = heard.ok();
    let trouble = diagnosis::of_app(daemon.as_ref(), last_call.as_ref());
    let active = facts.as_ref().filter(|facts| is_active(facts)).map(|facts| facts.group.group_key);
    let held = daemon.zip(active).map(|(daemon, key)| diagnosis::of_group(&daemon, key.into())).unwrap_or_default();
    let slot = facts.as_ref().and_then(|facts| Some((facts.group.group_key, slot_in_question(facts, seq)?.slot_id)));
    let slot = match slot {
        Some((group_key, slot_id)) => store.read_slots(&[SlotKey { group_key, slot_id }]).await?.pop(),
        None => None,
    };
    let (stretch, limit) = (store.stretch().await?, store.batch_limit().await?);
    let discovered = store.discovered_group(group).await?;
    Ok(Known { facts, discovered, slot, stretch, holder, trouble, held, limit })
}
