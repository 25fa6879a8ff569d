//! `receiptd completions`: completions of commands and options for shells.

use std::{io::Write, process::ExitCode};

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use super::stdout;

/// Print completions for a shell
#[derive(Args)]
pub struct Arguments {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

/// `commands` are those to complete.
pub fn execute(arguments: &Arguments, mut commands: Command) -> anyhow::Result<ExitCode> {
    let mut completions = Vec::new();
    generate(arguments.shell, &mut commands, "receiptd", &mut completions);
    stdout().write_all(&completions)?;
    Ok(ExitCode::SUCCESS)
}
