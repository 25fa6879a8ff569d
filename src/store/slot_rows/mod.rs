//! Writing slots with their contents: many in one statement.
//!
//! The messages' states are passed as one array per column, for all slots together, and each row takes its part. That
//! is cheaper than a statement per slot, or arrays as text. If a column is the same for all messages of a slot, its
//! array has one element: so most rows are small enough for PostgreSQL not to consider storing parts of them apart. A
//! slot is only written at the version that was read; the caller checks which ones are returned.

mod arrays;

use std::collections::{HashMap, HashSet};

pub(super) use self::arrays::count_of;
use self::arrays::{Arrays, Write};
use super::{
    slots::keyed,
    statement::{query, query_as, query_scalar},
};
use crate::{
    domain::Timestamp,
    rules::{
        recording::Contents,
        slot::{Slot, SlotId, SlotKey, SlotMessage},
    },
    store::connection::StoreConnection,
};

/// Maximum number of slots in one statement. In an array with nulls, PostgreSQL counts its way to each slot's part from
/// the beginning: with 20,000 new slots that took most of the time.
const AT_ONCE: usize = 1_000;

/// A row of `poll_slots` to be written.
#[derive(Debug)]
pub(super) struct SlotRow<'a> {
    pub key: SlotKey,
    /// The version that was read.
    pub version: i64,
    pub next_poll_at: Timestamp,
    pub last_polled_at: Option<Timestamp>,
    pub known_until: Option<Timestamp>,
    pub last_called_at: Option<Timestamp>,
    pub quiet_polls: i32,
    pub failures: i32,
    pub contents: &'a Contents,
}

impl<'a> SlotRow<'a> {
    /// A slot as it was read, but with these messages.
    pub fn holding(slot: &Slot, key: SlotKey, contents: &'a Contents) -> Self {
        Self {
            key,
            version: slot.version,
            next_poll_at: slot.next_poll_at,
            last_polled_at: slot.last_polled_at,
            known_until: slot.known_until,
            last_called_at: slot.last_called_at,
            quiet_polls: slot.quiet_polls,
            failures: slot.failures,
            contents,
        }
    }
}

/// The rows: $1 to $9 are columns without arrays. For each array follow the elements of all rows together, and the
/// positions in it of a row's first and last element; null if the row keeps its own.
macro_rules! rows {
    () => {
        "unnest($1::integer[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[],
            $7::timestamptz[], $8::integer[], $9::integer[], $11::integer[], $12::integer[], $14::integer[], $15::integer[],
            $17::integer[], $18::integer[], $20::integer[], $21::integer[], $23::integer[], $24::integer[], $26::integer[],
            $27::integer[], $29::integer[], $30::integer[], $32::integer[], $33::integer[], $35::integer[], $36::integer[],
            $38::integer[], $39::integer[], $41::integer[], $42::integer[])
            AS u (group_key, slot_id, version, next_poll_at, last_polled_at, known_until, last_called_at, quiet_polls,
                failures, read_num_1, read_num_n, changed_at_1, changed_at_n, member_num_1, member_num_n, msg_seqs_1,
                msg_seqs_n, sent_at_1, sent_at_n, aged_from_1, aged_from_n, first_polled_at_1, first_polled_at_n, code_1,
                code_n, known_apart_1, known_apart_n, no_receipt_polls_1, no_receipt_polls_n, refused_since_1,
                refused_since_n)"
    };
}

/// `$each` for every array.
macro_rules! arrays {
    ($each:ident) => {
        concat!(
            $each!("read_num", "$10::integer[]"),
            ", ",
            $each!("changed_at", "$13::timestamptz[]"),
            ", ",
            $each!("member_num", "$16::integer[]"),
            ", ",
            $each!("msg_seqs", "$19::bigint[]"),
            ", ",
            $each!("sent_at", "$22::timestamptz[]"),
            ", ",
            $each!("aged_from", "$25::timestamptz[]"),
            ", ",
            $each!("first_polled_at", "$28::timestamptz[]"),
            ", ",
            $each!("code", "$31::integer[]"),
            ", ",
            $each!("known_apart", "$34::timestamptz[]"),
            ", ",
            $each!("no_receipt_polls", "$37::smallint[]"),
            ", ",
            $each!("refused_since", "$40::timestamptz[]")
        )
    };
}

macro_rules! name {
    ($column:literal, $elements:literal) => {
        $column
    };
}

macro_rules! given {
    ($column:literal, $elements:literal) => {
        concat!("(", $elements, ")[u.", $column, "_1:u.", $column, "_n]")
    };
}

macro_rules! given_or_kept {
    ($column:literal, $elements:literal) => {
        concat!(
            $column,
            " = CASE WHEN u.",
            $column,
            "_1 IS NULL THEN s.",
            $column,
            " ELSE ",
            given!($column, $elements),
            " END"
        )
    };
}

macro_rules! appended {
    ($column:literal, $elements:literal) => {
        concat!(
            $column,
            " = receiptd.spread(s.",
            $column,
            ", cardinality(s.msg_seqs)) || receiptd.spread(",
            given!($column, $elements),
            ", u.msg_seqs_n - u.msg_seqs_1 + 1)"
        )
    };
}

