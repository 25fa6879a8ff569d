//! Locks of other sessions: locked rows are written later, and all others immediately.

use super::*;

/// Another transaction has run `sql` on the group `held` of a daemon that also polls another group, and is still open.
/// By now the first group has a new answer, and the second has been stored again. Also returns where that answer will
/// be stored.
async fn while_somebody_holds(sql: &'static str) -> (Harness, Transaction<'static, Postgres>, String) {
    let mut rig = Harness::new().await;
    rig.watch("held", 1..=3).await;
    rig.watch("free", 1..=3).await;
    rig.until(ALL_POLLED).await;
    let mut read = 400;
    let (open, calls) = loop {
        let mut open = rig.pool.begin().await.unwrap();
        sqlx::query(sql).execute(&mut *open).await.unwrap();
        set_read(&rig, "held", 1, read);
        let calls = rig.simulator.ledger().calls_by_group()[&group("held")];
        // An answer that is not stored by now may never be, and no other call is made before it: then another try.
        let stored = rig
            .count("receiptd.api_calls JOIN receiptd.watched_groups USING (group_key) WHERE group_id = 'held'")
            .await;
        if u64::try_from(stored).unwrap() == calls {
            break (open, calls);
        }
        open.rollback().await.unwrap();
        polled_again(&mut rig, "held").await;
        read += 1;
    };
    rig.simulator.wait_until(move |ledger| ledger.calls_by_group()[&group("held")] > calls).await;
    polled_again(&mut rig, "free").await;
    (rig, open, format!("receiptd.receipt_history WHERE group_id = 'held' AND read_num = {read}"))
}

#[tokio::test]
async fn an_owners_open_transaction_holds_up_only_what_it_touches() {
    let (mut rig, open, answer) = while_somebody_holds(
        "SELECT receiptd.unwatch_group(sdk_app_id, group_id) FROM receiptd.watched_groups WHERE group_id = 'held'",
    )
    .await;
    assert_eq!(rig.count(&answer).await, 0, "it waits for the owner");
    open.rollback().await.unwrap();
    polled_again(&mut rig, "held").await;
    assert_eq!(rig.count(&answer).await, 1, "what was answered meanwhile is stored once");
    rig.stop().await;
}

#[tokio::test]
async fn the_answer_for_a_message_unwatched_meanwhile_is_stored() {
    for unwatch in [
        "SELECT receiptd.unwatch_messages(1400000000, 'held', '{1}')",
        "SELECT receiptd.unwatch_messages(1400000000, 'held')",
        "SELECT receiptd.unwatch_group(1400000000, 'held')",
    ] {
        let (mut rig, open, answer) = while_somebody_holds(unwatch).await;
        open.commit().await.unwrap();
        rig.until(&format!("(SELECT count(*) FROM {answer}) = 1")).await;
        let known = "SELECT l.state = 'removed' AND (l.read_num, l.unread_num, l.last_changed_at) = (h.read_num, h.unread_num, h.polled_at)
                AND l.known_until > h.prior_polled_at
            FROM receiptd.latest_receipts l JOIN receiptd.receipt_history h USING (group_id, msg_seq)
            WHERE group_id = 'held' AND msg_seq = 1 ORDER BY h.polled_at DESC LIMIT 1";
        assert!(rig.value::<bool>(known).await, "{unwatch}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn receipts_of_messages_deleted_meanwhile_are_counted() {
    let metrics = PrometheusBuilder::new().build_recorder();
    let _here = metrics::set_default_local_recorder(&metrics);
    let (mut rig, mut open, answer) =
        while_somebody_holds("SELECT receiptd.unwatch_messages(1400000000, 'held')").await;
    let forget = "DELETE FROM receiptd.watched_messages WHERE state = 'removed'";
    sqlx::query(forget).execute(&mut *open).await.unwrap();
    open.commit().await.unwrap();
    rig.stop().await;
    assert_eq!(rig.count(&answer).await, 0);
    let told = metrics.handle().render();
    assert!(told.contains("\nreceiptd_receipts_dropped_total 3\n"), "{told}");
}

#[tokio::test]
async fn a_message_watched_again_in_its_poll_is_known_in_one_place() {
    let (mut rig, mut open, answer) =
        while_somebody_holds("SELECT receiptd.unwatch_messages(1400000000, 'held')").await;
    sqlx::query("SELECT receiptd.watch_messages(1400000000, 'held', '{1}')").execute(&mut *open).await.unwrap();
    open.commit().await.unwrap();
    rig.until(&format!("(SELECT count(*) FROM {answer}) > 0")).await;
    let known = "(SELECT string_agg(l.state || ' ' || (l.read_num = h.read_num), ', ') FROM receiptd.latest_receipts l, (
            SELECT read_num FROM receiptd.receipt_history WHERE group_id = 'held' AND msg_seq = 1 ORDER BY polled_at DESC LIMIT 1
        ) h WHERE l.group_id = 'held' AND l.msg_seq = 1) = 'active true'";
    rig.until(known).await;
    assert_eq!(rig.count(&answer).await, 1, "it is stored, or the next poll tells the same");
    rig.stop().await;
}

