//! The roll-up's statements, one transaction per stretch. [`crate::rules::rollup`] decides the order of stretches.

mod passing_over;

use chrono::TimeDelta;

use self::passing_over::{Done, Job, Scope, forget_passed_over, note_passed_over};
use super::{
    Store, StoreError,
    history::begin_of,
    statement::{query, query_scalar},
    transaction::{ROLLUP, SHORT},
};
use crate::{
    domain::Timestamp,
    rules::{
        database_clock::APART,
        retention::{SCHEMA, Table},
        rollup::{SETTLED_AFTER, Stretch, hour_of},
    },
    store::connection::StoreConnection,
};

/// Maximum time after a message is closed until a poll under way ends.
const LATE_RECEIPTS: TimeDelta = TimeDelta::hours(1);

const GAPS: &str = include_str!("gaps.sql");
const OLD_GAPS: &str = "
    DELETE FROM receiptd.poll_gaps p USING receiptd.watched_groups g
    WHERE p.group_key = g.group_key AND g.sdk_app_id = $1 AND p.gap_until >= $2 AND p.gap_until < $3
        AND g.group_key BETWEEN $5 AND $6 AND g.group_key <> ALL ($7)";
/// Whether a poll was late, as in `gaps.sql`.
const HAS_LATE: &str = "
    SELECT EXISTS (
        SELECT FROM receiptd.api_calls c JOIN receiptd.watched_groups g USING (group_key)
        WHERE g.sdk_app_id = $1 AND c.called_at >= $2 AND c.called_at < $3 AND c.messages_answered > 0
            AND c.due_at < c.called_at - interval '1 minute')";
const HOURLY: &str = include_str!("hourly.sql");
const DAYS: &str = include_str!("days.sql");
const SENT_EARLIER: &str = include_str!("sent_earlier.sql");
const HEAL_MARKS: &str = include_str!("heal_marks.sql");
const HEAL_CLOSED: &str = include_str!("heal_closed.sql");
const COVERAGE: &str = include_str!("coverage.sql");
const AGES_IN_GAPS: &str = include_str!("ages_in_gaps.sql");

impl Store {
    /// Marks everything older than `until` as about to be rolled up: from now on, flushes note what they write before
    /// it. Waits for flushes in progress. False if this app was never polled.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn mark_rolling_up(&self, until: Timestamp) -> Result<bool, StoreError> {
        self.heal_marks(until).await?;
        let mark = query(
            "UPDATE receiptd.poller_leases SET rolling_up_until = greatest(rolling_up_until, $2) WHERE sdk_app_id = $1",
        );
        let mark = mark.bind(self.app()).bind(until);
        let marked =
            self.run_fenced("moving the end of the roll-up", SHORT, async |database| mark.execute(database).await);
        Ok(marked.await?.rows_affected() == 1)
    }

    /// Corrects marks in the future, from a wrong clock, together with the gaps found up to them and the times of
    /// closed messages. What they cover is rolled up again. Changes nothing while the clock is in doubt.
    async fn heal_marks(&self, until: Timestamp) -> Result<(), StoreError> {
        if self.clock().doubt().is_some() {
            return Ok(());
        }
        let now = until + SETTLED_AFTER;
        let (app, limit) = (self.app(), now + APART);
        let is_ahead = query_scalar::<bool>(
            "SELECT coalesce(greatest(rolled_up_until, rolling_up_until) > $2, false) FROM receiptd.poller_leases WHERE sdk_app_id = $1",
        );
        let is_ahead = is_ahead.bind(app).bind(limit);
        let is_ahead = self
            .run("looking up the end of the roll-up", SHORT, async |database| is_ahead.fetch_optional(database).await);
        if is_ahead.await? != Some(true) {
            return Ok(());
        }
        let healed = self.run_fenced("correcting roll-up marks in the future", ROLLUP, async |database| {
            mark(database, app).await?;
            query(HEAL_CLOSED).bind(app).bind(limit).bind(now).execute(&mut *database).await?;
            query(HEAL_MARKS).bind(app).bind(limit).bind(until).execute(database).await
        });
        healed.await?;
        tracing::warn!("the end of the roll-up was in the future because of a wrong clock: it continues from now");
        Ok(())
    }

    /// Up to when everything of this app is rolled up; `None` if nothing is yet.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn rolled_up_until(&self) -> Result<Option<Timestamp>, StoreError> {
        let until = query_scalar("SELECT max(rolled_up_until) FROM receiptd.poller_leases WHERE sdk_app_id = $1");
        let until = until.bind(self.app());
        self.run("looking up the end of the roll-up", SHORT, async |database| until.fetch_one(database).await).await
    }

    /// Hours with data stored after they had been rolled up, oldest first.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn hours_to_redo(&self) -> Result<Vec<Timestamp>, StoreError> {
        let hours = query_scalar("SELECT DISTINCT hour FROM receiptd.rollup_redo WHERE sdk_app_id = $1 ORDER BY hour");
        let hours = hours.bind(self.app());
        self.run("looking for hours to roll up again", SHORT, async |database| hours.fetch_all(database).await).await
    }

    /// Rolls up the next stretch, up to `until`. `None` if there is nothing left. Groups that the database refuses to
    /// roll up are skipped and noted.
    ///
    /// # Errors
    /// If the database fails; then nothing has changed.
    pub async fn roll_up_next(&self, until: Timestamp) -> Result<Option<Stretch>, StoreError> {
        let done = self.roll_up(Job::Next { until }).await?;
        Ok(if let Done::Stretch(stretch) = done { stretch } else { None })
    }

    /// Rolls up an hour again, as far as it was: its gaps only if its calls still exist, and its hourly rows only if
    /// its snapshots do, too. True if all of it was done. Groups are skipped as in [`Self::roll_up_next`].
    ///
    /// The active messages at its end follow from the hour before, unless `counts` is set.
    ///
    /// # Errors
    /// If the database fails; then nothing has changed.
    pub async fn roll_up_again(&self, hour: Timestamp, counts: bool) -> Result<bool, StoreError> {
        Ok(matches!(self.roll_up(Job::Again { hour, counts }).await?, Done::Hour { is_whole: true }))
    }
}

