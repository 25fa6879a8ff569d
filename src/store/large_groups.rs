//! Groups with very many slots. `latest_receipts` finds a message of such a group by its row and its slot, and not by
//! opening all slots.

use super::statement::query;
use crate::{rules::slot::GroupKey, store::connection::StoreConnection};

/// Maximum number of slots of a group that are opened for one message. migrations/0001_watch_list.sql has the same
/// value in a comment.
const SLOTS: i64 = 100;

const MARK: &str = "
    UPDATE receiptd.watched_groups g SET is_large = true
    WHERE g.group_key = ANY ($1) AND NOT g.is_large
        AND EXISTS (SELECT FROM receiptd.poll_slots s WHERE s.group_key = g.group_key OFFSET $2)";

/// Marks the groups among these that have more slots. They stay marked: that only decides how they are read.
pub(super) async fn mark_large(connection: &mut StoreConnection, groups: Vec<GroupKey>) -> Result<(), sqlx::Error> {
    if groups.is_empty() {
        return Ok(());
    }
    query(MARK).bind(groups).bind(SLOTS).execute(connection).await.map(drop)
}
