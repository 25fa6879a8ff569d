//! `receiptd watch readers`: turns the storing of readers on or off for a group.

use std::{io::Write, process::ExitCode};

use clap::{Args, ValueEnum};
use receiptd::{
    config::Config,
    domain::GroupId,
    rules::readers::pseudonym::Naming,
    store::Store,
    text::{counted::counted, duration},
};

use crate::cli::{
    exit::{Refused, not_watched},
    stdout,
};

/// Store who has read the messages of a group, or stop storing it
///
/// Members are personal data: see "Personal data" in docs/operators.md. Off by default.
#[derive(Args)]
pub struct Arguments {
    /// Group id
    group: GroupId,
    /// on: store who has read its messages. off: stop
    state: State,
    /// With off: erase everything stored about its members
    #[arg(long)]
    erase: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    On,
    Off,
}

pub fn refuse(arguments: &Arguments) -> Result<(), Refused> {
    if arguments.erase && arguments.state == State::On {
        return Err(Refused::usage("--erase requires off: with on, members would be stored again"));
    }
    Ok(())
}

pub async fn execute(arguments: &Arguments, config: &Config, store: &Store) -> anyhow::Result<ExitCode> {
    let Arguments { group, state, erase } = arguments;
    let Some(stored) = store.set_readers(group, *state == State::On).await? else {
        return Err(not_watched(group).into());
    };
    let kept = config.retention.readers.and_then(|kept| kept.to_std().ok());
    let kept =
        kept.map_or_else(|| "forever".to_owned(), |kept| format!("for {} after sending", duration::exactly(kept)));
    let told = match state {
        State::On => {
            let named = match config.readers.naming {
                Naming::Accounts => "account",
                Naming::Pseudonyms(_) => "pseudonym",
            };
            format!("Who has read the messages of {group} is stored, by {named}, and kept {kept}.")
        }
        State::Off if *erase => {
            let erased = store.erase_readers(group).await?;
            format!("Who reads the messages of {group} is no longer stored. Erased {}.", counted(erased, "read"))
        }
        State::Off if stored > 0 => format!(
            "Who reads the messages of {group} is no longer stored. {} from before are kept {kept}: \
             `receiptd watch readers '{group}' off --erase` erases them.",
            counted(stored, "read")
        ),
        State::Off => format!("Who reads the messages of {group} is not stored."),
    };
    writeln!(stdout(), "{told}")?;
    Ok(ExitCode::SUCCESS)
}
