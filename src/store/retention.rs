//! Removes old data without blocking readers or writers: a partition is detached concurrently and then dropped, in
//! separate steps. [`crate::rules::retention`] decides what to remove.

use std::time::Duration;

use chrono::NaiveDate;
use sqlx::{AssertSqlSafe, Executor};
use tokio::time::timeout;

use super::{
    Store, StoreError,
    sqlstate::sqlstate,
    statement::{query, query_as, query_scalar},
    transaction::{ROLLUP, SHORT},
};
use crate::{
    domain::{SdkAppId, Timestamp},
    rules::retention::{Partition, SCHEMA, Stage, Table},
};

/// Lock timeout; after it, the next run tries again. Sessions queued behind it wait as long.
const LOCK_MILLIS: u32 = 50;

/// How long to wait for earlier readers. After that, the server continues to wait by itself, which blocks nobody.
const PATIENCE: Duration = Duration::from_secs(30);

/// Errors caused by another process removing the same partition, or by a lock: lock_not_available, undefined_table,
/// object_not_in_prerequisite_state and wrong_object_type (no longer a partition).
const OTHERS: [&str; 4] = ["55P03", "42P01", "55000", "42809"];

/// Distinguishes a partition detached by retention from one that an operator has detached to keep.
const MARK: &str = "Detached by retention, to be dropped.";

/// Hours without a row repeat the last row before them. So the last row before the cut moves to the first hour after
/// it.
const OLD_HOURS: &str = "
    WITH moved AS (
        INSERT INTO receiptd.group_receipts_hourly (group_key, hour, messages_active, unread_backlog)
        SELECT last.group_key, date_trunc('hour', $1 + interval '1 hour' - interval '1 microsecond', 'UTC'),
            last.messages_active, last.unread_backlog
        FROM (
            SELECT DISTINCT ON (group_key) group_key, messages_active, unread_backlog
            FROM receiptd.group_receipts_hourly WHERE hour < $1 ORDER BY group_key, hour DESC
        ) last
        WHERE last.messages_active > 0
        ON CONFLICT (group_key, hour) DO NOTHING
    )
    DELETE FROM receiptd.group_receipts_hourly WHERE hour < $1";

/// Days of messages that end by the cut ($1). The last row before it stays, since days without a row repeat it.
macro_rules! old_days {
    () => {
        "FROM receiptd.message_receipts_daily d WHERE d.day < ($1 AT TIME ZONE 'UTC')::date AND (
            EXISTS (SELECT FROM receiptd.message_receipts_daily n WHERE n.group_key = d.group_key AND n.msg_seq = d.msg_seq
                AND n.day > d.day AND n.day < ($1 AT TIME ZONE 'UTC')::date)
            OR NOT EXISTS (SELECT FROM receiptd.watched_messages m WHERE m.group_key = d.group_key AND m.msg_seq = d.msg_seq))"
    };
}

impl Store {
    /// The same database for another app, without a lease, for operations that any process may do.
    pub fn of_app(&self, sdk_app_id: SdkAppId) -> Self {
        let fence = self.fence.clone().filter(|_| sdk_app_id == self.sdk_app_id);
        Self { sdk_app_id, fence, ..self.clone() }
    }

