//! Slots: calls are full, nothing is forgotten, and owners' changes take effect at the next poll.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use receiptd::{
    domain::Counts,
    rules::cadence::{Cadence, Cadences, Tier},
    simulator::{Fault, FaultRule, When},
};
use sqlx::AssertSqlSafe;

use crate::harness::{Harness, group, seq, simulator_config};

const ALL_SLOTTED: &str =
    "(SELECT count(*) FROM receiptd.watched_messages WHERE slot_id IS NULL AND state = 'active') = 0";
const ALL_POLLED: &str =
    "(SELECT count(*) FROM receiptd.message_state WHERE first_polled_at IS NULL AND state = 'active') = 0";

async fn slot_sizes(rig: &Harness) -> Vec<i64> {
    sqlx::query_scalar("SELECT count(*) FROM receiptd.watched_messages WHERE slot_id IS NOT NULL GROUP BY group_key, slot_id ORDER BY 1")
        .fetch_all(&rig.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn calls_are_full_where_groups_have_enough_messages() {
    let mut rig = Harness::new().await;
    for number in 1..=40 {
        rig.watch(&format!("g{number}"), 1..=50).await;
    }
    rig.until(ALL_SLOTTED).await;
    rig.until(ALL_POLLED).await;
    let per_call: f64 = rig.value("SELECT avg(messages_asked)::float8 FROM receiptd.api_calls").await;
    assert!(per_call >= 49.0, "{per_call} messages a call");
    assert_eq!(
        rig.simulator.ledger().highest_sliding_second().min(200),
        rig.simulator.ledger().highest_sliding_second()
    );
}

#[tokio::test]
async fn a_group_with_one_message_takes_one_call() {
    let mut rig = Harness::new().await;
    for number in 1..=30 {
        rig.watch(&format!("g{number}"), [7]).await;
    }
    rig.until(ALL_SLOTTED).await;
    rig.until(ALL_POLLED).await;
    rig.stop().await;
    let ledger = rig.simulator.ledger();
    assert_eq!(ledger.calls_by_group().len(), 30);
    assert_eq!(ledger.messages_asked(), ledger.calls());
}

#[tokio::test]
async fn a_group_keeps_its_cadence_while_messages_trickle_in() {
    let mut config = simulator_config();
    let slow = Duration::from_millis(700);
    config.latency = (slow..=slow).into();
    let mut rig = Harness::stopped(config).await;
    let tier = Tier { until: Duration::from_secs(3_600), every: Duration::from_secs(3) };
    let cadence = Cadence::by_age(vec![tier], true).unwrap();
    rig.settings.session.cadences = Arc::new(Cadences::new(BTreeMap::from([("default".to_owned(), cadence)])));
    rig.start().await;
    rig.watch("g", [1]).await;
    for call in 1..=4 {
        rig.simulator.wait_for_calls(call).await;
        // The call is in flight.
        rig.watch("g", [1 + i64::try_from(call).unwrap()]).await;
    }
    rig.until("(SELECT count(*) FROM receiptd.api_calls) >= 4").await;
    let span: f64 = rig
        .value("SELECT extract(epoch FROM max(called_at) - min(called_at))::float8 FROM (SELECT called_at FROM receiptd.api_calls ORDER BY 1 LIMIT 4) c")
        .await;
    assert!(
        span > 5.5,
        "the first poll is followed within an interval and then by one each: {span} s for three intervals"
    );
}

#[tokio::test]
async fn one_poll_at_a_time_is_enough_to_poll_all() {
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.settings.session.polling.max_in_flight = 1;
    rig.start().await;
    for number in 1..=10 {
        rig.watch(&format!("g{number}"), [7]).await;
    }
    rig.until(ALL_SLOTTED).await;
    rig.until(ALL_POLLED).await;
}

#[tokio::test]
async fn new_messages_join_the_newest_slot_of_their_group() {
    let mut rig = Harness::new().await;
    rig.watch("g", 1..=60).await;
    rig.until(ALL_SLOTTED).await;
    assert_eq!(slot_sizes(&rig).await, [10, 50]);
    rig.watch("g", 61..=90).await;
    rig.until(ALL_SLOTTED).await;
    assert_eq!(slot_sizes(&rig).await, [40, 50]);
    rig.until(ALL_POLLED).await;
}

#[tokio::test]
async fn slots_that_have_thinned_out_are_merged_in_a_common_poll() {
    let mut rig = Harness::new().await;
    rig.watch("g", 1..=100).await;
    rig.until(ALL_POLLED).await;
    let everybody = Counts::new(9, 0).unwrap();
    for number in (1..=30).chain(51..=85) {
        rig.simulator.world().set_receipt(&group("g"), seq(number), everybody);
    }
    rig.until("(SELECT count(*) FROM receiptd.poll_slots) = 1").await;
    assert_eq!(slot_sizes(&rig).await, [35]);
    let merged_at: chrono::DateTime<chrono::Utc> = rig.value("SELECT known_until FROM receiptd.poll_slots").await;
    assert_eq!(rig.count("receiptd.latest_receipts WHERE state = 'active' AND known_until IS NULL").await, 0);
    rig.simulator.world().set_receipt(&group("g"), seq(100), Counts::new(8, 1).unwrap());
    rig.until("(SELECT read_num = 8 FROM receiptd.latest_receipts WHERE msg_seq = 100)").await;
    let prior: chrono::DateTime<chrono::Utc> =
        rig.value("SELECT prior_polled_at FROM receiptd.receipt_history WHERE msg_seq = 100 AND read_num = 8").await;
    assert!(prior >= merged_at, "both are known until the same time");
}

#[tokio::test]
async fn a_slot_emptied_in_a_common_poll_leaves_the_other_intact() {
    for (leaving, staying) in [("46,47,48,49,50", 96..=100), ("96,97,98,99,100", 46..=50)] {
        let mut rig = Harness::new().await;
        rig.watch("g", 1..=100).await;
        rig.until(ALL_POLLED).await;
        // The next poll is a common one, and takes long.
        rig.simulator.add_fault(FaultRule {
            fault: Fault::ExtraDelay { duration: Duration::from_millis(250) },
            when: When::Group { group_id: group("g") },
            times: None,
        });
        let thin = "SELECT receiptd.unwatch_messages(1400000000, 'g', array(SELECT s FROM generate_series(1::bigint, 100) s WHERE (s - 1) % 50 < 45))";
        rig.value::<i64>(thin).await;
        rig.simulator.wait_until(|ledger| ledger.calls_by_batch_size().contains_key(&10)).await;
        rig.value::<i64>(&format!("SELECT receiptd.unwatch_messages(1400000000, 'g', '{{{leaving}}}')")).await;
        rig.simulator.clear_faults();
        let left_at: chrono::DateTime<chrono::Utc> = rig.value("SELECT clock_timestamp()").await;
        rig.until(&format!(
            "(SELECT min(known_until) > '{}' FROM receiptd.latest_receipts WHERE state = 'active')",
            (left_at + chrono::TimeDelta::seconds(2)).to_rfc3339()
        ))
        .await;
        let active: Vec<i64> =
            sqlx::query_scalar("SELECT msg_seq FROM receiptd.watched_messages WHERE state = 'active' ORDER BY 1")
                .fetch_all(&rig.pool)
                .await
                .unwrap();
        assert_eq!(active, staying.collect::<Vec<i64>>());
        rig.stop().await;
    }
}

#[tokio::test]
async fn slots_due_for_a_merge_are_polled_after_a_database_failure() {
    let mut rig = Harness::new().await;
    for number in 1..=10 {
        rig.watch(&format!("g{number}"), 1..=100).await;
    }
    rig.until(ALL_POLLED).await;
    rig.stop().await;
    // In each group two slots have become thin. One is due immediately and one in an hour, and that of the last group
    // can't be read: when it is claimed for a merge, others have been.
    let spoilt = "SELECT FROM public.slots WHERE slot_id = reading AND next_poll_at > now() + interval '1 minute'
        AND group_key = (SELECT max(group_key) FROM public.slots)";
    for sql in [
        "SELECT receiptd.unwatch_messages(sdk_app_id, group_id, array(SELECT s FROM generate_series(1::bigint, 100) s
            WHERE (s - 1) % 50 >= 5)) FROM receiptd.watched_groups",
        "UPDATE receiptd.poll_slots SET next_poll_at = now()",
        "UPDATE receiptd.poll_slots s SET next_poll_at = now() + interval '1 hour'
         WHERE slot_id = (SELECT max(slot_id) FROM receiptd.poll_slots o WHERE o.group_key = s.group_key)",
        "ALTER TABLE receiptd.poll_slots SET SCHEMA public; ALTER TABLE public.poll_slots RENAME TO slots",
        &format!(
            "CREATE SEQUENCE public.spoilt;
             CREATE FUNCTION public.can_be_read(reading bigint) RETURNS boolean LANGUAGE plpgsql AS $$
             BEGIN
                IF current_query() LIKE '%s.known_apart%FROM unnest%watched_groups g%' AND EXISTS ({spoilt}) THEN
                    PERFORM nextval('public.spoilt');
                    RAISE EXCEPTION 'slot % can not be read', reading;
                END IF;
                RETURN true;
             END $$;
             CREATE VIEW receiptd.poll_slots AS SELECT * FROM public.slots WHERE public.can_be_read(slot_id)"
        ),
    ] {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&rig.pool).await.unwrap();
    }
    rig.start().await;
    while rig.value::<i64>("SELECT last_value FROM public.spoilt").await < 3 {
        tokio::task::yield_now().await;
    }
    let mend = "DROP VIEW receiptd.poll_slots; ALTER TABLE public.slots RENAME TO poll_slots;
        ALTER TABLE public.poll_slots SET SCHEMA receiptd";
    sqlx::raw_sql(mend).execute(&rig.pool).await.unwrap();
    let mended: chrono::DateTime<chrono::Utc> = rig.value("SELECT clock_timestamp()").await;
    let all_again = format!(
        "(SELECT min(known_until) > '{}' FROM receiptd.latest_receipts WHERE state = 'active')",
        mended.to_rfc3339()
    );
    rig.until(&all_again).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_smaller_batch_splits_slots_and_a_larger_one_fills_them() {
    let mut rig = Harness::new().await;
    rig.watch("g", 1..=50).await;
    rig.until(ALL_POLLED).await;
    rig.stop().await;
    rig.settings.session.polling.batch_size = 20;
    let before = rig.simulator.ledger().calls_by_batch_size().clone();
    rig.start().await;
    rig.until("(SELECT count(*) FROM receiptd.poll_slots WHERE last_polled_at IS NOT NULL) = 3").await;
    assert_eq!(slot_sizes(&rig).await, [10, 20, 20]);
    rig.until("(SELECT min(known_until) > (SELECT max(polled_at) FROM receiptd.receipt_snapshots) FROM receiptd.latest_receipts)").await;
    rig.stop().await;
    let asked = rig.simulator.ledger();
    let large = asked.calls_by_batch_size().get(&50).copied();
    assert_eq!(large, before.get(&50).copied(), "no call asked for more than the batch size");
    rig.settings.session.polling.batch_size = 50;
    rig.start().await;
    rig.watch("g", 51..=52).await;
    rig.until("(SELECT count(*) FROM receiptd.poll_slots) < 3").await;
    rig.until(ALL_POLLED).await;
    assert_eq!(slot_sizes(&rig).await.iter().sum::<i64>(), 52);
}

