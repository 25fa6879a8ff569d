//! `receiptd forget`: deletes everything about a group.

use std::{io::Write, process::ExitCode};

use clap::Args;
use receiptd::{
    domain::GroupId,
    store::{Store, StoreError},
    text::counted::counted,
};

use super::{Global, database::Opened, exit::Refused, stdout};

/// Delete everything about a group for good: its messages, its history and its roll-ups
///
/// The group is unwatched first. Polling of other groups continues. If it is interrupted, run it again.
#[derive(Args)]
pub struct Arguments {
    /// Group id
    group: GroupId,
    /// Delete nothing; count what would be deleted, per table
    #[arg(long)]
    dry_run: bool,
}

pub async fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let opened = Opened::open(global).await?;
    let done = match arguments.dry_run {
        true => count(&opened.store, &arguments.group).await,
        false => delete(&opened.store, &arguments.group).await,
    };
    opened.close(done).await.map(|()| ExitCode::SUCCESS)
}

async fn count(store: &Store, group: &GroupId) -> anyhow::Result<()> {
    let tables = store.count_group(group).await?;
    if tables.is_empty() {
        return Err(unknown(group).into());
    }
    let mut out = stdout();
    for (table, rows) in tables {
        writeln!(out, "  {table:<36} {}", counted(rows.unsigned_abs(), "row"))?;
    }
    Ok(())
}

async fn delete(store: &Store, group: &GroupId) -> anyhow::Result<()> {
    let rows = forget(store, group).await?;
    if rows == 0 {
        return Err(unknown(group).into());
    }
    writeln!(stdout(), "Deleted {} of group {group}.", counted(rows, "row"))?;
    Ok(())
}

/// Deletes everything of a group, in parts. Returns the number of rows: 0 if there were none.
pub async fn forget(store: &Store, group: &GroupId) -> Result<u64, StoreError> {
    let mut total = 0;
    loop {
        match store.forget_group(group).await? {
            0 => return Ok(total),
            rows => total += rows,
        }
    }
}

fn unknown(group: &GroupId) -> Refused {
    Refused::usage(format!("this app has no data of group {group}"))
}
