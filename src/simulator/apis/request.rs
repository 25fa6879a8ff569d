//! Parses the calls other than that for receipts, strictly: documented fields and values only, and nothing that would
//! return more than a client needs.

use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    domain::{GroupId, GroupType, InvalidValue, MsgSeq},
    simulator::refusal::Refusal,
};

/// Maximum number of groups in a call of `get_group_info`.
const MOST_GROUPS: usize = 50;
/// Maximum number of groups in an answer of `get_appid_group_list`.
const MOST_LISTED: usize = 10_000;
/// Maximum number of messages in an answer of `group_msg_get_simple`.
const MOST_MESSAGES: usize = 20;
/// Maximum number of members in an answer of `get_group_msg_receipt_detail`.
const MOST_READERS: usize = 200;
/// The fields of a group that may be asked for.
const GROUP_FIELDS: [&str; 16] = [
    "GroupId",
    "Type",
    "Name",
    "Introduction",
    "Notification",
    "FaceUrl",
    "Owner_Account",
    "CreateTime",
    "InfoSeq",
    "LastInfoTime",
    "LastMsgTime",
    "NextMsgSeq",
    "MemberNum",
    "MaxMemberNum",
    "ApplyJoinOption",
    "MuteAllMember",
];

/// A well-formed question to one of the APIs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// The state of groups, with these fields.
    GroupInfo { groups: Vec<String>, fields: Vec<String> },
    /// A page of groups.
    GroupList { limit: usize, next: u64, group_type: Option<GroupType> },
    /// A page of messages.
    History { group: GroupId, number: usize, from: Option<MsgSeq>, with_recalled: bool },
    /// A page of the members who have, or have not, read a message.
    Readers { group: GroupId, seq: MsgSeq, has_read: bool, from: usize, count: usize },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct GroupInfoBody {
    group_id_list: Vec<String>,
    response_filter: ResponseFilter,
}

