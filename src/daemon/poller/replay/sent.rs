//! The input of a replay.

use crate::{domain::Timestamp, rules::slot::GroupKey};

/// A message and when it was read.
#[derive(Debug, Clone)]
pub struct Sent {
    /// The group that it was sent to.
    pub group_key: GroupKey,
    /// When it was sent.
    pub sent_at: Timestamp,
    /// How many members may read it.
    pub members: u32,
    /// When members read it, rising.
    pub reads: Vec<Timestamp>,
}