#[tokio::test]
async fn a_locked_slot_is_split_later_and_holds_up_no_other() {
    let of_held = |what: &str, which: &str| {
        format!(
            "SELECT FROM receiptd.{what} JOIN receiptd.watched_groups USING (group_key) WHERE group_id = 'held' {which}
                FOR UPDATE OF {what}"
        )
    };
    for hold in
        [of_held("poll_slots", ""), of_held("watched_messages", "AND msg_seq = 50"), of_held("watched_messages", "")]
    {
        let mut rig = Harness::new().await;
        rig.watch("held", 1..=50).await;
        rig.watch("free", 1..=50).await;
        rig.until(ALL_POLLED).await;
        rig.stop().await;
        rig.settings.session.polling.batch_size = 20;
        let calls = rig.simulator.ledger().calls();
        let mut open = rig.pool.begin().await.unwrap();
        sqlx::query(AssertSqlSafe(hold)).execute(&mut *open).await.unwrap();
        rig.start().await;
        let started: chrono::DateTime<chrono::Utc> = rig.value("SELECT clock_timestamp()").await;
        let since = |seconds| (started + chrono::TimeDelta::seconds(seconds)).to_rfc3339();
        let polled = |group: &str, seconds| {
            let since = since(seconds);
            format!("(SELECT min(known_until) > '{since}' FROM receiptd.latest_receipts WHERE group_id LIKE '{group}')")
        };
        rig.until(&polled("free", 3)).await;
        assert_eq!(rig.value::<Option<bool>>(&format!("SELECT {}", polled("held", 0))).await, Some(false));
        open.rollback().await.unwrap();
        rig.until(&polled("%", 3)).await;
        assert!(slot_sizes(&rig).await.iter().all(|messages| *messages <= 20));
        rig.stop().await;
        let asked = rig.simulator.ledger().calls_by_batch_size().clone();
        assert!(asked.range(21..).map(|(_, calls)| calls).sum::<u64>() <= calls, "{asked:?}");
    }
}

