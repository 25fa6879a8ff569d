//! What webhooks tell of groups and messages. What does not fit is dropped: looks find it later.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;

use super::{Discoverer, Known};
use crate::{
    clock,
    domain::{GroupId, GroupType, InvalidValue, MsgSeq, Timestamp},
    rules::{
        discovery::{Found, Passed},
        protocol::others::{HistoryMessage, MessageKind},
        webhooks::{Event, Group},
    },
    store::GroupRead,
};

/// Maximum number of waiting announcements.
const MOST: usize = 20_000;

/// Maximum number stored in one transaction.
const AT_ONCE: usize = 1_000;

/// Time in which announcements are collected.
const COLLECT: Duration = Duration::from_millis(100);

/// Something that discovery learns without asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announced {
    /// A message was sent.
    Message {
        /// Its group.
        group: GroupId,
        /// The type of the group, if told.
        group_type: Option<GroupType>,
        /// Its seq.
        seq: MsgSeq,
        /// Time of sending; without it, the message is looked up.
        sent_at: Option<Timestamp>,
    },
    /// A group was created, or something else has happened in it: it is looked at.
    Group {
        /// The group.
        group: GroupId,
        /// Its type, if told.
        group_type: Option<GroupType>,
    },
}

impl Announced {
    /// What an event of a webhook tells discovery, if anything. Groups of types without receipts are none of its business.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Sent { group: Group { id, group_type }, seq, sent_at, is_online_only: false } => {
                let group_type = known_type(group_type.as_deref())?;
                Some(Self::Message { group: id.clone(), group_type, seq: *seq, sent_at: *sent_at })
            }
            Event::Created(Group { id, group_type }) => {
                Some(Self::Group { group: id.clone(), group_type: known_type(group_type.as_deref())? })
            }
            _ => None,
        }
    }
}

/// A type as it was told; none if it is unknown, and nothing if its groups have no receipts.
fn known_type(name: Option<&str>) -> Option<Option<GroupType>> {
    match name.map(str::parse) {
        Some(Ok(group_type)) => Some(Some(group_type)),
        Some(Err(InvalidValue::NoReceiptsInGroup { .. })) => None,
        Some(Err(_)) | None => Some(None),
    }
}

/// A bounded queue. Without discovery, nothing is kept.
#[derive(Debug, Default)]
pub struct Inbox {
    /// `None` while nobody reads it.
    waiting: Mutex<Option<Vec<Announced>>>,
    arrived: Notify,
}

impl Inbox {
    /// Tells discovery. Returns false if it is not running, or has too much to do: then it finds out by itself.
    pub fn announce(&self, announced: Announced) -> bool {
        let mut waiting = self.waiting();
        let Some(queue) = waiting.as_mut().filter(|queue| queue.len() < MOST) else { return false };
        queue.push(announced);
        drop(waiting);
        self.arrived.notify_one();
        true
    }