/// The app's mark, which nobody else moves until the transaction ends.
async fn mark(connection: &mut StoreConnection, app: i64) -> Result<Option<Timestamp>, sqlx::Error> {
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

async fn next(
    connection: &mut StoreConnection,
    app: i64,
    until: Timestamp,
    scope: &Scope,
) -> Result<Option<Stretch>, sqlx::Error> {
    let done = match mark(connection, app).await? {
        Some(done) => done,
        None => hour_of(begin_of(connection, app).await?.unwrap_or(until)),
    };
    let Some(stretch) = Stretch::next(done, until) else { return Ok(None) };
    // A corrected mark may lead over days that are no longer kept.
    let has_calls = has_day(connection, Table::Calls, stretch.from).await?;
    let has_snapshots = has_day(connection, Table::Snapshots, stretch.from).await?;
    let hour = match stretch.completes() {
        Some(hour) if has_calls && has_snapshots || !has_hour(connection, app, hour).await? => Some(hour),
        _ => None,
    };
    let counts = stretch.until == hour_of(until) || has_skipped(connection, app, stretch).await?;
    let mut stretches = Statements { connection, app, done: stretch.until, scope, counts };
    let has_gaps = !has_calls || stretches.find_gaps(stretch).await?;
    if let Some(hour) = hour {
        stretches.run(HOURLY, hour).await?;
    }
    if let Some(day) = stretch.completes_day().filter(|_| has_snapshots) {
        stretches.run(DAYS, day).await?;
    }
    stretches.run(SENT_EARLIER, stretch).await?;
    if has_gaps {
        stretches.run(COVERAGE, stretch).await?;
    }
    note_passed_over(connection, hour_of(stretch.from), scope).await?;
    // Last, since flushes and the lease wait for this row.
    query("UPDATE receiptd.poller_leases SET rolled_up_until = $2 WHERE sdk_app_id = $1")
        .bind(app)
        .bind(stretch.until)
        .execute(connection)
        .await?;
    Ok(Some(stretch))
}

async fn again(
    connection: &mut StoreConnection,
    app: i64,
    hour: Timestamp,
    counts: bool,
    scope: &Scope,
) -> Result<bool, sqlx::Error> {
    let done = mark(connection, app).await?.unwrap_or(hour);
    if scope.is_all() {
        query("DELETE FROM receiptd.rollup_redo WHERE sdk_app_id = $1 AND hour = $2")
            .bind(app)
            .bind(hour)
            .execute(&mut *connection)
            .await?;
    }
    forget_passed_over(connection, app, hour, scope).await?;
    let Some(stretch) = Stretch::next(hour, done) else { return Ok(true) };
    let has_calls = has_day(connection, Table::Calls, hour).await?;
    let has_snapshots = has_day(connection, Table::Snapshots, hour).await?;
    let is_whole = has_calls && has_snapshots;
    let counts = counts || stretch.until == hour_of(done) || has_skipped(connection, app, stretch).await?;
    let mut stretches = Statements { connection, app, done, scope, counts };
    let has_gaps = !has_calls || stretches.find_gaps(stretch).await?;
    if let Some(hour) = stretch.completes().filter(|_| is_whole) {
        stretches.run(HOURLY, hour).await?;
    }
    // Late data has noted all later hours, and so the last one of each day.
    if let Some(day) = stretch.completes_day().filter(|_| has_snapshots) {
        stretches.run(DAYS, day).await?;
    }
    stretches.run(SENT_EARLIER, stretch).await?;
    if has_gaps {
        stretches.run(COVERAGE, stretch).await?;
    }
    note_passed_over(connection, hour, scope).await?;
    Ok(is_whole)
}

/// Whether the day of this hour is still part of the table.
async fn has_day(connection: &mut StoreConnection, table: Table, hour: Timestamp) -> Result<bool, sqlx::Error> {
    let partition = format!("{SCHEMA}.{}", table.partition(hour.date_naive()));
    let attached = query_scalar(
        "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass($1) AND NOT inhdetachpending)",
    );
    attached.bind(partition).fetch_one(connection).await
}

/// Whether the hour has rows of the app already.
async fn has_hour(connection: &mut StoreConnection, app: i64, hour: Stretch) -> Result<bool, sqlx::Error> {
    let exists = query_scalar(
        "SELECT EXISTS (SELECT FROM receiptd.group_receipts_hourly JOIN receiptd.watched_groups USING (group_key)
            WHERE sdk_app_id = $1 AND hour = $2)",
    );
    exists.bind(app).bind(hour.from).fetch_one(connection).await
}

