//! Milestones and read rates of messages.

use chrono::TimeDelta;
use receiptd::{
    domain::{Counts, Receipt},
    rules::rollup::Stretch,
};

use crate::{
    harness::{APP, seq},
    history::{History, at, recording},
};

async fn milestones(history: &History, seq: i64) -> String {
    let time = |column: &str| format!("to_char({column}, 'HH24:MI')");
    let columns: Vec<String> = ["first", "half", "p80", "p90", "all"]
        .iter()
        .map(|name| {
            let (after, by) = (time(&format!("{name}_read_after")), time(&format!("{name}_read_by")));
            format!("coalesce({after}, '-') || '<' || coalesce({by}, '-')")
        })
        .collect();
    let columns = columns.join(" || ' ' || ");
    history.psql(&format!("SELECT {columns} FROM receiptd.message_milestones WHERE msg_seq = {seq}"))
}

/// Its read rates at 15 minutes, an hour and a day.
fn rates(history: &History, seq: i64) -> String {
    history.psql(&format!(
        "SELECT read_rate_15m, read_rate_1h, read_rate_24h FROM receiptd.message_milestones WHERE msg_seq = {seq}"
    ))
}

#[tokio::test]
async fn a_milestone_lies_between_the_polls_before_and_after_it() {
    let history = History::new().await;
    history.message(1, "09:00");
    history
        .polls(
            1,
            &[("09:01", 0, 10), ("09:10", 1, 9), ("09:20", 5, 5), ("09:25", 8, 2), ("09:30", 9, 1), ("09:40", 10, 0)],
        )
        .await;
    history.roll_up("10:00").await;
    assert_eq!(milestones(&history, 1).await, "09:09<09:10 09:19<09:20 09:24<09:25 09:29<09:30 09:39<09:40");
}

#[tokio::test]
async fn nothing_is_known_of_the_time_before_the_first_poll() {
    let history = History::new().await;
    history.message(1, "09:00");
    history.polls(1, &[("09:30", 6, 4), ("09:40", 9, 1)]).await;
    history.roll_up("10:00").await;
    assert_eq!(milestones(&history, 1).await, "-<09:30 -<09:30 09:39<09:40 09:39<09:40 -<-");
}

#[tokio::test]
async fn counts_that_fall_and_rise_again_reach_a_milestone_once() {
    let history = History::new().await;
    history.message(1, "09:00");
    // Members leave and join: 5 of 10, 3 of 8, 4 of 8; then nobody is left who has not read it.
    history.polls(1, &[("09:01", 0, 10), ("09:10", 5, 5), ("09:20", 3, 5), ("09:30", 4, 4), ("09:40", 4, 0)]).await;
    history.roll_up("10:00").await;
    assert_eq!(milestones(&history, 1).await, "09:09<09:10 09:09<09:10 09:39<09:40 09:39<09:40 09:39<09:40");
}

#[tokio::test]
async fn a_group_without_other_members_reaches_nothing() {
    let history = History::new().await;
    history.message(1, "09:00");
    history.polls(1, &[("09:01", 0, 0)]).await;
    history.roll_up("10:00").await;
    assert_eq!(milestones(&history, 1).await, "-<- -<- -<- -<- -<-");
    assert_eq!(rates(&history, 1), "||");
}

#[tokio::test]
async fn read_rates_are_those_of_the_last_observation_until_then() {
    let history = History::new().await;
    history.message(1, "09:00");
    history.polls(1, &[("09:05", 1, 9), ("09:14", 2, 8)]).await;
    assert_eq!(rates(&history, 1), "||", "no age is reached yet");
    history.polls(1, &[("09:16", 3, 7)]).await;
    assert_eq!(rates(&history, 1), "0.2||", "not 0.3, which came a minute later");
    history.polls(1, &[("09:59", 3, 7)]).await;
    assert_eq!(rates(&history, 1), "0.2||");
    history.polls(1, &[("10:00", 3, 7)]).await;
    assert_eq!(rates(&history, 1), "0.2|0.3|", "nothing has changed, and that is known");
    history.polls(1, &[("10:30", 8, 2)]).await;
    assert_eq!(rates(&history, 1), "0.2|0.3|");
    history.message(2, "09:00");
    history.polls(2, &[("09:20", 5, 5), ("10:01", 6, 4)]).await;
    assert_eq!(rates(&history, 2), "|0.5|", "nothing was observed in its first 15 minutes");
}