    async fn next(&self) -> Vec<Announced> {
        loop {
            let arrived = self.arrived.notified();
            let next: Vec<Announced> = self
                .waiting()
                .as_mut()
                .map_or_else(Vec::new, |queue| queue.drain(..queue.len().min(AT_ONCE)).collect());
            if !next.is_empty() {
                return next;
            }
            arrived.await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Vec<Announced>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The inbox is read as long as this exists.
struct Reading<'a>(&'a Inbox);

impl<'a> Reading<'a> {
    fn of(inbox: &'a Inbox) -> Self {
        *inbox.waiting() = Some(vec![]);
        Self(inbox)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        *self.0.waiting() = None;
    }
}

impl Discoverer {
    /// Watches what webhooks tell.
    pub(super) async fn hear(&self) {
        let reading = Reading::of(&self.parts.inbox);
        loop {
            let announced = reading.0.next().await;
            self.heard(announced).await;
            tokio::time::sleep(COLLECT).await;
        }
    }

    async fn heard(&self, announced: Vec<Announced>) {
        let mut messages: HashMap<GroupId, Vec<HistoryMessage>> = HashMap::new();
        for announced in announced {
            let (Announced::Message { group, group_type, .. } | Announced::Group { group, group_type }) = &announced;
            if self.parts.rules.selection.refuses(group, *group_type).is_some() || !self.knows(group, *group_type).await
            {
                continue;
            }
            match announced {
                Announced::Message { group, seq, sent_at: Some(sent_at), .. } => {
                    let message = HistoryMessage { seq, sent_at: Some(sent_at), kind: MessageKind::Ordinary };
                    messages.entry(group).or_default().push(message);
                }
                Announced::Message { group, .. } | Announced::Group { group, .. } => self.hurry(&group),
            }
        }
        let reads: Vec<GroupRead> =
            messages.into_iter().map(|(group, messages)| self.read_of(group, messages)).collect();
        let news: Vec<(GroupId, Option<u32>)> = reads.iter().map(|read| (read.group.clone(), read.next_seq)).collect();
        let is_stored = self.store(reads).await;
        for (group, next_seq) in news {
            match next_seq.filter(|_| is_stored) {
                Some(next_seq) => self.has_read(&group, next_seq),
                // Something is missing between what was read and what was told.
                None => self.hurry(&group),
            }
        }
    }

    /// Follows a group that was told of. False if it may not be followed.
    async fn knows(&self, group: &GroupId, group_type: Option<GroupType>) -> bool {
        if self.groups().known.contains_key(group) {
            return true;
        }
        if self.groups().known.len() >= self.parts.rules.groups {
            return false;
        }
        match self.parts.store.follow_groups(group_type, std::slice::from_ref(group)).await {
            Ok(_) => self.follow(group.clone(), Known { group_type, ..Known::default() }),
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    /// What was told of a group. The cursor moves if nothing is missing before it.
    fn read_of(&self, group: GroupId, mut messages: Vec<HistoryMessage>) -> GroupRead {
        let (now, _) = self.now();
        let known = self.groups().known.get(&group).copied().unwrap_or_default();
        messages.sort_by_key(|message| message.seq);
        let mut next_seq = known.next_seq;
        let (mut found, mut passed) = (vec![], vec![]);
        for message in &messages {
            if next_seq == Some(message.seq.get()) {
                next_seq = message.seq.get().checked_add(1);
            }
            match self.parts.rules.wanted.judge(message, self.began, now) {
                Ok(sent_at) => found.push(Found { group: group.clone(), seq: message.seq, sent_at }),
                Err(Passed::TooOld) => {}
                Err(why) => passed.push((message.seq, why)),
            }
        }
        found.reverse();
        let last_message_at = messages.iter().filter_map(|message| message.sent_at).max();
        let newest = messages.last().map(|message| message.seq.get());
        let next_seq = next_seq.filter(|next_seq| newest.is_some_and(|newest| newest < *next_seq));
        let group_type = known.group_type;
        GroupRead { group, group_type, next_seq, last_message_at, found, passed, refused_code: None }
    }

    fn has_read(&self, group: &GroupId, next_seq: u32) {
        if let Some(known) = self.groups().known.get_mut(group) {
            known.next_seq = known.next_seq.max(Some(next_seq));
        }
    }

    /// Looks at a group at once.
    fn hurry(&self, group: &GroupId) {
        let mut groups = self.groups();
        if let Some(known) = groups.known.get_mut(group) {
            known.is_hurried = true;
        }
        groups.rounds.hurry(group, clock::uptime());
        drop(groups);
        self.due.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(group_type: Option<&str>) -> Group {
        Group { id: "a".parse().unwrap(), group_type: group_type.map(str::to_owned) }
    }

    fn sent(group_type: Option<&str>, is_online_only: bool) -> Event {
        Event::Sent { group: group(group_type), seq: MsgSeq::try_from(7).unwrap(), sent_at: None, is_online_only }
    }

    #[test]
    fn messages_and_groups_that_may_have_receipts_are_announced() {
        let message = |group_type| {
            let (group, seq) = ("a".parse().unwrap(), MsgSeq::try_from(7).unwrap());
            Some(Announced::Message { group, group_type, seq, sent_at: None })
        };
        assert_eq!(Announced::of(&sent(Some("Work"), false)), message(Some(GroupType::Private)));
        assert_eq!(Announced::of(&sent(Some("Club"), false)), message(None));
        assert_eq!(Announced::of(&sent(None, false)), message(None));
        assert_eq!(Announced::of(&sent(Some("AVChatRoom"), false)), None);
        assert_eq!(Announced::of(&sent(None, true)), None, "online-only messages have no receipt");
        let created = Announced::Group { group: "a".parse().unwrap(), group_type: Some(GroupType::Public) };
        assert_eq!(Announced::of(&Event::Created(group(Some("Public")))), Some(created));
        assert_eq!(Announced::of(&Event::Other), None);
    }

    #[test]
    fn the_inbox_is_bounded_and_closed_while_nobody_reads_it() {
        let inbox = Inbox::default();
        let announced = Announced::of(&sent(None, false)).unwrap();
        assert!(!inbox.announce(announced.clone()));
        let reading = Reading::of(&inbox);
        assert!((0..MOST).all(|_| inbox.announce(announced.clone())));
        assert!(!inbox.announce(announced.clone()));
        drop(reading);
        assert!(!inbox.announce(announced));
    }
}
