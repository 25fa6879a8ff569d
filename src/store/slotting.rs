//! Giving new messages a slot, in one transaction, and splitting slots that are larger than a batch.
//!
//! Slots are locked before the messages in them, both in the order of their ids, as everywhere. Nobody is waited for: what
//! somebody else holds just now is left for the next time, so an owner's open transaction holds up only what it touches.

use std::collections::HashMap;

use super::{
    Store, StoreError,
    session::Session,
    slots::keyed,
    statement::{query, query_as, query_scalar},
    transaction::{LONG, SHORT},
};
use crate::{
    domain::{MsgSeq, Timestamp},
    slot::{Fill, Fresh, GroupKey, OpenSlot, SlotId, SlotKey},
};

/// So many messages get their slots in one transaction: a million at once must not hold one for long.
const CHUNK: i64 = 20_000;

/// What one round of slotting did.
#[derive(Debug, Default)]
pub struct Slotted {
    /// How many messages got a slot.
    pub messages: usize,
    /// The slots that were made or brought forward, with their due times.
    pub slots: Vec<(SlotKey, Timestamp)>,
    /// Whether there may be more to do at once.
    pub is_partial: bool,
    /// Groups whose new messages can't get their slots, since somebody else holds what that takes.
    pub held: Vec<GroupKey>,
}

impl Store {
    /// Gives a slot to messages that have none, as `pack` decides from them and the newest slots of their groups. Those of the
    /// groups `passed_over` are not looked at.
    ///
    /// # Errors
    /// If the database fails; then nothing has changed.
    pub async fn slot_new_messages(
        &self,
        passed_over: &[GroupKey],
        pack: impl FnOnce(&[Fresh], &HashMap<GroupKey, OpenSlot>) -> Vec<Fill> + Send,
    ) -> Result<Slotted, StoreError> {
        let app = self.app();
        self.run_fenced("giving new messages a slot", LONG, async |database| {
            slot_new_messages(database, app, passed_over, pack).await
        })
        .await
    }

    /// Splits a slot that holds more than `batch_size` messages: the younger ones go into slots of their own, which are
    /// due at once and have the same last poll. What somebody else holds stays where it is.
    ///
    /// # Errors
    /// If the database fails; then nothing has changed.
    pub async fn split_slot(&self, slot: SlotKey, batch_size: usize) -> Result<Vec<(SlotKey, Timestamp)>, StoreError> {
        let split = query_as(
            "WITH source AS (
                SELECT s.* FROM receiptd.poll_slots s JOIN receiptd.watched_groups g USING (group_key)
                WHERE s.group_key = $1 AND s.slot_id = $2 FOR UPDATE OF s SKIP LOCKED FOR KEY SHARE OF g SKIP LOCKED
            ), free AS (
                SELECT m.group_key, m.msg_seq FROM receiptd.watched_messages m JOIN source s USING (group_key, slot_id)
                ORDER BY m.msg_seq FOR NO KEY UPDATE OF m SKIP LOCKED
            ), surplus AS (
                SELECT group_key, msg_seq, ((row_number() OVER (ORDER BY msg_seq) - 1) / $3) AS part FROM free
            ), parts AS MATERIALIZED (
                SELECT part, nextval(pg_get_serial_sequence('receiptd.poll_slots', 'slot_id')) AS slot_id
                FROM (SELECT DISTINCT part FROM surplus WHERE part > 0) AS later
            ), made AS (
                INSERT INTO receiptd.poll_slots (group_key, slot_id, next_poll_at, last_polled_at, known_until, quiet_polls, failures, joins)
                SELECT s.group_key, p.slot_id, s.next_poll_at, s.last_polled_at, s.known_until, s.quiet_polls, s.failures, s.joins
                FROM source s CROSS JOIN parts p
                RETURNING group_key, slot_id, next_poll_at
            ), moved AS (
                UPDATE receiptd.watched_messages m SET slot_id = p.slot_id
                FROM surplus u JOIN parts p USING (part)
                WHERE m.group_key = u.group_key AND m.msg_seq = u.msg_seq
            )
            SELECT group_key, slot_id, next_poll_at FROM made",
        )
        .bind(slot.group_key)
        .bind(slot.slot_id)
        .bind(i64::try_from(batch_size).unwrap_or(i64::MAX));
        let split =
            self.run_fenced("splitting a slot that is larger than polling.batch_size", SHORT, async |database| {
                split.fetch_all(database).await
            });
        Ok(keyed(split.await?))
    }
}

