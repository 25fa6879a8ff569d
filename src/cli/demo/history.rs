//! `receiptd demo --seed`: the history of docs/analysts.md on the demo's PostgreSQL, kept while it is queried. There is
//! no daemon and no simulated Chat: nothing changes it.

use std::{future, io::Write, time::Duration};

use receiptd::{
    domain::{SdkAppId, Timestamp},
    embedded::EmbeddedPostgres,
    store::{Seed, Store},
};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::stage::{APP, DATABASE, start_postgres};
use crate::cli::{seed::fill, stdout, tell};

/// Number of connections; statements run one after the other.
const CONNECTIONS: u32 = 2;

/// Keeps the history until `stop`, or for `span`.
pub async fn keep(span: Option<Duration>, stop: &CancellationToken) -> anyhow::Result<()> {
    tell("Starting a private PostgreSQL ...");
    let postgres = spawn_blocking(start_postgres).await??;
    let kept = stop.run_until_cancelled(show(&postgres, span)).await.unwrap_or(Ok(()));
    spawn_blocking(|| postgres.stop()).await??;
    kept
}

async fn show(postgres: &EmbeddedPostgres, span: Option<Duration>) -> anyhow::Result<()> {
    tell("Generating the history of docs/analysts.md ...");
    let store = Store::new(&postgres.url(DATABASE).into(), CONNECTIONS, SdkAppId::try_from(APP)?)?;
    store.migrate().await?;
    fill(&store, &of_the_cookbook()?).await?;
    store.close();
    writeln!(stdout(), "{}", invitation(&postgres.psql_command(DATABASE)))?;
    match span {
        Some(span) => tokio::time::sleep(span).await,
        None => future::pending().await,
    }
    Ok(())
}

/// The history of docs/analysts.md, so that its queries have the results shown there.
fn of_the_cookbook() -> anyhow::Result<Seed> {
    let until: Timestamp = "2026-11-23T00:00:00Z".parse()?;
    Ok(Seed { groups: 6, messages: 240, days: 12, members: 20, until })
}

fn invitation(psql: &str) -> String {
    format!(
        "\nQuery it from another terminal:\n\n  \
         {psql}\n\n  \
         SELECT group_id, messages, unread_num, read_rate FROM receiptd.unread_backlog ORDER BY unread_num DESC;\n  \
         SELECT * FROM receiptd.messages WHERE group_id = 'class-1' ORDER BY msg_seq DESC LIMIT 3 \\gx\n\n\
         docs/analysts.md has more questions, with their queries and results. Ctrl-C ends it."
    )
}
