//! The command line: one file per command. To add a command, add its file with `Arguments` and `execute`, its `mod`
//! line here, and its lines in [`Command`] and [`Command::execute`].
//!
//! Results go to standard output, errors and logs to standard error. Secrets are never arguments.

mod check;
mod completions;
mod config;
mod database;
mod demo;
mod diagnosis;
mod discover;
mod exit;
mod explain;
mod export;
mod forget;
mod global;
mod man;
mod member;
mod migrate;
mod output;
mod plan;
mod relative;
mod retention;
mod rollup;
mod run;
mod seed;
mod simulate;
mod status;
mod tail;
mod time_argument;
mod usersig;
mod watch;
mod watching;

use std::{env, io, process::ExitCode};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use receiptd::{logging, text::printable::printable_lines};
use sqlx::error::DatabaseError;

use self::{
    exit::Exit,
    global::{CONFIG_VARIABLE, Global},
    output::{as_json, stdout, tell},
};

/// Poll Tencent Chat for group message read receipts and keep their history in PostgreSQL
#[derive(Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Arguments),
    Migrate(migrate::Arguments),
    Check(check::Arguments),
    Status(status::Arguments),
    Tail(tail::Arguments),
    Explain(explain::Arguments),
    Plan(plan::Arguments),
    Discover(discover::Arguments),
    Config(config::Arguments),
    Rollup(rollup::Arguments),
    Retention(retention::Arguments),
    Forget(forget::Arguments),
    ExportMember(member::ExportArguments),
    ForgetMember(member::ForgetArguments),
    Demo(demo::Arguments),
    Simulate(simulate::Arguments),
    Seed(seed::Arguments),
    Usersig(usersig::Arguments),
    Watch(watch::Arguments),
    Export(export::Arguments),
    Completions(completions::Arguments),
    Man(man::Arguments),
}

impl Command {
    async fn execute(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            Self::Run(arguments) => run::execute(&arguments, global).await,
            Self::Migrate(arguments) => migrate::execute(&arguments, global).await,
            Self::Check(arguments) => check::execute(&arguments, global).await,
            Self::Status(arguments) => status::execute(&arguments, global).await,
            Self::Tail(arguments) => tail::execute(&arguments, global).await,
            Self::Explain(arguments) => explain::execute(arguments, global).await,
            Self::Plan(arguments) => plan::execute(&arguments, global).await,
            Self::Discover(arguments) => discover::execute(&arguments, global).await,
            Self::Config(arguments) => config::execute(&arguments, global),
            Self::Rollup(arguments) => rollup::execute(&arguments, global).await,
            Self::Retention(arguments) => retention::execute(&arguments, global).await,
            Self::Forget(arguments) => forget::execute(&arguments, global).await,
            Self::ExportMember(arguments) => member::export(&arguments, global).await,
            Self::ForgetMember(arguments) => member::forget(&arguments, global).await,
            Self::Demo(arguments) => demo::execute(&arguments).await,
            Self::Simulate(arguments) => simulate::execute(arguments, global).await,
            Self::Seed(arguments) => seed::execute(&arguments, global).await,
            Self::Usersig(arguments) => usersig::execute(&arguments, global),
            Self::Watch(arguments) => watch::execute(arguments, global).await,
            Self::Export(arguments) => export::execute(&arguments, global).await,
            Self::Completions(arguments) => completions::execute(&arguments, Cli::command()),
            Self::Man(arguments) => man::execute(&arguments, Cli::command()),
        }
    }
}

/// Runs the command and returns its exit code.
pub async fn main() -> ExitCode {
    let cli = match command_line() {
        Ok(cli) => cli,
        Err(message) => {
            if message.use_stderr() && logging::is_journal() {
                logging::print_fatal(&message.to_string());
            } else {
                // A closed standard output is not a failure: nobody wants the rest of the result.
                let _ = message.print();
            }
            return if message.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    cli.command.execute(&cli.global).await.unwrap_or_else(|error| {
        if is_unread(&error) {
            return ExitCode::SUCCESS;
        }
        logging::print_fatal(&printable_lines(&format!("receiptd: {}", said(&error))));
        Exit::of(&error).into()
    })
}

/// The command line, plus options from environment variables.
fn command_line() -> Result<Cli, clap::Error> {
    let mut command = Cli::command();
    // Compose files and shells use empty variables for unset ones.
    if env::var_os(CONFIG_VARIABLE).is_some_and(|path| path.is_empty()) {
        command = command.mut_arg("config", |argument| argument.env(None::<&str>));
    }
    Cli::from_arg_matches(&command.try_get_matches()?)
}

/// An error with its causes on one line. A cause that repeats its predecessor's text is left out; a database failure
/// ends with its remedy.
fn said(error: &anyhow::Error) -> String {
    let server = error.chain().find_map(|cause| cause.downcast_ref::<Box<dyn DatabaseError>>());
    let mut said: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = match server {
            // Errors from the server end with a line in PostgreSQL's source.
            Some(server) => cause.to_string().replace(&server.to_string(), server.message()),
            None => cause.to_string(),
        };
        if !said.last().is_some_and(|before| before.contains(&text)) {
            said.push(text);
        }
    }
    said.extend(error.chain().find_map(exit::failure).and_then(database::advice).map(str::to_owned));
    said.join(": ")
}

/// Whether the reader of standard output is gone, as with `head`: nobody is left to answer. A broken connection has
/// its own error around this one.
fn is_unread(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};
    use receiptd::store::StoreError;

    use super::*;

    #[test]
    fn an_error_prints_each_cause_once_and_a_database_remedy() {
        let refused = || std::io::Error::new(io::ErrorKind::ConnectionRefused, "Connection refused (os error 111)");
        let doing = "reading the schema version of receiptd";
        let failed = Err::<(), _>(StoreError::failed(doing, sqlx::Error::Io(refused())));
        assert_eq!(
            said(&failed.context("connecting to postgres://me@db:5432/history").unwrap_err()),
            "connecting to postgres://me@db:5432/history: reading the schema version of receiptd failed: \
             Connection refused (os error 111): is it running, and can this machine reach it?"
        );
        let twice = anyhow!(sqlx::Error::Io(refused())).context("migrating failed");
        assert_eq!(
            said(&twice),
            "migrating failed: error communicating with database: Connection refused (os error 111)"
        );
    }
}
