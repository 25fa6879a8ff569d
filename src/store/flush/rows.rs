//! The statements of a flush, one for each table: all recordings of a batch at once. Whoever calls them has locked the slots.

use std::collections::HashMap;

use super::{super::upkeep::PROBE_CLAIM, Locked, Made, merged};
use crate::{
    chat::Attempt,
    domain::{Counts, Receipt, Timestamp},
    recording::{GroupChange, Part, Recording},
    slot::{GroupKey, SlotId, SlotKey},
    store::{
        session::Session,
        slots::keyed,
        statement::{query, query_as},
    },
};

/// Moves the messages of slots that were polled along with another into that one.
pub(super) async fn merge_slots(
    connection: &mut Session,
    recordings: &[&Recording],
    locked: &HashMap<SlotKey, Locked>,
) -> Result<(), sqlx::Error> {
    let merges: Vec<(&Recording, SlotKey)> =
        recordings.iter().filter_map(|recording| Some((*recording, merged(recording, locked)?))).collect();
    if merges.is_empty() {
        return Ok(());
    }
    let from: Vec<SlotKey> = merges.iter().map(|(_, absorbed)| *absorbed).collect();
    let (groups, from) = SlotKey::columns(&from);
    query(
        "UPDATE receiptd.watched_messages m SET slot_id = u.target
         FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS u (group_key, source, target)
         WHERE m.group_key = u.group_key AND m.slot_id = u.source",
    )
    .bind(&groups)
    .bind(&from)
    .bind(merges.iter().map(|(recording, _)| recording.slot.slot_id).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    query(
        "DELETE FROM receiptd.poll_slots s USING unnest($1::integer[], $2::bigint[]) AS u (group_key, slot_id)
         WHERE s.group_key = u.group_key AND s.slot_id = u.slot_id",
    )
    .bind(groups)
    .bind(from)
    .execute(connection)
    .await
    .map(drop)
}

pub(in crate::store) async fn write_snapshots(
    connection: &mut Session,
    recordings: &[&Recording],
) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = recordings
        .iter()
        .flat_map(|recording| recording.snapshots.iter().map(|snapshot| (recording.slot.group_key, *snapshot)))
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    let receipt = |row: &(GroupKey, crate::recording::Snapshot)| Some(row.1.receipt);
    query(
        "INSERT INTO receiptd.receipt_snapshots AS s
            (group_key, msg_seq, polled_at, read_num, unread_num, code, prior_polled_at, prior_read_num)
         SELECT * FROM unnest($1::integer[], $2::bigint[], $3::timestamptz[], $4::integer[], $5::integer[], $6::integer[],
            $7::timestamptz[], $8::integer[])
         ON CONFLICT (group_key, msg_seq, polled_at) DO UPDATE SET read_num = EXCLUDED.read_num,
            unread_num = EXCLUDED.unread_num, code = EXCLUDED.code, prior_polled_at = EXCLUDED.prior_polled_at,
            prior_read_num = EXCLUDED.prior_read_num",
    )
    .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| i64::from(row.1.seq.get())).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1.polled_at).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| read_num(receipt(row))).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| unread_num(receipt(row))).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1.receipt.code).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1.prior_polled_at).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1.prior_read_num.and_then(|read| i32::try_from(read).ok())).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
}