#[tokio::test]
async fn a_locked_message_is_written_later_and_the_rest_at_once() {
    let (mut rig, open, answer) = while_somebody_holds(
        "SELECT FROM receiptd.watched_messages JOIN receiptd.watched_groups USING (group_key) WHERE group_id = 'held' FOR UPDATE",
    )
    .await;
    open.rollback().await.unwrap();
    rig.until(&format!("(SELECT count(*) FROM {answer}) = 1")).await;
    rig.stop().await;
}

/// The slots of a group, and the number of its messages with one.
const SLOTS_OF_HELD: &str =
    "SELECT (SELECT count(*) FROM receiptd.poll_slots WHERE group_key = g.group_key) || ' slots, '
    || (SELECT count(slot_id) FROM receiptd.watched_messages WHERE group_key = g.group_key) || ' messages'
    FROM receiptd.watched_groups g WHERE group_id = 'held'";

#[tokio::test]
async fn new_messages_join_a_locked_slot_later_and_others_at_once() {
    let mut rig = Harness::new().await;
    rig.watch("held", 1..=3).await;
    rig.until(ALL_POLLED).await;
    let mut open = rig.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM receiptd.poll_slots FOR UPDATE").execute(&mut *open).await.unwrap();
    rig.watch("held", 4..=6).await;
    for later in ["one", "another"] {
        rig.watch(later, 1..=3).await;
        polled_again(&mut rig, later).await;
    }
    assert_eq!(rig.value::<String>(SLOTS_OF_HELD).await, "1 slots, 3 messages");
    open.rollback().await.unwrap();
    rig.until(ALL_POLLED).await;
    assert_eq!(rig.value::<String>(SLOTS_OF_HELD).await, "1 slots, 6 messages");
    rig.stop().await;
}

#[tokio::test]
async fn locked_new_messages_get_a_slot_later_and_others_at_once() {
    for hold in [
        "SELECT receiptd.unwatch_messages(1400000000, 'held')",
        "SELECT FROM receiptd.watched_groups WHERE group_id = 'held' FOR UPDATE",
    ] {
        let mut rig = Harness::stopped(simulator_config()).await;
        // More than are assigned to slots in one transaction.
        rig.watch("held", 1..=20_100).await;
        let mut open = rig.pool.begin().await.unwrap();
        sqlx::query(hold).execute(&mut *open).await.unwrap();
        rig.start().await;
        for later in ["one", "another"] {
            rig.watch(later, 1..=3).await;
            polled_again(&mut rig, later).await;
        }
        assert_eq!(rig.value::<String>(SLOTS_OF_HELD).await, "0 slots, 0 messages", "{hold}");
        open.rollback().await.unwrap();
        rig.until("(SELECT count(*) FROM receiptd.watched_messages WHERE slot_id IS NULL) = 0").await;
        assert_eq!(rig.value::<String>(SLOTS_OF_HELD).await, "402 slots, 20100 messages", "{hold}");
        rig.stop().await;
    }
}

