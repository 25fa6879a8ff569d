//! `receiptd man`: the manual pages, generated from the program itself: commands from their definitions, settings
//! from the reference file.

mod settings;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{Args, Command, ValueEnum};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};

use super::stdout;

/// Print a manual page
#[derive(Args)]
pub struct Arguments {
    /// Manual page
    #[arg(value_enum, default_value_t = Page::Receiptd)]
    page: Page,
}

/// The manual pages.
#[derive(Clone, Copy, ValueEnum)]
enum Page {
    /// receiptd(1): the commands
    Receiptd,
    /// receiptd.toml(5): the settings
    #[value(name = "receiptd.toml")]
    Settings,
}

/// The exit codes, as in docs/operators.md.
const EXIT_CODES: [(&str, &str); 7] = [
    ("0", "Success."),
    ("64", "The command line is wrong."),
    ("65", "The input is wrong: an import file or a line in it, or a group that is not watched."),
    ("69", "The database, the service or the address of http.listen is not available. Retrying may help."),
    (
        "70",
        "Something could not be stored before the end, a file could not be written, or another error, which the \
         message names.",
    ),
    (
        "78",
        "The configuration is wrong or incomplete, there is no database, or its schema is missing, older or newer \
         than this receiptd. Retrying does not help.",
    ),
    ("130, 143", "A second SIGINT or SIGTERM ended it at once."),
];

const FILES: [(&str, &str); 3] = [
    ("/etc/receiptd/receiptd.toml", "The settings; see receiptd.toml(5)."),
    ("/etc/credstore/receiptd.*", "Secrets passed by systemd; see receiptd.service."),
    ("/var/lib/receiptd", "The private PostgreSQL, if no database is configured."),
];

const ENVIRONMENT: [(&str, &str); 5] = [
    ("RECEIPTD_CONFIG", "The configuration file."),
    ("RECEIPTD_SECTION__KEY", "A setting, for example RECEIPTD_POLLING__BATCH_SIZE=20. It overrides the file."),
    ("DATABASE_URL", "database.url, if RECEIPTD_DATABASE__URL is not set."),
    ("NO_COLOR", "Disables colours if set."),
    ("TERM", "Without it, or with dumb, there are no colours, and nothing is redrawn in place."),
];

/// `commands` are those to describe.
pub fn execute(arguments: &Arguments, commands: Command) -> anyhow::Result<ExitCode> {
    let page = match arguments.page {
        Page::Receiptd => page_of(commands)?,
        Page::Settings => settings::page().into_bytes(),
    };
    stdout().write_all(&page)?;
    Ok(ExitCode::SUCCESS)
}

/// receiptd(1), with all commands on one page.
fn page_of(commands: Command) -> io::Result<Vec<u8>> {
    let mut command = commands.disable_help_subcommand(true);
    command.build();
    let (mut page, man) = (Vec::new(), Man::new(command.clone()));
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut roff = Roff::new();
    roff.control("SH", ["COMMANDS"]);
    roff.to_writer(&mut page)?;
    for (path, command) in described(&command, "receiptd") {
        render_command(&mut page, &path, &command)?;
    }
    for (heading, entries) in [("EXIT STATUS", &EXIT_CODES[..]), ("ENVIRONMENT", &ENVIRONMENT), ("FILES", &FILES)] {
        let mut roff = Roff::new();
        roff.control("SH", [heading]);
        for (term, what) in entries {
            roff.control("TP", []).text([bold(*term)]).text([roman(*what)]);
        }
        roff.to_writer(&mut page)?;
    }
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]).text([bold("receiptd.toml"), roman("(5), /usr/share/doc/receiptd/operators.md")]);
    roff.to_writer(&mut page)?;
    Ok(page)
}

/// A command and its subcommands, each with its usage.
fn described(command: &Command, called: &str) -> Vec<(String, Command)> {
    let below = command.get_subcommands().filter(|command| command.get_name() != "help");
    below
        .flat_map(|command| {
            let path = format!("{called} {}", command.get_name());
            let deeper = described(command, &path);
            std::iter::once((path, command.clone())).chain(deeper)
        })
        .collect()
}

fn render_command(page: &mut Vec<u8>, path: &str, command: &Command) -> io::Result<()> {
    let mut roff = Roff::new();
    roff.control("SS", [path]);
    if let Some(about) = command.get_long_about().or(command.get_about()) {
        about.to_string().split("\n\n").for_each(|paragraph| {
            roff.control("PP", []).text([roman(paragraph.replace('\n', " "))]);
        });
    }
    let own = command.get_arguments().filter(|argument| !argument.is_global_set() && argument.get_id() != "help");
    for argument in own.filter(|argument| !argument.is_hide_set()) {
        roff.control("TP", []).text([bold(argument.to_string())]);
        let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
        let default =
            argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let default =
            if default.is_empty() || default == "false" { String::new() } else { format!(" [default: {default}]") };
        roff.text([roman(format!("{}{default}", help.replace('\n', " ")))]);
    }
    roff.to_writer(page)
}
