//! The world's news for webhooks, as it happens.

use std::sync::PoisonError;

use serde_json::Value;

use super::{
    World,
    fresh::{Fresh, Reading},
    group::Group,
    members,
};
use crate::domain::{Counts, GroupId, GroupType, MsgSeq, Timestamp};

impl World {
    /// Keeps news for webhooks from now on, beginning with all known messages.
    pub(in crate::simulator) fn keep_fresh(&self) {
        let groups = self.lock();
        let known = groups.iter().flat_map(|(group, entry)| {
            entry.messages.keys().map(|seq| Fresh::Message { group: group.clone(), seq: *seq })
        });
        *self.fresh.lock().unwrap_or_else(PoisonError::into_inner) = Some(known.collect());
    }

    /// Takes the news for webhooks.
    pub(in crate::simulator) fn take_fresh(&self) -> Vec<Fresh> {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Sends a webhook with this body, if webhooks are sent.
    pub fn announce(&self, body: Value) {
        self.note(|| Fresh::Event(body));
    }

    pub(super) fn note(&self, fresh: impl FnOnce() -> Fresh) {
        if let Some(kept) = self.fresh.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            kept.push(fresh());
        }
    }

    /// The type of a group, and all accounts in it, the owner first.
    pub(in crate::simulator) fn membership(&self, group: &GroupId) -> (GroupType, Vec<String>) {
        let mut groups = self.lock();
        let entry = self.entry(&mut groups, group);
        let here = (0..entry.members).filter(|number| !entry.left.contains(number));
        (entry.group_type, here.map(|number| members::account(entry, number)).collect())
    }

    /// The number of members who have read a message, including those who have left since; `None` if it has no receipt.
    pub(in crate::simulator) fn read_count(&self, group: &GroupId, seq: MsgSeq, now: Timestamp) -> Option<u32> {
        let mut groups = self.lock();
        let entry = self.with_receipts(&mut groups, group).ok()?;
        self.receipt_of_all(group, entry, seq, now).counts.map(Counts::read)
    }

    /// A message when its number of readers has risen from `before` to `read`; `None` if it has no receipt.
    pub(in crate::simulator) fn reading(
        &self,
        group: &GroupId,
        seq: MsgSeq,
        (before, read): (u32, u32),
        now: Timestamp,
    ) -> Option<Reading> {
        let mut groups = self.lock();
        let entry = self.with_receipts(&mut groups, group).ok()?;
        let counts = self.receipt_of_all(group, entry, seq, now).counts?;
        let all = counts.read() + counts.unread();
        let (left_read, left_unread) = members::left_of(entry, seq, read);
        let counts = Counts::new((read - left_read).into(), (all - read - left_unread).into())?;
        Some(Reading { counts, members: readers(entry, seq, before, read) })
    }
}

/// The accounts of a message's readers, by position. A count that was set may exceed the members: the rest are guests.
fn readers(group: &Group, seq: MsgSeq, before: u32, read: u32) -> Vec<String> {
    let order = members::order(group, seq);
    let number = |place: u32| order.get(place as usize).copied().unwrap_or(place as u16 + 1);
    let here = (before..read).map(number).filter(|number| !group.left.contains(number));
    here.map(|number| members::account(group, number)).collect()
}
