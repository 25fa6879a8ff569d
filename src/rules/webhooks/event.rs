//! The bodies of webhooks, parsed as leniently as answers of calls: an invalid entry only affects itself, unknown
//! fields are ignored, and numbers are read in any form.
//!
//! The accounts of members are only kept for groups with readers on.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Members;
use crate::{
    domain::{Counts, GroupId, MsgSeq, Timestamp},
    rules::protocol::wire::{Number, first_entries},
};

/// Maximum number of entries that are read from an event.
const MOST_ENTRIES: usize = 100;

/// Maximum number of members of a group with read receipts. [Tencent's documentation]
const MOST_MEMBERS: i64 = 200;

/// The content of a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Members have read messages.
    Receipts(Receipts),
    /// A message was sent.
    Sent {
        /// Its group.
        group: Group,
        /// Its number.
        seq: MsgSeq,
        /// When it was sent, to the second; `None` if unknown.
        sent_at: Option<Timestamp>,
        /// Whether it is only for members who are online, and has no receipt.
        is_online_only: bool,
    },
    /// Messages were recalled.
    Recalled {
        /// Their group.
        group: GroupId,
        /// Their numbers.
        seqs: Vec<MsgSeq>,
    },
    /// A group was created.
    Created(Group),
    /// A group was dissolved.
    Destroyed(GroupId),
    /// Members have joined or left.
    MembersChanged(Group),
    /// Calls of an API exceed 80 % of its limit.
    OverLimit {
        /// The API.
        command: String,
        /// Calls per second, as the service counts them.
        calls: u32,
        /// Maximum number of calls per second.
        limit: u32,
    },
    /// Anything else.
    Other,
}

/// A group, and its type if known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub id: GroupId,
    /// Its type, such as `Public`.
    pub group_type: Option<String>,
}

/// Read receipts that have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipts {
    /// The group of the messages.
    pub group: GroupId,
    /// When they changed, by the service's clock, to the millisecond; `None` if unknown.
    pub event_at: Option<Timestamp>,
    /// The messages with their counts.
    pub entries: Vec<ReceiptEntry>,
    /// Number of entries that were invalid, or beyond the first 100.
    pub bad_entries: u32,
}

/// The counts of a message after members have read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptEntry {
    /// The message.
    pub seq: MsgSeq,
    /// Its counts.
    pub counts: Counts,
    /// The members in `ReadReceiptMembers`: those of this event, or all readers so far.
    pub members: Members,
}

/// The body is not a JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body of a webhook is not a JSON object")]
pub struct BadEvent;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Body<'a> {
    #[serde(borrow)]
    callback_command: Option<&'a RawValue>,
    #[serde(borrow)]
    group_id: Option<&'a RawValue>,
    #[serde(borrow, rename = "Type")]
    group_type: Option<&'a RawValue>,
    #[serde(borrow)]
    group_msg_receipt_list: Option<&'a RawValue>,
    #[serde(borrow)]
    msg_seq_list: Option<&'a RawValue>,
    msg_seq: Number,
    msg_time: Number,
    event_time: Number,
    online_only_flag: Number,
    #[serde(borrow)]
    command: Option<&'a RawValue>,
    request: Number,
    limit: Number,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Entry {
    msg_seq: Number,
    read_num: Number,
    unread_num: Number,
    read_receipt_members: Members,
}

impl Event {
    /// Reads the body of a webhook. Accounts of members are only kept if the group `has_readers` on.
    ///
    /// # Errors
    /// If it is not a JSON object. One that lacks something required becomes [`Event::Other`].
    pub fn read(body: &[u8], has_readers: impl FnOnce(&GroupId) -> bool) -> Result<Self, BadEvent> {
        // Otherwise, a list would be read as the fields of an object.
        let is_object = body.trim_ascii_start().starts_with(b"{");
        let body: Body = serde_json::from_slice(if is_object { body } else { b"" }).map_err(|_| BadEvent)?;
        Ok(body.event(has_readers).unwrap_or(Self::Other))
    }
}

impl Receipts {
    /// The room that it takes: the number of its entries and of the accounts in them.
    pub fn size(&self) -> usize {
        self.entries.iter().map(|entry| 1 + entry.members.accounts().len()).sum()
    }
}

