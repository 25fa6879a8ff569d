//! The rows that polls write.

use receiptd::{
    domain::Counts,
    rules::recording::KeepSnapshots,
    simulator::{Fault, FaultRule, When},
};
use sqlx::AssertSqlSafe;

use crate::harness::{Harness, group, seq};

fn set(rig: &Harness, msg_seq: i64, read: i64, unread: i64) {
    rig.simulator.world().set_receipt(&group("g"), seq(msg_seq), Counts::new(read, unread).unwrap());
}

/// The stored history of a message, oldest first, as `read/unread` or the code.
async fn stored(rig: &Harness, group_id: &str, msg_seq: i64) -> Vec<String> {
    let query = format!(
        "SELECT coalesce(read_num || '/' || unread_num, code::text) FROM receiptd.receipt_history
         WHERE group_id = '{group_id}' AND msg_seq = {msg_seq} ORDER BY polled_at"
    );
    sqlx::query_scalar(AssertSqlSafe(query)).fetch_all(&rig.pool).await.unwrap()
}

#[tokio::test]
async fn every_change_is_stored_once_with_its_interval() {
    let mut rig = Harness::stopped(crate::harness::simulator_config()).await;
    set(&rig, 1, 0, 3);
    rig.start().await;
    rig.watch("g", [1, 2]).await;
    rig.until("(SELECT unread_num = 3 FROM receiptd.latest_receipts WHERE msg_seq = 1)").await;
    set(&rig, 1, 1, 2);
    rig.until("(SELECT unread_num = 2 FROM receiptd.latest_receipts WHERE msg_seq = 1)").await;
    rig.until("(SELECT known_until > last_changed_at FROM receiptd.latest_receipts WHERE msg_seq = 1)").await;
    set(&rig, 1, 1, 1);
    rig.until("(SELECT unread_num = 1 FROM receiptd.latest_receipts WHERE msg_seq = 1)").await;
    rig.stop().await;
    assert_eq!(stored(&rig, "g", 1).await, ["0/3", "1/2", "1/1"], "a member has left: the sum may fall");
    let intervals: Vec<bool> = sqlx::query_scalar(
        "SELECT prior_polled_at > coalesce(lag(prior_polled_at) OVER (ORDER BY polled_at), '-infinity')
            AND prior_polled_at < polled_at AND polled_at > lag(polled_at) OVER (ORDER BY polled_at)
         FROM receiptd.receipt_history WHERE msg_seq = 1 ORDER BY polled_at",
    )
    .fetch_all(&rig.pool)
    .await
    .map(|intervals: Vec<Option<bool>>| intervals.into_iter().flatten().collect())
    .unwrap();
    assert_eq!(intervals, [true, true]);
    let counts = "SELECT (prior_read_num, prior_unread_num)
            IS NOT DISTINCT FROM (lag(read_num) OVER polls, lag(unread_num) OVER polls)
        FROM receiptd.receipt_snapshots WHERE msg_seq = 1 WINDOW polls AS (ORDER BY polled_at)";
    let follows: Vec<bool> = sqlx::query_scalar(counts).fetch_all(&rig.pool).await.unwrap();
    assert_eq!(follows, [true, true, true], "each row knows the counts before it");
    assert_eq!(
        rig.count("receiptd.api_calls WHERE due_at IS NULL OR due_at > called_at + interval '1 second'").await,
        0
    );
    let (first, changed): (bool, bool) = sqlx::query_as(
        "SELECT first_polled_at = (SELECT min(polled_at) FROM receiptd.receipt_history WHERE msg_seq = 1),
            last_changed_at = (SELECT max(polled_at) FROM receiptd.receipt_history WHERE msg_seq = 1)
         FROM receiptd.latest_receipts WHERE msg_seq = 1",
    )
    .fetch_one(&rig.pool)
    .await
    .unwrap();
    assert!(first && changed);
}

