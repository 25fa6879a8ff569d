//! A model of the database: the important rows, and each operation as one step, like its transaction in `src/store`.

use std::{
    borrow::{Borrow, BorrowMut},
    collections::{BTreeMap, BTreeSet, HashMap},
};

use chrono::TimeDelta;

use crate::{
    domain::{MsgSeq, Receipt, Timestamp},
    rules::{
        cadence::{Cadences, Next},
        lease::{LeaseRow, TTL},
        recording::{Closed, Kept},
        slot::{GroupKey, GroupState, NewMessage, OpenSlot, Slot, SlotId, SlotKey, SlotMessage, StoredDue, pack},
    },
};

/// A probe without an outcome is repeated after this time, as in `store::changed_groups`.
const PROBE_CLAIM: TimeDelta = TimeDelta::minutes(30);

/// Small, so that polls come between the pages of a small schedule.
const PAGE: usize = 2;

#[derive(Debug, Clone)]
pub(super) struct Message {
    pub is_active: bool,
    pub slot_id: Option<SlotKey>,
    /// Its state while it has no slot.
    pub known: SlotMessage,
    pub closed: Option<Closed>,
}

#[derive(Debug, Clone)]
pub(super) struct SlotRow {
    pub version: i64,
    pub next_poll_at: Timestamp,
    pub last_polled_at: Option<Timestamp>,
    pub known_until: Option<Timestamp>,
    pub last_called_at: Option<Timestamp>,
    pub quiet_polls: i32,
    pub failures: i32,
    pub messages: Vec<SlotMessage>,
}

impl SlotRow {
    pub fn holding(messages: Vec<SlotMessage>, next_poll_at: Timestamp) -> Self {
        Self {
            version: 0,
            next_poll_at,
            last_polled_at: None,
            known_until: None,
            last_called_at: None,
            quiet_polls: 0,
            failures: 0,
            messages,
        }
    }
}

/// A refused group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quarantine {
    pub probe_at: Option<Timestamp>,
}

/// The writer: the lease holder and its epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fence {
    pub holder: String,
    pub epoch: i64,
}

/// A poll to be stored, and its number in this suite.
#[derive(Debug, Clone)]
pub(super) struct Numbered {
    pub id: u64,
    pub kept: Kept,
}

impl Borrow<Kept> for Numbered {
    fn borrow(&self) -> &Kept {
        &self.kept
    }
}

impl BorrowMut<Kept> for Numbered {
    fn borrow_mut(&mut self) -> &mut Kept {
        &mut self.kept
    }
}

#[derive(Debug, Default)]
pub(super) struct Database {
    pub clock_offset: i64,
    pub lease: Option<LeaseRow>,
    pub messages: BTreeMap<(GroupKey, MsgSeq), Message>,
    pub slots: BTreeMap<SlotKey, SlotRow>,
    pub quarantined: BTreeMap<GroupKey, Quarantine>,
    /// The stretch that the poller has stored; 0 before that.
    pub stretch: f64,
    /// Groups whose slots have to be rescheduled, since they left quarantine.
    pub changed: BTreeSet<GroupKey>,
    pub last_slot: SlotId,
    /// Number of writes of each recording.
    pub stored: BTreeMap<u64, u32>,
    /// The latest snapshot of each message.
    pub latest: HashMap<(GroupKey, MsgSeq), (Timestamp, Receipt)>,
    /// Whether no clock of a daemon is ever set: then every interval contains its change.
    pub clocks_are_right: bool,
    /// Something impossible that was written, if any.
    pub odd: Option<String>,
}

impl Database {
    pub fn watch(&mut self, group: GroupKey, count: usize, sent_at: Timestamp) {
        let last = self.messages.keys().filter(|key| key.0 == group).map(|key| i64::from(key.1.get())).max();
        for seq in (last.unwrap_or(0) + 1..).take(count) {
            let seq = MsgSeq::try_from(seq).unwrap();
            let known = SlotMessage::new(seq, sent_at);
            self.messages.insert((group, seq), Message { is_active: true, slot_id: None, known, closed: None });
        }
    }

