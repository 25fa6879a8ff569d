//! Runs PostgreSQL's programs as the server's account.

use std::{
    env,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use super::EmbeddedError;
use crate::host::account::Account;

/// The programs that an installation must have.
pub(super) const NEEDED: [&str; 4] = ["initdb", "pg_ctl", "postgres", "psql"];

/// The variables passed on to the programs.
const KEPT: [&str; 5] = ["HOME", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ"];

/// The programs of one installation, and their account.
#[derive(Debug)]
pub(super) struct Programs {
    bin: PathBuf,
    account: Option<Account>,
    working_dir: PathBuf,
}

impl Programs {
    /// The programs in `bin`, run as `account` (if `None`, the current one), in a directory that it may enter.
    pub(super) fn new(bin: PathBuf, account: Option<Account>, working_dir: &Path) -> Self {
        Self { bin, account, working_dir: working_dir.into() }
    }

    pub(super) fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    pub(super) fn path_of(&self, program: &str) -> PathBuf {
        self.bin.join(program)
    }

    /// A call of one of PostgreSQL's programs.
    pub(super) fn command(&self, program: &str) -> Command {
        self.as_account(Command::new(self.path_of(program)))
    }

    /// A call of one of PostgreSQL's programs that gets SIGINT, which stops a server, when the thread that started it
    /// ends, even if killed. Without a suitable setpriv (it is Linux's), a plain call.
    pub(super) fn command_that_ends_with_us(&self, program: &str) -> Command {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--pdeathsig", "INT"]);
        let mut trial = Command::new("setpriv");
        trial.args(["--pdeathsig", "INT", "true"]);
        if output(trial).is_err() {
            return self.command(program);
        }
        setpriv.arg(self.path_of(program));
        self.as_account(setpriv)
    }

    fn as_account(&self, mut command: Command) -> Command {
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        // The server must not get our secrets, and PGHOST, PGOPTIONS and the like are meant for others.
        command.env_clear().envs(env::vars_os().filter(|(name, _)| KEPT.iter().any(|kept| name == kept)));
        // Untranslated messages, which can be searched for.
        command.env("LC_ALL", "C").current_dir(&self.working_dir);
        command
    }
}

/// Runs a program, with `input` as its standard input, and waits for its end.
pub(super) fn run(mut command: Command, input: &str) -> Result<(), EmbeddedError> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(&command, error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends without reading its input reports the reason itself.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failed(&command, error.to_string()))?;
    checked(&command, output).map(drop)
}

/// Runs a program and returns its output.
pub(super) fn output(mut command: Command) -> Result<String, EmbeddedError> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| failed(&command, error.to_string()))?;
    checked(&command, output)
}

fn checked(command: &Command, output: Output) -> Result<String, EmbeddedError> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(failed(command, if words.trim().is_empty() { output.status.to_string() } else { words.trim().to_owned() }))
}

fn failed(command: &Command, message: String) -> EmbeddedError {
    EmbeddedError::Program { program: command.get_program().to_string_lossy().into_owned(), message }
}

/// The path at which a shell would find `program`.
pub(super) fn in_search_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|directory| directory.join(program)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_program_is_named_with_its_own_words() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo 'no room' >&2; exit 3"]);
        assert_eq!(run(shell, "").unwrap_err().to_string(), "sh: no room");
        let mut silent = Command::new("sh");
        silent.args(["-c", "exit 3"]);
        assert_eq!(output(silent).unwrap_err().to_string(), "sh: exit status: 3");
        let absent = Command::new("/nonexistent/initdb");
        assert!(output(absent).unwrap_err().to_string().starts_with("/nonexistent/initdb: No such file"));
    }

    #[test]
    fn a_program_gets_its_input_and_its_failure_is_ours() {
        let grep = |input| {
            let mut grep = Command::new("grep");
            grep.args(["-q", "CREATE"]);
            run(grep, input)
        };
        assert!(grep("CREATE DATABASE a").is_ok());
        assert!(grep("SELECT 1").is_err());
    }
}
