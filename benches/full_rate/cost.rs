//! The cost of processes, from /proc.

use std::{fs, time::Duration};

/// Clock ticks of /proc in a second (USER_HZ, 100 on every Linux).
const TICKS: u64 = 100;

/// Processor time of a process, including its children that have ended.
pub fn cpu(pid: u32) -> Duration {
    let fields = stat(pid);
    let ticks: u64 = fields[11..15].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1_000 / TICKS)
}

/// The same for the calling thread.
pub fn cpu_of_thread() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1_000 / TICKS)
}

/// The same for a process including its running children.
pub fn cpu_of_family(pid: u32) -> Duration {
    let children =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |child: &u32| {
        fs::read_to_string(format!("/proc/{child}/stat")).is_ok_and(|_| stat(*child)[1] == pid.to_string())
    };
    cpu(pid) + children.filter(is_child).map(cpu).sum::<Duration>()
}

/// The fields of /proc/PID/stat after the name: state, parent, …
fn stat(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let mut fields: Vec<String> = after_name.split_whitespace().map(str::to_owned).collect();
    fields.resize(50, "0".to_owned());
    fields
}

/// Maximum resident memory of a process since its start, in MiB.
pub fn peak_resident_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
}
