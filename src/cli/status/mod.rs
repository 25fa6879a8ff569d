//! `receiptd status`: the state according to the database, and according to the running daemon if it answers.

mod lines;
mod look;
mod page;

use std::{io::Write, process::ExitCode};

use clap::Args;
use receiptd::{config::Http, lifecycle, store::Store};
use tokio_util::sync::CancellationToken;

use self::{
    lines::lines,
    look::{EVERY, look},
};
use super::{Global, as_json, database::Opened, stdout, watching::Watching};

/// Show status: lease holder, overdue polls, recent calls, roll-up progress
#[derive(Args)]
pub struct Arguments {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Show it again every two seconds, with read curves and the next polls, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

pub async fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let stop = lifecycle::stop_on_signal()?;
    let opened = Opened::open_running(global).await?;
    let (store, http) = (&opened.store, &opened.config.http);
    let done = match (arguments.watch, arguments.json) {
        (true, false) => page::show(store, http, &opened.config.database.to_string(), &stop).await,
        (true, true) => print_again(store, http, &stop).await,
        (false, _) => print(arguments, &opened).await,
    };
    opened.close(done).await.map(|()| ExitCode::SUCCESS)
}

async fn print(arguments: &Arguments, opened: &Opened) -> anyhow::Result<()> {
    let status = look(&opened.store, &opened.config.http).await?;
    if arguments.json {
        return Ok(writeln!(stdout(), "{}", as_json(&status)?)?);
    }
    let lines = lines(&status, &opened.config.database.to_string(), opened.store.clock().now());
    Ok(lines.iter().try_for_each(|line| writeln!(stdout(), "{line}"))?)
}

async fn print_again(store: &Store, http: &Http, stop: &CancellationToken) -> anyhow::Result<()> {
    let mut watching = Watching::new(EVERY);
    while let Some(status) = watching.next(stop, || look(store, http)).await? {
        writeln!(stdout(), "{}", as_json(&status)?)?;
    }
    Ok(())
}
