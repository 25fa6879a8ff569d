//! The roll-up's statements, one transaction per stretch. [`crate::rules::rollup`] decides the order of stretches.

mod passing_over;
mod statements;

use self::{
    passing_over::{Done, Job, Scope, forget_passed_over, note_passed_over},
    statements::{Days, Statements},
};
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
        rollup::{Reach, SETTLED_AFTER, Stretch, hour_of},
    },
    store::connection::StoreConnection,
};

const HEAL_MARKS: &str = include_str!("heal_marks.sql");
const HEAL_CLOSED: &str = include_str!("heal_closed.sql");

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
        let done = match self.roll_up_whole(Job::Next { until, reach: Reach::Day }).await {
            Err(error) if error.is_refusal() => self.roll_up(Job::Next { until, reach: Reach::Hour }).await?,
            ended => ended?,
        };
        Ok(if let Done::Stretch(stretch) = done { stretch } else { None })
    }

    /// Rolls up whole hours of a day again, as far as they were: their gaps only if their calls still exist, and their
    /// hourly rows only if their snapshots do, too. True if all of it was done. Groups are skipped as in
    /// [`Self::roll_up_next`].
    ///
    /// The active messages at the end of each hour follow from the hour before, unless `counts` is set.
    ///
    /// # Errors
    /// If the database fails. Of several hours, the first ones may be done.
    pub async fn roll_up_again(&self, hours: Stretch, counts: bool) -> Result<bool, StoreError> {
        match self.roll_up_whole(Job::Again { hours, counts }).await {
            Err(error) if error.is_refusal() => {}
            ended => return ended.map(Done::is_whole),
        }
        let mut is_whole = true;
        for hours in hours.hours() {
            is_whole &= self.roll_up(Job::Again { hours, counts }).await?.is_whole();
        }
        Ok(is_whole)
    }
}

/// The app's mark, which nobody else moves until the transaction ends.
async fn mark(connection: &mut StoreConnection, app: i64) -> Result<Option<Timestamp>, sqlx::Error> {
    // Compiling these statements takes longer than running them, and merge joins would sort all snapshots. One of them runs
    // at a time, so it may use memory.
    query(
        "SELECT set_config('jit', 'off', true), set_config('enable_mergejoin', 'off', true),
            set_config('work_mem', greatest(pg_size_bytes(current_setting('work_mem')) / 1024, 65536) || 'kB', true)",
    )
    .execute(&mut *connection)
    .await?;
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
    reach: Reach,
    scope: &Scope,
) -> Result<Option<Stretch>, sqlx::Error> {
    let done = match mark(connection, app).await? {
        Some(done) => done,
        None => hour_of(begin_of(connection, app).await?.unwrap_or(until)),
    };
    let Some(mut stretch) = Stretch::next(done, until, reach) else { return Ok(None) };
    let days = Days::of(connection, stretch.from).await?;
    let mut is_broken = is_chain_broken(connection, app, stretch).await?;
    if reach == Reach::Day && (is_broken || !days.are_whole()) {
        stretch = stretch.first_hour();
        is_broken = is_chain_broken(connection, app, stretch).await?;
    }
    let counts = is_broken || stretch.until == hour_of(until);
    // A corrected mark may lead over days that are no longer kept.
    let hours = match stretch.completes() {
        Some(hours) if days.are_whole() || !has_hour(connection, app, hours).await? => Some(hours),
        _ => None,
    };
    let mut statements = Statements { connection, app, done: stretch.until, scope, counts };
    statements.roll_up(stretch, hours, days).await?;
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
    hours: Stretch,
    counts: bool,
    scope: &Scope,
) -> Result<bool, sqlx::Error> {
    let done = mark(connection, app).await?.unwrap_or(hours.from);
    if scope.is_all() {
        query("DELETE FROM receiptd.rollup_redo WHERE sdk_app_id = $1 AND hour >= $2 AND hour < $3")
            .bind(app)
            .bind(hours.from)
            .bind(hours.until)
            .execute(&mut *connection)
            .await?;
    }
    forget_passed_over(connection, app, hours, scope).await?;
    let days = Days::of(connection, hours.from).await?;
    let in_hours = counts || is_chain_broken(connection, app, hours).await?;
    for stretch in hours.again(done, if in_hours { Reach::Hour } else { Reach::Day }) {
        let is_broken = in_hours && is_chain_broken(connection, app, stretch).await?;
        let counts = counts || is_broken || stretch.until == hour_of(done);
        let hours = stretch.completes().filter(|_| days.are_whole());
        let mut statements = Statements { connection: &mut *connection, app, done, scope, counts };
        // Late data has noted all later hours, and so the last one of each day.
        statements.roll_up(stretch, hours, days).await?;
    }
    note_passed_over(connection, hours.from, scope).await?;
    Ok(days.are_whole() || hours.from >= done)
}

/// Whether the hour has rows of the app already.
async fn has_hour(connection: &mut StoreConnection, app: i64, hour: Stretch) -> Result<bool, sqlx::Error> {
    let exists = query_scalar(
        "SELECT EXISTS (SELECT FROM receiptd.group_receipts_hourly JOIN receiptd.watched_groups USING (group_key)
            WHERE sdk_app_id = $1 AND hour = $2)",
    );
    exists.bind(app).bind(hour.from).fetch_one(connection).await
}

/// Whether the changes of the stretch don't lead from the row before it to its end: a group was skipped in it or in the
/// hour before, or the database refused a snapshot.
async fn is_chain_broken(connection: &mut StoreConnection, app: i64, stretch: Stretch) -> Result<bool, sqlx::Error> {
    let exists = query_scalar(
        "SELECT EXISTS (SELECT FROM receiptd.rollup_passed_over JOIN receiptd.watched_groups USING (group_key)
                WHERE sdk_app_id = $1 AND hour >= $2 - interval '1 hour' AND hour < $3)
            OR EXISTS (SELECT FROM receiptd.set_aside JOIN receiptd.watched_groups USING (group_key)
                WHERE sdk_app_id = $1 AND set_aside_at >= $2 AND first_set_aside_at < $3)",
    );
    exists.bind(app).bind(hour_of(stretch.from)).bind(stretch.until).fetch_one(connection).await
}
