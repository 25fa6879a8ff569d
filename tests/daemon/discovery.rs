//! Discovery: groups and messages that nobody added are found and watched, or passed over with a reason.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::TimeDelta;
use receiptd::{
    domain::{Bounds, Counts, GroupId, GroupType, Timestamp},
    import::WatchLine,
    rules::discovery::{Discovery, Found, Passed, Selection, Wanted},
    simulator::{Fault, FaultRule, PostKind, When},
    store::{GroupRead, Room, Store, Watching},
};
use sqlx::{AssertSqlSafe, Postgres, Transaction};

use crate::harness::{APP, Harness, app, group, seq, simulator_config};

/// Follows all groups, and messages of the last hour.
pub fn last_hour() -> Discovery {
    Discovery {
        selection: Selection {
            types: vec![GroupType::Public, GroupType::Private],
            include: vec![],
            exclude: vec!["test-*".parse().unwrap()],
            ids: BTreeSet::new(),
        },
        wanted: Wanted { since: TimeDelta::hours(1), not_before: None },
        cadence: None,
        groups: 1_000,
        messages: 1_000,
        messages_per_group: 100,
        max_calls_per_second: 200,
    }
}

async fn discovering(rules: Discovery) -> Harness {
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.settings.session.discovery = Some(Arc::new(rules));
    rig
}

fn ago(rig: &Harness, minutes: i64) -> Timestamp {
    rig.simulator.now() - TimeDelta::minutes(minutes)
}

#[tokio::test]
async fn groups_and_messages_that_nobody_added_are_watched() {
    let mut rig = discovering(last_hour()).await;
    let world = rig.simulator.world();
    for (id, group_type) in [("a", GroupType::Public), ("b", GroupType::Private), ("c", GroupType::ChatRoom)] {
        world.set_group_type(&group(id), group_type);
        world.post(&group(id), ago(&rig, 90), PostKind::Ordinary);
        for kind in [PostKind::Ordinary, PostKind::System, PostKind::Recalled, PostKind::Ordinary] {
            world.post(&group(id), ago(&rig, 1), kind);
        }
    }
    world.post(&group("test-1"), ago(&rig, 30), PostKind::Ordinary);
    rig.start().await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE receipt_code = 0) = 4").await;
    let watched: Vec<(String, i64)> = sqlx::query_as(
        "SELECT group_id, msg_seq FROM receiptd.messages WHERE discovered_at IS NOT NULL ORDER BY group_id, msg_seq",
    )
    .fetch_all(&rig.pool)
    .await
    .unwrap();
    let watched: Vec<(&str, i64)> = watched.iter().map(|(group, seq)| (group.as_str(), *seq)).collect();
    assert_eq!(watched, [("a", 2), ("a", 5), ("b", 2), ("b", 5)]);
    let groups: String = rig
        .value(
            "SELECT string_agg(group_id || ' ' || group_type, ', ' ORDER BY group_id) FROM receiptd.groups
                WHERE discovered_at IS NOT NULL AND cadence IS NULL",
        )
        .await;
    assert_eq!(groups, "a Public, b Private");
    let passed: String = rig
        .value("SELECT passed_seqs::text || passed_reasons::text FROM receiptd.discovered_groups WHERE group_id = 'a'")
        .await;
    assert_eq!(passed, "{4,3}{recalled,system}");
    let sent_at: bool =
        rig.value("SELECT bool_and(sent_at < now() - interval '50 seconds') FROM receiptd.watched_messages").await;
    assert!(sent_at, "the time of sending is the service's");
    rig.simulator.world().post(&group("a"), rig.simulator.now(), PostKind::Ordinary);
    rig.until(
        "EXISTS (SELECT FROM receiptd.latest_receipts WHERE group_id = 'a' AND msg_seq = 6 AND receipt_code = 0)",
    )
    .await;
    rig.stop().await;
    let ledger = rig.simulator.ledger();
    assert_eq!(ledger.errors_by_code().len(), 0);
    assert!(ledger.apis().all(|(_, api)| api.errors_by_code().is_empty()), "{ledger:?}");
}

