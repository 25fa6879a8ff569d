//! Somebody edits rows that only the daemon writes: invalid values are removed, no message is lost, and no other slot
//! has to wait.

use sqlx::AssertSqlSafe;

use crate::harness::{Harness, simulator_config};

const ARRAYS: [&str; 11] = [
    "msg_seqs",
    "sent_at",
    "aged_from",
    "first_polled_at",
    "read_num",
    "member_num",
    "code",
    "changed_at",
    "known_apart",
    "no_receipt_polls",
    "refused_since",
];

/// Sets every array of a slot to an expression, in which `@` stands for it, with an element for each message.
fn every_array(value: &str) -> String {
    let spread = |array: &str| format!("(receiptd.spread({array}, cardinality(msg_seqs)))");
    let set = ARRAYS.map(|array| format!("{array} = {}", value.replace('@', &spread(array))));
    set.join(", ")
}

/// Every message is in the slot that its row names, and nothing else is in a slot.
const IS_RIGHT: &str =
    "(SELECT count(*) = 6 AND bool_and(e.slot_id IS NOT NULL AND m.state = 'active' AND isfinite(e.sent_at))
    FROM receiptd.slot_messages e FULL JOIN receiptd.watched_messages m USING (group_key, slot_id, msg_seq))";

/// A stopped daemon that has polled so many messages of group `g`.
async fn polled(messages: i64) -> Harness {
    let mut rig = Harness::new().await;
    rig.watch("g", 1..=messages).await;
    rig.until(&format!("(SELECT count(known_until) = {messages} FROM receiptd.latest_receipts)")).await;
    rig.stop().await;
    rig
}

#[tokio::test]
async fn an_edited_slot_is_repaired_and_polling_continues() {
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.start().await;
    rig.watch("edited", 1..=3).await;
    rig.watch("other", 1..=3).await;
    let without_number = every_array("@ || @[1:1]").replacen("[1:1]", "[9]", 1);
    for edit in [
        &every_array("@ || @[2:2]"),
        &without_number,
        "msg_seqs[2] = 99999999999",
        "sent_at = ARRAY['infinity', now(), now()], changed_at = ARRAY[now(), '-infinity', now()]",
        &every_array("'{}'"),
        &every_array("ARRAY[@]"),
    ] {
        rig.until(IS_RIGHT).await;
        let edited = format!(
            "UPDATE receiptd.poll_slots SET {edit}
             WHERE group_key = (SELECT group_key FROM receiptd.watched_groups WHERE group_id = 'edited')"
        );
        let rows = sqlx::query(AssertSqlSafe(edited)).execute(&rig.pool).await.unwrap().rows_affected();
        let since: chrono::DateTime<chrono::Utc> = rig.value("SELECT clock_timestamp()").await;
        assert_eq!(rows, 1, "{edit}");
        let polled = "SELECT count(*) = 6 AND bool_and(known_until > '{}') FROM receiptd.latest_receipts";
        rig.until(&format!("{IS_RIGHT} AND ({})", polled.replace("{}", &since.to_rfc3339()))).await;
    }
    rig.stop().await;
}

#[tokio::test]
async fn an_edited_slot_that_has_to_be_split_loses_no_message() {
    let mut rig = polled(4).await;
    let without_one = format!("UPDATE receiptd.poll_slots SET {}", every_array("@[1:1] || @[1:1] || @[3:4]"));
    sqlx::query(AssertSqlSafe(without_one)).execute(&rig.pool).await.unwrap();
    rig.settings.session.polling.batch_size = 1;
    rig.start().await;
    rig.until(&IS_RIGHT.replace("= 6", "= 4")).await;
    rig.stop().await;
}

#[tokio::test]
async fn a_message_whose_row_was_deleted_is_watched_anew_once() {
    let mut rig = Harness::new().await;
    rig.watch("g", 1..=3).await;
    rig.until("(SELECT count(known_until) = 3 FROM receiptd.latest_receipts)").await;
    rig.value::<i64>(
        "WITH gone AS (DELETE FROM receiptd.watched_messages WHERE msg_seq = 2 RETURNING 1) SELECT count(*) FROM gone",
    )
    .await;
    assert_eq!(rig.count("receiptd.slot_messages").await, 2, "it has left its slot");
    rig.watch("g", [2]).await;
    rig.until(&IS_RIGHT.replace("= 6", "= 3")).await;
    rig.stop().await;
}

#[tokio::test]
async fn deleting_all_but_one_message_of_a_slot_keeps_its_state() {
    let rig = polled(3).await;
    let counts = "SELECT coalesce(string_agg(concat_ws('/', msg_seq, read_num, unread_num), ' '), 'none') FROM receiptd.latest_receipts WHERE msg_seq = 3";
    let before: String = rig.value(counts).await;
    sqlx::query("DELETE FROM receiptd.watched_messages WHERE msg_seq IN (1, 2)").execute(&rig.pool).await.unwrap();
    assert_eq!(rig.value::<String>(counts).await, before);
}

#[tokio::test]
async fn a_message_left_by_a_delete_is_polled_on() {
    let mut rig = polled(3).await;
    sqlx::query("DELETE FROM receiptd.watched_messages WHERE msg_seq IN (1, 2)").execute(&rig.pool).await.unwrap();
    rig.watch("g", [4]).await;
    // As if it had been polled a moment ago: a new message joins first.
    sqlx::query("UPDATE receiptd.poll_slots SET next_poll_at = now() + interval '5 seconds'")
        .execute(&rig.pool)
        .await
        .unwrap();
    rig.start().await;
    rig.until("(SELECT read_num IS NOT NULL FROM receiptd.latest_receipts WHERE msg_seq = 4)").await;
    let calls = rig.simulator.ledger().calls();
    rig.simulator.wait_for_ended_calls(calls + 3).await;
    let there = "SELECT coalesce(string_agg(msg_seq::text, ' ' ORDER BY msg_seq), 'none') FROM receiptd.slot_messages";
    assert_eq!(rig.value::<String>(there).await, "3 4");
    assert_eq!(rig.count("receiptd.receipt_history WHERE msg_seq = 3").await, 1);
    rig.stop().await;
}

#[tokio::test]
async fn times_that_are_not_finite_are_refused() {
    let rig = Harness::stopped(simulator_config()).await;
    rig.watch("g", [1]).await;
    for edit in [
        "INSERT INTO receiptd.poll_slots (group_key, next_poll_at, last_called_at) VALUES (1, now(), 'infinity')",
        "UPDATE receiptd.watched_messages SET added_at = '-infinity'",
        "UPDATE receiptd.watched_messages SET known_until = 'infinity'",
    ] {
        let error = sqlx::query(edit).execute(&rig.pool).await.unwrap_err().to_string();
        assert!(error.contains("are_finite"), "{error}");
    }
}