#[tokio::test]
async fn a_changed_cadence_moves_free_slots_before_locked_ones() {
    let mut rig = Harness::stopped(simulator_config()).await;
    let hourly = Tier { until: Duration::from_secs(86_400), every: Duration::from_secs(3_600) };
    let cadences = [("default", Cadence::by_age(vec![hourly], true).unwrap()), ("often", every_second())];
    rig.settings.session.cadences =
        Arc::new(Cadences::new(cadences.map(|(name, cadence)| (name.to_owned(), cadence)).into()));
    rig.start().await;
    rig.watch("held", 1..=100).await;
    rig.watch("free", 1..=3).await;
    rig.until(ALL_POLLED).await;
    let mut open = rig.pool.begin().await.unwrap();
    let hold = "SELECT FROM receiptd.poll_slots WHERE slot_id = (SELECT slot_id FROM receiptd.watched_messages
        JOIN receiptd.watched_groups USING (group_key) WHERE group_id = 'held' AND msg_seq = 100) FOR UPDATE";
    sqlx::query(hold).execute(&mut *open).await.unwrap();
    run(&rig, "UPDATE receiptd.watched_groups SET cadence = 'often'").await;
    polled_again(&mut rig, "free").await;
    let early = "(SELECT bool_and(known_until > first_polled_at) FROM receiptd.latest_receipts
        WHERE group_id = 'held' AND msg_seq";
    rig.until(&format!("{early} <= 50)")).await;
    assert!(rig.value::<bool>("SELECT reschedule FROM receiptd.watched_groups WHERE group_id = 'held'").await);
    open.rollback().await.unwrap();
    rig.until(&format!("{early} > 50)")).await;
    rig.until("(SELECT bool_or(reschedule) FROM receiptd.watched_groups) = false").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_locked_group_is_rescheduled_later_and_delays_no_other() {
    let mut rig = Harness::new().await;
    rig.watch("held", 1..=3).await;
    rig.until(ALL_POLLED).await;
    rig.stop().await;
    run(&rig, "UPDATE receiptd.watched_groups SET cadence = 'default'").await;
    let mut open = rig.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM receiptd.watched_groups FOR UPDATE").execute(&mut *open).await.unwrap();
    rig.start().await;
    for later in ["one", "another"] {
        rig.watch(later, 1..=3).await;
        polled_again(&mut rig, later).await;
    }
    open.rollback().await.unwrap();
    rig.until("(SELECT bool_or(reschedule) FROM receiptd.watched_groups) = false").await;
    rig.stop().await;
}

#[tokio::test]
async fn a_merge_of_slots_does_not_wait_for_a_locked_message() {
    let mut rig = Harness::new().await;
    rig.watch("g", 1..=100).await;
    rig.watch("free", [1]).await;
    rig.until(ALL_POLLED).await;
    let mut open = rig.pool.begin().await.unwrap();
    let hold = "SELECT FROM receiptd.watched_messages WHERE msg_seq IN (50, 100) FOR UPDATE";
    sqlx::query(hold).execute(&mut *open).await.unwrap();
    for number in (1..=30).chain(51..=85) {
        rig.simulator.world().set_receipt(&group("g"), seq(number), Counts::new(500, 0).unwrap());
    }
    rig.simulator.wait_until(|ledger| ledger.calls_by_batch_size().contains_key(&35)).await;
    let merged_at: chrono::DateTime<chrono::Utc> = rig.value("SELECT clock_timestamp()").await;
    let polled =
        format!("receiptd.latest_receipts WHERE group_id = 'free' AND known_until > '{}'", merged_at.to_rfc3339());
    while rig.count(&polled).await == 0 {
        let waiting: Option<String> = rig
            .value(
                "SELECT min(query) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%watched_messages%'
                    AND state_change < clock_timestamp() - interval '1 second'",
            )
            .await;
        assert_eq!(waiting, None, "it waits for an owner, who may wait for it");
    }
    assert_eq!(
        rig.count("receiptd.poll_slots JOIN receiptd.watched_groups USING (group_key) WHERE group_id = 'g'").await,
        2
    );
    open.rollback().await.unwrap();
    rig.until("(SELECT count(*) FROM receiptd.poll_slots JOIN receiptd.watched_groups USING (group_key) WHERE group_id = 'g') = 1")
        .await;
    rig.stop().await;
}
