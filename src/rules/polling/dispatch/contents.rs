//! The present contents of claimed slots. Slots larger than a batch are split; thin ones are paired with a neighbour.

use std::collections::VecDeque;

use chrono::TimeDelta;

use super::{Claimed, Dispatch};
use crate::{
    domain::Timestamp,
    rules::{
        polling::schedule::Now,
        slot::{Slot, SlotKey},
    },
};

/// Delay before a slot that can't be split, because another session has locked a part of it, is tried again.
const SPLIT_AGAIN: TimeDelta = TimeDelta::seconds(1);

/// Maximum number of slots split per round, each in its own transaction. The others wait for the next round.
const SPLITS: usize = 4;

/// What to ask the database for.
#[derive(Debug, Clone)]
pub(crate) enum ContentsTask {
    /// Read these slots.
    Read(Vec<SlotKey>),
    /// Split this slot into parts of at most this number of messages.
    Split(Slot, usize),
    /// For each of these slots, find a neighbour in its group that fits into one call with it, of at most this number
    /// of messages.
    FindNeighbours(Vec<SlotKey>, usize),
}

#[derive(Debug)]
enum Stage {
    Reading,
    /// Slots to be split, the first one now.
    Splitting(VecDeque<Slot>, Vec<SlotKey>),
    ReadingSplit(Vec<SlotKey>),
    Pairing,
    /// Slots and the neighbours that they may absorb, the first pair now.
    Absorbing(VecDeque<(SlotKey, SlotKey)>),
}

/// The contents of claimed slots, as far as they have been read.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Maximum number of messages of a slot.
    size: usize,
    slots: Vec<Slot>,
    stage: Stage,
}

impl Contents {
    /// Contents of which nothing has been read yet, for slots of up to `size` messages.
    pub(crate) fn new(size: usize) -> Self {
        Self { size, slots: vec![], stage: Stage::Reading }
    }

    fn is_free(&self, id: SlotKey) -> bool {
        self.slots.iter().any(|slot| slot.key == id && slot.absorbs.is_none())
    }

    /// Whether `slot` may absorb `other`, which has not been read yet.
    fn must_read(&self, slot: SlotKey, other: SlotKey) -> bool {
        self.is_free(slot) && !self.is_free(other)
    }

    /// Takes out `other`, if it has been read and `slot` may absorb it.
    fn take_for(&mut self, slot: SlotKey, other: SlotKey) -> Option<Slot> {
        let at = self.slots.iter().position(|slot| slot.key == other)?;
        (self.is_free(slot) && self.is_free(other)).then(|| self.slots.remove(at))
    }
}

impl Dispatch {
    /// The next request, or the contents of the slots. Slots that have to wait leave `claimed`, and newly claimed ones
    /// are added.
    pub(crate) fn read_next(
        &mut self,
        contents: &mut Contents,
        claimed: &mut Claimed,
        now: Now,
    ) -> Result<ContentsTask, Vec<Slot>> {
        loop {
            match &mut contents.stage {
                Stage::Reading => return Ok(ContentsTask::Read(claimed.slots.clone())),
                Stage::Splitting(slots, split) => match slots.front() {
                    Some(slot) => return Ok(ContentsTask::Split(slot.clone(), contents.size)),
                    None if split.is_empty() => contents.stage = Stage::Pairing,
                    None => contents.stage = Stage::ReadingSplit(std::mem::take(split)),
                },
                Stage::ReadingSplit(split) => return Ok(ContentsTask::Read(split.clone())),
                Stage::Pairing => {
                    let thin = contents.slots.iter().filter(|slot| is_thin(slot, contents.size));
                    let thin: Vec<SlotKey> = thin.map(|slot| slot.key).collect();
                    if !thin.is_empty() {
                        return Ok(ContentsTask::FindNeighbours(thin, contents.size));
                    }
                    contents.stage = Stage::Absorbing(VecDeque::new());
                }
                Stage::Absorbing(pairs) => match pairs.front().copied() {
                    None => return Err(std::mem::take(&mut contents.slots)),
                    // Only slots that are waiting or also due can be absorbed: a slot in another poll has another last
                    // poll.
                    Some((slot, other)) if contents.must_read(slot, other) && self.schedule.claim(other) => {
                        claimed.slots.push(other);
                        return Ok(ContentsTask::Read(vec![other]));
                    }
                    Some((slot, other)) => {
                        let absorbed = contents.take_for(slot, other);
                        self.absorb(contents, claimed, absorbed, now);
                    }
                },
            }
        }
    }

