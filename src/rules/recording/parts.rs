//! Moves messages whose calls fail, while others of their slot are answered, to their own slots.

use chrono::TimeDelta;

use super::{
    changes::{MessageChange, Part},
    due::{TO_BLAME_FROM, wait_of_one_to_blame},
    poll::{Poll, PollEnd},
};
use crate::{
    domain::{MsgSeq, Timestamp},
    rules::slot::{Slot, SlotMessage},
};

/// Moves messages whose calls fail, while others of their slot are answered, to their own slots.
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
            // Most of several are not at fault; the next polls tell which, since each has fewer left to search or
            // fails.
            let (failures, wait) = match seqs.len() {
                1 => (failures, wait_of_one_to_blame(failures)),
                _ => (TO_BLAME_FROM - 1, TimeDelta::zero()),
            };
            (seqs, Part { seqs: vec![], last_polled_at, known_until, next_poll_at: now + wait, failures })
        };
        Self { known_until, parts: poll.failed.iter().cloned().chain(refused).map(part).collect() }
    }

    /// Removes the message from its slot if it has to leave that.
    pub(super) fn take(&mut self, message: &SlotMessage, change: &mut MessageChange) -> bool {
        let Some((_, part)) = self.parts.iter_mut().find(|(seqs, _)| seqs.contains(&message.seq)) else { return false };
        part.seqs.push(message.seq);
        // If it is known until its new slot's time, that is enough.
        change.known_apart = message.known_until.is_some() && message.known_until != self.known_until;
        true
    }

    pub(super) fn filled(self) -> Vec<Part> {
        self.parts.into_iter().map(|(_, part)| part).filter(|part| !part.seqs.is_empty()).collect()
    }
}