async fn slot_new_messages(
    connection: &mut Session,
    app: i64,
    passed_over: &[GroupKey],
    pack: impl FnOnce(&[Fresh], &HashMap<GroupKey, OpenSlot>) -> Vec<Fill> + Send,
) -> Result<Slotted, sqlx::Error> {
    let (groups, is_partial) = groups_with_new_messages(connection, app, passed_over).await?;
    let Some(last) = groups.last() else { return Ok(Slotted::default()) };
    let (open, held) = lock_newest_slots(connection, &groups).await?;
    let others: Vec<GroupKey> = passed_over.iter().chain(&held).copied().collect();
    let mut fresh = lock_new_messages(connection, app, *last, others).await?;
    // The newest slots of groups that have got messages only just now are not locked.
    fresh.retain(|message| groups.binary_search(&message.group_key).is_ok());
    let fills = pack(&fresh, &open);
    let slots = make_and_move_slots(connection, &fills).await?;
    place_messages(connection, &fills, &slots).await?;
    let held = if fresh.is_empty() { groups } else { vec![] };
    let news = fills.iter().zip(slots).filter(|(fill, (_, due))| fill.is_news(*due)).map(|(_, slot)| slot).collect();
    Ok(Slotted { messages: fresh.len(), slots: news, is_partial, held })
}

/// The groups of the next messages that have no slot, by rising key, and whether there may be others.
async fn groups_with_new_messages(
    connection: &mut Session,
    app: i64,
    passed_over: &[GroupKey],
) -> Result<(Vec<GroupKey>, bool), sqlx::Error> {
    let groups: Vec<(GroupKey, i64)> = query_as(
        "SELECT group_key, count(*) FROM (
            SELECT m.group_key FROM receiptd.watched_messages m JOIN receiptd.watched_groups g USING (group_key)
            WHERE m.slot_id IS NULL AND m.state = 'active' AND g.sdk_app_id = $1 AND m.group_key <> ALL ($2)
            ORDER BY m.group_key, m.msg_seq LIMIT $3
         ) fresh GROUP BY group_key ORDER BY group_key",
    )
    .bind(app)
    .bind(passed_over.to_vec())
    .bind(CHUNK)
    .fetch_all(connection)
    .await?;
    let messages: i64 = groups.iter().map(|(_, messages)| messages).sum();
    Ok((groups.into_iter().map(|(group_key, _)| group_key).collect(), messages >= CHUNK))
}

/// Locks the newest slot of each group, in the order of the ids, and counts what they hold. Also gives the groups whose newest
/// slot somebody else holds. Slots that fail come last: those who join would wait with them.
async fn lock_newest_slots(
    connection: &mut Session,
    groups: &[GroupKey],
) -> Result<(HashMap<GroupKey, OpenSlot>, Vec<GroupKey>), sqlx::Error> {
    let newest: Vec<SlotKey> = query_as(
        "SELECT group_key, s.slot_id FROM unnest($1::integer[]) AS g (group_key) CROSS JOIN LATERAL (
            SELECT coalesce(
                (SELECT slot_id FROM receiptd.poll_slots WHERE group_key = g.group_key AND failures = 0 ORDER BY slot_id DESC LIMIT 1),
                (SELECT slot_id FROM receiptd.poll_slots WHERE group_key = g.group_key ORDER BY slot_id DESC LIMIT 1)
            ) AS slot_id
        ) s WHERE slot_id IS NOT NULL",
    )
    .bind(groups.to_vec())
    .fetch_all(&mut *connection)
    .await?;
    let (groups, ids) = SlotKey::columns(&newest);
    let locked: Vec<(GroupKey, SlotId, Option<Timestamp>)> = query_as(
        "SELECT group_key, slot_id, s.last_polled_at
         FROM unnest($1::integer[], $2::bigint[]) AS u (group_key, slot_id)
         JOIN receiptd.poll_slots s USING (group_key, slot_id) ORDER BY group_key, slot_id FOR UPDATE OF s SKIP LOCKED",
    )
    .bind(&groups)
    .bind(&ids)
    .fetch_all(&mut *connection)
    .await?;
    // Statements of their own, so that they see what whoever held the locks has done.
    let held = query_scalar(
        "SELECT group_key FROM unnest($1::integer[], $2::bigint[]) AS u (group_key, slot_id)
            JOIN receiptd.poll_slots USING (group_key, slot_id) WHERE slot_id <> ALL ($3)",
    )
    .bind(&groups)
    .bind(&ids)
    .bind(locked.iter().map(|slot| slot.1).collect::<Vec<_>>())
    .fetch_all(&mut *connection)
    .await?;
    let messages: HashMap<SlotId, i64> = query_as(
        "SELECT slot_id, count(*) FROM unnest($1::integer[], $2::bigint[]) AS u (group_key, slot_id)
         JOIN receiptd.watched_messages m USING (group_key, slot_id) GROUP BY slot_id",
    )
    .bind(locked.iter().map(|slot| slot.0).collect::<Vec<_>>())
    .bind(locked.iter().map(|slot| slot.1).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?
    .into_iter()
    .collect();
    let open = |(group_key, slot_id, last_polled_at)| {
        let messages = messages.get(&slot_id).copied().unwrap_or_default();
        (group_key, OpenSlot { slot_id, messages: usize::try_from(messages).unwrap_or_default(), last_polled_at })
    };
    Ok((locked.into_iter().map(open).collect(), held))
}

