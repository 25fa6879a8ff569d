//! Writing slots with their contents: many in one statement.
//!
//! The messages' states are passed as one array per column, for all slots together, and each row takes its part. That
//! is cheaper than a statement per slot, or arrays as text. A slot is only written at the version that was read; the
//! caller checks which ones are returned.

use std::collections::{HashMap, HashSet};

use sqlx::{Postgres, postgres::PgArguments, query::QueryAs};

use super::{
    slots::keyed,
    statement::{query, query_as, query_scalar},
};
use crate::{
    domain::{Counts, Timestamp},
    rules::{
        recording::Contents,
        slot::{GroupKey, Slot, SlotId, SlotKey, SlotMessage},
    },
    store::connection::StoreConnection,
};

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

/// The rows: $1 to $9 are columns without arrays, $10 to $13 the positions of the messages' counts in their arrays,
/// and of their other states.
macro_rules! rows {
    () => {
        "unnest($1::integer[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::timestamptz[], $6::timestamptz[],
            $7::timestamptz[], $8::integer[], $9::integer[], $10::integer[], $11::integer[], $12::integer[], $13::integer[])
            AS u (group_key, slot_id, version, next_poll_at, last_polled_at, known_until, last_called_at, quiet_polls,
                failures, first_count, last_count, first_other, last_other)"
    };
}

const UPDATE: &str = concat!(
    "UPDATE receiptd.poll_slots s SET version = s.version + 1, next_poll_at = u.next_poll_at,
        last_polled_at = u.last_polled_at, known_until = u.known_until, last_called_at = u.last_called_at,
        quiet_polls = u.quiet_polls, failures = u.failures,
        read_num = CASE WHEN first_count IS NULL THEN s.read_num ELSE ($14::integer[])[first_count:last_count] END,
        unread_num = CASE WHEN first_count IS NULL THEN s.unread_num ELSE ($15::integer[])[first_count:last_count] END,
        changed_at = CASE WHEN first_count IS NULL THEN s.changed_at ELSE ($16::timestamptz[])[first_count:last_count] END,
        msg_seqs = CASE WHEN first_other IS NULL THEN s.msg_seqs ELSE ($17::bigint[])[first_other:last_other] END,
        sent_at = CASE WHEN first_other IS NULL THEN s.sent_at ELSE ($18::timestamptz[])[first_other:last_other] END,
        aged_from = CASE WHEN first_other IS NULL THEN s.aged_from ELSE ($19::timestamptz[])[first_other:last_other] END,
        first_polled_at = CASE WHEN first_other IS NULL THEN s.first_polled_at
            ELSE ($20::timestamptz[])[first_other:last_other] END,
        code = CASE WHEN first_other IS NULL THEN s.code ELSE ($21::integer[])[first_other:last_other] END,
        known_apart = CASE WHEN first_other IS NULL THEN s.known_apart
            ELSE ($22::timestamptz[])[first_other:last_other] END,
        no_receipt_polls = CASE WHEN first_other IS NULL THEN s.no_receipt_polls
            ELSE ($23::smallint[])[first_other:last_other] END,
        refused_since = CASE WHEN first_other IS NULL THEN s.refused_since
            ELSE ($24::timestamptz[])[first_other:last_other] END
     FROM ",
    rows!(),
    " WHERE s.group_key = u.group_key AND s.slot_id = u.slot_id AND s.version = u.version
      RETURNING s.group_key, s.slot_id"
);

const INSERT: &str = concat!(
    "INSERT INTO receiptd.poll_slots (group_key, slot_id, version, next_poll_at, last_polled_at, known_until, last_called_at,
        quiet_polls, failures, read_num, unread_num, changed_at, msg_seqs, sent_at, aged_from, first_polled_at, code,
        known_apart, no_receipt_polls, refused_since)
     SELECT group_key, slot_id, version, next_poll_at, last_polled_at, known_until, last_called_at, quiet_polls, failures,
        ($14::integer[])[first_count:last_count], ($15::integer[])[first_count:last_count],
        ($16::timestamptz[])[first_count:last_count], ($17::bigint[])[first_other:last_other],
        ($18::timestamptz[])[first_other:last_other], ($19::timestamptz[])[first_other:last_other],
        ($20::timestamptz[])[first_other:last_other], ($21::integer[])[first_other:last_other],
        ($22::timestamptz[])[first_other:last_other], ($23::smallint[])[first_other:last_other],
        ($24::timestamptz[])[first_other:last_other]
     FROM ",
    rows!(),
    " RETURNING group_key, slot_id"
);

