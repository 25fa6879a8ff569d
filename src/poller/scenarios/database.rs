//! A model of the database: the rows that matter, each operation as one step, as its transaction has it in `src/store`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::TimeDelta;

use super::service::read_every;
use crate::{
    cadence::Cadences,
    domain::{MsgSeq, Receipt, Timestamp},
    lease::{LeaseRow, TTL},
    recording::{Closed, GroupChange, MessageChange, Part, Recording, Snapshot},
    slot::{Fresh, GroupKey, GroupState, OpenSlot, Slot, SlotId, SlotKey, SlotMessage, StoredDue, pack},
    store::{Committed, Made},
};

/// As `store::upkeep` has it: a probe of which nothing was heard is repeated after this time.
const PROBE_CLAIM: TimeDelta = TimeDelta::minutes(30);

/// Few, so that polls come between the pages of a small schedule.
const PAGE: usize = 2;

#[derive(Debug, Clone)]
pub(super) struct Message {
    pub sent_at: Timestamp,
    pub is_active: bool,
    pub slot_id: Option<SlotKey>,
    receipt: Option<Receipt>,
    is_known: bool,
    known_until: Option<Timestamp>,
    no_receipt_polls: i16,
    refused_since: Option<Timestamp>,
    pub closed: Option<Closed>,
}

#[derive(Debug, Clone)]
struct SlotRow {
    next_poll_at: Timestamp,
    last_polled_at: Option<Timestamp>,
    known_until: Option<Timestamp>,
    quiet_polls: i32,
    failures: i32,
    joins: i32,
}

/// A group that is refused.
#[derive(Debug, Clone, Copy)]
struct Quarantine {
    probe_at: Option<Timestamp>,
}

/// Who writes: the holder of the lease, and its epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fence {
    pub holder: String,
    pub epoch: i64,
}

/// A recording and the number by which this suite knows it.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub id: u64,
    pub recording: Recording,
}

#[derive(Debug, Default)]
pub(super) struct Database {
    pub clock_offset: i64,
    pub lease: Option<LeaseRow>,
    pub messages: BTreeMap<(GroupKey, MsgSeq), Message>,
    slots: BTreeMap<SlotKey, SlotRow>,
    quarantined: BTreeMap<GroupKey, Quarantine>,
    /// Groups whose slots are to be scheduled anew, since they left quarantine.
    changed: BTreeSet<GroupKey>,
    last_slot: SlotId,
    /// How often each recording was written.
    pub stored: BTreeMap<u64, u32>,
    /// The latest snapshot of each message.
    latest: HashMap<(GroupKey, MsgSeq), (Timestamp, Receipt)>,
    /// Whether no clock of a daemon is ever set: then every interval holds what it is about.
    pub clocks_are_right: bool,
    /// What can't be right about what was written.
    pub odd: Option<String>,
}

impl Database {
    pub fn watch(&mut self, group: GroupKey, count: usize, sent_at: Timestamp) {
        let last = self.messages.keys().filter(|key| key.0 == group).map(|key| i64::from(key.1.get())).max();
        for seq in (last.unwrap_or(0) + 1..).take(count) {
            let (slot_id, receipt, known_until, refused_since) = (None, None, None, None);
            let (is_active, is_known, no_receipt_polls) = (true, false, 0);
            let closed = None;
            let message = Message {
                sent_at,
                is_active,
                slot_id,
                receipt,
                is_known,
                known_until,
                no_receipt_polls,
                refused_since,
                closed,
            };
            self.messages.insert((group, MsgSeq::try_from(seq).unwrap()), message);
        }
    }

    pub fn unwatch(&mut self, group: GroupKey) {
        for (_, message) in self.messages.iter_mut().filter(|(key, _)| key.0 == group) {
            (message.is_active, message.slot_id) = (false, None);
        }
    }

    pub fn look(&self) -> Option<LeaseRow> {
        self.lease.clone()
    }

    pub fn take(&mut self, holder: &str, seen: Option<&LeaseRow>, now: Timestamp) -> Option<i64> {
        let is_as_seen = match (&self.lease, seen) {
            (None, None) => true,
            (Some(row), Some(seen)) => (row.epoch, row.expires_at) == (seen.epoch, seen.expires_at),
            _ => false,
        };
        let epoch = self.lease.as_ref().map_or(1, |row| row.epoch + 1);
        let row = LeaseRow { holder: Some(holder.to_owned()), epoch, expires_at: now + TTL };
        is_as_seen.then(|| self.lease = Some(row)).map(|()| epoch)
    }