/// Nobody has read it until half past nine. Then nothing is polled for two days, after which this many of ten have read
/// it.
async fn after_a_gap(read: i64) -> History {
    let history = History::new().await;
    history.message(1, "09:00");
    history.polls(1, &[("09:01", 0, 10), ("09:30", 0, 10)]).await;
    let slot = history.slot_of(seq(1)).await;
    let receipt = Receipt { code: 0, counts: Counts::new(read, 10 - read) };
    history.record(vec![recording(slot, at("09:00") + TimeDelta::days(2), receipt)]).await;
    history
}

#[tokio::test]
async fn the_rate_in_a_gap_is_unknown_unless_nothing_changed() {
    let (changed, unchanged) = tokio::join!(after_a_gap(10), after_a_gap(0));
    assert_eq!(rates(&changed, 1), "0||");
    assert_eq!(rates(&unchanged, 1), "0|0|0");
    let bounds = |age| format!("SELECT read_at_least, read_at_most, members FROM receiptd.read_at_age('{age}')");
    assert_eq!(changed.psql(&bounds("15 minutes")), "0|0|10");
    assert_eq!(changed.psql(&bounds("24 hours")), "0|10|10");
    assert_eq!(changed.psql(&bounds("3 days")), "10|10|10");
    assert_eq!(unchanged.psql(&bounds("24 hours")), "0|0|10");
    assert_eq!(unchanged.psql(&bounds("3 days")), "0|10|10", "nothing was polled since");
    assert_eq!(changed.psql(&bounds("1000 days")), "", "it is not so old");
}

#[tokio::test]
async fn the_last_counts_are_carried_no_further_than_polls_go_on() {
    let history = History::new().await;
    history.message(1, "09:00");
    history.polls(1, &[("09:01", 1, 9), ("10:01", 1, 9)]).await;
    assert_eq!(rates(&history, 1), "0.1|0.1|");
    history.psql("UPDATE receiptd.poll_slots SET next_poll_at = now() + interval '1 minute'");
    assert_eq!(rates(&history, 1), "0.1|0.1|0.1", "the next poll is not due yet");
    history.psql("UPDATE receiptd.poll_slots SET failures = 1");
    assert_eq!(rates(&history, 1), "0.1|0.1|", "it was due, and has failed");
    history.close(1, "removed", "10:02");
    assert_eq!(rates(&history, 1), "0.1|0.1|");
}

#[tokio::test]
async fn an_earlier_sending_time_changes_the_rates_at_ages() {
    for (sent_at, expected) in [("09:00", "0.1|0.5|0.6"), ("09:05", "0.1|0.5|0.6"), ("08:40", "||0.6")] {
        let history = History::new().await;
        history.message(1, "09:00");
        history.polls(1, &[("09:01", 1, 9), ("09:15", 1, 9), ("09:20", 5, 5), ("10:00", 5, 5), ("10:10", 6, 4)]).await;
        history.close(1, "all_read", "10:11");
        assert_eq!(rates(&history, 1), "0.1|0.5|0.6");
        history.psql(&format!("SELECT receiptd.watch_messages({APP}, 'g', '{{1}}', '{}')", at(sent_at)));
        history.close(1, "all_read", "10:12");
        assert_eq!(rates(&history, 1), expected, "{sent_at}");
    }
}

#[tokio::test]
async fn a_share_is_what_arithmetic_says() {
    let history = History::new().await;
    history.message(1, "09:00");
    history.polls(1, &[("09:01", 9, 1), ("09:20", 9, 1)]).await;
    let met = "SELECT read_rate_15m >= 0.9, read_rate_15m = 0.9, read_rate = 0.9
        FROM receiptd.read_speed JOIN receiptd.unread_backlog USING (group_key)";
    assert_eq!(history.psql(met), "t|t|t");
}

#[tokio::test]
async fn rates_of_a_fully_read_message_are_known_without_a_poll() {
    let history = History::new().await;
    history.message(1, "09:00");
    history.polls(1, &[("09:05", 0, 9), ("09:20", 9, 0)]).await;
    history.close(1, "all_read", "09:30");
    assert_eq!(rates(&history, 1), "0|1|1");
    history.psql("UPDATE receiptd.watched_messages SET state = 'removed'");
    assert_eq!(rates(&history, 1), "0||", "of others nobody knows");
    history.psql("UPDATE receiptd.watched_messages SET state = 'all_read', sent_at = now() - interval '2 hours'");
    assert_eq!(rates(&history, 1).split('|').next_back(), Some(""), "a day has not passed");
}

