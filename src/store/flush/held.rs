//! What stands in the way of a flush: slots and rows that somebody else holds, and what an attempt without an answer has stored.
//! Nothing is written here.

use std::collections::{HashMap, HashSet};

use super::{Committed, Locked, rows::latency_millis, slots_of};
use crate::{
    chat::Attempt,
    domain::{MsgSeq, Timestamp},
    recording::Recording,
    slot::{GroupKey, SlotId, SlotKey},
    store::{
        session::Session,
        slots::keyed,
        statement::{query_as, query_scalar},
    },
};

/// Locks all slots that are involved, as far as they exist and nobody else holds them.
pub(super) async fn lock_slots(
    connection: &mut Session,
    recordings: &[&Recording],
) -> Result<HashMap<SlotKey, Locked>, sqlx::Error> {
    let (groups, ids) = SlotKey::columns(&slots_of(recordings));
    let rows: Vec<(GroupKey, SlotId, i32, Timestamp)> = query_as(
        "SELECT group_key, slot_id, s.joins, s.next_poll_at
         FROM unnest($1::integer[], $2::bigint[]) AS u (group_key, slot_id)
         JOIN receiptd.poll_slots s USING (group_key, slot_id) ORDER BY group_key, slot_id FOR UPDATE OF s SKIP LOCKED",
    )
    .bind(groups)
    .bind(ids)
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|(group_key, slot_id, joins, next_poll_at)| {
            (SlotKey { group_key, slot_id }, Locked { joins, next_poll_at })
        })
        .collect())
}

/// The slots of recordings of which somebody else holds one: it exists, and could not be locked.
pub(super) async fn held_slots(
    connection: &mut Session,
    recordings: &[&Recording],
    locked: &HashMap<SlotKey, Locked>,
) -> Result<HashSet<SlotKey>, sqlx::Error> {
    let missing: Vec<SlotKey> = slots_of(recordings).into_iter().filter(|slot| !locked.contains_key(slot)).collect();
    if missing.is_empty() {
        return Ok(HashSet::new());
    }
    let held: HashSet<SlotKey> = stored(connection, &missing).await?.into_iter().map(|(slot, _)| slot).collect();
    let is_held = |recording: &&&Recording| {
        held.contains(&recording.slot) || recording.absorbs.is_some_and(|(slot, _)| held.contains(&slot))
    };
    Ok(recordings.iter().filter(is_held).map(|recording| recording.slot).collect())
}

/// The slots of recordings of which somebody else holds the row of the group or of a message that is to be written. All
/// messages of a slot that is merged into another are.
pub(super) async fn held_rows(
    connection: &mut Session,
    recordings: &[&Recording],
) -> Result<HashSet<SlotKey>, sqlx::Error> {
    let mut held = held_messages(connection, recordings).await?;
    held.extend(held_groups(connection, recordings).await?);
    Ok(held)
}

async fn held_messages(connection: &mut Session, recordings: &[&Recording]) -> Result<HashSet<SlotKey>, sqlx::Error> {
    let changed = recordings.iter().flat_map(|recording| {
        let row = move |seq: MsgSeq| (recording.slot.group_key, i64::from(seq.get()), recording.slot.slot_id);
        recording.messages.iter().map(move |change| row(change.seq))
    });
    let (groups, seqs, slots): (Vec<GroupKey>, Vec<i64>, Vec<SlotId>) = changed.collect();
    let merging = recordings.iter().filter_map(|recording| {
        let (absorbed, _) = recording.absorbs?;
        Some((recording.slot.group_key, absorbed.slot_id, recording.slot.slot_id))
    });
    let (merging_groups, absorbed, targets): (Vec<GroupKey>, Vec<SlotId>, Vec<SlotId>) = merging.collect();
    if groups.is_empty() && absorbed.is_empty() {
        return Ok(HashSet::new());
    }
    let held: Vec<SlotKey> = query_as(
        "WITH wanted AS (
            SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS u (group_key, msg_seq, slot_id)
            UNION
            SELECT m.group_key, m.msg_seq, a.slot_id
            FROM unnest($4::integer[], $5::bigint[], $6::bigint[]) AS a (group_key, absorbed, slot_id)
            JOIN receiptd.watched_messages m ON m.group_key = a.group_key AND m.slot_id = a.absorbed
         ), free AS (
            SELECT m.group_key, m.msg_seq FROM receiptd.watched_messages m JOIN wanted USING (group_key, msg_seq)
            FOR NO KEY UPDATE OF m SKIP LOCKED
         )
         SELECT DISTINCT w.group_key, w.slot_id FROM wanted w JOIN receiptd.watched_messages m USING (group_key, msg_seq)
         WHERE NOT EXISTS (SELECT FROM free f WHERE f.group_key = w.group_key AND f.msg_seq = w.msg_seq)",
    )
    .bind(groups)
    .bind(seqs)
    .bind(slots)
    .bind(merging_groups)
    .bind(absorbed)
    .bind(targets)
    .fetch_all(connection)
    .await?;
    Ok(held.into_iter().collect())
}

