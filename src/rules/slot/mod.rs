//! A slot: up to a batch of messages of one group that are always polled together. One slot is one future call.
//!
//! Its contents as the poller gets them, and the packing of new messages into slots. Pure: the store reads and writes
//! the results.

mod packing;

use std::time::Duration;

pub use self::packing::{NewMessage, OpenSlot, SlotAssignment, pack};
use crate::{
    domain::{GroupId, MsgSeq, Receipt, Timestamp},
    rules::{
        cadence::{Following, Known},
        database_clock::APART,
    },
};

/// Id of a slot.
pub type SlotId = i64;

/// The key of a group in `watched_groups`.
pub type GroupKey = i32;

/// Key of a slot in `poll_slots`. Every statement names the group, by which tables may be distributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotKey {
    /// Its group.
    pub group_key: GroupKey,
    /// Its number.
    pub slot_id: SlotId,
}

impl SlotKey {
    /// Less than all other keys.
    pub const MIN: Self = Self { group_key: GroupKey::MIN, slot_id: SlotId::MIN };

    /// The keys as two columns, for a statement.
    pub fn columns(keys: &[Self]) -> (Vec<GroupKey>, Vec<SlotId>) {
        keys.iter().map(|key| (key.group_key, key.slot_id)).unzip()
    }
}

/// A slot created for messages that left another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewSlot {
    /// The slot.
    pub slot: SlotKey,
    /// When it is due.
    pub next_poll_at: Timestamp,
    /// Whether polls of its messages have failed.
    pub fails: bool,
}

/// Whether a group may be polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// It is polled.
    Active,
    /// Its owner has paused or unwatched it.
    Stopped,
    /// Tencent Chat refused it: only probes may call.
    Quarantined,
}

/// A slot and its messages, at the time of reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its id.
    pub key: SlotKey,
    /// The group's id in Tencent Chat.
    pub group_id: GroupId,
    /// Whether the group may be polled.
    pub group_state: GroupState,
    /// The name of the group's cadence; `None` for the default.
    pub cadence: Option<String>,
    /// Whether its readers are stored.
    pub has_readers: bool,
    /// When it is due.
    pub next_poll_at: Timestamp,
    /// When the last answer of its last poll arrived.
    pub last_polled_at: Option<Timestamp>,
    /// When that poll's first answered attempt was sent: its messages are known until then, unless they have their
    /// own time.
    pub known_until: Option<Timestamp>,
    /// Number of polls in a row without a change.
    pub quiet_polls: i32,
    /// Number of failed polls in a row.
    pub failures: i32,
    /// Increases with every change: a decision holds for the version that was read.
    pub version: i64,
    /// When the first attempt of the last stored poll was sent.
    pub last_called_at: Option<Timestamp>,
    /// Its active messages, in rising order, each once.
    pub messages: Vec<SlotMessage>,
    /// Whether its row has been edited, and contains a duplicate or something that is not a message. Then the whole row
    /// has to be written.
    pub is_wrong: bool,
    /// Whether its row has its messages in another order: older ones have joined later. Then all arrays have to be
    /// written together.
    pub is_unsorted: bool,
    /// A slot that is polled with it, and whose messages move here if the poll succeeds.
    pub absorbs: Option<Absorbed>,
}

/// A slot that is polled with another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Absorbed {
    /// Its id.
    pub key: SlotKey,
    /// The version that was read.
    pub version: i64,
    /// Its messages.
    pub seqs: Vec<MsgSeq>,
    /// When the absorbing slot was last answered.
    pub own_polled_at: Option<Timestamp>,
}

/// The stored due time of a slot, and what shows whether the wall clock was set since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredDue {
    /// When it is due.
    pub next_poll_at: Timestamp,
    /// When it was last answered.
    pub last_polled_at: Option<Timestamp>,
    /// Whether its last poll failed.
    pub has_failed: bool,
    /// When its youngest message was sent; `None` if it is empty.
    pub youngest_sent_at: Option<Timestamp>,
}

impl StoredDue {
    /// The time between two polls by its cadence, as decided after its last poll: later pauses and failures don't
    /// count. Before the first poll, the youngest message decides.
    pub fn every(&self, following: &Following<'_>, now: Timestamp) -> Duration {
        let alone = |youngest| following.alone(youngest, now);
        let alone = self.youngest_sent_at.map_or_else(|| following.cadence.first_step(), alone);
        let decided = self.last_polled_at.and_then(|polled_at| (self.next_poll_at - polled_at).to_std().ok());
        match decided.filter(|decided| !self.has_failed && !decided.is_zero()) {
            Some(decided) => alone.min(decided.div_f64(following.stretch)),
            None => alone,
        }
    }
}

