//! The JSON of the call, parsed leniently: unknown fields are ignored, entries may be missing, and an invalid value
//! only affects its own entry, never the whole answer.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, Error, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{error_class::Class, failure::Failure};
use crate::domain::{GroupId, MsgSeq};

/// Nearly all lists are shorter: the default of `polling.batch_size` is 50.
const MOST_ENTRIES: usize = 50;

/// Approximate size of a request, in bytes: its frame, and each message.
const REQUEST_BYTES: (usize, usize) = (128, 24);

/// The body of `get_group_msg_receipt`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Request<'a> {
    group_id: &'a str,
    msg_seq_list: Vec<AskedSeq>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AskedSeq {
    msg_seq: u32,
}

impl<'a> Request<'a> {
    pub(crate) fn new(group: &'a GroupId, seqs: &[MsgSeq]) -> Self {
        let msg_seq_list = seqs.iter().map(|seq| AskedSeq { msg_seq: seq.get() }).collect();
        Self { group_id: group.as_str(), msg_seq_list }
    }

    /// As JSON.
    pub(crate) fn written(&self) -> Result<Vec<u8>, serde_json::Error> {
        let (frame, message) = REQUEST_BYTES;
        let mut json = Vec::with_capacity(frame + message * self.msg_seq_list.len());
        serde_json::to_writer(&mut json, self).map(|()| json)
    }
}

/// The body of the answer. Only `ErrorCode` is required; the rest is parsed when it is needed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Response<'a> {
    #[serde(borrow)]
    action_status: Option<&'a RawValue>,
    #[serde(deserialize_with = "whole")]
    pub error_code: i64,
    #[serde(borrow)]
    error_info: Option<&'a RawValue>,
    #[serde(borrow)]
    group_msg_receipt_list: Option<&'a RawValue>,
}

impl<'a> Response<'a> {
    /// Parses the body of a successful answer.
    ///
    /// # Errors
    /// If it reports a failure or is not the expected JSON.
    pub fn read(body: &'a [u8]) -> Result<Self, Failure> {
        let response: Self = serde_json::from_slice(body).map_err(|error| Failure::unreadable(body, &error))?;
        let code = response.error_code;
        match Class::of_code(code) {
            Class::Success if response.says_fail() => {
                let said = format!("ActionStatus FAIL with ErrorCode 0: {}", response.error_info());
                Err(Failure::new(Class::Unknown, Some(code), &said))
            }
            Class::Success => Ok(response),
            class => Err(Failure::new(class, Some(code), &response.error_info())),
        }
    }

    /// Whether the answer reports a failure.
    pub fn says_fail(&self) -> bool {
        text(self.action_status).eq_ignore_ascii_case("FAIL")
    }

    /// The error text.
    pub fn error_info(&self) -> String {
        text(self.error_info)
    }

    /// The entries, and the number of entries beyond the first `most`, which are not kept. An entry that can't be
    /// parsed names no message.
    ///
    /// # Errors
    /// If they are not a list.
    pub fn entries(&self, most: usize) -> Result<(Vec<Entry>, u32), serde_json::Error> {
        self.group_msg_receipt_list.map_or(Ok((vec![], 0)), |list| first_entries(list, most))
    }
}

/// An answer in the documented form, as nearly all are. Any deviation, even a number in quotes, is parsed as a
/// [`Response`], which takes longer.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Documented<'a> {
    action_status: &'a str,
    error_code: i64,
    #[serde(deserialize_with = "documented_entries")]
    group_msg_receipt_list: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DocumentedEntry {
    code: i64,
    msg_seq: i64,
    read_num: Option<u32>,
    unread_num: Option<u32>,
}

impl From<DocumentedEntry> for Entry {
    fn from(entry: DocumentedEntry) -> Self {
        let count = |count: Option<u32>| count.map_or(Number::Absent, |count| Number::Whole(count.into()));
        let (msg_seq, code) = (Number::Whole(entry.msg_seq), Number::Whole(entry.code));
        Self { msg_seq, code, read_num: count(entry.read_num), unread_num: count(entry.unread_num) }
    }
}

fn documented_entries<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Entry>, D::Error> {
    deserializer.deserialize_seq(DocumentedEntries)
}

struct DocumentedEntries;

