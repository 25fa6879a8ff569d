//! Idle hours: they have no row in `group_receipts_hourly`, but the view `hourly_receipts` has them.

use chrono::TimeDelta;
use receiptd::{
    daemon::jobs::enforce,
    rules::{retention::Retention, rollup::Stretch},
};

use crate::history::{History, at};

const ROWS: &str = "SELECT string_agg(to_char(hour, 'HH24'), ' ' ORDER BY hour) FROM receiptd.group_receipts_hourly";
const VIEW: &str =
    "SELECT to_char(hour, 'HH24'), messages_sent, messages_active, reads_gained, unread_backlog, calls, coverage
    FROM receiptd.hourly_receipts ORDER BY hour";

/// One message, observed twice before ten.
async fn observed() -> History {
    let history = History::new().await;
    history.message(1, "08:30");
    history.polls(1, &[("08:31", 2, 8), ("09:10", 5, 5)]).await;
    history.call(1, "08:31", "08:31", "success");
    history.call(1, "09:10", "09:10", "success");
    history.polling_goes_on();
    history
}

#[tokio::test]
async fn an_idle_group_adds_no_rows_and_keeps_its_hours() {
    let history = observed().await;
    history.roll_up("09:30").await;
    assert_eq!(history.psql(VIEW), "08|1|1|0|8|1|1");
    history.roll_up("10:00").await;
    history.roll_up("14:00").await;
    assert_eq!(history.psql(ROWS), "08 09");
    let hours = "08|1|1|0|8|1|1\n09|0|1|3|5|1|1\n10|0|1|0|5|0|1\n11|0|1|0|5|0|1\n12|0|1|0|5|0|1\n13|0|1|0|5|0|1";
    assert_eq!(history.psql(VIEW), hours);
    for hour in ["12:00", "09:00", "10:00"] {
        history.store.roll_up_again(Stretch::of_hour(at(hour)), false).await.unwrap();
    }
    assert_eq!((history.psql(ROWS), history.psql(VIEW)), ("08 09".to_owned(), hours.to_owned()));
    let week = "SELECT messages_sent_7d, reads_7d FROM receiptd.group_engagement";
    assert_eq!(history.psql(week), "1|3");
    history.psql("UPDATE receiptd.group_receipts_hourly SET hour = hour - interval '8 days'");
    assert_eq!(history.psql(week), "0|0", "no row in a week means that nothing happened");
}

#[tokio::test]
async fn a_row_that_comes_later_says_what_was_carried() {
    let history = observed().await;
    history.roll_up("13:00").await;
    // A gap over hours without rows, and a message sent in one of them.
    history.message(2, "11:20");
    history.polls(2, &[("13:30", 1, 3)]).await;
    history.call(1, "10:30", "13:30", "success");
    history.polling_goes_on();
    history.roll_up("15:00").await;
    assert_eq!(history.psql(ROWS), "08 09 10 11 12 13");
    assert_eq!(
        history.psql(VIEW),
        "08|1|1|0|8|1|1\n09|0|1|3|5|1|1\n10|0|1|0|5|0|0.5\n11|1|1|0|5|0|0\n12|0|1|0|5|0|0\n13|0|2|0|8|1|0.5\n14|0|2|0|8|0|1"
    );
}

#[tokio::test]
async fn an_hour_that_is_done_again_changes_no_later_hour() {
    let history = observed().await;
    history.roll_up("14:00").await;
    history.polls(1, &[("11:30", 7, 3)]).await;
    history.store.roll_up_again(Stretch::of_hour(at("11:00")), false).await.unwrap();
    let unread = "SELECT string_agg(unread_backlog::text, ' ' ORDER BY hour) FROM receiptd.hourly_receipts";
    assert_eq!(history.psql(unread), "8 5 5 3 5 5");
    history.store.roll_up_again(Stretch::of_hour(at("12:00")), false).await.unwrap();
    assert_eq!(history.psql(unread), "8 5 5 3 3 5");
}

