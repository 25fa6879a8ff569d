//! The bodies of webhooks as they are documented, with names and texts that must be stored nowhere.

use serde_json::{Value, json};

use crate::{
    domain::{GroupId, MsgSeq, Timestamp},
    simulator::world::{Fresh, Reading, World},
};

/// Members have read a message. `EventTime` is a text here, as in the documentation's sample.
pub(super) fn read(world: &World, group: &GroupId, seq: MsgSeq, reading: &Reading, at: Timestamp) -> Value {
    let (group_type, _) = world.membership(group);
    json!({
        "CallbackCommand": "Group.CallbackAfterReadReceipt",
        "GroupId": group.as_str(),
        "Type": group_type.as_str(),
        "GroupMsgReceiptList": [{
            "MsgSeq": seq.get(), "ReadNum": reading.counts.read(), "UnreadNum": reading.counts.unread(),
            "ReadReceiptMembers": accounts(&reading.members),
        }],
        "EventTime": at.timestamp_millis().to_string(),
    })
}

/// The body for anything else that has happened; `None` if there is no webhook for it.
pub(super) fn other(world: &World, fresh: &Fresh, now: Timestamp) -> Option<Value> {
    let (group, command, fields) = match fresh {
        Fresh::Posted { group, seq, sent_at } => return Some(posted(world, group, *seq, *sent_at, now)),
        Fresh::Event(body) => return Some(body.clone()),
        Fresh::Message { .. } => return None,
        Fresh::Recalled { group, seq } => {
            let owner = world.membership(group).1.swap_remove(0);
            let fields = json!({ "Operator_Account": owner, "MsgSeqList": [{ "MsgSeq": seq.get() }] });
            (group, "Group.CallbackAfterRecallMsg", fields)
        }
        Fresh::Created(group) => (group, "Group.CallbackAfterCreateGroup", whole(world, group, true)),
        Fresh::Dissolved(group) => (group, "Group.CallbackAfterGroupDestroyed", whole(world, group, false)),
        Fresh::Joined { group, member } => {
            let fields =
                json!({ "JoinType": "Apply", "Operator_Account": member, "NewMemberList": accounts([member]) });
            (group, "Group.CallbackAfterNewMemberJoin", fields)
        }
        Fresh::Left { group, member } => {
            let fields =
                json!({ "ExitType": "Quit", "Operator_Account": member, "ExitMemberList": accounts([member]) });
            (group, "Group.CallbackAfterMemberExit", fields)
        }
    };
    let mut body = json!({
        "CallbackCommand": command,
        "GroupId": group.as_str(),
        "Type": world.membership(group).0.as_str(),
        "EventTime": now.timestamp_millis(),
    });
    if let (Value::Object(body), Value::Object(fields)) = (&mut body, fields) {
        body.extend(fields);
    }
    Some(body)
}

/// A group with its name and members.
fn whole(world: &World, group: &GroupId, has_operator: bool) -> Value {
    let (_, members) = world.membership(group);
    let mut fields = json!({
        "Owner_Account": members[0], "Name": "a name that must be stored nowhere", "MemberList": accounts(&members),
    });
    if has_operator {
        fields["Operator_Account"] = json!(members[0]);
    }
    fields
}

fn posted(world: &World, group: &GroupId, seq: MsgSeq, sent_at: Timestamp, now: Timestamp) -> Value {
    let (group_type, members) = world.membership(group);
    let is_online_only = world.receipts(group, &[seq], now).is_ok_and(|receipts| receipts[0].1.code == 10061);
    json!({
        "CallbackCommand": "Group.CallbackAfterSendMsg",
        "GroupId": group.as_str(),
        "Type": group_type.as_str(),
        "From_Account": members[0],
        "Operator_Account": members[0],
        "Random": seq.get(),
        "MsgSeq": seq.get(),
        "MsgTime": sent_at.timestamp(),
        "MsgId": format!("{}-{}", group.as_str(), seq.get()),
        "OnlineOnlyFlag": u8::from(is_online_only),
        "MsgBody": [{ "MsgType": "TIMTextElem", "MsgContent": { "Text": "a text that must be stored nowhere" } }],
        "CloudCustomData": "",
        "EventTime": now.timestamp_millis(),
    })
}

fn accounts<T: AsRef<str>>(members: impl IntoIterator<Item = T>) -> Value {
    members.into_iter().map(|member| json!({ "Member_Account": member.as_ref() })).collect()
}

/// An API is called at more than 80 % of its limit.
pub(in crate::simulator) fn over_limit(api: &str, calls: usize, limit: usize) -> Value {
    json!({
        "CallbackCommand": OVER_LIMIT,
        "ServiceName": "group_open_http_svc",
        "Command": api,
        "Request": calls,
        "Limit": limit,
    })
}

/// The command of that webhook.
pub(super) const OVER_LIMIT: &str = "Alert.RequestOverLimit";