const UPDATE: &str = concat!(
    "UPDATE receiptd.poll_slots s SET version = s.version + 1, next_poll_at = u.next_poll_at,
        last_polled_at = u.last_polled_at, known_until = u.known_until, last_called_at = u.last_called_at,
        quiet_polls = u.quiet_polls, failures = u.failures, ",
    arrays!(given_or_kept),
    " FROM ",
    rows!(),
    " WHERE s.group_key = u.group_key AND s.slot_id = u.slot_id AND s.version = u.version
      RETURNING s.group_key, s.slot_id, s.next_poll_at"
);

const INSERT: &str = concat!(
    "INSERT INTO receiptd.poll_slots (group_key, slot_id, version, next_poll_at, last_polled_at, known_until, last_called_at,
        quiet_polls, failures, ",
    arrays!(name),
    ") SELECT group_key, slot_id, version, next_poll_at, last_polled_at, known_until, last_called_at, quiet_polls, failures, ",
    arrays!(given),
    " FROM ",
    rows!(),
    " RETURNING group_key, slot_id, next_poll_at"
);

const APPEND: &str = concat!(
    "UPDATE receiptd.poll_slots s SET version = s.version + 1,
        next_poll_at = CASE WHEN s.failures = 0 THEN least(s.next_poll_at, u.next_poll_at) ELSE s.next_poll_at END, ",
    arrays!(appended),
    " FROM ",
    rows!(),
    " WHERE s.group_key = u.group_key AND s.slot_id = u.slot_id AND s.version = u.version
      RETURNING s.group_key, s.slot_id, s.next_poll_at"
);

/// Writes slots that are unchanged since they were read. Returns them.
pub(super) async fn update_slots(
    connection: &mut StoreConnection,
    rows: &[SlotRow<'_>],
) -> Result<HashSet<SlotKey>, sqlx::Error> {
    Ok(write(connection, UPDATE, rows).await?.into_keys().collect())
}

/// Creates slots.
pub(super) async fn insert_slots(connection: &mut StoreConnection, rows: &[SlotRow<'_>]) -> Result<(), sqlx::Error> {
    write(connection, INSERT, rows).await.map(drop)
}

/// Adds messages to slots that are unchanged since they were read, and makes them due earlier. Returns them with
/// their due times.
pub(super) async fn append_to_slots(
    connection: &mut StoreConnection,
    rows: &[SlotRow<'_>],
) -> Result<HashMap<SlotKey, Timestamp>, sqlx::Error> {
    write(connection, APPEND, rows).await
}

/// Returns the written slots with their due times.
async fn write(
    connection: &mut StoreConnection,
    sql: &'static str,
    rows: &[SlotRow<'_>],
) -> Result<HashMap<SlotKey, Timestamp>, sqlx::Error> {
    let mut written = HashMap::new();
    for part in rows.chunks(AT_ONCE) {
        written.extend(write_part(connection, sql, part).await?);
    }
    Ok(written)
}

async fn write_part(
    connection: &mut StoreConnection,
    sql: &'static str,
    rows: &[SlotRow<'_>],
) -> Result<Vec<(SlotKey, Timestamp)>, sqlx::Error> {
    let mut arrays = Arrays::default();
    rows.iter().for_each(|row| arrays.add(row.contents));
    let write: Write<'_> = query_as(sql)
        .bind(rows.iter().map(|row| row.key.group_key).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.key.slot_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.version).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.next_poll_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.last_polled_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.known_until).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.last_called_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.quiet_polls).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.failures).collect::<Vec<_>>());
    let written = arrays.bind(write).fetch_all(connection).await?;
    Ok(keyed(written))
}

/// Moves messages from one slot of their group to another.
pub(super) async fn move_messages(
    connection: &mut StoreConnection,
    from: SlotKey,
    moves: &[(SlotId, &[SlotMessage])],
) -> Result<(), sqlx::Error> {
    let (mut seqs, mut slots): (Vec<i64>, Vec<SlotId>) = (vec![], vec![]);
    for (slot, messages) in moves {
        seqs.extend(messages.iter().map(|message| i64::from(message.seq.get())));
        slots.resize(seqs.len(), *slot);
    }
    query(
        "UPDATE receiptd.watched_messages m SET slot_id = u.slot_id
         FROM unnest($3::bigint[], $4::bigint[]) AS u (msg_seq, slot_id)
         WHERE m.group_key = $1 AND m.slot_id = $2 AND m.msg_seq = u.msg_seq",
    )
    .bind(from.group_key)
    .bind(from.slot_id)
    .bind(seqs)
    .bind(slots)
    .execute(connection)
    .await
    .map(drop)
}

/// Ids for new slots.
pub(super) async fn new_slot_ids(connection: &mut StoreConnection, count: usize) -> Result<Vec<SlotId>, sqlx::Error> {
    if count == 0 {
        return Ok(vec![]);
    }
    // In a subquery, the sequence is looked up once and not for each id.
    query_scalar(
        "SELECT nextval((SELECT pg_get_serial_sequence('receiptd.poll_slots', 'slot_id')::regclass))
         FROM generate_series(1, $1)",
    )
    .bind(i64::try_from(count).unwrap_or(i64::MAX))
    .fetch_all(connection)
    .await
}
