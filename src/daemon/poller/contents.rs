//! The present contents of due slots: split if they are larger than a batch, paired with a neighbour if they are
//! thin.

use chrono::TimeDelta;

use super::Poller;
use crate::{
    rules::slot::{Slot, SlotKey},
    store::StoreError,
};

/// Delay before a slot that can't be split, because another session has locked a part of it, is tried again.
const SPLIT_AGAIN: TimeDelta = TimeDelta::seconds(1);

/// Maximum number of slots split per round of the loop, each in its own transaction. The others wait for the next
/// round.
const SPLITS: usize = 4;

/// The slots that are larger than a batch: those to split in this round, and those that wait for the next.
pub(super) fn too_large(slots: &[Slot], batch_size: usize) -> (Vec<SlotKey>, Vec<SlotKey>) {
    let large = slots.iter().filter(|slot| slot.messages.len() > batch_size);
    let mut split: Vec<SlotKey> = large.map(|slot| slot.key).collect();
    let later = split.split_off(split.len().min(SPLITS));
    (split, later)
}

impl Poller {
    /// Reads the present contents of the slots. Thin slots absorb a neighbour that fits; those larger than a batch
    /// are split. Newly claimed slots are added to `claimed`, also if this fails: the caller is responsible for all
    /// of them.
    pub(super) async fn read(&mut self, claimed: &mut Vec<SlotKey>) -> Result<Vec<Slot>, StoreError> {
        let batch_size = self.status.slot_size();
        let mut slots = self.store.read_slots(claimed).await?;
        // Each of these has its own deadline; together they may take longer than a watchdog waits.
        self.heartbeat.beat();
        let (split, later) = too_large(&slots, batch_size);
        slots.retain(|slot| !later.contains(&slot.key));
        claimed.retain(|slot| !later.contains(slot));
        later.into_iter().for_each(|slot| self.schedule.give_back(slot, self.now()));
        for slot in slots.iter().filter(|slot| split.contains(&slot.key)) {
            for (made, due) in self.store.split_slot(slot, batch_size).await? {
                self.schedule.learn_split(made, slot.key, due, self.now());
            }
            self.heartbeat.beat();
        }
        if !split.is_empty() {
            slots.retain(|slot| !split.contains(&slot.key));
            for slot in self.store.read_slots(&split).await? {
                if slot.messages.len() > batch_size {
                    claimed.retain(|other| *other != slot.key);
                    let now = self.now();
                    self.schedule.release(slot.key, now.time + SPLIT_AGAIN, now);
                } else {
                    slots.push(slot);
                }
            }
        }
        self.heartbeat.beat();
        self.merge(&mut slots, claimed).await?;
        Ok(slots)
    }

    /// Pairs thin slots with a neighbour that fits into the same call. Only slots that are waiting, or also just due,
    /// can be absorbed: a slot in another poll has another last poll.
    async fn merge(&mut self, slots: &mut Vec<Slot>, claimed: &mut Vec<SlotKey>) -> Result<(), StoreError> {
        let batch_size = self.status.slot_size();
        let is_thin =
            |slot: &&Slot| !slot.messages.is_empty() && slot.messages.len() <= batch_size / 2 && slot.failures == 0;
        let thin: Vec<SlotKey> = slots.iter().filter(is_thin).map(|slot| slot.key).collect();
        if thin.is_empty() {
            return Ok(());
        }
        for (slot, other) in self.store.merge_candidates(&thin, batch_size).await? {
            let is_free = |id: SlotKey| slots.iter().any(|slot| slot.key == id && slot.absorbs.is_none());
            if !is_free(slot) {
                continue;
            }
            let absorbed = if is_free(other) {
                slots.iter().position(|slot| slot.key == other).map(|index| slots.remove(index))
            } else if self.schedule.claim(other) {
                claimed.push(other);
                self.heartbeat.beat();
                self.store.read_slots(&[other]).await?.pop()
            } else {
                None
            };
            let Some(absorbed) = absorbed else { continue };
            match slots.iter_mut().find(|held| held.key == slot) {
                Some(slot) if slot.may_absorb(&absorbed, batch_size) => slot.absorb(absorbed),
                _ => {
                    claimed.retain(|slot| *slot != absorbed.key);
                    self.schedule.give_back(absorbed.key, self.now());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::polling::poll_progress::tests::slot;

    #[test]
    fn a_turn_splits_few_slots_and_leaves_the_others_to_the_next() {
        let of = |messages: i64, slot_id| Slot { key: SlotKey { group_key: 1, slot_id }, ..slot(messages) };
        let mut slots: Vec<Slot> = (1..=9).map(|id| of(if id % 3 == 0 { 10 } else { 11 }, id)).collect();
        let keys = |slots: &[SlotKey]| slots.iter().map(|slot| slot.slot_id).collect::<Vec<_>>();
        let (split, later) = too_large(&slots, 10);
        assert_eq!((keys(&split), keys(&later)), (vec![1, 2, 4, 5], vec![7, 8]));
        slots.retain(|slot| later.contains(&slot.key));
        let (split, later) = too_large(&slots, 10);
        assert_eq!((keys(&split), keys(&later)), (vec![7, 8], vec![]));
    }
}
