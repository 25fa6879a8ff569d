//! `receiptd export-member` and `receiptd forget-member`, for requests that the law entitles members to make.

use std::{io::Write, process::ExitCode};

use clap::Args;
use receiptd::{
    config::Config,
    domain::{Member, SdkAppId},
    rules::readers::pseudonym::Naming,
    store::{MemberMessage, Store},
    text::counted::counted,
};

use super::{Global, database::Opened, exit::Refused, stdout, tell};

/// Export everything stored about a member, as CSV
///
/// One line per message: whether the member has read it and when. Other members do not appear.
#[derive(Args)]
pub struct ExportArguments {
    /// Account of the member in Tencent Chat
    account: String,
}

/// Erase a member from all groups of the app for good, and exclude the member from now on
///
/// With readers.pseudonyms, rows under the pseudonym are erased too. Counts are unchanged: they name nobody. If it is
/// interrupted, run it again.
#[derive(Args)]
pub struct ForgetArguments {
    /// Account of the member in Tencent Chat
    account: String,
}

pub async fn export(arguments: &ExportArguments, global: &Global) -> anyhow::Result<ExitCode> {
    let opened = Opened::open(global).await?;
    let done = async {
        let names = names(&opened.config, &arguments.account)?;
        write_csv(&opened.store.messages_of_member(&names).await?)
    };
    let done = done.await;
    opened.close(done).await.map(|()| ExitCode::SUCCESS)
}

pub async fn forget(arguments: &ForgetArguments, global: &Global) -> anyhow::Result<ExitCode> {
    let opened = Opened::open(global).await?;
    let done = erase(&opened.config, &opened.store, &arguments.account).await;
    opened.close(done).await.map(|()| ExitCode::SUCCESS)
}

async fn erase(config: &Config, store: &Store, account: &str) -> anyhow::Result<()> {
    let mut erased = 0;
    for name in names(config, account)? {
        erased += store.forget_member(&name).await?;
    }
    writeln!(stdout(), "Erased the member from {}, and keeping it out.", counted(erased, "message"))?;
    if matches!(config.readers.naming, Naming::Accounts) {
        tell(
            "If members are ever stored by pseudonyms, with a key that is not configured here, run this again with that key.",
        );
    }
    Ok(())
}

/// The names under which a member may be stored.
fn names(config: &Config, account: &str) -> anyhow::Result<Vec<Member>> {
    let app: SdkAppId = config.sdk_app_id()?;
    let unusable = || Refused::usage("an account has 1 to 256 bytes and no control characters");
    let plain = Naming::Accounts.name(app, account).ok_or_else(unusable)?;
    let stored = config.readers.naming.name(app, account).ok_or_else(unusable)?;
    let mut names = vec![plain];
    names.extend(Some(stored).filter(|stored| *stored != names[0]));
    Ok(names)
}

fn write_csv(messages: &[MemberMessage]) -> anyhow::Result<()> {
    let mut out = stdout();
    writeln!(out, "group_id,msg_seq,sent_at,outcome,read_after,read_by,source")?;
    let time = |time: Option<receiptd::domain::Timestamp>| time.map(|time| time.to_rfc3339()).unwrap_or_default();
    for message in messages {
        let MemberMessage { group_id, msg_seq, sent_at, outcome, read_after, read_by, source } = message;
        // A group id may contain quotes and commas.
        let group = format!("\"{}\"", group_id.replace('"', "\"\""));
        let (sent_at, after, by) = (sent_at.to_rfc3339(), time(*read_after), time(*read_by));
        writeln!(out, "{group},{msg_seq},{sent_at},{outcome},{after},{by},{}", source.as_deref().unwrap_or_default())?;
    }
    Ok(())
}