#[tokio::test]
async fn the_history_holds_exactly_the_answers_of_the_service() {
    let mut config = crate::harness::simulator_config();
    config.world.median_reading_time = std::time::Duration::from_secs(3);
    config.world.no_receipt_share = 0.05;
    let mut rig = Harness::stopped(config).await;
    // Answers with only some messages, and failed attempts, are part of the truth.
    for (fault, n) in
        [(Fault::MissingEntries, 7), (Fault::ErrorCode { code: 10002 }, 11), (Fault::HttpStatus { status: 502 }, 13)]
    {
        rig.simulator.add_fault(FaultRule { fault, when: When::EveryNth { n }, times: None });
    }
    rig.start().await;
    for number in 1..=20 {
        rig.watch(&format!("g{number}"), 1..=number * 3).await;
    }
    rig.simulator.wait_for_ended_calls(200).await;
    rig.stop().await;
    let ledger = rig.simulator.ledger();
    let mut compared = 0;
    for (group_id, msg_seq, receipts) in ledger.all_answers() {
        let answered: Vec<String> = receipts
            .iter()
            .map(|receipt| match receipt.counts {
                Some(counts) => format!("{}/{}", counts.read(), counts.unread()),
                None => receipt.code.to_string(),
            })
            .collect();
        assert_eq!(stored(&rig, group_id.as_str(), i64::from(msg_seq.get())).await, answered, "{group_id} {msg_seq}");
        let latest: String = rig
            .value(&format!(
                "SELECT coalesce(read_num || '/' || unread_num, receipt_code::text) FROM receiptd.latest_receipts
                 WHERE group_id = '{group_id}' AND msg_seq = {msg_seq}"
            ))
            .await;
        assert_eq!(Some(&latest), answered.last(), "{group_id} {msg_seq}");
        compared += answered.len();
    }
    let snapshots = rig.count("receiptd.receipt_snapshots").await;
    assert_eq!(snapshots, i64::try_from(compared).unwrap());
    assert!(compared > 630, "630 messages and their changes: {compared}");
    assert_eq!(rig.count("receiptd.api_calls").await, i64::try_from(ledger.calls()).unwrap(), "one row an attempt");
}

#[tokio::test]
async fn a_message_that_an_answer_leaves_out_is_not_known_by_it() {
    let mut rig = Harness::stopped(crate::harness::simulator_config()).await;
    set(&rig, 1, 0, 3);
    rig.start().await;
    rig.watch("g", [1, 2]).await;
    rig.until("(SELECT count(*) FROM receiptd.latest_receipts WHERE known_until IS NOT NULL) = 2").await;
    rig.fail("g", 1, Fault::MissingEntries, None);
    rig.until("(SELECT bool_or(known_apart IS NOT NULL) FROM receiptd.slot_messages)").await;
    let known: chrono::DateTime<chrono::Utc> =
        rig.value("SELECT known_until FROM receiptd.latest_receipts WHERE msg_seq = 1").await;
    rig.until("(SELECT count(*) FROM receiptd.api_calls WHERE messages_answered = 1) >= 2").await;
    let still: chrono::DateTime<chrono::Utc> =
        rig.value("SELECT known_until FROM receiptd.latest_receipts WHERE msg_seq = 1").await;
    assert_eq!(known, still, "known until the last answer that told of it");
    assert!(rig.value::<bool>("SELECT known_until > (SELECT known_until FROM receiptd.latest_receipts WHERE msg_seq = 1) FROM receiptd.latest_receipts WHERE msg_seq = 2").await);
    set(&rig, 1, 2, 1);
    rig.simulator.clear_faults();
    rig.until("(SELECT unread_num = 1 FROM receiptd.latest_receipts WHERE msg_seq = 1)").await;
    let prior: chrono::DateTime<chrono::Utc> =
        rig.value("SELECT prior_polled_at FROM receiptd.receipt_history WHERE msg_seq = 1 AND read_num = 2").await;
    assert_eq!(prior, known, "the change may have happened at any time since then");
    rig.until("(SELECT known_apart IS NULL FROM receiptd.slot_messages WHERE msg_seq = 1)").await;
}

