//! Which due slots are taken from the schedule, and how they return.

use super::{Claimed, Lane, Now, Place, Schedule, USUAL, Waiting};
use crate::{domain::Timestamp, rules::slot::SlotKey};

/// Maximum number of slots from which one is drawn.
const DRAWN_FROM: usize = 10_000;

impl Schedule {
    /// Claims up to `count` due slots, the latest first, in terms of their own intervals. Up to `failing` of them may
    /// be slots whose last poll failed. At most every second one is a slot that an owner has added, while others are
    /// due.
    pub(crate) fn claim_due(&mut self, count: usize, mut failing: usize, now: Now) -> Vec<SlotKey> {
        let present = self.present(now);
        let mut claimed = Vec::with_capacity(count.min(64));
        while claimed.len() < count {
            let Some(slot) = self.next(failing > 0, present).filter(|slot| self.claim(*slot)) else { break };
            failing -= usize::from(self.failing.contains(&slot));
            claimed.push(slot);
        }
        claimed
    }

    fn next(&mut self, with_failing: bool, present: Place) -> Option<SlotKey> {
        let failing = self.due_failing.latest(present).filter(|_| with_failing);
        let polled = self.due.latest(present).into_iter().chain(failing).filter(|(late, _)| *late >= 0.0);
        let polled = polled.max_by(|one, other| one.0.total_cmp(&other.0));
        let added = self.added.latest(present);
        let takes_added = match (polled, added) {
            (Some((late, _)), Some((added_late, _))) => !self.was_added && added_late > late,
            (_, added) => added.is_some(),
        };
        self.was_added = takes_added;
        if takes_added { added } else { polled }.map(|(_, slot)| slot)
    }

    /// Claims up to `count` due slots, first those whose last poll did not fail. `draw` returns a fraction from 0 to 1,
    /// the position in the order of due times from which a slot is taken. So failing slots that are due together can't
    /// block all others.
    pub(crate) fn claim_drawn(&mut self, count: usize, mut draw: impl FnMut() -> f64, now: Now) -> Vec<SlotKey> {
        let present = self.present(now);
        let due = |lane: &Lane| {
            let mut due = lane.soonest(DRAWN_FROM);
            due.retain(|(place, _)| *place <= present);
            due
        };
        let well = [due(&self.due), self.added.soonest(DRAWN_FROM)].concat();
        let mut claimed = Vec::with_capacity(count.min(64));
        for mut drawn_from in [well, due(&self.due_failing)] {
            while claimed.len() < count && !drawn_from.is_empty() {
                let at = ((draw() * drawn_from.len() as f64) as usize).min(drawn_from.len() - 1);
                let (_, slot) = drawn_from.remove(at);
                claimed.extend(Some(slot).filter(|slot| self.claim(*slot)));
            }
        }
        claimed
    }

    /// Claims up to `count` slots early, in the order of their due times.
    pub(crate) fn claim_soonest(&mut self, count: usize) -> Vec<SlotKey> {
        let mut soonest = self.due.soonest(count);
        soonest.retain(|(_, slot)| self.claim(*slot));
        soonest.into_iter().map(|(_, slot)| slot).collect()
    }

    /// Claims one slot early, if it is waiting.
    pub(crate) fn claim(&mut self, slot: SlotKey) -> bool {
        self.waiting.contains_key(&slot) && self.claim_unknown(slot)
    }

    /// Claims a slot whether it is known or not, unless it is in a poll.
    pub(crate) fn claim_unknown(&mut self, slot: SlotKey) -> bool {
        if self.claimed.contains_key(&slot) {
            return false;
        }
        let was = self.unlist(slot);
        self.insert_claimed(slot, Claimed { was, pending: None, every: was.map_or(USUAL, |was| was.every) });
        true
    }

    /// Ends a claim: the slot is due at this time, or sooner if that was requested meanwhile.
    pub(crate) fn release(&mut self, slot: SlotKey, due: Timestamp, now: Now) {
        let (place, every) = (self.place(due, now), self.every(slot));
        let pending = self.remove_claimed(slot).and_then(|claimed| claimed.pending);
        self.wait(slot, Waiting { place: pending.map_or(place, |pending| pending.min(place)), every, added: 0 });
    }

    /// Ends a claim without a poll: the slot's due time is unchanged, on its original clock.
    pub(crate) fn give_back(&mut self, slot: SlotKey, now: Now) {
        if let Some(Claimed { was, pending, every }) = self.remove_claimed(slot) {
            let place = self.present(now);
            let was = was.unwrap_or(Waiting { place, every, added: 0 });
            match was.added {
                0 => self
                    .wait(slot, Waiting { place: pending.map_or(was.place, |pending| pending.min(was.place)), ..was }),
                _ => self.add(slot, was.place, every),
            }
        }
    }

    /// Ends a claim: the slot is due at this time and no sooner, also if that was requested meanwhile.
    pub(crate) fn put_off(&mut self, slot: SlotKey, due: Timestamp, now: Now) {
        let every = self.every(slot);
        self.remove_claimed(slot);
        self.wait(slot, Waiting { place: self.place(due, now), every, added: 0 });
    }

    /// Ends a claim of a slot that must not be polled for now: it is forgotten, unless it was requested meanwhile.
    pub(crate) fn forget(&mut self, slot: SlotKey) {
        match self.remove_claimed(slot) {
            Some(Claimed { pending: Some(place), every, .. }) => {
                self.wait(slot, Waiting { place, every, added: 0 });
            }
            _ => {
                self.unlist(slot);
                self.failing.remove(&slot);
            }
        }
    }
}
