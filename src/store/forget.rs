//! Forgets a group: everything about it is deleted, in chunks of rows. The SQL functions know which tables have rows
//! about it.

use super::{
    Store, StoreError,
    statement::{query_as, query_scalar},
    transaction::ROLLUP,
};
use crate::domain::GroupId;

impl Store {
    /// The number of rows of a group in each table.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn count_group(&self, group: &GroupId) -> Result<Vec<(String, i64)>, StoreError> {
        let rows = query_as("SELECT table_name, rows FROM receiptd.count_group($1, $2) WHERE rows > 0");
        let rows = rows.bind(self.app()).bind(group.to_string());
        self.run("counting rows of a group", ROLLUP, async |database| rows.fetch_all(database).await).await
    }

    /// Unwatches a group and deletes a chunk of everything about it. Returns the number of rows; 0 if nothing was left.
    ///
    /// # Errors
    /// If the database fails; what was deleted before stays deleted.
    pub async fn forget_group(&self, group: &GroupId) -> Result<u64, StoreError> {
        let deleted = query_scalar::<i64>("SELECT receiptd.forget_group($1, $2)");
        let deleted = deleted.bind(self.app()).bind(group.to_string());
        let deleted = self.run("forgetting a group", ROLLUP, async |database| deleted.fetch_one(database).await);
        deleted.await.map(i64::unsigned_abs)
    }
}
