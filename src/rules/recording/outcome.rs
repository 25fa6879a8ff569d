//! The messages of a slot after a poll or events: those that stay, those that are closed, and those that move. Pure.

use super::{Closed, Kept, MessageChange};
use crate::{domain::MsgSeq, rules::slot::SlotMessage};

/// The slot's messages after a poll.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The contents of the slot.
    pub contents: Contents,
    /// The closed messages.
    pub closed: Vec<(SlotMessage, Closed)>,
    /// The messages that move to their own slots, by part of the recording.
    pub parts: Vec<Vec<SlotMessage>>,
}

/// The contents of a slot after a poll.
#[derive(Debug, PartialEq, Eq)]
pub enum Contents {
    /// The same as before.
    Same,
    /// The same messages; only counts have changed.
    Counted(Vec<SlotMessage>),
    /// Anything else.
    Other(Vec<SlotMessage>),
}

impl Contents {
    /// The messages, if they have to be written.
    pub fn messages(&self) -> &[SlotMessage] {
        match self {
            Self::Same => &[],
            Self::Counted(messages) | Self::Other(messages) => messages,
        }
    }
}

impl Kept {
    /// The state of the slot's messages. Those in `refused` are unchanged, and known until the earlier time.
    pub fn outcome(&self, refused: &[MsgSeq]) -> Outcome {
        let recording = &self.recording;
        let merges = recording.absorbs.is_some();
        let is_changed = !recording.messages.is_empty() || !recording.parts.is_empty() || !refused.is_empty();
        if !is_changed && !merges && !self.slot.is_wrong {
            return Outcome { contents: Contents::Same, closed: vec![], parts: vec![] };
        }
        let (mut held, mut closed) = (Vec::with_capacity(self.slot.messages.len()), vec![]);
        let mut parts = vec![vec![]; recording.parts.len()];
        let (mut is_other, mut is_counted) = (merges || self.slot.is_wrong || self.slot.is_unsorted, false);
        let mut changes = recording.messages.iter().peekable();
        for message in &self.slot.messages {
            let change = changes.next_if(|change| change.seq == message.seq);
            if refused.contains(&message.seq) {
                is_other = true;
                held.push(SlotMessage { known_apart: message.known_until.is_some(), ..message.clone() });
                continue;
            }
            if !merges && self.slot.is_absorbed(message.seq) {
                continue;
            }
            let after = change.map(|change| message.after(change));
            let part = recording.parts.iter().position(|part| part.seqs.contains(&message.seq));
            is_other |= part.is_some() || after.as_ref().is_some_and(|after| !after.differs_in_counts_only(message));
            is_counted |= change.is_some();
            let after = after.unwrap_or_else(|| message.clone());
            match (change.and_then(|change| change.closed), part) {
                (Some(why), _) => closed.push((after, why)),
                (None, Some(part)) => parts[part].push(after),
                (None, None) => held.push(after),
            }
        }
        is_other |= !closed.is_empty();
        let contents = match (is_other, is_counted) {
            (true, _) => Contents::Other(held),
            (false, true) => Contents::Counted(held),
            (false, false) => Contents::Same,
        };
        Outcome { contents, closed, parts }
    }
}

impl SlotMessage {
    /// Its state after a poll.
    pub(super) fn after(&self, change: &MessageChange) -> Self {
        let told_at = change.polled_at;
        let changed_at = if change.differs { told_at } else { told_at.into_iter().chain(self.changed_at).min() };
        Self {
            seq: change.seq,
            sent_at: self.sent_at,
            first_sent_at: self.first_sent_at,
            // Not later than this poll: the time may come from another clock.
            first_polled_at: change.first_at.into_iter().chain(self.first_polled_at).min(),
            receipt: change.receipt,
            changed_at,
            known_until: change.known_until,
            known_apart: change.known_apart,
            no_receipt_polls: change.no_receipt_polls,
            refused_since: change.refused_since,
            has_joined: false,
        }
    }

    fn differs_in_counts_only(&self, before: &Self) -> bool {
        let code = |message: &Self| message.receipt.map(|receipt| receipt.code);
        let rest = |message: &Self| (message.first_polled_at, message.no_receipt_polls, message.refused_since);
        code(self) == code(before) && rest(self) == rest(before) && self.says_until() == before.says_until()
    }
}
