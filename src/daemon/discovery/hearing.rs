//! Watches groups and messages that webhooks announce.

use std::{collections::HashMap, time::Duration};

use super::{
    Discoverer, Known,
    inbox::{Announced, Reading},
};
use crate::{
    clock,
    domain::{GroupId, GroupType},
    rules::{
        discovery::{Found, Passed},
        protocol::others::{HistoryMessage, MessageKind},
    },
    store::{GroupRead, Outcome},
};

/// Time in which announcements are collected.
const COLLECT: Duration = Duration::from_millis(100);

impl Discoverer {
    /// Watches what webhooks announce.
    pub(super) async fn hear(&self) {
        let reading = Reading::of(&self.parts.inbox);
        loop {
            let announced = reading.next().await;
            self.heard(announced).await;
            tokio::time::sleep(COLLECT).await;
        }
    }

    async fn heard(&self, announced: Vec<Announced>) {
        let mut messages: HashMap<GroupId, Vec<HistoryMessage>> = HashMap::new();
        for announced in announced {
            let (group, group_type) = announced.group();
            if self.parts.rules.selection.refuses(group, group_type).is_some() || !self.knows(group, group_type).await {
                continue;
            }
            match announced {
                Announced::Message { group, seq, sent_at: Some(sent_at), .. } => {
                    let message = HistoryMessage { seq, sent_at: Some(sent_at), kind: MessageKind::Ordinary };
                    messages.entry(group).or_default().push(message);
                }
                Announced::Message { group, .. } | Announced::Group { group, .. } => self.hurry(&group),
                // A new group is due anyway.
                Announced::Exists { .. } => {}
            }
        }
        let reads: Vec<GroupRead> =
            messages.into_iter().map(|(group, messages)| self.read_of(group, messages)).collect();
        let news: Vec<(GroupId, Option<u32>)> = reads.iter().map(|read| (read.group.clone(), read.next_seq)).collect();
        let watching = self.store(reads).await;
        for (group, next_seq) in news {
            match (watching.of(&group), next_seq) {
                (Outcome::Stored, Some(next_seq)) => self.has_read(&group, next_seq),
                // A look would be refused too.
                (Outcome::Refused, _) => {}
                // Messages are missing between the last read and the announcement.
                _ => self.hurry(&group),
            }
        }
    }

    /// Follows an announced group. False if it may not be followed.
    async fn knows(&self, group: &GroupId, group_type: Option<GroupType>) -> bool {
        if self.groups().known.contains_key(group) {
            return true;
        }
        if self.groups().known.len() >= self.parts.rules.groups {
            return false;
        }
        match self.parts.store.follow_groups(group_type, std::slice::from_ref(group)).await {
            Ok(refused) => {
                self.refused(&refused);
                refused.is_empty() && self.follow(group.clone(), Known { group_type, ..Known::default() })
            }
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    /// The announcements of a group as a read of it. The cursor moves if nothing is missing before it.
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

    /// Looks at a group immediately.
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
