//! A poll that the tables refuse: refused rows are set aside with the reason, the rest is written.

use std::slice;

use serde_json::{Value, json};
use sqlx::Executor;

use super::{
    Store, StoreError,
    brief::{Brief, FIRE_AT_ONCE, changed},
    flush::{
        Flushed, Item, close_messages, committed, oldest, write_calls, write_groups, write_late, write_milestones,
        write_rows, write_slots, write_snapshots, write_unwatched,
    },
    readers::write_moves,
    sqlstate::{is_refusal, sqlstate},
    statement::{query, query_scalar},
    transaction::SHORT,
};
use crate::{
    domain::{MsgSeq, Timestamp},
    rules::{
        recording::{Contents, GroupChange, Kept, Outcome, Recording},
        writing::Committed,
    },
    store::connection::StoreConnection,
};

/// The written part of a refused poll.
#[derive(Debug)]
pub(crate) struct Aside {
    pub flushed: Flushed,
    /// Number of rows set aside.
    pub rows: usize,
    /// Whether its slot waits, since the tables refuse the slot's row or its group's.
    pub waits: bool,
}

/// Writes what can be written of a poll that could not be written as a whole, and sets the rest aside. A slot whose
/// row or group is refused is not due before `not_before`.
pub(crate) async fn write_apart(store: &Store, kept: &Kept, not_before: Timestamp) -> Result<Brief<Aside>, StoreError> {
    let (wrote, now) = (oldest(slice::from_ref(kept)), store.clock().now());
    store
        .run_briefly("setting aside refused rows", SHORT, wrote, async |database, _| {
            apart(database, kept, not_before, now).await
        })
        .await
}

async fn apart(
    connection: &mut StoreConnection,
    kept: &Kept,
    not_before: Timestamp,
    now: Timestamp,
) -> Result<Aside, sqlx::Error> {
    connection.execute(FIRE_AT_ONCE).await?;
    let (frame, parts) = kept.recording.apart();
    let (dropped, is_refused) = match &kept.of_unwatched {
        None => (0, false),
        Some(unwatched) => {
            let seq = unwatched.messages.first().map(|change| change.seq);
            let dropped =
                attempt(connection, unwatched, seq, async |database| write_of_unwatched(database, kept).await);
            dropped.await?.map_or((0, true), |dropped| (dropped, false))
        }
    };
    let (slot, group, calls) = pieces(frame);
    let mut waits = attempt(connection, &group, None, async |database| write_groups(database, &[&group], false).await)
        .await?
        .is_none();
    let mut rows =
        usize::from(is_refused) + usize::from(waits) + usize::from(write_calls_of(connection, &calls).await?.is_none());
    let later = slot.next_poll_at.max(not_before);
    let mut kept = kept.clone();
    if waits {
        kept.recording.next_poll_at = later;
    }
    let written = write_poll(connection, &kept, &parts, now).await?;
    if let Some((_, refused)) = &written {
        let moved = attempt(connection, &slot, None, async |database| write_moves(database, &[&kept]).await).await?;
        rows += refused + usize::from(moved.is_none());
    }
    let mut committed = written.map(|(committed, _)| committed).unwrap_or_else(|| {
        (rows, waits) = (rows + 1, true);
        // It is polled on, although its due time is not stored.
        let slots = kept.slots().filter(|_| !kept.is_of_events());
        slots.map(|slot| Committed::Due(slot, later)).collect()
    });
    if waits {
        committed.iter_mut().for_each(put_off);
    }
    Ok(Aside { flushed: Flushed { committed, dropped, ..Flushed::default() }, rows, waits })
}

/// Writes the messages of a poll and its slot. Returns the results and the number of messages set aside; `None` if the
/// slot is refused: the next poll finds the same changes, so their snapshots would be stored twice.
async fn write_poll(
    connection: &mut StoreConnection,
    kept: &Kept,
    parts: &[(MsgSeq, Recording)],
    now: Timestamp,
) -> Result<Option<(Vec<Committed>, usize)>, sqlx::Error> {
    let poll = Recording { attempts: vec![], group: None, ..kept.recording.clone() };
    attempt(connection, &poll, None, async |database| {
        let (whole, mut refused) = (Item::of(kept, &[]), Vec::new());
        // The messages first: refused ones are not written to the slot.
        for (seq, part) in parts {
            let written = write_message(database, &whole, *seq, part, now).await?;
            refused.extend(written.is_none().then_some(*seq));
        }
        Ok((write_slot(database, &Item::of(kept, &refused)).await?, refused.len()))
    })
    .await
}

/// Writes a slot with the rest of its poll. If the slot was changed, the whole poll has to be decided again.
async fn write_slot(connection: &mut StoreConnection, item: &Item<'_>) -> Result<Vec<Committed>, sqlx::Error> {
    let (here, _) = write_slots(connection, slice::from_ref(item)).await?;
    if here.is_empty() {
        return Err(changed());
    }
    let made = write_rows(connection, &here).await?;
    Ok(committed(item).chain(made.into_iter().map(Committed::NewSlot)).collect())
}

fn put_off(committed: &mut Committed) {
    if let Committed::Due(slot, due) = *committed {
        *committed = Committed::PutOff(slot, due);
    }
}

/// A recording's parts: its slot, its group, and its calls.
fn pieces(frame: Recording) -> (Recording, Recording, Recording) {
    let group = Recording { attempts: vec![], ..frame.clone() };
    let calls = Recording { group: None, ..frame.clone() };
    let slot = Recording { group: None, attempts: vec![], ..frame };
    (slot, group, calls)
}

