//! `get_appid_group_list`: the ids of the app's groups, a page at a time.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::{List, Text};
use crate::{
    domain::{GroupId, GroupType},
    rules::protocol::{
        call::{Api, Call, read_success},
        failure::Failure,
    },
};

/// Maximum number of groups per page.
const PAGE: usize = 10_000;

/// The place of a page in the list of groups; 0 is the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cursor(u64);

impl Cursor {
    /// `None` if it is the beginning, which follows the last page.
    pub fn not_done(self) -> Option<Self> {
        (self.0 != 0).then_some(self)
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Cursor {
    type Err = std::num::ParseIntError;

    fn from_str(digits: &str) -> Result<Self, Self::Err> {
        digits.parse().map(Self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    /// Accepts a number or a string; null is the beginning.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = <&RawValue>::deserialize(deserializer)?.get();
        if written == "null" {
            return Ok(Self::default());
        }
        written.trim_matches('"').parse().map_err(|_| serde::de::Error::custom("Next is not a whole number"))
    }
}

/// The call for a page of groups of one type.
#[derive(Debug, Clone, Copy)]
pub struct ListGroups {
    /// The type.
    pub group_type: GroupType,
    /// The page.
    pub from: Cursor,
}

/// A page of groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupPage {
    /// The groups that can have receipts, without repetitions.
    pub groups: Vec<GroupId>,
    /// The next page; `None` if this is the last one.
    pub next: Option<Cursor>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Request {
    limit: usize,
    next: u64,
    group_type: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Body {
    #[serde(default)]
    group_id_list: List<Entry, PAGE>,
    #[serde(default)]
    next: Cursor,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    group_id: Text,
}

impl Call for ListGroups {
    const API: Api = Api::GroupList;

    type Answer = GroupPage;

    fn request(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Request { limit: PAGE, next: self.from.0, group_type: self.group_type.as_str() })
    }

    /// An entry takes at most 80 bytes.
    fn most_bytes(&self) -> usize {
        (64 << 10) + 128 * PAGE
    }

    fn read(&self, http_status: u16, body: &[u8]) -> Result<GroupPage, Failure> {
        let Body { group_id_list, next } = read_success(http_status, body)?;
        let mut groups: Vec<GroupId> =
            group_id_list.0.into_iter().filter_map(|entry| entry.group_id.0?.parse().ok()).collect();
        groups.sort_unstable();
        groups.dedup();
        Ok(GroupPage { groups, next: next.not_done() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::protocol::error_class::Class;

    fn list(from: &str) -> ListGroups {
        ListGroups { group_type: GroupType::Public, from: from.parse().unwrap() }
    }

    fn read(body: &str) -> Result<GroupPage, Failure> {
        list("0").read(200, body.as_bytes())
    }

    #[test]
    fn the_request_for_a_page_of_groups_is_as_documented() {
        let json = String::from_utf8(list("18446744073709551615").request().unwrap()).unwrap();
        assert_eq!(json, r#"{"Limit":10000,"Next":18446744073709551615,"GroupType":"Public"}"#);
    }

    #[test]
    fn a_page_has_its_groups_once_and_the_place_of_the_next() {
        let page = read(
            r#"{"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":"","TotalCount":2,"Next":18446744073709551615,
                "GroupIdList":[{"GroupId":"b"},{"GroupId":"a","New":1},{"GroupId":"b"}]}"#,
        );
        let page = page.unwrap();
        assert_eq!(page.groups.iter().map(GroupId::as_str).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(page.next.unwrap().to_string(), u64::MAX.to_string());
    }

    #[test]
    fn groups_without_receipts_and_malformed_entries_are_left_out() {
        let list =
            r#"[{"GroupId":"@TGS#_x"},{"GroupId":"x@TOPIC#_y"},{"GroupId":7},null,{"Group":"a"},{"GroupId":"a"}]"#;
        for (next, expected) in [("0", None), ("\"0\"", None), ("null", None), ("\"7\"", Some("7"))] {
            let page = read(&format!(r#"{{"ErrorCode":0,"GroupIdList":{list},"Next":{next}}}"#)).unwrap();
            assert_eq!(page.groups.len(), 1);
            assert_eq!(page.next.map(|next| next.to_string()).as_deref(), expected, "{next}");
        }
        for body in [r#"{"ErrorCode":0}"#, r#"{"ErrorCode":0,"GroupIdList":null}"#] {
            assert_eq!(read(body), Ok(GroupPage::default()), "{body}");
        }
        let bad = read(r#"{"ErrorCode":0,"GroupIdList":[],"Next":-1}"#).unwrap_err();
        assert_eq!(bad.class, Class::Retry, "a cursor that can't be followed must not end the list");
    }

    #[test]
    fn a_refusal_of_a_list_has_its_class() {
        let refused = read(r#"{"ActionStatus":"FAIL","ErrorCode":60011,"ErrorInfo":"slow"}"#).unwrap_err();
        assert_eq!((refused.class, refused.code), (Class::SlowDown, Some(60011)));
        assert_eq!(list("0").read(502, b"").unwrap_err().class, Class::Retry);
    }
}
