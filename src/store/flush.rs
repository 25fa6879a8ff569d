//! One flush: everything that a batch of polls brought back, in one transaction.
//!
//! Order: the slots are locked first, then everything that belongs to them. Nobody is waited for: what somebody else holds
//! just now is left for a later flush. So a flush never deadlocks, and an owner's open transaction holds up only what it
//! touches.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use tokio::time::timeout_at;

use super::{
    Store, StoreError,
    statement::{query, query_as, query_scalar},
    transaction::SHORT,
};
use crate::{
    chat::Attempt,
    domain::{Counts, Receipt, Timestamp},
    recording::{GroupChange, Recording},
    slot::{GroupKey, SlotId},
};

pub(super) const DOING: &str = "storing what polls brought back";

/// What became of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It is due again then.
    Due(SlotId, Timestamp),
    /// It is gone: its messages are done or have moved.
    Gone(SlotId),
}

/// What earlier attempts to write the same recordings have met.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Caution {
    /// One ended without an answer: it may have been committed.
    pub unanswered: bool,
    /// One waited in vain for a lock.
    pub locked: bool,
}

/// What a flush did.
#[derive(Debug, Default)]
pub(super) struct Flushed {
    pub committed: Vec<Committed>,
    /// Recordings of which somebody else holds a row just now.
    pub left: HashSet<SlotId>,
}

/// Writes the recordings and tells what became of their slots.
pub(super) async fn flush(store: &Store, recordings: &[Recording], caution: Caution) -> Result<Flushed, StoreError> {
    let mut transaction = store.begin(DOING, SHORT).await?;
    let deadline = transaction.deadline;
    let outcome = timeout_at(deadline, write_what_is_free(transaction.connection(), recordings, caution)).await;
    store.end_fenced(transaction, outcome).await
}

async fn write_what_is_free(
    connection: &mut PgConnection,
    recordings: &[Recording],
    caution: Caution,
) -> Result<Flushed, sqlx::Error> {
    let all: Vec<&Recording> = recordings.iter().collect();
    let stored = if caution.unanswered { already_stored(connection, &all).await? } else { HashSet::new() };
    let (stored, fresh): (Vec<&Recording>, Vec<&Recording>) =
        all.into_iter().partition(|recording| stored.contains(&recording.slot_id));
    let locked = lock_slots(connection, &fresh).await?;
    let mut left = held_slots(connection, &fresh, &locked).await?;
    if caution.locked {
        left.extend(held_rows(connection, &fresh).await?);
    }
    let free: Vec<&Recording> = fresh.into_iter().filter(|recording| !left.contains(&recording.slot_id)).collect();
    let mut committed = write(connection, &free, &locked).await?;
    committed.extend(stand(connection, &stored).await?);
    Ok(Flushed { committed, left })
}

/// Writes recordings whose slots are locked, as far as they still exist.
pub(super) async fn write(
    connection: &mut PgConnection,
    recordings: &[&Recording],
    locked: &HashMap<SlotId, Locked>,
) -> Result<Vec<Committed>, sqlx::Error> {
    merge_slots(connection, recordings, locked).await?;
    write_snapshots(connection, recordings).await?;
    write_messages(connection, recordings).await?;
    let due = write_slots(connection, recordings, locked).await?;
    let dropped = drop_empty_slots(connection, recordings).await?;
    write_groups(connection, recordings).await?;
    write_calls(connection, recordings).await?;
    Ok(committed(recordings, locked, &due, &dropped))
}

/// A slot as it stands when its recording is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Locked {
    joins: i32,
    next_poll_at: Timestamp,
}

/// The slot that a recording merges into its own, if both still exist: their owner may have emptied either meanwhile.
fn merged(recording: &Recording, locked: &HashMap<SlotId, Locked>) -> Option<SlotId> {
    let (absorbed, _) = recording.absorbs?;
    (locked.contains_key(&recording.slot_id) && locked.contains_key(&absorbed)).then_some(absorbed)
}