#[tokio::test]
async fn a_paused_group_is_not_polled_until_it_is_resumed() {
    let mut rig = Harness::new().await;
    rig.watch("g", 1..=3).await;
    rig.watch("other", 1..=3).await;
    rig.until(ALL_POLLED).await;
    assert!(rig.value::<bool>("SELECT receiptd.pause_group(1400000000, 'g')").await);
    // Slots read before the pause may still be in flight: a later poll of the other group shows that they have ended.
    let paused_at: chrono::DateTime<chrono::Utc> = rig.value("SELECT clock_timestamp()").await;
    let polled_since = format!("(SELECT max(last_polled_at) FROM receiptd.poll_slots) > '{}'", paused_at.to_rfc3339());
    rig.until(&polled_since).await;
    let calls = |rig: &Harness, id: &str| rig.simulator.ledger().calls_by_group().get(&group(id)).copied().unwrap_or(0);
    let (paused, other) = (calls(&rig, "g"), calls(&rig, "other"));
    rig.simulator.wait_until(|ledger| ledger.calls_by_group()[&group("other")] >= other + 3).await;
    assert!(calls(&rig, "g") <= paused + 1, "{} calls after the pause", calls(&rig, "g") - paused);
    let paused = calls(&rig, "g");
    assert!(rig.value::<bool>("SELECT receiptd.resume_group(1400000000, 'g')").await);
    rig.simulator.wait_until(|ledger| ledger.calls_by_group()[&group("g")] >= paused + 2).await;
}

