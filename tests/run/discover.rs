//! Discovery with the real binary: what it would do, what it has done, and what commands print about both.

use std::process::Command;

use chrono::TimeDelta;
use receiptd::{
    domain::{GroupId, GroupType},
    simulator::PostKind,
};
use serde_json::Value;
use sqlx::PgPool;

use crate::{
    common::TestDatabase,
    harness::{Harness, count, end, signal},
};

fn group(id: &str) -> GroupId {
    id.parse().unwrap()
}

/// The output of a command, and whether it succeeds.
fn receiptd(place: &Harness, database: &TestDatabase, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
    command.args(arguments).arg("--config").arg(place.write_config());
    let output = command.env("DATABASE_URL", database.url()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("canary"), "{said}");
    (output.status.success(), said)
}

/// Groups with four messages of the last hour each, one of them a notice.
fn populate(place: &Harness) {
    let (world, now) = (place.simulator.world(), place.simulator.now());
    for (id, members) in [("team-1", 20), ("team-2", 20), ("safety-1", 20), ("test-1", 20), ("crowd", 201)] {
        world.create_group(&group(id), GroupType::Public, members);
        for minutes in [40, 30, 20] {
            world.post(&group(id), now - TimeDelta::minutes(minutes), PostKind::Ordinary);
        }
        world.post(&group(id), now - TimeDelta::minutes(10), PostKind::System);
    }
    world.create_group(&group("work"), GroupType::Private, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_stores_nothing_and_predicts_the_daemon() {
    let (mut place, database) = (Harness::new("discover", 200).await, TestDatabase::new().await);
    populate(&place);
    place.config.push_str(
        "[discovery]\nenabled = true\ntypes = [\"Public\"]\nexclude = [\"test-*\"]\nsince = \"1h\"\n[readers]\n\
         groups = [\"safety-*\"]\nreader_cadence = \"1s\"\n",
    );
    crate::harness::migrate(&database);
    let pool = PgPool::connect(&database.url()).await.unwrap();
    let (is_ok, would) = receiptd(&place, &database, &["discover", "--dry-run", "--json"]);
    let estimate: Value = serde_json::from_str(&would).unwrap();
    assert!(is_ok && estimate["followed"] == 3 && estimate["busy"] == 3 && estimate["with_readers"] == 1, "{would}");
    let others = &estimate["others"];
    assert_eq!(others["it matches a pattern of discovery.exclude"], 1, "{would}");
    assert_eq!(others["it has more than 200 members"], 1, "{would}");
    // Nine messages in a day.
    assert_eq!(estimate["messages_per_hour"], 0.375, "{would}");
    let (_, said) = receiptd(&place, &database, &["discover", "--dry-run"]);
    for part in ["3 would be followed", "would be stored in 1, by readers.groups", "of 200 allowed"] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
    let tables =
        "SELECT (SELECT count(*) FROM receiptd.discovered_groups) + (SELECT count(*) FROM receiptd.watched_groups)
        + (SELECT count(*) FROM receiptd.discovery_lists)";
    assert_eq!(count(&pool, tables).await, 0);
    let ledger = place.simulator.ledger();
    assert_eq!((ledger.calls(), ledger.api("get_group_msg_receipt_detail").calls()), (0, 0));
    assert!(ledger.apis().all(|(_, api)| api.errors_by_code().is_empty()), "{ledger:?}");

    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let polled = "SELECT count(*) FROM receiptd.latest_receipts WHERE receipt_code = 0";
    while count(&pool, polled).await < 9 {
        tokio::task::yield_now().await;
    }
    let with_readers = "SELECT count(*) FROM receiptd.watched_groups WHERE readers AND group_id = 'safety-1'";
    assert_eq!(count(&pool, with_readers).await, 1);
    assert_eq!(count(&pool, "SELECT count(*) FROM receiptd.watched_groups WHERE readers").await, 1);
    let (is_ok, said) = receiptd(&place, &database, &["discover", "--dry-run"]);
    assert!(!is_ok && said.contains("discovery is running"), "{said}");
    for (arguments, parts) in [
        (&["discover"][..], &["on since ", "9 watched, 3 passed over"][..]),
        (&["watch", "list"], &["team-1", "discovery"]),
        (&["explain", "team-1", "1"], &["Discovery found the message"]),
        (&["explain", "team-1", "4"], &["passed the message over: it is a notice of Tencent Chat"]),
        (&["explain", "test-1", "1"], &["it matches a pattern of discovery.exclude"]),
        (&["explain", "crowd", "1"], &["code 10060"]),
    ] {
        let (_, said) = receiptd(&place, &database, arguments);
        assert!(parts.iter().all(|part| said.contains(part)), "{arguments:?}: {parts:?} are not in\n{said}");
    }
    signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
}
