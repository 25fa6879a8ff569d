//! `group_msg_get_simple`: times and kinds of a group's messages, from the newest down. Texts, senders and other
//! contents of the messages are skipped while parsing.

use serde::{Deserialize, Serialize};

use super::{List, seconds};
use crate::{
    domain::{GroupId, MsgSeq, Timestamp},
    rules::protocol::{
        call::{Api, Call, read_success},
        failure::Failure,
        wire::Number,
    },
};

/// Maximum number of messages per call.
const PAGE: usize = 20;

/// Maximum size of a message in an answer, in bytes.
const MESSAGE_BYTES: usize = 48 << 10;

/// The call for a page of a group's messages.
#[derive(Debug, Clone, Copy)]
pub struct GetHistory<'a> {
    /// The group.
    pub group: &'a GroupId,
    /// The newest message of the page.
    pub from: MsgSeq,
}

/// A page of messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// The messages, the newest first.
    pub messages: Vec<HistoryMessage>,
    /// Whether older messages may follow.
    pub has_more: bool,
}

/// A message of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryMessage {
    /// Its seq.
    pub seq: MsgSeq,
    /// Time of sending; `None` if unknown, for example because it has expired.
    pub sent_at: Option<Timestamp>,
    /// What it is.
    pub kind: MessageKind,
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// A message of a member.
    Ordinary,
    /// A message of a member that was sent without a receipt.
    WithoutReceipt,
    /// A notice of the service.
    System,
    /// Recalled by its sender or an admin.
    Recalled,
    /// Deleted, expired, or never stored.
    Gone,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Request<'a> {
    group_id: &'a str,
    req_msg_number: usize,
    req_msg_seq: u32,
    with_recalled_msg: u8,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Body {
    #[serde(default)]
    rsp_msg_list: List<Entry, { PAGE * 2 }>,
    /// Its name in a part of the documentation.
    #[serde(default)]
    msg_list: List<Entry, { PAGE * 2 }>,
    #[serde(default)]
    is_finished: Number,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Entry {
    msg_seq: Number,
    msg_time_stamp: Number,
    is_place_msg: Number,
    is_system_msg: Number,
    need_read_receipt: Number,
}

impl Entry {
    fn message(&self) -> Option<HistoryMessage> {
        let Number::Whole(seq) = self.msg_seq else { return None };
        let kind = match (self.is_place_msg, self.is_system_msg, self.need_read_receipt) {
            (Number::Whole(2), ..) => MessageKind::Recalled,
            (Number::Whole(1), ..) => MessageKind::Gone,
            (_, Number::Whole(1), _) => MessageKind::System,
            (_, _, Number::Whole(0)) => MessageKind::WithoutReceipt,
            _ => MessageKind::Ordinary,
        };
        Some(HistoryMessage { seq: MsgSeq::try_from(seq).ok()?, sent_at: seconds(self.msg_time_stamp), kind })
    }
}

impl Call for GetHistory<'_> {
    const API: Api = Api::History;

    type Answer = HistoryPage;

    fn request(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Request {
            group_id: self.group.as_str(),
            req_msg_number: PAGE,
            req_msg_seq: self.from.get(),
            with_recalled_msg: 1,
        })
    }

    fn most_bytes(&self) -> usize {
        (64 << 10) + PAGE * MESSAGE_BYTES
    }

    fn read(&self, http_status: u16, body: &[u8]) -> Result<HistoryPage, Failure> {
        let Body { rsp_msg_list, msg_list, is_finished } = read_success(http_status, body)?;
        let entries = rsp_msg_list.0.iter().chain(&msg_list.0);
        let mut messages: Vec<HistoryMessage> = entries.filter_map(Entry::message).collect();
        messages.retain(|message| message.seq <= self.from);
        messages.sort_by_key(|message| std::cmp::Reverse(message.seq));
        messages.dedup_by_key(|message| message.seq);
        // 1: all messages were returned. 2: the rest has expired.
        let is_finished = matches!(is_finished, Number::Whole(1 | 2));
        Ok(HistoryPage { has_more: !is_finished && !messages.is_empty(), messages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(from: i64, body: &str) -> HistoryPage {
        let (group, from) = ("a".parse().unwrap(), MsgSeq::try_from(from).unwrap());
        GetHistory { group: &group, from }.read(200, body.as_bytes()).unwrap()
    }

    #[test]
    fn the_request_for_messages_is_as_documented() {
        let (group, from) = ("@TGS#a".parse().unwrap(), MsgSeq::try_from(7).unwrap());
        let json = String::from_utf8(GetHistory { group: &group, from }.request().unwrap()).unwrap();
        assert_eq!(json, r#"{"GroupId":"@TGS#a","ReqMsgNumber":20,"ReqMsgSeq":7,"WithRecalledMsg":1}"#);
    }

    #[test]
    fn messages_come_newest_first_with_their_times_and_kinds() {
        let page = read(
            9,
            r#"{"ActionStatus":"OK","ErrorCode":0,"GroupId":"a","IsFinished":0,"RspMsgList":[
                {"MsgSeq":4,"MsgTimeStamp":1700000000,"From_Account":"x","MsgBody":[{"MsgContent":{"Text":"…"}}]},
                {"MsgSeq":9,"IsPlaceMsg":2,"MsgTimeStamp":1700000001},{"MsgSeq":8,"IsPlaceMsg":1},
                {"MsgSeq":7,"IsSystemMsg":1,"MsgTimeStamp":1700000002},{"MsgSeq":6,"NeedReadReceipt":0},
                {"MsgSeq":5,"NeedReadReceipt":1,"MsgTimeStamp":-4},{"MsgSeq":10},{"MsgSeq":0},{"MsgSeq":"x"},7]}"#,
        );
        let told: Vec<_> =
            page.messages.iter().map(|told| (told.seq.get(), told.kind, told.sent_at.is_some())).collect();
        use MessageKind::{Gone, Ordinary, Recalled, System, WithoutReceipt};
        assert_eq!(
            told,
            [
                (9, Recalled, true),
                (8, Gone, false),
                (7, System, true),
                (6, WithoutReceipt, false),
                (5, Ordinary, false),
                (4, Ordinary, true)
            ]
        );
        assert!(page.has_more);
    }

    #[test]
    fn paging_ends_with_the_last_page_or_at_expired_messages() {
        let page = |finished: &str, list: &str| {
            read(9, &format!(r#"{{"ErrorCode":0,"IsFinished":{finished},"MsgList":{list}}}"#)).has_more
        };
        for (finished, list, expected) in [
            ("0", r#"[{"MsgSeq":3}]"#, true),
            ("1", r#"[{"MsgSeq":3}]"#, false),
            ("2", r#"[{"MsgSeq":3}]"#, false),
            ("0", "[]", false),
            ("0", "null", false),
        ] {
            assert_eq!(page(finished, list), expected, "{finished} {list}");
        }
    }
}
