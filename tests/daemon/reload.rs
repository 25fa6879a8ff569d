//! The schedule is loaded again only if a write was not answered: in pages, while polls continue.

use crate::{
    harness::{Harness, simulator_config},
    proxy::{Proxy, Sent},
};

const ALL_POLLED: &str = "(SELECT bool_and(known_until IS NOT NULL) FROM receiptd.latest_receipts)";

const G_IS_POLLED: &str =
    "(SELECT count(*) = 3 AND bool_and(known_until IS NOT NULL) FROM receiptd.latest_receipts WHERE group_id = 'g')";

/// A part of the statement by which slotting writes the slots of new messages.
const SLOTTING: &str = "m SET slot_id = u.slot_id, read_num = NULL";

/// A part of the statement that creates slots.
const MAKING: &str = "INSERT INTO receiptd.poll_slots";

/// Parts of the statements that read a page of the schedule, and slots to be polled.
const PAGE: &str = "ORDER BY group_key, slot_id LIMIT";
const SLOTS: &str = "s.quiet_polls, s.failures, g.group_id";

/// A daemon behind a proxy, with this many groups of one message each, polled once a second.
async fn rig(groups: i64) -> (Harness, Proxy) {
    let mut rig = Harness::stopped(simulator_config()).await;
    let proxy = Proxy::start(&rig.database.url()).await;
    rig.settings.database_url = proxy.url().into();
    rig.value::<i64>(&format!(
        "SELECT sum(receiptd.watch_messages(1400000000, 'well' || g, '{{1}}'))::bigint FROM generate_series(1, {groups}) g"
    ))
    .await;
    rig.start().await;
    rig.until(ALL_POLLED).await;
    (rig, proxy)
}

/// Whether statements with these parts were executed, in order.
fn executed(sent: &[Sent], parts: [&'static str; 2]) -> Vec<&'static str> {
    let of = |text: &str| parts.into_iter().find(|part| text.contains(part));
    sent.iter().filter_map(|sent| sent.executed().and_then(of)).collect()
}

#[tokio::test]
async fn a_slot_that_was_made_by_a_commit_without_an_answer_is_polled() {
    let (mut rig, proxy) = rig(2).await;
    proxy.swallow_the_answer_to_the_next_commit_of(SLOTTING);
    rig.watch("g", 1..=3).await;
    proxy.has_swallowed().await;
    rig.until(G_IS_POLLED).await;
    rig.stop().await;
}

#[tokio::test]
async fn slots_split_by_an_unanswered_commit_are_polled() {
    let (mut rig, proxy) = rig(2).await;
    rig.watch("g", 1..=3).await;
    rig.until(G_IS_POLLED).await;
    rig.stop().await;
    rig.settings.session.polling.batch_size = 1;
    proxy.swallow_the_answer_to_the_next_commit_of(MAKING);
    rig.start().await;
    proxy.has_swallowed().await;
    let split: chrono::DateTime<chrono::Utc> = rig.value("SELECT clock_timestamp()").await;
    let split = split.to_rfc3339();
    rig.until(&format!(
        "(SELECT bool_and(known_until > '{split}') FROM receiptd.latest_receipts WHERE group_id = 'g')"
    ))
    .await;
    rig.stop().await;
    let slots = "receiptd.poll_slots JOIN receiptd.watched_groups USING (group_key) WHERE group_id = 'g'";
    assert_eq!(rig.count(slots).await, 3);
}

#[tokio::test]
async fn polls_continue_while_the_schedule_is_loaded_again() {
    let (mut rig, proxy) = rig(100).await;
    // Slots of another app are skipped.
    sqlx::raw_sql(
        "SELECT receiptd.watch_group(77, 'theirs');
         INSERT INTO receiptd.poll_slots (group_key, next_poll_at)
            SELECT group_key, now() FROM generate_series(1, 30000), receiptd.watched_groups WHERE sdk_app_id = 77",
    )
    .execute(&rig.pool)
    .await
    .unwrap();
    proxy.swallow_the_answer_to_the_next_commit_of(SLOTTING);
    rig.watch("g", 1..=3).await;
    proxy.has_swallowed().await;
    proxy.take_sent_in_order();
    // Its slot is the last one of the last page.
    rig.until(G_IS_POLLED).await;
    let sent = executed(&proxy.take_sent_in_order(), [PAGE, SLOTS]);
    rig.stop().await;
    assert_eq!(sent.iter().filter(|part| **part == PAGE).count(), 4, "{sent:?}");
    let pages = sent.iter().skip_while(|part| **part != PAGE);
    let between = pages.collect::<Vec<_>>().split(|part| **part == PAGE).filter(|reads| !reads.is_empty()).count();
    // After the last page slots are read, too.
    assert!(between > 1, "no slot was read for a poll between the pages: {sent:?}");
}

#[tokio::test]
async fn an_answered_error_of_the_slotter_reloads_nothing() {
    let (mut rig, proxy) = rig(2).await;
    proxy.take_sent_in_order();
    sqlx::raw_sql("ALTER TABLE receiptd.watched_messages RENAME TO elsewhere").execute(&rig.pool).await.unwrap();
    proxy.has_refused("42P01").await;
    sqlx::raw_sql("ALTER TABLE receiptd.elsewhere RENAME TO watched_messages").execute(&rig.pool).await.unwrap();
    rig.watch("g", 1..=3).await;
    rig.until(G_IS_POLLED).await;
    let sent = executed(&proxy.take_sent_in_order(), [PAGE, SLOTS]);
    rig.stop().await;
    assert!(sent.contains(&SLOTS) && !sent.contains(&PAGE), "{sent:?}");
}