#[tokio::test]
async fn the_read_speed_is_told_as_the_shortest_and_the_longest_time() {
    let history = History::new().await;
    history.message(1, "09:00");
    history.polls(1, &[("09:01", 0, 4), ("09:10", 1, 3), ("09:20", 2, 2)]).await;
    history.roll_up("10:00").await;
    let speed = history.psql(
        "SELECT first_read_at_least, first_read_at_most, half_read_at_least, half_read_at_most, p90_read_at_least,
            p90_read_at_most FROM receiptd.read_speed",
    );
    assert_eq!(speed, "00:09:00|00:10:00|00:19:00|00:20:00||");
}

#[tokio::test]
async fn an_ended_receipt_keeps_its_counts_and_loses_no_reads() {
    let history = History::new().await;
    history.message(1, "09:00");
    history.polls(1, &[("09:01", 0, 10), ("09:10", 4, 6)]).await;
    history.no_receipt(1, "09:40").await;
    let at_the_end = "SELECT read_num, unread_num, code FROM receiptd.receipts_at('2025-11-20 09:50Z')";
    assert_eq!(history.psql(at_the_end), "4|6|10062");
    history.roll_up("11:00").await;
    assert_eq!(history.psql("SELECT read_num, unread_num, receipt_code FROM receiptd.message_milestones"), "4|6|10062");
    assert_eq!(rates(&history, 1), "0.4||");
    let hour = "SELECT reads_gained, reads_lost, unread_backlog FROM receiptd.group_receipts_hourly WHERE hour = '2025-11-20 09:00Z'";
    assert_eq!(history.psql(hour), "4|0|6");
    assert_eq!(
        history
            .psql("SELECT max(read_num) FROM receiptd.receipt_curve('g', 1, '10 minutes') WHERE age >= '40 minutes'"),
        "4"
    );
    // The receipt is back: gains are counted from the last known counts.
    history.polls(1, &[("10:10", 5, 5)]).await;
    assert_eq!(history.psql(at_the_end), "4|6|10062", "as it was known then");
    history.store.roll_up_again(Stretch::of_hour("2025-11-20T10:00:00Z".parse().unwrap()), false).await.unwrap();
    let sum = "SELECT sum(reads_gained - reads_lost + reads_found) FROM receiptd.group_receipts_hourly";
    assert_eq!(history.psql(sum), "5");
}

#[tokio::test]
async fn a_poll_without_a_receipt_is_no_observation_of_zero_reads() {
    let history = History::new().await;
    history.message(1, "09:00");
    history.no_receipt(1, "09:01").await;
    history.polls(1, &[("09:20", 6, 4)]).await;
    history.roll_up("10:00").await;
    assert_eq!(milestones(&history, 1).await, "-<09:20 -<09:20 -<- -<- -<-");
}

#[tokio::test]
async fn polls_without_a_receipt_prove_no_counts_at_an_age() {
    let history = History::new().await;
    for number in 1..=4 {
        history.message(number, "09:00");
    }
    // The receipt ends at 10:00 and is not found again at 10:10.
    history.polls(1, &[("09:01", 0, 10), ("09:10", 5, 5)]).await;
    history.no_receipt(1, "10:00").await;
    history.no_receipt(1, "10:10").await;
    // No receipt at first; five have read it at 09:04.
    history.no_receipt(2, "09:01").await;
    history.no_receipt(2, "09:03").await;
    history.polls(2, &[("09:04", 5, 5)]).await;
    // The receipt is away from 09:30 to 11:00.
    history.polls(3, &[("09:01", 2, 8)]).await;
    history.no_receipt(3, "09:30").await;
    history.no_receipt(3, "10:59").await;
    history.polls(3, &[("11:00", 9, 1)]).await;
    history.polls(4, &[("09:01", 0, 10)]).await;
    history.no_receipt(4, "10:00").await;
    history.no_receipt(4, "10:10").await;
    let bounds = |age: &str| {
        history.psql(&format!(
            "SELECT msg_seq, read_at_least, read_at_most, members FROM receiptd.read_at_age('{age}') ORDER BY 1"
        ))
    };
    assert_eq!(bounds("65 minutes"), "1|5|10|10\n2|5|10|10\n3|2|9|10\n4|0|10|10");
    assert_eq!(bounds("2 minutes"), "1|0|0|10\n2|0|5|10\n3|2|2|10\n4|0|0|10");
    let unread = "SELECT msg_seq, to_char(known_until, 'HH24:MI'), unread_for FROM receiptd.never_read";
    assert_eq!(history.psql(unread), "4|10:00|01:00:00");
}
