//! `receiptd completions`: completions of commands and options for shells.

use std::{io::Write, process::ExitCode};

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::{Cli, stdout};

/// Print completions for a shell
#[derive(Args)]
pub struct Arguments {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

pub fn execute(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut completions = Vec::new();
    generate(arguments.shell, &mut Cli::command(), "receiptd", &mut completions);
    stdout().write_all(&completions)?;
    Ok(ExitCode::SUCCESS)
}
