//! The daemon's promises, and whether it kept them during a fault.
//!
//! All are checked before the test fails, so that it reports everything.

use std::{fs, ops::RangeInclusive, time::Duration};

use receiptd::{clock, domain::Timestamp};

use crate::{
    daemon::PATIENCE,
    harness::Harness,
    intervals, secrets,
    stored::{self, Stored, Tables},
};

/// Maximum time until every message is polled again after a fault: its cadence and 10 s.
const POLLED_AGAIN_WITHIN: Duration = Duration::from_secs(1 + 10);
/// Of a debug build.
const MEMORY_MEGABYTES: u64 = 150;

/// The promises in a scenario.
#[derive(Debug)]
pub struct Promises {
    /// How many of the answers must be stored.
    pub stored: Stored,
    pub tables: Tables,
    /// Number of warnings and errors in the log for each started minute of the fault.
    pub lines: RangeInclusive<usize>,
    /// A text in one of these.
    pub says: &'static str,
    /// Additional time until polling continues.
    pub grace: Duration,
    /// Whether the database's clock was right all the time: then every change is within its interval.
    pub dates_rightly: bool,
    /// Messages that need not be polled again, as a condition on `latest_receipts`.
    pub but: String,
}

impl Default for Promises {
    fn default() -> Self {
        Self {
            stored: Stored::All,
            tables: Tables::default(),
            lines: 1..=8,
            says: "",
            grace: Duration::ZERO,
            dates_rightly: true,
            but: "false".into(),
        }
    }
}

impl Promises {
    /// For a fault that the daemon may survive without a message.
    pub fn silently() -> Self {
        Self { lines: 0..=8, ..Self::default() }
    }

    /// For a fault that the log reports with this text.
    pub fn saying(says: &'static str) -> Self {
        Self { says, ..Self::default() }
    }
}

/// A fault in progress.
pub struct Breakage {
    began: Timestamp,
    said_before: usize,
    pid: u32,
}

impl Breakage {
    pub fn begins(scene: &Harness) -> Self {
        Self { began: clock::now(), said_before: scene.daemon.said().len(), pid: scene.daemon.pid() }
    }

    /// The same fault after the scenario itself has restarted the daemon.
    pub fn of_another_process(self, scene: &Harness) -> Self {
        Self { pid: scene.daemon.pid(), ..self }
    }

    /// The fault is over. Checks every promise, which ends the daemon.
    pub async fn ends(self, mut scene: Harness, promises: Promises) {
        let ended = clock::now();
        let mut broken = vec![];
        broken.extend(polled_again(&scene, ended, &promises).await);
        broken.extend(is_up(&mut scene, &self, &promises).await);
        broken.extend(log_is_brief(&scene.daemon.said()[self.said_before..], ended - self.began, &promises));
        broken.extend(ends_cleanly(&mut scene).await);
        let ledger = scene.simulator.ledger();
        broken.extend(keeps_the_limit(ledger.highest_sliding_second(), scene.limit as usize));
        broken.extend(stored::differences(&scene.pool, &ledger, promises.stored, promises.tables).await);
        if promises.dates_rightly {
            broken.extend(intervals::wrong(&scene).await);
        }
        broken.extend(no_secret(&scene));
        assert!(broken.is_empty(), "broken promises:\n- {}\n\n{}", broken.join("\n- "), scene.daemon.said());
    }
}

