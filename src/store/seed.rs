//! A history made up: as a daemon would have left it, of any size, to try queries and dashboards on and to measure them.
//!
//! It goes into an app that has none, so it can't get in among what was really seen.

use chrono::{Days, NaiveTime, TimeDelta};

use super::{
    Store, StoreError,
    statement::{query, query_scalar},
    transaction::{LONG, ROLLUP},
};
use crate::domain::Timestamp;

/// What is to be made up.
#[derive(Debug, Clone, Copy)]
pub struct Seed {
    /// How many groups.
    pub groups: i64,
    /// How many messages, in all groups together.
    pub messages: i64,
    /// Over how many days they were sent.
    pub days: i64,
    /// How many members a group has on average; a message has about 0.7 times as many snapshots.
    pub members: i64,
    /// Until when they were polled.
    pub until: Timestamp,
}

/// So many snapshots, about, go into one transaction.
const SNAPSHOTS_AT_ONCE: i64 = 200_000;

impl Seed {
    /// How many messages go into one transaction.
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
        self.run("looking whether the app has groups", LONG, async |database| exists.fetch_one(database).await).await
    }

    /// Makes the partitions and the groups of a seed, its calls, and the lease row under which it is rolled up.
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
        self.run("making up groups", LONG, async |database| groups.execute(database).await).await?;
        for day in days {
            let calls = query(include_str!("seed/calls.sql"));
            let calls = calls.bind(self.app()).bind(day.and_time(NaiveTime::MIN).and_utc()).bind(seed.until);
            self.run("making up calls", LONG, async |database| calls.execute(database).await).await?;
        }
        let lease = query(
            "INSERT INTO receiptd.poller_leases (sdk_app_id, epoch, acquired_at, expires_at) VALUES ($1, 0, $2, $2)
             ON CONFLICT DO NOTHING",
        );
        let lease = lease.bind(self.app()).bind(seed.until);
        self.run("making up a lease", LONG, async |database| lease.execute(database).await).await.map(drop)
    }

    /// Makes up the messages from number `first` on, as many as go into one transaction. Returns how many snapshots they have.
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
        self.run("making up messages", ROLLUP, async |database| messages.fetch_one(database).await).await
    }

    /// Puts the active messages of a seed into slots.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn seed_slots(&self, seed: &Seed) -> Result<(), StoreError> {
        let slots = query(include_str!("seed/slots.sql")).bind(self.app()).bind(seed.until);
        self.run("making up slots", ROLLUP, async |database| slots.execute(database).await).await.map(drop)
    }
}
