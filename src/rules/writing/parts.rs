//! Parts of what has to be written, each in one of three ways.

use std::{borrow::BorrowMut, collections::HashSet};

use super::batch::BatchSize;
use crate::rules::{recording::Kept, slot::SlotKey};

/// How polls have to be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// As they were decided.
    #[default]
    Whole,
    /// After being decided again, since their slots were changed.
    Anew,
    /// One poll that the tables refused.
    Apart,
}

/// Polls to be written.
#[derive(Debug)]
pub(super) struct Part<T> {
    pub polls: Vec<T>,
    pub mode: Mode,
}

impl<T> Default for Part<T> {
    fn default() -> Self {
        Self::from(vec![])
    }
}

impl<T> From<Vec<T>> for Part<T> {
    fn from(polls: Vec<T>) -> Self {
        Self { polls, mode: Mode::Whole }
    }
}

impl<T: BorrowMut<Kept>> Part<T> {
    /// Maximum number of rows that it writes.
    pub fn rows(&self) -> usize {
        self.polls.iter().map(|poll| poll.borrow().rows()).sum()
    }

    /// Both halves, the first one last. The error is a single poll.
    pub fn halves(mut self) -> Result<[Self; 2], Self> {
        if self.polls.len() < 2 {
            return Err(self);
        }
        let second = self.polls.split_off(self.polls.len() / 2);
        Ok([second, self.polls].map(Self::from))
    }
}

/// Takes as much of the last part as fits into a transaction: nothing if there is no poll left.
pub(super) fn take_batch<T: BorrowMut<Kept>>(parts: &mut Vec<Part<T>>, size: BatchSize) -> Part<T> {
    while let Some(Part { mut polls, mode }) = parts.pop() {
        let repeated = repeated(&mut polls);
        if !repeated.is_empty() {
            parts.push(Part { polls: repeated, mode: Mode::Whole });
        }
        let batch = size.take(&mut polls, |poll| poll.borrow().rows());
        if !polls.is_empty() {
            parts.push(Part { polls, mode });
        }
        if !batch.is_empty() {
            return Part { polls: batch, mode };
        }
    }
    Part::default()
}

/// Takes out the polls of slots that occur earlier in the batch, since a transaction writes each slot once. They are
/// decided again afterwards.
fn repeated<T: BorrowMut<Kept>>(polls: &mut Vec<T>) -> Vec<T> {
    let mut slots: HashSet<SlotKey> = HashSet::new();
    let (first, repeated) = std::mem::take(polls).into_iter().partition(|poll: &T| {
        let is_first = poll.borrow().slots().all(|slot| !slots.contains(&slot));
        slots.extend(poll.borrow().slots());
        is_first
    });
    *polls = first;
    repeated
}