#[tokio::test]
async fn removed_messages_are_polled_no_more_and_their_history_stays() {
    let mut rig = Harness::new().await;
    rig.watch("g", 1..=3).await;
    rig.until(ALL_POLLED).await;
    assert_eq!(rig.value::<i64>("SELECT receiptd.unwatch_messages(1400000000, 'g', '{2,3,99}')").await, 2);
    let calls = rig.simulator.ledger().calls();
    rig.simulator.wait_for_ended_calls(calls + 3).await;
    rig.until("(SELECT count(*) FROM receiptd.api_calls WHERE messages_asked = 1) >= 2").await;
    assert_eq!(
        rig.count(
            "receiptd.latest_receipts WHERE state = 'removed' AND known_until IS NOT NULL AND closed_at IS NOT NULL"
        )
        .await,
        2
    );
    assert_eq!(rig.value::<i64>("SELECT receiptd.unwatch_group(1400000000, 'g')").await, 1);
    rig.until("(SELECT count(*) FROM receiptd.poll_slots) = 0").await;
    assert_eq!(rig.count("receiptd.receipt_history").await, 3);
}

#[tokio::test]
async fn a_slot_that_its_owner_emptied_goes() {
    let mut rig = Harness::new().await;
    rig.watch("g", 1..=3).await;
    rig.until(ALL_POLLED).await;
    rig.value::<i64>("SELECT receiptd.unwatch_messages(1400000000, 'g')").await;
    rig.until("(SELECT count(*) FROM receiptd.poll_slots) = 0").await;
    rig.watch("g", 4..=6).await;
    rig.until(ALL_POLLED).await;
}

