//! The server's process: its start, its stop, and that it never outlives this process.

use std::{
    fs, io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::{
        Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    EmbeddedError,
    account::act,
    data_directory::{DataDirectory, read_no_link},
    error::file,
    programs::{self, Programs},
};

/// Start timeout. Recovery after a crash may read a gigabyte of WAL from a slow disk.
const START_PATIENCE: Duration = Duration::from_secs(300);
/// How often the state of a starting server is read.
const START_POLL: Duration = Duration::from_millis(20);
/// Stop timeouts. A fast shutdown writes a checkpoint; an immediate one writes nothing, and the next start recovers.
const STOPS: [(&str, Duration); 2] = [("INT", Duration::from_secs(60)), ("QUIT", Duration::from_secs(10))];
/// Number of log lines in an error.
const LOG_TAIL: usize = 10;

/// A server's process, started and reaped by its own thread.
#[derive(Debug)]
pub(super) struct Server {
    pid: u32,
    exited: Mutex<Receiver<io::Result<ExitStatus>>>,
}

impl Server {
    /// Starts the server and waits until it accepts connections.
    pub(super) fn start(
        programs: &Programs,
        data_directory: &DataDirectory,
        socket_dir: &Path,
        settings: &[(String, String)],
    ) -> Result<Self, EmbeddedError> {
        let cluster = data_directory.cluster();
        let account = programs.account();
        let log = act(account, || data_directory.new_log())?;
        let mut command = programs.command_that_ends_with_us("postgres");
        command.arg("-D").arg(&cluster).args(["-p", "5432"]);
        for (name, value) in private_settings(socket_dir).iter().chain(settings) {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let errors = log.try_clone().map_err(file("opening", data_directory.log()))?;
        // Its own process group, so that Ctrl-C only reaches this process, which stops the server in order.
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        let mut server = Self::keep(command).map_err(file("running", programs.path_of("postgres")))?;
        if let Err(what) = act(account, || Ok(server.wait_until_ready(&cluster)))? {
            // The start error is more useful than the stop error.
            let _ = server.stop(programs);
            let log = data_directory.log();
            let tail = act(account, || Ok(tail(&log)))?;
            return Err(EmbeddedError::NotStarted { what, tail, log });
        }
        Ok(server)
    }

    /// Starts the process from a thread that lives as long: the kernel signals the end of the parent when the thread
    /// that started it ends.
    fn keep(mut command: Command) -> io::Result<Self> {
        let (started_sender, started) = mpsc::sync_channel(1);
        let (exited_sender, exited) = mpsc::sync_channel(1);
        let keeper = move || match command.spawn() {
            Ok(mut child) => {
                let _ = started_sender.send(Ok(child.id()));
                let _ = exited_sender.send(child.wait());
            }
            Err(error) => {
                let _ = started_sender.send(Err(error));
            }
        };
        thread::Builder::new().name("embedded-postgres".into()).spawn(keeper)?;
        let pid = started.recv().map_err(io::Error::other)??;
        Ok(Self { pid, exited: Mutex::new(exited) })
    }

    fn wait_until_ready(&mut self, cluster: &Path) -> Result<(), String> {
        let deadline = Instant::now() + START_PATIENCE;
        while Instant::now() < deadline {
            let state = pid_file(&cluster.join("postmaster.pid")).unwrap_or_default();
            if is_ready(&state, self.pid) {
                return Ok(());
            }
            if self.has_exited_within(START_POLL) {
                return Err("exited before it was ready".into());
            }
        }
        Err(format!("was not ready after {START_PATIENCE:?}"))
    }

    fn has_exited_within(&mut self, patience: Duration) -> bool {
        let exited = self.exited.get_mut().unwrap_or_else(PoisonError::into_inner);
        !matches!(exited.recv_timeout(patience), Err(RecvTimeoutError::Timeout))
    }

    /// Stops the server and waits for its end; once that has come, does nothing.
    pub(super) fn stop(&mut self, programs: &Programs) -> Result<(), EmbeddedError> {
        for (signal, patience) in STOPS {
            if self.has_exited_within(Duration::ZERO) {
                return Ok(());
            }
            let mut kill = programs.command("pg_ctl");
            kill.args(["kill", signal, &self.pid.to_string()]);
            let sent = programs::output(kill);
            if self.has_exited_within(if sent.is_ok() { patience } else { START_POLL }) {
                return Ok(());
            }
            sent?;
        }
        Err(EmbeddedError::NotStopped { pid: self.pid, waited: STOPS.iter().map(|(_, patience)| *patience).sum() })
    }
}

/// Stops a server still running in `cluster` after the receiptd that started it has gone, and removes a pid file
/// whose pid now belongs to another process, since PostgreSQL would take that for a live server. Only for the holder
/// of the data directory's lock.
pub(super) fn stop_left_server(cluster: &Path, programs: &Programs) -> Result<(), EmbeddedError> {
    let path = cluster.join("postmaster.pid");
    let Some(pid) = pid_file(&path).and_then(|state| state.lines().next()?.parse::<u32>().ok()) else {
        return Ok(());
    };
    // A server's working directory is its cluster. For a process that is gone, and on a system without /proc,
    // PostgreSQL decides.
    match fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(directory) if directory == cluster => {
            let mut pg_ctl = programs.command("pg_ctl");
            pg_ctl.args(["stop", "-m", "fast", "-w", "-t", "60", "-D"]).arg(cluster);
            programs::output(pg_ctl).map(drop).or_else(|error| if path.exists() { Err(error) } else { Ok(()) })
        }
        Ok(_) => fs::remove_file(&path).map_err(file("removing", path)),
        Err(_) => Ok(()),
    }
}

/// The contents of a server's postmaster.pid, if it exists.
pub(super) fn pid_file(path: &Path) -> Option<String> {
    read_no_link(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Settings that make the server private. On the command line they override every configuration file.
fn private_settings(socket_dir: &Path) -> [(String, String); 3] {
    // The value is a list: in quotes, a comma or a space in the path is no separator.
    let socket_dir = format!("\"{}\"", socket_dir.to_string_lossy().replace('"', "\"\""));
    [
        ("listen_addresses".into(), String::new()),
        ("unix_socket_directories".into(), socket_dir),
        ("logging_collector".into(), "off".into()),
    ]
}

/// Whether the server with this pid accepts connections, according to its postmaster.pid: the pid on the first line,
/// the state on the eighth. pg_ctl does the same.
fn is_ready(postmaster_pid: &str, pid: u32) -> bool {
    let mut lines = postmaster_pid.lines().map(str::trim);
    lines.next() == Some(&pid.to_string()) && lines.nth(6) == Some("ready")
}

fn tail(log: &Path) -> String {
    let text = read_no_link(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_ready_when_its_own_pid_file_says_so() {
        let state = |pid, state| format!("{pid}\n/data\n1700000000\n5432\n/socket\n\n 1234 5678\n{state}\n");
        assert!(is_ready(&state("77", "ready   "), 77));
        assert!(!is_ready(&state("77", "starting"), 77));
        assert!(!is_ready(&state("77", "stopping"), 77));
        assert!(!is_ready(&state("76", "ready   "), 77), "the file of an earlier server");
        assert!(!is_ready("77\n/data\n", 77));
        assert!(!is_ready("", 77));
    }

    #[test]
    fn an_error_shows_the_last_lines_of_the_server_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("server.log");
        let lines: Vec<String> = (1..=25).map(|line| format!("line {line}")).collect();
        fs::write(&log, lines.join("\n")).unwrap();
        assert_eq!(tail(&log), lines[15..].join("\n"));
        fs::write(&log, "FATAL: no\n").unwrap();
        assert_eq!(tail(&log), "FATAL: no");
        assert_eq!(tail(&directory.path().join("absent")), "");
        let error = EmbeddedError::NotStarted { what: "exited".into(), log, tail: String::new() }.to_string();
        assert!(error.ends_with("server.log, is empty, as on a full disk"), "{error}");
    }

    #[test]
    fn a_pid_that_went_to_another_process_is_no_server() {
        let directory = tempfile::tempdir().unwrap();
        let pid_file = directory.path().join("postmaster.pid");
        let programs = Programs::new("/nonexistent".into(), None, directory.path());
        fs::write(&pid_file, format!("{}\n{}\n", std::process::id(), directory.path().display())).unwrap();
        stop_left_server(directory.path(), &programs).unwrap();
        assert!(!pid_file.exists());
    }
}
