use std::collections::BTreeMap;

use super::*;
use crate::{
    chat::{ChatSettings, Credential, Destination},
    domain::{GroupId, GroupType, MsgSeq, SdkAppId},
    rules::protocol::others::{Cursor, GetGroupInfo, GetHistory, ListGroups, MessageKind},
    simulator::{Fault, FaultRule, PostKind, Simulator, SimulatorConfig, When},
};

async fn service() -> Simulator {
    let app = SdkAppId::try_from(1_400_000_000).unwrap();
    let config = SimulatorConfig::new(app, "administrator", "key".into());
    Simulator::start(SimulatorConfig { latency: (Duration::ZERO..=Duration::ZERO).into(), ..config }).await.unwrap()
}

/// Calls that need no lease, which would end while a busy machine makes no progress.
fn calls(service: &Simulator) -> OtherCalls {
    calls_under(service, None)
}

fn calls_under(service: &Simulator, lease: Option<Lease>) -> OtherCalls {
    let settings = ChatSettings {
        sdk_app_id: SdkAppId::try_from(1_400_000_000).unwrap(),
        identifier: "administrator".into(),
        credential: Credential::SecretKey("key".into()),
        destination: Destination::Endpoint(service.endpoint()),
    };
    let limits = [Api::GroupInfo, Api::GroupList, Api::History].map(|api| (api, api.calls_per_second()));
    let client = ChatClient::new(settings, Duration::from_secs(8), 10).unwrap();
    OtherCalls::new(client.into(), lease.map(Into::into), limits, Duration::from_millis(50), CancellationToken::new())
}

fn group(id: &str) -> GroupId {
    id.parse().unwrap()
}

fn page(next: &str) -> ListGroups {
    ListGroups { group_type: GroupType::Public, from: next.parse::<Cursor>().unwrap() }
}

#[tokio::test]
async fn groups_and_messages_of_the_simulated_chat_are_found() {
    let service = service().await;
    let sent_at = service.now();
    for kind in [PostKind::Ordinary, PostKind::System, PostKind::Recalled, PostKind::Deleted] {
        service.world().post(&group("a"), sent_at, kind);
    }
    service.world().add_group(&group("b"), 3);
    service.world().set_group_type(&group("b"), GroupType::Private);
    let calls = calls(&service);
    let found = calls.call(&page("0")).await.unwrap().unwrap();
    assert_eq!((found.groups, found.next), (vec![group("a")], None));
    let asked = [group("a"), group("b"), group("@ c")];
    service.world().set_group_code(&group("@ c"), 10010);
    let infos = calls.call(&GetGroupInfo { groups: &asked }).await.unwrap().unwrap();
    let next: Vec<_> = infos.iter().map(|(_, info)| info.as_ref().map(|info| info.next_seq).ok()).collect();
    assert_eq!(next, [Some(5), Some(1), None]);
    let from = MsgSeq::try_from(4).unwrap();
    let history = calls.call(&GetHistory { group: &group("a"), from }).await.unwrap().unwrap();
    let kinds: Vec<MessageKind> = history.messages.iter().map(|message| message.kind).collect();
    assert_eq!(kinds, [MessageKind::Gone, MessageKind::Recalled, MessageKind::System, MessageKind::Ordinary]);
    assert_eq!(history.messages[3].sent_at.unwrap().timestamp(), sent_at.timestamp());
}

#[tokio::test]
async fn each_api_keeps_its_own_limit() {
    let service = service().await;
    let calls = calls(&service);
    let groups = [group("a")];
    let listing = async {
        for _ in 0..3 {
            calls.call(&page("0")).await.unwrap().unwrap();
        }
    };
    let asking = futures::future::join_all((0..300).map(|_| async {
        calls.call(&GetGroupInfo { groups: &groups }).await.unwrap().unwrap();
    }));
    tokio::join!(listing, asking);
    let ledger = service.ledger();
    let highest: BTreeMap<_, _> = ledger.apis().map(|(name, api)| (name, api.highest_sliding_second())).collect();
    assert_eq!(highest["get_appid_group_list"], 1);
    // On a busy machine, fewer calls are sent per second.
    assert!((2..=200).contains(&highest["get_group_info"]), "{highest:?}");
    assert_eq!((ledger.api("get_group_info").answered(), ledger.calls()), (300, 0));
}

#[tokio::test]
async fn a_call_that_fails_for_now_is_repeated_and_others_are_not() {
    let service = service().await;
    let calls = calls(&service);
    let fault = |code, times| FaultRule {
        fault: Fault::ErrorCode { code },
        when: When::Api { api: "get_group_info".into() },
        times: Some(times),
    };
    let groups = [group("a")];
    let ask = async || calls.call(&GetGroupInfo { groups: &groups }).await.unwrap();
    for code in [10002, 60011, 70001] {
        service.add_fault(fault(code, 1));
        assert!(ask().await.is_ok(), "{code}");
    }
    service.add_fault(fault(10007, 1));
    assert_eq!(ask().await.unwrap_err().class, Class::GroupFault);
    let seen = service.ledger().api("get_group_info").errors_by_code();
    assert_eq!(seen, BTreeMap::from([(10002, 1), (10007, 1), (60011, 1), (70001, 1)]));
}

#[tokio::test]
async fn a_refusal_of_the_app_stops_calls_for_a_while() {
    let service = service().await;
    let calls = calls(&service);
    service.add_fault(FaultRule {
        fault: Fault::ErrorCode { code: 60021 },
        when: When::Api { api: "get_appid_group_list".into() },
        times: None,
    });
    assert_eq!(calls.call(&page("0")).await.unwrap().unwrap_err().class, Class::AppFault);
    let groups = [group("a")];
    let asked = GetGroupInfo { groups: &groups };
    let waiting = calls.call(&asked);
    let stopped = async {
        calls.session_over.cancel();
    };
    assert!(tokio::join!(waiting, stopped).0.is_none(), "it waits until the session is over");
    assert_eq!(service.ledger().api("get_group_info").calls(), 0);
}

#[tokio::test]
async fn without_the_lease_no_other_call_is_made() {
    let service = service().await;
    let lease = Lease::default();
    lease.elector().took(Some(1), clock::uptime(), clock::uptime());
    lease.elector().polling_ended(false);
    let calls = calls_under(&service, Some(lease));
    assert!(calls.call(&page("0")).await.is_none());
    assert_eq!(service.ledger().apis().count(), 0);
}
