//! Changes as they are stored, for `receiptd tail`. Reads only the last minutes of the time series, by its index on
//! time.

use sqlx::FromRow;

use super::{Store, StoreError, statement::query_as, transaction::LONG};
use crate::domain::{GroupId, Timestamp};

/// A change of counts, as in `receipt_history`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, FromRow)]
pub struct Change {
    /// Group id in Tencent Chat.
    pub group_id: String,
    /// Number of the message within the group.
    pub msg_seq: i64,
    /// Time of the first answer with these counts.
    pub polled_at: Timestamp,
    /// Number of members who have read it.
    pub read_num: Option<i32>,
    /// Number of members who have not read it.
    pub unread_num: Option<i32>,
    /// The code for the message: 0 is success.
    pub code: i32,
    /// The previous read count; `None` for the first one.
    pub prior_read_num: Option<i32>,
    /// poll or webhook.
    pub source: String,
}

/// Rows in the future, which a wrong clock has stored, would hide all others.
const CHANGES: &str = "SELECT group_id, msg_seq, polled_at, read_num, unread_num, code, prior_read_num, source
     FROM receiptd.receipt_history
     WHERE sdk_app_id = $1 AND polled_at > $2 AND polled_at <= now() AND ($3::text IS NULL OR group_id = $3)
     ORDER BY polled_at, group_id, msg_seq";

impl Store {
    /// The changes seen after a time, of all groups or one, in order of time.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn changes_after(&self, time: Timestamp, group: Option<&GroupId>) -> Result<Vec<Change>, StoreError> {
        let changes = query_as(CHANGES).bind(self.app()).bind(time).bind(group.map(ToString::to_string));
        self.run("reading changes", LONG, async |database| changes.fetch_all(database).await).await
    }
}