    pub fn unwatch(&mut self, group: GroupKey) {
        for (_, message) in self.messages.iter_mut().filter(|(key, _)| key.0 == group) {
            (message.is_active, message.slot_id) = (false, None);
        }
        for (_, row) in self.slots.iter_mut().filter(|(key, _)| key.group_key == group) {
            row.version += 1;
            row.messages.clear();
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

    /// A page of the schedule, and the slot after which the next one begins.
    pub fn load(&self, after: SlotKey) -> (Vec<(SlotKey, StoredDue)>, Option<SlotKey>) {
        let stored = |slot: &SlotRow| StoredDue {
            next_poll_at: slot.next_poll_at,
            last_polled_at: slot.last_polled_at,
            has_failed: slot.failures > 0,
            youngest_sent_at: slot.messages.last().map(|message| message.sent_at),
        };
        let page: Vec<_> =
            self.slots.iter().filter(|(id, _)| **id > after).take(PAGE).map(|(id, slot)| (*id, stored(slot))).collect();
        let next = page.last().filter(|_| page.len() == PAGE).map(|(id, _)| *id);
        (page, next)
    }

    pub fn read(&self, slots: &[SlotKey]) -> Vec<Slot> {
        let slot = |id: &SlotKey| {
            let row = self.slots.get(id)?;
            let known_until = |message: &SlotMessage| message.says_until().or(row.known_until);
            let messages = row.messages.iter().map(|message| SlotMessage {
                known_until: message.receipt.and(known_until(message)),
                has_joined: false,
                ..message.clone()
            });
            Some(Slot {
                key: *id,
                group_id: format!("group-{}", id.group_key).parse().unwrap(),
                group_state: match self.quarantined.contains_key(&id.group_key) {
                    true => GroupState::Quarantined,
                    false => GroupState::Active,
                },
                cadence: None,
                has_readers: false,
                next_poll_at: row.next_poll_at,
                last_polled_at: row.last_polled_at,
                known_until: row.known_until,
                quiet_polls: row.quiet_polls,
                failures: row.failures,
                version: row.version,
                last_called_at: row.last_called_at,
                messages: messages.collect(),
                is_wrong: false,
                is_unsorted: false,
                absorbs: None,
            })
        };
        slots.iter().filter_map(slot).collect()
    }

    /// For each of these slots, another one of its group whose messages fit into one call with its own.
    pub fn neighbours(&self, slots: &[SlotKey], batch_size: usize) -> Vec<(SlotKey, SlotKey)> {
        let neighbour = |key: &SlotKey| {
            let own = self.slots.get(key).filter(|row| row.failures == 0)?;
            let is_neighbour = |(other, row): &(&SlotKey, &SlotRow)| {
                other.group_key == key.group_key && *other != key && row.failures == 0 && !row.messages.is_empty()
            };
            let mut others = self.slots.iter().filter(is_neighbour);
            let fits = |row: &SlotRow| row.messages.len() + own.messages.len() <= batch_size;
            others.find(|(_, row)| fits(row)).map(|(other, _)| (*key, *other))
        };
        slots.iter().filter_map(neighbour).collect()
    }

    /// Assigns new messages to slots, by the wall clock of the caller.
    /// Gives slots to new messages, and stores the stretch by which they are due.
    pub fn slot_new_messages(
        &mut self,
        batch: usize,
        cadences: &Cadences,
        stretch: f64,
        now: Timestamp,
    ) -> Vec<(SlotKey, Next)> {
        self.stretch = stretch;
        let is_fresh = |message: &Message| message.is_active && message.slot_id.is_none();
        let fresh = self.messages.iter().filter(|(_, message)| is_fresh(message));
        let fresh: Vec<NewMessage> = fresh
            .map(|(key, message)| {
                let (sent_at, added_at) = (message.known.sent_at, message.known.sent_at);
                NewMessage { group_key: key.0, cadence: None, seq: key.1, sent_at, added_at }
            })
            .collect();
        let open = |(id, row): (&SlotKey, &SlotRow)| {
            let messages = row.messages.len();
            (id.group_key, OpenSlot { slot_id: id.slot_id, messages, last_polled_at: row.last_polled_at })
        };
        // The newest of each group; failing ones only if there is no other.
        let (failing, well): (Vec<_>, Vec<_>) = self.slots.iter().partition(|(_, row)| row.failures > 0);
        let open: HashMap<GroupKey, OpenSlot> = failing.into_iter().chain(well).map(open).collect();
        let mut slots = Vec::new();
        for fill in pack(&fresh, &open, batch, cadences, stretch, now) {
            let slot_id = fill.slot_id.unwrap_or_else(|| {
                self.last_slot += 1;
                self.last_slot
            });
            let (group_key, next_poll_at) = (fill.group_key, fill.first.due);
            let id = SlotKey { group_key, slot_id };
            let row = self.slots.entry(id).or_insert(SlotRow::holding(vec![], next_poll_at));
            row.version += 1;
            if row.failures == 0 {
                row.next_poll_at = row.next_poll_at.min(fill.first.due);
            }
            if fill.is_news(row.next_poll_at) {
                slots.push((id, Next { due: row.next_poll_at, ..fill.first }));
            }
            for seq in fill.seqs {
                let message = self.messages.get_mut(&(group_key, seq)).unwrap();
                message.slot_id = Some(id);
                row.messages.push(message.known.clone());
            }
        }
        slots
    }

    /// As in `store::slotting`: splits a slot larger than `size`. Returns the created slots with their due times.
    pub fn split(&mut self, slot: SlotKey, size: usize) -> Vec<(SlotKey, Timestamp)> {
        let Some(row) = self.slots.get_mut(&slot) else { return vec![] };
        row.version += 1;
        let surplus = row.messages.split_off(size.min(row.messages.len()));
        let row = SlotRow { messages: vec![], ..row.clone() };
        let mut made = Vec::new();
        for part in surplus.chunks(size) {
            self.last_slot += 1;
            let key = SlotKey { slot_id: self.last_slot, ..slot };
            for message in part {
                self.messages.get_mut(&(slot.group_key, message.seq)).unwrap().slot_id = Some(key);
            }
            made.push((key, row.next_poll_at));
            self.slots.insert(key, SlotRow { messages: part.to_vec(), ..row.clone() });
        }
        made
    }

    /// The slots of changed groups, which are due immediately, and a slot of each group whose time for a probe has
    /// come, as in `store::changed_groups`.
    pub fn changed_and_to_probe(
        &mut self,
        cadences: &Cadences,
        now: Timestamp,
    ) -> (Vec<(SlotKey, Next)>, Vec<SlotKey>) {
        let next = Next { due: now, every: cadences.of(None).first_step() };
        let changed = std::mem::take(&mut self.changed);
        let due = self.slots.iter().filter(|(id, _)| changed.contains(&id.group_key)).map(|(id, _)| (*id, next));
        let mut probes = Vec::new();
        for (group, quarantine) in &mut self.quarantined {
            if quarantine.probe_at.is_some_and(|at| at <= now) {
                quarantine.probe_at = Some(now + PROBE_CLAIM);
                probes.extend(self.slots.iter().rev().find(|(id, _)| id.group_key == *group).map(|(id, _)| *id));
            }
        }
        (due.collect(), probes)
    }
}

/// The time of the virtual clock at its start.
pub(super) fn epoch() -> Timestamp {
    Timestamp::from_timestamp(1_800_000_000, 0).unwrap()
}

/// A wall clock that is `offset` microseconds off, at `now`.
pub(super) fn wall(now: u64, offset: i64) -> Timestamp {
    epoch() + TimeDelta::microseconds(now.cast_signed() + offset)
}
