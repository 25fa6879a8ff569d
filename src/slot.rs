//! A slot: up to a batch of messages of one group that are always polled together. A call to be.
//!
//! Here are its contents as the poller gets them, and the packing of new messages into slots. Pure: the store reads and
//! writes what is decided here.

mod packing;

pub use self::packing::{Fill, Fresh, OpenSlot, pack};
use crate::domain::{GroupId, MsgSeq, Receipt, Timestamp};

/// The key of a slot in `poll_slots`.
pub type SlotId = i64;

/// The key of a group in `watched_groups`.
pub type GroupKey = i32;

/// Whether a group may be polled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// It is polled.
    Active,
    /// Its owner has stopped it, or does not watch it any more.
    Stopped,
    /// Tencent Chat refused it: only a probe may call.
    Quarantined,
}

/// A slot and its messages, as they stood when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its key.
    pub slot_id: SlotId,
    /// The key of its group.
    pub group_key: GroupKey,
    /// The group as Tencent Chat knows it.
    pub group_id: GroupId,
    /// Whether the group may be polled.
    pub group_state: GroupState,
    /// The name of the group's cadence; the default if there is none.
    pub cadence: Option<String>,
    /// When it is due.
    pub next_poll_at: Timestamp,
    /// When it was last answered.
    pub last_polled_at: Option<Timestamp>,
    /// How many polls in a row saw no change.
    pub quiet_polls: i32,
    /// How many polls in a row failed.
    pub failures: i32,
    /// How many times messages have joined it.
    pub joins: i32,
    /// Its active messages, by rising seq.
    pub messages: Vec<SlotMessage>,
    /// A slot whose messages are polled along and move here if the poll succeeds, with its `joins`.
    pub absorbs: Option<(SlotId, i32)>,
}

/// When a slot is due, as it is stored, and what tells whether the wall clock was set since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredDue {
    /// When it is due.
    pub next_poll_at: Timestamp,
    /// When it was last answered.
    pub last_polled_at: Option<Timestamp>,
    /// Whether its last poll failed.
    pub has_failed: bool,
}

impl Slot {
    /// Takes in the messages of another slot of the same group, for a common poll.
    pub fn absorb(&mut self, other: Slot) {
        self.absorbs = Some((other.slot_id, other.joins));
        self.last_polled_at = self.last_polled_at.max(other.last_polled_at);
        self.messages.extend(other.messages);
        self.messages.sort_unstable_by_key(|message| message.seq);
    }
}

/// A message of a slot, with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotMessage {
    /// Its number in the group.
    pub seq: MsgSeq,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// The latest receipt; `None` if it was never answered for.
    pub receipt: Option<Receipt>,
    /// The last poll that told something of it, whichever slot that was in; `None` if none has.
    pub known_until: Option<Timestamp>,
    /// Whether `known_until` is its own, and not its slot's last poll.
    pub known_apart: bool,
    /// How many polls in a row said that it has no receipt.
    pub no_receipt_polls: i16,
}