#[tokio::test]
async fn a_refused_snapshot_leaves_the_hours_after_it_right() {
    let history = observed().await;
    history.polls(1, &[("10:30", 7, 3), ("12:30", 9, 1)]).await;
    history.psql(
        "DELETE FROM receiptd.receipt_snapshots WHERE polled_at = '2025-11-20 10:30Z';
         INSERT INTO receiptd.set_aside (group_key, slot_id, msg_seq, sqlstate, reason, content, first_set_aside_at, set_aside_at)
            VALUES (1, 1, 1, 'P0001', 'a trial', '{}', '2025-11-20 10:30Z', '2025-11-20 10:30Z')",
    );
    history.roll_up("15:00").await;
    let unread = "SELECT string_agg(unread_backlog::text, ' ' ORDER BY hour) FROM receiptd.hourly_receipts";
    assert_eq!(history.psql(unread), "8 5 3 3 1 1 1");
}

#[tokio::test]
async fn hours_end_when_watching_does() {
    let history = observed().await;
    history.close(1, "removed", "10:30");
    history.roll_up("14:00").await;
    assert_eq!(history.psql(VIEW), "08|1|1|0|8|1|1\n09|0|1|3|5|1|1\n10|0|0|0|0|0|1");
}

#[tokio::test]
async fn an_hour_of_a_group_that_was_passed_over_is_not_carried() {
    let history = observed().await;
    history.roll_up("12:00").await;
    history.psql("INSERT INTO receiptd.rollup_passed_over VALUES (1, '2025-11-20 11:00Z', '22003', 'a trial')");
    assert_eq!(history.psql(VIEW), "08|1|1|0|8|1|1\n09|0|1|3|5|1|1\n10|0|1|0|5|0|1");
}

#[tokio::test]
async fn retention_keeps_what_later_hours_carry_on() {
    let history = observed().await;
    history.roll_up("14:00").await;
    let keep = Retention {
        snapshots: None,
        calls: None,
        rollups: Some(TimeDelta::minutes(210)),
        message_days: None,
        readers: None,
    };
    enforce(&history.store, &keep, at("15:00")).await.unwrap();
    assert_eq!(history.psql(ROWS), "12");
    assert_eq!(history.psql(VIEW), "12|0|1|0|5|0|1\n13|0|1|0|5|0|1");
}

#[tokio::test]
async fn questions_by_group_and_by_hour_use_indexes() {
    let history = History::new().await;
    history.psql(
        "SELECT count(receiptd.watch_group(1400000000, 'group ' || n)) FROM generate_series(1, 200) n;
         INSERT INTO receiptd.group_receipts_hourly (group_key, hour, messages_active, unread_backlog, reads_gained)
            SELECT g.group_key, hour, 3, 7, 1 FROM receiptd.watched_groups g,
                generate_series(timestamptz '2025-09-01Z', '2025-11-20Z', '7 hours') hour;
         UPDATE receiptd.poller_leases SET rolled_up_until = '2025-11-20 12:00Z'; ANALYZE",
    );
    let sum = "SELECT sum(reads_gained), sum(unread_backlog), count(*) FROM receiptd.hourly_receipts";
    let day = "hour >= '2025-11-10Z' AND hour < '2025-11-11Z'";
    for (rows, condition) in [
        (24, format!("group_id = 'group 7' AND {day}")),
        (201 * 24, day.to_owned()),
        (201 * 24, format!("sdk_app_id = 1400000000 AND {day}")),
    ] {
        let question = format!("{sum} WHERE {condition}");
        let told = history.psql(&question);
        assert!(told.ends_with(&format!("|{}|{rows}", rows * 7)), "{question}: {told}");
        let plan = history.psql(&format!("EXPLAIN {question}"));
        assert!(!plan.contains("Seq Scan on group_receipts_hourly"), "{question}\n{plan}");
    }
    let plan = history.psql(&format!("EXPLAIN {sum} WHERE reads_gained > 0"));
    assert!(!plan.contains("generate_series"), "hours in which nothing happened need not be looked at\n{plan}");
}
