//! What is at fault for a refusal: the app, or the one group that was asked for.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use receiptd::{
    rules::cadence::{Cadence, Cadences, Tier},
    simulator::{Fault, FaultRule, When},
};

use crate::harness::{Harness, every_second, group, simulator_config};

const ALL_POLLED: &str = "(SELECT bool_and(known_until IS NOT NULL) FROM receiptd.latest_receipts)";

fn refuse(rig: &Harness, code: i32, when: When) {
    rig.simulator.add_fault(FaultRule { fault: Fault::ErrorCode { code }, when, times: None });
}

fn of_group(id: &str) -> When {
    When::Group { group_id: group(id) }
}

fn calls(rig: &Harness, id: &str) -> u64 {
    rig.simulator.ledger().calls_by_group().get(&group(id)).copied().unwrap_or(0)
}

/// One group is answered with a code of the app: it is quarantined, and the others are polled normally.
async fn one_group_is_refused(code: i32, calls_at_most: u64) {
    let mut rig = Harness::new().await;
    for number in 1..=5 {
        rig.watch(&format!("good {number}"), 1..=3).await;
    }
    rig.until(ALL_POLLED).await;
    refuse(&rig, code, of_group("bad"));
    rig.watch("bad", 1..=3).await;
    let quarantined = format!(
        "(SELECT state = 'quarantined' AND state_code = {code} AND probe_at > now() + interval '1 hour'
          FROM receiptd.watched_groups WHERE group_id = 'bad')"
    );
    rig.until(&quarantined).await;
    assert!(calls(&rig, "bad") <= calls_at_most, "{} calls", calls(&rig, "bad"));
    let poller = rig.daemon.as_ref().unwrap().status().poller().unwrap();
    assert_eq!(poller.fault(), None);
    let good = calls(&rig, "good 1");
    rig.simulator.wait_until(|ledger| ledger.calls_by_group()[&group("good 1")] >= good + 3).await;
    let longest: f64 = rig
        .value(
            "SELECT max(extract(epoch FROM gap))::float8 FROM (
                SELECT called_at - lag(called_at) OVER (PARTITION BY group_key ORDER BY called_at) AS gap
                FROM receiptd.api_calls JOIN receiptd.watched_groups USING (group_key) WHERE group_id LIKE 'good%') gaps",
        )
        .await;
    assert!(longest < 11.0, "a good group waited for {longest} s");
    assert_eq!(rig.count("receiptd.watched_groups WHERE state = 'quarantined'").await, 1);
}

#[tokio::test]
async fn one_group_with_10026_is_quarantined_and_holds_up_no_other() {
    one_group_is_refused(10026, 2).await;
}

#[tokio::test]
async fn one_group_with_60003_is_quarantined_and_holds_up_no_other() {
    one_group_is_refused(60003, 2).await;
}

#[tokio::test]
async fn one_group_with_70003_is_quarantined_and_holds_up_no_other() {
    // Each time a new signature is tried once.
    one_group_is_refused(70003, 4).await;
}

#[tokio::test]
async fn one_group_with_70050_is_quarantined_and_holds_up_no_other() {
    one_group_is_refused(70050, 2).await;
}

#[tokio::test]
async fn a_group_is_to_blame_if_each_of_its_messages_is_refused() {
    let mut rig = Harness::new().await;
    rig.watch("good", 1..=3).await;
    rig.until(ALL_POLLED).await;
    refuse(&rig, 10004, of_group("bad"));
    rig.watch("bad", 1..=3).await;
    rig.until(
        "(SELECT state = 'quarantined' AND state_code = 10004 FROM receiptd.watched_groups WHERE group_id = 'bad')",
    )
    .await;
    assert_eq!(rig.count("receiptd.watched_messages WHERE state <> 'active'").await, 0);
}

#[tokio::test]
async fn a_group_code_for_every_group_is_the_fault_of_the_app() {
    let mut rig = Harness::new().await;
    for number in 1..=30 {
        rig.watch(&format!("g{number}"), [1]).await;
    }
    rig.until(ALL_POLLED).await;
    refuse(&rig, 10010, When::All);
    let poller = rig.daemon.as_ref().unwrap().status().poller().unwrap();
    while poller.fault().is_none() {
        tokio::task::yield_now().await;
    }
    let refused = rig.simulator.ledger().errors_by_code()[&10010];
    // A few probes more.
    rig.simulator.wait_until(|ledger| ledger.errors_by_code()[&10010] >= refused + 3).await;
    rig.simulator.clear_faults();
    let mended: chrono::DateTime<chrono::Utc> = rig.value("SELECT clock_timestamp()").await;
    let all_again = format!("(SELECT bool_and(known_until > '{}') FROM receiptd.latest_receipts)", mended.to_rfc3339());
    rig.until(&all_again).await;
    assert_eq!(poller.fault(), None);
    assert_eq!(rig.count("receiptd.watched_groups WHERE state <> 'active'").await, 0);
}

#[tokio::test]
async fn a_group_with_a_refused_quarantine_is_not_asked_repeatedly() {
    let mut rig = Harness::new().await;
    rig.watch("good", 1..=3).await;
    rig.until(ALL_POLLED).await;
    sqlx::raw_sql(
        "CREATE FUNCTION public.no_quarantine() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN IF NEW.state = 'quarantined' THEN RAISE EXCEPTION 'not here'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER no_quarantine BEFORE UPDATE ON receiptd.watched_groups
         FOR EACH ROW EXECUTE FUNCTION public.no_quarantine()",
    )
    .execute(&rig.pool)
    .await
    .unwrap();
    refuse(&rig, 10010, of_group("bad"));
    rig.watch("bad", 1..=3).await;
    rig.simulator.wait_until(|ledger| ledger.calls_by_group().get(&group("bad")) == Some(&2)).await;
    let good = calls(&rig, "good");
    rig.simulator.wait_until(|ledger| ledger.calls_by_group()[&group("good")] >= good + 12).await;
    assert_eq!(calls(&rig, "bad"), 2, "twelve seconds later");
    let by_code: BTreeMap<i32, u64> = rig.simulator.ledger().errors_by_code().clone();
    assert_eq!(by_code, BTreeMap::from([(10010, 2)]));
}

