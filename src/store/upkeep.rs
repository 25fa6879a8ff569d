//! What owners changed about groups, and groups whose quarantine is to be probed.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::{
    Store, StoreError,
    statement::{query, query_as, query_scalar},
    transaction::SHORT,
};
use crate::{
    domain::Timestamp,
    slot::{GroupKey, Slot, SlotId},
};

/// So many slots of a changed group are read and moved at a time.
const CHUNK: usize = 500;

/// A group that was probed is not offered again before this time, however the probe ends.
const PROBE_CLAIM: chrono::TimeDelta = chrono::TimeDelta::minutes(30);

impl Store {
    /// Moves the slots of groups whose state or cadence has changed to the due times that `due` gives them, and hands
    /// out those that are to be polled.
    ///
    /// # Errors
    /// If the database fails. Then the groups are still marked, and will be found again.
    pub async fn reschedule_changed_groups(
        &self,
        due: impl Fn(&Slot) -> Option<Timestamp> + Send + Sync,
    ) -> Result<Vec<(SlotId, Timestamp)>, StoreError> {
        const DOING: &str = "rescheduling groups that have changed";
        let (changed, slots) =
            self.run(DOING, SHORT, async |database| changed_groups(database, self.app()).await).await?;
        if changed.is_empty() {
            return Ok(vec![]);
        }
        let mut moved = Vec::new();
        for chunk in slots.chunks(CHUNK) {
            let slots = self.read_slots(chunk).await?;
            let due: HashMap<SlotId, Timestamp> =
                slots.iter().filter_map(|slot| Some((slot.slot_id, due(slot)?))).collect();
            moved.extend(self.move_slots(due).await?);
        }
        let (groups, versions): (Vec<GroupKey>, Vec<i64>) = changed.into_iter().unzip();
        // Only now, and only those that have not changed once more: else a crash would forget them.
        let clear = query(
            "UPDATE receiptd.watched_groups g SET reschedule = false
             FROM unnest($1::integer[], $2::bigint[]) AS u (group_key, version)
             WHERE g.group_key = u.group_key AND g.xmin::text::bigint = u.version",
        )
        .bind(groups)
        .bind(versions);
        self.run_fenced(DOING, SHORT, async |database| clear.execute(database).await).await?;
        Ok(moved)
    }

    async fn move_slots(&self, due: HashMap<SlotId, Timestamp>) -> Result<Vec<(SlotId, Timestamp)>, StoreError> {
        let (slots, due): (Vec<SlotId>, Vec<Timestamp>) = due.into_iter().unzip();
        let moved = query_as(
            "WITH locked AS (
                SELECT s.group_key, s.slot_id, u.due
                FROM receiptd.poll_slots s
                JOIN unnest($1::bigint[], $2::timestamptz[]) AS u (slot_id, due) USING (slot_id)
                ORDER BY s.slot_id FOR UPDATE OF s
            )
            UPDATE receiptd.poll_slots s SET next_poll_at = l.due FROM locked l
            WHERE s.group_key = l.group_key AND s.slot_id = l.slot_id
            RETURNING s.slot_id, s.next_poll_at",
        )
        .bind(slots)
        .bind(due);
        self.run_fenced("moving the slots of groups that have changed", SHORT, async |database| {
            moved.fetch_all(database).await
        })
        .await
    }

    /// One slot of each quarantined group whose time for a probe has come.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn slots_to_probe(&self, now: Timestamp) -> Result<Vec<SlotId>, StoreError> {
        let slots = query_scalar(
            "WITH claimed AS (
                UPDATE receiptd.watched_groups SET probe_at = $2 + $3
                WHERE sdk_app_id = $1 AND state = 'quarantined' AND probe_at <= $2
                RETURNING group_key
            )
            SELECT s.slot_id FROM claimed CROSS JOIN LATERAL (
                SELECT slot_id FROM receiptd.poll_slots s WHERE s.group_key = claimed.group_key
                ORDER BY slot_id DESC LIMIT 1
            ) s",
        )
        .bind(self.app())
        .bind(now)
        .bind(sqlx::postgres::types::PgInterval::try_from(PROBE_CLAIM).unwrap_or_default());
        self.run_fenced("looking for quarantined groups to probe", SHORT, async |database| {
            slots.fetch_all(database).await
        })
        .await
    }
}

/// The groups that are marked, each with its version, and the slots of those that are active.
async fn changed_groups(
    connection: &mut PgConnection,
    app: i64,
) -> Result<(Vec<(GroupKey, i64)>, Vec<SlotId>), sqlx::Error> {
    let changed: Vec<(GroupKey, i64)> = query_as(
        "SELECT group_key, xmin::text::bigint FROM receiptd.watched_groups WHERE reschedule AND sdk_app_id = $1",
    )
    .bind(app)
    .fetch_all(&mut *connection)
    .await?;
    if changed.is_empty() {
        return Ok((vec![], vec![]));
    }
    let groups: Vec<GroupKey> = changed.iter().map(|(group_key, _)| *group_key).collect();
    let slots = query_scalar(
        "SELECT s.slot_id FROM receiptd.poll_slots s JOIN receiptd.watched_groups g USING (group_key)
         WHERE s.group_key = ANY ($1) AND g.state = 'active'",
    )
    .bind(groups)
    .fetch_all(connection)
    .await?;
    Ok((changed, slots))
}