/// Without it, the service returns the whole member lists: the simulated one requires it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct ResponseFilter {
    group_base_info_filter: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct GroupListBody {
    limit: Option<usize>,
    next: Option<u64>,
    group_type: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct HistoryBody {
    group_id: String,
    req_msg_number: usize,
    req_msg_seq: Option<i64>,
    with_recalled_msg: Option<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct ReadersBody {
    group_id: String,
    msg_seq: i64,
    filter: u8,
    cursor: String,
    count: usize,
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Refusal::Body("not a JSON object".to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| Refusal::Body(error.to_string()))
}

fn refuse<T>(reason: &str) -> Result<T, Refusal> {
    Err(Refusal::Body(reason.to_owned()))
}

pub(super) fn group_info(body: &[u8]) -> Result<Asked, Refusal> {
    let GroupInfoBody { group_id_list: groups, response_filter } = parse(body)?;
    let fields = response_filter.group_base_info_filter;
    if groups.is_empty() || groups.len() > MOST_GROUPS {
        return refuse("GroupIdList must have 1 to 50 groups");
    }
    if fields.is_empty() || fields.iter().any(|field| !GROUP_FIELDS.contains(&field.as_str())) {
        return refuse("GroupBaseInfoFilter must name fields of a group");
    }
    Ok(Asked::GroupInfo { groups, fields })
}

pub(super) fn group_list(body: &[u8]) -> Result<Asked, Refusal> {
    let GroupListBody { limit, next, group_type } = parse(body)?;
    let limit = limit.unwrap_or(MOST_LISTED);
    if !(1..=MOST_LISTED).contains(&limit) {
        return refuse("Limit must be from 1 to 10000");
    }
    let group_type = match group_type.as_deref() {
        None => None,
        Some("Private") => Some(GroupType::Private),
        Some("Public") => Some(GroupType::Public),
        Some("ChatRoom") => Some(GroupType::ChatRoom),
        Some(_) => return refuse("GroupType must be Public, Private or ChatRoom here"),
    };
    Ok(Asked::GroupList { limit, next: next.unwrap_or_default(), group_type })
}

fn group_of(id: &str) -> Result<GroupId, Refusal> {
    id.parse().map_err(|error| match error {
        InvalidValue::NoReceiptsInGroup { .. } => Refusal::GroupTypeWithoutReceipts,
        _ => Refusal::GroupIdMalformed,
    })
}

pub(super) fn readers(body: &[u8]) -> Result<Asked, Refusal> {
    let ReadersBody { group_id, msg_seq, filter, cursor, count } = parse(body)?;
    let group = group_of(&group_id)?;
    let seq = MsgSeq::try_from(msg_seq).map_err(|error| Refusal::Body(error.to_string()))?;
    if filter > 1 {
        return refuse("Filter must be 0 (read) or 1 (unread)");
    }
    if !(1..=MOST_READERS).contains(&count) {
        return refuse("Count must be from 1 to 200");
    }
    let from = if cursor.is_empty() { Some(0) } else { cursor.parse().ok() };
    let Some(from) = from else { return refuse("Cursor is not one that was answered") };
    Ok(Asked::Readers { group, seq, has_read: filter == 0, from, count })
}

pub(super) fn history(body: &[u8]) -> Result<Asked, Refusal> {
    let HistoryBody { group_id, req_msg_number: number, req_msg_seq, with_recalled_msg } = parse(body)?;
    if !(1..=MOST_MESSAGES).contains(&number) {
        return refuse("ReqMsgNumber must be from 1 to 20");
    }
    let group = group_of(&group_id)?;
    let from = req_msg_seq.map(MsgSeq::try_from).transpose().map_err(|error| Refusal::Body(error.to_string()))?;
    match with_recalled_msg.unwrap_or_default() {
        with @ 0..=1 => Ok(Asked::History { group, number, from, with_recalled: with == 1 }),
        _ => refuse("WithRecalledMsg must be 0 or 1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_questions_are_read() {
        let asked = group_info(
            br#"{"GroupIdList":["a"],"ResponseFilter":{"GroupBaseInfoFilter":["Type","NextMsgSeq","MemberNum","LastMsgTime"]}}"#,
        );
        let fields = ["Type", "NextMsgSeq", "MemberNum", "LastMsgTime"].map(str::to_owned).to_vec();
        assert_eq!(asked, Ok(Asked::GroupInfo { groups: vec!["a".to_owned()], fields }));
        let asked = group_list(br#"{"Limit":1000,"Next":0,"GroupType":"Public"}"#);
        assert_eq!(asked, Ok(Asked::GroupList { limit: 1000, next: 0, group_type: Some(GroupType::Public) }));
        let asked = history(br#"{"GroupId":"a","ReqMsgSeq":7803321,"ReqMsgNumber":20,"WithRecalledMsg":1}"#);
        let (group, from) = ("a".parse().unwrap(), MsgSeq::try_from(7_803_321).ok());
        assert_eq!(asked, Ok(Asked::History { group, number: 20, from, with_recalled: true }));
    }

    #[test]
    fn undocumented_questions_are_refused() {
        let many = vec!["\"g\""; 51].join(",");
        let filter = r#""ResponseFilter":{"GroupBaseInfoFilter":["Type"]}"#;
        for (parse, body) in [
            (group_info as fn(&[u8]) -> Result<Asked, Refusal>, r#"{"GroupIdList":["a"]}"#.to_owned()),
            (group_info, format!(r#"{{"GroupIdList":[{many}],{filter}}}"#)),
            (group_info, format!(r#"{{"GroupIdList":[],{filter}}}"#)),
            (group_info, r#"{"GroupIdList":["a"],"ResponseFilter":{"GroupBaseInfoFilter":["Members"]}}"#.to_owned()),
            (group_list, r#"{"Limit":10001,"Next":0}"#.to_owned()),
            (group_list, r#"{"Limit":1,"Next":-1}"#.to_owned()),
            (group_list, r#"{"Limit":1,"GroupType":"Work"}"#.to_owned()),
            (readers, r#"{"GroupId":"a","MsgSeq":1,"Filter":2,"Cursor":"","Count":200}"#.to_owned()),
            (readers, r#"{"GroupId":"a","MsgSeq":1,"Filter":0,"Cursor":"","Count":201}"#.to_owned()),
            (readers, r#"{"GroupId":"a","MsgSeq":1,"Filter":0,"Cursor":"x","Count":200}"#.to_owned()),
            (readers, r#"{"GroupId":"a","MsgSeq":0,"Filter":0,"Cursor":"","Count":200}"#.to_owned()),
            (readers, r#"{"GroupId":"a","MsgSeq":1,"Filter":0,"Count":200}"#.to_owned()),
            (history, r#"{"GroupId":"a","ReqMsgNumber":21}"#.to_owned()),
            (history, r#"{"GroupId":"a","ReqMsgNumber":1,"ReqMsgSeq":0}"#.to_owned()),
            (history, r#"{"GroupId":"a","ReqMsgNumber":1,"WithRecalledMsg":2}"#.to_owned()),
            (history, r#"{"GroupId":"a","ReqMsgNumber":1,"Extra":2}"#.to_owned()),
            (history, "[\"a\",1,null,null]".to_owned()),
        ] {
            assert_eq!(parse(body.as_bytes()).map_err(|refusal| refusal.code()), Err(10004), "{body}");
        }
        let topic = history(br#"{"GroupId":"x@TOPIC#_1","ReqMsgNumber":1}"#).unwrap_err();
        assert_eq!(topic.code(), 10007);
    }
}
