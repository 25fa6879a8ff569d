//! The statements of a flush, one per table, each for all polls of a batch. The slots are written before.

use super::{
    super::{
        brief::changed,
        slot_rows::{SlotRow, count_of, insert_slots, move_messages, new_slot_ids},
    },
    Item,
};
use crate::{
    domain::Counts,
    rules::{
        recording::{Contents, GroupChange, Recording},
        slot::{NewSlot, SlotId, SlotKey},
    },
    store::{
        changed_groups::PROBE_CLAIM,
        connection::StoreConnection,
        statement::{query, query_as},
    },
};

/// Moves the messages of absorbed slots to the absorbing ones, and deletes the former. If one was changed, everything
/// has to be rolled back, since its slot contains its messages by now.
pub(super) async fn merge_slots(connection: &mut StoreConnection, items: &[&Item<'_>]) -> Result<(), sqlx::Error> {
    let merges: Vec<(SlotKey, SlotId, i64)> = items
        .iter()
        .filter_map(|item| {
            let (absorbed, version) = item.recording().absorbs?;
            Some((absorbed, item.recording().slot.slot_id, version))
        })
        .collect();
    if merges.is_empty() {
        return Ok(());
    }
    let from: Vec<SlotKey> = merges.iter().map(|merge| merge.0).collect();
    let (groups, from) = SlotKey::columns(&from);
    query(
        "UPDATE receiptd.watched_messages m SET slot_id = u.target
         FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS u (group_key, source, target)
         WHERE m.group_key = u.group_key AND m.slot_id = u.source AND m.state = 'active'",
    )
    .bind(&groups)
    .bind(&from)
    .bind(merges.iter().map(|merge| merge.1).collect::<Vec<_>>())
    .execute(&mut *connection)
    .await?;
    let deleted = query(
        "DELETE FROM receiptd.poll_slots s
         USING unnest($1::integer[], $2::bigint[], $3::bigint[]) AS u (group_key, slot_id, version)
         WHERE s.group_key = u.group_key AND s.slot_id = u.slot_id AND s.version = u.version",
    )
    .bind(groups)
    .bind(from)
    .bind(merges.iter().map(|merge| merge.2).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    if deleted.rows_affected() == merges.len() as u64 { Ok(()) } else { Err(changed()) }
}

/// Takes messages out of slots that do not contain them although their rows say so, because somebody has edited the
/// slots. They get other slots.
pub(in crate::store) async fn release_strays(
    connection: &mut StoreConnection,
    slots: &[(SlotKey, i64)],
) -> Result<(), sqlx::Error> {
    query(
        "UPDATE receiptd.watched_messages m SET slot_id = NULL
         FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS u (group_key, slot_id, version)
         JOIN receiptd.poll_slots s ON s.group_key = u.group_key AND s.slot_id = u.slot_id AND s.version = u.version
         WHERE m.group_key = u.group_key AND m.slot_id = u.slot_id AND m.state = 'active'
            AND array_position(s.msg_seqs, m.msg_seq) IS NULL",
    )
    .bind(slots.iter().map(|slot| slot.0.group_key).collect::<Vec<_>>())
    .bind(slots.iter().map(|slot| slot.0.slot_id).collect::<Vec<_>>())
    .bind(slots.iter().map(|slot| slot.1).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
}

/// Corrects slots that were found damaged, now that they only contain messages.
pub(super) async fn mend_slots(connection: &mut StoreConnection, items: &[&Item<'_>]) -> Result<(), sqlx::Error> {
    let wrong = items.iter().filter(|item| item.kept.is_slot_wrong());
    let wrong: Vec<(SlotKey, i64)> = wrong.map(|item| (item.recording().slot, item.kept.version() + 1)).collect();
    if wrong.is_empty() { Ok(()) } else { release_strays(connection, &wrong).await }
}

/// Deletes slots that were found empty and still are. Returns them.
pub(super) async fn drop_slots(
    connection: &mut StoreConnection,
    items: &[Item<'_>],
) -> Result<Vec<SlotKey>, sqlx::Error> {
    let empty: Vec<&Item<'_>> = items.iter().filter(|item| item.kept.drops_slot()).collect();
    if empty.is_empty() {
        return Ok(vec![]);
    }
    let of = |item: &&Item<'_>| (item.recording().slot, item.kept.version());
    release_strays(connection, &empty.iter().map(of).collect::<Vec<_>>()).await?;
    query_as(
        "DELETE FROM receiptd.poll_slots s
         USING unnest($1::integer[], $2::bigint[], $3::bigint[]) AS u (group_key, slot_id, version)
         WHERE s.group_key = u.group_key AND s.slot_id = u.slot_id AND s.version = u.version
         RETURNING s.group_key, s.slot_id",
    )
    .bind(empty.iter().map(|item| item.recording().slot.group_key).collect::<Vec<_>>())
    .bind(empty.iter().map(|item| item.recording().slot.slot_id).collect::<Vec<_>>())
    .bind(empty.iter().map(|item| item.kept.version()).collect::<Vec<_>>())
    .fetch_all(connection)
    .await
}

/// Writes closed messages with their states: from now on their rows have them.
pub(in crate::store) async fn close_messages(
    connection: &mut StoreConnection,
    items: &[&Item<'_>],
) -> Result<(), sqlx::Error> {
    let closed = items
        .iter()
        .flat_map(|item| item.outcome.closed.iter().map(|(message, why)| (item.recording().slot, message, *why)));
    let rows: Vec<_> = closed.collect();
    if rows.is_empty() {
        return Ok(());
    }
    query(
        "UPDATE receiptd.watched_messages m SET state = u.state, closed_at = now(), slot_id = NULL,
            read_num = u.read_num, unread_num = u.unread_num, receipt_code = u.code, first_polled_at = u.first_polled_at,
            last_changed_at = u.changed_at, known_until = u.known_until, no_receipt_polls = u.no_receipt_polls
         FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::text[], $5::integer[], $6::integer[], $7::integer[],
            $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::smallint[])
            AS u (group_key, slot_id, msg_seq, state, read_num, unread_num, code, first_polled_at, changed_at, known_until,
                no_receipt_polls)
         WHERE m.group_key = u.group_key AND m.msg_seq = u.msg_seq AND m.slot_id = u.slot_id",
    )
    .bind(rows.iter().map(|row| row.0.group_key).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.0.slot_id).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| i64::from(row.1.seq.get())).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.2.state()).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| count_of(row.1, Counts::read)).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| count_of(row.1, Counts::unread)).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1.receipt.map(|receipt| receipt.code)).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1.first_polled_at).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1.changed_at).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1.known_until).collect::<Vec<_>>())
    .bind(rows.iter().map(|row| row.1.no_receipt_polls).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map(drop)
}

