//! How the model of the database stores polls, like `store::flush` in its transaction.

use std::collections::HashSet;

use super::{
    database::{Database, Message, Numbered, Quarantine, SlotRow, wall},
    service::read_every,
};
use crate::{
    domain::MsgSeq,
    rules::{
        database_clock::APART,
        recording::{Contents, GroupChange, Kept, Outcome, Part, Snapshot},
        slot::{GroupKey, NewSlot, SlotKey, SlotMessage},
        writing::Committed,
    },
};

impl Database {
    /// Writes polls, like `store::flush`, and returns the results for their slots, and the slots of polls of which
    /// nothing was written since they were changed.
    pub fn flush(&mut self, polls: &[Numbered]) -> (Vec<Committed>, HashSet<SlotKey>) {
        let (mut committed, mut changed) = (vec![], HashSet::new());
        for Numbered { id, kept } in polls {
            if self.is_as_read(kept) {
                *self.stored.entry(*id).or_default() += 1;
                self.write(kept);
                committed.extend(self.became(kept));
            } else {
                changed.insert(kept.recording.slot);
            }
        }
        (committed, changed)
    }

    fn is_as_read(&self, kept: &Kept) -> bool {
        let recording = &kept.recording;
        let is_version = |(slot, version)| self.slots.get(&slot).is_some_and(|row| row.version == version);
        kept.is_slot_gone || (is_version((recording.slot, kept.version())) && recording.absorbs.is_none_or(is_version))
    }

    fn became(&self, kept: &Kept) -> Vec<Committed> {
        let of = |slot: SlotKey| match self.slots.get(&slot) {
            Some(row) => Committed::Due(slot, row.next_poll_at),
            None => Committed::Gone(slot),
        };
        let made =
            if kept.recording.parts.is_empty() { vec![] } else { self.slots_of_group(kept.recording.slot.group_key) };
        kept.slots().map(of).chain(made.into_iter().map(Committed::NewSlot)).collect()
    }

    pub fn slots_of_group(&self, group: GroupKey) -> Vec<NewSlot> {
        let of_group = self.slots.iter().filter(|(slot, _)| slot.group_key == group);
        let made = |(slot, row): (&SlotKey, &SlotRow)| NewSlot {
            slot: *slot,
            next_poll_at: row.next_poll_at,
            fails: row.failures > 0,
        };
        of_group.map(made).collect()
    }

    fn write(&mut self, kept: &Kept) {
        let recording = &kept.recording;
        recording.snapshots.iter().for_each(|snapshot| self.write_snapshot(recording.slot.group_key, snapshot));
        self.write_slot(kept);
        match &recording.group {
            Some(GroupChange::Quarantine { probe_at, .. }) => {
                self.quarantined.insert(recording.slot.group_key, Quarantine { probe_at: *probe_at });
            }
            Some(GroupChange::Release) if self.quarantined.remove(&recording.slot.group_key).is_some() => {
                self.changed.insert(recording.slot.group_key);
            }
            _ => {}
        }
    }

    fn write_snapshot(&mut self, group: GroupKey, snapshot: &Snapshot) {
        let row = (snapshot.polled_at, snapshot.receipt);
        let key = (group, snapshot.seq);
        let before = self.latest.insert(key, row);
        // Times further ahead are corrected.
        let before_now = before.filter(|before| before.0 <= row.0 + APART);
        if before_now.is_some_and(|before| before.0 >= row.0 || before.1 == row.1) {
            self.odd = Some(format!("a snapshot of {key:?} says {row:?} after {before:?}"));
        }
        let had_counts = before.is_some_and(|before| before.1.counts.is_some());
        if self.clocks_are_right && had_counts && !holds_the_truth(key, snapshot) {
            self.odd = Some(format!("{snapshot:?} of {key:?} does not hold when it was read"));
        }
    }

    fn write_slot(&mut self, kept: &Kept) {
        let (recording, slot) = (&kept.recording, kept.recording.slot);
        if kept.is_slot_gone || kept.drops_slot() {
            self.slots.remove(&slot);
            return;
        }
        let Outcome { contents, closed, parts } = kept.outcome(&[]);
        if let Some((other, _)) = recording.absorbs {
            self.slots.remove(&other);
            let moving = self.messages.values_mut().filter(|message| message.slot_id == Some(other));
            moving.for_each(|message| message.slot_id = Some(slot));
        }
        let row = self.slots.get_mut(&slot).unwrap();
        row.version += 1;
        row.next_poll_at = recording.next_poll_at;
        (row.last_polled_at, row.known_until) = (recording.last_polled_at, recording.known_until);
        (row.quiet_polls, row.failures) = (recording.quiet_polls, recording.failures);
        row.last_called_at = kept.last_called_at();
        match contents {
            Contents::Same => {}
            Contents::Counted(messages) | Contents::Other(messages) => row.messages = messages,
        }
        for (known, why) in closed {
            let message = self.messages.get_mut(&(slot.group_key, known.seq)).unwrap();
            *message = Message { is_active: false, slot_id: None, known, closed: Some(why) };
        }
        recording.parts.iter().zip(parts).for_each(|(part, messages)| self.part(slot, part, messages));
    }

    fn part(&mut self, slot: SlotKey, part: &Part, messages: Vec<SlotMessage>) {
        self.last_slot += 1;
        let made = SlotKey { slot_id: self.last_slot, ..slot };
        for message in &messages {
            self.messages.get_mut(&(slot.group_key, message.seq)).unwrap().slot_id = Some(made);
        }
        let row = SlotRow {
            last_polled_at: part.last_polled_at,
            known_until: part.known_until,
            failures: part.failures,
            ..SlotRow::holding(messages, part.next_poll_at)
        };
        self.slots.insert(made, row);
    }
}

/// Whether all members who have read a message since the previous row did so within the interval of this one.
fn holds_the_truth((group, seq): (GroupKey, MsgSeq), snapshot: &Snapshot) -> bool {
    let Some(after) = snapshot.prior_polled_at else { return true };
    let read_at = |count: u32| wall(u64::from(count) * read_every(group, seq), 0);
    let Some((before, counts)) = snapshot.prior_read_num.zip(snapshot.receipt.counts) else { return true };
    counts.read() == before || after < read_at(before + 1) && read_at(counts.read()) <= snapshot.polled_at
}
