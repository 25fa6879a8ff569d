//! Sorts out messages whose calls fail though others of their slot are answered: they leave it for slots of their own.

use chrono::TimeDelta;

use super::{
    MessageChange, Part, Poll, PollEnd,
    due::{TO_BLAME_FROM, wait_of_one_to_blame},
};
use crate::{
    domain::{MsgSeq, Timestamp},
    slot::{Slot, SlotMessage},
};

/// Sorts out messages whose calls fail though others of their slot are answered.
pub(super) struct Parts {
    known_until: Option<Timestamp>,
    parts: Vec<(Vec<MsgSeq>, Part)>,
}

impl Parts {
    pub(super) fn of(slot: &Slot, poll: &Poll, now: Timestamp) -> Self {
        let is_answered = poll.end == PollEnd::Complete && !poll.attempts.is_empty();
        let refused = poll.rejected.iter().filter(|_| is_answered).map(|told| vec![told.seq]);
        let (last_polled_at, known_until) = (slot.last_polled_at, slot.known_until);
        let part = |seqs: Vec<MsgSeq>| {
            let failures = slot.failures.saturating_add(1).max(TO_BLAME_FROM);
            // Most of several are not to blame, and the next poll tells which: each finds less left to look for, or fails.
            let (failures, wait) = match seqs.len() {
                1 => (failures, wait_of_one_to_blame(failures)),
                _ => (TO_BLAME_FROM - 1, TimeDelta::zero()),
            };
            (seqs, Part { seqs: vec![], last_polled_at, known_until, next_poll_at: now + wait, failures })
        };
        Self { known_until, parts: poll.failed.iter().cloned().chain(refused).map(part).collect() }
    }

    /// Takes the message out of its slot if it is to leave that.
    pub(super) fn take(&mut self, message: &SlotMessage, change: &mut MessageChange) -> bool {
        let Some((_, part)) = self.parts.iter_mut().find(|(seqs, _)| seqs.contains(&message.seq)) else { return false };
        part.seqs.push(message.seq);
        // As long as it is known as its new slot has it, that tells.
        change.known_apart = message.known_until.is_some() && message.known_until != self.known_until;
        true
    }

    pub(super) fn filled(self) -> Vec<Part> {
        self.parts.into_iter().map(|(_, part)| part).filter(|part| !part.seqs.is_empty()).collect()
    }
}