    pub fn holds(&self, fence: &Fence) -> bool {
        self.lease.as_ref().is_some_and(|row| (row.holder.as_ref(), row.epoch) == (Some(&fence.holder), fence.epoch))
    }

    pub fn renew(&mut self, fence: &Fence, now: Timestamp) -> bool {
        let is_held = self.holds(fence);
        self.lease.iter_mut().filter(|_| is_held).for_each(|row| row.expires_at = now + TTL);
        is_held
    }

    pub fn release(&mut self, fence: &Fence, now: Timestamp) {
        let is_held = self.holds(fence);
        self.lease.iter_mut().filter(|_| is_held).for_each(|row| (row.holder, row.expires_at) = (None, now));
    }

    /// A page of the schedule, and after which slot the next one begins.
    pub fn load(&self, after: SlotKey) -> (Vec<(SlotKey, StoredDue)>, Option<SlotKey>) {
        let stored = |slot: &SlotRow| StoredDue {
            next_poll_at: slot.next_poll_at,
            last_polled_at: slot.last_polled_at,
            has_failed: slot.failures > 0,
        };
        let page: Vec<_> =
            self.slots.iter().filter(|(id, _)| **id > after).take(PAGE).map(|(id, slot)| (*id, stored(slot))).collect();
        let next = page.last().filter(|_| page.len() == PAGE).map(|(id, _)| *id);
        (page, next)
    }

    pub fn read(&self, slots: &[SlotKey]) -> Vec<Slot> {
        let slot = |id: &SlotKey| {
            let row = self.slots.get(id)?;
            let held = self.messages.iter().filter(|(_, message)| message.slot_id == Some(*id));
            let messages = held.map(|(key, message)| SlotMessage {
                seq: key.1,
                sent_at: message.sent_at,
                first_sent_at: message.sent_at,
                receipt: message.receipt,
                changed_at: None,
                known_until: message.known_until.or(row.known_until).filter(|_| message.is_known),
                known_apart: message.known_until.is_some(),
                no_receipt_polls: message.no_receipt_polls,
                refused_since: message.refused_since,
            });
            Some(Slot {
                key: *id,
                group_id: format!("group-{}", id.group_key).parse().unwrap(),
                group_state: match self.quarantined.contains_key(&id.group_key) {
                    true => GroupState::Quarantined,
                    false => GroupState::Active,
                },
                cadence: None,
                next_poll_at: row.next_poll_at,
                last_polled_at: row.last_polled_at,
                known_until: row.known_until,
                quiet_polls: row.quiet_polls,
                failures: row.failures,
                joins: row.joins,
                messages: messages.collect(),
                absorbs: None,
            })
        };
        slots.iter().filter_map(slot).collect()
    }

    /// Another slot of the same group whose messages fit into one call with those of this one.
    pub fn merge_candidate(&self, slot: &Slot, batch_size: usize) -> Option<SlotKey> {
        let held = |id| self.messages.values().filter(|message| message.slot_id == Some(id)).count();
        if slot.failures > 0 {
            return None;
        }
        let is_of_group = |(id, row): &(&SlotKey, &SlotRow)| {
            id.group_key == slot.key.group_key && **id != slot.key && row.failures == 0
        };
        let mut others = self.slots.iter().filter(is_of_group).map(|(id, _)| *id);
        others.find(|id| held(*id) + slot.messages.len() <= batch_size)
    }