/// Writes a poll's results for one message, except the slot's contents.
async fn write_message(
    connection: &mut StoreConnection,
    whole: &Item<'_>,
    seq: MsgSeq,
    part: &Recording,
    now: Timestamp,
) -> Result<Option<()>, sqlx::Error> {
    let closed = whole.outcome.closed.iter().filter(|(message, _)| message.seq == seq).cloned().collect();
    let closing = Item { kept: whole.kept, outcome: Outcome { contents: Contents::Same, closed, parts: vec![] } };
    let write = async |database: &mut StoreConnection| {
        close_messages(database, &[&closing]).await?;
        write_snapshots(database, &[part], true).await?;
        write_milestones(database, &[part]).await?;
        write_late(database, &[part], now).await
    };
    attempt(connection, part, Some(seq), write).await
}

/// Writes a poll's results for messages that were unwatched meanwhile. Returns how many could not be stored.
async fn write_of_unwatched(connection: &mut StoreConnection, kept: &Kept) -> Result<usize, sqlx::Error> {
    let (unwatched, dropped) = write_unwatched(connection, &[kept]).await?;
    let unwatched: Vec<&Recording> = unwatched.iter().collect();
    write_snapshots(connection, &unwatched, true).await?;
    write_milestones(connection, &unwatched).await?;
    Ok(dropped)
}

/// Writes a poll's calls, unless an earlier commit without an answer did. A slot that is refused doesn't tell.
async fn write_calls_of(connection: &mut StoreConnection, part: &Recording) -> Result<Option<()>, sqlx::Error> {
    if let Some(first) = part.attempts.first() {
        let stored = query_scalar::<bool>(
            "SELECT EXISTS (SELECT FROM receiptd.api_calls WHERE group_key = $1 AND called_at = $2)",
        );
        if stored.bind(part.slot.group_key).bind(first.called_at).fetch_one(&mut *connection).await? {
            return Ok(Some(()));
        }
    }
    attempt(connection, part, None, async |database| write_calls(database, &[part]).await).await
}

/// Writes a part, about one message if `seq` names it, under a savepoint, or sets it aside: `None` if it is refused.
async fn attempt<T>(
    connection: &mut StoreConnection,
    part: &Recording,
    seq: Option<MsgSeq>,
    write: impl AsyncFnOnce(&mut StoreConnection) -> Result<T, sqlx::Error>,
) -> Result<Option<T>, sqlx::Error> {
    connection.execute("SAVEPOINT part").await?;
    let written = match write(&mut *connection).await {
        Ok(value) => Some(value),
        Err(error) => {
            set_aside(connection, part, seq, error).await?;
            None
        }
    };
    // Otherwise they nest.
    connection.execute("RELEASE SAVEPOINT part").await?;
    Ok(written)
}

/// Rolls back to the savepoint and stores the refused row. An error that is not a refusal ends everything.
async fn set_aside(
    connection: &mut StoreConnection,
    part: &Recording,
    seq: Option<MsgSeq>,
    error: sqlx::Error,
) -> Result<(), sqlx::Error> {
    if !is_refusal(&error) {
        return Err(error);
    }
    connection.execute("ROLLBACK TO SAVEPOINT part").await?;
    query(
        "INSERT INTO receiptd.set_aside AS s (group_key, slot_id, msg_seq, sqlstate, reason, content)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (group_key, slot_id, msg_seq, sqlstate) DO UPDATE SET set_aside_at = EXCLUDED.set_aside_at,
            times = s.times + 1, reason = EXCLUDED.reason, content = EXCLUDED.content",
    )
    .bind(part.slot.group_key)
    .bind(part.slot.slot_id)
    .bind(seq.map(|seq| i64::from(seq.get())))
    .bind(sqlstate(&error).unwrap_or_default())
    .bind(error.to_string())
    .bind(content(part))
    .execute(connection)
    .await
    .map(drop)
}

/// The row to be stored, with column names.
fn content(part: &Recording) -> Value {
    let receipt = |receipt: crate::domain::Receipt| {
        let (read, unread) = receipt.counts.map_or((None, None), |counts| (Some(counts.read()), Some(counts.unread())));
        json!({ "read_num": read, "unread_num": unread, "code": receipt.code })
    };
    let snapshots = part.snapshots.iter().map(|snapshot| {
        json!({ "msg_seq": snapshot.seq.get(), "polled_at": snapshot.polled_at, "prior_polled_at": snapshot.prior_polled_at, "receipt": receipt(snapshot.receipt) })
    });
    let messages = part.messages.iter().map(|change| {
        json!({
            "msg_seq": change.seq.get(), "polled_at": change.polled_at, "known_until": change.known_until, "receipt": change.receipt.map(receipt),
            "state": change.closed.map(crate::rules::recording::Closed::state), "no_receipt_polls": change.no_receipt_polls,
        })
    });
    let calls = part.attempts.iter().map(|call| json!({ "called_at": call.called_at, "class": call.class().name() }));
    let group = part.group.as_ref().map(|change| match change {
        GroupChange::Quarantine { code, probe_at, .. } => {
            json!({ "state": "quarantined", "state_code": code, "probe_at": probe_at })
        }
        GroupChange::Release => json!({ "state": "active" }),
    });
    json!({
        "watched_groups": group,
        "receipt_snapshots": snapshots.collect::<Vec<_>>(),
        "watched_messages": messages.collect::<Vec<_>>(),
        "last_polled_at": part.last_polled_at,
        "known_until": part.known_until,
        "next_poll_at": part.next_poll_at,
        "api_calls": calls.collect::<Vec<_>>(),
    })
}
