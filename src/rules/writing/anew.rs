//! Polls whose slots have changed since they were read: decided again on the present slots.

use std::{
    borrow::BorrowMut,
    collections::{BTreeMap, BTreeSet},
};

use super::task::Committed;
use crate::rules::{
    recording::{Anew, Kept},
    slot::{GroupKey, NewSlot, Slot, SlotKey},
};

/// The present state in the database.
#[derive(Debug, Clone, Default)]
pub(crate) struct Present {
    /// The slots of the polls, as far as they exist, and those of the messages of events, which may have moved.
    pub slots: Vec<Slot>,
    /// All slots of the groups in which the polls may have created some.
    pub of_groups: Vec<NewSlot>,
}

/// The outcome for polls that are decided again.
#[derive(Debug)]
pub(crate) struct Decided<T> {
    /// They have to be written.
    pub polls: Vec<T>,
    /// They were already stored by a commit whose answer was lost.
    pub stored: Vec<T>,
    /// Nothing is left to be written: they would have deleted an empty slot that is gone, or the counts of events are
    /// known.
    pub needless: Vec<T>,
    /// The results for the slots.
    pub committed: Vec<Committed>,
}

/// The slots to read before these polls can be decided again, and the groups all of whose slots have to be read.
pub(crate) fn to_read<T: BorrowMut<Kept>>(polls: &[T]) -> (Vec<SlotKey>, BTreeSet<GroupKey>) {
    let kept = || polls.iter().map(|poll| poll.borrow());
    let groups = kept().filter(|kept| !kept.recording.parts.is_empty()).map(|kept| kept.recording.slot.group_key);
    (kept().flat_map(Kept::slots).collect(), groups.collect())
}

/// Decides again about polls whose slots were changed.
pub(super) fn decide<T: BorrowMut<Kept>>(polls: Vec<T>, present: Present) -> Decided<T> {
    let slots: BTreeMap<SlotKey, Slot> = present.slots.into_iter().map(|slot| (slot.key, slot)).collect();
    let mut decided = Decided { polls: vec![], stored: vec![], needless: vec![], committed: vec![] };
    for mut poll in polls {
        let kept: &Kept = poll.borrow();
        let (own, absorbed) = (kept.recording.slot, kept.recording.absorbs.map(|(slot, _)| slot));
        let now = if kept.is_of_events() {
            // If their messages have moved to several slots, polls find the changes of the others.
            let holds = |slot: &&Slot| kept.hears_of(slot);
            slots.get(&own).filter(holds).or_else(|| slots.values().find(holds))
        } else {
            slots.get(&own)
        };
        let (now, other) = (now.cloned(), absorbed.and_then(|slot| slots.get(&slot)).cloned());
        // The absorbed slot is separate if the absorbing one no longer exists. If it can't be read, it no longer exists
        // itself.
        match (&other, absorbed) {
            (Some(other), _) if now.is_none() => {
                decided.committed.push(Committed::Due(other.key, other.next_poll_at));
            }
            (None, Some(absorbed)) => decided.committed.push(Committed::Gone(absorbed)),
            _ => {}
        }
        let has_parts = !kept.recording.parts.is_empty();
        let separate = other.as_ref().map(|other| (other.key, other.next_poll_at)).filter(|_| now.is_some());
        match kept.clone().anew(now, other) {
            Anew::Decided(kept) if kept.is_slot_gone && kept.drops_slot() => {
                decided.committed.push(Committed::Gone(own));
                decided.needless.push(poll);
            }
            Anew::Nothing => decided.needless.push(poll),
            Anew::Decided(kept) => {
                // Events have told more since than the common poll: its slots stay separate.
                let separate = separate.filter(|_| kept.recording.absorbs.is_none());
                decided.committed.extend(separate.map(|(slot, due)| Committed::Due(slot, due)));
                *poll.borrow_mut() = *kept;
                decided.polls.push(poll);
            }
            Anew::Stored(due) => {
                decided.committed.extend(due.into_iter().map(|(slot, due)| Committed::Due(slot, due)));
                let of_group =
                    present.of_groups.iter().filter(|made| has_parts && made.slot.group_key == own.group_key);
                decided.committed.extend(of_group.copied().map(Committed::NewSlot));
                decided.stored.push(poll);
            }
        }
    }
    decided
}

#[cfg(test)]
mod tests;
