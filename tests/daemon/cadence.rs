//! When messages are polled, from the config to the call.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use receiptd::{
    clock,
    rules::cadence::{Cadence, Cadences, Tier},
};

use crate::harness::{Harness, every_second, group, simulator_config};

fn rare() -> Cadence {
    Cadence::by_age(vec![Tier { until: Duration::from_secs(86_400), every: Duration::from_secs(3_600) }], true).unwrap()
}

async fn rig_with(cadences: impl IntoIterator<Item = (&'static str, Cadence)>) -> Harness {
    let mut rig = Harness::stopped(simulator_config()).await;
    let cadences: BTreeMap<String, Cadence> =
        cadences.into_iter().map(|(name, cadence)| (name.into(), cadence)).collect();
    rig.settings.session.cadences = Arc::new(Cadences::new(cadences));
    rig.start().await;
    rig
}

fn calls(rig: &Harness, id: &str) -> u64 {
    rig.simulator.ledger().calls_by_group().get(&group(id)).copied().unwrap_or(0)
}

#[tokio::test]
async fn a_group_uses_its_cadence_or_the_default_if_it_is_unknown() {
    let mut rig = rig_with([("default", every_second()), ("rare", rare())]).await;
    for (id, cadence) in [("often", "default"), ("rare", "rare"), ("lost", "no-such-cadence")] {
        sqlx::query("SELECT receiptd.watch_group(1400000000, $1, cadence => $2)")
            .bind(id)
            .bind(cadence)
            .execute(&rig.pool)
            .await
            .unwrap();
        rig.watch(id, [1]).await;
    }
    rig.simulator
        .wait_until(|ledger| ["often", "lost"].iter().all(|id| ledger.calls_by_group().get(&group(id)) >= Some(&4)))
        .await;
    assert_eq!(calls(&rig, "rare"), 1);
    rig.stop().await;
}

#[tokio::test]
async fn another_cadence_holds_at_once() {
    let mut rig = rig_with([("default", rare()), ("fast", every_second())]).await;
    rig.watch("g", 1..=3).await;
    rig.until("(SELECT count(*) FROM receiptd.receipt_history) = 3").await;
    assert_eq!(calls(&rig, "g"), 1);
    sqlx::query("UPDATE receiptd.watched_groups SET cadence = 'fast'").execute(&rig.pool).await.unwrap();
    rig.simulator.wait_for_ended_calls(4).await;
    sqlx::query("UPDATE receiptd.watched_groups SET cadence = NULL").execute(&rig.pool).await.unwrap();
    rig.until("(SELECT NOT reschedule FROM receiptd.watched_groups)").await;
    rig.until("(SELECT next_poll_at > now() + interval '5 seconds' FROM receiptd.poll_slots)").await;
}

#[tokio::test]
async fn a_message_past_its_cadence_is_polled_once_and_then_expired() {
    let mut rig = rig_with([("default", rare())]).await;
    sqlx::query("SELECT receiptd.watch_messages(1400000000, 'g', '{1}', now() - interval '2 days')")
        .execute(&rig.pool)
        .await
        .unwrap();
    rig.until("(SELECT state = 'expired' FROM receiptd.latest_receipts)").await;
    assert_eq!(rig.count("receiptd.receipt_history").await, 1);
    rig.until("(SELECT count(*) FROM receiptd.poll_slots) = 0").await;
    // Watched again with another time, it starts again.
    rig.watch("g", [1]).await;
    rig.until("(SELECT state = 'active' AND slot_id IS NOT NULL FROM receiptd.watched_messages)").await;
}

#[tokio::test]
async fn a_cron_cadence_is_polled_on_its_dates_only() {
    let every_second = Cadence::by_cron("* * * * * *", Duration::from_secs(3_600), true, clock::now()).unwrap();
    let new_year = Cadence::by_cron("0 0 1 1 *", Duration::from_secs(400 * 86_400), true, clock::now()).unwrap();
    let mut rig = rig_with([("default", every_second), ("yearly", new_year)]).await;
    sqlx::query("SELECT receiptd.watch_group(1400000000, 'yearly', cadence => 'yearly')")
        .execute(&rig.pool)
        .await
        .unwrap();
    rig.watch("yearly", [1]).await;
    rig.watch("g", [1]).await;
    rig.simulator.wait_for_ended_calls(3).await;
    rig.until("(SELECT count(*) FROM receiptd.api_calls) >= 3").await;
    assert_eq!(calls(&rig, "yearly"), 0);
    let on_the_second: bool =
        rig.value("SELECT bool_and(next_poll_at = date_trunc('second', next_poll_at)) FROM receiptd.poll_slots").await;
    assert!(on_the_second, "whenever the poll before came to its end");
    let due: bool = rig
        .value("SELECT bool_or(extract(doy FROM next_poll_at AT TIME ZONE 'UTC') = 1) FROM receiptd.poll_slots")
        .await;
    assert!(due);
}

#[tokio::test]
async fn a_changed_cadence_applies_to_its_groups_after_a_restart() {
    let mut rig = rig_with([("default", rare()), ("kept", rare())]).await;
    rig.watch("changed", [1, 2]).await;
    sqlx::query("SELECT receiptd.watch_group(1400000000, 'kept', cadence => 'kept')").execute(&rig.pool).await.unwrap();
    rig.watch("kept", [1]).await;
    rig.until("(SELECT count(*) = 2 FROM receiptd.api_calls)").await;
    rig.stop().await;
    let cadences = [("default".to_owned(), every_second()), ("kept".to_owned(), rare())];
    rig.settings.session.cadences = Arc::new(Cadences::new(BTreeMap::from(cadences)));
    rig.start().await;
    rig.until("(SELECT count(*) >= 4 FROM receiptd.api_calls)").await;
    assert_eq!(calls(&rig, "kept"), 1);
    rig.stop().await;
}