#[tokio::test]
async fn groups_refused_together_are_probed_when_one_is_answered() {
    let mut rig = Harness::new().await;
    rig.watch("good", 1..=3).await;
    rig.until(ALL_POLLED).await;
    for number in 1..=6 {
        rig.watch(&format!("g{number}"), [1]).await;
    }
    rig.until(ALL_POLLED).await;
    rig.stop().await;
    // The state after a fault of some of the groups: one was refused an hour later, and one with another code.
    sqlx::raw_sql(
        "UPDATE receiptd.watched_groups SET state = 'quarantined', state_code = 10007, probe_at = now() + interval '6 hours',
            refused_at = now() - interval '1 hour' WHERE group_id LIKE 'g_';
         UPDATE receiptd.watched_groups SET refused_at = now() WHERE group_id = 'g5';
         UPDATE receiptd.watched_groups SET state_code = 10060 WHERE group_id = 'g6';
         UPDATE receiptd.watched_groups SET probe_at = now() WHERE group_id = 'g1'",
    )
    .execute(&rig.pool)
    .await
    .unwrap();
    // One of them is still refused, and postponed again.
    refuse(&rig, 10007, of_group("g2"));
    rig.start().await;
    rig.until(
        "(SELECT count(*) = 3 FROM receiptd.watched_groups
            WHERE group_id IN ('g1', 'g3', 'g4') AND state = 'active' AND refused_at IS NULL)",
    )
    .await;
    rig.until(
        "(SELECT state = 'quarantined' AND probe_at > now() + interval '5 hours' AND refused_at > now() - interval '10 minutes'
            FROM receiptd.watched_groups WHERE group_id = 'g2')",
    )
    .await;
    let others = "receiptd.watched_groups WHERE group_id IN ('g5', 'g6') AND state = 'quarantined' AND probe_at > now() + interval '5 hours'";
    assert_eq!(rig.count(others).await, 2);
    let refused = rig.simulator.ledger().errors_by_code()[&10007];
    assert_eq!(refused, 1, "it was probed once");
}

#[tokio::test]
async fn a_restart_with_a_refused_signature_recovers_in_few_calls() {
    let mut rig = Harness::new().await;
    for number in 1..=12 {
        rig.watch(&format!("g{number}"), [1]).await;
    }
    rig.until(ALL_POLLED).await;
    refuse(&rig, 70003, When::All);
    let is_at_fault = async |rig: &Harness| {
        let status = rig.daemon.as_ref().unwrap().status();
        while status.poller().is_none_or(|poller| poller.fault().is_none()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    is_at_fault(&rig).await;
    rig.stop().await;
    let refused = |rig: &Harness| rig.simulator.ledger().errors_by_code()[&70003];
    let before = refused(&rig);
    rig.start().await;
    is_at_fault(&rig).await;
    let again = refused(&rig) - before;
    // The first call of the term, the same with a new signature, and two probes; on a very busy machine, some more
    // first calls.
    assert!((1..=8).contains(&again), "{again} refused calls after the restart");
    rig.simulator.clear_faults();
    let mended: chrono::DateTime<chrono::Utc> = rig.value("SELECT clock_timestamp()").await;
    rig.until(&format!("(SELECT bool_and(known_until > '{}') FROM receiptd.latest_receipts)", mended.to_rfc3339()))
        .await;
    assert_eq!(rig.count("receiptd.watched_groups WHERE state <> 'active'").await, 0);
}

#[tokio::test]
async fn a_lone_bad_group_is_told_from_the_app_by_early_witnesses() {
    let mut rig = Harness::stopped(simulator_config()).await;
    let hour = Duration::from_secs(3_600);
    let hourly = Cadence::by_age(vec![Tier { until: 24 * hour, every: hour }], true).unwrap();
    let cadences = [("default".to_owned(), hourly), ("often".to_owned(), every_second())];
    rig.settings.session.cadences = Arc::new(Cadences::new(BTreeMap::from(cadences)));
    rig.start().await;
    for number in 1..=3 {
        rig.watch(&format!("good {number}"), 1..=3).await;
    }
    rig.value::<i32>("SELECT receiptd.watch_group(1400000000, 'bad', cadence => 'often')").await;
    rig.watch("bad", 1..=3).await;
    rig.until(ALL_POLLED).await;
    refuse(&rig, 60021, of_group("bad"));
    let quarantined = "(SELECT state = 'quarantined' FROM receiptd.watched_groups WHERE group_id = 'bad')";
    rig.until(quarantined).await;
    // A daemon that knows no answered group.
    rig.stop().await;
    rig.value::<bool>("SELECT receiptd.resume_group(1400000000, 'bad')").await;
    rig.start().await;
    rig.until(quarantined).await;
    assert_eq!(rig.daemon.as_ref().unwrap().status().poller().unwrap().fault(), None);
    let good: u64 = (1..=3).map(|number| calls(&rig, &format!("good {number}"))).sum();
    assert!((5..=8).contains(&good), "{good} calls for groups that were due once");
}