/// What became of every slot: those that were merged, dropped, or removed by their owner meanwhile are gone.
fn committed(
    recordings: &[&Recording],
    locked: &HashMap<SlotId, Locked>,
    due: &HashMap<SlotId, Timestamp>,
    dropped: &[SlotId],
) -> Vec<Committed> {
    let own = recordings.iter().map(|recording| match due.get(&recording.slot_id) {
        Some(due) if !dropped.contains(&recording.slot_id) => Committed::Due(recording.slot_id, *due),
        _ => Committed::Gone(recording.slot_id),
    });
    let absorbed = recordings.iter().filter_map(|recording| {
        let (slot, _) = recording.absorbs?;
        Some(match locked.get(&slot) {
            Some(kept) if merged(recording, locked).is_none() => Committed::Due(slot, kept.next_poll_at),
            _ => Committed::Gone(slot),
        })
    });
    own.chain(absorbed).collect()
}

pub(super) fn slots_of(recordings: &[&Recording]) -> Vec<SlotId> {
    let absorbed = recordings.iter().filter_map(|recording| recording.absorbs.map(|(slot, _)| slot));
    recordings.iter().map(|recording| recording.slot_id).chain(absorbed).collect()
}

/// Locks all slots that are involved, as far as they exist and nobody else holds them.
pub(super) async fn lock_slots(
    connection: &mut PgConnection,
    recordings: &[&Recording],
) -> Result<HashMap<SlotId, Locked>, sqlx::Error> {
    let rows: Vec<(SlotId, i32, Timestamp)> = query_as(
        "SELECT slot_id, joins, next_poll_at FROM receiptd.poll_slots WHERE slot_id = ANY ($1)
         ORDER BY slot_id FOR UPDATE SKIP LOCKED",
    )
    .bind(slots_of(recordings))
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|(slot, joins, next_poll_at)| (slot, Locked { joins, next_poll_at })).collect())
}

/// The slots of recordings of which somebody else holds one: it exists, and could not be locked.
pub(super) async fn held_slots(
    connection: &mut PgConnection,
    recordings: &[&Recording],
    locked: &HashMap<SlotId, Locked>,
) -> Result<HashSet<SlotId>, sqlx::Error> {
    let missing: Vec<SlotId> = slots_of(recordings).into_iter().filter(|slot| !locked.contains_key(slot)).collect();
    if missing.is_empty() {
        return Ok(HashSet::new());
    }
    let held: HashSet<SlotId> = query_scalar("SELECT slot_id FROM receiptd.poll_slots WHERE slot_id = ANY ($1)")
        .bind(missing)
        .fetch_all(connection)
        .await?
        .into_iter()
        .collect();
    let is_held = |recording: &&&Recording| {
        held.contains(&recording.slot_id) || recording.absorbs.is_some_and(|(slot, _)| held.contains(&slot))
    };
    Ok(recordings.iter().filter(is_held).map(|recording| recording.slot_id).collect())
}

/// The slots of recordings of which somebody else holds the row of the group or of a message that is to be written.
async fn held_rows(connection: &mut PgConnection, recordings: &[&Recording]) -> Result<HashSet<SlotId>, sqlx::Error> {
    let changed = recordings.iter().flat_map(|recording| {
        recording
            .messages
            .iter()
            .map(move |change| (recording.group_key, i64::from(change.seq.get()), recording.slot_id))
    });
    let (mut groups, mut seqs, mut slots) = (vec![], vec![], vec![]);
    for (group_key, seq, slot) in changed {
        groups.push(group_key);
        seqs.push(seq);
        slots.push(slot);
    }
    let held_messages: Vec<SlotId> = query_scalar(
        "WITH wanted AS (
            SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS u (group_key, msg_seq, slot_id)
         ), free AS (
            SELECT m.group_key, m.msg_seq FROM receiptd.watched_messages m JOIN wanted USING (group_key, msg_seq)
            FOR NO KEY UPDATE OF m SKIP LOCKED
         )
         SELECT DISTINCT w.slot_id FROM wanted w JOIN receiptd.watched_messages m USING (group_key, msg_seq)
         WHERE NOT EXISTS (SELECT FROM free f WHERE f.group_key = w.group_key AND f.msg_seq = w.msg_seq)",
    )
    .bind(groups)
    .bind(seqs)
    .bind(slots)
    .fetch_all(&mut *connection)
    .await?;
    let quarantines = recordings.iter().filter(|recording| recording.group.is_some());
    let changing: Vec<GroupKey> = quarantines.clone().map(|recording| recording.group_key).collect();
    let free: Vec<GroupKey> = query_scalar(
        "SELECT group_key FROM receiptd.watched_groups WHERE group_key = ANY ($1) FOR NO KEY UPDATE SKIP LOCKED",
    )
    .bind(changing)
    .fetch_all(connection)
    .await?;
    let held_groups = quarantines.filter(|recording| !free.contains(&recording.group_key));
    Ok(held_messages.into_iter().chain(held_groups.map(|recording| recording.slot_id)).collect())
}

