//! `receiptd tail`: changes of counts as they are stored.

use std::{collections::HashSet, io::Write, process::ExitCode, time::Duration};

use chrono::TimeDelta;
use clap::Args;
use receiptd::{
    domain::{GroupId, Timestamp},
    lifecycle,
    store::{Change, Store, StoreError},
    text::printable::printable,
};
use tokio_util::sync::CancellationToken;

use super::{Global, as_json, database::Opened, exit::not_watched, stdout, watching::Watching};

/// Print changes of read counts as they are stored, until Ctrl-C
#[derive(Args)]
pub struct Arguments {
    /// Only changes of this group
    group: Option<GroupId>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Maximum time from an answer until its changes are stored, and thus printed. Later ones appear only if nothing newer
/// was stored, as after an outage.
const OVERLAP: TimeDelta = TimeDelta::seconds(10);

pub async fn execute(arguments: &Arguments, global: &Global) -> anyhow::Result<ExitCode> {
    let stop = lifecycle::stop_on_signal()?;
    let opened = Opened::open_running(global).await?;
    let done = follow(arguments, &opened.store, &stop).await;
    opened.close(done).await.map(|()| ExitCode::SUCCESS)
}

async fn follow(arguments: &Arguments, store: &Store, stop: &CancellationToken) -> anyhow::Result<()> {
    let group = arguments.group.as_ref();
    if let Some(group) = group
        && store.group_state(group).await?.is_none()
    {
        return Err(not_watched(group).into());
    }
    let mut seen = Seen::from(store.clock().now());
    let mut watching = Watching::new(EVERY);
    while let Some(changes) = watching.next(stop, || async { look(store, &seen, group).await }).await? {
        let mut out = stdout();
        for change in seen.new_of(changes) {
            let line = if arguments.json { as_json(&change)? } else { printable(&line(&change)).into_owned() };
            writeln!(out, "{line}")?;
        }
        out.flush()?;
    }
    Ok(())
}

async fn look(store: &Store, seen: &Seen, group: Option<&GroupId>) -> Result<Vec<Change>, StoreError> {
    store.changes_after(seen.after(), group).await
}

/// The printed changes of the last seconds before the newest one, among which others may still be stored.
struct Seen {
    began_at: Timestamp,
    newest: Timestamp,
    printed: HashSet<(Timestamp, String, i64)>,
}

impl Seen {
    fn from(began_at: Timestamp) -> Self {
        Self { began_at, newest: began_at, printed: HashSet::new() }
    }

    /// The time after which changes have to be read.
    fn after(&self) -> Timestamp {
        self.began_at.max(self.newest - OVERLAP)
    }

    /// The changes that have not been printed yet.
    fn new_of(&mut self, changes: Vec<Change>) -> Vec<Change> {
        let key = |change: &Change| (change.polled_at, change.group_id.clone(), change.msg_seq);
        let new: Vec<Change> = changes.into_iter().filter(|change| self.printed.insert(key(change))).collect();
        self.newest = new.iter().map(|change| change.polled_at).fold(self.newest, Ord::max);
        let after = self.after();
        self.printed.retain(|(polled_at, ..)| *polled_at > after);
        new
    }
}

fn line(change: &Change) -> String {
    let Change { group_id, msg_seq, polled_at, prior_read_num, source, code, .. } = change;
    let time = polled_at.format("%Y-%m-%d %H:%M:%S%.3f");
    let counts = match (change.read_num, change.unread_num) {
        (Some(read), Some(unread)) => {
            let gained = prior_read_num.map_or_else(String::new, |prior| format!(" ({:+})", read - prior));
            format!("{read} of {} have read it{gained}", i64::from(read) + i64::from(unread))
        }
        _ => format!("no receipt (code {code})"),
    };
    let source = if source == "poll" { String::new() } else { format!(", by {source}") };
    format!("{time}  {group_id} #{msg_seq}  {counts}{source}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(seconds: i64, read_num: i32) -> Change {
        Change {
            group_id: "g".to_owned(),
            msg_seq: 7,
            polled_at: start() + TimeDelta::seconds(seconds),
            read_num: Some(read_num),
            unread_num: Some(10 - read_num),
            code: 0,
            prior_read_num: (read_num > 0).then_some(read_num - 1),
            source: "poll".to_owned(),
        }
    }

    fn start() -> Timestamp {
        "2026-11-23T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn each_change_is_printed_once_also_if_it_was_stored_late() {
        let mut seen = Seen::from(start());
        assert_eq!(seen.after(), start());
        assert_eq!(seen.new_of(vec![change(1, 1), change(3, 3)]), [change(1, 1), change(3, 3)]);
        assert_eq!(seen.new_of(vec![change(1, 1), change(2, 2), change(3, 3)]), [change(2, 2)]);
        assert_eq!(seen.new_of(vec![change(60, 4)]), [change(60, 4)]);
        assert_eq!(seen.after(), start() + TimeDelta::seconds(50));
        assert_eq!(seen.printed.len(), 1, "the past is forgotten");
    }

    #[test]
    fn a_line_has_the_counts_and_the_difference() {
        assert_eq!(line(&change(1, 3)), "2026-11-23 12:00:01.000  g #7  3 of 10 have read it (+1)");
        assert_eq!(line(&change(1, 0)), "2026-11-23 12:00:01.000  g #7  0 of 10 have read it");
        let gone = Change { read_num: None, unread_num: None, code: 10062, ..change(1, 0) };
        assert_eq!(line(&gone), "2026-11-23 12:00:01.000  g #7  no receipt (code 10062)");
        let event = Change { source: "webhook".to_owned(), ..change(1, 3) };
        assert!(line(&event).ends_with("(+1), by webhook"), "{}", line(&event));
    }
}