const APPEND: &str = "
    UPDATE receiptd.poll_slots s SET version = s.version + 1,
        next_poll_at = CASE WHEN s.failures = 0 THEN least(s.next_poll_at, u.due) ELSE s.next_poll_at END,
        read_num = s.read_num || ($7::integer[])[first_one:last_one],
        unread_num = s.unread_num || ($8::integer[])[first_one:last_one],
        changed_at = s.changed_at || ($9::timestamptz[])[first_one:last_one],
        msg_seqs = s.msg_seqs || ($10::bigint[])[first_one:last_one],
        sent_at = s.sent_at || ($11::timestamptz[])[first_one:last_one],
        aged_from = s.aged_from || ($12::timestamptz[])[first_one:last_one],
        first_polled_at = s.first_polled_at || ($13::timestamptz[])[first_one:last_one],
        code = s.code || ($14::integer[])[first_one:last_one],
        known_apart = s.known_apart || ($15::timestamptz[])[first_one:last_one],
        no_receipt_polls = s.no_receipt_polls || ($16::smallint[])[first_one:last_one],
        refused_since = s.refused_since || ($17::timestamptz[])[first_one:last_one]
    FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::timestamptz[], $5::integer[], $6::integer[])
        AS u (group_key, slot_id, version, due, first_one, last_one)
    WHERE s.group_key = u.group_key AND s.slot_id = u.slot_id AND s.version = u.version
    RETURNING s.group_key, s.slot_id, s.next_poll_at";

/// Writes slots that are unchanged since they were read. Returns them.
pub(super) async fn update_slots(
    connection: &mut StoreConnection,
    rows: &[SlotRow<'_>],
) -> Result<HashSet<SlotKey>, sqlx::Error> {
    write(connection, UPDATE, rows).await
}

/// Creates slots.
pub(super) async fn insert_slots(connection: &mut StoreConnection, rows: &[SlotRow<'_>]) -> Result<(), sqlx::Error> {
    write(connection, INSERT, rows).await.map(drop)
}

async fn write(
    connection: &mut StoreConnection,
    sql: &'static str,
    rows: &[SlotRow<'_>],
) -> Result<HashSet<SlotKey>, sqlx::Error> {
    if rows.is_empty() {
        return Ok(HashSet::new());
    }
    let (mut counts, mut others) = (Counted::default(), Others::default());
    let (mut of_counts, mut of_others) = (vec![], vec![]);
    for row in rows {
        let (counted, other) = match row.contents {
            Contents::Same => (None, None),
            Contents::Counted(messages) => (Some(messages), None),
            Contents::Other(messages) => (Some(messages), Some(messages)),
        };
        of_counts.push(counted.map(|messages| counts.add(messages)));
        of_others.push(other.map(|messages| others.add(messages)));
    }
    let column = |ranges: &[Option<(i32, i32)>], of: fn((i32, i32)) -> i32| {
        ranges.iter().map(|range| range.map(of)).collect::<Vec<Option<i32>>>()
    };
    let written: QueryAs<'_, Postgres, SlotKey, PgArguments> = query_as(sql)
        .bind(rows.iter().map(|row| row.key.group_key).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.key.slot_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.version).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.next_poll_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.last_polled_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.known_until).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.last_called_at).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.quiet_polls).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.failures).collect::<Vec<_>>())
        .bind(column(&of_counts, |range| range.0))
        .bind(column(&of_counts, |range| range.1))
        .bind(column(&of_others, |range| range.0))
        .bind(column(&of_others, |range| range.1));
    let written = others.bind(counts.bind(written)).fetch_all(connection).await?;
    Ok(written.into_iter().collect())
}