impl Slot {
    /// A new slot of an active group, without messages.
    pub fn new(key: SlotKey, group_id: GroupId, next_poll_at: Timestamp) -> Self {
        Self {
            key,
            group_id,
            group_state: GroupState::Active,
            cadence: None,
            has_readers: false,
            next_poll_at,
            last_polled_at: None,
            known_until: None,
            quiet_polls: 0,
            failures: 0,
            version: 0,
            last_called_at: None,
            messages: vec![],
            is_wrong: false,
            is_unsorted: false,
            absorbs: None,
        }
    }

    /// Whether another slot of the same group may be polled with it: both fit into one call, and neither fails. A fault
    /// in one must not spoil the polls of the other.
    pub fn may_absorb(&self, other: &Self, batch_size: usize) -> bool {
        self.messages.len() + other.messages.len() <= batch_size && self.failures == 0 && other.failures == 0
    }

    /// Whether a time by which messages are known is in the future at `now`.
    pub fn is_dated_ahead(&self, now: Timestamp) -> bool {
        let latest = Some(now + APART);
        let is_ahead = |time: Option<Timestamp>| time > latest;
        is_ahead(self.last_polled_at.max(self.known_until))
            || self.messages.iter().any(|message| is_ahead(message.known_until))
    }

    /// Removes times that are in the future at `now`: an earlier poll was dated by a wrong clock. The state of
    /// messages then was true at some time since they were sent. Returns the messages affected.
    pub fn forget_future(&mut self, now: Timestamp) -> Vec<MsgSeq> {
        let is_ahead = |time: &Timestamp| *time > now + APART;
        // An answer with a time in the future may belong to an attempt dated by a clock that was right.
        let was_told_ahead = self.last_polled_at.as_ref().is_some_and(is_ahead);
        self.last_polled_at = self.last_polled_at.filter(|_| !was_told_ahead);
        self.known_until = self.known_until.filter(|time| !is_ahead(time));
        let mut dated_ahead = Vec::new();
        for message in &mut self.messages {
            let is_known_ahead = message.known_until.as_ref().is_some_and(is_ahead);
            if is_known_ahead || was_told_ahead && message.known_until.is_some() {
                dated_ahead.push(message.seq);
            }
            if is_known_ahead {
                message.known_until = Some(message.first_sent_at.min(now));
            }
        }
        dated_ahead
    }

    /// Whether a message belongs to the slot that is polled with it.
    pub fn is_absorbed(&self, seq: MsgSeq) -> bool {
        self.absorbs.as_ref().is_some_and(|absorbed| absorbed.seqs.contains(&seq))
    }

    /// Drops the slot that is polled with it, and its messages.
    pub fn leave_absorbed(&mut self) {
        if let Some(absorbed) = self.absorbs.take() {
            self.messages.retain(|message| !absorbed.seqs.contains(&message.seq));
            self.last_polled_at = self.last_polled_at.and(absorbed.own_polled_at);
        }
    }

    /// Adds the messages of another slot of the same group, for a common poll. Their states are unchanged.
    pub fn absorb(&mut self, mut other: Slot) {
        other.messages.retain(|message| self.messages.iter().all(|own| own.seq != message.seq));
        let seqs = other.messages.iter().map(|message| message.seq).collect();
        let own_polled_at = self.last_polled_at;
        self.absorbs = Some(Absorbed { key: other.key, version: other.version, seqs, own_polled_at });
        self.last_polled_at = self.last_polled_at.max(other.last_polled_at);
        self.messages.extend(other.messages);
        self.messages.sort_unstable_by_key(|message| message.seq);
        self.is_wrong |= other.is_wrong;
    }
}

/// A message of a slot, with its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotMessage {
    /// Its number within the group.
    pub seq: MsgSeq,
    /// Start of its age for the cadence: the time of sending, or the time given when it was watched again.
    pub sent_at: Timestamp,
    /// Time of sending: the earliest one given. Its milestones and read rates use it.
    pub first_sent_at: Timestamp,
    /// The first poll with its receipt; `None` if there was none.
    pub first_polled_at: Option<Timestamp>,
    /// The latest receipt; `None` if it was never answered.
    pub receipt: Option<Receipt>,
    /// When that was first seen.
    pub changed_at: Option<Timestamp>,
    /// When the last attempt with its receipt was sent, in any slot; `None` if there was none.
    pub known_until: Option<Timestamp>,
    /// Whether `known_until` is its own and not its slot's.
    pub known_apart: bool,
    /// Number of polls in a row that found no receipt, or refused it if `refused_since` is set.
    pub no_receipt_polls: i16,
    /// Time since which each poll of it alone was refused.
    pub refused_since: Option<Timestamp>,
    /// Whether it joined during the poll of its slot, which did not ask for it.
    pub has_joined: bool,
}