/// Locks the next messages that have no slot, up to the group `last` and without the groups `others`, and their groups against
/// being removed: a slot that is made refers to its group.
async fn lock_new_messages(
    connection: &mut Session,
    app: i64,
    last: GroupKey,
    others: Vec<GroupKey>,
) -> Result<Vec<Fresh>, sqlx::Error> {
    let rows: Vec<(GroupKey, Option<String>, i64, Timestamp, Timestamp)> = query_as(
        "SELECT m.group_key, g.cadence, m.msg_seq, coalesce(m.aged_from, m.sent_at), m.added_at
         FROM receiptd.watched_messages m JOIN receiptd.watched_groups g USING (group_key)
         WHERE m.slot_id IS NULL AND m.state = 'active' AND g.sdk_app_id = $1 AND m.group_key <= $2
            AND m.group_key <> ALL ($3)
         ORDER BY m.group_key, m.msg_seq LIMIT $4
         FOR NO KEY UPDATE OF m SKIP LOCKED FOR KEY SHARE OF g SKIP LOCKED",
    )
    .bind(app)
    .bind(last)
    .bind(others)
    .bind(CHUNK)
    .fetch_all(connection)
    .await?;
    let fresh = |(group_key, cadence, seq, sent_at, added_at)| {
        let seq = MsgSeq::try_from(seq).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok(Fresh { group_key, cadence, seq, sent_at, added_at })
    };
    rows.into_iter().map(fresh).collect()
}

/// Makes the slots that are new and brings forward those that messages join. Returns the slot of each fill, in order,
/// with its due time.
async fn make_and_move_slots(
    connection: &mut Session,
    fills: &[Fill],
) -> Result<Vec<(SlotKey, Timestamp)>, sqlx::Error> {
    let new = fills.iter().filter(|fill| fill.slot_id.is_none()).count();
    let mut new_ids: std::vec::IntoIter<SlotId> = query_scalar(
        "SELECT nextval(pg_get_serial_sequence('receiptd.poll_slots', 'slot_id')) FROM generate_series(1, $1)",
    )
    .bind(i64::try_from(new).unwrap_or(i64::MAX))
    .fetch_all(&mut *connection)
    .await?
    .into_iter();
    let ids: Vec<SlotId> = fills.iter().filter_map(|fill| fill.slot_id.or_else(|| new_ids.next())).collect();
    let due: Vec<Timestamp> = fills.iter().map(|fill| fill.due).collect();
    let due: HashMap<SlotId, Timestamp> = query_as(
        "INSERT INTO receiptd.poll_slots AS s (group_key, slot_id, next_poll_at)
         SELECT * FROM unnest($1::integer[], $2::bigint[], $3::timestamptz[])
         ON CONFLICT (group_key, slot_id) DO UPDATE
            SET next_poll_at = CASE WHEN s.failures = 0 THEN LEAST(s.next_poll_at, EXCLUDED.next_poll_at)
                ELSE s.next_poll_at END, joins = s.joins + 1
         RETURNING s.slot_id, s.next_poll_at",
    )
    .bind(fills.iter().map(|fill| fill.group_key).collect::<Vec<_>>())
    .bind(&ids)
    .bind(&due)
    .fetch_all(connection)
    .await?
    .into_iter()
    .collect();
    let key =
        |(fill, slot_id): (&Fill, SlotId)| Some((SlotKey { group_key: fill.group_key, slot_id }, *due.get(&slot_id)?));
    Ok(fills.iter().zip(ids).filter_map(key).collect())
}

/// Puts the messages, which are locked, into their slots.
async fn place_messages(
    connection: &mut Session,
    fills: &[Fill],
    slots: &[(SlotKey, Timestamp)],
) -> Result<(), sqlx::Error> {
    let (mut groups, mut seqs, mut ids) = (vec![], vec![], vec![]);
    for (fill, (slot, _)) in fills.iter().zip(slots) {
        for seq in &fill.seqs {
            groups.push(fill.group_key);
            seqs.push(i64::from(seq.get()));
            ids.push(slot.slot_id);
        }
    }
    query(
        "UPDATE receiptd.watched_messages m SET slot_id = u.slot_id
         FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS u (group_key, msg_seq, slot_id)
         WHERE m.group_key = u.group_key AND m.msg_seq = u.msg_seq",
    )
    .bind(groups)
    .bind(seqs)
    .bind(ids)
    .execute(connection)
    .await
    .map(drop)
}
