//! The JSON of the call, read leniently: fields may be added, entries left out, and a number that is none spoils its
//! own entry, never the whole answer.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use crate::domain::{GroupId, MsgSeq};

/// The body of `get_group_msg_receipt`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Request<'a> {
    group_id: &'a str,
    msg_seq_list: Vec<AskedSeq>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AskedSeq {
    msg_seq: u32,
}

impl<'a> Request<'a> {
    pub(super) fn new(group: &'a GroupId, seqs: &[MsgSeq]) -> Self {
        let msg_seq_list = seqs.iter().map(|seq| AskedSeq { msg_seq: seq.get() }).collect();
        Self { group_id: group.as_str(), msg_seq_list }
    }
}

/// The body of the answer. An `ErrorCode` is all that it must have.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Response {
    #[serde(default)]
    pub action_status: String,
    pub error_code: i64,
    #[serde(default)]
    pub error_info: String,
    #[serde(default)]
    pub group_msg_receipt_list: Option<Vec<Entry>>,
}

/// What an answer says of one message, before anybody has checked it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Entry {
    /// The message; [`Number::Absent`] and [`Number::Bad`] name none.
    pub msg_seq: Number,
    /// The per-message code.
    pub code: Number,
    /// Members who have read it.
    pub read_num: Number,
    /// Members who have not read it.
    pub unread_num: Number,
}

/// A number from outside: it may be missing, and it may be something else than a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Number {
    /// The field was not there, or null.
    #[default]
    Absent,
    /// A whole number.
    Whole(i64),
    /// Anything else.
    Bad,
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NumberVisitor)
    }
}

struct NumberVisitor;

impl<'de> Visitor<'de> for NumberVisitor {
    type Value = Number;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Number, E> {
        Ok(Number::Whole(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Number, E> {
        Ok(i64::try_from(value).map_or(Number::Bad, Number::Whole))
    }

    fn visit_unit<E: Error>(self) -> Result<Number, E> {
        Ok(Number::Absent)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Number, E> {
        Ok(Number::Bad)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Number, E> {
        Ok(Number::Bad)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Number, E> {
        Ok(Number::Bad)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Number, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Number::Bad)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Number, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Number::Bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_is_as_documented() {
        let group = "@TGS#2TTV7VSII".parse().unwrap();
        let seqs = [1, 2].map(|seq| MsgSeq::try_from(seq).unwrap());
        let json = serde_json::to_string(&Request::new(&group, &seqs)).unwrap();
        assert_eq!(json, r#"{"GroupId":"@TGS#2TTV7VSII","MsgSeqList":[{"MsgSeq":1},{"MsgSeq":2}]}"#);
    }

    #[test]
    fn the_documented_answer_is_read() {
        let response: Response = serde_json::from_str(
            r#"{"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":"","GroupMsgReceiptList":[
                {"Code":0,"MsgSeq":1,"ReadNum":1,"UnreadNum":6},{"Code":10062,"MsgSeq":2}]}"#,
        )
        .unwrap();
        assert_eq!((response.action_status.as_str(), response.error_code), ("OK", 0));
        let whole = Number::Whole;
        let first = Entry { msg_seq: whole(1), code: whole(0), read_num: whole(1), unread_num: whole(6) };
        let second = Entry { msg_seq: whole(2), code: whole(10062), ..Entry::default() };
        assert_eq!(response.group_msg_receipt_list.unwrap(), [first, second]);
    }

    #[test]
    fn what_is_no_number_spoils_its_own_field_only() {
        for text in ["\"6\"", "1.5", "true", "[1,[2]]", "{\"a\":{}}", "18446744073709551615", "1e300"] {
            let json = format!(r#"{{"MsgSeq":7,"ReadNum":{text},"UnreadNum":null,"Extra":[{{}}]}}"#);
            let entry: Entry = serde_json::from_str(&json).unwrap();
            assert_eq!(
                (entry.msg_seq, entry.read_num, entry.unread_num),
                (Number::Whole(7), Number::Bad, Number::Absent)
            );
        }
    }

    #[test]
    fn new_fields_and_missing_ones_are_taken_as_they_come() {
        let response: Response = serde_json::from_str(r#"{"ErrorCode":10002,"RequestId":"x"}"#).unwrap();
        assert_eq!(response.error_code, 10002);
        assert!(response.group_msg_receipt_list.is_none());
        assert!(serde_json::from_str::<Response>(r#"{"ActionStatus":"OK"}"#).is_err(), "no code, no answer");
    }
}
