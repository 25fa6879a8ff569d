//! News of the world for webhooks.

use serde_json::Value;

use crate::domain::{Counts, GroupId, MsgSeq, Timestamp};

/// Something that webhooks report.
#[derive(Debug, Clone)]
pub(in crate::simulator) enum Fresh {
    /// A message is known, or its counts were set: its reads are reported from now on.
    Message { group: GroupId, seq: MsgSeq },
    /// A message was posted.
    Posted { group: GroupId, seq: MsgSeq, sent_at: Timestamp },
    /// A message was recalled.
    Recalled { group: GroupId, seq: MsgSeq },
    /// A group was created.
    Created(GroupId),
    /// A group was dissolved.
    Dissolved(GroupId),
    /// A member has joined.
    Joined { group: GroupId, member: String },
    /// A member has left.
    Left { group: GroupId, member: String },
    /// Anything else, as the body of a webhook.
    Event(Value),
}

/// A message after members have read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::simulator) struct Reading {
    pub counts: Counts,
    /// Those who have just read it.
    pub members: Vec<String>,
}
