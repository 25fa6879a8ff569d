//! `receiptd demo`: everything on one machine without configuration: a private PostgreSQL, the simulated Chat, the real
//! daemon, and a picture of it, drawn from the tables that analysts query. With --seed, the same PostgreSQL with a
//! generated history instead.

mod figures;
mod history;
mod picture;
mod stage;
mod summary;

use std::{io::Write, process::ExitCode, time::Duration};

use clap::Args;
use receiptd::lifecycle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use self::{figures::Figures, picture::Picture, stage::Stage};
use super::{exit::Exit, stdout};

/// Show receiptd at work with a simulated Tencent Chat
#[derive(Args)]
pub struct Arguments {
    /// Poll nothing: keep the generated history of docs/analysts.md ready to be queried
    #[arg(long)]
    seed: bool,
    /// Stop after this time, for example 30s [default: at Ctrl-C]
    #[arg(long = "for", value_name = "SPAN")]
    span: Option<humantime::Duration>,
}

pub async fn execute(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let stop = lifecycle::stop_on_signal()?;
    if arguments.seed {
        return history::keep(arguments.span.map(Into::into), &stop).await.map(|()| ExitCode::SUCCESS);
    }
    let Some(mut stage) = Stage::set_up(&stop).await? else { return Ok(ExitCode::SUCCESS) };
    let shown = show(&mut stage, arguments.span.map(Into::into), &stop).await;
    // Everything is stopped, whatever happened to the picture.
    let is_complete = stage.tear_down().await?;
    shown?;
    Ok(if is_complete { ExitCode::SUCCESS } else { Exit::Software.into() })
}

/// Draws a picture every second while new messages arrive, until the time is over or the demo is stopped.
async fn show(stage: &mut Stage, span: Option<Duration>, stop: &CancellationToken) -> anyhow::Result<()> {
    writeln!(stdout(), "{}", stage.invitation())?;
    let mut picture = Picture::new();
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let start = Instant::now();
    loop {
        tokio::select! {
            // First, since the daemon stops on this signal too.
            biased;
            () = stop.cancelled() => break,
            () = stage.daemon_ended() => anyhow::bail!("the daemon stopped unexpectedly"),
            _ = ticks.tick() => {}
        }
        if span.is_some_and(|span| start.elapsed() >= span) {
            break;
        }
        stage.send_messages()?;
        picture.draw(&Figures::read(stage).await?, start.elapsed())?;
    }
    picture.clear();
    Ok(())
}
