//! `get_group_info`: the latest seq and the type of up to 50 groups. Asks for these fields only, since the service
//! would add names and all members otherwise.

use serde::{Deserialize, Serialize};

use super::{List, Text, seconds, whole};
use crate::{
    domain::{GroupId, GroupType, Timestamp},
    rules::protocol::{
        call::{Api, Call, read_success},
        error_class::Class,
        failure::Failure,
        wire::Number,
    },
};

/// The fields of interest.
const FIELDS: [&str; 4] = ["Type", "NextMsgSeq", "MemberNum", "LastMsgTime"];

/// The call for the state of groups.
#[derive(Debug, Clone, Copy)]
pub struct GetGroupInfo<'a> {
    /// At most [`MOST`](Self::MOST) groups, each once.
    pub groups: &'a [GroupId],
}

impl GetGroupInfo<'_> {
    /// Maximum number of groups per call.
    pub const MOST: usize = 50;
}

/// The state of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its type; `None` if unknown or without receipts.
    pub group_type: Option<GroupType>,
    /// The seq of the next message, from 1.
    pub next_seq: u32,
    /// Number of members, if known.
    pub members: Option<u32>,
    /// Time of the latest message, if there is one.
    pub last_message_at: Option<Timestamp>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Request<'a> {
    group_id_list: Vec<&'a str>,
    response_filter: Filter,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Filter {
    group_base_info_filter: [&'static str; 4],
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Body {
    #[serde(default)]
    group_info: List<Entry, { GetGroupInfo::MOST * 2 }>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Entry {
    group_id: Text,
    error_code: Number,
    error_info: Text,
    #[serde(rename = "Type")]
    group_type: Text,
    next_msg_seq: Number,
    member_num: Number,
    last_msg_time: Number,
}

impl Entry {
    fn info(&self) -> Result<GroupInfo, Failure> {
        let refuse = |code| {
            Err(Failure::new(Class::of_code(code), Some(code), self.error_info.0.as_deref().unwrap_or_default()))
        };
        match self.error_code {
            Number::Absent | Number::Whole(0) => {}
            Number::Whole(code) => return refuse(code),
            Number::Bad => return Err(Failure::new(Class::Unknown, None, "the group's ErrorCode is not a number")),
        }
        let Some(next_seq) = whole(self.next_msg_seq) else {
            return Err(Failure::new(Class::Unknown, Some(0), "the answer has no NextMsgSeq of the group"));
        };
        Ok(GroupInfo {
            group_type: self.group_type.0.as_deref().and_then(|name| name.parse().ok()),
            next_seq: next_seq.max(1),
            members: whole(self.member_num),
            last_message_at: seconds(self.last_msg_time),
        })
    }
}

impl Call for GetGroupInfo<'_> {
    const API: Api = Api::GroupInfo;

    /// The state of each group in the answer, or why it has none.
    type Answer = Vec<(GroupId, Result<GroupInfo, Failure>)>;

    fn request(&self) -> Result<Vec<u8>, serde_json::Error> {
        let group_id_list = self.groups.iter().map(GroupId::as_str).collect();
        let response_filter = Filter { group_base_info_filter: FIELDS };
        serde_json::to_vec(&Request { group_id_list, response_filter })
    }

    fn most_bytes(&self) -> usize {
        (64 << 10) + (16 << 10) * self.groups.len()
    }

    fn read(&self, http_status: u16, body: &[u8]) -> Result<Self::Answer, Failure> {
        let Body { group_info } = read_success(http_status, body)?;
        let mut told: Self::Answer = vec![];
        for entry in group_info.0 {
            let Some(group) = entry.group_id.0.as_deref().and_then(|id| id.parse::<GroupId>().ok()) else { continue };
            if self.groups.contains(&group) && told.iter().all(|(known, _)| *known != group) {
                told.push((group, entry.info()));
            }
        }
        Ok(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(ids: &[&str]) -> Vec<GroupId> {
        ids.iter().map(|id| id.parse().unwrap()).collect()
    }

    fn read(ids: &[&str], list: &str) -> Vec<(String, Result<GroupInfo, Failure>)> {
        let body = format!(r#"{{"ActionStatus":"OK","ErrorCode":0,"GroupInfo":{list}}}"#);
        let told = GetGroupInfo { groups: &groups(ids) }.read(200, body.as_bytes()).unwrap();
        told.into_iter().map(|(group, info)| (group.to_string(), info)).collect()
    }

    #[test]
    fn the_request_for_groups_asks_for_no_names_or_members() {
        let json = String::from_utf8(GetGroupInfo { groups: &groups(&["a", "b"]) }.request().unwrap()).unwrap();
        assert_eq!(
            json,
            r#"{"GroupIdList":["a","b"],"ResponseFilter":{"GroupBaseInfoFilter":["Type","NextMsgSeq","MemberNum","LastMsgTime"]}}"#
        );
    }

    #[test]
    fn each_group_has_its_own_state_or_error() {
        let told = read(
            &["a", "b", "c", "d"],
            r#"[{"GroupId":"a","ErrorCode":0,"Type":"Work","NextMsgSeq":8,"MemberNum":3,"LastMsgTime":1700000000},
                {"GroupId":"b","ErrorCode":10010,"ErrorInfo":"gone"},{"GroupId":"c","Type":"AVChatRoom","NextMsgSeq":"2"},
                {"GroupId":"x","NextMsgSeq":1},{"GroupId":"a","NextMsgSeq":9},{"GroupId":"d","NextMsgSeq":1e99},null]"#,
        );
        let (private, time) = (Some(GroupType::Private), Timestamp::from_timestamp(1_700_000_000, 0));
        let full = GroupInfo { group_type: private, next_seq: 8, members: Some(3), last_message_at: time };
        let bare = GroupInfo { group_type: None, next_seq: 2, members: None, last_message_at: None };
        assert_eq!(told[..1], [("a".to_owned(), Ok(full))]);
        assert_eq!(told[1].1.as_ref().unwrap_err().class, Class::GroupFault);
        assert_eq!(told[2], ("c".to_owned(), Ok(bare)));
        assert_eq!(told[3].1.as_ref().unwrap_err().class, Class::Unknown);
        assert_eq!(told.len(), 4, "each group that was asked for, once");
    }
}