impl<'de> Visitor<'de> for DocumentedEntries {
    type Value = Vec<Entry>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of receipts")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::with_capacity(MOST_ENTRIES);
        while let Some(entry) = list.next_element::<DocumentedEntry>()? {
            entries.push(entry.into());
        }
        Ok(entries)
    }
}

/// The entries of an answer in the documented form, parsed in one pass.
pub(crate) fn documented(body: &[u8], most: usize) -> Option<Vec<Entry>> {
    let answer: Documented = serde_json::from_slice(body).ok()?;
    let is_success = answer.action_status == "OK" && answer.error_code == 0;
    Some(answer.group_msg_receipt_list).filter(|entries| is_success && entries.len() <= most)
}

/// The first `most` entries of a list, and the number of further ones. An entry that can't be parsed is the default.
///
/// # Errors
/// If it is not a list.
pub(crate) fn first_entries<T: Default + DeserializeOwned>(
    list: &RawValue,
    most: usize,
) -> Result<(Vec<T>, u32), serde_json::Error> {
    serde_json::Deserializer::from_str(list.get()).deserialize_seq(FirstEntries { most, of: PhantomData })
}

/// Parses entries one by one, so that a long list takes no more memory than one of `most`.
struct FirstEntries<T> {
    most: usize,
    of: PhantomData<T>,
}

impl<'de, T: Default + DeserializeOwned> Visitor<'de> for FirstEntries<T> {
    type Value = (Vec<T>, u32);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let (mut entries, mut more) = (vec![], 0);
        while let Some(entry) = list.next_element::<&RawValue>()? {
            match entries.len() < self.most {
                true => entries.push(serde_json::from_str(entry.get()).unwrap_or_default()),
                false => more += 1,
            }
        }
        Ok((entries, more))
    }
}

/// A text from outside; if it is not a string, its JSON.
fn text(value: Option<&RawValue>) -> String {
    value.map_or_else(String::new, |value| serde_json::from_str(value.get()).unwrap_or_else(|_| value.get().to_owned()))
}

/// An unchecked entry for one message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Entry {
    /// The message; none if [`Number::Absent`] or [`Number::Bad`].
    pub msg_seq: Number,
    /// The code for the message.
    pub code: Number,
    /// Number of members who have read it.
    pub read_num: Number,
    /// Number of members who have not read it.
    pub unread_num: Number,
}

/// A number from outside, which may be missing or something else.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Number {
    /// Missing or null.
    #[default]
    Absent,
    /// A whole number.
    Whole(i64),
    /// Anything else.
    Bad,
}

impl Number {
    /// Parses a JSON value. Accepts whole numbers in any form: `1`, `"1"`, `1.0` or `1e0`.
    fn read(written: &str) -> Self {
        if written == "null" {
            return Self::Absent;
        }
        let quoted = written.starts_with('"').then(|| serde_json::from_str::<String>(written).unwrap_or_default());
        let digits = quoted.as_deref().unwrap_or(written).trim();
        digits.parse().ok().or_else(|| whole_float(digits)).map_or(Self::Bad, Self::Whole)
    }
}

/// A number with a fraction or exponent that is whole nevertheless, up to 2^53, from where on floats skip numbers.
fn whole_float(digits: &str) -> Option<i64> {
    const EXACT_UP_TO: f64 = 9_007_199_254_740_992.0;
    let number: f64 = digits.parse().ok()?;
    #[expect(clippy::cast_possible_truncation, reason = "it is whole and far within the range")]
    (number.fract() == 0.0 && number.abs() < EXACT_UP_TO).then_some(number as i64)
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Unparsed, since a number that is too large for the parser would invalidate everything around it.
        <&RawValue>::deserialize(deserializer).map(|value| Self::read(value.get()))
    }
}