    /// Gives new messages a slot, by the wall clock of whoever asks for it.
    pub fn slot_new_messages(
        &mut self,
        batch: usize,
        cadences: &Cadences,
        now: Timestamp,
    ) -> Vec<(SlotKey, Timestamp)> {
        let is_fresh = |message: &Message| message.is_active && message.slot_id.is_none();
        let fresh = self.messages.iter().filter(|(_, message)| is_fresh(message));
        let fresh: Vec<Fresh> = fresh
            .map(|(key, message)| {
                let (sent_at, added_at) = (message.sent_at, message.sent_at);
                Fresh { group_key: key.0, cadence: None, seq: key.1, sent_at, added_at }
            })
            .collect();
        let open = |(id, row): (&SlotKey, &SlotRow)| {
            let messages = self.messages.values().filter(|message| message.slot_id == Some(*id)).count();
            (id.group_key, OpenSlot { slot_id: id.slot_id, messages, last_polled_at: row.last_polled_at })
        };
        // The newest of each group; those that fail count only where there is no other.
        let (failing, well): (Vec<_>, Vec<_>) = self.slots.iter().partition(|(_, row)| row.failures > 0);
        let open: HashMap<GroupKey, OpenSlot> = failing.into_iter().chain(well).map(open).collect();
        let mut slots = Vec::new();
        for fill in pack(&fresh, &open, batch, cadences, now) {
            let slot_id = fill.slot_id.unwrap_or_else(|| {
                self.last_slot += 1;
                self.last_slot
            });
            let (group_key, next_poll_at) = (fill.group_key, fill.due);
            let id = SlotKey { group_key, slot_id };
            let row = self.slots.entry(id).and_modify(|row| row.joins += 1).or_insert(SlotRow {
                next_poll_at,
                last_polled_at: None,
                known_until: None,
                quiet_polls: 0,
                failures: 0,
                joins: 0,
            });
            if row.failures == 0 {
                row.next_poll_at = row.next_poll_at.min(fill.due);
            }
            if fill.is_news(row.next_poll_at) {
                slots.push((id, row.next_poll_at));
            }
            for seq in fill.seqs {
                self.messages.get_mut(&(group_key, seq)).unwrap().slot_id = Some(id);
            }
        }
        slots
    }

    /// As `store::upkeep` has it: the slots of groups that have changed, which are due at once, and a slot of each group whose
    /// time for a probe has come.
    pub fn changed_and_to_probe(&mut self, now: Timestamp) -> (Vec<(SlotKey, Timestamp)>, Vec<SlotKey>) {
        let changed = std::mem::take(&mut self.changed);
        let due = self.slots.iter().filter(|(id, _)| changed.contains(&id.group_key)).map(|(id, _)| (*id, now));
        let mut probes = Vec::new();
        for (group, quarantine) in &mut self.quarantined {
            if quarantine.probe_at.is_some_and(|at| at <= now) {
                quarantine.probe_at = Some(now + PROBE_CLAIM);
                probes.extend(self.slots.iter().rev().find(|(id, _)| id.group_key == *group).map(|(id, _)| *id));
            }
        }
        (due.collect(), probes)
    }

    /// Writes recordings, as `store::flush` does, and tells what became of their slots.
    pub fn flush(&mut self, recordings: &[Kept], unanswered: bool) -> Vec<Committed> {
        let mut committed = Vec::new();
        for Kept { id, recording } in recordings {
            let is_stored = unanswered && self.stored.contains_key(id);
            if !is_stored {
                *self.stored.entry(*id).or_default() += 1;
                self.write(recording);
            }
            if !recording.parts.is_empty() {
                let of_group = self.slots.iter().filter(|(id, _)| id.group_key == recording.slot.group_key);
                committed.extend(of_group.map(|(slot, row)| {
                    let (slot, next_poll_at, fails) = (*slot, row.next_poll_at, row.failures > 0);
                    Committed::Made(Made { slot, next_poll_at, fails })
                }));
            }
            let absorbed = recording.absorbs.map(|(slot, _)| slot);
            for slot in std::iter::once(recording.slot).chain(absorbed) {
                committed.push(match self.slots.get(&slot) {
                    Some(row) => Committed::Due(slot, row.next_poll_at),
                    None => Committed::Gone(slot),
                });
            }
        }
        committed
    }