/// Creates slots for messages that leave theirs because their calls fail, and moves them there. Returns these slots.
pub(super) async fn part_slots(
    connection: &mut StoreConnection,
    items: &[&Item<'_>],
) -> Result<Vec<NewSlot>, sqlx::Error> {
    let mut made = Vec::new();
    for item in items.iter().filter(|item| !item.outcome.parts.is_empty()) {
        let recording = item.recording();
        let ids = new_slot_ids(connection, recording.parts.len()).await?;
        let contents: Vec<Contents> =
            item.outcome.parts.iter().map(|messages| Contents::Other(messages.clone())).collect();
        let parts = || recording.parts.iter().zip(&ids).zip(&contents);
        let rows: Vec<SlotRow<'_>> = parts()
            .map(|((part, slot_id), contents)| SlotRow {
                key: SlotKey { slot_id: *slot_id, ..recording.slot },
                version: 0,
                next_poll_at: part.next_poll_at,
                last_polled_at: part.last_polled_at,
                known_until: part.known_until,
                last_called_at: None,
                quiet_polls: 0,
                failures: part.failures,
                contents,
            })
            .collect();
        insert_slots(connection, &rows).await?;
        let moves: Vec<_> =
            item.outcome.parts.iter().zip(&ids).map(|(messages, id)| (*id, messages.as_slice())).collect();
        move_messages(connection, recording.slot, &moves).await?;
        let of = |row: &SlotRow<'_>| NewSlot { slot: row.key, next_poll_at: row.next_poll_at, fails: row.failures > 0 };
        made.extend(rows.iter().map(of));
    }
    Ok(made)
}

/// Releases a group.
const RELEASE: &str =
    "UPDATE receiptd.watched_groups g SET state = 'active' WHERE g.group_key = $1 AND g.state = 'quarantined'";

/// Releases a group. Those refused together with it are probed soon, except those being probed.
const RELEASE_AND_PROBE: &str = "
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

/// Quarantines or releases groups, unless their owner has paused or removed them meanwhile. With `probes_others`, this
/// changes other groups too, which the tables may refuse.
pub(in crate::store) async fn write_groups(
    connection: &mut StoreConnection,
    recordings: &[&Recording],
    probes_others: bool,
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
            GroupChange::Release if !probes_others => query(RELEASE).bind(group_key),
            GroupChange::Release => query(RELEASE_AND_PROBE)
                .bind(group_key)
                .bind(sqlx::postgres::types::PgInterval::try_from(PROBE_CLAIM).unwrap_or_default()),
        };
        query.execute(&mut *connection).await?;
    }
    Ok(())
}
