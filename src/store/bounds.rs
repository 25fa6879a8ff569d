//! What the daemon tells the functions of the schema, which can't read its configuration: the bounds on what is watched, and
//! how much that is.

use super::{Store, StoreError, statement::query, transaction::LONG};

/// Bounds on what applications may have watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Maximum number of messages in one call of a function.
    pub messages_per_call: i32,
    /// Maximum number of messages of the app that are polled at a time.
    pub messages: i64,
    /// Maximum number of watched groups of the app.
    pub groups: i64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { messages_per_call: 50_000, messages: 5_000_000, groups: 1_000_000 }
    }
}

impl Store {
    /// Notes the bounds of this app, with a count that they are compared with. Where a roll-up has the row, the next time will
    /// do.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn note_bounds(&self, bounds: Bounds) -> Result<(), StoreError> {
        let make = query("INSERT INTO receiptd.apps (sdk_app_id) VALUES ($1) ON CONFLICT DO NOTHING").bind(self.app());
        let note = query(
            "WITH app AS (
                SELECT sdk_app_id FROM receiptd.apps WHERE sdk_app_id = $1 FOR NO KEY UPDATE SKIP LOCKED
            ), counted AS (
                SELECT count(*) FILTER (WHERE g.state <> 'removed') AS groups, coalesce(max(g.group_key), 0) AS last_group_key,
                    coalesce(sum(m.active), 0) AS active_messages,
                    coalesce((SELECT sum(messages) FROM receiptd.watch_totals WHERE sdk_app_id = $1), 0) AS watched_at_count
                FROM receiptd.watched_groups g LEFT JOIN (
                    SELECT group_key, count(*) AS active FROM receiptd.watched_messages WHERE state = 'active'
                    GROUP BY group_key
                ) m USING (group_key) WHERE g.sdk_app_id = $1
            )
            UPDATE receiptd.apps a SET max_messages_a_call = $2, max_active_messages = $3, max_groups = $4,
                groups = counted.groups, last_group_key = counted.last_group_key,
                active_messages = counted.active_messages,
                watched_at_count = counted.watched_at_count, counted_at = clock_timestamp()
            FROM app, counted WHERE a.sdk_app_id = app.sdk_app_id",
        )
        .bind(self.app())
        .bind(bounds.messages_per_call)
        .bind(bounds.messages)
        .bind(bounds.groups);
        self.run("noting the bounds of the app", LONG, async |database| {
            make.execute(&mut *database).await?;
            note.execute(database).await
        })
        .await
        .map(drop)
    }
}
