//! `get_group_msg_receipt_detail`: who has, or has not, read a message. With at most 200 members, a list has one page.
//!
//! Accounts are personal data. They never reach an error, and are dropped with the answer.

use serde::{Deserialize, Serialize};

use super::{List, Text};
use crate::{
    domain::{GroupId, Member, MsgSeq},
    rules::{
        protocol::{
            call::{Api, Call, read_success},
            error_class::Class,
            failure::Failure,
            wire::Number,
        },
        readers::{Page, Side},
    },
};

/// Maximum number of members per page.
const PAGE: usize = 200;

/// The call for a page of the members who have, or have not, read a message.
#[derive(Debug, Clone, Copy)]
pub struct GetReaders<'a> {
    /// The group.
    pub group: &'a GroupId,
    /// The message.
    pub seq: MsgSeq,
    /// The list.
    pub side: Side,
    /// The place of the page, from the page before; empty for the first one.
    pub place: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Request<'a> {
    group_id: &'a str,
    msg_seq: u32,
    filter: u8,
    cursor: &'a str,
    count: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Body {
    #[serde(default)]
    msg_seq: Number,
    #[serde(default)]
    cursor: Text,
    #[serde(default)]
    is_finish: Number,
    /// Its name in a part of the documentation.
    #[serde(default)]
    is_finished: Number,
    #[serde(default)]
    read_list: List<Entry, { PAGE * 2 }>,
    #[serde(default)]
    unread_list: List<Entry, { PAGE * 2 }>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(default, rename = "Read_Account")]
    read: Text,
    #[serde(default, rename = "Unread_Account")]
    unread: Text,
}

impl Call for GetReaders<'_> {
    const API: Api = Api::Readers;

    type Answer = Page;

    fn request(&self) -> Result<Vec<u8>, serde_json::Error> {
        let filter = match self.side {
            Side::Read => 0,
            Side::Unread => 1,
        };
        let (group_id, msg_seq, cursor) = (self.group.as_str(), self.seq.get(), self.place);
        serde_json::to_vec(&Request { group_id, msg_seq, filter, cursor, count: PAGE })
    }

    /// An entry takes about 60 bytes.
    fn most_bytes(&self) -> usize {
        (64 << 10) + (1 << 10) * PAGE
    }

    fn read(&self, http_status: u16, body: &[u8]) -> Result<Page, Failure> {
        let body: Body = read_success(http_status, body)?;
        let unusable = |said| Err(Failure::new(Class::Unknown, Some(0), said));
        if !matches!(body.msg_seq, Number::Absent) && body.msg_seq != Number::Whole(self.seq.get().into()) {
            return unusable("the answer is about another message");
        }
        let entries = match self.side {
            Side::Read => body.read_list.0.iter().map(|entry| &entry.read).collect::<Vec<_>>(),
            Side::Unread => body.unread_list.0.iter().map(|entry| &entry.unread).collect(),
        };
        let named = entries.iter().map(|account| account.0.as_deref().and_then(Member::new)).collect();
        // If one of them were missing, somebody would seem to have left.
        let Some(members) = named else { return unusable("an entry of the answer names no member") };
        let is_last = [body.is_finish, body.is_finished].contains(&Number::Whole(1));
        Ok(Page { members, next: body.cursor.0.filter(|place| !is_last && !place.is_empty()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(side: Side, fields: &str) -> Result<Page, Failure> {
        let group = "g".parse().unwrap();
        let call = GetReaders { group: &group, seq: MsgSeq::try_from(7).unwrap(), side, place: "" };
        call.read(200, format!(r#"{{"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":"",{fields}}}"#).as_bytes())
    }

    fn names(page: &Page) -> Vec<&str> {
        page.members.iter().map(Member::as_str).collect()
    }

    #[test]
    fn the_request_for_readers_is_as_documented() {
        let group = "@TGS#1".parse().unwrap();
        let call = GetReaders { group: &group, seq: MsgSeq::try_from(7).unwrap(), side: Side::Unread, place: "c" };
        let json = String::from_utf8(call.request().unwrap()).unwrap();
        assert_eq!(json, r#"{"GroupId":"@TGS#1","MsgSeq":7,"Filter":1,"Cursor":"c","Count":200}"#);
    }

    #[test]
    fn each_list_is_read_from_its_own_field() {
        let lists = r#""ReadList":[{"Read_Account":"a"},{"Read_Account":"b"}],"UnreadList":[{"Unread_Account":"c"}]"#;
        let page = read(Side::Read, &format!(r#""MsgSeq":7,"Cursor":"","IsFinish":1,{lists}"#)).unwrap();
        assert_eq!((names(&page), page.next.as_deref()), (vec!["a", "b"], None));
        assert_eq!(names(&read(Side::Unread, lists).unwrap()), ["c"]);
        assert_eq!(names(&read(Side::Read, r#""ReadList":null"#).unwrap()), Vec::<&str>::new());
    }

    #[test]
    fn a_list_goes_on_unless_it_is_finished() {
        for (fields, next) in [
            (r#""Cursor":"x","IsFinish":0"#, Some("x")),
            (r#""Cursor":"x""#, Some("x")),
            (r#""Cursor":"x","IsFinish":1"#, None),
            (r#""Cursor":"x","IsFinished":1"#, None),
            (r#""Cursor":"","IsFinish":0"#, None),
        ] {
            assert_eq!(read(Side::Read, fields).unwrap().next.as_deref(), next, "{fields}");
        }
    }

    #[test]
    fn an_answer_that_may_mislead_tells_nothing_and_names_nobody() {
        for fields in [
            r#""MsgSeq":8,"ReadList":[{"Read_Account":"alice"}]"#,
            r#""ReadList":[{"Read_Account":"alice"},{"Account":"bob"}]"#,
            r#""ReadList":[{"Read_Account":"alice"},{"Read_Account":""}]"#,
        ] {
            let failure = read(Side::Read, fields).unwrap_err();
            assert!(failure.class == Class::Unknown && !failure.info.contains("alice"), "{failure:?}");
        }
        let refused =
            GetReaders { group: &"g".parse().unwrap(), seq: MsgSeq::try_from(7).unwrap(), side: Side::Read, place: "" }
                .read(200, br#"{"ActionStatus":"FAIL","ErrorCode":10062,"ErrorInfo":"no receipt"}"#)
                .unwrap_err();
        assert_eq!((refused.class, refused.code), (Class::Message, Some(10062)));
    }
}