#[tokio::test]
async fn a_message_that_joins_a_polled_slot_has_no_prior_poll() {
    let mut rig = Harness::new().await;
    rig.watch("g", [1]).await;
    rig.until("(SELECT known_until > first_polled_at FROM receiptd.latest_receipts WHERE msg_seq = 1)").await;
    rig.watch("g", [2]).await;
    rig.until("(SELECT read_num IS NOT NULL FROM receiptd.latest_receipts WHERE msg_seq = 2)").await;
    assert_eq!(rig.count("receiptd.poll_slots").await, 1, "it joined");
    assert_eq!(rig.count("receiptd.receipt_history WHERE msg_seq = 2 AND prior_polled_at IS NULL").await, 1);
}

#[tokio::test]
async fn counts_stay_with_their_message_in_a_slot_that_an_older_one_has_joined() {
    let mut rig = Harness::new().await;
    set(&rig, 2, 1, 5);
    rig.fail("g", 1, Fault::MissingEntries, None);
    rig.watch("g", [2]).await;
    rig.until("(SELECT read_num IS NOT NULL FROM receiptd.latest_receipts WHERE msg_seq = 2)").await;
    rig.watch("g", [1]).await;
    rig.until("(SELECT msg_seqs = '{2,1}' FROM receiptd.poll_slots)").await;
    set(&rig, 2, 2, 4);
    rig.until("(SELECT count(*) FROM receiptd.receipt_snapshots WHERE read_num = 2) = 1").await;
    let latest = "SELECT array_agg(concat_ws('/', msg_seq, receipt_code, read_num, unread_num) ORDER BY msg_seq)
        FROM receiptd.latest_receipts";
    assert_eq!(rig.value::<Vec<String>>(latest).await, ["1", "2/0/2/4"]);
    rig.simulator.clear_faults();
    set(&rig, 1, 3, 3);
    rig.until("(SELECT count(*) FROM receiptd.receipt_snapshots WHERE read_num = 3) = 1").await;
    set(&rig, 2, 4, 2);
    rig.until("(SELECT count(*) FROM receiptd.receipt_snapshots WHERE read_num = 4) = 1").await;
    assert_eq!(rig.value::<Vec<String>>(latest).await, ["1/0/3/3", "2/0/4/2"]);
}

#[tokio::test]
async fn every_poll_is_kept_where_the_config_says_so() {
    let mut rig = Harness::stopped(crate::harness::simulator_config()).await;
    rig.settings.session.snapshots.record = KeepSnapshots::EveryPoll;
    set(&rig, 1, 1, 2);
    rig.start().await;
    rig.watch("g", [1]).await;
    rig.until("(SELECT count(*) FROM receiptd.receipt_snapshots) >= 3").await;
    rig.stop().await;
    let answered = i64::try_from(rig.simulator.ledger().ended_calls()).unwrap();
    assert_eq!(rig.count("receiptd.receipt_snapshots").await, answered);
    assert_eq!(rig.count("receiptd.receipt_snapshots WHERE read_num = 1 AND unread_num = 2").await, answered);
}

