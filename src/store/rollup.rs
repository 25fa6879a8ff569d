//! The roll-up's statements, one transaction a stretch. In which order stretches are done is decided in [`crate::rollup`].

use sqlx::PgConnection;

use super::{
    Store, StoreError,
    history::begin_of,
    statement::{query, query_scalar},
    transaction::{ROLLUP, SHORT},
};
use crate::{
    domain::Timestamp,
    retention::Table,
    rollup::{Stretch, hour_of},
};

const MILESTONES: &str = include_str!("rollup/milestones.sql");
const RATES: &str = include_str!("rollup/rates.sql");
const CLOSED: &str = include_str!("rollup/closed.sql");
const GAPS: &str = include_str!("rollup/gaps.sql");
const HOURLY: &str = include_str!("rollup/hourly.sql");
const SENT_EARLIER: &str = include_str!("rollup/sent_earlier.sql");
const COVERAGE: &str = include_str!("rollup/coverage.sql");

impl Store {
    /// Says that everything older than `until` is about to be rolled up: from now on, flushes note what they write before
    /// it. Those under way are waited for. False if nobody has ever polled this app.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn mark_rolling_up(&self, until: Timestamp) -> Result<bool, StoreError> {
        let mark = query(
            "UPDATE receiptd.poller_leases SET rolling_up_until = greatest(rolling_up_until, $2) WHERE sdk_app_id = $1",
        );
        let mark = mark.bind(self.app()).bind(until);
        let marked = self.run_fenced("marking what is rolled up", SHORT, async |database| mark.execute(database).await);
        Ok(marked.await?.rows_affected() == 1)
    }

    /// Until when everything of this app is rolled up; `None` if nothing is yet.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn rolled_up_until(&self) -> Result<Option<Timestamp>, StoreError> {
        let until = query_scalar("SELECT max(rolled_up_until) FROM receiptd.poller_leases WHERE sdk_app_id = $1");
        let until = until.bind(self.app());
        self.run("looking how far the roll-up is", SHORT, async |database| until.fetch_one(database).await).await
    }

    /// Hours into which something was stored after they had been rolled up, the oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn hours_to_redo(&self) -> Result<Vec<Timestamp>, StoreError> {
        let hours = query_scalar("SELECT DISTINCT hour FROM receiptd.rollup_redo WHERE sdk_app_id = $1 ORDER BY hour");
        let hours = hours.bind(self.app());
        self.run("looking for what was stored late", SHORT, async |database| hours.fetch_all(database).await).await
    }

    /// Rolls up the next stretch, as far as `until`. `None` if there is nothing left.
    ///
    /// # Errors
    /// If the database fails; then nothing has changed.
    pub async fn roll_up_next(&self, until: Timestamp) -> Result<Option<Stretch>, StoreError> {
        let app = self.app();
        self.run_fenced("rolling up snapshots and calls", ROLLUP, async |database| next(database, app, until).await)
            .await
    }

    /// Rolls up an hour again, as far as it had been: its gaps only if its calls are still there, and its hourly rows only
    /// if its snapshots are, too. True if all of it was done.
    ///
    /// # Errors
    /// If the database fails; then nothing has changed.
    pub async fn roll_up_again(&self, hour: Timestamp) -> Result<bool, StoreError> {
        let app = self.app();
        self.run_fenced("rolling up an hour again", ROLLUP, async |database| again(database, app, hour).await).await
    }
}

/// The mark of the app, which nobody else moves until the transaction ends.
async fn mark(connection: &mut PgConnection, app: i64) -> Result<Option<Timestamp>, sqlx::Error> {
    // Compiling these statements takes longer than running them.
    query("SET LOCAL jit = off").execute(&mut *connection).await?;
    // A lock that only the owner can hold, unlike an advisory one.
    query("INSERT INTO receiptd.apps (sdk_app_id) VALUES ($1) ON CONFLICT DO NOTHING")
        .bind(app)
        .execute(&mut *connection)
        .await?;
    query("SELECT FROM receiptd.apps WHERE sdk_app_id = $1 FOR UPDATE").bind(app).execute(&mut *connection).await?;
    query_scalar("SELECT max(rolled_up_until) FROM receiptd.poller_leases WHERE sdk_app_id = $1")
        .bind(app)
        .fetch_one(connection)
        .await
}

