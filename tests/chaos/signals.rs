//! Signals to processes started by the scenarios, and what `/proc` shows of them.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

pub fn send(signal: &str, pids: &[u32]) {
    let mut kill = Command::new("kill");
    kill.args(["-s", signal]).args(pids.iter().map(u32::to_string));
    // A backend may have ended in the meantime, which is equivalent.
    _ = kill.stderr(Stdio::null()).status().unwrap();
}

/// The running children of `parent`.
pub fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    // The name is in parentheses and may contain anything; state and parent follow it.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Stopped processes that continue when this value is dropped, and also when the test's process ends in any way.
pub struct Frozen(Child);

impl Frozen {
    /// Stops `first`, then its children, whose number can't grow any more.
    pub fn with_children(first: u32) -> Self {
        let shell = |pids: &[u32]| {
            let mut shell = Command::new("sh");
            shell.args(["-c", r#"cat; kill -s CONT "$@""#, "thaw"]).args(pids.iter().map(u32::to_string));
            shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        send("STOP", &[first]);
        let mut all = children_of(first);
        all.push(first);
        let thaw = shell(&all);
        send("STOP", &all);
        Self(thaw)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // This closes the shell's input and waits for its end.
        _ = self.0.wait();
    }
}
