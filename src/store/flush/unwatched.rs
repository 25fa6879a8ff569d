//! Receipts of messages that were unwatched during the poll: written to their rows, which have their states.
//!
//! This is only done while a row still has the state that the poll has asked for. It has another if the message was
//! watched again, was deleted, or is polled in another slot.

use std::collections::HashSet;

use crate::{
    domain::{Counts, MsgSeq, Timestamp},
    rules::{
        recording::{Kept, Recording},
        slot::{GroupKey, SlotMessage},
    },
    store::{connection::StoreConnection, slot_rows::count_of, statement::query_as},
};

const WRITE: &str = "
    UPDATE receiptd.watched_messages m SET read_num = u.read_num, unread_num = u.unread_num, receipt_code = u.code,
        first_polled_at = u.first_polled_at, last_changed_at = u.changed_at, known_until = u.known_until,
        updated_at = clock_timestamp()
    FROM unnest($1::integer[], $2::bigint[], $3::timestamptz[], $4::integer[], $5::integer[], $6::integer[],
        $7::timestamptz[], $8::timestamptz[], $9::timestamptz[])
        AS u (group_key, msg_seq, was_known_until, read_num, unread_num, code, first_polled_at, changed_at, known_until)
    WHERE m.group_key = u.group_key AND m.msg_seq = u.msg_seq AND m.state <> 'active'
        AND m.known_until IS NOT DISTINCT FROM u.was_known_until
    RETURNING m.group_key, m.msg_seq";

/// Writes the receipts of messages that were unwatched during the poll. Returns the rest to be written about them, and
/// the number of those skipped because their rows have another state by now.
pub(in crate::store) async fn write_unwatched(
    connection: &mut StoreConnection,
    polls: &[&Kept],
) -> Result<(Vec<Recording>, usize), sqlx::Error> {
    let of = |kept: &Kept| kept.recording.slot.group_key;
    let rows: Vec<(GroupKey, Option<Timestamp>, SlotMessage)> = polls
        .iter()
        .flat_map(|kept| kept.unwatched().map(|(known_until, message)| (of(kept), known_until, message)))
        .collect();
    if rows.is_empty() {
        return Ok((vec![], 0));
    }
    let written: Vec<(GroupKey, i64)> = query_as(WRITE)
        .bind(rows.iter().map(|row| row.0).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| i64::from(row.2.seq.get())).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.1).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| count_of(&row.2, Counts::read)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| count_of(&row.2, Counts::unread)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.2.receipt.map(|receipt| receipt.code)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.2.first_polled_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.2.changed_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.2.known_until).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    let written: HashSet<(GroupKey, i64)> = written.into_iter().collect();
    let dropped = rows.len() - written.len();
    let is_written = |kept: &Kept, seq: MsgSeq| written.contains(&(of(kept), i64::from(seq.get())));
    let unwatched = polls.iter().filter_map(|kept| Some((kept, kept.of_unwatched.as_deref()?)));
    Ok((unwatched.map(|(kept, recording)| recording.only(|seq| is_written(kept, seq))).collect(), dropped))
}