#[tokio::test]
async fn readers_are_on_in_discovered_groups_that_match() {
    let mut rig = discovering(last_hour()).await;
    rig.settings.session.readers.groups = vec!["safety-*".parse().unwrap()];
    rig.watch("safety-owned", [1]).await;
    rig.value::<i32>(&format!("SELECT receiptd.watch_group({APP}, 'safety-off', readers => false)")).await;
    for id in ["safety-1", "safety-off", "safety-owned", "lunch"] {
        let sent = rig.simulator.world().post(&group(id), ago(&rig, 5), PostKind::Ordinary);
        rig.simulator.world().set_receipt(&group(id), sent, Counts::new(2, 1).unwrap());
    }
    rig.start().await;
    rig.until("(SELECT count(*) FROM receiptd.discovered_groups WHERE next_seq > 1) = 4").await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE receipt_code = 0) = 4").await;
    rig.until("(SELECT count(*) FROM receiptd.message_readers) = 2").await;
    rig.stop().await;
    let groups: String = rig
        .value("SELECT string_agg(group_id || ' ' || readers, ', ' ORDER BY group_id) FROM receiptd.watched_groups")
        .await;
    assert_eq!(groups, "lunch false, safety-1 true, safety-off false, safety-owned false");
    let read_in: String = rig.value("SELECT string_agg(DISTINCT group_id, ' ') FROM receiptd.member_reads").await;
    assert_eq!(read_in, "safety-1");
}

#[tokio::test]
async fn a_discovered_message_without_receipt_is_asked_for_once() {
    let mut rig = discovering(last_hour()).await;
    for _ in 0..5 {
        let sent = rig.simulator.world().post(&group("a"), ago(&rig, 5), PostKind::Ordinary);
        rig.simulator.world().set_message_code(&group("a"), sent, 10062);
    }
    rig.start().await;
    rig.until("(SELECT count(*) FROM receiptd.watched_messages WHERE state = 'no_receipt') = 5").await;
    rig.stop().await;
    assert_eq!(rig.simulator.ledger().calls_by_group()[&group("a")], 1);
}

#[tokio::test]
async fn a_list_goes_on_where_an_earlier_daemon_stopped() {
    let mut rig = discovering(last_hour()).await;
    for number in 0..5 {
        rig.simulator.world().add_group(&group(&format!("g{number}")), 3);
    }
    sqlx::query("INSERT INTO receiptd.discovery_lists VALUES ($1, 'Public', '3')")
        .bind(APP)
        .execute(&rig.pool)
        .await
        .unwrap();
    rig.start().await;
    rig.until("(SELECT count(*) FROM receiptd.discovery_lists WHERE next_page = '0' AND listed_at IS NOT NULL) = 2")
        .await;
    rig.until("(SELECT count(next_seq) FROM receiptd.discovered_groups) = 2").await;
    rig.stop().await;
    let found: String =
        rig.value("SELECT string_agg(group_id, ' ' ORDER BY group_id) FROM receiptd.discovered_groups").await;
    assert_eq!(found, "g3 g4");
    assert_eq!(rig.count("receiptd.watched_groups").await, 0, "groups without messages are not watched");
}

#[tokio::test]
async fn failures_of_other_calls_delay_discovery_and_lose_nothing() {
    let mut rig = discovering(last_hour()).await;
    let faults = [
        ("get_appid_group_list", Fault::HttpStatus { status: 502 }),
        ("get_group_info", Fault::ErrorCode { code: 10002 }),
        ("get_group_info", Fault::CutMidBody),
        ("group_msg_get_simple", Fault::ErrorCode { code: 60011 }),
        ("group_msg_get_simple", Fault::TruncatedJson),
        ("group_msg_get_simple", Fault::ErrorCode { code: 70001 }),
    ];
    for (api, fault) in faults {
        rig.simulator.add_fault(FaultRule { fault, when: When::Api { api: api.into() }, times: Some(1) });
    }
    for _ in 0..45 {
        rig.simulator.world().post(&group("a"), ago(&rig, 5), PostKind::Ordinary);
    }
    rig.start().await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE receipt_code = 0) = 45").await;
    rig.stop().await;
    assert_eq!(rig.simulator.ledger().faults_by_kind().values().sum::<u64>(), 6);
}

#[tokio::test]
async fn a_group_that_is_gone_is_not_followed_any_more() {
    let mut rig = discovering(last_hour()).await;
    let rules = Discovery {
        selection: Selection { types: vec![], ids: ["a", "b"].map(group).into(), ..last_hour().selection },
        ..last_hour()
    };
    rig.settings.session.discovery = Some(Arc::new(rules));
    rig.simulator.world().post(&group("b"), ago(&rig, 5), PostKind::Ordinary);
    rig.simulator.world().set_group_code(&group("a"), 10010);
    rig.start().await;
    rig.until("(SELECT string_agg(group_id, ' ') FROM receiptd.discovered_groups WHERE next_seq > 1) = 'b'").await;
    rig.until("(SELECT count(*) FROM receiptd.discovered_groups) = 1").await;
    rig.stop().await;
    assert_eq!(rig.simulator.ledger().api("get_appid_group_list").calls(), 0, "named groups need no list");
}

