//! Owners' triggers that refuse rows with any SQLSTATE: the refused rows delay no others.

use receiptd::domain::Counts;
use sqlx::AssertSqlSafe;

use crate::harness::{Harness, group, seq, simulator_config};

/// Refuses rows of a table with an SQLSTATE.
pub async fn refuse(rig: &Harness, table: &str, condition: &str, sqlstate: &str) {
    let trigger = format!(
        "CREATE OR REPLACE FUNCTION public.refuse_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN IF {condition} THEN RAISE EXCEPTION 'refused' USING ERRCODE = '{sqlstate}'; END IF; RETURN NEW; END $$;
         CREATE OR REPLACE TRIGGER refuse BEFORE INSERT OR UPDATE ON receiptd.{table} FOR EACH ROW
         EXECUTE FUNCTION public.refuse_{table}()"
    );
    run(rig, &trigger).await;
}

pub async fn run(rig: &Harness, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&rig.pool).await.unwrap();
}

/// A daemon to be started that watches three messages of each group. The groups' keys are their numbers.
pub async fn rig(groups: &[&str]) -> Harness {
    let rig = Harness::stopped(simulator_config()).await;
    for (group, number) in groups.iter().zip(1_i64..) {
        rig.watch(group, 1..=3).await;
        let key = format!("receiptd.watched_groups WHERE group_key = {number} AND group_id = '{group}'");
        assert_eq!(rig.count(&key).await, 1);
    }
    rig
}

/// Waits until all messages of a group have been polled from now on.
pub async fn polled_again(rig: &mut Harness, group: &str) {
    let now: chrono::DateTime<chrono::Utc> = rig.value("SELECT clock_timestamp()").await;
    let oldest = format!("(SELECT min(known_until) FROM receiptd.latest_receipts WHERE group_id = '{group}')");
    rig.until(&format!("coalesce({oldest} > '{}', false)", now.to_rfc3339())).await;
}

#[tokio::test]
async fn rows_refused_with_any_sqlstate_are_set_aside() {
    let mut rig = rig(&["snapshot", "slot", "call", "milestone", "policy", "deferred", "good"]).await;
    refuse(&rig, "receipt_snapshots", "NEW.group_key = 1 AND NEW.msg_seq = 2", "ZZ001").await;
    refuse(&rig, "poll_slots", "NEW.group_key = 2 AND NEW.last_polled_at IS NOT NULL", "40001").await;
    refuse(&rig, "api_calls", "NEW.group_key = 3", "55P03").await;
    refuse(&rig, "watched_messages", "NEW.group_key = 4 AND NEW.first_read_by IS NOT NULL", "42501").await;
    run(
        &rig,
        "CREATE FUNCTION public.audit() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN INSERT INTO public.missing VALUES (1); RETURN NEW; END $$;
         CREATE TRIGGER audit BEFORE INSERT ON receiptd.receipt_snapshots FOR EACH ROW WHEN (NEW.group_key = 5)
         EXECUTE FUNCTION public.audit();
         CREATE FUNCTION public.at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'later' USING ERRCODE = '57P01'; END $$;
         CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON receiptd.receipt_snapshots DEFERRABLE INITIALLY DEFERRED
         FOR EACH ROW WHEN (NEW.group_key = 6 AND NEW.msg_seq = 1) EXECUTE FUNCTION public.at_commit()",
    )
    .await;
    rig.simulator.world().set_receipt(&group("milestone"), seq(1), Counts::new(1, 499).unwrap());
    rig.start().await;
    rig.until("(SELECT count(DISTINCT group_key) FROM receiptd.set_aside) = 6").await;
    let aside: String = rig
        .value(
            "SELECT string_agg(DISTINCT concat_ws(' ', group_key, sqlstate), ', ' ORDER BY concat_ws(' ', group_key, sqlstate))
             FROM receiptd.set_aside",
        )
        .await;
    assert_eq!(aside, "1 ZZ001, 2 40001, 3 55P03, 4 42501, 5 42P01, 6 57P01");
    for group in ["good", "snapshot", "call", "milestone"] {
        polled_again(&mut rig, group).await;
    }
    let stored: String = rig
        .value(
            "SELECT string_agg(msg_seq::text, ' ' ORDER BY msg_seq)
             FROM (SELECT DISTINCT msg_seq FROM receiptd.receipt_snapshots WHERE group_key IN (1, 6)) s",
        )
        .await;
    assert_eq!(stored, "1 2 3", "only the refused one of each is missing");
    assert_eq!(rig.count("receiptd.receipt_snapshots WHERE (group_key, msg_seq) IN ((1, 2), (6, 1))").await, 0);
    rig.stop().await;
}

#[tokio::test]
async fn refused_slots_hold_up_no_other_group() {
    let mut rig = rig(&["bad", "good"]).await;
    refuse(&rig, "poll_slots", "NEW.group_key = 1", "ZZ001").await;
    rig.start().await;
    polled_again(&mut rig, "good").await;
    assert_eq!(rig.count("receiptd.poll_slots WHERE group_key = 1").await, 0);
    run(&rig, "DROP TRIGGER refuse ON receiptd.poll_slots").await;
    polled_again(&mut rig, "bad").await;
    rig.stop().await;
}