/// A required number.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    match Number::deserialize(deserializer)? {
        Number::Whole(number) => Ok(number),
        Number::Absent | Number::Bad => Err(D::Error::custom("it is not a whole number")),
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
        assert_eq!((response.says_fail(), response.error_code, response.error_info().as_str()), (false, 0, ""));
        let whole = Number::Whole;
        let first = Entry { msg_seq: whole(1), code: whole(0), read_num: whole(1), unread_num: whole(6) };
        let second = Entry { msg_seq: whole(2), code: whole(10062), ..Entry::default() };
        assert_eq!(response.entries(100).unwrap().0, [first, second]);
    }

    #[test]
    fn what_is_no_number_spoils_its_own_field_only() {
        for text in [
            "\"six\"",
            "\"\"",
            "\"1.5\"",
            "\"inf\"",
            "\"0x6\"",
            "1.5",
            "true",
            "[1,[2]]",
            "{\"a\":{}}",
            "18446744073709551615",
            "9007199254740992.0",
            "1e300",
            "1e400",
            "-1E999",
            "\"1e400\"",
            "\"\\ud800\"",
        ] {
            let json = format!(r#"{{"MsgSeq":7,"ReadNum":{text},"UnreadNum":null,"Extra":[{{}}]}}"#);
            let entry: Entry = serde_json::from_str(&json).unwrap();
            assert_eq!(
                (entry.msg_seq, entry.read_num, entry.unread_num),
                (Number::Whole(7), Number::Bad, Number::Absent)
            );
        }
    }

    #[test]
    fn a_whole_number_is_read_however_it_is_written() {
        for (written, number) in [
            ("7", 7),
            ("\"7\"", 7),
            ("\" 7 \"", 7),
            ("7.0", 7),
            ("\"7.00\"", 7),
            ("7e0", 7),
            ("0.7E1", 7),
            ("1e2", 100),
            ("-0.0", 0),
            ("-3.0", -3),
            ("\"\\u0037\"", 7),
            ("9223372036854775807", i64::MAX),
        ] {
            assert_eq!(Number::read(written), Number::Whole(number), "{written}");
        }
        let response: Response = serde_json::from_str(r#"{"ErrorCode":"10010"}"#).unwrap();
        assert_eq!(response.error_code, 10010);
        for missing in ["null", "\"\"", "0.5", "[]"] {
            let body = format!(r#"{{"ErrorCode":{missing}}}"#);
            assert!(serde_json::from_str::<Response>(&body).is_err(), "{missing} is no code");
        }
    }

    #[test]
    fn new_fields_and_missing_ones_are_taken_as_they_come() {
        let response: Response = serde_json::from_str(r#"{"ErrorCode":10002,"RequestId":"x"}"#).unwrap();
        assert_eq!(response.error_code, 10002);
        assert!(response.entries(100).unwrap().0.is_empty());
        assert!(serde_json::from_str::<Response>(r#"{"ActionStatus":"OK"}"#).is_err(), "no code, no answer");
    }

    #[test]
    fn an_entry_that_is_none_spoils_only_itself() {
        let good = r#"{"MsgSeq":1,"ReadNum":2,"UnreadNum":3}"#;
        let whole = Number::Whole;
        let read = Entry { msg_seq: whole(1), code: Number::Absent, read_num: whole(2), unread_num: whole(3) };
        for bad in ["null", "\"text\"", "7", "1e400", "[]", "true", r#"{"MsgSeq":1,"MsgSeq":2}"#] {
            let json = format!(r#"{{"ErrorCode":0,"GroupMsgReceiptList":[{bad},{good}]}}"#);
            let response: Response = serde_json::from_str(&json).unwrap();
            assert_eq!(response.entries(100).unwrap().0, [Entry::default(), read], "{bad}");
        }
    }

    #[test]
    fn a_huge_list_keeps_its_first_entries_and_counts_the_rest() {
        let list = "{},".repeat(100_000);
        let json = format!(r#"{{"ErrorCode":0,"GroupMsgReceiptList":[{{"MsgSeq":1}},{list}{{}}]}}"#);
        let response: Response = serde_json::from_str(&json).unwrap();
        let (entries, more) = response.entries(3).unwrap();
        assert_eq!((entries.len(), entries[0].msg_seq, more), (3, Number::Whole(1), 99_999));
        assert!(entries.capacity() < 10);
    }

    #[test]
    fn the_code_of_an_answer_is_read_whatever_the_rest_of_it_is() {
        for (other, info) in
            [("null", ""), ("7", "7"), ("1e400", "1e400"), ("{}", "{}"), (r#""\ud800""#, r#""\ud800""#)]
        {
            let json = format!(
                r#"{{"ActionStatus":{other},"ErrorCode":10010,"ErrorInfo":{other},"GroupMsgReceiptList":{other}}}"#
            );
            let response: Response = serde_json::from_str(&json).unwrap();
            assert_eq!((response.error_code, response.error_info().as_str()), (10010, info), "{other}");
        }
    }
}