#[tokio::test]
async fn discovery_that_was_switched_off_begins_anew() {
    let mut rig = discovering(last_hour()).await;
    rig.start().await;
    let began = "(SELECT began_at IS NOT NULL FROM receiptd.discovery)";
    rig.simulator.wait_until(|ledger| ledger.api("get_appid_group_list").calls() > 0).await;
    assert!(rig.value::<bool>(began).await);
    rig.stop().await;
    rig.settings.session.discovery = None;
    rig.start().await;
    rig.watch("g", [1]).await;
    rig.until("EXISTS (SELECT FROM receiptd.latest_receipts WHERE receipt_code = 0)").await;
    rig.stop().await;
    assert!(!rig.value::<bool>(began).await);
}

pub fn read(id: &str, seqs: impl IntoIterator<Item = i64>) -> GroupRead {
    let group: GroupId = group(id);
    let sent_at = receiptd::clock::now();
    let mut found: Vec<Found> =
        seqs.into_iter().map(|number| Found { group: group.clone(), seq: seq(number), sent_at }).collect();
    found.reverse();
    GroupRead {
        group,
        group_type: Some(GroupType::Public),
        next_seq: Some(100),
        last_message_at: None,
        found,
        passed: vec![],
        refused_code: None,
    }
}

pub const ROOM: Room<'static> =
    Room { cadence: Some("slow"), readers: &[], groups: true, messages: 1_000, messages_per_group: 5 };

pub async fn store(rig: &Harness) -> Store {
    let store = Store::new(&rig.database.url().into(), 3, app()).unwrap();
    store.follow_groups(None, &[group("a"), group("b")]).await.unwrap();
    store
}

pub fn total(watching: &Watching) -> u64 {
    watching.stored.iter().map(|(_, watched)| watched).sum()
}

pub async fn seqs(rig: &Harness, condition: &str) -> String {
    let seqs = format!(
        "SELECT coalesce(string_agg(msg_seq::text, ' ' ORDER BY msg_seq), '') FROM receiptd.watched_messages WHERE {condition}"
    );
    rig.value(&seqs).await
}

#[tokio::test]
async fn what_owners_watch_or_have_removed_is_left_alone() {
    let rig = Harness::stopped(simulator_config()).await;
    let store = store(&rig).await;
    rig.watch("a", [1, 2]).await;
    rig.value::<i64>(&format!("SELECT receiptd.unwatch_messages({APP}, 'a', '{{2}}')")).await;
    assert_eq!(total(&store.watch_discovered(vec![read("a", 1..=4)], ROOM).await.unwrap()), 2);
    assert_eq!(seqs(&rig, "discovered_at IS NOT NULL AND state = 'active' AND no_receipt_polls = 2").await, "3 4");
    assert_eq!(seqs(&rig, "discovered_at IS NULL").await, "1 2");
    assert_eq!(total(&store.watch_discovered(vec![read("a", 1..=4)], ROOM).await.unwrap()), 0, "again");
    rig.watch("a", [3]).await;
    rig.value::<i64>(&format!("SELECT receiptd.unwatch_group({APP}, 'a')")).await;
    let watching = store.watch_discovered(vec![read("a", 7..=8)], ROOM).await.unwrap();
    assert_eq!((total(&watching), watching.passed[&Passed::Removed]), (0, 2));
    assert_eq!(rig.value::<String>("SELECT state FROM receiptd.watched_groups").await, "removed");
    rig.watch("a", [3]).await;
    assert_eq!(seqs(&rig, "state = 'active' AND discovered_at IS NULL AND no_receipt_polls = 0").await, "3");
}

#[tokio::test]
async fn no_more_messages_are_watched_than_the_limits_allow() {
    let rig = Harness::stopped(simulator_config()).await;
    let store = store(&rig).await;
    let watching = store.watch_discovered(vec![read("a", 1..=8)], ROOM).await.unwrap();
    assert_eq!((total(&watching), watching.passed[&Passed::Bound]), (5, 3));
    assert_eq!(seqs(&rig, "true").await, "4 5 6 7 8", "the newest");
    let room = Room { messages: 2, ..ROOM };
    assert_eq!(total(&store.watch_discovered(vec![read("b", 1..=3)], room).await.unwrap()), 2);
    assert_eq!(rig.value::<String>("SELECT DISTINCT cadence FROM receiptd.watched_groups").await, "slow");
    store.note_bounds(Bounds { messages: 8, ..Bounds::default() }).await.unwrap();
    let watching = store.watch_discovered(vec![read("b", 10..=12)], ROOM).await.unwrap();
    assert_eq!((total(&watching), watching.passed[&Passed::Bound]), (0, 3), "limits.messages");
    assert_eq!(rig.count("receiptd.discovered_groups WHERE next_seq = 100").await, 2);
}

