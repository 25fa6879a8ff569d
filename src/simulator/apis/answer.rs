//! The answers of the APIs other than that for receipts, from the world's groups and messages.

use serde_json::{Map, Value, json};

use super::request::Asked;
use crate::{
    domain::{GroupId, GroupType, MsgSeq, Timestamp},
    simulator::{
        refusal::Refusal,
        world::{Post, PostKind, Readership, World},
    },
};

/// The answer to a question at a time.
pub(super) fn answer(world: &World, asked: &Asked, now: Timestamp) -> Result<Value, Refusal> {
    match asked {
        Asked::GroupInfo { groups, fields } => {
            let infos: Vec<Value> = groups.iter().map(|id| group_info(world, id, fields)).collect();
            Ok(success(json!({ "GroupInfo": infos })))
        }
        Asked::GroupList { limit, next, group_type } => Ok(group_list(world, *limit, *next, *group_type)),
        Asked::History { group, number, from, with_recalled } => {
            let posts = world.posts(group, from.map(|seq| seq.get()), *number)?;
            Ok(history(group, &posts.newest_first, posts.has_more, *with_recalled, now))
        }
        Asked::Readers { group, seq, has_read, from, count } => {
            let Readership { read, unread } = world.readership(group, *seq, now)?;
            let page = page_of(if *has_read { &read } else { &unread }, *from, *count);
            Ok(readers(*seq, *has_read, page))
        }
    }
}

/// A part of a list, and the place of the next one.
fn page_of(members: &[String], from: usize, count: usize) -> (&[String], Option<usize>) {
    let from = from.min(members.len());
    let end = members.len().min(from + count);
    (&members[from..end], Some(end).filter(|end| *end < members.len()))
}

fn readers(seq: MsgSeq, has_read: bool, (page, next): (&[String], Option<usize>)) -> Value {
    let (list, account) = if has_read { ("ReadList", "Read_Account") } else { ("UnreadList", "Unread_Account") };
    let members: Vec<Value> = page.iter().map(|member| json!({ account: member })).collect();
    let cursor = next.map_or_else(String::new, |next| next.to_string());
    success(json!({"MsgSeq": seq.get(), "Cursor": cursor, "IsFinish": u8::from(next.is_none()), list: members}))
}

fn success(fields: Value) -> Value {
    let mut body = json!({"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0});
    if let (Value::Object(body), Value::Object(fields)) = (&mut body, fields) {
        body.extend(fields);
    }
    body
}

fn group_info(world: &World, id: &str, fields: &[String]) -> Value {
    let state = id.parse::<GroupId>().map_err(|_| Refusal::GroupIdMalformed).and_then(|group| world.state(&group));
    let state = match state {
        Ok(state) => state,
        Err(refusal) => {
            return json!({"GroupId": id, "ErrorCode": refusal.code(), "ErrorInfo": refusal.to_string()});
        }
    };
    let mut info = Map::from_iter([
        ("GroupId".to_owned(), json!(id)),
        ("ErrorCode".to_owned(), json!(0)),
        ("ErrorInfo".to_owned(), json!("")),
    ]);
    for field in fields {
        let value = match field.as_str() {
            "Type" => json!(state.group_type.as_str()),
            "NextMsgSeq" => json!(state.next_seq),
            "MemberNum" => json!(state.members),
            "LastMsgTime" => json!(state.last_message_at.map_or(0, |at| at.timestamp())),
            "Name" | "Introduction" | "Notification" | "FaceUrl" => json!("invented"),
            "GroupId" => continue,
            _ => json!(0),
        };
        info.insert(field.clone(), value);
    }
    Value::Object(info)
}

fn group_list(world: &World, limit: usize, next: u64, group_type: Option<GroupType>) -> Value {
    let groups = world.groups(group_type);
    let from = usize::try_from(next).unwrap_or(usize::MAX).min(groups.len());
    let page = &groups[from..groups.len().min(from.saturating_add(limit))];
    let end = from + page.len();
    let next = if end < groups.len() { end } else { 0 };
    let list: Vec<Value> = page.iter().map(|group| json!({ "GroupId": group.as_str() })).collect();
    success(json!({"TotalCount": groups.len(), "GroupIdList": list, "Next": next}))
}

fn history(group: &GroupId, posts: &[Post], has_more: bool, with_recalled: bool, now: Timestamp) -> Value {
    let list: Vec<Value> = posts
        .iter()
        .filter(|post| with_recalled || post.kind != PostKind::Recalled)
        .map(|post| {
            let place = match post.kind {
                PostKind::Recalled => 2,
                PostKind::Deleted => 1,
                PostKind::Ordinary | PostKind::System => 0,
            };
            json!({
                "From_Account": "member", "IsPlaceMsg": place, "MsgRandom": post.seq, "MsgSeq": post.seq,
                "IsSystemMsg": u8::from(post.kind == PostKind::System),
                "MsgTimeStamp": post.sent_at.unwrap_or(now).timestamp(),
                "MsgBody": [{"MsgType": "TIMTextElem", "MsgContent": {"Text": "invented"}}],
            })
        })
        .collect();
    success(json!({"GroupId": group.as_str(), "IsFinished": u8::from(!has_more), "RspMsgList": list}))
}