    fn write(&mut self, recording: &Recording) {
        let joins_of = |slots: &BTreeMap<SlotKey, SlotRow>, slot| slots.get(&slot).map(|row: &SlotRow| row.joins);
        let mut joined = joins_of(&self.slots, recording.slot).is_some_and(|joins| joins != recording.joins);
        if let Some((other, read)) = recording.absorbs {
            joined |= joins_of(&self.slots, other).is_some_and(|joins| joins != read);
            if self.slots.contains_key(&recording.slot) && self.slots.remove(&other).is_some() {
                let moving = self.messages.values_mut().filter(|message| message.slot_id == Some(other));
                moving.for_each(|message| message.slot_id = Some(recording.slot));
            }
        }
        for snapshot in &recording.snapshots {
            let row = (snapshot.polled_at, snapshot.receipt);
            let key = (recording.slot.group_key, snapshot.seq);
            let before = self.latest.insert(key, row);
            if before.is_some_and(|before| before.0 >= row.0 || before.1 == row.1) {
                self.odd = Some(format!("a snapshot of {key:?} says {row:?} after {before:?}"));
            }
            let had_counts = before.is_some_and(|before| before.1.counts.is_some());
            if self.clocks_are_right && had_counts && !holds_the_truth(key, snapshot) {
                self.odd = Some(format!("{snapshot:?} of {key:?} does not hold when it was read"));
            }
        }
        recording.messages.iter().for_each(|change| self.write_message(recording, change));
        recording.parts.iter().for_each(|part| self.part(recording, part));
        match &recording.group {
            Some(GroupChange::Quarantine { probe_at, .. }) => {
                self.quarantined.insert(recording.slot.group_key, Quarantine { probe_at: *probe_at });
            }
            Some(GroupChange::Release) if self.quarantined.remove(&recording.slot.group_key).is_some() => {
                self.changed.insert(recording.slot.group_key);
            }
            _ => {}
        }
        if let Some(row) = self.slots.get_mut(&recording.slot) {
            let due = recording.next_poll_at;
            row.next_poll_at = if joined { due.min(recording.join_due) } else { due };
            (row.last_polled_at, row.known_until) = (recording.last_polled_at, recording.known_until);
            (row.quiet_polls, row.failures) = (recording.quiet_polls, recording.failures);
        }
        let is_empty = !self.messages.values().any(|message| message.slot_id == Some(recording.slot));
        if recording.is_empty && is_empty {
            self.slots.remove(&recording.slot);
        }
    }

    fn part(&mut self, recording: &Recording, part: &Part) {
        self.last_slot += 1;
        let row = SlotRow {
            next_poll_at: part.next_poll_at,
            last_polled_at: part.last_polled_at,
            known_until: part.known_until,
            quiet_polls: 0,
            failures: part.failures,
            joins: 0,
        };
        let made = SlotKey { slot_id: self.last_slot, ..recording.slot };
        self.slots.insert(made, row);
        for seq in &part.seqs {
            let message = self.messages.get_mut(&(recording.slot.group_key, *seq));
            let here = message.filter(|message| message.slot_id == Some(recording.slot));
            here.into_iter().for_each(|message| message.slot_id = Some(made));
        }
    }

    fn write_message(&mut self, recording: &Recording, change: &MessageChange) {
        let Some(message) = self.messages.get_mut(&(recording.slot.group_key, change.seq)) else { return };
        let is_here = message.slot_id == Some(recording.slot);
        let slot_tells = is_here && !change.known_apart;
        message.known_until = if slot_tells { None } else { change.known_until.or(message.known_until) };
        message.receipt = change.receipt;
        message.is_known |= change.polled_at.is_some();
        (message.no_receipt_polls, message.refused_since) = (change.no_receipt_polls, change.refused_since);
        if change.closed.is_some() {
            (message.is_active, message.slot_id, message.closed) = (false, None, change.closed);
        }
    }
}

/// Whether everybody who has read a message since the row before has done so within the interval of this one.
fn holds_the_truth((group, seq): (GroupKey, MsgSeq), snapshot: &Snapshot) -> bool {
    let Some(after) = snapshot.prior_polled_at else { return true };
    let read_at = |count: u32| wall(u64::from(count) * read_every(group, seq), 0);
    let Some((before, counts)) = snapshot.prior_read_num.zip(snapshot.receipt.counts) else { return true };
    counts.read() == before || after < read_at(before + 1) && read_at(counts.read()) <= snapshot.polled_at
}

/// The time of the virtual clock at its start.
pub(super) fn epoch() -> Timestamp {
    Timestamp::from_timestamp(1_800_000_000, 0).unwrap()
}

/// A wall clock that is `offset` microseconds off, at `now`.
pub(super) fn wall(now: u64, offset: i64) -> Timestamp {
    epoch() + TimeDelta::microseconds(now.cast_signed() + offset)
}
