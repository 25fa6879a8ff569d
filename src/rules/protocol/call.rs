//! The calls of the service: their requests and the interpretation of their answers. A new call implements [`Call`];
//! the client, the pacing and the metrics need nothing else.
//!
//! Nothing here knows how or when calls are made.

use serde::Deserialize;

use super::{answer::Answer, error_class::Class, failure::Failure, wire::Response};
use crate::{
    domain::{GroupId, MsgSeq},
    rules::protocol::wire::Request,
};

/// The APIs that receiptd calls. The service limits each one separately, per app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Api {
    /// The receipts of messages: `get_group_msg_receipt`.
    Receipts,
    /// The latest seq, type and size of groups: `get_group_info`.
    GroupInfo,
    /// The ids of the app's groups: `get_appid_group_list`.
    GroupList,
    /// The times and kinds of a group's messages: `group_msg_get_simple`.
    History,
    /// Who has read a message: `get_group_msg_receipt_detail`.
    Readers,
}

impl Api {
    /// The name of the call in the service's documentation, and the metrics' label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Receipts => "get_group_msg_receipt",
            Self::GroupInfo => "get_group_info",
            Self::GroupList => "get_appid_group_list",
            Self::History => "group_msg_get_simple",
            Self::Readers => "get_group_msg_receipt_detail",
        }
    }

    /// The documented maximum number of calls of an app per second.
    pub fn calls_per_second(self) -> u32 {
        match self {
            Self::Receipts | Self::GroupInfo | Self::History | Self::Readers => 200,
            Self::GroupList => 1,
        }
    }
}

/// A call of one API.
pub trait Call: Sync {
    /// Its API.
    const API: Api;

    /// The content of an answer.
    type Answer: Send;

    /// The request as JSON.
    ///
    /// # Errors
    /// If it can't be written.
    fn request(&self) -> Result<Vec<u8>, serde_json::Error>;

    /// Maximum size of the decompressed answer, in bytes.
    fn most_bytes(&self) -> usize;

    /// Interprets an answer.
    ///
    /// # Errors
    /// If it contains nothing of use; with the class of the failure.
    fn read(&self, http_status: u16, body: &[u8]) -> Result<Self::Answer, Failure>;
}

/// The call for the receipts of messages of a group.
#[derive(Debug, Clone, Copy)]
pub struct GetReceipts<'a> {
    /// The group.
    pub group: &'a GroupId,
    /// The messages, in rising order.
    pub seqs: &'a [MsgSeq],
}

impl Call for GetReceipts<'_> {
    const API: Api = Api::Receipts;

    type Answer = Answer;

    fn request(&self) -> Result<Vec<u8>, serde_json::Error> {
        Request::new(self.group, self.seqs).written()
    }

    /// An entry takes about 80 bytes; the service's own limit is a megabyte (10018).
    fn most_bytes(&self) -> usize {
        (64 << 10) + (1 << 10) * self.seqs.len()
    }

    fn read(&self, http_status: u16, body: &[u8]) -> Result<Answer, Failure> {
        Answer::read(self.seqs, http_status, body)
    }
}

/// The fields of a successful answer. Fields that `T` does not name are skipped.
///
/// # Errors
/// If it reports a failure or is not the JSON that `T` expects.
pub(super) fn read_success<'a, T: Deserialize<'a>>(http_status: u16, body: &'a [u8]) -> Result<T, Failure> {
    if http_status != 200 {
        return Err(Failure::new(Class::of_http_status(http_status), None, &format!("HTTP status {http_status}")));
    }
    Response::read(body)?;
    serde_json::from_slice(body).map_err(|error| Failure::unreadable(body, &error))
}