#[tokio::test]
async fn refused_changes_of_groups_hold_up_no_new_message() {
    let mut rig = rig(&["moved", "marked", "probed", "good"]).await;
    rig.start().await;
    for group in ["moved", "marked", "probed", "good"] {
        polled_again(&mut rig, group).await;
    }
    rig.stop().await;
    refuse(&rig, "poll_slots", "NEW.group_key = 1 AND NEW.last_polled_at = OLD.last_polled_at", "P0002").await;
    refuse(
        &rig,
        "watched_groups",
        "NEW.group_id = 'marked' AND NOT NEW.reschedule OR NEW.group_id = 'probed'",
        "ZZ001",
    )
    .await;
    run(
        &rig,
        "ALTER TABLE receiptd.watched_groups DISABLE TRIGGER refuse;
         SELECT receiptd.pause_group(sdk_app_id, group_id), receiptd.resume_group(sdk_app_id, group_id)
         FROM receiptd.watched_groups WHERE group_key <> 3;
         UPDATE receiptd.watched_groups SET state = 'quarantined', state_code = 10007, probe_at = now() WHERE group_key = 3;
         ALTER TABLE receiptd.watched_groups ENABLE TRIGGER refuse",
    )
    .await;
    assert_eq!(rig.count("receiptd.watched_groups WHERE reschedule").await, 4);
    rig.watch("good", 4..=5).await;
    rig.watch("new", 1..=3).await;
    rig.start().await;
    polled_again(&mut rig, "good").await;
    polled_again(&mut rig, "new").await;
    polled_again(&mut rig, "marked").await;
    rig.until("(SELECT string_agg(group_id, ' ' ORDER BY group_id) FROM receiptd.watched_groups WHERE reschedule) = 'marked moved probed'")
        .await;
    run(&rig, "DROP TRIGGER refuse ON receiptd.watched_groups; DROP TRIGGER refuse ON receiptd.poll_slots").await;
    polled_again(&mut rig, "moved").await;
    polled_again(&mut rig, "probed").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_refused_split_holds_up_no_other_slot() {
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.watch("large", 1..=10).await;
    rig.watch("good", 1..=3).await;
    rig.start().await;
    polled_again(&mut rig, "large").await;
    rig.stop().await;
    refuse(&rig, "poll_slots", "NEW.group_key = 1 AND cardinality(NEW.msg_seqs) < 10", "ZZ001").await;
    rig.settings.session.polling.batch_size = 5;
    rig.start().await;
    polled_again(&mut rig, "good").await;
    run(&rig, "DROP TRIGGER refuse ON receiptd.poll_slots").await;
    polled_again(&mut rig, "large").await;
    rig.until("(SELECT count(*) FROM receiptd.poll_slots WHERE group_key = 1) = 2").await;
    rig.stop().await;
}

/// So many of ten members have read a message of the group.
fn set(rig: &Harness, number: i64, read: i64) {
    rig.simulator.world().set_receipt(&group("slot"), seq(number), Counts::new(read, 10 - read).unwrap());
}

/// What is known of the messages of a group: the latest read count, and the sum of the reads in the history.
async fn reads(rig: &Harness, group_key: i32) -> Vec<String> {
    let query = format!(
        "SELECT concat_ws(' ', l.msg_seq, l.read_num, (SELECT sum(reads) FROM receiptd.age_at_read a
            WHERE a.group_key = l.group_key AND a.msg_seq = l.msg_seq))
         FROM receiptd.latest_receipts l WHERE group_key = {group_key} ORDER BY msg_seq"
    );
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&rig.pool).await.unwrap()
}

#[tokio::test]
async fn reads_of_a_refused_slot_are_counted_once() {
    let mut rig = rig(&["slot"]).await;
    (1..=3).for_each(|number| set(&rig, number, 2));
    refuse(&rig, "poll_slots", "NEW.group_key = 1 AND NEW.last_polled_at IS NOT NULL", "ZZ001").await;
    rig.start().await;
    rig.until("(SELECT max(times) FROM receiptd.set_aside) >= 2").await;
    run(&rig, "DROP TRIGGER refuse ON receiptd.poll_slots").await;
    polled_again(&mut rig, "slot").await;
    rig.stop().await;
    assert_eq!(reads(&rig, 1).await, ["1 2 2", "2 2 2", "3 2 2"]);
}

#[tokio::test]
async fn a_message_that_may_not_be_closed_holds_up_no_other_of_its_slot() {
    let mut rig = rig(&["slot"]).await;
    (1..=3).for_each(|number| set(&rig, number, 2));
    refuse(&rig, "watched_messages", "NEW.msg_seq = 1 AND NEW.state = 'all_read'", "ZZ001").await;
    rig.start().await;
    polled_again(&mut rig, "slot").await;
    set(&rig, 1, 10);
    rig.until("EXISTS (SELECT FROM receiptd.set_aside)").await;
    set(&rig, 2, 5);
    rig.until("(SELECT max(times) FROM receiptd.set_aside) >= 3").await;
    let there: Vec<String> = reads(&rig, 1).await;
    rig.stop().await;
    assert_eq!(there, ["1 10 10", "2 5 5", "3 2 2"]);
}

#[tokio::test]
async fn calls_of_a_refused_slot_are_stored_once_if_a_commit_gets_no_answer() {
    let mut rig = rig(&["bad"]).await;
    let proxy = crate::proxy::Proxy::start(&rig.database.url()).await;
    rig.settings.database_url = proxy.url().into();
    refuse(&rig, "poll_slots", "NEW.last_polled_at IS NOT NULL", "ZZ001").await;
    proxy.swallow_the_answer_to_the_next_commit_of("INSERT INTO receiptd.set_aside");
    rig.start().await;
    proxy.has_swallowed().await;
    rig.until("(SELECT max(times) FROM receiptd.set_aside) >= 2").await;
    let twice = "(SELECT called_at FROM receiptd.api_calls GROUP BY called_at HAVING count(*) > 1) twice";
    assert_eq!(rig.count(twice).await, 0);
    rig.stop().await;
}