impl Body<'_> {
    fn event(&self, has_readers: impl FnOnce(&GroupId) -> bool) -> Option<Event> {
        Some(match text(self.callback_command)?.as_str() {
            "Group.CallbackAfterReadReceipt" => Event::Receipts(self.receipts(has_readers)?),
            "Group.CallbackAfterSendMsg" => Event::Sent {
                group: self.group()?,
                seq: seq(self.msg_seq)?,
                sent_at: time(self.msg_time, |seconds| Timestamp::from_timestamp(seconds, 0)),
                is_online_only: self.online_only_flag == Number::Whole(1),
            },
            "Group.CallbackAfterRecallMsg" => Event::Recalled { group: self.group()?.id, seqs: self.seqs() },
            "Group.CallbackAfterCreateGroup" => Event::Created(self.group()?),
            "Group.CallbackAfterGroupDestroyed" => Event::Destroyed(self.group()?.id),
            "Group.CallbackAfterNewMemberJoin" | "Group.CallbackAfterMemberExit" => {
                Event::MembersChanged(self.group()?)
            }
            "Alert.RequestOverLimit" => Event::OverLimit {
                command: text(self.command)?,
                calls: count(self.request)?,
                limit: count(self.limit)?,
            },
            _ => return None,
        })
    }

    fn group(&self) -> Option<Group> {
        Some(Group { id: text(self.group_id)?.parse().ok()?, group_type: text(self.group_type) })
    }

    fn seqs(&self) -> Vec<MsgSeq> {
        let entries = self.msg_seq_list.and_then(|list| first_entries::<Entry>(list, MOST_ENTRIES).ok());
        entries.into_iter().flat_map(|(entries, _)| entries).filter_map(|entry| seq(entry.msg_seq)).collect()
    }

    fn receipts(&self, has_readers: impl FnOnce(&GroupId) -> bool) -> Option<Receipts> {
        let group = self.group()?.id;
        let keeps_accounts = has_readers(&group);
        let (entries, beyond) = first_entries::<Entry>(self.group_msg_receipt_list?, MOST_ENTRIES).ok()?;
        let read = entries.len();
        let entries: Vec<ReceiptEntry> =
            entries.into_iter().filter_map(|entry| entry.receipt(keeps_accounts)).collect();
        let bad_entries = beyond + u32::try_from(read - entries.len()).unwrap_or(u32::MAX);
        let event_at = time(self.event_time, Timestamp::from_timestamp_millis);
        Some(Receipts { group, event_at, entries, bad_entries })
    }
}

impl Entry {
    fn receipt(self, keeps_accounts: bool) -> Option<ReceiptEntry> {
        let within = |number| match number {
            Number::Whole(count @ 0..=MOST_MEMBERS) => Some(count),
            _ => None,
        };
        let counts = Counts::new(within(self.read_num)?, within(self.unread_num)?)?;
        let members = self.read_receipt_members;
        let members = if keeps_accounts { members } else { members.without_accounts() };
        Some(ReceiptEntry { seq: seq(self.msg_seq)?, counts, members })
    }
}

fn seq(number: Number) -> Option<MsgSeq> {
    let Number::Whole(seq) = number else { return None };
    MsgSeq::try_from(seq).ok()
}

fn count(number: Number) -> Option<u32> {
    let Number::Whole(count) = number else { return None };
    u32::try_from(count).ok()
}

fn time(number: Number, of: fn(i64) -> Option<Timestamp>) -> Option<Timestamp> {
    let Number::Whole(time) = number else { return None };
    of(time).filter(|_| time > 0)
}

