//! Exports as streams of rows: the database sorts, and only a batch of rows is in memory at a time. Never writes, and
//! doesn't know files.

use futures::TryStreamExt;
use sqlx::{Postgres, Row, postgres::PgArguments, postgres::PgRow, query::Query};
use tokio::time::timeout_at;

use super::{
    Store, StoreError,
    statement::{query, query_as},
    transaction::STREAM,
};
use crate::{
    domain::Timestamp,
    export::{BATCH, Batch, Dataset, Values, push_text},
    store::connection::StoreConnection,
};

/// Groups are ordered by bytes: the same on every server, whatever its language.
const SNAPSHOTS: &str = r#"SELECT sdk_app_id, group_id, msg_seq, polled_at, read_num, unread_num, code, prior_polled_at,
        prior_read_num, source
     FROM receiptd.receipt_history
     WHERE sdk_app_id = $1 AND polled_at >= $2 AND polled_at < $3
     ORDER BY group_id COLLATE "C", msg_seq, polled_at"#;

macro_rules! milestones {
    ($changed:literal) => {
        concat!(
            "SELECT g.sdk_app_id, g.group_id, m.msg_seq, m.sent_at, m.state, m.closed_at, m.read_num, m.unread_num,
                m.receipt_code, m.first_polled_at, m.last_changed_at, m.known_until, m.first_read_after, m.first_read_by,
                m.half_read_after, m.half_read_by, m.p80_read_after, m.p80_read_by, m.p90_read_after, m.p90_read_by,
                m.all_read_after, m.all_read_by, m.read_rate_15m, m.read_rate_1h, m.read_rate_24h, m.read_rate_7d,
                m.labels::text, m.group_labels::text, m.updated_at
             FROM receiptd.message_milestones m
             JOIN receiptd.watched_groups g USING (group_key) ",
            $changed,
            r#" WHERE g.sdk_app_id = $1 AND m.sent_at >= $2 AND m.sent_at < $3
             ORDER BY g.group_id COLLATE "C", m.msg_seq"#
        )
    };
}

macro_rules! messages {
    ($source:literal) => {
        concat!(
            "SELECT m.sdk_app_id, m.group_id, m.msg_seq, m.labels::text, m.group_labels::text, m.sent_at, m.state,
                m.closed_at, m.read_num, m.unread_num, m.members, m.read_rate, m.receipt_code,
                m.first_polled_at, m.last_changed_at, m.known_until, m.known_for_s, m.first_read_at_least_s,
                m.first_read_at_most_s, m.first_read_censored, m.half_read_at_least_s, m.half_read_at_most_s,
                m.half_read_censored, m.p80_read_at_least_s, m.p80_read_at_most_s, m.p80_read_censored,
                m.p90_read_at_least_s, m.p90_read_at_most_s, m.p90_read_censored, m.all_read_at_least_s,
                m.all_read_at_most_s, m.all_read_censored, m.read_15m, m.members_15m, m.read_rate_15m,
                m.read_1h, m.members_1h, m.read_rate_1h, m.read_24h, m.members_24h, m.read_rate_24h, m.read_7d,
                m.members_7d, m.read_rate_7d, m.updated_at
             FROM ",
            $source,
            r#" m WHERE m.sdk_app_id = $1 AND m.sent_at >= $2 AND m.sent_at < $3
             ORDER BY m.group_id COLLATE "C", m.msg_seq"#
        )
    };
}

const MESSAGES: &str = messages!("receiptd.messages");

const MESSAGES_SINCE: &str = messages!("receiptd.messages_since($4)");

const MILESTONES: &str = milestones!("");

const MILESTONES_SINCE: &str =
    milestones!("JOIN receiptd.messages_since($4) c ON c.group_key = m.group_key AND c.msg_seq = m.msg_seq");

const HOURLY: &str = r#"SELECT sdk_app_id, group_id, hour, messages_sent, messages_active, reads_gained, reads_lost,
        reads_found, messages_aged_24h, median_read_rate_24h, p90_read_rate_24h, unread_backlog, polls, calls, coverage,
        reads_carried, updated_at
     FROM receiptd.hourly_receipts
     WHERE sdk_app_id = $1 AND hour >= $2 AND hour < $3 AND ($4::timestamptz IS NULL OR updated_at >= $4)
     ORDER BY group_id COLLATE "C", hour"#;

/// Snapshots have no index by time: the days come from their partitions, which is cheap.
const SPAN_OF_SNAPSHOTS: &str = "SELECT
        greatest(min(day)::timestamp AT TIME ZONE 'UTC', $2), least((max(day) + 1)::timestamp AT TIME ZONE 'UTC', $3)
     FROM (
        SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'receiptd.receipt_snapshots'::regclass
     ) partition
     HAVING count(*) > 0";

const SPAN_OF_MESSAGES: &str = "WITH mine AS NOT MATERIALIZED (
        SELECT m.sent_at FROM receiptd.message_milestones m JOIN receiptd.watched_groups g USING (group_key)
        WHERE g.sdk_app_id = $1 AND m.sent_at >= $2 AND m.sent_at < $3
     )
     SELECT first.sent_at, last.sent_at + interval '1 microsecond'
     FROM (SELECT sent_at FROM mine ORDER BY sent_at LIMIT 1) first,
        (SELECT sent_at FROM mine ORDER BY sent_at DESC LIMIT 1) last";

