//! A line of a watch list.

use crate::domain::{GroupId, Labels, MsgSeq, Timestamp};

/// A message to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchLine {
    /// Its group.
    pub group: GroupId,
    /// Its number within the group.
    pub seq: MsgSeq,
    /// Time of sending; `None` if the line has none.
    pub sent_at: Option<Timestamp>,
    /// Its labels.
    pub labels: Labels,
}

/// Why a line is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadLine(pub(super) String);

pub(super) fn bad<T>(reason: String) -> Result<T, BadLine> {
    Err(BadLine(reason))
}
