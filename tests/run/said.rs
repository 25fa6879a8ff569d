//! The log: repeated failures are logged once, and docs/operators.md shows the lines as they are.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::Child,
    sync::mpsc::{Receiver, channel},
    thread,
};

use sqlx::PgPool;

use crate::{
    common::TestDatabase,
    harness::{Harness, PATIENCE, count, end, migrate, signal, watch},
};

/// Has three polls of the group partly refused, after `trouble`, and returns the daemon's log lines with `words`.
async fn said_of_three_refused_polls(name: &str, trouble: &str, words: &str) -> Vec<String> {
    let (place, database) = (Harness::new(name, 200).await, TestDatabase::new().await);
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    database.psql(trouble);
    database.psql("SELECT receiptd.watch_messages(1400000000, 'team room', '{1,7}')");
    while database.psql("SELECT coalesce(max(times) > 2, false) FROM receiptd.set_aside") == "f" {
        let calls = place.simulator.ledger().ended_calls();
        place.simulator.wait_for_ended_calls(calls + 1).await;
    }
    signal(&daemon, "-TERM");
    let (code, said) = end(daemon);
    assert_eq!(code, Some(0), "{said}");
    said.lines().filter(|line| line.contains(words)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_row_is_logged_once_with_its_group_and_reason() {
    let refuse = "ALTER TABLE receiptd.receipt_snapshots ADD CONSTRAINT no_seven CHECK (msg_seq <> 7)";
    let lines = said_of_three_refused_polls("aside", refuse, "kept in receiptd.set_aside").await;
    assert!(lines.len() == 1, "{lines:#?}");
    for part in ["group=\"team room\"", "sqlstate=\"23514\"", "no_seven", "count=1", "rows=1"] {
        assert!(lines[0].contains(part), "{part} is not in {}", lines[0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_can_not_be_made_is_said_once() {
    let lose = "DO $$ BEGIN EXECUTE 'DROP TABLE receiptd_partitions.receipt_snapshots_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD'); END $$;
        CREATE OR REPLACE FUNCTION receiptd.ensure_partition(parent text, day date) RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no partitions today'; END $$";
    let lines = said_of_three_refused_polls("unmade", lose, "could not be created").await;
    assert!(lines.len() == 1 && lines[0].contains("no partitions today"), "{lines:#?}");
}

const OPERATORS: &str = include_str!("../../docs/operators.md");

/// A line of the log without the parts that differ: numbers, addresses, fields, and the plural.
fn shape(line: &str) -> String {
    let message = line
        .find("app=")
        .or_else(|| line.find(" messages="))
        .or_else(|| line.find(" slots="))
        .map_or(line, |end| &line[..end]);
    let word = |word: &str| match word {
        word if word.starts_with("http") => "URL".to_owned(),
        word => {
            word.chars().filter(|letter| !letter.is_ascii_digit()).collect::<String>().trim_end_matches('s').to_owned()
        }
    };
    message.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ordinary_day_is_logged_as_the_docs_show() {
    let (mut place, database) = (Harness::new("ordinary", 200).await, TestDatabase::new().await);
    place.listens();
    migrate(&database);
    watch(&PgPool::connect(&database.url()).await.unwrap(), 1, 5).await;
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    place.simulator.wait_for_ended_calls(2).await;
    place.reload(&daemon);
    signal(&daemon, "-TERM");
    let (code, said) = end(daemon);
    assert_eq!(code, Some(0), "{said}");
    let text = |line: &str| line.split_once(": ").map_or_else(|| line.to_owned(), |(_, text)| text.to_owned());
    // The settings of this test are readable by all, which causes a warning.
    let lines = said.lines().filter(|line| !line.contains("contains a secret"));
    let logged: BTreeSet<String> = lines.map(|line| shape(&text(line))).collect();
    let shown = OPERATORS.split("An ordinary day").nth(1).and_then(|rest| rest.split("```").nth(1)).unwrap();
    let shown = shown.trim().lines().filter(|line| !line.starts_with("the last hour"));
    assert_eq!(logged, shown.map(shape).collect(), "{said}");
}

#[test]
fn the_lines_of_bad_days_are_those_of_the_program() {
    fn source(directory: &Path) -> String {
        let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| if path.is_dir() { source(&path) } else { fs::read_to_string(path).unwrap_or_default() })
            .collect()
    }
    let source = source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    // A string may continue in the next line.
    let source = source.split("\\\n").map(str::trim_start).collect::<String>();
    let days = bad_days();
    assert!(days.len() > 15, "{days:?}");
    for line in days.iter().flat_map(|(begins, ends)| [Some(*begins), *ends]).flatten() {
        assert!(source.contains(line), "no line of the log begins with {line:?}");
    }
}

/// The beginnings of the lines of bad days, and of those that end them, according to the docs.
fn bad_days() -> Vec<(&'static str, Option<&'static str>)> {
    let table = OPERATORS.split("| line begins with |").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap();
    let rows = table.lines().skip(2).map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`')));
    rows.map(|mut cells| (cells.nth(1).unwrap(), cells.nth(1).filter(|ends| !ends.is_empty()))).collect()
}

/// The lines of a daemon's log as they are written.
struct Followed {
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Followed {
    fn of(daemon: &mut Child) -> Self {
        let (tell, lines) = channel();
        let log = BufReader::new(daemon.stderr.take().unwrap());
        thread::spawn(move || log.lines().map_while(Result::ok).all(|line| tell.send(line).is_ok()));
        Self { lines, said: vec![] }
    }

    /// Whether a line contains `words`, and since then none contains `ends`.
    fn is_open(&self, words: &str, ends: Option<&str>) -> bool {
        let last = |words: &str| self.said.iter().rposition(|line| line.contains(words));
        last(words) > ends.and_then(last)
    }

    fn wait_until(&mut self, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            self.said.push(self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{:#?}", self.said)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trouble_with_the_schedule_is_logged_at_begin_and_end() {
    let (mut place, database) = (Harness::new("ended", 200).await, TestDatabase::new().await);
    // Slots are read a little before they are due.
    place.config = place.config.replace("every = \"1s\"", "every = \"3s\"");
    let schedule = "reading the schedule failed";
    let pool = PgPool::connect(&database.url()).await.unwrap();
    // After a poll was stored, the schedule is read next. On a busy machine the next poll may be faster, fail to be stored
    // and hold up the schedule. Since a daemon logs that only once a minute, a new one has another try.
    for daemons in 1.. {
        let mut daemon = place.spawn(Some(&database));
        let mut log = Followed::of(&mut daemon);
        place.hears("READY=1");
        watch(&pool, 1, 1).await;
        let before = count(&pool, "SELECT count(*) FROM receiptd.api_calls").await;
        while count(&pool, "SELECT count(*) FROM receiptd.api_calls").await == before {}
        database.psql("ALTER TABLE receiptd.poll_slots RENAME TO elsewhere");
        log.wait_until(|log| log.is_open(schedule, None) || log.is_open("storing results failed", None));
        database.psql("ALTER TABLE receiptd.elsewhere RENAME TO poll_slots");
        log.wait_until(|log| bad_days().iter().all(|(begins, ends)| ends.is_none() || !log.is_open(begins, *ends)));
        signal(&daemon, "-TERM");
        assert_eq!(end(daemon).0, Some(0), "{:#?}", log.said);
        if log.is_open(schedule, None) {
            return;
        }
        assert!(daemons < 10, "{:#?}", log.said);
    }
}
