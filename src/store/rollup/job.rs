//! A transaction of the roll-up: the next stretch, or hours that are rolled up again.

use super::{
    scope::{Scope, forget_passed_over, note_passed_over},
    statements::{Days, Statements},
};
use crate::{
    domain::Timestamp,
    rules::rollup::{Reach, Stretch, hour_of},
    store::{
        connection::StoreConnection,
        history::begin_of,
        statement::{query, query_scalar},
    },
};

/// What to roll up.
#[derive(Debug, Clone, Copy)]
pub(super) enum Job {
    /// The next stretch, up to this time.
    Next { until: Timestamp, reach: Reach },
    /// These hours again, see [`roll_up_again`](crate::store::Store::roll_up_again).
    Again { hours: Stretch, counts: bool },
}

/// The result of a roll-up.
#[derive(Debug)]
pub(super) enum Done {
    Stretch(Option<Stretch>),
    Hours { is_whole: bool },
}

impl Done {
    /// Whether everything was rolled up.
    pub fn is_whole(&self) -> bool {
        matches!(self, Self::Stretch(_) | Self::Hours { is_whole: true })
    }
}

impl Job {
    pub fn doing(self) -> &'static str {
        match self {
            Self::Next { .. } => "rolling up snapshots and calls",
            Self::Again { .. } => "rolling up hours again",
        }
    }

    pub async fn run(self, connection: &mut StoreConnection, app: i64, scope: &Scope) -> Result<Done, sqlx::Error> {
        match self {
            Self::Next { until, reach } => next(connection, app, until, reach, scope).await.map(Done::Stretch),
            Self::Again { hours, counts } => {
                again(connection, app, hours, counts, scope).await.map(|is_whole| Done::Hours { is_whole })
            }
        }
    }
}

/// The app's mark, which nobody else moves until the transaction ends.
pub(super) async fn mark(connection: &mut StoreConnection, app: i64) -> Result<Option<Timestamp>, sqlx::Error> {
    // Compiling these statements takes longer than running them, and merge joins would sort all snapshots. One of them
    // runs at a time, so it may use memory.
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
        // Late data has marked all later hours, and so the last one of each day.
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

/// Whether the changes of the stretch don't lead from the previous row to its end. Then a group was skipped in the
/// stretch or in the hour before it, or the database refused a snapshot.
async fn is_chain_broken(connection: &mut StoreConnection, app: i64, stretch: Stretch) -> Result<bool, sqlx::Error> {
    let exists = query_scalar(
        "SELECT EXISTS (SELECT FROM receiptd.rollup_passed_over JOIN receiptd.watched_groups USING (group_key)
                WHERE sdk_app_id = $1 AND hour >= $2 - interval '1 hour' AND hour < $3)
            OR EXISTS (SELECT FROM receiptd.set_aside JOIN receiptd.watched_groups USING (group_key)
                WHERE sdk_app_id = $1 AND set_aside_at >= $2 AND first_set_aside_at < $3)",
    );
    exists.bind(app).bind(hour_of(stretch.from)).bind(stretch.until).fetch_one(connection).await
}