/// No message is forgotten: each is polled again within its cadence and 10 s.
async fn polled_again(scene: &Harness, ended: Timestamp, promises: &Promises) -> Option<String> {
    let (grace, but) = (promises.grace, &promises.but);
    let late = format!(
        "FROM receiptd.latest_receipts
         WHERE (state <> 'active' OR known_until IS NULL OR known_until <= '{}') AND NOT ({but})",
        ended.to_rfc3339()
    );
    let all = format!(
        "SELECT (SELECT count(*) FROM receiptd.latest_receipts) = {} AND NOT EXISTS (SELECT {late})",
        scene.messages()
    );
    if !scene.until(&all, PATIENCE + grace).await {
        let left: i64 = stored::scalar(&scene.pool, &format!("SELECT count(*) {late}")).await;
        return Some(format!("{left} messages were not polled again"));
    }
    // When this is true for the first time, the last of them has just had its first poll.
    let last: Timestamp = stored::scalar(&scene.pool, "SELECT max(last_polled_at) FROM receiptd.poll_slots").await;
    let took = (last - ended).to_std().unwrap();
    println!("all messages were polled {took:?} after the fault");
    (took > POLLED_AGAIN_WITHIN + grace).then(|| format!("the last message was polled {took:?} after the fault"))
}

/// The process is the same, ready, small, and has lost nothing.
async fn is_up(scene: &mut Harness, fault: &Breakage, promises: &Promises) -> Vec<String> {
    if let Some(status) = scene.daemon.has_exited() {
        return vec![format!("the daemon has ended: {status}")];
    }
    assert_eq!(scene.daemon.pid(), fault.pid);
    let mut broken = vec![];
    if let Err(answer) = scene.daemon.until_ready(PATIENCE + promises.grace).await {
        broken.push(format!("/readyz is {answer}"));
    }
    let metrics = scene.daemon.get("/metrics", PATIENCE).await.map_or_else(String::new, |(_, metrics)| metrics);
    let lost = metrics.lines().filter(|line| line.starts_with("receiptd_recordings_lost_total"));
    let lost: Vec<&str> = lost.filter(|line| !line.ends_with(" 0")).collect();
    if metrics.is_empty() || !lost.is_empty() {
        broken.push(format!("recordings were lost, says /metrics: {lost:?}"));
    }
    scene.daemon.look_from_outside();
    broken.extend(is_small(scene));
    broken
}

/// Also for a process that a scenario is about to end.
pub fn is_small(scene: &Harness) -> Option<String> {
    let megabytes = scene.daemon.memory_peak();
    println!("at most {megabytes} MB of memory");
    (megabytes > MEMORY_MEGABYTES).then(|| format!("it took {megabytes} MB of memory"))
}

fn keeps_the_limit(highest: usize, limit: usize) -> Option<String> {
    println!("at most {highest} calls in a second");
    assert!(highest * 5 >= limit * 4, "the load is too low for the limit to be tested: {highest} calls a second");
    (highest > limit).then(|| format!("{highest} calls in a second, {limit} are promised"))
}

fn log_is_brief(said: &str, lasted: chrono::TimeDelta, promises: &Promises) -> Vec<String> {
    let is_trouble = |line: &&str| line.contains(" WARN ") || line.contains("ERROR ");
    let lines: Vec<&str> = said.lines().filter(is_trouble).collect();
    let minutes = usize::try_from(lasted.num_minutes()).unwrap() + 1;
    println!("{} warnings and errors in {lasted}", lines.len());
    let (fewest, most) = (*promises.lines.start(), promises.lines.end() * minutes);
    let mut broken = vec![];
    if !(fewest..=most).contains(&lines.len()) {
        broken.push(format!("{} warnings and errors in the log, from {fewest} to {most} are promised", lines.len()));
    }
    if !lines.iter().any(|line| line.contains(promises.says)) && !promises.says.is_empty() {
        broken.push(format!("no warning or error says {:?}", promises.says));
    }
    broken
}

async fn ends_cleanly(scene: &mut Harness) -> Option<String> {
    scene.daemon.signal("TERM");
    let status = scene.daemon.end().await;
    (status.code() != Some(0)).then(|| format!("at its end: {status}"))
}

fn no_secret(scene: &Harness) -> Option<String> {
    fs::write(scene.directory().join("shown"), scene.daemon.shown()).unwrap();
    secrets::told_in(scene.directory()).map(|secret| format!("a secret is told: {secret}"))
}
