//! A flush: all results of a batch of polls, in one transaction.
//!
//! First come rows that others may lock or change, slots before their messages; they are not waited for. A slot that
//! was changed since it was read is not returned, and nothing else of its poll is written. Then come rows that are
//! only inserted: snapshots and calls.

mod added;
mod item;
mod late;
mod milestones;
mod rows;
mod unwatched;

use std::collections::HashSet;

use self::rows::{drop_slots, mend_slots, merge_slots, part_slots};
pub(super) use self::{
    added::{write_calls, write_snapshots},
    item::Item,
    late::write_late,
    milestones::write_milestones,
    rows::{close_messages, release_strays, write_groups},
    unwatched::write_unwatched,
};
use super::{
    Store, StoreError,
    brief::Brief,
    readers::write_moves,
    slot_rows::{SlotRow, update_slots},
    statement::query_scalar,
    transaction::SHORT,
};
use crate::{
    domain::Timestamp,
    rules::{
        recording::{Kept, Recording},
        slot::{GroupKey, NewSlot, SlotKey},
        writing::Committed,
    },
    store::connection::StoreConnection,
};

const DOING: &str = "storing results";

/// The result of a flush.
#[derive(Debug, Default)]
pub(crate) struct Flushed {
    pub committed: Vec<Committed>,
    /// The slots of polls of which nothing was written, because they were changed since they were read.
    pub changed: HashSet<SlotKey>,
    /// Number of messages that left their slots during the poll, and whose receipts could not be stored.
    pub dropped: usize,
}

/// Writes polls and returns the results for their slots.
pub(crate) async fn flush(store: &Store, polls: &[Kept]) -> Result<Brief<Flushed>, StoreError> {
    match flush_once(store, polls, false).await {
        // Plain inserts are cheaper. A snapshot only exists already if a clock was set, which is very rare.
        Err(error) if error.sqlstate().is_some_and(|sqlstate| sqlstate == "23505") => {
            flush_once(store, polls, true).await
        }
        flushed => flushed,
    }
}

async fn flush_once(store: &Store, polls: &[Kept], replaces: bool) -> Result<Brief<Flushed>, StoreError> {
    let (wrote, now) = (oldest(polls), store.clock().now());
    store
        .run_briefly(DOING, SHORT, wrote, async |database, rows| {
            let items: Vec<Item<'_>> = polls.iter().map(|kept| Item::of(kept, &[])).collect();
            let (here, changed): (Vec<&Item<'_>>, Vec<&Item<'_>>) = write_slots(database, &items).await?;
            let made = write_rows(database, &here).await?;
            let kept: Vec<&Kept> = here.iter().map(|item| item.kept).collect();
            let kept = without_forgotten(database, kept).await?;
            let (unwatched, dropped) = write_unwatched(database, &kept).await?;
            let recordings: Vec<&Recording> = kept.iter().map(|kept| &kept.recording).chain(&unwatched).collect();
            write_milestones(database, &recordings).await?;
            write_late(database, &recordings, now).await?;
            write_groups(database, &recordings, true).await?;
            rows.are_ours(database).await?;
            write_snapshots(database, &recordings, replaces).await?;
            write_moves(database, &kept).await?;
            write_calls(database, &recordings).await?;
            let committed =
                here.iter().flat_map(|item| committed(item)).chain(made.into_iter().map(Committed::NewSlot));
            Ok(Flushed {
                committed: committed.collect(),
                changed: changed.iter().map(|item| item.recording().slot).collect(),
                dropped,
            })
        })
        .await
}

/// Leaves out polls of forgotten groups: their slots are gone, and nothing about them must be written. Until the end of
/// the transaction, none of the other groups can be forgotten.
async fn without_forgotten<'k>(
    connection: &mut StoreConnection,
    mut polls: Vec<&'k Kept>,
) -> Result<Vec<&'k Kept>, sqlx::Error> {
    let group = |kept: &Kept| kept.recording.slot.group_key;
    let gone: Vec<GroupKey> = polls.iter().filter(|kept| kept.is_slot_gone).map(|kept| group(kept)).collect();
    if !gone.is_empty() {
        let there = query_scalar(
            "SELECT group_key FROM receiptd.watched_groups WHERE group_key = ANY ($1) ORDER BY group_key FOR KEY SHARE",
        );
        let there: Vec<GroupKey> = there.bind(gone).fetch_all(connection).await?;
        polls.retain(|kept| !kept.is_slot_gone || there.contains(&group(kept)));
    }
    Ok(polls)
}

/// The time of the oldest row.
pub(super) fn oldest(polls: &[Kept]) -> Option<Timestamp> {
    let times = |recording: &Recording| {
        let polled = recording.snapshots.iter().map(|snapshot| snapshot.polled_at);
        recording.attempts.iter().map(|attempt| attempt.called_at).chain(polled).min()
    };
    polls.iter().filter_map(|kept| times(&kept.recording)).min()
}

/// Writes the slots. Returns the polls with unchanged slots, and the others.
pub(super) async fn write_slots<'i, 'k>(
    connection: &mut StoreConnection,
    items: &'i [Item<'k>],
) -> Result<(Vec<&'i Item<'k>>, Vec<&'i Item<'k>>), sqlx::Error> {
    let is_written = |item: &&Item<'_>| !item.kept.is_slot_gone && !item.kept.drops_slot();
    let rows: Vec<SlotRow<'_>> = items.iter().filter(is_written).map(Item::slot).collect();
    let mut back = update_slots(connection, &rows).await?;
    back.extend(drop_slots(connection, items).await?);
    Ok(items.iter().partition(|item| item.kept.is_slot_gone || back.contains(&item.recording().slot)))
}

/// Writes everything that belongs to written slots. Returns the created ones.
pub(super) async fn write_rows(
    connection: &mut StoreConnection,
    items: &[&Item<'_>],
) -> Result<Vec<NewSlot>, sqlx::Error> {
    merge_slots(connection, items).await?;
    close_messages(connection, items).await?;
    let made = part_slots(connection, items).await?;
    mend_slots(connection, items).await?;
    Ok(made)
}

/// The results for the slots of a written poll. For events, only slots that become due sooner, since they may be in a
/// poll.
pub(super) fn committed(item: &Item<'_>) -> impl Iterator<Item = Committed> + use<> {
    let recording = item.recording();
    let sooner = Some(Committed::Sooner(recording.slot, recording.next_poll_at))
        .filter(|_| recording.next_poll_at < item.kept.was_due_at());
    let own = match item.kept.is_slot_gone || item.kept.drops_slot() {
        true => Committed::Gone(recording.slot),
        false => Committed::Due(recording.slot, recording.next_poll_at),
    };
    let own = if item.kept.is_of_events() { sooner } else { Some(own) };
    own.into_iter().chain(recording.absorbs.map(|(slot, _)| Committed::Gone(slot)))
}