/// The slots of recordings that an attempt has stored of which no answer came: all of a recording is written in one
/// transaction, so its first call tells of the rest.
async fn already_stored(
    connection: &mut PgConnection,
    recordings: &[&Recording],
) -> Result<HashSet<SlotId>, sqlx::Error> {
    let first =
        |recording: &&Recording| Some((recording.slot_id, recording.group_key, recording.attempts.first()?.clone()));
    let calls: Vec<(SlotId, GroupKey, Attempt)> = recordings.iter().filter_map(first).collect();
    let stored: Vec<SlotId> = query_scalar(
        "SELECT u.slot_id FROM unnest($1::bigint[], $2::integer[], $3::timestamptz[], $4::real[])
            AS u (slot_id, group_key, called_at, latency_ms)
         JOIN receiptd.api_calls c ON c.called_at = u.called_at AND c.group_key = u.group_key
            AND c.latency_ms = u.latency_ms AND c.attempt = 1
         WHERE c.called_at BETWEEN (SELECT min(t) FROM unnest($3) AS t) AND (SELECT max(t) FROM unnest($3) AS t)",
    )
    .bind(calls.iter().map(|call| call.0).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| call.1).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| call.2.called_at).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| latency_millis(&call.2)).collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    Ok(stored.into_iter().collect())
}

/// The slots of recordings that are stored already, as they stand.
async fn stand(connection: &mut PgConnection, recordings: &[&Recording]) -> Result<Vec<Committed>, sqlx::Error> {
    if recordings.is_empty() {
        return Ok(vec![]);
    }
    let slots = slots_of(recordings);
    let due: HashMap<SlotId, Timestamp> =
        query_as("SELECT slot_id, next_poll_at FROM receiptd.poll_slots WHERE slot_id = ANY ($1)")
            .bind(&slots)
            .fetch_all(connection)
            .await?
            .into_iter()
            .collect();
    let stands = |slot: SlotId| due.get(&slot).map_or(Committed::Gone(slot), |due| Committed::Due(slot, *due));
    Ok(slots.into_iter().map(stands).collect())
}

/// Moves the messages of slots that were polled along with another into that one.
async fn merge_slots(
    connection: &mut PgConnection,
    recordings: &[&Recording],
    locked: &HashMap<SlotId, Locked>,
) -> Result<(), sqlx::Error> {
    let merges: Vec<(&Recording, SlotId)> =
        recordings.iter().filter_map(|recording| Some((*recording, merged(recording, locked)?))).collect();
    if merges.is_empty() {
        return Ok(());
    }
    let from: Vec<SlotId> = merges.iter().map(|(_, absorbed)| *absorbed).collect();
    query(
        "UPDATE receiptd.watched_messages m SET slot_id = u.target
         FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS u (group_key, source, target)
         WHERE m.group_key = u.group_key AND m.slot_id = u.source",
    )
    .bind(merges.iter().map(|(recording, _)| recording.group_key).collect::<Vec<_>>())
    .bind(&from)
    .bind(merges.iter().map(|(recording, _)| recording.slot_id).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    query("DELETE FROM receiptd.poll_slots WHERE slot_id = ANY ($1)").bind(from).execute(connection).await?;
    Ok(())
}

pub(super) async fn write_snapshots(
    connection: &mut PgConnection,
    recordings: &[&Recording],
) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = recordings
        .iter()
        .flat_map(|recording| recording.snapshots.iter().map(|snapshot| (recording.group_key, *snapshot)))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let receipt = |row: &(GroupKey, crate::recording::Snapshot)| Some(row.1.receipt);
    query(
        "INSERT INTO receiptd.receipt_snapshots AS s
            (group_key, msg_seq, polled_at, read_num, unread_num, code, prior_polled_at)
         SELECT * FROM unnest($1::integer[], $2::bigint[], $3::timestamptz[], $4::integer[], $5::integer[], $6::integer[],
            $7::timestamptz[])
         ON CONFLICT (group_key, msg_seq, polled_at) DO UPDATE SET read_num = EXCLUDED.read_num,
            unread_num = EXCLUDED.unread_num, code = EXCLUDED.code, prior_polled_at = EXCLUDED.prior_polled_at",
    )
    .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| i64::from(row.1.seq.get())).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1.polled_at).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| read_num(receipt(row))).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| unread_num(receipt(row))).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1.receipt.code).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1.prior_polled_at).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
}

