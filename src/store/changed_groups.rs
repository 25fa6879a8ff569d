//! Owners' changes of groups, and probes of quarantined groups. Locked rows are not waited for but postponed.

use std::collections::{HashMap, HashSet};

use sqlx::{Postgres, postgres::PgArguments, query::QueryAs};

use super::{
    Store, StoreError,
    brief::{Brief, Halves, RefusedSlots},
    statement::{query, query_as, query_scalar},
    transaction::{LONG, SHORT},
};
use crate::{
    domain::Timestamp,
    rules::{
        cadence::Next,
        slot::{GroupKey, Slot, SlotId, SlotKey},
    },
    store::connection::StoreConnection,
};

/// Number of slots of a changed group read and moved at a time.
const CHUNK: usize = 500;

/// Time before a group that was probed is offered again, however the probe ends.
pub(crate) const PROBE_CLAIM: chrono::TimeDelta = chrono::TimeDelta::minutes(30);

/// Groups that keep their marks because some locked slots could not be moved: the version of the group, and these
/// slots. Only these are moved when they are unlocked.
pub type LeftBehind = HashMap<GroupKey, (i64, HashSet<SlotKey>)>;

/// The slots of groups that changed.
#[derive(Debug, Default)]
pub struct Rescheduled {
    /// Those to be polled, and when they are due.
    pub slots: Vec<(SlotKey, Next)>,
    /// The rows that the tables refuse, if any. They wait like locked ones.
    pub refused: Option<RefusedSlots>,
    /// Why marks could not be cleared, if so: some may have been.
    pub failed: Option<StoreError>,
}

/// The slots of quarantined groups whose time for a probe has come.
#[derive(Debug, Default)]
pub struct Probes {
    /// A slot of each.
    pub slots: Vec<SlotKey>,
    /// What the tables refuse, if anything. It is offered again.
    pub refused: Option<RefusedSlots>,
    /// What ended the search after some groups were claimed, if anything.
    pub failed: Option<StoreError>,
}

/// Maximum number of groups offered for a probe at a time.
const PROBES: i64 = 50;

impl Store {
    /// Moves the slots of groups with a new state or cadence to the due times from `next`, and returns the slots to
    /// be polled. Locked and refused ones are `left` for the next call, with the group's mark.
    ///
    /// # Errors
    /// If the database fails. The groups are still marked, and will be found again.
    pub async fn reschedule_changed_groups(
        &self,
        left: &mut LeftBehind,
        next: impl Fn(&Slot) -> Next + Send + Sync,
    ) -> Result<Rescheduled, StoreError> {
        const DOING: &str = "rescheduling changed groups";
        let (changed, mut slots) =
            self.run(DOING, SHORT, async |database| changed_groups(database, self.app()).await).await?;
        left.retain(|group_key, (version, _)| changed.get(group_key) == Some(version));
        if changed.is_empty() {
            return Ok(Rescheduled::default());
        }
        slots.retain(|slot| left.get(&slot.group_key).is_none_or(|(_, slots)| slots.contains(slot)));
        let mut found: LeftBehind =
            changed.into_iter().map(|(group_key, version)| (group_key, (version, HashSet::new()))).collect();
        let (mut moved, mut refused) = (Vec::new(), None);
        for chunk in slots.chunks(CHUNK) {
            let slots = self.read_slots(chunk).await?;
            let due: Vec<(&Slot, Next)> = slots.iter().map(|slot| (slot, next(slot))).collect();
            let keys: Vec<SlotKey> = due.iter().map(|(slot, _)| slot.key).collect();
            let mut halves = Halves::of(due);
            let before = moved.len();
            while let Some(due) = halves.take() {
                match self.move_slots(&due).await {
                    Ok(Brief::Done(slots)) => moved.extend(slots),
                    Ok(Brief::Held | Brief::Changed) => halves.failed(due),
                    Err(error) if error.is_refusal() => {
                        if let [(slot, _)] = &due[..] {
                            refused.get_or_insert(RefusedSlots { group_key: slot.key.group_key, error });
                        }
                        halves.failed(due);
                    }
                    Err(error) => return Err(error),
                }
            }
            let free: HashSet<SlotKey> = moved[before..].iter().map(|(slot, _)| *slot).collect();
            for slot in keys.into_iter().filter(|slot| !free.contains(slot)) {
                found.entry(slot.group_key).and_modify(|(_, slots)| _ = slots.insert(slot));
            }
        }
        // Groups without a mark are not found again, so their slots have to reach the schedule now.
        let (kept, failed) = match self.clear_marks(&found).await {
            Ok(kept) => (kept, None),
            Err(error) => (None, Some(error)),
        };
        *left = found;
        Ok(Rescheduled { slots: moved, refused: refused.or(kept), failed })
    }

