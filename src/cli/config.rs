//! `receiptd config`: the effective settings.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Args;
use receiptd::config::Setting;

use super::{Global, as_json, stdout};

/// Show the effective settings and their sources; secrets as ***
#[derive(Args)]
pub struct Arguments {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

pub fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let settings = global.load_config()?.settings;
    let mut out = stdout();
    if arguments.json {
        writeln!(out, "{}", as_json(&settings)?)?;
    } else {
        tell(&mut out, &settings)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// In the format of a settings file, with the origin as a comment. Unset keys are comments too.
fn tell(out: &mut impl Write, settings: &[Setting]) -> io::Result<()> {
    let mut last_section = "";
    for Setting { key, value, origin } in settings {
        let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
        if section != last_section {
            let gap = if last_section.is_empty() { "" } else { "\n" };
            writeln!(out, "{gap}[{section}]")?;
            last_section = section;
        }
        match (value, origin) {
            (Some(value), Some(origin)) => writeln!(out, "{name} = {value}  # {origin}")?,
            _ => writeln!(out, "#{name} is not set")?,
        }
    }
    Ok(())
}
