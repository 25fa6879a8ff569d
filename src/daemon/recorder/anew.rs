//! Polls whose slots were changed since they were read: decided again on the present slots. Nothing is written here.

use std::collections::HashMap;

use super::Recorder;
use crate::{
    rules::{
        recording::{Anew, Kept},
        slot::{Slot, SlotKey},
    },
    store::{Committed, StoreError},
};

impl Recorder {
    /// Decides again about polls whose slots were changed. Polls stored already by an unanswered commit are done.
    pub(super) async fn decide_anew(&mut self, part: &[Kept]) -> Result<Vec<Kept>, StoreError> {
        let keys: Vec<SlotKey> = part.iter().flat_map(Kept::slots).collect();
        let read = self.store.read_slots(&keys).await?;
        let mut slots: HashMap<SlotKey, Slot> = read.into_iter().map(|slot| (slot.key, slot)).collect();
        let (mut decided, mut stored) = (vec![], vec![]);
        for kept in part {
            let (own, absorbed) = (kept.recording.slot, kept.recording.absorbs.map(|(slot, _)| slot));
            let (now, other) = (slots.remove(&own), absorbed.and_then(|slot| slots.remove(&slot)));
            // The absorbed slot is separate if the absorbing one no longer exists, and no longer exists itself if it
            // can't be read.
            match (&other, absorbed) {
                (Some(other), _) if now.is_none() => self.tell(Committed::Due(other.key, other.next_poll_at)),
                (None, Some(absorbed)) => self.tell(Committed::Gone(absorbed)),
                _ => {}
            }
            match kept.clone().anew(now, other) {
                Anew::Decided(kept) if kept.is_slot_gone && kept.drops_slot() => self.tell(Committed::Gone(own)),
                Anew::Decided(kept) => decided.push(*kept),
                Anew::Stored(due) => {
                    due.into_iter().for_each(|(slot, due)| self.tell(Committed::Due(slot, due)));
                    stored.push(kept);
                }
            }
        }
        for kept in stored.iter().filter(|kept| !kept.recording.parts.is_empty()) {
            let made = self.store.slots_of_group(kept.recording.slot.group_key).await?;
            made.into_iter().for_each(|made| self.tell(Committed::NewSlot(made)));
        }
        self.count(&stored);
        Ok(decided)
    }
}