/// Whether a group was skipped in the hour before the stretch: its row before the hour lacks what changed then.
async fn has_skipped(connection: &mut StoreConnection, app: i64, stretch: Stretch) -> Result<bool, sqlx::Error> {
    let exists = query_scalar(
        "SELECT EXISTS (SELECT FROM receiptd.rollup_passed_over JOIN receiptd.watched_groups USING (group_key)
            WHERE sdk_app_id = $1 AND hour = $2 - interval '1 hour')",
    );
    exists.bind(app).bind(hour_of(stretch.from)).fetch_one(connection).await
}

/// The statements of a stretch.
struct Statements<'a> {
    connection: &'a mut StoreConnection,
    app: i64,
    /// The end of the app's roll-up after this stretch.
    done: Timestamp,
    scope: &'a Scope,
    /// Whether the active messages at the end of the hour are counted: otherwise they follow from the hour before.
    counts: bool,
}

impl Statements<'_> {
    /// From the beginning of the hour, so that a continuing gap is extended. False if there are none.
    async fn find_gaps(&mut self, stretch: Stretch) -> Result<bool, sqlx::Error> {
        let so_far = Stretch { from: hour_of(stretch.from), until: stretch.until };
        self.run(OLD_GAPS, so_far).await?;
        // Usually there are none, and planning the statements takes longer than finding that out.
        let has_late = query_scalar(HAS_LATE).bind(self.app).bind(so_far.from).bind(so_far.until);
        if !has_late.fetch_one(&mut *self.connection).await? {
            return Ok(false);
        }
        self.run(GAPS, so_far).await?;
        self.run(AGES_IN_GAPS, so_far).await?;
        Ok(true)
    }

    async fn run(&mut self, sql: &'static str, span: Stretch) -> Result<(), sqlx::Error> {
        query(sql)
            .bind(self.app)
            .bind(span.from)
            .bind(span.until)
            .bind(self.done)
            .bind(self.scope.first)
            .bind(self.scope.last)
            .bind(self.scope.left_out())
            .bind(self.counts)
            .bind(span.until + LATE_RECEIPTS)
            .execute(&mut *self.connection)
            .await
            .map(drop)
    }
}
