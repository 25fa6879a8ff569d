//! A group with its messages, and its seed.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use sha2::{Digest, Sha256};

use crate::domain::{GroupId, GroupType, MsgSeq, Receipt, Timestamp};

/// A group.
#[derive(Debug)]
pub(super) struct Group {
    pub seed: u64,
    pub members: u16,
    pub code: i32,
    pub group_type: GroupType,
    pub messages: BTreeMap<MsgSeq, Message>,
    /// The members who left, by number.
    pub left: BTreeSet<u16>,
    /// When the last of its members joined, rising; the others were there from the beginning.
    pub joined: Vec<Timestamp>,
}

/// A message.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub sent_at: Option<Timestamp>,
    pub fixed: Option<Receipt>,
    pub kind: PostKind,
}

/// What a message is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PostKind {
    /// A message of a member.
    #[default]
    Ordinary,
    /// A notice of the service.
    System,
    /// Recalled by its sender.
    Recalled,
    /// Deleted or expired.
    Deleted,
}

/// A message as the service lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::simulator) struct Post {
    pub seq: u32,
    /// Time of sending; `None` if it was never asked for.
    pub sent_at: Option<Timestamp>,
    pub kind: PostKind,
}

/// A page of messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::simulator) struct Posts {
    pub newest_first: Vec<Post>,
    /// Whether there are older ones.
    pub has_more: bool,
}

/// A group as the service describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::simulator) struct GroupState {
    pub group_type: GroupType,
    pub members: u16,
    /// The seq of its next message.
    pub next_seq: u32,
    /// Time of its latest message.
    pub last_message_at: Option<Timestamp>,
}

impl Group {
    /// Codes of groups that do not exist any more, and are not listed.
    pub const GONE: [i32; 2] = [Self::DISSOLVED, 10015];
    /// The code of calls for a dissolved group.
    pub const DISSOLVED: i32 = 10010;

    /// The seq of its next message.
    pub fn next_seq(&self) -> u32 {
        self.messages.last_key_value().map_or(1, |(seq, _)| seq.get().saturating_add(1))
    }
}

/// The seed of a message.
pub(super) fn seed_of_message(group: &Group, seq: MsgSeq) -> u64 {
    Rng::with_seed(group.seed.wrapping_add(u64::from(seq.get()))).u64(..)
}

/// The seed of a group.
pub(in crate::simulator) fn seed_of(seed: u64, group: &GroupId) -> u64 {
    let digest = Sha256::new().chain_update(seed.to_be_bytes()).chain_update(group.as_str()).finalize();
    digest.iter().take(8).fold(0, |seed, byte| seed << 8 | u64::from(*byte))
}
