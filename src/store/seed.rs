//! A generated history as a daemon would have left it, of any size, to try queries and dashboards on and to measure
//! them.
//!
//! Only for an app without a history, so that it can't be mixed with real data.

use chrono::{Days, NaiveTime, TimeDelta};

use super::{
    Store, StoreError,
    statement::{query, query_scalar},
    transaction::{LONG, ROLLUP},
};
use crate::domain::Timestamp;

/// What to generate.
#[derive(Debug, Clone, Copy)]
pub struct Seed {
    /// Number of groups.
    pub groups: i64,
    /// Number of messages in all groups together.
    pub messages: i64,
    /// Number of days over which they were sent.
    pub days: i64,
    /// Average number of members of a group; a message has about 0.7 times as many snapshots.
    pub members: i64,
    /// End of the history.
    pub until: Timestamp,
}

/// Approximate number of snapshots per transaction.
const SNAPSHOTS_AT_ONCE: i64 = 200_000;

impl Seed {
    /// Number of messages per transaction.
    pub fn messages_at_once(&self) -> i64 {
        (SNAPSHOTS_AT_ONCE / self.members.max(1)).max(1)
    }
}

impl Store {
    /// Whether this app has any group.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn has_groups(&self) -> Result<bool, StoreError> {
        let exists = query_scalar("SELECT EXISTS (SELECT FROM receiptd.watched_groups WHERE sdk_app_id = $1)");
        let exists = exists.bind(self.app());
        self.run("checking whether the app has groups", LONG, async |database| exists.fetch_one(database).await).await
    }

    /// Creates the partitions, groups and calls of a seed, and the lease row for its roll-up.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn seed_groups(&self, seed: &Seed) -> Result<(), StoreError> {
        let last = seed.until.date_naive();
        let first = last - TimeDelta::days(seed.days);
        let days: Vec<_> =
            (0..=seed.days.unsigned_abs() + 1).filter_map(|day| first.checked_add_days(Days::new(day))).collect();
        self.ensure_partitions(&days).await?;
        let groups = query(include_str!("seed/groups.sql")).bind(self.app()).bind(seed.groups).bind(seed.until);
        self.run("generating groups", LONG, async |database| groups.execute(database).await).await?;
        for day in days {
            let calls = query(include_str!("seed/calls.sql"));
            let calls = calls.bind(self.app()).bind(day.and_time(NaiveTime::MIN).and_utc()).bind(seed.until);
            self.run("generating calls", LONG, async |database| calls.execute(database).await).await?;
        }
        let lease = query(
            "INSERT INTO receiptd.poller_leases (sdk_app_id, epoch, acquired_at, expires_at) VALUES ($1, 0, $2, $2)
             ON CONFLICT DO NOTHING",
        );
        let lease = lease.bind(self.app()).bind(seed.until);
        self.run("generating a lease", LONG, async |database| lease.execute(database).await).await.map(drop)
    }

    /// Generates the messages from number `first` on, as many as fit into one transaction. Returns the number of
    /// their snapshots.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn seed_messages(&self, seed: &Seed, first: i64) -> Result<i64, StoreError> {
        let last = (first + seed.messages_at_once()).min(seed.messages) - 1;
        let messages = query_scalar(include_str!("seed/messages.sql"))
            .bind(self.app())
            .bind(seed.groups)
            .bind(seed.messages)
            .bind(seed.days)
            .bind(seed.members)
            .bind(seed.until)
            .bind(first)
            .bind(last);
        self.run("generating messages", ROLLUP, async |database| messages.fetch_one(database).await).await
    }

    /// Assigns the active messages of a seed to slots.
    /// Then it renews the planner's statistics: without them the roll-up that follows would take ten times as long.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn seed_slots(&self, seed: &Seed) -> Result<(), StoreError> {
        let slots = query(include_str!("seed/slots.sql")).bind(self.app()).bind(seed.until);
        self.run("generating slots", ROLLUP, async |database| slots.execute(database).await).await?;
        let tables = ["watched_groups", "watched_messages", "poll_slots", "receipt_snapshots", "api_calls"];
        self.analyze(&tables.map(|table| format!("receiptd.{table}"))).await
    }
}
