//! Rewrites a finished day of snapshots in the order of its key: a copy replaces it, without blocking readers or
//! writers. Rows that are written to the day during the copying must never be lost; if there are any, the copy is
//! dropped. [`crate::rules::retention`] decides which days are rewritten.

use std::{fmt::Display, time::Duration};

use chrono::NaiveDate;
use sqlx::{
    Executor, FromRow, Postgres,
    postgres::{PgArguments, PgRow},
    query::QueryScalar,
};
use tokio::time::{sleep, timeout};

use super::{
    Store, StoreError,
    statement::query_scalar,
    transaction::{ROLLUP, SHORT},
};

/// Maximum wait for a lock, in milliseconds, since others queue behind it. Then the attempt is repeated.
const LOCK: &str = "SET LOCAL lock_timeout = 50";

const DOING: &str = "rewriting a day of snapshots";

/// Maximum number of attempts to get the locks, and the delay between them. After that, the day is left for the next
/// night.
const TRIES: usize = 20;
const APART: Duration = Duration::from_millis(500);

/// The result for a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rewritten {
    /// It is in the order of its key.
    Done {
        /// Number of its rows.
        rows: i64,
    },
    /// The day was written to during the copying.
    Spoiled,
    /// Another session holds a lock, for example a long read.
    Held,
}

impl Store {
    /// Rewrites a day of snapshots.
    ///
    /// # Errors
    /// If the database fails. The day is unchanged; the next attempt drops the rest of the copy.
    pub async fn rewrite_day(&self, day: NaiveDate) -> Result<Rewritten, StoreError> {
        let begin = || query_scalar::<i64>("SELECT receiptd.begin_rewrite($1)").bind(day);
        let Some(number) = self.try_briefly(begin).await? else { return Ok(Rewritten::Held) };
        let fill = query_scalar::<i64>("SELECT receiptd.fill_rewrite($1, $2)").bind(day).bind(number);
        let filled = self.run(DOING, ROLLUP, async |database| fill.fetch_one(database).await);
        let Some(rows) = unless_held(filled.await)? else { return Ok(Rewritten::Held) };
        let end = || query_scalar::<bool>("SELECT receiptd.end_rewrite($1, $2)").bind(day).bind(number);
        Ok(match self.try_briefly(end).await? {
            Some(true) => Rewritten::Done { rows },
            Some(false) => Rewritten::Spoiled,
            None => Rewritten::Held,
        })
    }

    /// Calls a function with a short lock timeout, repeatedly. `None` if other sessions always hold a lock.
    async fn try_briefly<T>(
        &self,
        function: impl Fn() -> QueryScalar<'static, Postgres, T, PgArguments>,
    ) -> Result<Option<T>, StoreError>
    where
        T: Send + Unpin,
        (T,): for<'row> FromRow<'row, PgRow>,
    {
        for _ in 0..TRIES {
            let function = function();
            let tried = self.run(DOING, SHORT, async |database| {
                database.execute(LOCK).await?;
                function.fetch_one(database).await
            });
            if let Some(done) = unless_held(tried.await)? {
                return Ok(Some(done));
            }
            sleep(APART).await;
        }
        Ok(None)
    }

    /// Renews the planner's statistics of the partitioned tables once a week: autovacuum never does.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn analyze_tables(&self) -> Result<(), StoreError> {
        let doing = "analyzing the partitioned tables";
        let due = query_scalar::<String>(
            "SELECT relid::regclass::text FROM pg_stat_all_tables
             WHERE relid IN ('receiptd.receipt_snapshots'::regclass, 'receiptd.api_calls'::regclass)
                AND (last_analyze > now() - interval '7 days') IS NOT TRUE",
        );
        let due = self.run(doing, SHORT, async |database| due.fetch_all(database).await).await?;
        self.analyze(&due).await
    }

    /// Renews the planner's statistics of tables, given with their schema. Outside of a transaction, so that it locks
    /// one table at a time.
    pub(super) async fn analyze(&self, tables: &[impl Display]) -> Result<(), StoreError> {
        let doing = "analyzing tables";
        let mut connection = self.connections.connect(doing).await?;
        for table in tables {
            let analyze = sqlx::AssertSqlSafe(format!("ANALYZE {table}"));
            let analyzed = timeout(ROLLUP, connection.execute(sqlx::raw_sql(analyze))).await;
            let analyzed = analyzed.map_err(|_| StoreError::Deadline { doing, patience: ROLLUP })?;
            analyzed.map_err(|error| StoreError::failed(doing, error))?;
        }
        Ok(())
    }
}

/// `None` if another session held a lock.
fn unless_held<T>(ran: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match ran {
        Err(error) if error.sqlstate().is_some_and(|state| state == "55P03") => Ok(None),
        ran => ran.map(Some),
    }
}
