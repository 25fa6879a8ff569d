//! Forgetting a group: everything of it is deleted, in chunks of some rows. Which tables have something of it is
//! known to the functions in SQL.

use super::{
    Store, StoreError,
    statement::{query_as, query_scalar},
    transaction::ROLLUP,
};
use crate::domain::GroupId;

impl Store {
    /// How many rows each table has of a group.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn count_group(&self, group: &GroupId) -> Result<Vec<(String, i64)>, StoreError> {
        let rows = query_as("SELECT table_name, rows FROM receiptd.count_group($1, $2) WHERE rows > 0");
        let rows = rows.bind(self.app()).bind(group.to_string());
        self.run("counting what there is of a group", ROLLUP, async |database| rows.fetch_all(database).await).await
    }

    /// Deletes a chunk of everything of a group, which is unwatched first. Returns how many rows that were: 0 if
    /// nothing was left.
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
