//! The daily partitions, created days in advance, and on demand if one is missing.

use chrono::{Days, NaiveDate};

use super::{Store, StoreError, statement::query_scalar, transaction::SHORT};
use crate::rules::retention::Table;

/// Number of days in advance with partitions, besides today and yesterday.
pub(super) const DAYS_AHEAD: u64 = 7;

impl Store {
    /// Creates the partitions from yesterday to a week in advance. Yesterday's, since a poll stored after midnight
    /// may be from before. Returns the number created.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn ensure_partitions_ahead(&self, today: NaiveDate) -> Result<i64, StoreError> {
        let first = today.checked_sub_days(Days::new(1)).unwrap_or(today);
        let days: Vec<NaiveDate> =
            (0..=DAYS_AHEAD + 1).filter_map(|day| first.checked_add_days(Days::new(day))).collect();
        self.ensure_partitions(&days).await
    }

    /// Creates the missing partitions of these days.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) async fn ensure_partitions(&self, days: &[NaiveDate]) -> Result<i64, StoreError> {
        let mut made = 0;
        for day in days {
            for table in Table::ALL {
                // A separate transaction for each: ATTACH holds its locks until the end.
                let made_one = query_scalar("SELECT receiptd.ensure_partition($1, $2)").bind(table.name()).bind(*day);
                let is_new: bool = self
                    .run("creating a daily partition", SHORT, async |database| made_one.fetch_one(database).await)
                    .await?;
                made += i64::from(is_new);
            }
        }
        Ok(made)
    }
}