#[tokio::test]
async fn a_fully_read_message_closes_after_a_confirming_poll() {
    let mut rig = Harness::stopped(crate::harness::simulator_config()).await;
    set(&rig, 1, 3, 0);
    rig.start().await;
    rig.watch("g", [1]).await;
    rig.until("(SELECT state = 'all_read' FROM receiptd.latest_receipts)").await;
    assert_eq!(rig.simulator.ledger().calls(), 2, "one poll, and one that confirms it");
    let closed: bool =
        rig.value("SELECT closed_at IS NOT NULL AND known_until > last_changed_at FROM receiptd.latest_receipts").await;
    assert!(closed);
    rig.until("(SELECT count(*) FROM receiptd.poll_slots) = 0").await;

    set(&rig, 1, 3, 1);
    rig.watch("g", [1]).await;
    rig.until("(SELECT unread_num = 1 AND state = 'active' FROM receiptd.latest_receipts)").await;
    assert_eq!(stored(&rig, "g", 1).await, ["3/0", "3/1"]);
    let prior: bool = rig.value("SELECT prior_polled_at > lag FROM (SELECT prior_polled_at, lag(polled_at) OVER (ORDER BY polled_at) FROM receiptd.receipt_history) h WHERE lag IS NOT NULL").await;
    assert!(prior, "the poll before is the one that confirmed that all had read it");
}

#[tokio::test]
async fn polled_at_rises_even_after_the_clock_was_ahead() {
    let mut rig = Harness::new().await;
    rig.watch("g", [1]).await;
    rig.until("(SELECT read_num IS NOT NULL FROM receiptd.latest_receipts)").await;
    rig.stop().await;
    // As if the clock had been half a minute ahead until now: times further ahead are corrected.
    for sql in [
        "UPDATE receiptd.receipt_snapshots SET polled_at = polled_at + interval '30 seconds'",
        "UPDATE receiptd.poll_slots SET last_polled_at = last_polled_at + interval '30 seconds', next_poll_at = now()",
        "UPDATE receiptd.poll_slots SET known_until = known_until + interval '30 seconds'",
        "UPDATE receiptd.poll_slots SET first_polled_at = array(SELECT unnest(first_polled_at) + interval '30 seconds')",
    ] {
        sqlx::query(AssertSqlSafe(sql)).execute(&rig.pool).await.unwrap();
    }
    set(&rig, 1, 150, 1);
    rig.start().await;
    rig.until("(SELECT unread_num = 1 FROM receiptd.latest_receipts)").await;
    let rises: bool = rig.value("SELECT polled_at > lag AND prior_polled_at < lag FROM (SELECT polled_at, prior_polled_at, lag(polled_at) OVER (ORDER BY polled_at) FROM receiptd.receipt_snapshots) s WHERE lag IS NOT NULL").await;
    assert!(rises);
    rig.until("(SELECT count(*) FROM receiptd.api_calls) >= 4").await;
}

#[tokio::test]
async fn a_partition_that_is_missing_is_made_on_demand() {
    let mut rig = Harness::new().await;
    for table in ["receipt_snapshots", "api_calls"] {
        let drop = "SELECT format('DROP TABLE %s', inhrelid::regclass) FROM pg_inherits WHERE inhparent = ('receiptd.' || $1)::regclass";
        let drops: Vec<String> = sqlx::query_scalar(drop).bind(table).fetch_all(&rig.pool).await.unwrap();
        assert!(drops.len() >= 9, "they are made a week ahead: {drops:?}");
        for drop in drops {
            sqlx::raw_sql(AssertSqlSafe(drop)).execute(&rig.pool).await.unwrap();
        }
    }
    rig.watch("g", [1]).await;
    rig.until("(SELECT count(*) FROM receiptd.receipt_history) = 1").await;
    assert!(rig.count("receiptd.api_calls").await >= 1);
}

#[tokio::test]
async fn results_during_a_table_lock_are_stored_afterwards() {
    let mut rig = Harness::new().await;
    let mut lock = rig.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE receiptd.receipt_snapshots IN ACCESS EXCLUSIVE MODE").execute(&mut *lock).await.unwrap();
    rig.watch("g", 1..=3).await;
    rig.simulator.wait_for_ended_calls(1).await;
    lock.rollback().await.unwrap();
    rig.until("(SELECT count(*) FROM receiptd.receipt_history) = 3").await;
    rig.stop().await;
    assert_eq!(rig.count("receiptd.api_calls").await, i64::try_from(rig.simulator.ledger().calls()).unwrap());
}