fn text(value: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(value?.get()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipts(body: &str) -> Receipts {
        match Event::read(body.as_bytes(), |_| false) {
            Ok(Event::Receipts(receipts)) => receipts,
            other => panic!("{body}: {other:?}"),
        }
    }

    fn entry(seq: i64, read: i64, unread: i64, members: usize) -> ReceiptEntry {
        let members: Members = serde_json::from_str(&format!("[{}]", vec!["{}"; members].join(","))).unwrap();
        ReceiptEntry { seq: MsgSeq::try_from(seq).unwrap(), counts: Counts::new(read, unread).unwrap(), members }
    }

    #[test]
    fn the_documented_event_is_read() {
        for time in ["\"1670574414123\"", "1670574414123"] {
            let read = receipts(&format!(
                r#"{{"CallbackCommand":"Group.CallbackAfterReadReceipt","GroupId":"@TGS#2J4SZEAEL","Type":"Public",
                "GroupMsgReceiptList":[{{"MsgSeq":1,"ReadNum":1,"UnreadNum":6,
                "ReadReceiptMembers":[{{"Member_Account":"user0"}}]}},{{"MsgSeq":2,"ReadNum":3,"UnreadNum":4,
                "ReadReceiptMembers":[{{"Member_Account":"a"}},{{"Member_Account":"b"}}]}}],"EventTime":{time}}}"#
            ));
            let event_at = Timestamp::from_timestamp_millis(1_670_574_414_123);
            let entries = vec![entry(1, 1, 6, 1), entry(2, 3, 4, 2)];
            let group = "@TGS#2J4SZEAEL".parse().unwrap();
            assert_eq!(read, Receipts { group, event_at, entries, bad_entries: 0 });
        }
    }

    #[test]
    fn accounts_are_kept_only_for_groups_with_readers() {
        let body = r#"{"CallbackCommand":"Group.CallbackAfterReadReceipt","GroupId":"g","GroupMsgReceiptList":[
            {"MsgSeq":1,"ReadNum":1,"UnreadNum":6,"ReadReceiptMembers":[{"Member_Account":"canary"}]}]}"#;
        for (on, accounts) in [("g", 1), ("h", 0)] {
            let event = Event::read(body.as_bytes(), |group| group.as_str() == on);
            let Ok(Event::Receipts(read)) = &event else { panic!("{event:?}") };
            let members = &read.entries[0].members;
            assert_eq!((members.count(), members.accounts().len(), read.size()), (1, accounts, 1 + accounts));
            assert!(!format!("{event:?}").contains("canary"));
        }
    }

    #[test]
    fn an_invalid_entry_only_affects_itself() {
        let read = receipts(
            r#"{"CallbackCommand":"Group.CallbackAfterReadReceipt","GroupId":"g","GroupMsgReceiptList":[
            null,{"MsgSeq":0,"ReadNum":1,"UnreadNum":1},{"MsgSeq":"2","ReadNum":"1","UnreadNum":2.0},
            {"MsgSeq":3,"ReadNum":201,"UnreadNum":0},{"MsgSeq":4,"ReadNum":-1,"UnreadNum":0},
            {"MsgSeq":5,"ReadNum":1},{"MsgSeq":6,"ReadNum":1,"UnreadNum":0,"ReadReceiptMembers":{}}]}"#,
        );
        assert_eq!((read.entries, read.bad_entries), (vec![entry(2, 1, 2, 0), entry(6, 1, 0, 0)], 5));
        assert_eq!(read.event_at, None);
    }

    #[test]
    fn a_long_event_is_read_up_to_its_bound() {
        let many = vec![r#"{"MsgSeq":1,"ReadNum":1,"UnreadNum":1}"#; 150].join(",");
        let read = receipts(&format!(
            r#"{{"CallbackCommand":"Group.CallbackAfterReadReceipt","GroupId":"g","GroupMsgReceiptList":[{many}]}}"#
        ));
        assert_eq!((read.entries.len(), read.bad_entries), (100, 50));
    }

    #[test]
    fn the_other_events_are_read() {
        let group = |id: &str, group_type: Option<&str>| Group {
            id: id.parse().unwrap(),
            group_type: group_type.map(str::to_owned),
        };
        let seq = |seq: i64| MsgSeq::try_from(seq).unwrap();
        for (body, event) in [
            (
                r#"{"CallbackCommand":"Group.CallbackAfterSendMsg","GroupId":"g","Type":"Public","MsgSeq":123,
                "MsgTime":1490686222,"OnlineOnlyFlag":1,"From_Account":"a","MsgBody":[{"x":[[[{}]]]}]}"#,
                Event::Sent {
                    group: group("g", Some("Public")),
                    seq: seq(123),
                    sent_at: Timestamp::from_timestamp(1_490_686_222, 0),
                    is_online_only: true,
                },
            ),
            (
                r#"{"CallbackCommand":"Group.CallbackAfterRecallMsg","GroupId":"g","MsgSeqList":[{"MsgSeq":1},{"MsgSeq":7},{}]}"#,
                Event::Recalled { group: "g".parse().unwrap(), seqs: vec![seq(1), seq(7)] },
            ),
            (
                r#"{"CallbackCommand":"Group.CallbackAfterGroupDestroyed","GroupId":"g","Name":"n","MemberList":[]}"#,
                Event::Destroyed("g".parse().unwrap()),
            ),
            (
                r#"{"CallbackCommand":"Group.CallbackAfterCreateGroup","GroupId":"g","Type":"ChatRoom"}"#,
                Event::Created(group("g", Some("ChatRoom"))),
            ),
            (
                r#"{"CallbackCommand":"Group.CallbackAfterMemberExit","GroupId":"g","ExitType":"Quit"}"#,
                Event::MembersChanged(group("g", None)),
            ),
            (
                r#"{"CallbackCommand":"Alert.RequestOverLimit","ServiceName":"openim","Command":"batchsendmsg","Request":510,"Limit":200}"#,
                Event::OverLimit { command: "batchsendmsg".to_owned(), calls: 510, limit: 200 },
            ),
            (r#"{"CallbackCommand":"State.StateChange"}"#, Event::Other),
            (r#"{"CallbackCommand":7}"#, Event::Other),
            (r#"{"CallbackCommand":"Group.CallbackAfterReadReceipt","GroupId":"@TGS#_community"}"#, Event::Other),
            ("{}", Event::Other),
        ] {
            assert_eq!(Event::read(body.as_bytes(), |_| true), Ok(event), "{body}");
        }
    }

    #[test]
    fn what_is_no_object_is_refused_however_deep() {
        let deep = format!("{}{}", "[".repeat(60_000), "]".repeat(4_000));
        for body in ["", "null", "7", "[]", "[null]", "[1", "{", "\"x\"", "\u{feff}{}", deep.as_str()] {
            assert_eq!(Event::read(body.as_bytes(), |_| true), Err(BadEvent), "{body:.20}");
        }
        assert_eq!(Event::read(b"{\"CallbackCommand\":\"\xff\"}", |_| true), Err(BadEvent));
        let nested = format!("{{\"MsgBody\":{}{}}}", "[".repeat(30_000), "]".repeat(30_000));
        _ = Event::read(nested.as_bytes(), |_| true);
    }
}
