//! Announcements of groups and messages, from webhooks. If there is no room for one, it is dropped: discovery finds it
//! later.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::{
    domain::{GroupId, GroupType, InvalidValue, MsgSeq, Timestamp},
    rules::webhooks::{Event, Group},
};

/// Maximum number of waiting announcements.
const MOST: usize = 20_000;

/// Maximum number stored in one transaction.
const AT_ONCE: usize = 1_000;

/// Something that discovery learns without asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Announced {
    /// A message was sent.
    Message {
        /// Its group.
        group: GroupId,
        /// The type of the group, if known.
        group_type: Option<GroupType>,
        /// Its seq.
        seq: MsgSeq,
        /// Time of sending; without it, the message is looked up.
        sent_at: Option<Timestamp>,
    },
    /// A group was created: it is looked at.
    Group {
        /// The group.
        group: GroupId,
        /// Its type, if known.
        group_type: Option<GroupType>,
    },
    /// Members have joined or left a group: it exists.
    Exists {
        /// The group.
        group: GroupId,
        /// Its type, if known.
        group_type: Option<GroupType>,
    },
}

impl Announced {
    /// The announcement in an event of a webhook, if any. Groups of types without receipts are ignored.
    pub(crate) fn of(event: &Event) -> Option<Self> {
        match event {
            Event::Sent { group: Group { id, group_type }, seq, sent_at, is_online_only: false } => {
                let group_type = known_type(group_type.as_deref())?;
                Some(Self::Message { group: id.clone(), group_type, seq: *seq, sent_at: *sent_at })
            }
            Event::Created(Group { id, group_type }) => {
                Some(Self::Group { group: id.clone(), group_type: known_type(group_type.as_deref())? })
            }
            Event::MembersChanged(Group { id, group_type }) => {
                Some(Self::Exists { group: id.clone(), group_type: known_type(group_type.as_deref())? })
            }
            _ => None,
        }
    }

    pub(super) fn group(&self) -> (&GroupId, Option<GroupType>) {
        match self {
            Self::Message { group, group_type, .. }
            | Self::Group { group, group_type }
            | Self::Exists { group, group_type } => (group, *group_type),
        }
    }
}

/// The type as announced: the inner `None` if it is unknown, the outer one if its groups have no receipts.
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
    /// Announces something to discovery. False if discovery is not running, or has too much to do; it then finds out by
    /// itself.
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
pub(super) struct Reading<'a>(&'a Inbox);

impl<'a> Reading<'a> {
    pub fn of(inbox: &'a Inbox) -> Self {
        *inbox.waiting() = Some(vec![]);
        Self(inbox)
    }

    /// Waits until something is announced.
    pub async fn next(&self) -> Vec<Announced> {
        self.0.next().await
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        *self.0.waiting() = None;
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
        let exists = Announced::Exists { group: "a".parse().unwrap(), group_type: None };
        assert_eq!(Announced::of(&Event::MembersChanged(group(None))), Some(exists));
        assert_eq!(Announced::of(&Event::MembersChanged(group(Some("AVChatRoom")))), None);
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
