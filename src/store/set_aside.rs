//! A poll that the tables refuse: what is bad of it is set aside with the reason, the rest is written.

use std::{collections::HashSet, slice};

use serde_json::{Value, json};
use sqlx::{Executor, PgConnection};

use super::{
    Store, StoreError,
    flush::{Committed, Flushed, oldest, slots_of, sort, write, write_messages, write_snapshots},
    sqlstate::{Remedy, remedy_of, sqlstate},
    statement::query,
    transaction::SHORT,
};
use crate::{recording::Recording, slot::SlotId};

/// What was written of a poll that the tables refuse.
#[derive(Debug)]
pub(super) struct Aside {
    pub flushed: Flushed,
    /// How many rows of it were set aside.
    pub rows: usize,
}

/// Writes what can be written of a recording that could not be written as a whole, and sets the rest aside. `tried` is as for
/// a flush.
pub(super) async fn write_apart(
    store: &Store,
    recording: &Recording,
    tried: &HashSet<SlotId>,
) -> Result<Aside, StoreError> {
    let wrote = oldest(slice::from_ref(recording));
    store
        .run_recording("setting aside what the tables refuse", SHORT, wrote, async |database| {
            apart(database, recording, tried).await
        })
        .await
}

async fn apart(
    connection: &mut PgConnection,
    recording: &Recording,
    tried: &HashSet<SlotId>,
) -> Result<Aside, sqlx::Error> {
    let sorted = sort(connection, slice::from_ref(recording), tried).await?;
    if sorted.free.is_empty() {
        return Ok(Aside { flushed: sorted.end(connection, vec![]).await?, rows: 0 });
    }
    let (frame, parts) = recording.apart();
    let mut rows = 0;
    // The messages first: those that are done have to leave before the slot can go.
    for part in parts {
        connection.execute("SAVEPOINT part").await?;
        if let Err(error) = write_messages_of(connection, &part).await {
            set_aside(connection, &part, error).await?;
            rows += 1;
        }
    }
    connection.execute("SAVEPOINT part").await?;
    let committed = match write(connection, &[&frame], &sorted.locked).await {
        Ok(committed) => committed,
        Err(error) => {
            set_aside(connection, &frame, error).await?;
            rows += 1;
            // They are polled on, though the tables do not know when.
            slots_of(&[&frame]).into_iter().map(|slot| Committed::Due(slot, frame.next_poll_at)).collect()
        }
    };
    Ok(Aside { flushed: Flushed { committed, ..Flushed::default() }, rows })
}

async fn write_messages_of(connection: &mut PgConnection, part: &Recording) -> Result<(), sqlx::Error> {
    write_snapshots(connection, &[part]).await?;
    write_messages(connection, &[part]).await
}

/// Goes back to the savepoint and writes down what was refused. An error that is no refusal ends the whole.
async fn set_aside(connection: &mut PgConnection, part: &Recording, error: sqlx::Error) -> Result<(), sqlx::Error> {
    if !matches!(remedy_of(&error), Remedy::SetAside | Remedy::Partition) {
        return Err(error);
    }
    connection.execute("ROLLBACK TO SAVEPOINT part").await?;
    let change = part.messages.first().map(|change| change.seq);
    let seq = change.or_else(|| part.snapshots.first().map(|snapshot| snapshot.seq));
    query(
        "INSERT INTO receiptd.set_aside (group_key, slot_id, msg_seq, sqlstate, reason, content)
         VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(part.group_key)
    .bind(part.slot_id)
    .bind(seq.map(|seq| i64::from(seq.get())))
    .bind(sqlstate(&error).unwrap_or_default())
    .bind(error.to_string())
    .bind(content(part))
    .execute(connection)
    .await
    .map(drop)
}

/// What was to be stored, with the names of the columns.
fn content(part: &Recording) -> Value {
    let receipt = |receipt: crate::domain::Receipt| {
        let (read, unread) = receipt.counts.map_or((None, None), |counts| (Some(counts.read()), Some(counts.unread())));
        json!({ "read_num": read, "unread_num": unread, "code": receipt.code })
    };
    let snapshots = part.snapshots.iter().map(|snapshot| {
        json!({ "polled_at": snapshot.polled_at, "prior_polled_at": snapshot.prior_polled_at, "receipt": receipt(snapshot.receipt) })
    });
    let messages = part.messages.iter().map(|change| {
        json!({
            "polled_at": change.polled_at, "known_until": change.known_until, "receipt": change.receipt.map(receipt),
            "state": change.closed.map(crate::recording::Closed::state), "no_receipt_polls": change.no_receipt_polls,
        })
    });
    let calls = part.attempts.iter().map(|call| json!({ "called_at": call.called_at, "class": call.class().name() }));
    json!({
        "receipt_snapshots": snapshots.collect::<Vec<_>>(),
        "watched_messages": messages.collect::<Vec<_>>(),
        "last_polled_at": part.last_polled_at,
        "next_poll_at": part.next_poll_at,
        "api_calls": calls.collect::<Vec<_>>(),
    })
}