async fn held_groups(connection: &mut Session, recordings: &[&Recording]) -> Result<HashSet<SlotKey>, sqlx::Error> {
    // A slot that is made refers to its group.
    let changing = || recordings.iter().filter(|recording| recording.group.is_some() || !recording.parts.is_empty());
    let groups: Vec<GroupKey> = changing().map(|recording| recording.slot.group_key).collect();
    if groups.is_empty() {
        return Ok(HashSet::new());
    }
    let free: Vec<GroupKey> = query_scalar(
        "SELECT group_key FROM receiptd.watched_groups WHERE group_key = ANY ($1) FOR NO KEY UPDATE SKIP LOCKED",
    )
    .bind(groups)
    .fetch_all(connection)
    .await?;
    let held = changing().filter(|recording| !free.contains(&recording.slot.group_key));
    Ok(held.map(|recording| recording.slot).collect())
}

/// The slots of recordings that an attempt has stored of which no answer came: all of a recording is written in one
/// transaction, so its first call tells of the rest.
pub(super) async fn already_stored<'r>(
    connection: &mut Session,
    recordings: &[&'r Recording],
) -> Result<HashSet<SlotKey>, sqlx::Error> {
    if recordings.is_empty() {
        return Ok(HashSet::new());
    }
    let first = |recording: &&'r Recording| Some((recording.slot, recording.attempts.first()?));
    let calls: Vec<(SlotKey, &Attempt)> = recordings.iter().filter_map(first).collect();
    let stored: Vec<SlotKey> = query_as(
        "SELECT u.group_key, u.slot_id FROM unnest($1::bigint[], $2::integer[], $3::timestamptz[], $4::real[])
            AS u (slot_id, group_key, called_at, latency_ms)
         JOIN receiptd.api_calls c ON c.called_at = u.called_at AND c.group_key = u.group_key
            AND c.latency_ms = u.latency_ms AND c.attempt = 1
         WHERE c.called_at BETWEEN (SELECT min(t) FROM unnest($3) AS t) AND (SELECT max(t) FROM unnest($3) AS t)",
    )
    .bind(calls.iter().map(|call| call.0.slot_id).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| call.0.group_key).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| call.1.called_at).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| latency_millis(call.1)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(stored.into_iter().collect())
}

/// The slots of recordings that are stored already, as they stand.
pub(super) async fn stand(connection: &mut Session, recordings: &[&Recording]) -> Result<Vec<Committed>, sqlx::Error> {
    if recordings.is_empty() {
        return Ok(vec![]);
    }
    let slots = slots_of(recordings);
    let parted: Vec<GroupKey> = recordings
        .iter()
        .filter(|recording| !recording.parts.is_empty())
        .map(|recording| recording.slot.group_key)
        .collect();
    let made = slots_of_groups(&mut *connection, parted).await?;
    let due: HashMap<SlotKey, Timestamp> = stored(connection, &slots).await?.into_iter().collect();
    let stands = |slot: SlotKey| due.get(&slot).map_or(Committed::Gone(slot), |due| Committed::Due(slot, *due));
    Ok(slots.iter().map(|slot| stands(*slot)).chain(made).collect())
}

/// Those of the slots that exist, with their due times.
async fn stored(connection: &mut Session, slots: &[SlotKey]) -> Result<Vec<(SlotKey, Timestamp)>, sqlx::Error> {
    let (groups, ids) = SlotKey::columns(slots);
    let stored = query_as(
        "SELECT group_key, slot_id, s.next_poll_at FROM unnest($1::integer[], $2::bigint[]) AS u (group_key, slot_id)
         JOIN receiptd.poll_slots s USING (group_key, slot_id)",
    );
    Ok(keyed(stored.bind(groups).bind(ids).fetch_all(connection).await?))
}

/// All slots of groups in which some were made without an answer: which ones is not known.
async fn slots_of_groups(connection: &mut Session, groups: Vec<GroupKey>) -> Result<Vec<Committed>, sqlx::Error> {
    if groups.is_empty() {
        return Ok(vec![]);
    }
    let slots = query_as(
        "SELECT group_key, slot_id, next_poll_at, failures > 0 AS fails FROM receiptd.poll_slots WHERE group_key = ANY ($1)",
    )
    .bind(groups)
    .fetch_all(connection)
    .await?;
    Ok(slots.into_iter().map(Committed::Made).collect())
}