    /// Clears the marks of groups without remaining slots. Only now, and only of those that have not changed again:
    /// otherwise a crash would forget them. Returns a mark that the tables keep, if any.
    async fn clear_marks(&self, left: &LeftBehind) -> Result<Option<RefusedSlots>, StoreError> {
        let done = left.iter().filter(|(_, (_, slots))| slots.is_empty());
        let mut halves = Halves::of(done.map(|(group_key, (version, _))| (*group_key, *version)).collect());
        let mut refused = None;
        while let Some(groups) = halves.take() {
            match self.clear(groups.iter().copied().unzip()).await {
                Ok(()) => {}
                Err(error) if error.is_refusal() => {
                    if let [(group_key, _)] = groups[..] {
                        refused.get_or_insert(RefusedSlots { group_key, error });
                    }
                    halves.failed(groups);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(refused)
    }

    async fn clear(&self, (groups, versions): (Vec<GroupKey>, Vec<i64>)) -> Result<(), StoreError> {
        let clear = query(
            "WITH free AS (
                SELECT g.group_key
                FROM receiptd.watched_groups g
                JOIN unnest($1::integer[], $2::bigint[]) AS u (group_key, version) USING (group_key)
                WHERE g.xmin::text::bigint = u.version FOR NO KEY UPDATE OF g SKIP LOCKED
            )
            UPDATE receiptd.watched_groups g SET reschedule = false FROM free WHERE g.group_key = free.group_key",
        )
        .bind(groups)
        .bind(versions);
        let doing = "marking groups as rescheduled";
        self.run_fenced(doing, SHORT, async |database| clear.execute(database).await).await.map(drop)
    }

    /// Marks groups for rescheduling that have a slot due so much later than any likely cadence that a wrong clock
    /// may be the reason. Rescheduling a right time changes nothing. Returns the number of groups.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn reschedule_what_is_far_ahead(&self) -> Result<u64, StoreError> {
        let mark = query(
            "UPDATE receiptd.watched_groups g SET reschedule = true
             FROM (
                SELECT group_key FROM receiptd.watched_groups g
                WHERE sdk_app_id = $1 AND state = 'active' AND NOT reschedule AND EXISTS (
                    SELECT FROM receiptd.poll_slots s WHERE s.group_key = g.group_key AND s.next_poll_at > $2
                        + CASE WHEN s.last_polled_at IS NULL THEN interval '1 minute' ELSE '1 day' END
                )
                ORDER BY group_key FOR NO KEY UPDATE SKIP LOCKED
             ) ahead
             WHERE g.group_key = ahead.group_key",
        );
        let mark = mark.bind(self.app()).bind(self.clock().now());
        let doing = "looking for slots that are due far ahead";
        let marked = self.run_fenced(doing, LONG, async |database| mark.execute(database).await);
        marked.await.map(|marked| marked.rows_affected())
    }

    /// Moves slots that are unchanged since they were read. Returns them.
    async fn move_slots(&self, slots: &[(&Slot, Next)]) -> Result<Brief<Vec<(SlotKey, Next)>>, StoreError> {
        let keys: Vec<SlotKey> = slots.iter().map(|(slot, _)| slot.key).collect();
        let (groups, ids) = SlotKey::columns(&keys);
        let next: HashMap<SlotKey, Next> = slots.iter().map(|(slot, next)| (slot.key, *next)).collect();
        let moved = query_as::<(GroupKey, SlotId)>(
            "UPDATE receiptd.poll_slots s SET version = s.version + 1, next_poll_at = u.due
             FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::timestamptz[]) AS u (group_key, slot_id, version, due)
             WHERE s.group_key = u.group_key AND s.slot_id = u.slot_id AND s.version = u.version
             RETURNING s.group_key, s.slot_id",
        )
        .bind(groups)
        .bind(ids)
        .bind(slots.iter().map(|(slot, _)| slot.version).collect::<Vec<_>>())
        .bind(slots.iter().map(|(_, next)| next.due).collect::<Vec<_>>());
        self.run_briefly("moving the slots of changed groups", SHORT, None, async |database, _| {
            let key = |(group_key, slot_id)| SlotKey { group_key, slot_id };
            let moved = moved.fetch_all(database).await?.into_iter().map(key);
            Ok(moved.filter_map(|key| Some((key, *next.get(&key)?))).collect())
        })
        .await
    }