/// Adds messages to slots that are unchanged since they were read, and makes them due earlier. Returns them with
/// their due times.
pub(super) async fn append_to_slots(
    connection: &mut StoreConnection,
    rows: &[SlotRow<'_>],
) -> Result<HashMap<SlotKey, Timestamp>, sqlx::Error> {
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let (mut counts, mut others) = (Counted::default(), Others::default());
    let ranges: Vec<(i32, i32)> = rows
        .iter()
        .map(|row| {
            counts.add(row.contents.messages());
            others.add(row.contents.messages())
        })
        .collect();
    let appended: QueryAs<'_, Postgres, (GroupKey, SlotId, Timestamp), PgArguments> = query_as(APPEND)
        .bind(rows.iter().map(|row| row.key.group_key).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.key.slot_id).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.version).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.next_poll_at).collect::<Vec<_>>())
        .bind(ranges.iter().map(|range| range.0).collect::<Vec<_>>())
        .bind(ranges.iter().map(|range| range.1).collect::<Vec<_>>());
    let appended = others.bind(counts.bind(appended)).fetch_all(connection).await?;
    Ok(keyed(appended).into_iter().collect())
}

/// The columns of messages that change most often.
#[derive(Default)]
struct Counted {
    read_num: Vec<Option<i32>>,
    unread_num: Vec<Option<i32>>,
    changed_at: Vec<Option<Timestamp>>,
}

impl Counted {
    /// Adds the messages of a slot. Returns their positions: the first and the last, from 1.
    fn add(&mut self, messages: &[SlotMessage]) -> (i32, i32) {
        let before = self.read_num.len();
        for message in messages {
            self.read_num.push(count_of(message, Counts::read));
            self.unread_num.push(count_of(message, Counts::unread));
            self.changed_at.push(message.changed_at);
        }
        range(before, self.read_num.len())
    }

    fn bind<'q, O>(self, query: QueryAs<'q, Postgres, O, PgArguments>) -> QueryAs<'q, Postgres, O, PgArguments> {
        query.bind(self.read_num).bind(self.unread_num).bind(self.changed_at)
    }
}

/// The other columns of messages.
#[derive(Default)]
struct Others {
    msg_seqs: Vec<i64>,
    sent_at: Vec<Timestamp>,
    aged_from: Vec<Option<Timestamp>>,
    first_polled_at: Vec<Option<Timestamp>>,
    code: Vec<Option<i32>>,
    known_apart: Vec<Option<Timestamp>>,
    no_receipt_polls: Vec<i16>,
    refused_since: Vec<Option<Timestamp>>,
}

impl Others {
    fn add(&mut self, messages: &[SlotMessage]) -> (i32, i32) {
        let before = self.msg_seqs.len();
        for message in messages {
            self.msg_seqs.push(i64::from(message.seq.get()));
            self.sent_at.push(message.first_sent_at);
            self.aged_from.push(Some(message.sent_at).filter(|aged_from| *aged_from != message.first_sent_at));
            self.first_polled_at.push(message.first_polled_at);
            self.code.push(message.receipt.map(|receipt| receipt.code));
            self.known_apart.push(message.says_until());
            self.no_receipt_polls.push(message.no_receipt_polls);
            self.refused_since.push(message.refused_since);
        }
        range(before, self.msg_seqs.len())
    }

    fn bind<'q, O>(self, query: QueryAs<'q, Postgres, O, PgArguments>) -> QueryAs<'q, Postgres, O, PgArguments> {
        query
            .bind(self.msg_seqs)
            .bind(self.sent_at)
            .bind(self.aged_from)
            .bind(self.first_polled_at)
            .bind(self.code)
            .bind(self.known_apart)
            .bind(self.no_receipt_polls)
            .bind(self.refused_since)
    }
}

/// The positions of elements in a PostgreSQL array, from indexes in Rust.
fn range(before: usize, end: usize) -> (i32, i32) {
    (i32::try_from(before + 1).unwrap_or(i32::MAX), i32::try_from(end).unwrap_or(i32::MAX))
}

/// A count of a message, if it is known.
pub(super) fn count_of(message: &SlotMessage, count: fn(Counts) -> u32) -> Option<i32> {
    message.receipt.and_then(|receipt| receipt.counts).and_then(|counts| i32::try_from(count(counts)).ok())
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
    query_scalar("SELECT nextval(pg_get_serial_sequence('receiptd.poll_slots', 'slot_id')) FROM generate_series(1, $1)")
        .bind(i64::try_from(count).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await
}
