//! The holder of a lease, readable for people and checkable for other processes on the same machine.

use std::{
    fmt, fs, process,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};

/// A contender: a part of one process of one boot of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    host: String,
    process: Option<Process>,
    part: u32,
}

/// A process, uniquely identified by the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    boot: String,
    namespace: String,
    id: u32,
    started: u64,
}

impl Holder {
    /// A new contender in this process.
    pub fn new() -> Self {
        static PARTS: AtomicU32 = AtomicU32::new(1);
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            host: host.trim().to_owned(),
            process: Process::of(process::id()),
            part: PARTS.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Whether this holder's process is known to have ended: it ran since the same boot of the machine, in the same
    /// process namespace, and no longer exists. Nothing is known about other processes.
    pub fn is_dead(&self, holder: &str) -> bool {
        self.is_dead_as_seen(holder, Seen::of)
    }

    fn is_dead_as_seen(&self, holder: &str, look: impl FnOnce(u32) -> Seen) -> bool {
        let (Some(own), Some(other)) = (&self.process, Process::parse(holder)) else { return false };
        let is_visible = (&own.boot, &own.namespace) == (&other.boot, &other.namespace);
        is_visible
            && match look(other.id) {
                Seen::Ended => true,
                Seen::Hidden => false,
                Seen::Running { started } => started != other.started,
            }
    }

    /// A holder for people: its machine and its process.
    pub fn in_words(holder: &str) -> String {
        let place = || Some((holder.split_once(" part ")?.0, holder.rsplit_once(" process ")?.1.split(' ').next()?));
        place().map_or_else(|| holder.to_owned(), |(host, process)| format!("{host} (process {process})"))
    }
}

impl Default for Holder {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} part {}", self.host, self.part)?;
        let Some(Process { boot, namespace, id, started }) = &self.process else {
            // Without /proc, processes with the same name differ only in their ids.
            return write!(f, " process {}", process::id());
        };
        write!(f, " process {id} started {started} in {namespace} boot {boot}")
    }
}

/// The kernel's information on the process with an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// There is none, or only a zombie.
    Ended,
    /// There is one, but nothing else is visible, as with `hidepid`.
    Hidden,
    /// There is one, with this start time.
    Running { started: u64 },
}

impl Seen {
    fn of(id: u32) -> Self {
        let pid = i32::try_from(id).ok().and_then(Pid::from_raw);
        // An unreadable /proc proves nothing, and neither does a signal that is not permitted (EPERM).
        if pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH)) {
            return Self::Ended;
        }
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // The second field is the name in parentheses, which may contain anything.
        let fields: Vec<&str> = stat.rsplit_once(')').map_or_else(Vec::new, |stat| stat.1.split_whitespace().collect());
        match (fields.first(), fields.get(19).and_then(|started| started.parse().ok())) {
            (Some(&"Z" | &"X"), _) => Self::Ended,
            (_, Some(started)) => Self::Running { started },
            _ => Self::Hidden,
        }
    }
}

impl Process {
    /// The kernel's information on a process, if it is running and visible.
    fn of(id: u32) -> Option<Self> {
        let Seen::Running { started } = Seen::of(id) else { return None };
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?.to_str()?.to_owned();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
        Some(Self { boot, namespace, id, started })
    }

    fn parse(holder: &str) -> Option<Self> {
        let (_, process) = holder.rsplit_once(" process ")?;
        let words: Vec<&str> = process.split(' ').collect();
        let [id, "started", started, "in", namespace, "boot", boot] = words[..] else { return None };
        let (id, started) = (id.parse().ok()?, started.parse().ok()?);
        Some(Self { boot: boot.to_owned(), namespace: namespace.to_owned(), id, started })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_not_dead_and_its_parts_differ() {
        let (one, other) = (Holder::new(), Holder::new());
        assert_ne!(one.to_string(), other.to_string());
        assert!(!one.is_dead(&other.to_string()));
    }

    #[test]
    fn an_ended_process_is_dead_even_if_its_id_is_reused() {
        let holder = Holder::new();
        let mut child = process::Command::new("sleep").arg("60").spawn().unwrap();
        let of_child = Holder { process: Process::of(child.id()), ..holder.clone() }.to_string();
        assert!(!holder.is_dead(&of_child));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(holder.is_dead(&of_child));
        let mut reused = holder.clone();
        reused.process.as_mut().unwrap().started -= 1;
        assert!(holder.is_dead(&reused.to_string()));
    }

    #[test]
    fn only_an_ended_or_replaced_process_is_dead() {
        let (holder, other) = (Holder::new(), Holder::new().to_string());
        let started = holder.process.as_ref().unwrap().started;
        for (seen, is_dead) in [
            (Seen::Ended, true),
            (Seen::Running { started: started + 1 }, true),
            (Seen::Running { started }, false),
            (Seen::Hidden, false),
        ] {
            assert_eq!(holder.is_dead_as_seen(&other, |_| seen), is_dead, "{seen:?}");
        }
    }

    #[test]
    fn a_holder_prints_as_machine_and_process_or_as_given() {
        for (holder, said) in [
            ("vm part 1 process 21425 started 88123 in pid:[4026531836] boot 2f0e", "vm (process 21425)"),
            ("vm part 2 process 7", "vm (process 7)"),
            ("somebody", "somebody"),
        ] {
            assert_eq!(Holder::in_words(holder), said);
        }
        let own = Holder::in_words(&Holder::new().to_string());
        assert!(own.ends_with(&format!("(process {})", process::id())), "{own}");
    }

    #[test]
    fn nothing_is_known_of_other_machines_containers_and_texts() {
        let holder = Holder::new();
        let mut elsewhere = holder.clone();
        elsewhere.process.as_mut().unwrap().started -= 1;
        elsewhere.process.as_mut().unwrap().boot = "another".into();
        assert!(!holder.is_dead(&elsewhere.to_string()));
        elsewhere = holder.clone();
        elsewhere.process.as_mut().unwrap().started -= 1;
        elsewhere.process.as_mut().unwrap().namespace = "pid:[1]".into();
        assert!(!holder.is_dead(&elsewhere.to_string()));
        for text in ["", "somebody", "h part 1 process 77", "h part 1 process x started 1 in n boot b"] {
            assert!(!holder.is_dead(text), "{text}");
        }
    }
}