    /// The apps that were ever polled into this database.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn apps_that_polled(&self) -> Result<Vec<SdkAppId>, StoreError> {
        let apps = query_scalar::<i64>("SELECT sdk_app_id FROM receiptd.poller_leases ORDER BY 1");
        let apps =
            self.run("looking up the polled apps", SHORT, async |database| apps.fetch_all(database).await).await?;
        Ok(apps.into_iter().filter_map(|app| SdkAppId::try_from(app).ok()).collect())
    }

    /// Time until which everything of all apps is rolled up; `None` if an app has no roll-up.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn rolled_up_by_all(&self) -> Result<Option<Timestamp>, StoreError> {
        let until = query_scalar(
            "SELECT nullif(min(coalesce(rolled_up_until, '-infinity')), '-infinity') FROM receiptd.poller_leases
             WHERE NOT EXISTS (SELECT FROM receiptd.rollup_redo)",
        );
        self.run("looking up the end of the roll-ups", SHORT, async |database| until.fetch_one(database).await).await
    }

    /// All daily partitions, the oldest first, including those detached by retention.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn partitions(&self) -> Result<Vec<Partition>, StoreError> {
        let partitions = query_as::<(bool, NaiveDate, Option<bool>, bool, bool, i64, i64)>(
            "SELECT c.relname LIKE 'receipt%', to_date(right(c.relname, 8), 'YYYYMMDD'), i.inhdetachpending, is_marked,
                -- Sizes are null if another process has just dropped the partition.
                coalesce(obj_description(c.oid, 'pg_class') LIKE '%, in the order of messages.', false)
                    OR coalesce(pg_relation_size(c.oid), 0) = 0,
                coalesce(pg_total_relation_size(c.oid), 0), c.reltuples::bigint
             FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
             JOIN pg_class p ON p.oid = to_regclass('receiptd.' || left(c.relname, -9)) AND p.relowner = c.relowner
             CROSS JOIN LATERAL (SELECT coalesce(obj_description(c.oid, 'pg_class') = $1, false) AS is_marked) comment
             WHERE c.relnamespace = to_regnamespace($2) AND c.relkind = 'r'
                AND c.relname ~ '^(receipt_snapshots|api_calls)_[0-9]{8}$'
                AND CASE WHEN i.inhrelid IS NULL THEN is_marked ELSE i.inhparent = p.oid END
             ORDER BY 2, 1",
        )
        .bind(MARK)
        .bind(SCHEMA);
        let partition = |(is_snapshots, day, is_detaching, is_marked, is_in_order, bytes, rows)| Partition {
            table: if is_snapshots { Table::Snapshots } else { Table::Calls },
            day,
            stage: match is_detaching {
                Some(false) => Stage::Attached,
                Some(true) => Stage::Detaching,
                None => Stage::Detached,
            },
            is_marked,
            is_in_order,
            bytes,
            rows: Some(rows).filter(|rows| *rows >= 0),
        };
        let rows = self
            .run("listing the daily partitions", SHORT, async |database| partitions.fetch_all(database).await)
            .await?;
        Ok(rows.into_iter().map(partition).collect())
    }

    /// Drops a partition. False if readers or another session's lock prevent it: then the next run continues.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn drop_partition(&self, partition: &Partition) -> Result<bool, StoreError> {
        let (parent, name) = (partition.table.name(), partition.name());
        let detach = format!("ALTER TABLE receiptd.{parent} DETACH PARTITION {SCHEMA}.{name}");
        let is_detached = match partition.stage {
            Stage::Detached => true,
            Stage::Detaching => self.detach(&format!("{detach} FINALIZE"), None).await?,
            Stage::Attached => {
                self.change(&format!("COMMENT ON TABLE {SCHEMA}.{name} IS '{MARK}'")).await?
                    && self.detach(&format!("{detach} CONCURRENTLY"), Some(&detach)).await?
            }
        };
        if !is_detached {
            self.unmark(partition).await?;
        }
        Ok(is_detached && self.change(&format!("DROP TABLE {SCHEMA}.{name}")).await?)
    }

    /// Removes the mark of a partition that has to be kept.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn keep_partition(&self, partition: &Partition) -> Result<(), StoreError> {
        if partition.is_marked { self.unmark(partition).await } else { Ok(()) }
    }

    /// Removes the mark from a partition unless its removal has begun: an operator may detach it later to keep it.
    async fn unmark(&self, partition: &Partition) -> Result<(), StoreError> {
        let (parent, name, day) = (partition.table.name(), partition.name(), partition.day);
        let unmark = format!(
            "DO $$ BEGIN
                IF EXISTS (
                    SELECT FROM pg_inherits WHERE inhrelid = to_regclass('{SCHEMA}.{name}') AND NOT inhdetachpending
                ) THEN
                    COMMENT ON TABLE {SCHEMA}.{name} IS '{parent} of the UTC day {day}.';
                END IF;
            END $$"
        );
        self.change(&unmark).await.map(drop)
    }

    /// Detaches a partition outside of a transaction, so with the session's search path: every name is qualified. If
    /// that is not supported, `instead` detaches it under a short lock.
    async fn detach(&self, statement: &str, instead: Option<&str>) -> Result<bool, StoreError> {
        let doing = "detaching an old partition";
        let mut connection = self.connections.connect(doing).await?;
        let detached = timeout(PATIENCE, connection.execute(sqlx::raw_sql(AssertSqlSafe(statement)))).await;
        match (detached, instead) {
            (Ok(Ok(_)), _) => Ok(true),
            // Readers: the server continues.
            (Err(_), _) => Ok(false),
            (Ok(Err(error)), instead) => match (sqlstate(&error).as_deref(), instead) {
                // feature_not_supported; object_not_in_prerequisite_state, as with a DEFAULT partition
                (Some("0A000" | "55000"), Some(instead)) => self.change(instead).await,
                (Some(state), _) if OTHERS.contains(&state) => Ok(false),
                _ => Err(StoreError::failed(doing, error)),
            },
        }
    }

    /// Changes the definition of a partition, if its lock is available. False if not.
    async fn change(&self, statement: &str) -> Result<bool, StoreError> {
        let sql = AssertSqlSafe(format!("SET LOCAL lock_timeout = {LOCK_MILLIS}; {statement}"));
        let changed = self.run_fenced("removing an old partition", SHORT, async |database| {
            database.execute(sqlx::raw_sql(sql)).await
        });
        match changed.await {
            Ok(_) => Ok(true),
            Err(error) if error.sqlstate().is_some_and(|state| OTHERS.contains(&state.as_str())) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The number of rows that [`Self::delete_rollups`] would delete.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn count_rollups(&self, kept_from: Timestamp) -> Result<i64, StoreError> {
        let rows = query_scalar(
            "SELECT (SELECT count(*) FROM receiptd.group_receipts_hourly WHERE hour < $1)
                + (SELECT count(*) FROM receiptd.poll_gaps WHERE gap_until < $1)
                + (SELECT count(*) FROM receiptd.watched_messages WHERE closed_at < $1)",
        );
        let rows = rows.bind(kept_from);
        self.run("counting old roll-ups", ROLLUP, async |database| rows.fetch_one(database).await).await
    }

    /// The number of days of messages that [`Self::delete_message_days`] would delete.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn count_message_days(&self, kept_from: Timestamp) -> Result<i64, StoreError> {
        let rows = query_scalar(concat!("SELECT count(*) ", old_days!())).bind(kept_from);
        self.run("counting old message days", ROLLUP, async |database| rows.fetch_one(database).await).await
    }

    /// Deletes the days of messages older than `kept_from`, except the last one of each message. Returns their
    /// number.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_message_days(&self, kept_from: Timestamp) -> Result<u64, StoreError> {
        let delete = query(concat!("DELETE ", old_days!())).bind(kept_from);
        let deleted =
            self.run_fenced("deleting old message days", ROLLUP, async |database| delete.execute(database).await);
        deleted.await.map(|deleted| deleted.rows_affected())
    }

    /// The number of messages whose readers [`Self::delete_readers`] would delete.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn count_readers(&self, kept_from: Timestamp) -> Result<i64, StoreError> {
        let lists = query_scalar("SELECT count(*) FROM receiptd.reader_lists WHERE sent_at < $1").bind(kept_from);
        self.run("counting old readers", ROLLUP, async |database| lists.fetch_one(database).await).await
    }

    /// Deletes everything stored about members for messages sent before `kept_from`. Returns the number of messages.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_readers(&self, kept_from: Timestamp) -> Result<u64, StoreError> {
        let delete = query("DELETE FROM receiptd.reader_lists WHERE sent_at < $1").bind(kept_from);
        let deleted = self.run_fenced("deleting old readers", ROLLUP, async |database| delete.execute(database).await);
        deleted.await.map(|deleted| deleted.rows_affected())
    }

    /// Deletes hourly rows, gaps and closed messages older than `kept_from`. Returns their number.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn delete_rollups(&self, kept_from: Timestamp) -> Result<u64, StoreError> {
        let mut rows = 0;
        for delete in [
            OLD_HOURS,
            "DELETE FROM receiptd.poll_gaps WHERE gap_until < $1",
            "DELETE FROM receiptd.watched_messages WHERE closed_at < $1",
        ] {
            let delete = query(delete).bind(kept_from);
            let deleted =
                self.run_fenced("deleting old roll-ups", ROLLUP, async |database| delete.execute(database).await);
            rows += deleted.await?.rows_affected();
        }
        Ok(rows)
    }
}