    /// One slot of each of some quarantined groups whose time for a probe has come.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn slots_to_probe(&self, now: Timestamp) -> Result<Probes, StoreError> {
        const DOING: &str = "looking for quarantined groups to probe";
        let due = query_scalar::<GroupKey>(
            "SELECT group_key FROM receiptd.watched_groups
             WHERE sdk_app_id = $1 AND state = 'quarantined'
                -- None is put off for longer, so a wrong clock has said so.
                AND (probe_at <= $2 OR probe_at > $2 + interval '2 days')
             -- In any order: those that are refused or locked stay due, and must not hide the others.
             ORDER BY random() LIMIT $3",
        )
        .bind(self.app())
        .bind(now)
        .bind(PROBES);
        let mut halves = Halves::of(self.run(DOING, SHORT, async |database| due.fetch_all(database).await).await?);
        let mut probes = Probes::default();
        while let Some(groups) = halves.take() {
            let claim = claim(&groups, now);
            match self.run_fenced(DOING, SHORT, async |database| claim.fetch_all(database).await).await {
                Ok(slots) => probes.slots.extend(slots),
                Err(error) if error.is_refusal() => {
                    if let [group_key] = groups[..] {
                        probes.refused.get_or_insert(RefusedSlots { group_key, error });
                    }
                    halves.failed(groups);
                }
                Err(error) if probes.slots.is_empty() => return Err(error),
                Err(error) => return Ok(Probes { failed: Some(error), ..probes }),
            }
        }
        Ok(probes)
    }
}

/// Puts off the next probe of groups, and returns a slot of each.
fn claim(groups: &[GroupKey], now: Timestamp) -> QueryAs<'static, Postgres, SlotKey, PgArguments> {
    query_as(
        "WITH due AS (
            SELECT group_key FROM receiptd.watched_groups
            WHERE group_key = ANY ($1) AND state = 'quarantined' AND (probe_at <= $2 OR probe_at > $2 + interval '2 days')
            ORDER BY probe_at FOR NO KEY UPDATE SKIP LOCKED
        ), claimed AS (
            UPDATE receiptd.watched_groups g SET probe_at = $2 + $3 FROM due WHERE g.group_key = due.group_key
            RETURNING g.group_key
        )
        SELECT group_key, s.slot_id FROM claimed CROSS JOIN LATERAL (
            SELECT slot_id FROM receiptd.poll_slots s WHERE s.group_key = claimed.group_key AND s.msg_seqs <> '{}'
            ORDER BY slot_id DESC LIMIT 1
        ) s",
    )
    .bind(groups.to_vec())
    .bind(now)
    .bind(sqlx::postgres::types::PgInterval::try_from(PROBE_CLAIM).unwrap_or_default())
}

/// The marked groups, each with its version, and the slots of active ones; for the others the empty slots, which have
/// to be deleted.
async fn changed_groups(
    connection: &mut StoreConnection,
    app: i64,
) -> Result<(HashMap<GroupKey, i64>, Vec<SlotKey>), sqlx::Error> {
    let changed: Vec<(GroupKey, i64)> = query_as(
        "SELECT group_key, xmin::text::bigint FROM receiptd.watched_groups WHERE reschedule AND sdk_app_id = $1",
    )
    .bind(app)
    .fetch_all(&mut *connection)
    .await?;
    if changed.is_empty() {
        return Ok((HashMap::new(), vec![]));
    }
    let slots = query_as(
        "SELECT s.group_key, s.slot_id FROM receiptd.poll_slots s JOIN receiptd.watched_groups g USING (group_key)
         WHERE s.group_key = ANY ($1) AND (g.state = 'active' OR s.msg_seqs = '{}')",
    )
    .bind(changed.iter().map(|(group_key, _)| *group_key).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok((changed.into_iter().collect(), slots))
}
