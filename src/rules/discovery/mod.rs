//! The decisions of discovery: which groups and messages are watched without being named by their owner, and when a
//! group is checked for new messages.
//!
//! Nothing here keeps more of a message than its seq, its time and its kind.

mod cursor;
mod estimate;
mod receipts;
mod rounds;
mod selection;
mod wanted;

pub use self::{
    cursor::{Read, Walk},
    estimate::{looks_per_second, messages_per_hour},
    receipts::{Share, polls_before},
    rounds::{Rounds, interval},
    selection::{Pattern, Selection, Unwanted},
    wanted::{Passed, Wanted},
};
use crate::{
    domain::{GroupId, MsgSeq, Timestamp},
    rules::protocol::Api,
};

/// What is watched, and how much of it, as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Discovery {
    /// Which groups.
    pub selection: Selection,
    /// Which messages.
    pub wanted: Wanted,
    /// Name of the cadence of discovered groups; the default if none.
    pub cadence: Option<String>,
    /// Maximum number of groups that are followed.
    pub groups: usize,
    /// Maximum number of discovered messages that are polled at a time.
    pub messages: i64,
    /// The same for each group.
    pub messages_per_group: i64,
    /// Maximum number of calls in any second, for each API except that of group lists.
    pub max_calls_per_second: u32,
}

impl Discovery {
    /// Maximum number of calls per second of each API that discovery uses.
    pub fn call_limits(&self) -> [(Api, u32); 3] {
        [
            (Api::GroupInfo, self.max_calls_per_second),
            (Api::GroupList, Api::GroupList.calls_per_second()),
            (Api::History, self.max_calls_per_second),
        ]
    }
}

/// A message to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its group.
    pub group: GroupId,
    /// Its seq.
    pub seq: MsgSeq,
    /// Time of sending.
    pub sent_at: Timestamp,
}