/// Writes what changed about messages. One that its owner has removed meanwhile stays removed, and one that has another
/// slot by now keeps that, and says itself until when it is known.
pub(super) async fn write_messages(
    connection: &mut PgConnection,
    recordings: &[&Recording],
) -> Result<(), sqlx::Error> {
    let mut rows: Vec<_> = recordings
        .iter()
        .flat_map(|recording| {
            recording.messages.iter().map(move |change| (recording.group_key, recording.slot_id, change))
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    rows.sort_unstable_by_key(|(group_key, _, change)| (*group_key, change.seq));
    query(
        "UPDATE receiptd.watched_messages m SET
            read_num = u.read_num, unread_num = u.unread_num, receipt_code = u.code,
            first_polled_at = coalesce(m.first_polled_at, u.polled_at),
            last_changed_at = CASE WHEN u.differs THEN u.polled_at ELSE m.last_changed_at END,
            known_until = CASE WHEN m.slot_id = u.slot_id THEN u.known_until
                ELSE coalesce(u.known_until, u.polled_at, m.known_until) END,
            no_receipt_polls = u.no_receipt_polls,
            state = CASE WHEN m.state = 'active' THEN coalesce(u.closed, 'active') ELSE m.state END,
            closed_at = CASE WHEN m.state = 'active' AND u.closed IS NOT NULL THEN now() ELSE m.closed_at END,
            slot_id = CASE WHEN u.closed IS NULL THEN m.slot_id END
         FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::integer[], $5::integer[], $6::integer[],
            $7::timestamptz[], $8::boolean[], $9::timestamptz[], $10::smallint[], $11::text[])
            AS u (group_key, msg_seq, slot_id, read_num, unread_num, code, polled_at, differs, known_until,
                no_receipt_polls, closed)
         WHERE m.group_key = u.group_key AND m.msg_seq = u.msg_seq",
    )
    .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| i64::from(row.2.seq.get())).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| read_num(row.2.receipt)).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| unread_num(row.2.receipt)).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.2.receipt.map(|receipt| receipt.code)).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.2.polled_at).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.2.differs).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.2.known_until).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.2.no_receipt_polls).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.2.closed.map(|closed| closed.state())).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
}

/// Moves the slots to their next due times. Where messages joined while the poll was under way, they count too.
async fn write_slots(
    connection: &mut PgConnection,
    recordings: &[&Recording],
    locked: &HashMap<SlotId, Locked>,
) -> Result<HashMap<SlotId, Timestamp>, sqlx::Error> {
    let unchanged = |slot: SlotId, read: i32| locked.get(&slot).is_none_or(|locked| locked.joins == read);
    let due = |recording: &&Recording| {
        let absorbed_unchanged = recording.absorbs.is_none_or(|(slot, joins)| unchanged(slot, joins));
        if unchanged(recording.slot_id, recording.joins) && absorbed_unchanged {
            recording.next_poll_at
        } else {
            recording.next_poll_at.min(recording.join_due)
        }
    };
    query_as(
        "UPDATE receiptd.poll_slots s SET next_poll_at = u.next_poll_at, last_polled_at = u.last_polled_at,
            quiet_polls = u.quiet_polls, failures = u.failures
         FROM unnest($1::integer[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::integer[])
            AS u (group_key, slot_id, next_poll_at, last_polled_at, quiet_polls, failures)
         WHERE s.group_key = u.group_key AND s.slot_id = u.slot_id
         RETURNING s.slot_id, s.next_poll_at",
    )
    .bind(recordings.iter().map(|recording| recording.group_key).collect::<Vec<_>>())
    .bind(recordings.iter().map(|recording| recording.slot_id).collect::<Vec<_>>())
    .bind(recordings.iter().map(due).collect::<Vec<_>>())
    .bind(recordings.iter().map(|recording| recording.last_polled_at).collect::<Vec<_>>())
    .bind(recordings.iter().map(|recording| recording.quiet_polls).collect::<Vec<_>>())
    .bind(recordings.iter().map(|recording| recording.failures).collect::<Vec<_>>())
    .fetch_all(connection)
    .await
    .map(|rows| rows.into_iter().collect())
}

/// Deletes slots whose messages are all done. The slots are locked, so nothing joins them meanwhile.
async fn drop_empty_slots(
    connection: &mut PgConnection,
    recordings: &[&Recording],
) -> Result<Vec<SlotId>, sqlx::Error> {
    let empty: Vec<SlotId> =
        recordings.iter().filter(|recording| recording.is_empty).map(|recording| recording.slot_id).collect();
    if empty.is_empty() {
        return Ok(vec![]);
    }
    query_scalar(
        "DELETE FROM receiptd.poll_slots s WHERE s.slot_id = ANY ($1) AND NOT EXISTS (
            SELECT FROM receiptd.watched_messages m WHERE m.slot_id = s.slot_id AND m.group_key = s.group_key
        ) RETURNING s.slot_id",
    )
    .bind(empty)
    .fetch_all(connection)
    .await
}

