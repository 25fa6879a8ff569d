//! The statements of a stretch, in their order.

use chrono::TimeDelta;

use super::scope::Scope;
use crate::{
    domain::Timestamp,
    rules::{
        retention::{SCHEMA, Table},
        rollup::Stretch,
    },
    store::{
        connection::StoreConnection,
        statement::{query, query_scalar},
    },
};

/// Maximum time after a message is closed until a poll under way ends.
const LATE_RECEIPTS: TimeDelta = TimeDelta::hours(1);

const GAPS: &str = include_str!("gaps.sql");
/// Those that `gaps.sql` finds again, and those that a repeated roll-up finds no more.
const OLD_GAPS: &str = "
    DELETE FROM receiptd.poll_gaps p USING receiptd.watched_groups g
    WHERE p.group_key = g.group_key AND g.sdk_app_id = $1 AND g.group_key BETWEEN $5 AND $6 AND g.group_key <> ALL ($7)
        AND p.gap_until >= date_trunc('hour', $2::timestamptz, 'UTC') AND p.gap_until < $3 AND p.reason <> 'unwatched'
        AND (p.gap_until >= $2 OR p.group_key IN (
            SELECT group_key FROM receiptd.api_calls
            WHERE called_at >= $2 AND called_at < $3 AND messages_answered > 0 AND due_at < called_at - interval '1 minute'))";
/// Whether a poll was late, as in `gaps.sql`, or overdue messages were unwatched.
const HAS_LATE: &str = "
    SELECT EXISTS (
        SELECT FROM receiptd.api_calls c JOIN receiptd.watched_groups g USING (group_key)
        WHERE g.sdk_app_id = $1 AND c.called_at >= $2 AND c.called_at < $3 AND c.messages_answered > 0
            AND c.due_at < c.called_at - interval '1 minute')
    OR EXISTS (
        SELECT FROM receiptd.poll_gaps p JOIN receiptd.watched_groups g USING (group_key)
        WHERE g.sdk_app_id = $1 AND p.gap_until >= $2 AND p.gap_until < $3 AND p.reason = 'unwatched')";
const HOURLY: &str = include_str!("hourly.sql");
const DAYS: &str = include_str!("days.sql");
const SENT_EARLIER: &str = include_str!("sent_earlier.sql");
const COVERAGE: &str = include_str!("coverage.sql");
const AGES_IN_GAPS: &str = include_str!("ages_in_gaps.sql");

/// Which parts of a day are still kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Days {
    has_calls: bool,
    has_snapshots: bool,
}

impl Days {
    /// The day of this time.
    pub async fn of(connection: &mut StoreConnection, time: Timestamp) -> Result<Self, sqlx::Error> {
        let has_calls = has_day(connection, Table::Calls, time).await?;
        Ok(Self { has_calls, has_snapshots: has_day(connection, Table::Snapshots, time).await? })
    }

    /// Whether nothing of it has been removed.
    pub fn are_whole(self) -> bool {
        self.has_calls && self.has_snapshots
    }
}

/// Whether the day of this hour is still part of the table.
async fn has_day(connection: &mut StoreConnection, table: Table, hour: Timestamp) -> Result<bool, sqlx::Error> {
    let partition = format!("{SCHEMA}.{}", table.partition(hour.date_naive()));
    let attached = query_scalar(
        "SELECT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = to_regclass($1) AND NOT inhdetachpending)",
    );
    attached.bind(partition).fetch_one(connection).await
}

/// The statements of a stretch.
pub(super) struct Statements<'a> {
    pub connection: &'a mut StoreConnection,
    pub app: i64,
    /// The end of the app's roll-up after this stretch.
    pub done: Timestamp,
    pub scope: &'a Scope,
    /// Whether the active messages at the end of the hour are counted: otherwise they follow from the hour before.
    pub counts: bool,
}

impl Statements<'_> {
    /// Rolls up the stretch, with the hourly rows of these `hours`.
    pub async fn roll_up(&mut self, stretch: Stretch, hours: Option<Stretch>, days: Days) -> Result<(), sqlx::Error> {
        let has_new_gaps = days.has_calls && self.find_gaps(stretch).await?;
        if let Some(hours) = hours {
            self.run(HOURLY, hours).await?;
        }
        if let Some(day) = stretch.completes_day().filter(|_| days.has_snapshots) {
            self.run(DAYS, day).await?;
        }
        self.run(SENT_EARLIER, stretch).await?;
        if has_new_gaps || !days.has_calls {
            self.run(COVERAGE, stretch).await?;
        }
        if has_new_gaps {
            // Last, since flushes wait for the messages that it locks.
            self.run(AGES_IN_GAPS, stretch).await?;
        }
        Ok(())
    }

    /// False if no gap ended in the stretch.
    async fn find_gaps(&mut self, stretch: Stretch) -> Result<bool, sqlx::Error> {
        self.run(OLD_GAPS, stretch).await?;
        // Usually there are none, and planning the statements takes longer than finding that out.
        let has_late = query_scalar(HAS_LATE).bind(self.app).bind(stretch.from).bind(stretch.until);
        if !has_late.fetch_one(&mut *self.connection).await? {
            return Ok(false);
        }
        // The planner expects hardly any calls newer than its statistics. In nested loops, each would read all others.
        self.allow_nested_loops(false).await?;
        // Gaps have a row an hour. One that continues is extended.
        for hour in stretch.hours() {
            self.run(GAPS, hour).await?;
        }
        self.allow_nested_loops(true).await?;
        Ok(true)
    }

    async fn allow_nested_loops(&mut self, allowed: bool) -> Result<(), sqlx::Error> {
        let set = query("SELECT set_config('enable_nestloop', $1::boolean::text, true)").bind(allowed);
        set.execute(&mut *self.connection).await.map(drop)
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
