//! The arrays of slots as parameters of a statement: one for each column, with the elements of all rows.

use sqlx::{Encode, Postgres, Type, postgres::PgArguments, query::QueryAs};

use crate::{
    domain::{Counts, Timestamp},
    rules::{
        recording::Contents,
        slot::{GroupKey, SlotId, SlotMessage},
    },
};

/// A statement with such parameters, which returns the written slots with their due times.
pub(super) type Write<'q> = QueryAs<'q, Postgres, (GroupKey, SlotId, Timestamp), PgArguments>;

/// The arrays of all rows.
#[derive(Default)]
pub(super) struct Arrays {
    read_num: Elements<Option<i32>>,
    changed_at: Elements<Option<Timestamp>>,
    member_num: Elements<Option<i32>>,
    msg_seqs: Elements<i64>,
    sent_at: Elements<Timestamp>,
    aged_from: Elements<Option<Timestamp>>,
    first_polled_at: Elements<Option<Timestamp>>,
    code: Elements<Option<i32>>,
    known_apart: Elements<Option<Timestamp>>,
    no_receipt_polls: Elements<i16>,
    refused_since: Elements<Option<Timestamp>>,
}

impl Arrays {
    /// Adds the messages of a slot, as far as they have changed.
    pub fn add(&mut self, contents: &Contents) {
        let (counted, all) = match contents {
            Contents::Same => (None, None),
            Contents::Counted(messages) => (Some(messages.as_slice()), None),
            Contents::Other(messages) => (Some(messages.as_slice()), Some(messages.as_slice())),
        };
        let aged_from = |message: &SlotMessage| Some(message.sent_at).filter(|from| *from != message.first_sent_at);
        self.read_num.add(counted, |message| count_of(message, Counts::read));
        self.changed_at.add(counted, |message| message.changed_at);
        self.member_num.add(counted, |message| count_of(message, Counts::members));
        self.msg_seqs.add(all, |message| i64::from(message.seq.get()));
        self.sent_at.add(all, |message| message.first_sent_at);
        self.aged_from.add(all, aged_from);
        self.first_polled_at.add(all, |message| message.first_polled_at);
        self.code.add(all, |message| message.receipt.map(|receipt| receipt.code));
        self.known_apart.add(all, SlotMessage::says_until);
        self.no_receipt_polls.add(all, |message| message.no_receipt_polls);
        self.refused_since.add(all, |message| message.refused_since);
    }

    pub fn bind(self, write: Write<'_>) -> Write<'_> {
        let write = self.member_num.bind(self.changed_at.bind(self.read_num.bind(write)));
        let write = self.aged_from.bind(self.sent_at.bind(self.msg_seqs.bind(write)));
        let write = self.known_apart.bind(self.code.bind(self.first_polled_at.bind(write)));
        self.refused_since.bind(self.no_receipt_polls.bind(write))
    }
}

/// The elements of one array of all rows, and the positions of each row's first and last, from 1. Rows that follow
/// each other share their elements if these are the same.
#[derive(Debug, Default)]
struct Elements<T> {
    all: Vec<T>,
    first: Vec<Option<i32>>,
    last: Vec<Option<i32>>,
    /// Index of the elements that were added last.
    latest: usize,
}

impl<T: PartialEq> Elements<T> {
    /// Adds those of a slot's messages: only one if all are the same. Without messages the row keeps its own.
    fn add(&mut self, messages: Option<&[SlotMessage]>, element: impl Fn(&SlotMessage) -> T) {
        let before = self.all.len();
        self.all.extend(messages.into_iter().flatten().map(element));
        if self.all[before..].windows(2).all(|two| two[0] == two[1]) {
            self.all.truncate(before + 1);
        }
        if self.all[self.latest..before] == self.all[before..] {
            self.all.truncate(before);
        } else if messages.is_some() {
            self.latest = before;
        }
        let position = |index: usize| messages.map(|_| i32::try_from(index).unwrap_or(i32::MAX));
        self.first.push(position(self.latest + 1));
        self.last.push(position(self.all.len()));
    }

    fn bind<'q>(self, write: Write<'q>) -> Write<'q>
    where
        Vec<T>: Encode<'q, Postgres> + Type<Postgres> + 'q,
    {
        write.bind(self.all).bind(self.first).bind(self.last)
    }
}

/// A count of a message, if it is known.
pub(in crate::store) fn count_of(message: &SlotMessage, count: fn(Counts) -> u32) -> Option<i32> {
    message.receipt.and_then(|receipt| receipt.counts).and_then(|counts| i32::try_from(count(counts)).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::MsgSeq;

    fn message(no_receipt_polls: i16) -> SlotMessage {
        let sent_at = "2026-11-27T12:00:00Z".parse().unwrap();
        SlotMessage { no_receipt_polls, ..SlotMessage::new(MsgSeq::try_from(1).unwrap(), sent_at) }
    }

    proptest! {
        #[test]
        fn each_row_finds_its_own_elements_or_one_for_all(
            rows in proptest::collection::vec(proptest::option::of(proptest::collection::vec(0_i16..2, 0..4)), 0..8)
        ) {
            let mut elements = Elements::default();
            for row in &rows {
                let messages: Option<Vec<SlotMessage>> = row.as_ref().map(|row| row.iter().copied().map(message).collect());
                elements.add(messages.as_deref(), |message| message.no_receipt_polls);
            }
            for (row, (first, last)) in rows.iter().zip(elements.first.iter().zip(&elements.last)) {
                let Some(row) = row else {
                    prop_assert_eq!((first, last), (&None, &None));
                    continue;
                };
                let positions = first.unwrap() - 1..last.unwrap();
                let written: Vec<i16> = positions.map(|index| elements.all[usize::try_from(index).unwrap()]).collect();
                let mut expected = row.clone();
                expected.dedup();
                prop_assert_eq!(&written, if expected.len() == 1 { &expected } else { row });
            }
            let mut given: Vec<Vec<i16>> = rows.into_iter().flatten().collect();
            given.dedup();
            prop_assert!(elements.all.len() <= given.iter().map(Vec::len).sum(), "equal neighbours share theirs");
        }
    }
}