/// Puts groups into quarantine or releases them, unless their owner has paused or removed them meanwhile.
async fn write_groups(connection: &mut PgConnection, recordings: &[&Recording]) -> Result<(), sqlx::Error> {
    let mut changes: Vec<_> =
        recordings.iter().filter_map(|recording| Some((recording.group_key, recording.group.as_ref()?))).collect();
    changes.sort_by_key(|(group_key, _)| *group_key);
    for (group_key, change) in changes {
        let query = match change {
            GroupChange::Quarantine { code, reason, probe_at } => query(
                "UPDATE receiptd.watched_groups SET state = 'quarantined', state_code = $2, state_reason = $3, probe_at = $4
                 WHERE group_key = $1 AND state IN ('active', 'quarantined')",
            )
            .bind(group_key)
            .bind(i32::try_from(*code).unwrap_or(i32::MAX))
            .bind(reason)
            .bind(probe_at),
            GroupChange::Release => query(
                "UPDATE receiptd.watched_groups SET state = 'active' WHERE group_key = $1 AND state = 'quarantined'",
            )
            .bind(group_key),
        };
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

async fn write_calls(connection: &mut PgConnection, recordings: &[&Recording]) -> Result<(), sqlx::Error> {
    let calls: Vec<(GroupKey, i16, &Attempt)> = recordings
        .iter()
        .flat_map(|recording| {
            recording.attempts.iter().zip(1_i16..).map(|(call, number)| (recording.group_key, number, call))
        })
        .collect();
    if calls.is_empty() {
        return Ok(());
    }
    let answer =
        |call: &Attempt| call.outcome.as_ref().map_or((0, 0), |answer| (answer.receipts.len(), answer.bad_entries));
    let failure = |call: &Attempt| call.outcome.as_ref().err().cloned();
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    query(
        "INSERT INTO receiptd.api_calls (called_at, group_key, attempt, messages_asked, messages_answered, entries_bad,
            class, code, http_status, latency_ms, error)
         SELECT * FROM unnest($1::timestamptz[], $2::integer[], $3::smallint[], $4::integer[], $5::integer[], $6::integer[],
            $7::text[], $8::bigint[], $9::smallint[], $10::real[], $11::text[])",
    )
    .bind(calls.iter().map(|call| call.2.called_at).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| call.0).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| call.1).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| count(call.2.asked)).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| count(answer(call.2).0)).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| i32::try_from(answer(call.2).1).unwrap_or(i32::MAX)).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| call.2.class().name()).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| code(call.2)).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| call.2.http_status.and_then(|status| i16::try_from(status).ok())).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| latency_millis(call.2)).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| failure(call.2).map(|failure| failure.info)).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
}

fn latency_millis(call: &Attempt) -> f32 {
    call.latency.as_secs_f32() * 1_000.0
}

/// The `ErrorCode` of an attempt: 0 for an answer.
fn code(call: &Attempt) -> Option<i64> {
    call.outcome.as_ref().map_or_else(|failure| failure.code, |_| Some(0))
}

fn counts(receipt: Option<Receipt>) -> Option<Counts> {
    receipt.and_then(|receipt| receipt.counts)
}

fn read_num(receipt: Option<Receipt>) -> Option<i32> {
    counts(receipt).and_then(|counts| i32::try_from(counts.read()).ok())
}

fn unread_num(receipt: Option<Receipt>) -> Option<i32> {
    counts(receipt).and_then(|counts| i32::try_from(counts.unread()).ok())
}