impl SlotMessage {
    /// A message sent at `sent_at` of which nothing is known yet.
    pub fn new(seq: MsgSeq, sent_at: Timestamp) -> Self {
        Self {
            seq,
            sent_at,
            first_sent_at: sent_at,
            first_polled_at: None,
            receipt: None,
            changed_at: None,
            known_until: None,
            known_apart: false,
            no_receipt_polls: 0,
            refused_since: None,
            has_joined: false,
        }
    }

    /// The facts that its cadence depends on.
    pub fn known(&self) -> Known {
        let is_read = self.receipt.is_some_and(Receipt::all_read);
        Known { sent_at: self.sent_at, until: self.known_until, is_read }
    }

    /// Its own `known_until`, if it has one.
    pub fn says_until(&self) -> Option<Timestamp> {
        self.known_until.filter(|_| self.known_apart)
    }

    /// Time until which it was known before an attempt sent at `sent_at`. If that would be later, a clock has been set
    /// back: then it was known at some time after the message was sent.
    pub fn known_before(&self, sent_at: Timestamp) -> Option<Timestamp> {
        self.known_until.map(|until| if until < sent_at { until } else { self.first_sent_at.min(sent_at) })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slot(slot_id: SlotId, seqs: &std::collections::BTreeSet<i64>, last_polled_at: Option<i64>) -> Slot {
        let time = |second: i64| Timestamp::from_timestamp(1_790_000_000 + second, 0).unwrap();
        let message = |seq: &i64| SlotMessage {
            seq: MsgSeq::try_from(*seq).unwrap(),
            sent_at: time(0),
            first_sent_at: time(0),
            first_polled_at: None,
            receipt: None,
            changed_at: None,
            known_until: last_polled_at.map(time),
            known_apart: false,
            no_receipt_polls: 0,
            refused_since: None,
            has_joined: false,
        };
        Slot {
            last_polled_at: last_polled_at.map(time),
            known_until: last_polled_at.map(time),
            version: slot_id,
            messages: seqs.iter().map(message).collect(),
            ..Slot::new(SlotKey { group_key: 1, slot_id }, "g".parse().unwrap(), time(0))
        }
    }

    #[test]
    fn only_healthy_slots_that_fit_into_one_call_share_a_poll() {
        let of = |slot_id, seqs: std::ops::RangeInclusive<i64>, failures| Slot {
            failures,
            ..slot(slot_id, &seqs.collect(), None)
        };
        for (first, second, may) in [
            (of(1, 1..=2, 0), of(2, 3..=5, 0), true),
            (of(1, 1..=3, 0), of(2, 4..=6, 0), false),
            (of(1, 1..=2, 1), of(2, 3..=5, 0), false),
            (of(1, 1..=2, 0), of(2, 3..=5, 1), false),
        ] {
            assert_eq!(first.may_absorb(&second, 5), may, "{first:?} {second:?}");
        }
    }

    #[test]
    fn a_message_in_two_slots_is_polled_once_and_stays_in_one() {
        let (mut common, second) =
            (slot(1, &[1, 2].into(), None), Slot { is_wrong: true, ..slot(2, &[2, 3].into(), None) });
        let first = common.messages.clone();
        common.absorb(second);
        assert_eq!(common.messages.iter().map(|message| message.seq.get()).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(common.is_wrong, "what else the second held is not to stay");
        common.leave_absorbed();
        assert_eq!(common.messages, first);
    }

    proptest! {
        #[test]
        fn a_common_poll_holds_every_message_of_both_slots_once(
            of in proptest::collection::btree_map(1_i64..1_000, any::<bool>(), 2..60),
            polled in (proptest::option::of(0_i64..100), proptest::option::of(0_i64..100)),
        ) {
            let half = |wanted| of.iter().filter(|(_, is_first)| **is_first == wanted).map(|(seq, _)| *seq).collect();
            let (first, second) = (slot(1, &half(true), polled.0), slot(2, &half(false), polled.1));
            let mut common = first.clone();
            common.absorb(second.clone());
            let mut expected: Vec<SlotMessage> = first.messages.iter().cloned().chain(second.messages).collect();
            expected.sort_by_key(|message| message.seq);
            prop_assert!(common.messages.is_sorted_by(|one, next| one.seq < next.seq));
            prop_assert_eq!(&common.messages, &expected, "each with what is known of it");
            prop_assert_eq!(common.absorbs.as_ref().map(|other| (other.key, other.version)), Some((second.key, 2)));
            // The time of the common poll has to be later than all earlier times of both.
            prop_assert_eq!(common.last_polled_at, first.last_polled_at.max(second.last_polled_at));
            common.leave_absorbed();
            prop_assert_eq!(common.messages, first.messages);
        }
    }
}
