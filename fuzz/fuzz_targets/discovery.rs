//! Any answer to the calls that discover groups and messages, or tell who has read one: the first byte is the HTTP
//! status, the second the number of groups asked for or the newest message, the rest the body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use receiptd::{
    domain::{GroupId, GroupType, MsgSeq},
    rules::protocol::{
        Call, Class, Failure,
        others::{Cursor, GetGroupInfo, GetHistory, GetReaders, ListGroups},
    },
    rules::readers::Side,
};

fuzz_target!(|input: &[u8]| {
    let [status, asked, body @ ..] = input else { return };
    let http_status = if *status == 0 { 200 } else { 100 + u16::from(*status) * 2 };
    let groups: Vec<GroupId> = (0..*asked % 50).map(|number| format!("g{number}").parse().unwrap()).collect();
    match (GetGroupInfo { groups: &groups }.read(http_status, body)) {
        Ok(told) => {
            assert!(told.len() <= groups.len(), "each group at most once");
            assert!(told.iter().all(|(group, _)| groups.contains(group)));
            told.iter().filter_map(|(_, info)| info.as_ref().err()).for_each(check);
            assert!(told.iter().filter_map(|(_, info)| info.as_ref().ok()).all(|info| info.next_seq > 0));
        }
        Err(failure) => check(&failure),
    }
    let list = ListGroups { group_type: GroupType::Public, from: Cursor::default() };
    match list.read(http_status, body) {
        Ok(page) => {
            assert!(page.groups.is_sorted_by(|one, next| one < next), "each group once, in order");
            assert!(page.groups.len() <= 10_000);
            assert!(page.next.is_none_or(|next| next.to_string().parse() == Ok(next)));
        }
        Err(failure) => check(&failure),
    }
    let (group, from) = ("g".parse().unwrap(), MsgSeq::try_from(i64::from(*asked) + 1).unwrap());
    match (GetHistory { group: &group, from }.read(http_status, body)) {
        Ok(page) => {
            assert!(page.messages.is_sorted_by(|one, next| one.seq > next.seq), "each message once, the newest first");
            assert!(page.messages.iter().all(|message| message.seq <= from));
            assert!(!page.has_more || !page.messages.is_empty(), "paging goes on");
        }
        Err(failure) => check(&failure),
    }
    for side in [Side::Read, Side::Unread] {
        match (GetReaders { group: &group, seq: from, side, place: "" }.read(http_status, body)) {
            Ok(page) => {
                assert!(page.members.len() <= 400, "twice of what was asked for");
                assert!(page.members.iter().all(|member| (1..=256).contains(&member.as_str().len())));
                assert!(page.next.is_none_or(|place| !place.is_empty()));
            }
            Err(failure) => check(&failure),
        }
    }
});

fn check(failure: &Failure) {
    assert_ne!(failure.class, Class::Success, "{failure:?}");
    assert!(failure.info.chars().count() <= 200 && !failure.info.contains(char::is_control));
}
