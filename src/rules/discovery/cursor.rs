//! Reads the new messages of a group, from the newest down to the cursor, a page at a time, and no further than needed.

use super::{Discovery, Found, Passed};
use crate::{
    domain::{GroupId, MsgSeq, Timestamp},
    rules::protocol::others::HistoryPage,
};

/// The reading of a group's messages.
#[derive(Debug)]
pub struct Walk {
    group: GroupId,
    /// Messages below this seq were read earlier.
    cursor: u32,
    /// The newest message of the next page; none if everything was read.
    from: Option<MsgSeq>,
    /// The next cursor.
    next: u32,
    read: Read,
}

/// The result of reading a group.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The messages to watch, the newest first.
    pub found: Vec<Found>,
    /// The others, with the reason.
    pub passed: Vec<(MsgSeq, Passed)>,
}

impl Walk {
    /// Reads the messages from `cursor` up to the one before `next`.
    pub fn new(group: GroupId, cursor: u32, next: u32) -> Self {
        let newest = MsgSeq::try_from(i64::from(next) - 1).ok();
        Self { group, cursor, from: newest.filter(|newest| newest.get() >= cursor), next, read: Read::default() }
    }

    /// The newest message of the page to read; `None` at the end.
    pub fn next_page(&self) -> Option<MsgSeq> {
        self.from
    }

    /// The group.
    pub fn group(&self) -> &GroupId {
        &self.group
    }

    /// Adds a page. Reading stops at the cursor, at messages that are too old, and at the maximum for a group.
    pub fn add(&mut self, page: &HistoryPage, rules: &Discovery, began: Timestamp, now: Timestamp) {
        let mut last = None;
        for message in page.messages.iter().filter(|message| message.seq.get() >= self.cursor) {
            last = Some(message.seq);
            match rules.wanted.judge(message, began, now) {
                Ok(sent_at) => self.read.found.push(Found { group: self.group.clone(), seq: message.seq, sent_at }),
                Err(Passed::TooOld) => return self.from = None,
                Err(passed) => self.read.passed.push((message.seq, passed)),
            }
        }
        let is_full = i64::try_from(self.read.found.len()).is_ok_and(|found| found >= rules.messages_per_group);
        let older = last.and_then(|last| MsgSeq::try_from(i64::from(last.get()) - 1).ok());
        self.from = older.filter(|older| page.has_more && !is_full && older.get() >= self.cursor);
    }

    /// The result, and the next cursor.
    pub fn end(self) -> (Read, u32) {
        (self.read, self.next.max(self.cursor))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;
    use crate::rules::{
        discovery::{Selection, Wanted},
        protocol::others::{HistoryMessage, MessageKind},
    };

    fn rules(messages_per_group: i64) -> Discovery {
        let selection = Selection { types: vec![], include: vec![], exclude: vec![], ids: BTreeSet::new() };
        let wanted = Wanted { since: TimeDelta::zero(), not_before: None };
        Discovery {
            selection,
            wanted,
            cadence: None,
            groups: 10,
            messages: 1_000,
            messages_per_group,
            max_calls_per_second: 200,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_timestamp(1_700_000_000 + second, 0).unwrap()
    }

    /// A group whose message `seq` was sent at second `seq`, read with this cursor. Returns seqs and number of pages.
    fn walk(
        cursor: u32,
        next: u32,
        began: i64,
        most: i64,
        is_system: impl Fn(i64) -> bool,
    ) -> (Vec<u32>, usize, usize) {
        let mut walk = Walk::new("g".parse().unwrap(), cursor, next);
        let mut pages = 0;
        while let Some(from) = walk.next_page() {
            pages += 1;
            let seqs = (1..=i64::from(from.get())).rev().take(20);
            let message = |seq: i64| HistoryMessage {
                seq: MsgSeq::try_from(seq).unwrap(),
                sent_at: Some(at(seq)),
                kind: if is_system(seq) { MessageKind::System } else { MessageKind::Ordinary },
            };
            let messages: Vec<HistoryMessage> = seqs.map(message).collect();
            let has_more = messages.last().is_some_and(|last| last.seq.get() > 1);
            walk.add(&HistoryPage { messages, has_more }, &rules(most), at(began), at(1_000_000));
        }
        let (read, end) = walk.end();
        assert_eq!(end, next.max(cursor));
        (read.found.iter().map(|found| found.seq.get()).collect(), read.passed.len(), pages)
    }

    #[test]
    fn a_group_is_read_down_to_its_cursor_and_no_further() {
        assert_eq!(walk(98, 101, 0, 1_000, |_| false), (vec![100, 99, 98], 0, 1));
        assert_eq!(walk(1, 101, 0, 1_000, |_| false).2, 5);
        assert_eq!(walk(101, 101, 0, 1_000, |_| false), (vec![], 0, 0));
        assert_eq!(walk(200, 101, 0, 1_000, |_| false), (vec![], 0, 0));
        assert_eq!(walk(90, 101, 95, 1_000, |seq| seq % 2 == 0), (vec![99, 97, 95], 3, 1));
        assert_eq!(walk(1, 1_001, 0, 30, |_| false).2, 2, "no more pages than a group may have messages");
    }

    proptest! {
        #[test]
        fn each_new_message_is_found_once(cursor in 1_u32..300, new in 0_u32..300, began in 0_i64..600) {
            let (seqs, _, pages) = walk(cursor, cursor + new, began, 10_000, |_| false);
            let first = i64::from(cursor).max(began);
            let expected: Vec<u32> =
                (first..i64::from(cursor + new)).rev().map(|seq| u32::try_from(seq).unwrap()).collect();
            prop_assert_eq!(&seqs, &expected);
            prop_assert!(pages <= seqs.len() / 20 + 1);
        }
    }
}
