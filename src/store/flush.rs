//! One flush: everything that a batch of polls brought back, in one transaction.
//!
//! Order: the slots are locked first, then everything that belongs to them. Nobody is waited for: what somebody else holds
//! just now is left for a later flush. So a flush never deadlocks, and an owner's open transaction holds up only what it
//! touches.

mod held;
mod milestones;
mod rows;

use std::collections::{HashMap, HashSet};

pub(super) use self::milestones::write_milestones;
pub(super) use self::rows::{write_calls, write_groups, write_messages, write_snapshots};
use self::{
    held::{already_stored, held_rows, held_slots, lock_slots, stand},
    rows::{drop_empty_slots, merge_slots, part_slots, write_slots},
};
use super::{Store, StoreError, session::Session, transaction::SHORT};
use crate::{domain::Timestamp, recording::Recording, slot::SlotKey};

pub(super) const DOING: &str = "storing what polls brought back";

/// What became of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// It is due again then.
    Due(SlotKey, Timestamp),
    /// It is due again then and no sooner, whatever was said before: the tables refuse it.
    PutOff(SlotKey, Timestamp),
    /// It is gone: its messages are done or have moved.
    Gone(SlotKey),
    /// It was made.
    Made(Made),
}

/// A slot that was made for messages that left another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, sqlx::FromRow)]
pub struct Made {
    /// The slot.
    #[sqlx(flatten)]
    pub slot: SlotKey,
    /// When it is due.
    pub next_poll_at: Timestamp,
    /// Whether polls of its messages have failed.
    pub fails: bool,
}

/// What a flush did.
#[derive(Debug, Default)]
pub(super) struct Flushed {
    pub committed: Vec<Committed>,
    /// Recordings of which somebody else holds a row just now.
    pub left: HashSet<SlotKey>,
}

/// Writes the recordings and tells what became of their slots. Those of the slots `tried` were in an attempt that failed: if it
/// was not answered, it may have been committed all the same.
pub(super) async fn flush(
    store: &Store,
    recordings: &[Recording],
    tried: &HashSet<SlotKey>,
) -> Result<Flushed, StoreError> {
    let wrote = oldest(recordings);
    store
        .run_recording(DOING, SHORT, wrote, async |database| {
            let sorted = sort(database, recordings, tried).await?;
            let written = write(database, &sorted.free, &sorted.locked).await?;
            sorted.end(database, written).await
        })
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

/// Recordings, by what is to be done about them.
#[derive(Debug)]
pub(super) struct Sorted<'r> {
    /// Those to be written: nobody else holds anything of them.
    pub free: Vec<&'r Recording>,
    /// The slots that are locked.
    pub locked: HashMap<SlotKey, Locked>,
    /// Those that an attempt has stored of which no answer came.
    stored: Vec<&'r Recording>,
    left: HashSet<SlotKey>,
}

/// Locks what the recordings are about, as far as nobody else holds it.
pub(super) async fn sort<'r>(
    connection: &mut Session,
    recordings: &'r [Recording],
    tried: &HashSet<SlotKey>,
) -> Result<Sorted<'r>, sqlx::Error> {
    let all: Vec<&Recording> = recordings.iter().collect();
    let locked = lock_slots(connection, &all).await?;
    // Looked up only now: a commit of which no answer came may be made at any time, and holds the slots until then.
    let (tried, mut fresh): (Vec<&Recording>, Vec<&Recording>) =
        all.into_iter().partition(|recording| tried.contains(&recording.slot));
    let stored = already_stored(connection, &tried).await?;
    let (stored, again): (Vec<&Recording>, Vec<&Recording>) =
        tried.into_iter().partition(|recording| stored.contains(&recording.slot));
    fresh.extend(again);
    let mut left = held_slots(connection, &fresh, &locked).await?;
    left.extend(held_rows(connection, &fresh).await?);
    let free = fresh.into_iter().filter(|recording| !left.contains(&recording.slot)).collect();
    Ok(Sorted { free, locked, stored, left })
}

impl Sorted<'_> {
    /// What became of all of them, where those that are free were `written`.
    pub async fn end(self, connection: &mut Session, mut written: Vec<Committed>) -> Result<Flushed, sqlx::Error> {
        written.extend(stand(connection, &self.stored).await?);
        Ok(Flushed { committed: written, left: self.left })
    }
}

/// Writes recordings whose slots are locked, as far as they still exist.
pub(super) async fn write(
    connection: &mut Session,
    recordings: &[&Recording],
    locked: &HashMap<SlotKey, Locked>,
) -> Result<Vec<Committed>, sqlx::Error> {
    merge_slots(connection, recordings, locked).await?;
    write_snapshots(connection, recordings).await?;
    write_messages(connection, recordings).await?;
    write_milestones(connection, recordings).await?;
    let made = part_slots(connection, recordings).await?;
    let due = write_slots(connection, recordings, locked).await?;
    let dropped = drop_empty_slots(connection, recordings).await?;
    write_groups(connection, recordings).await?;
    write_calls(connection, recordings).await?;
    let made = made.into_iter().map(Committed::Made);
    Ok(committed(recordings, locked, &due, &dropped).into_iter().chain(made).collect())
}

/// A slot as it stands when its recording is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Locked {
    joins: i32,
    next_poll_at: Timestamp,
}

/// The slot that a recording merges into its own, if both still exist: their owner may have emptied either meanwhile.
fn merged(recording: &Recording, locked: &HashMap<SlotKey, Locked>) -> Option<SlotKey> {
    let (absorbed, _) = recording.absorbs?;
    (locked.contains_key(&recording.slot) && locked.contains_key(&absorbed)).then_some(absorbed)
}

/// What became of every slot: those that were merged, dropped, or removed by their owner meanwhile are gone.
fn committed(
    recordings: &[&Recording],
    locked: &HashMap<SlotKey, Locked>,
    due: &HashMap<SlotKey, Timestamp>,
    dropped: &[SlotKey],
) -> Vec<Committed> {
    let own = recordings.iter().map(|recording| match due.get(&recording.slot) {
        Some(due) if !dropped.contains(&recording.slot) => Committed::Due(recording.slot, *due),
        _ => Committed::Gone(recording.slot),
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

pub(super) fn slots_of(recordings: &[&Recording]) -> Vec<SlotKey> {
    let absorbed = recordings.iter().filter_map(|recording| recording.absorbs.map(|(slot, _)| slot));
    recordings.iter().map(|recording| recording.slot).chain(absorbed).collect()
}
