//! When the history of an app begins: for what is done again from a time before there was any.

use chrono::{NaiveDate, NaiveTime, TimeDelta};

use super::{Store, StoreError, statement::query_scalar, transaction::LONG};
use crate::domain::Timestamp;

impl Store {
    /// The time of the first snapshot or call of this app, if there is one.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn history_begins(&self) -> Result<Option<Timestamp>, StoreError> {
        let mut days: Vec<NaiveDate> = self.partitions().await?.iter().map(|partition| partition.day).collect();
        days.dedup();
        // Day by day, since no index has the times of one app: the first day that has a row is read, and no other.
        for day in days {
            if let Some(first) = self.first_on(day).await? {
                return Ok(Some(first));
            }
        }
        Ok(None)
    }

    async fn first_on(&self, day: NaiveDate) -> Result<Option<Timestamp>, StoreError> {
        let midnight = day.and_time(NaiveTime::MIN).and_utc();
        let first = query_scalar(
            "SELECT least(
                (SELECT min(polled_at) FROM receiptd.receipt_snapshots JOIN receiptd.watched_groups USING (group_key)
                    WHERE sdk_app_id = $1 AND polled_at >= $2 AND polled_at < $3),
                (SELECT min(called_at) FROM receiptd.api_calls JOIN receiptd.watched_groups USING (group_key)
                    WHERE sdk_app_id = $1 AND called_at >= $2 AND called_at < $3))",
        );
        let first = first.bind(self.app()).bind(midnight).bind(midnight + TimeDelta::days(1));
        self.run("looking when the history begins", LONG, async |database| first.fetch_one(database).await).await
    }
}