#[tokio::test]
async fn an_emptied_slot_goes_even_if_its_group_is_not_polled() {
    let mut rig = Harness::new().await;
    for stop in [
        "SELECT receiptd.pause_group(1400000000, 'g')",
        "UPDATE receiptd.watched_groups SET state = 'quarantined', probe_at = now() + interval '1 day' WHERE group_id = 'g' RETURNING true",
    ] {
        rig.watch("g", 1..=3).await;
        rig.until(ALL_POLLED).await;
        assert!(rig.value::<bool>(stop).await, "{stop}");
        rig.until("NOT EXISTS (SELECT FROM receiptd.watched_groups WHERE reschedule)").await;
        // By now a poll has found that the group must not be polled.
        let calls = "SELECT count(*) FROM receiptd.api_calls";
        rig.watch("other", 1..=3).await;
        let before = rig.value::<i64>(calls).await;
        rig.until(&format!("({calls}) >= {before} + 4")).await;
        rig.value::<i64>("SELECT receiptd.unwatch_messages(1400000000, 'g')").await;
        rig.value::<i64>("SELECT receiptd.unwatch_group(1400000000, 'other')").await;
        rig.until("(SELECT count(*) FROM receiptd.poll_slots) = 0").await;
        rig.value::<i64>("SELECT receiptd.unwatch_group(1400000000, 'g')").await;
    }
}

#[tokio::test]
async fn groups_of_another_app_are_left_alone() {
    let mut rig = Harness::new().await;
    rig.value::<i64>("SELECT receiptd.watch_messages(77, 'g', '{1,2,3}')").await;
    rig.watch("g", 1..=3).await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE known_until > first_polled_at) = 3").await;
    assert_eq!(rig.count("receiptd.latest_receipts WHERE sdk_app_id = 77 AND known_until IS NOT NULL").await, 0);
}

#[tokio::test]
async fn a_restart_polls_on_and_forgets_nothing() {
    let mut rig = Harness::new().await;
    for number in 1..=10 {
        rig.watch(&format!("g{number}"), 1..=70).await;
    }
    rig.until(ALL_POLLED).await;
    rig.stop().await;
    rig.watch("new", 1..=5).await;
    rig.start().await;
    let restarted: chrono::DateTime<chrono::Utc> = rig.value("SELECT clock_timestamp()").await;
    rig.until(ALL_POLLED).await;
    let all_again = format!("(SELECT min(known_until) FROM receiptd.latest_receipts) > '{}'", restarted.to_rfc3339());
    rig.until(&all_again).await;
    assert_eq!(rig.count("receiptd.poll_slots").await, 21);
}

#[tokio::test]
async fn no_second_of_full_load_exceeds_the_limit() {
    let mut config = simulator_config();
    config.calls_per_second = 40;
    config.latency = (Duration::from_millis(1)..=Duration::from_millis(40)).into();
    let mut rig = Harness::stopped(config).await;
    rig.settings.session.polling.max_calls_per_second = 40;
    rig.start().await;
    for number in 1..=200 {
        rig.watch(&format!("g{number}"), [1]).await;
    }
    rig.simulator.wait_for_ended_calls(160).await;
    let ledger = rig.simulator.ledger();
    assert!(ledger.highest_sliding_second() <= 40, "{}", ledger.highest_sliding_second());
    assert!(ledger.errors_by_code().is_empty(), "{:?}", ledger.errors_by_code());
}
