//! `latest_receipts` of a group with very many slots, which is read in another way.

use crate::{
    harness::APP,
    history::{History, at},
};

/// A group with messages in all states: polled, without a receipt, not yet polled, closed, and without a slot.
async fn group() -> History {
    let history = History::new().await;
    (1..=4).for_each(|number| history.message(number, "08:30"));
    history.polls(1, &[("08:31", 0, 9), ("08:50", 4, 5)]).await;
    history.poll_at(2, at("08:40"), None).await;
    history.polls(3, &[("08:31", 9, 0)]).await;
    history.close(3, "all_read", "08:51");
    history.psql(&format!(r#"SELECT receiptd.watch_messages({APP}, 'g', ARRAY[1, 4], labels => '{{"arm": "A"}}')"#));
    history
}

#[tokio::test]
async fn a_large_group_has_the_same_latest_receipts() {
    let history = group().await;
    let latest = || history.psql("SELECT l FROM receiptd.latest_receipts l ORDER BY msg_seq");
    let before = latest();
    assert_eq!(before.lines().count(), 4, "{before}");
    history.psql("UPDATE receiptd.watched_groups SET is_large = true");
    assert_eq!(latest(), before);
}

#[tokio::test]
async fn a_message_of_a_large_group_opens_one_slot() {
    let history = group().await;
    history.psql(
        "INSERT INTO receiptd.poll_slots (group_key, next_poll_at) SELECT 1, now() FROM generate_series(1, 20000);
         UPDATE receiptd.watched_groups SET is_large = true; ANALYZE receiptd.poll_slots",
    );
    let plan = history.psql(
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF)
         SELECT read_num FROM receiptd.latest_receipts WHERE group_id = 'g' AND msg_seq = 1",
    );
    let mut of_slots = plan.lines().filter(|line| line.contains(" on poll_slots ") && !line.contains("never executed"));
    assert!(of_slots.all(|line| line.contains("rows=0 ") || line.contains("rows=1 ")), "{plan}");
}
