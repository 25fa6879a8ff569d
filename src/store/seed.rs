//! A generated history as a daemon would have left it, of any size, to try queries and dashboards on and to measure
//! them.
//!
//! Only for an app without a history, so that it can't be mixed with real data, and can be removed again.

use chrono::{Days, NaiveTime, TimeDelta};

use super::{
    Store, StoreError,
    connection::StoreConnection,
    statement::{query, query_as, query_scalar},
    transaction::{LONG, ROLLUP},
};
use crate::domain::{GroupId, Timestamp};

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

/// The contents of an app before it is seeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Before {
    /// Whether a receiptd polls the app.
    pub is_polled: bool,
    /// Whether it has groups that no seed has made.
    pub has_real_groups: bool,
    /// Whether it has groups of a seed.
    pub has_seed: bool,
    /// Whether that seed is complete: rolled up until its end.
    pub is_complete: bool,
}

const BEFORE: &str = r#"SELECT coalesce(l.holder IS NOT NULL AND l.expires_at > clock_timestamp(), false) AS is_polled,
        g.has_real_groups, g.has_seed, coalesce(l.rolled_up_until >= g.until, false) AS is_complete
     FROM (
        SELECT coalesce(bool_or(NOT is_generated), false) AS has_real_groups, coalesce(bool_or(is_generated), false) AS has_seed,
            max(added_at) AS until
        FROM (
            SELECT coalesce(labels @> '{"generated": true}', false) AS is_generated, added_at
            FROM receiptd.watched_groups WHERE sdk_app_id = $1
        ) groups
     ) g LEFT JOIN receiptd.poller_leases l ON l.sdk_app_id = $1"#;

impl Store {
    /// The contents of this app.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn before_seeding(&self) -> Result<Before, StoreError> {
        let before = query_as(BEFORE).bind(self.app());
        self.run("looking for groups of the app", LONG, async |database| before.fetch_one(database).await).await
    }

    /// The groups of a seed.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn seeded_groups(&self) -> Result<Vec<GroupId>, StoreError> {
        let groups = query_scalar(
            r#"SELECT group_id FROM receiptd.watched_groups
             WHERE sdk_app_id = $1 AND labels @> '{"generated": true}' ORDER BY group_key"#,
        );
        let groups = groups.bind(self.app());
        let doing = "looking for generated groups";
        let groups: Vec<String> = self.run(doing, LONG, async |database| groups.fetch_all(database).await).await?;
        Ok(groups.iter().filter_map(|group| group.parse().ok()).collect())
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
            // Without groups there was nothing to roll up.
            "INSERT INTO receiptd.poller_leases (sdk_app_id, epoch, acquired_at, expires_at) VALUES ($1, 0, $2, $2)
             ON CONFLICT (sdk_app_id) DO UPDATE SET rolled_up_until = NULL, rolling_up_until = NULL",
        );
        let lease = lease.bind(self.app()).bind(seed.until);
        self.run("generating a lease", LONG, async |database| lease.execute(database).await).await.map(drop)
    }

    /// Generates the messages from number `first` on, group by group, as many as fit into one transaction. Returns the
    /// number of their snapshots.
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
        let generate = async |database: &mut StoreConnection| {
            // The planner expects several times as many snapshots, and would have the statement compiled for seconds.
            query("SET LOCAL jit = off").execute(&mut *database).await?;
            messages.fetch_one(database).await
        };
        self.run("generating messages", ROLLUP, generate).await
    }

    /// Assigns the active messages of a seed to slots, and generates readers of the first group.
    /// It renews the planner's statistics: without them it and the roll-up that follows would take ten times as long.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn seed_slots(&self, seed: &Seed) -> Result<(), StoreError> {
        self.analyze(&["receiptd.watched_groups", "receiptd.watched_messages"]).await?;
        let slots = query(include_str!("seed/slots.sql")).bind(self.app()).bind(seed.until);
        self.run("generating slots", ROLLUP, async |database| slots.execute(database).await).await?;
        let readers = query(include_str!("seed/readers.sql")).bind(self.app());
        self.run("generating readers", ROLLUP, async |database| readers.execute(database).await).await?;
        let tables = ["watched_groups", "watched_messages", "poll_slots", "receipt_snapshots", "api_calls"];
        self.analyze(&tables.map(|table| format!("receiptd.{table}"))).await
    }
}
