//! Retention: which daily partitions and which old rows are removed. Nothing is removed that has not been rolled up.
//!
//! Pure: this module decides. [`crate::daemon::jobs`] executes it one partition after the other, in steps that hold no
//! lock for long; the SQL is in [`crate::store`].

use std::fmt;

use chrono::{NaiveDate, NaiveTime, TimeDelta};

use crate::{domain::Timestamp, text::duration};

/// How long each kind of data is kept; `None` keeps it forever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Snapshots, by the day of their poll.
    pub snapshots: Option<TimeDelta>,
    /// Calls, by their day.
    pub calls: Option<TimeDelta>,
    /// Hourly rows and gaps by their time, and messages by the time of closing.
    pub rollups: Option<TimeDelta>,
    /// Message days, by their day.
    pub message_days: Option<TimeDelta>,
    /// Who has read a message, by its time of sending.
    pub readers: Option<TimeDelta>,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            snapshots: Some(TimeDelta::days(90)),
            calls: Some(TimeDelta::days(30)),
            rollups: None,
            message_days: None,
            readers: Some(TimeDelta::days(30)),
        }
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = |kept: Option<TimeDelta>| match kept.and_then(|kept| kept.to_std().ok()) {
            Some(kept) => format!("after {}", duration::exactly(kept)),
            None => "never".to_owned(),
        };
        let kept = [self.snapshots, self.calls, self.rollups, self.message_days, self.readers];
        let [snapshots, calls, rollups, days, readers] = kept.map(when);
        write!(f, "snapshots {snapshots}, calls {calls}, roll-ups {rollups}, message days {days}, readers {readers}")
    }
}

/// The schema of the partitions.
pub const SCHEMA: &str = "receiptd_partitions";

/// A table that is partitioned by day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// `receipt_snapshots`.
    Snapshots,
    /// `api_calls`.
    Calls,
}

impl Table {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Snapshots, Self::Calls];

    /// The table's name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Self::Snapshots => "receipt_snapshots",
            Self::Calls => "api_calls",
        }
    }

    /// The name of the partition of a UTC day, within [`SCHEMA`].
    pub fn partition(self, day: NaiveDate) -> String {
        format!("{}_{}", self.name(), day.format("%Y%m%d"))
    }
}

/// The stage of a partition's removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Part of its table.
    Attached,
    /// Being detached: earlier readers still see it.
    Detaching,
    /// A separate table, to be dropped.
    Detached,
}

/// A daily partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its table.
    pub table: Table,
    /// Its UTC day.
    pub day: NaiveDate,
    /// The stage of its removal.
    pub stage: Stage,
    /// Whether retention has begun its removal, or was about to; otherwise an operator is detaching it to keep it.
    pub is_marked: bool,
    /// Whether it was rewritten in the order of its key, or is empty.
    pub is_in_order: bool,
    /// Size on disk including indexes, in bytes.
    pub bytes: i64,
    /// Number of rows, by the database's estimate; `None` if there is none.
    pub rows: Option<i64>,
}

impl Partition {
    /// Its name within [`SCHEMA`].
    pub fn name(&self) -> String {
        self.table.partition(self.day)
    }

    fn end(&self) -> Timestamp {
        self.day.and_time(NaiveTime::MIN).and_utc() + TimeDelta::days(1)
    }
}

/// What to do with a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Keep it: its time has not come.
    Keep,
    /// Its time has come, but it has not been rolled up yet.
    KeepUntilRolledUp,
    /// Drop it.
    Drop,
}

/// Delay after the end of a day before it is rewritten: late results mostly arrive within that time.
const SETTLED_AFTER: TimeDelta = TimeDelta::days(1);

impl Partition {
    /// Whether it is time to rewrite it in the order of its key.
    pub fn is_to_rewrite(&self, rolled_up_until: Option<Timestamp>, now: Timestamp) -> bool {
        (self.table, self.stage, self.is_in_order) == (Table::Snapshots, Stage::Attached, false)
            && self.end() + SETTLED_AFTER <= now
            && rolled_up_until.is_some_and(|until| self.end() <= until)
    }
}

impl Retention {
    /// What to do with a partition at `now`, if everything is rolled up until `rolled_up_until`.
    pub fn verdict(&self, partition: &Partition, rolled_up_until: Option<Timestamp>, now: Timestamp) -> Verdict {
        let kept = match partition.table {
            Table::Snapshots => self.snapshots,
            Table::Calls => self.calls,
        };
        let is_old = kept.is_some_and(|kept| partition.end() + kept <= now);
        match (is_old, partition.stage) {
            // Its removal has begun, so nothing reads it any more.
            (_, Stage::Detached | Stage::Detaching) if partition.is_marked => Verdict::Drop,
            (_, Stage::Detached | Stage::Detaching) | (false, Stage::Attached) => Verdict::Keep,
            (true, Stage::Attached) if rolled_up_until.is_some_and(|until| partition.end() <= until) => Verdict::Drop,
            (true, Stage::Attached) => Verdict::KeepUntilRolledUp,
        }
    }
}