#[tokio::test]
async fn an_app_with_all_its_groups_still_gets_their_new_messages() {
    let rig = Harness::stopped(simulator_config()).await;
    let store = store(&rig).await;
    rig.watch("known", [1]).await;
    store.note_bounds(Bounds { groups: 3, ..Bounds::default() }).await.unwrap();
    let reads = ["a", "b", "c", "d", "known", "e"].map(|id| read(id, 2..=4)).to_vec();
    let watching = store.watch_discovered(reads, ROOM).await.unwrap();
    assert_eq!((total(&watching), watching.passed[&Passed::Bound], watching.refused.len()), (9, 9, 0), "{watching:?}");
    let groups = "SELECT string_agg(group_id, ' ' ORDER BY group_id) FROM receiptd.watched_groups";
    assert_eq!(rig.value::<String>(groups).await, "a b known");
    let watching = store.watch_discovered(vec![read("f", [1]), read("known", [5])], ROOM).await.unwrap();
    assert_eq!((total(&watching), watching.passed[&Passed::Bound]), (1, 1));
}

/// An owner's open transaction that removes the group `a`.
async fn removal_of_a(rig: &Harness) -> Transaction<'static, Postgres> {
    rig.watch("a", [1]).await;
    let mut removal = rig.pool.begin().await.unwrap();
    let remove = format!("SELECT receiptd.unwatch_group({APP}, 'a')");
    sqlx::query(AssertSqlSafe(remove)).execute(&mut *removal).await.unwrap();
    removal
}

#[tokio::test]
async fn a_group_that_is_being_removed_holds_up_no_other() {
    let rig = Harness::stopped(simulator_config()).await;
    let store = store(&rig).await;
    let removal = removal_of_a(&rig).await;
    let watching = store.watch_discovered(vec![read("a", 2..=3), read("b", 2..=3)], ROOM).await.unwrap();
    assert_eq!(watching.stored, [(group("b"), 2)]);
    removal.commit().await.unwrap();
    let watching = store.watch_discovered(vec![read("a", 2..=3)], ROOM).await.unwrap();
    assert_eq!((total(&watching), watching.passed[&Passed::Removed]), (0, 2));
}

#[tokio::test]
async fn the_share_with_receipts_is_learned_for_each_group() {
    let rig = Harness::stopped(simulator_config()).await;
    let (store, room) = (store(&rig).await, Room { messages_per_group: 100, ..ROOM });
    store.watch_discovered(vec![read("a", 1..=12)], room).await.unwrap();
    rig.value::<i64>(
        "WITH told AS (UPDATE receiptd.watched_messages SET receipt_code = 0, first_polled_at = now(), known_until = now()
            WHERE msg_seq <= 11 RETURNING 1) SELECT count(*) FROM told",
    )
    .await;
    store.watch_discovered(vec![read("a", 13..=13), read("b", 1..=1)], room).await.unwrap();
    assert_eq!(seqs(&rig, "no_receipt_polls = 0").await, "13", "nearly all have one: a missing one may be late");
    let totals = store.discovery_totals().await.unwrap();
    assert_eq!((totals.groups, totals.watched, totals.receipt_share()), (2, 14, Some(1.0)));
}

#[tokio::test]
async fn an_import_beside_a_removal_leaves_no_message_unpolled() {
    let rig = Harness::stopped(simulator_config()).await;
    let store = store(&rig).await;
    let removal = removal_of_a(&rig).await;
    let line = WatchLine { group: group("a"), seq: seq(2), sent_at: None, labels: Default::default() };
    let import = tokio::spawn(async move { store.watch_lines(&[line], receiptd::clock::now()).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%watch_keys%'";
    while rig.value::<i64>(waits).await == 0 {
        assert!(!import.is_finished(), "it waits for the removal");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    removal.commit().await.unwrap();
    assert_eq!(import.await.unwrap().unwrap(), 1);
    assert_eq!(rig.value::<String>("SELECT state FROM receiptd.watched_groups").await, "active");
    assert_eq!(seqs(&rig, "state = 'active'").await, "2");
}
