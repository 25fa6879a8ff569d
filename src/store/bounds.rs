//! The app's limits and counts, stored for the functions of the schema, which can't read the daemon's configuration.

use super::{
    Store, StoreError, Watched,
    statement::{query, query_as},
    transaction::LONG,
};
use crate::domain::Bounds;

impl Store {
    /// Stores the app's limits, and a count to compare them with. Writes nothing if neither has changed, since an idle
    /// daemon would otherwise write WAL every few seconds. If a roll-up has locked the row, the next count is stored.
    /// Returns the count, like `count_watched`, since counting twice would take twice as long.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn note_bounds(&self, bounds: Bounds) -> Result<Watched, StoreError> {
        let make = query("INSERT INTO receiptd.apps (sdk_app_id) VALUES ($1) ON CONFLICT DO NOTHING").bind(self.app());
        let note = query_as::<(i64, i64, i64)>(
            "WITH counted AS (
                SELECT count(*) FILTER (WHERE g.state <> 'removed') AS groups, coalesce(max(g.group_key), 0) AS last_group_key,
                    coalesce(sum(m.active), 0) AS active_messages,
                    count(*) FILTER (WHERE g.state = 'active') AS polled_groups,
                    count(*) FILTER (WHERE g.state = 'quarantined') AS quarantined_groups,
                    coalesce(sum(m.active) FILTER (WHERE g.state = 'active'), 0)::bigint AS polled_messages,
                    coalesce((SELECT sum(messages) FROM receiptd.watch_totals WHERE sdk_app_id = $1), 0) AS watched_at_count
                FROM receiptd.watched_groups g LEFT JOIN (
                    SELECT group_key, count(*) AS active FROM receiptd.watched_messages WHERE state = 'active'
                    GROUP BY group_key
                ) m USING (group_key) WHERE g.sdk_app_id = $1
            ), app AS (
                SELECT a.sdk_app_id FROM receiptd.apps a, counted
                WHERE a.sdk_app_id = $1
                    AND (a.max_messages_a_call, a.max_active_messages, a.max_groups,
                        a.groups, a.last_group_key, a.active_messages, a.watched_at_count)
                    IS DISTINCT FROM ($2, $3, $4,
                        counted.groups, counted.last_group_key, counted.active_messages, counted.watched_at_count)
                FOR NO KEY UPDATE OF a SKIP LOCKED
            ), noted AS (
                UPDATE receiptd.apps a SET max_messages_a_call = $2, max_active_messages = $3, max_groups = $4,
                    groups = counted.groups, last_group_key = counted.last_group_key,
                    active_messages = counted.active_messages,
                    watched_at_count = counted.watched_at_count, counted_at = clock_timestamp()
                FROM app, counted WHERE a.sdk_app_id = app.sdk_app_id
            )
            SELECT polled_groups, quarantined_groups, polled_messages FROM counted",
        )
        .bind(self.app())
        .bind(bounds.messages_per_call)
        .bind(bounds.messages)
        .bind(bounds.groups);
        let counted = self.run("storing the app's limits", LONG, async |database| {
            make.execute(&mut *database).await?;
            note.fetch_one(database).await
        });
        let (groups, quarantined, messages) = counted.await?;
        Ok(Watched { groups, messages, quarantined })
    }
}