/// The number of days from `today` on for which both partitions exist, without a gap.
pub fn runway(partitions: &[Partition], today: NaiveDate) -> usize {
    let is_there = |day: NaiveDate| {
        let on_day = |table| partitions.iter().any(|partition| partition.day == day && partition.table == table);
        Table::ALL.into_iter().all(on_day)
    };
    today.iter_days().take_while(|day| is_there(*day)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(number: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 11, number).unwrap()
    }

    fn partition(table: Table, number: u32, stage: Stage) -> Partition {
        Partition { table, day: day(number), stage, is_marked: true, is_in_order: false, bytes: 1, rows: None }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_partition_goes_when_its_last_row_is_too_old_and_rolled_up() {
        let retention = Retention { snapshots: Some(TimeDelta::days(3)), calls: None, ..Retention::default() };
        let old = partition(Table::Snapshots, 10, Stage::Attached);
        let rolled_up = Some(at("2026-11-20T00:00:00Z"));
        for (now, rolled_up_until, expected) in [
            ("2026-11-13T23:59:59Z", rolled_up, Verdict::Keep),
            ("2026-11-14T00:00:00Z", rolled_up, Verdict::Drop),
            ("2026-11-14T00:00:00Z", None, Verdict::KeepUntilRolledUp),
            ("2026-11-14T00:00:00Z", Some(at("2026-11-10T23:59:59Z")), Verdict::KeepUntilRolledUp),
            ("2026-11-14T00:00:00Z", Some(at("2026-11-11T00:00:00Z")), Verdict::Drop),
        ] {
            assert_eq!(retention.verdict(&old, rolled_up_until, at(now)), expected, "{now} {rolled_up_until:?}");
        }
        let calls = partition(Table::Calls, 10, Stage::Attached);
        assert_eq!(retention.verdict(&calls, rolled_up, at("2036-01-01T00:00:00Z")), Verdict::Keep, "for ever");
        for stage in [Stage::Detaching, Stage::Detached] {
            let begun = partition(Table::Calls, 10, stage);
            let verdict = |partition| retention.verdict(partition, None, at("2026-11-11T00:00:00Z"));
            assert_eq!(verdict(&begun), Verdict::Drop, "what was begun is ended");
            assert_eq!(
                verdict(&Partition { is_marked: false, ..begun }),
                Verdict::Keep,
                "what others detach is theirs"
            );
        }
    }

    #[test]
    fn a_day_is_rewritten_once_after_it_is_rolled_up() {
        let (noon, rolled_up) = (at("2026-11-12T00:00:00Z"), Some(at("2026-11-11T00:00:00Z")));
        let whole = partition(Table::Snapshots, 10, Stage::Attached);
        assert!(whole.is_to_rewrite(rolled_up, noon));
        assert!(!whole.is_to_rewrite(rolled_up, noon - TimeDelta::seconds(1)), "late rows still come");
        assert!(!whole.is_to_rewrite(Some(at("2026-11-10T23:00:00Z")), noon) && !whole.is_to_rewrite(None, noon));
        assert!(!Partition { is_in_order: true, ..whole.clone() }.is_to_rewrite(rolled_up, noon));
        for other in [partition(Table::Calls, 10, Stage::Attached), partition(Table::Snapshots, 10, Stage::Detaching)] {
            assert!(!other.is_to_rewrite(rolled_up, noon));
        }
    }

    #[test]
    fn the_runway_ends_at_the_first_day_that_lacks_a_partition() {
        let both = |number| Table::ALL.map(|table| partition(table, number, Stage::Attached));
        let mut partitions: Vec<Partition> = [9, 10, 11, 13].into_iter().flat_map(both).collect();
        assert_eq!(runway(&partitions, day(10)), 2);
        partitions.push(partition(Table::Calls, 12, Stage::Attached));
        assert_eq!(runway(&partitions, day(10)), 2, "one table is not enough");
        partitions.push(partition(Table::Snapshots, 12, Stage::Attached));
        assert_eq!(runway(&partitions, day(10)), 4);
        assert_eq!(runway(&partitions, day(14)), 0);
    }
}