async fn next(connection: &mut PgConnection, app: i64, until: Timestamp) -> Result<Option<Stretch>, sqlx::Error> {
    let done = match mark(connection, app).await? {
        Some(done) => done,
        None => hour_of(begin_of(connection, app).await?.unwrap_or(until)),
    };
    let Some(stretch) = Stretch::next(done, until) else { return Ok(None) };
    fold(connection, app, stretch, stretch.until).await?;
    find_gaps(connection, app, stretch).await?;
    query(CLOSED).bind(app).bind(stretch.until).execute(&mut *connection).await?;
    if let Some(hour) = stretch.completes() {
        run(connection, HOURLY, app, hour).await?;
    }
    run(connection, SENT_EARLIER, app, stretch).await?;
    run(connection, COVERAGE, app, stretch).await?;
    // Last, since flushes and the lease wait for this row.
    query("UPDATE receiptd.poller_leases SET rolled_up_until = $2 WHERE sdk_app_id = $1")
        .bind(app)
        .bind(stretch.until)
        .execute(connection)
        .await?;
    Ok(Some(stretch))
}

async fn again(connection: &mut PgConnection, app: i64, hour: Timestamp) -> Result<bool, sqlx::Error> {
    let done = mark(connection, app).await?.unwrap_or(hour);
    query("DELETE FROM receiptd.rollup_redo WHERE sdk_app_id = $1 AND hour = $2")
        .bind(app)
        .bind(hour)
        .execute(&mut *connection)
        .await?;
    let Some(stretch) = Stretch::next(hour, done) else { return Ok(true) };
    fold(connection, app, stretch, done).await?;
    let has_calls = has_day(connection, Table::Calls, hour).await?;
    if has_calls {
        find_gaps(connection, app, stretch).await?;
    }
    let is_whole = has_calls && has_day(connection, Table::Snapshots, hour).await?;
    if let Some(hour) = stretch.completes().filter(|_| is_whole) {
        run(connection, HOURLY, app, hour).await?;
    }
    run(connection, SENT_EARLIER, app, stretch).await?;
    run(connection, COVERAGE, app, stretch).await?;
    Ok(is_whole)
}

/// Whether the day of this hour is still part of the table.
async fn has_day(connection: &mut PgConnection, table: Table, hour: Timestamp) -> Result<bool, sqlx::Error> {
    let partition = format!("receiptd.{}_{}", table.name(), hour.format("%Y%m%d"));
    let attached = query_scalar(
        "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass($1) AND NOT inhdetachpending)",
    );
    attached.bind(partition).fetch_one(connection).await
}

/// Milestones and read rates. What is gone of the span changes nothing about them.
async fn fold(connection: &mut PgConnection, app: i64, stretch: Stretch, done: Timestamp) -> Result<(), sqlx::Error> {
    run(connection, MILESTONES, app, stretch).await?;
    query(RATES).bind(app).bind(stretch.from).bind(stretch.until).bind(done).execute(connection).await.map(drop)
}

async fn find_gaps(connection: &mut PgConnection, app: i64, stretch: Stretch) -> Result<(), sqlx::Error> {
    query(
        "DELETE FROM receiptd.poll_gaps p USING receiptd.watched_groups g
         WHERE p.group_key = g.group_key AND g.sdk_app_id = $1 AND p.gap_until >= $2 AND p.gap_until < $3",
    )
    .bind(app)
    .bind(stretch.from)
    .bind(stretch.until)
    .execute(&mut *connection)
    .await?;
    run(connection, GAPS, app, stretch).await
}

async fn run(connection: &mut PgConnection, sql: &'static str, app: i64, span: Stretch) -> Result<(), sqlx::Error> {
    query(sql).bind(app).bind(span.from).bind(span.until).execute(connection).await.map(drop)
}
