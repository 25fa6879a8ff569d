//! `receiptd seed`: a generated history for trying queries and dashboards, or for measuring them at any size.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use receiptd::{
    daemon::jobs::catch_up,
    rules::rollup,
    store::{Seed, Store},
    text::counted::counted,
};

use super::{Global, database::Opened, exit::Refused, forget::forget, stdout, tell, time_argument::TimeArgument};

/// Fill an app that has no groups with a generated history, and roll it up
///
/// The same options make the same history. 200000 messages in groups of 130 members have about 18 million snapshots.
/// The groups have the label generated. If it is interrupted, run it again: it starts from the beginning.
#[derive(Args)]
pub struct Arguments {
    /// Number of groups
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    groups: i64,
    /// Number of messages in all groups together
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(i64).range(1..=100_000_000))]
    messages: i64,
    /// Number of days over which the messages were sent
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(i64).range(1..=3_650))]
    days: i64,
    /// Average number of members of a group; a message has about 0.7 times as many snapshots
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(2..=10_000))]
    members: i64,
    /// End of the history: UTC date, RFC 3339, seconds since 1970, or an age such as 2d [default: now]
    #[arg(long, value_name = "TIME")]
    until: Option<TimeArgument>,
    /// Remove the generated history of the app instead
    #[arg(long, conflicts_with_all = ["groups", "messages", "days", "members", "until"])]
    remove: bool,
}

pub async fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let Arguments { groups, messages, days, members, .. } = *arguments;
    let opened = Opened::open(global).await?;
    let now = opened.store.clock().now();
    let until = arguments.until.map_or(now, |until| until.at(now));
    let done = match arguments.remove {
        true => remove(&opened.store).await,
        false => fill(&opened.store, &Seed { groups, messages, days, members, until }).await,
    };
    opened.close(done).await.map(|()| ExitCode::SUCCESS)
}

/// Generates a history and rolls it up, with a progress bar.
pub async fn fill(store: &Store, seed: &Seed) -> anyhow::Result<()> {
    make_room(store).await?;
    let bar = progress(seed.messages);
    bar.set_message("groups and calls");
    store.seed_groups(seed).await?;
    let mut snapshots = 0;
    let mut first = 0;
    while first < seed.messages {
        snapshots += store.seed_messages(seed, first).await?;
        first += seed.messages_at_once();
        bar.set_position(first.min(seed.messages).unsigned_abs());
        bar.set_message(counted(snapshots.unsigned_abs(), "snapshot"));
    }
    store.seed_slots(seed).await?;
    catch_up(store, seed.until + rollup::SETTLED_AFTER, |stretch| {
        let snapshots = counted(snapshots.unsigned_abs(), "snapshot");
        bar.set_message(format!("{snapshots}, rolled up until {}", stretch.until));
    })
    .await?;
    bar.finish_and_clear();
    let (messages, snapshots) =
        (counted(seed.messages.unsigned_abs(), "message"), counted(snapshots.unsigned_abs(), "snapshot"));
    writeln!(stdout(), "Stored {messages} with {snapshots}, until {}.", seed.until)?;
    Ok(())
}

/// Refuses an app that is in use. Removes a seed that was interrupted.
async fn make_room(store: &Store) -> anyhow::Result<()> {
    let before = store.before_seeding().await?;
    let apart = "use --set chat.sdk_app_id=… to keep generated data apart";
    let refuse = |why: &str| Err(Refused::data(format!("{why}: {apart}")).into());
    if before.has_real_groups {
        return refuse("this app already has groups");
    }
    if before.is_polled {
        return refuse("a receiptd polls this app");
    }
    if before.has_seed && before.is_complete {
        let why = "this app already has a generated history: remove it with `receiptd seed --remove`";
        return Err(Refused::data(why).into());
    }
    if before.has_seed {
        tell("Removing the history of an interrupted seed ...");
        remove_groups(store).await?;
    }
    Ok(())
}

async fn remove(store: &Store) -> anyhow::Result<()> {
    let rows = remove_groups(store).await?;
    if rows == 0 {
        return Err(Refused::data("this app has no generated history").into());
    }
    writeln!(stdout(), "Removed the generated history: {}.", counted(rows, "row"))?;
    Ok(())
}

/// Removes everything of the generated groups. Returns the number of rows.
async fn remove_groups(store: &Store) -> anyhow::Result<u64> {
    let mut rows = 0;
    for group in store.seeded_groups().await? {
        rows += forget(store, &group).await?;
    }
    Ok(rows)
}

/// A progress bar on a terminal, otherwise nothing.
fn progress(messages: i64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} messages  {msg}  {elapsed}");
    ProgressBar::new(messages.unsigned_abs()).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
