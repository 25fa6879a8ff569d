//! One flush: everything that a batch of polls brought back, in one transaction.
//!
//! Order: the slots are locked first, then everything that belongs to them. Nobody is waited for: what somebody else holds
//! just now is left for a later flush. So a flush never deadlocks, and an owner's open transaction holds up only what it
//! touches.

mod held;
mod rows;

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;

use self::{
    held::{already_stored, held_rows, stand},
    rows::{drop_empty_slots, merge_slots, write_calls, write_groups, write_slots},
};
pub(super) use self::{
    held::{held_slots, lock_slots},
    rows::{write_messages, write_snapshots},
};
use super::{Store, StoreError, transaction::SHORT};
use crate::{domain::Timestamp, recording::Recording, slot::SlotId};

pub(super) const DOING: &str = "storing what polls brought back";

/// What became of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It is due again then.
    Due(SlotId, Timestamp),
    /// It is gone: its messages are done or have moved.
    Gone(SlotId),
}

/// What a flush did.
#[derive(Debug, Default)]
pub(super) struct Flushed {
    pub committed: Vec<Committed>,
    /// Recordings of which somebody else holds a row just now.
    pub left: HashSet<SlotId>,
}

/// Writes the recordings and tells what became of their slots. `unanswered` says that an earlier attempt to write them ended
/// without an answer: it may have been committed.
pub(super) async fn flush(store: &Store, recordings: &[Recording], unanswered: bool) -> Result<Flushed, StoreError> {
    let wrote = oldest(recordings);
    store
        .run_recording(DOING, SHORT, wrote, async |database| write_what_is_free(database, recordings, unanswered).await)
        .await
}

/// The time of the oldest of what is written.
pub(super) fn oldest(recordings: &[Recording]) -> Option<Timestamp> {
    let times = |recording: &Recording| {
        let polled = recording.snapshots.iter().map(|snapshot| snapshot.polled_at);
        recording.attempts.iter().map(|attempt| attempt.called_at).chain(polled).min()
    };
    recordings.iter().filter_map(times).min()
}

async fn write_what_is_free(
    connection: &mut PgConnection,
    recordings: &[Recording],
    unanswered: bool,
) -> Result<Flushed, sqlx::Error> {
    let all: Vec<&Recording> = recordings.iter().collect();
    let stored = if unanswered { already_stored(connection, &all).await? } else { HashSet::new() };
    let (stored, fresh): (Vec<&Recording>, Vec<&Recording>) =
        all.into_iter().partition(|recording| stored.contains(&recording.slot_id));
    let locked = lock_slots(connection, &fresh).await?;
    let mut left = held_slots(connection, &fresh, &locked).await?;
    left.extend(held_rows(connection, &fresh).await?);
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