    /// Adds the requested slots, as far as they exist.
    pub(crate) fn has_read(&mut self, contents: &mut Contents, claimed: &mut Claimed, read: Vec<Slot>, now: Now) {
        match &contents.stage {
            Stage::Reading => {
                let (split, later, slots) = sort(read, contents.size);
                claimed.slots.retain(|slot| !later.contains(slot));
                later.into_iter().for_each(|slot| self.give_back(claimed, slot, now));
                let keys = split.iter().map(|slot| slot.key).collect();
                (contents.slots, contents.stage) = (slots, Stage::Splitting(split.into(), keys));
            }
            Stage::ReadingSplit(_) => {
                let (large, fitting): (Vec<Slot>, Vec<Slot>) =
                    read.into_iter().partition(|slot| slot.messages.len() > contents.size);
                for slot in large {
                    claimed.slots.retain(|other| *other != slot.key);
                    self.schedule.release(slot.key, now.time + SPLIT_AGAIN, now);
                }
                contents.slots.extend(fitting);
                contents.stage = Stage::Pairing;
            }
            _ => self.absorb(contents, claimed, read.into_iter().next(), now),
        }
    }

    /// Reports that the slot was split, and these were created, with their due times.
    pub(crate) fn has_split(&mut self, contents: &mut Contents, made: Vec<(SlotKey, Timestamp)>, now: Now) {
        let Stage::Splitting(slots, _) = &mut contents.stage else { return };
        let Some(from) = slots.pop_front() else { return };
        made.into_iter().for_each(|(slot, due)| self.schedule.learn_split(slot, from.key, due, now));
    }

    /// Adds the neighbours of thin slots.
    pub(crate) fn has_found(&mut self, contents: &mut Contents, pairs: Vec<(SlotKey, SlotKey)>) {
        contents.stage = Stage::Absorbing(pairs.into());
    }

    /// Lets the first slot absorb its neighbour, if there is one and both still fit into one call.
    fn absorb(&mut self, contents: &mut Contents, claimed: &mut Claimed, absorbed: Option<Slot>, now: Now) {
        let Stage::Absorbing(pairs) = &mut contents.stage else { return };
        let Some(((slot, _), absorbed)) = pairs.pop_front().zip(absorbed) else { return };
        match contents.slots.iter_mut().find(|held| held.key == slot) {
            Some(slot) if slot.may_absorb(&absorbed, contents.size) => slot.absorb(absorbed),
            _ => {
                claimed.slots.retain(|slot| *slot != absorbed.key);
                self.give_back(claimed, absorbed.key, now);
            }
        }
    }
}

fn is_thin(slot: &Slot, size: usize) -> bool {
    !slot.messages.is_empty() && slot.messages.len() <= size / 2 && slot.failures == 0
}

/// The slots that are larger than a batch and are split in this round, those that are split in a later one, and the
/// others.
fn sort(slots: Vec<Slot>, size: usize) -> (Vec<Slot>, Vec<SlotKey>, Vec<Slot>) {
    let (mut large, fitting): (Vec<Slot>, Vec<Slot>) = slots.into_iter().partition(|slot| slot.messages.len() > size);
    let later = large.split_off(large.len().min(SPLITS));
    (large, later.iter().map(|slot| slot.key).collect(), fitting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::polling::poll_progress::tests::slot;

    #[test]
    fn a_round_splits_few_slots_and_leaves_the_others_to_the_next() {
        let of = |messages: i64, slot_id| Slot { key: SlotKey { group_key: 1, slot_id }, ..slot(messages) };
        let slots: Vec<Slot> = (1..=9).map(|id| of(if id % 3 == 0 { 10 } else { 11 }, id)).collect();
        let ids = |slots: &[Slot]| slots.iter().map(|slot| slot.key.slot_id).collect::<Vec<_>>();
        let (split, later, fitting) = sort(slots.clone(), 10);
        let later: Vec<i64> = later.iter().map(|slot| slot.slot_id).collect();
        assert_eq!((ids(&split), &later[..], ids(&fitting)), (vec![1, 2, 4, 5], &[7, 8][..], vec![3, 6, 9]));
        let rest = slots.into_iter().filter(|slot| later.contains(&slot.key.slot_id)).collect();
        assert_eq!(ids(&sort(rest, 10).0), [7, 8]);
    }
}
