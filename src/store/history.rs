//! The beginning of an app's history, where its first roll-up starts and repetitions end.

use chrono::{NaiveDate, NaiveTime, TimeDelta};

use super::{Store, StoreError, statement::query_scalar, transaction::ROLLUP};
use crate::{domain::Timestamp, store::connection::StoreConnection};

impl Store {
    /// Time of the first snapshot or call of this app, if there is one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn history_begins(&self) -> Result<Option<Timestamp>, StoreError> {
        let app = self.app();
        self.run("looking up the start of the history", ROLLUP, async |database| begin_of(database, app).await).await
    }
}

/// Time of the first snapshot or call of the app, if there is one.
pub(super) async fn begin_of(connection: &mut StoreConnection, app: i64) -> Result<Option<Timestamp>, sqlx::Error> {
    let days: Vec<NaiveDate> = query_scalar(
        "SELECT DISTINCT to_date(right(c.relname, 8), 'YYYYMMDD') FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
         WHERE i.inhparent IN ('receiptd.receipt_snapshots'::regclass, 'receiptd.api_calls'::regclass)
            AND c.relname ~ '_[0-9]{8}$' ORDER BY 1",
    )
    .fetch_all(&mut *connection)
    .await?;
    // Day by day, since no index has the times of one app: only the first day with a row is read.
    for day in days {
        if let Some(first) = first_on(connection, app, day).await? {
            return Ok(Some(first));
        }
    }
    Ok(None)
}

async fn first_on(
    connection: &mut StoreConnection,
    app: i64,
    day: NaiveDate,
) -> Result<Option<Timestamp>, sqlx::Error> {
    let midnight = day.and_time(NaiveTime::MIN).and_utc();
    // Not with a join: for a day without statistics, the day might be read again for each group.
    let first = query_scalar(
        "SELECT least(
            (SELECT min(polled_at) FROM receiptd.receipt_snapshots s WHERE polled_at >= $2 AND polled_at < $3
                AND (SELECT sdk_app_id FROM receiptd.watched_groups WHERE group_key = s.group_key) = $1),
            (SELECT min(called_at) FROM receiptd.api_calls c WHERE called_at >= $2 AND called_at < $3
                AND (SELECT sdk_app_id FROM receiptd.watched_groups WHERE group_key = c.group_key) = $1))",
    );
    first.bind(app).bind(midnight).bind(midnight + TimeDelta::days(1)).fetch_one(connection).await
}