/// Group by group, since the key begins with the group. Hours without a row repeat the last one while there are
/// messages.
const SPAN_OF_HOURS: &str = "SELECT min(h.first),
        max(CASE WHEN h.messages_active > 0 THEN greatest(h.last + interval '1 hour', date_trunc('hour', l.rolled_up_until, 'UTC'))
            ELSE h.last + interval '1 hour' END)
     FROM receiptd.watched_groups g
     LEFT JOIN receiptd.data_freshness l USING (sdk_app_id)
     CROSS JOIN LATERAL (
        SELECT (SELECT min(hour) FROM receiptd.group_receipts_hourly f WHERE f.group_key = g.group_key) AS first,
            h.hour AS last, h.messages_active
        FROM receiptd.group_receipts_hourly h WHERE h.group_key = g.group_key ORDER BY h.hour DESC LIMIT 1
     ) h
     WHERE g.sdk_app_id = $1 HAVING min(h.first) IS NOT NULL";

impl Store {
    /// The part of a time span in which this app has rows of the dataset: from its first time until before its
    /// second. `None` if there are none.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn export_span(
        &self,
        dataset: Dataset,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Option<(Timestamp, Timestamp)>, StoreError> {
        let mut transaction = self.connections.begin_reading("planning the export", STREAM).await?;
        let span = query_as(match dataset {
            Dataset::Snapshots => SPAN_OF_SNAPSHOTS,
            Dataset::Messages | Dataset::Milestones => SPAN_OF_MESSAGES,
            Dataset::Hourly => SPAN_OF_HOURS,
        });
        let span = span.bind(self.app()).bind(from).bind(until);
        let outcome = timeout_at(transaction.deadline, span.fetch_optional(transaction.session())).await;
        let span: Option<(Timestamp, Timestamp)> = transaction.end(outcome).await?;
        Ok(span.map(|(first, last)| (first.max(from), last.min(until))).filter(|(first, last)| first < last))
    }

    /// Passes this app's rows in a time span to `take`, in batches, sorted by group, message and time: all, or those
    /// that have changed since a time. As slow as `take`, and ends with its first error.
    ///
    /// # Errors
    /// If the database fails, or takes very long. The error of `take` is inside.
    pub async fn export<E>(
        &self,
        dataset: Dataset,
        from: Timestamp,
        until: Timestamp,
        changed_since: Option<Timestamp>,
        take: impl FnMut(Batch) -> Result<(), E>,
    ) -> Result<Result<(), E>, StoreError> {
        let mut transaction = self.connections.begin_reading("reading rows to export", STREAM).await?;
        let of = |sql| query(sql).bind(self.app());
        let rows = match (dataset, changed_since) {
            // A row exists from the poll that saw the change on, and never changes.
            (Dataset::Snapshots, since) => of(SNAPSHOTS).bind(since.map_or(from, |since| since.max(from))).bind(until),
            (Dataset::Messages, None) => of(MESSAGES).bind(from).bind(until),
            (Dataset::Messages, Some(since)) => of(MESSAGES_SINCE).bind(from).bind(until).bind(since),
            (Dataset::Milestones, None) => of(MILESTONES).bind(from).bind(until),
            (Dataset::Milestones, Some(since)) => of(MILESTONES_SINCE).bind(from).bind(until).bind(since),
            (Dataset::Hourly, since) => of(HOURLY).bind(from).bind(until).bind(since),
        };
        let deadline = transaction.deadline;
        match timeout_at(deadline, stream(transaction.session(), dataset, rows, take)).await {
            // The remaining rows are not read: the connection is closed with the transaction.
            Ok(Ok(Err(error))) => Ok(Err(error)),
            outcome => transaction.end(outcome).await,
        }
    }
}

async fn stream<E>(
    connection: &mut StoreConnection,
    dataset: Dataset,
    rows: Query<'static, Postgres, PgArguments>,
    mut take: impl FnMut(Batch) -> Result<(), E>,
) -> Result<Result<(), E>, sqlx::Error> {
    let empty = || Batch::new(dataset.columns(), BATCH);
    let mut batch = empty();
    let mut rows = rows.fetch(connection);
    while let Some(row) = rows.try_next().await? {
        for (index, values) in batch.values_mut().enumerate() {
            read(&row, index, values)?;
        }
        if batch.rows() >= BATCH
            && let Err(error) = take(std::mem::replace(&mut batch, empty()))
        {
            return Ok(Err(error));
        }
    }
    Ok(if batch.rows() > 0 { take(batch) } else { Ok(()) })
}

fn read(row: &PgRow, index: usize, values: &mut Values) -> Result<(), sqlx::Error> {
    match values {
        Values::Boolean(values) => values.push(row.try_get(index)?),
        Values::Text(values) => push_text(values, row.try_get(index)?),
        Values::Integer(values) => values.push(row.try_get(index)?),
        Values::Bigint(values) => values.push(row.try_get(index)?),
        Values::Double(values) => values.push(row.try_get(index)?),
        Values::Time(values) => values.push(row.try_get(index)?),
    }
    Ok(())
}
