//! The present contents of slots, split and merged. Mirrors `src/daemon/poller/contents.rs`.

use super::world::World;
use crate::{
    daemon::poller::contents::too_large,
    rules::slot::{Slot, SlotKey},
};

impl World {
    /// Mirrors `PollerStatus::slot_size`.
    pub fn slot_size(&self, daemon: usize) -> usize {
        let instant = self.instant();
        let term = self.daemons[daemon].term.as_ref();
        term.map_or(self.plan.batch_size, |term| term.polling.limit.slot_size(instant))
    }

    /// Mirrors the splitting of slots in `poller::contents`. `None` if the database fails meanwhile.
    pub fn splits(&mut self, daemon: usize, mut slots: Vec<Slot>, claimed: &mut Vec<SlotKey>) -> Option<Vec<Slot>> {
        let (clocks, size) = (self.clocks(daemon), self.slot_size(daemon));
        let (split, later) = too_large(&slots, size);
        if split.is_empty() {
            return Some(slots);
        }
        claimed.retain(|slot| !later.contains(slot));
        later.iter().for_each(|slot| self.polling(daemon).schedule.give_back(*slot, clocks));
        let is_held = self.daemons[daemon].fence().is_some_and(|fence| self.database.holds(&fence));
        if !is_held || (self.database_fault().is_some() && self.random.bool()) {
            return None;
        }
        for slot in &split {
            for (made, due) in self.database.split(*slot, size) {
                self.polling(daemon).schedule.learn_split(made, *slot, due, clocks);
            }
        }
        slots.retain(|slot| !split.contains(&slot.key) && !later.contains(&slot.key));
        slots.extend(self.database.read(&split));
        Some(slots)
    }

    /// Mirrors the merging of slots in `poller::contents`. `None` if the database fails meanwhile.
    pub fn merges(&mut self, daemon: usize, mut slots: Vec<Slot>, claimed: &mut Vec<SlotKey>) -> Option<Vec<Slot>> {
        let (batch_size, clocks) = (self.slot_size(daemon), self.clocks(daemon));
        let is_thin =
            |slot: &&Slot| !slot.messages.is_empty() && slot.messages.len() <= batch_size / 2 && slot.failures == 0;
        let thin: Vec<SlotKey> = slots.iter().filter(is_thin).map(|slot| slot.key).collect();
        for id in thin {
            let free = |slots: &[Slot], id| slots.iter().position(|slot| slot.key == id && slot.absorbs.is_none());
            let Some(at) = free(&slots, id) else { continue };
            let Some(other) = self.database.merge_candidate(&slots[at], batch_size) else { continue };
            let absorbed = if let Some(at) = free(&slots, other) {
                Some(slots.remove(at))
            } else if self.polling(daemon).schedule.claim(other) {
                claimed.push(other);
                if self.database_fault().is_some() && self.random.bool() {
                    return None;
                }
                self.database.read(&[other]).pop()
            } else {
                None
            };
            let Some(absorbed) = absorbed else { continue };
            match slots.iter_mut().find(|slot| slot.key == id) {
                Some(slot) if slot.may_absorb(&absorbed, batch_size) => slot.absorb(absorbed),
                _ => {
                    claimed.retain(|slot| *slot != absorbed.key);
                    self.polling(daemon).schedule.give_back(absorbed.key, clocks);
                }
            }
        }
        Some(slots)
    }
}