/// Writes what changed about messages. One that its owner has removed meanwhile stays removed, and one that has another
/// slot by now keeps that, and says itself until when it is known.
pub(in crate::store) async fn write_messages(
    connection: &mut Session,
    recordings: &[&Recording],
) -> Result<(), sqlx::Error> {
    let mut rows: Vec<_> = recordings
        .iter()
        .flat_map(|recording| {
            recording.messages.iter().map(move |change| (recording.slot.group_key, recording.slot.slot_id, change))
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    rows.sort_unstable_by_key(|(group_key, _, change)| (*group_key, change.seq));
    query(
        "UPDATE receiptd.watched_messages m SET
            read_num = u.read_num, unread_num = u.unread_num, receipt_code = u.code,
            -- Not later than this poll: another clock may have said so.
            first_polled_at = least(m.first_polled_at, u.polled_at),
            last_changed_at = CASE WHEN u.differs THEN u.polled_at ELSE least(m.last_changed_at, u.polled_at) END,
            known_until = CASE WHEN m.slot_id = u.slot_id AND NOT u.known_apart THEN NULL
                ELSE coalesce(u.known_until, m.known_until) END,
            no_receipt_polls = u.no_receipt_polls, refused_since = u.refused_since,
            state = CASE WHEN m.state = 'active' THEN coalesce(u.closed, 'active') ELSE m.state END,
            closed_at = CASE WHEN m.state = 'active' AND u.closed IS NOT NULL THEN now() ELSE m.closed_at END,
            slot_id = CASE WHEN u.closed IS NULL THEN m.slot_id END
         FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::integer[], $5::integer[], $6::integer[],
            $7::timestamptz[], $8::boolean[], $9::timestamptz[], $10::smallint[], $11::text[], $12::timestamptz[], $13::boolean[])
            AS u (group_key, msg_seq, slot_id, read_num, unread_num, code, polled_at, differs, known_until,
                no_receipt_polls, closed, refused_since, known_apart)
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
    .bind(rows.iter().map(|row| row.2.refused_since).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.2.known_apart).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
}

/// Makes slots for messages that leave theirs since their calls fail, and moves them there. Returns these slots.
pub(super) async fn part_slots(connection: &mut Session, recordings: &[&Recording]) -> Result<Vec<Made>, sqlx::Error> {
    let mut made = Vec::new();
    let parts: Vec<(&Recording, &Part)> =
        recordings.iter().flat_map(|recording| recording.parts.iter().map(move |part| (*recording, part))).collect();
    for (recording, part) in parts {
        let slot: Option<Made> = query_as(
            "WITH leaving AS (
                SELECT group_key, msg_seq FROM receiptd.watched_messages
                WHERE group_key = $1 AND slot_id = $2 AND msg_seq = ANY ($3)
             ), made AS (
                INSERT INTO receiptd.poll_slots (group_key, next_poll_at, last_polled_at, failures, known_until)
                SELECT $1, $4, $5, $6, $7 WHERE EXISTS (SELECT FROM leaving)
                RETURNING group_key, slot_id, next_poll_at, failures > 0 AS fails
             ), moved AS (
                UPDATE receiptd.watched_messages m SET slot_id = made.slot_id
                FROM made JOIN leaving USING (group_key)
                WHERE m.group_key = leaving.group_key AND m.msg_seq = leaving.msg_seq
             )
             SELECT group_key, slot_id, next_poll_at, fails FROM made",
        )
        .bind(recording.slot.group_key)
        .bind(recording.slot.slot_id)
        .bind(part.seqs.iter().map(|seq| i64::from(seq.get())).collect::<Vec<_>>())
        .bind(part.next_poll_at)
        .bind(part.last_polled_at)
        .bind(part.failures)
        .bind(part.known_until)
        .fetch_optional(&mut *connection)
        .await?;
        made.extend(slot);
    }
    Ok(made)
}

/// Moves the slots to their next due times. Where messages joined while the poll was under way, they count too.
pub(super) async fn write_slots(
    connection: &mut Session,
    recordings: &[&Recording],
    locked: &HashMap<SlotKey, Locked>,
) -> Result<HashMap<SlotKey, Timestamp>, sqlx::Error> {
    let unchanged = |slot: SlotKey, read: i32| locked.get(&slot).is_none_or(|locked| locked.joins == read);
    let due = |recording: &&Recording| {
        let absorbed_unchanged = recording.absorbs.is_none_or(|(slot, joins)| unchanged(slot, joins));
        if unchanged(recording.slot, recording.joins) && absorbed_unchanged {
            recording.next_poll_at
        } else {
            recording.next_poll_at.min(recording.join_due)
        }
    };
    query_as::<(GroupKey, SlotId, Timestamp)>(
        "UPDATE receiptd.poll_slots s SET next_poll_at = u.next_poll_at, last_polled_at = u.last_polled_at,
            known_until = u.known_until, quiet_polls = u.quiet_polls, failures = u.failures
         FROM unnest($1::integer[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::integer[], $6::integer[],
            $7::timestamptz[])
            AS u (group_key, slot_id, next_poll_at, last_polled_at, quiet_polls, failures, known_until)
         WHERE s.group_key = u.group_key AND s.slot_id = u.slot_id
         RETURNING s.group_key, s.slot_id, s.next_poll_at",
    )
    .bind(recordings.iter().map(|recording| recording.slot.group_key).collect::<Vec<_>>())
    .bind(recordings.iter().map(|recording| recording.slot.slot_id).collect::<Vec<_>>())
    .bind(recordings.iter().map(due).collect::<Vec<_>>())
    .bind(recordings.iter().map(|recording| recording.last_polled_at).collect::<Vec<_>>())
    .bind(recordings.iter().map(|recording| recording.quiet_polls).collect::<Vec<_>>())
    .bind(recordings.iter().map(|recording| recording.failures).collect::<Vec<_>>())
    .bind(recordings.iter().map(|recording| recording.known_until).collect::<Vec<_>>())
    .fetch_all(connection)
    .await
    .map(|rows| keyed(rows).into_iter().collect())
}

/// Deletes slots whose messages are all done. The slots are locked, so nothing joins them meanwhile.
pub(super) async fn drop_empty_slots(
    connection: &mut Session,
    recordings: &[&Recording],
) -> Result<Vec<SlotKey>, sqlx::Error> {
    let empty: Vec<SlotKey> =
        recordings.iter().filter(|recording| recording.is_empty).map(|recording| recording.slot).collect();
    if empty.is_empty() {
        return Ok(vec![]);
    }
    let (groups, ids) = SlotKey::columns(&empty);
    query_as(
        "DELETE FROM receiptd.poll_slots s USING unnest($1::integer[], $2::bigint[]) AS u (group_key, slot_id)
         WHERE s.group_key = u.group_key AND s.slot_id = u.slot_id AND NOT EXISTS (
            SELECT FROM receiptd.watched_messages m WHERE m.slot_id = s.slot_id AND m.group_key = s.group_key
        ) RETURNING s.group_key, s.slot_id",
    )
    .bind(groups)
    .bind(ids)
    .fetch_all(connection)
    .await
}

/// Releases a group. Those that were refused together with it are probed soon, but for those that are being probed.
const RELEASE: &str = "
    WITH released AS (
        UPDATE receiptd.watched_groups g SET state = 'active' FROM receiptd.watched_groups was
        WHERE g.group_key = $1 AND was.group_key = g.group_key AND g.state = 'quarantined'
        RETURNING was.sdk_app_id, was.state_code, was.refused_at
    ), others AS (
        SELECT g.group_key FROM released r JOIN receiptd.watched_groups g
            ON g.sdk_app_id = r.sdk_app_id AND g.state_code = r.state_code
            AND g.refused_at BETWEEN r.refused_at - interval '1 minute' AND r.refused_at + interval '1 minute'
        WHERE g.group_key <> $1 AND g.state = 'quarantined' AND g.probe_at > now() + $2
        ORDER BY g.group_key FOR NO KEY UPDATE OF g SKIP LOCKED
    )
    UPDATE receiptd.watched_groups g SET probe_at = now() FROM others WHERE g.group_key = others.group_key";

/// Puts groups into quarantine or releases them, unless their owner has paused or removed them meanwhile.
pub(in crate::store) async fn write_groups(
    connection: &mut Session,
    recordings: &[&Recording],
) -> Result<(), sqlx::Error> {
    let mut changes: Vec<_> =
        recordings.iter().filter_map(|recording| Some((recording.slot.group_key, recording.group.as_ref()?))).collect();
    changes.sort_by_key(|(group_key, _)| *group_key);
    for (group_key, change) in changes {
        let query = match change {
            GroupChange::Quarantine { code, reason, probe_at } => query(
                "UPDATE receiptd.watched_groups
                 SET state = 'quarantined', state_code = $2, state_reason = $3, probe_at = $4, refused_at = now()
                 WHERE group_key = $1 AND state IN ('active', 'quarantined')",
            )
            .bind(group_key)
            .bind(i32::try_from(*code).unwrap_or(i32::MAX))
            .bind(reason)
            .bind(probe_at),
            GroupChange::Release => query(RELEASE)
                .bind(group_key)
                .bind(sqlx::postgres::types::PgInterval::try_from(PROBE_CLAIM).unwrap_or_default()),
        };
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

pub(in crate::store) async fn write_calls(
    connection: &mut Session,
    recordings: &[&Recording],
) -> Result<(), sqlx::Error> {
    let calls: Vec<(&Recording, i16, &Attempt)> = recordings
        .iter()
        .flat_map(|recording| {
            recording.attempts.iter().zip(1_i16..).map(move |(call, number)| (*recording, number, call))
        })
        .collect();
    if calls.is_empty() {
        return Ok(());
    }
    let answer =
        |call: &Attempt| call.outcome.as_ref().map_or((0, 0), |answer| (answer.receipts.len(), answer.bad_entries));
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    query(
        "INSERT INTO receiptd.api_calls (called_at, group_key, attempt, messages_asked, messages_answered, entries_bad,
            class, code, http_status, latency_ms, error, due_at)
         SELECT * FROM unnest($1::timestamptz[], $2::integer[], $3::smallint[], $4::integer[], $5::integer[], $6::integer[],
            $7::text[], $8::bigint[], $9::smallint[], $10::real[], $11::text[], $12::timestamptz[])",
    )
    .bind(calls.iter().map(|call| call.2.called_at).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| call.0.slot.group_key).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| call.1).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| count(call.2.asked)).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| count(answer(call.2).0)).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| i32::try_from(answer(call.2).1).unwrap_or(i32::MAX)).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| call.2.class().name()).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| call.2.code()).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| call.2.http_status.and_then(|status| i16::try_from(status).ok())).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| latency_millis(call.2)).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| call.2.trouble().map(|trouble| trouble.info)).collect::<Vec<_>>())
    .bind(calls.iter().map(|call| call.0.due_at).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
}

pub(super) fn latency_millis(call: &Attempt) -> f32 {
    call.latency.as_secs_f32() * 1_000.0
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
