//! `receiptd migrate`: creates or upgrades the schema before the daemon does.

use std::{io::Write, process::ExitCode};

use anyhow::Context;
use clap::Args;
use receiptd::{logging, store::Store};

use super::{
    Global,
    database::{Database, connecting, using},
    stdout,
};

/// Create or upgrade the database schema, as `run` does at its start
#[derive(Args)]
pub struct Arguments {}

pub async fn execute(_: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let config = global.load_config()?;
    logging::init(&config.log)?;
    let database = Database::join_or_make(&config.database).await?;
    let store = Store::new(&database.url(), config.database.max_connections, config.sdk_app_id()?)?
        .with_prepared_statements(config.database.prepared_statements);
    let before = store.schema_version().await.with_context(|| connecting(&config.database))?;
    store.migrate().await.with_context(|| using(&config.database))?;
    let today = store.now().await.with_context(|| using(&config.database))?.date_naive();
    store.ensure_partitions_ahead(today).await.with_context(|| using(&config.database))?;
    store.close();
    database.close().await?;
    let version = Store::known_schema_version();
    let done = match before {
        Some(before) if before == version => format!("is up to date, at migration {version}"),
        Some(before) => format!("was upgraded from migration {before} to {version}"),
        None => format!("was created, at migration {version}"),
    };
    writeln!(stdout(), "The schema receiptd {done}.")?;
    Ok(ExitCode::SUCCESS)
}
