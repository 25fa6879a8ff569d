//! Owners' triggers that refuse groups or new slots: the marks, probes and slots of others get through.

use std::time::Duration;

use receiptd::rules::cadence::{Cadence, Cadences, Tier};

use crate::{
    harness::{Harness, simulator_config},
    refused::{polled_again, refuse, rig, run},
};

/// A stopped daemon that has polled these groups.
async fn polled(groups: &[&str]) -> Harness {
    let mut rig = rig(groups).await;
    rig.start().await;
    for group in groups {
        polled_again(&mut rig, group).await;
    }
    rig.stop().await;
    rig
}

#[tokio::test]
async fn a_refused_mark_after_a_change_of_cadences_holds_up_no_other_group() {
    let mut rig = polled(&["bad", "good"]).await;
    refuse(&rig, "watched_groups", "NEW.group_id = 'bad' AND NEW.reschedule", "ZZ001").await;
    let second = Duration::from_secs(1);
    let cadence = Cadence::by_age(vec![Tier { until: 7_200 * second, every: second }], true).unwrap();
    rig.settings.session.cadences = Cadences::new([("default".to_owned(), cadence)].into()).into();
    rig.start().await;
    polled_again(&mut rig, "good").await;
    rig.stop().await;
}

/// Refuses the first statement that meets `condition`, and ends the session of the second.
async fn refuse_and_then_fail(rig: &Harness, event: &str, table: &str, condition: &str) {
    let trigger = format!(
        "CREATE SEQUENCE public.tries;
         CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$
         DECLARE try bigint := nextval('public.tries');
         BEGIN
            IF try = 1 THEN RAISE EXCEPTION 'refused' USING ERRCODE = 'ZZ001'; END IF;
            IF try = 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(5); END IF;
            RETURN NEW;
         END $$;
         CREATE TRIGGER fail BEFORE {event} ON receiptd.{table} FOR EACH ROW WHEN ({condition})
         EXECUTE FUNCTION public.fail()"
    );
    run(rig, &trigger).await;
}

#[tokio::test]
async fn slots_made_before_slotting_failed_are_polled() {
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.start().await;
    refuse_and_then_fail(&rig, "INSERT", "poll_slots", "NEW.group_key = 2").await;
    run(&rig, "SELECT receiptd.watch_messages(1400000000, g, '{1,2,3}') FROM unnest(ARRAY['a', 'b']) g").await;
    polled_again(&mut rig, "b").await;
    assert_eq!(rig.count("receiptd.poll_slots WHERE group_key = 1").await, 1);
    polled_again(&mut rig, "a").await;
    rig.stop().await;
}

#[tokio::test]
async fn groups_resumed_before_clearing_their_marks_failed_are_polled() {
    let mut rig = polled(&["a", "b"]).await;
    run(&rig, "SELECT receiptd.pause_group(1400000000, g) FROM unnest(ARRAY['a', 'b']) g").await;
    rig.start().await;
    rig.until("(SELECT count(*) FROM receiptd.watched_groups WHERE reschedule) = 0").await;
    refuse_and_then_fail(
        &rig,
        "UPDATE",
        "watched_groups",
        "NEW.group_key = 2 AND OLD.reschedule AND NOT NEW.reschedule",
    )
    .await;
    run(&rig, "SELECT receiptd.resume_group(1400000000, g) FROM unnest(ARRAY['a', 'b']) g").await;
    polled_again(&mut rig, "b").await;
    rig.until("(SELECT count(*) FROM receiptd.watched_groups WHERE reschedule) = 0").await;
    polled_again(&mut rig, "a").await;
    rig.stop().await;
}

/// Waits until a group is active.
async fn released(rig: &mut Harness, group: &str) {
    rig.until(&format!("(SELECT state = 'active' FROM receiptd.watched_groups WHERE group_id = '{group}')")).await;
}

#[tokio::test]
async fn many_groups_with_refused_probes_hold_up_no_other_probe() {
    let mut rig = Harness::stopped(simulator_config()).await;
    run(
        &rig,
        "SELECT receiptd.watch_messages(1400000000, 'bad ' || n, '{1}') FROM generate_series(1, 60) n;
         SELECT receiptd.watch_messages(1400000000, 'good', '{1}')",
    )
    .await;
    rig.start().await;
    rig.until("(SELECT bool_and(known_until IS NOT NULL) FROM receiptd.latest_receipts)").await;
    rig.stop().await;
    run(
        &rig,
        "UPDATE receiptd.watched_groups SET state = 'quarantined', state_code = 10007,
            probe_at = CASE group_id WHEN 'good' THEN now() ELSE now() - interval '1 hour' END",
    )
    .await;
    refuse(&rig, "watched_groups", "NEW.group_id LIKE 'bad%'", "ZZ001").await;
    rig.start().await;
    released(&mut rig, "good").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_group_is_released_although_another_that_was_refused_with_it_can_not_be_changed() {
    let mut rig = polled(&["good", "bad"]).await;
    run(
        &rig,
        "UPDATE receiptd.watched_groups SET state = 'quarantined', state_code = 10007, refused_at = now(),
            probe_at = CASE group_id WHEN 'good' THEN now() ELSE now() + interval '6 hours' END",
    )
    .await;
    refuse(&rig, "watched_groups", "NEW.group_id = 'bad'", "ZZ001").await;
    rig.start().await;
    released(&mut rig, "good").await;
    rig.stop().await;
}
