//! `receiptd retention`: removes old data, or shows what would be removed.

use std::{io::Write, process::ExitCode};

use anyhow::bail;
use clap::Args;
use indicatif::HumanBytes;
use receiptd::{
    config::Config,
    daemon::jobs::{Removed, enforce},
    rules::retention::{Partition, Verdict},
    store::Store,
    text::counted::counted,
};

use super::{Global, database::Opened, stdout};

/// Remove snapshots, calls and roll-ups older than [retention] allows
///
/// The daemon does this by itself, see [jobs] in the configuration. Only data that was rolled up is removed.
#[derive(Args)]
pub struct Arguments {
    /// Remove nothing; show what would be removed, and its size
    #[arg(long)]
    dry_run: bool,
}

pub async fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let opened = Opened::open(global).await?;
    let done = match arguments.dry_run {
        true => tell(&opened.config, &opened.store).await,
        false => remove(&opened.config, &opened.store).await,
    };
    opened.close(done).await.map(|()| ExitCode::SUCCESS)
}

async fn remove(config: &Config, store: &Store) -> anyhow::Result<()> {
    if let Some(doubt) = store.clock().doubt() {
        bail!("nothing was removed: {doubt}");
    }
    let Removed { partitions, bytes, waiting, rewritten, rows } =
        enforce(store, &config.retention, store.clock().now()).await?;
    let mut out = stdout();
    let (partitions, rows) = (counted(partitions, "partition"), counted(rows, "row"));
    writeln!(out, "Dropped {partitions} ({}) and deleted {rows} of roll-ups.", size(bytes))?;
    if rewritten > 0 {
        writeln!(out, "Rewrote {} of snapshots in the order of messages.", counted(rewritten, "day"))?;
    }
    if waiting > 0 {
        writeln!(
            out,
            "{} not dropped yet, waiting to be rolled up or for readers to finish: the next run retries.",
            counted(waiting, "partition")
        )?;
    }
    Ok(())
}

async fn tell(config: &Config, store: &Store) -> anyhow::Result<()> {
    let now = store.clock().now();
    let rolled_up_until = store.rolled_up_by_all().await?;
    let partitions = store.partitions().await?;
    let verdict = |partition: &Partition| config.retention.verdict(partition, rolled_up_until, now);
    let mut out = stdout();
    writeln!(out, "Retention: {}.", config.retention)?;
    for partition in &partitions {
        let why = match verdict(partition) {
            Verdict::Keep => continue,
            Verdict::Drop => "goes",
            Verdict::KeepUntilRolledUp => "dropped once it is rolled up",
        };
        let rows = partition.rows.map_or(String::new(), |rows| format!(", some {rows} rows"));
        writeln!(out, "  {:<28} {why}: {}{rows}", partition.name(), size(partition.bytes))?;
    }
    let (going, staying): (Vec<&Partition>, Vec<&Partition>) =
        partitions.iter().partition(|partition| verdict(partition) != Verdict::Keep);
    let bytes = |partitions: &[&Partition]| size(partitions.iter().map(|partition| partition.bytes).sum());
    writeln!(out, "Would drop {} ({}).", counted(going.len() as u64, "partition"), bytes(&going))?;
    writeln!(out, "Would keep {} ({}).", counted(staying.len() as u64, "partition"), bytes(&staying))?;
    if let Some(kept) = config.retention.rollups {
        let rows = store.count_rollups(now - kept).await?;
        writeln!(out, "Would delete {} of roll-ups.", counted(rows.unsigned_abs(), "row"))?;
    }
    if let Some(kept) = config.retention.message_days {
        let rows = store.count_message_days(now - kept).await?;
        writeln!(out, "Would delete {}.", counted(rows.unsigned_abs(), "message day"))?;
    }
    if let Some(kept) = config.retention.readers {
        let lists = store.count_readers(now - kept).await?;
        writeln!(out, "Would delete the readers of {}.", counted(lists.unsigned_abs(), "message"))?;
    }
    Ok(())
}

fn size(bytes: i64) -> HumanBytes {
    HumanBytes(bytes.unsigned_abs())
}
