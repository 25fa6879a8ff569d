//! Everything that happens in the simulated world is reported, in the documented form.

use std::collections::BTreeMap;

use axum::{Router, extract::RawQuery, routing::post};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::{
    domain::GroupType,
    rules::webhooks::{self, Event},
    simulator::{PostKind, Simulator, SimulatorConfig},
};

const TOKEN: &str = "token";

type Received = UnboundedReceiver<(String, Value)>;

/// A simulated Chat, and what a listener receives from it.
async fn telling(delivery: Delivery) -> (Simulator, Received) {
    let (sender, received) = unbounded_channel();
    let take = move |RawQuery(query): RawQuery, body: String| async move {
        _ = sender.send((query.unwrap_or_default(), serde_json::from_str(&body).unwrap()));
        r#"{"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":""}"#
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/path", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/path", post(take))).await });
    let mut config = SimulatorConfig::new(7.try_into().unwrap(), "administrator", "key".into());
    config.calls_per_second = 5;
    config.world.median_reading_time = Duration::from_secs(1_000_000);
    let simulator = Simulator::start(config).await.unwrap();
    simulator.send_webhooks(WebhookConfig { url, token: TOKEN.into(), delivery });
    (simulator, received)
}

/// The next `number` webhooks by command, each with a query that verifies.
async fn next(received: &mut Received, number: usize) -> BTreeMap<String, Value> {
    let mut told = BTreeMap::new();
    for _ in 0..number {
        let (query, body) = received.recv().await.unwrap();
        let of = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default()
        };
        let command = body["CallbackCommand"].as_str().unwrap().to_owned();
        assert_eq!((of("SdkAppid"), of("CallbackCommand"), of("contenttype")), ("7", command.as_str(), "json"));
        assert_eq!(of("ClientIP").is_empty(), command.starts_with("Alert"), "{query}");
        assert_eq!(of("Sign"), webhooks::signature(&TOKEN.into(), of("RequestTime")));
        told.insert(command, body);
    }
    told
}

fn read(body: &Value) -> Event {
    Event::read(body.to_string().as_bytes(), |_| true).unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|member| member["Member_Account"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn groups_members_and_messages_are_told_as_they_come_and_go() {
    let (simulator, mut received) = telling(Delivery::default()).await;
    let (world, group): (_, GroupId) = (simulator.world(), "team".parse().unwrap());
    world.create_group(&group, GroupType::Private, 3);
    let members = [vec![world.membership(&group).1[0].clone()], world.accounts(&group)].concat();
    let joined = world.join(&group, simulator.now());
    world.leave(&group, &members[1]);
    let (sent_at, online) = (simulator.now(), PostKind::System);
    let seq = world.post(&group, sent_at, PostKind::Ordinary);
    world.post(&group, sent_at, online);
    world.recall(&group, seq);
    world.dissolve(&group);
    let told = next(&mut received, 6).await;
    let of = |command: &str| &told[&format!("Group.Callback{command}")];
    let all = [members[0].as_str(), members[1].as_str(), members[2].as_str(), joined.as_str()];
    assert_eq!(names(&of("AfterCreateGroup")["MemberList"]).first(), all.first());
    assert_eq!(names(&of("AfterNewMemberJoin")["NewMemberList"]), [all[3]]);
    assert_eq!(names(&of("AfterMemberExit")["ExitMemberList"]), [all[1]]);
    assert_eq!(names(&of("AfterGroupDestroyed")["MemberList"]), [all[0], all[2], all[3]]);
    let is_typed = |event| matches!(event, Event::Created(of) | Event::MembersChanged(of) if of.group_type.as_deref() == Some("Private"));
    for command in ["AfterCreateGroup", "AfterNewMemberJoin", "AfterMemberExit"] {
        assert!(is_typed(read(of(command))), "{command}");
    }
    assert_eq!(read(of("AfterGroupDestroyed")), Event::Destroyed(group.clone()));
    assert_eq!(read(of("AfterRecallMsg")), Event::Recalled { group: group.clone(), seqs: vec![seq] });
    let Event::Sent { seq: told_seq, sent_at: told_at, is_online_only, .. } = read(of("AfterSendMsg")) else {
        panic!("{told:?}")
    };
    assert_eq!((told_seq, is_online_only), (seq, false));
    assert_eq!(told_at.map(|at| at.timestamp()), Some(sent_at.timestamp()));
}

#[tokio::test]
async fn a_read_is_told_with_the_accounts_that_the_lists_have() {
    let (simulator, mut received) = telling(Delivery::default()).await;
    let (world, group): (_, GroupId) = (simulator.world(), "g".parse().unwrap());
    world.create_group(&group, GroupType::Public, 20);
    let seq = world.post(&group, simulator.now() - TimeDelta::hours(1), PostKind::Ordinary);
    next(&mut received, 2).await;
    world.set_receipt(&group, seq, crate::domain::Counts::new(3, 16).unwrap());
    let told = next(&mut received, 1).await;
    let entry = &told["Group.CallbackAfterReadReceipt"]["GroupMsgReceiptList"][0];
    assert_eq!((entry["ReadNum"].as_u64(), entry["UnreadNum"].as_u64()), (Some(3), Some(16)));
    assert_eq!(names(&entry["ReadReceiptMembers"]), world.readership(&group, seq, simulator.now()).unwrap().read);
}

#[tokio::test]
async fn calls_near_the_limit_are_told_with_their_number() {
    let (simulator, mut received) = telling(Delivery::default()).await;
    _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    // Refused calls count too.
    let call = || client.post(format!("{}{}", simulator.endpoint(), super::super::server::PATH)).body("{}").send();
    for _ in 0..5 {
        call().await.unwrap();
    }
    let told = next(&mut received, 1).await;
    let over = Event::OverLimit { command: "get_group_msg_receipt".into(), calls: 5, limit: 5 };
    assert_eq!(read(&told["Alert.RequestOverLimit"]), over);
}

#[tokio::test]
async fn what_is_lost_or_wrongly_signed_is_counted() {
    let (simulator, mut received) =
        telling(Delivery { wrongly_signed: 1.0, doubled: 1.0, ..Delivery::default() }).await;
    simulator.world().announce(serde_json::json!({ "CallbackCommand": "X" }));
    for _ in 0..2 {
        let (query, _) = received.recv().await.unwrap();
        let time = query.rsplit_once("RequestTime=").unwrap().1;
        assert!(!query.contains(&webhooks::signature(&TOKEN.into(), time)), "{query}");
    }
    let ledger = simulator.webhooks();
    assert_eq!((ledger.events, ledger.lost, ledger.sent), (1, 1, 2));
}
