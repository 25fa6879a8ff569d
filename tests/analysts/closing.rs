//! Closed messages keep their row, including their state, even if they are watched again. Unwatching ends gaps.

use receiptd::{
    domain::{GroupId, Labels},
    import::WatchLine,
    rules::rollup::Stretch,
};

use crate::{
    harness::{APP, seq},
    history::{History, at},
};

const LATEST: &str =
    "SELECT msg_seq, state, read_num, unread_num, known_until, closed_at FROM receiptd.latest_receipts";

async fn closed() -> (History, String) {
    let history = History::new().await;
    history.message(1, "08:30");
    history.polls(1, &[("08:31", 0, 9), ("08:50", 9, 0)]).await;
    history.close(1, "all_read", "08:51");
    let before = history.psql(LATEST);
    history.roll_up("09:00").await;
    (history, before)
}

#[tokio::test]
async fn a_closed_message_stays_as_it_was() {
    let (history, before) = closed().await;
    assert_eq!(history.psql(LATEST), before);
    let group = &history.store.groups(None, None).await.unwrap()[0];
    assert_eq!((group.active, group.closed), (0, 1));
    let told = "SELECT state, to_char(half_read_by, 'HH24:MI') FROM receiptd.message_milestones";
    assert_eq!(history.psql(told), "all_read|08:50");
}

#[tokio::test]
async fn one_that_was_never_polled_is_told_too() {
    let history = History::new().await;
    history.message(1, "08:30");
    history.close(1, "removed", "08:51");
    history.roll_up("09:05").await;
    assert_eq!(history.psql(LATEST), "1|removed||||2025-11-20 08:51:00+00");
}

#[tokio::test]
async fn queries_on_polled_messages_read_no_closed_ones() {
    let history = History::new().await;
    history.psql(
        "INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at, state, closed_at)
            SELECT 1, n, '2025-11-01Z', 'expired', '2025-11-02Z' FROM generate_series(1, 30000) n;
         SELECT receiptd.watch_messages(1400000000, 'g', ARRAY[40001, 40002])",
    );
    history.psql("VACUUM ANALYZE receiptd.watched_messages");
    for question in [
        "SELECT group_key, count(*) FROM receiptd.watched_messages WHERE state = 'active' GROUP BY group_key",
        "SELECT msg_seq FROM receiptd.watched_messages WHERE slot_id IS NULL AND closed_at IS NULL",
        "SELECT msg_seq FROM receiptd.watched_messages WHERE group_key = 1 AND slot_id = 3 AND state = 'active'",
        "SELECT unread_num FROM receiptd.unread_backlog",
        "SELECT count(*) FROM receiptd.message_state WHERE state = 'active' OR closed_at >= '2025-11-20Z'",
    ] {
        let plan = history.psql(&format!("EXPLAIN {question}"));
        let by_index = ["active", "to_slot", "closed"].iter().any(|name| plan.contains(&format!("messages_{name}")));
        let reads_all = ["Seq Scan on watched_messages", "messages_pkey", "messages_by_time"];
        assert!(by_index && !reads_all.iter().any(|all| plan.contains(all)), "{question}\n{plan}");
    }
}

#[tokio::test]
async fn watched_again_it_is_active_once_with_what_is_known_of_it() {
    let (history, _) = closed().await;
    assert_eq!(history.psql("SELECT receiptd.watch_messages(1400000000, 'g', ARRAY[1, 2], '2025-11-20 09:00Z')"), "2");
    let latest =
        history.psql("SELECT msg_seq, state, read_num, last_changed_at FROM receiptd.latest_receipts ORDER BY 1");
    assert_eq!(latest, "1|active|9|2025-11-20 08:50:00+00\n2|active||");
    assert_eq!(history.psql("SELECT state, closed_at FROM receiptd.message_milestones WHERE msg_seq = 1"), "active|");
    assert_eq!(history.psql("SELECT receiptd.watch_messages(1400000000, 'g', ARRAY[1, 2])"), "0");
    history.close(1, "removed", "09:30");
    history.roll_up("10:00").await;
    let kept = history.psql(
        "SELECT state, sent_at, to_char(half_read_by, 'HH24:MI') FROM receiptd.message_milestones WHERE msg_seq = 1",
    );
    assert_eq!(kept, "removed|2025-11-20 08:30:00+00|08:50", "the milestones of its first life stay");
}

#[tokio::test]
async fn a_message_watched_again_keeps_sent_at_and_gets_a_new_age() {
    let watch = "SELECT receiptd.watch_messages(1400000000, 'g', ARRAY[1], '2025-11-20 10:00Z')";
    let times = "SELECT to_char(sent_at, 'HH24:MI'), to_char(aged_from, 'HH24:MI') FROM receiptd.watched_messages";
    let (history, _) = closed().await;
    history.psql(watch);
    assert_eq!(history.psql(times), "08:30|10:00", "at first");
    history.close(1, "removed", "10:30");
    history.psql(watch);
    assert_eq!(history.psql(times), "08:30|10:00", "once more");
    history.psql("UPDATE receiptd.watched_messages SET known_until = '2025-11-20 10:30Z'");
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.receipt_curve('g', 1, '1 hour')"), "3");
    history.close(1, "removed", "10:30");
    history.psql("SELECT receiptd.watch_messages(1400000000, 'g', ARRAY[1], '2025-11-20 08:00Z')");
    assert_eq!(history.psql(times), "08:00|", "said to be older");
}

#[tokio::test]
async fn an_import_brings_it_back_too() {
    let (history, _) = closed().await;
    let group: GroupId = "g".parse().unwrap();
    let lines = [1, 1, 2].map(|number| WatchLine {
        group: group.clone(),
        seq: seq(number),
        sent_at: None,
        labels: Labels::default(),
    });
    assert_eq!(history.store.watch_lines(&lines, at("10:00")).await.unwrap(), 2);
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.watched_messages WHERE state = 'active'"), "2");
    assert_eq!(history.store.watch_lines(&lines, at("10:00")).await.unwrap(), 0);
    assert_eq!(history.store.watch_lines(&[], at("10:00")).await.unwrap(), 0);
}

#[tokio::test]
async fn watching_reads_no_whole_table_despite_plans_for_empty_ones() {
    let history = History::new().await;
    let read = history.psql(
        "SELECT count(receiptd.watch_messages(1400000000, 'group ' || number, ARRAY[1, 2])) FROM generate_series(1, 2000) number;
         SELECT sum(seq_tup_read) < 100000 FROM pg_stat_xact_user_tables WHERE schemaname = 'receiptd'",
    );
    assert_eq!(read, "2000\nt");
}

/// Messages that are closed in some hour. A poll in progress then changed two of them in the next hour.
async fn closed_in_several_hours() -> History {
    let history = History::new().await;
    for seq in 1..=3 {
        history.message(seq, "08:30");
        history.polls(seq, &[("08:31", 0, 9), ("09:20", 2, 7)]).await;
    }
    history.message(4, "09:58");
    history.close(1, "removed", "09:59");
    history.close(4, "removed", "09:59");
    history.psql(
        "INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, prior_polled_at, read_num, unread_num,
            prior_read_num, prior_unread_num, code)
         VALUES (1, 1, '2025-11-20 10:00:02Z', '2025-11-20 09:20Z', 4, 5, 2, 7, 0),
            (1, 4, '2025-11-20 10:00:02Z', NULL, 1, 8, NULL, NULL, 0);
         UPDATE receiptd.watched_messages m SET first_polled_at = coalesce(m.first_polled_at, s.polled_at),
            last_changed_at = s.polled_at, known_until = s.polled_at, read_num = s.read_num, unread_num = s.unread_num
         FROM receiptd.receipt_snapshots s WHERE m.msg_seq = s.msg_seq AND s.polled_at = '2025-11-20 10:00:02Z'",
    );
    history.close(2, "expired", "10:30");
    history.polls(3, &[("11:10", 9, 0)]).await;
    history
}

#[tokio::test]
async fn closed_messages_leave_their_hours_also_while_catching_up() {
    let (at_once, in_steps) = tokio::join!(closed_in_several_hours(), closed_in_several_hours());
    at_once.roll_up("13:00").await;
    for hour in ["09:00", "10:00", "11:00", "12:00", "13:00"] {
        in_steps.roll_up(hour).await;
    }
    let hours =
        "SELECT to_char(hour, 'HH24'), messages_active, unread_backlog FROM receiptd.hourly_receipts ORDER BY 1";
    let expected = "08|3|27\n09|2|14\n10|1|7\n11|1|0\n12|1|0";
    assert_eq!(in_steps.psql(hours), expected, "counted hour by hour");
    assert_eq!(at_once.psql(hours), expected, "hours that follow from the one before");
}

#[tokio::test]
async fn a_gap_ends_when_its_last_messages_are_unwatched() {
    let history = History::new().await;
    for number in 1..=2 {
        history.message(number, "08:30");
        history.polls(number, &[("08:31", 0, 9)]).await;
    }
    history.psql(&format!(
        "UPDATE receiptd.poll_slots SET next_poll_at = '2025-11-20 09:30Z'; SELECT receiptd.pause_group({APP}, 'g')"
    ));
    history.roll_up("12:00").await;
    let coverage = "SELECT to_char(hour, 'HH24'), coverage FROM receiptd.hourly_receipts
        WHERE group_key = 1 AND hour < '2025-11-20 12:00Z' ORDER BY hour";
    assert_eq!(history.psql(coverage), "08|1\n09|0.5\n10|0\n11|0");
    history.psql(&format!("SELECT receiptd.unwatch_messages({APP}, 'g', '{{1}}')"));
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.poll_gaps"), "0", "another message is still overdue");
    history.psql(&format!("SELECT receiptd.unwatch_group({APP}, 'g')"));
    // As if that had been at 12:30.
    let then = "UPDATE receiptd.poll_gaps SET gap_until = '2025-11-20 12:30Z';
        UPDATE receiptd.watched_messages SET closed_at = '2025-11-20 12:30Z'";
    history.psql(then);
    history.roll_up("13:00").await;
    assert_eq!(history.psql(coverage), "08|1\n09|0.5\n10|0\n11|0");
    let gaps = "SELECT to_char(gap_from, 'HH24:MI'), to_char(gap_until, 'HH24:MI'), messages, reason
        FROM receiptd.poll_coverage";
    assert_eq!(history.psql(gaps), "09:30|12:30|1|unwatched");
    history.store.roll_up_again(Stretch::of_hour(at("12:00")), false).await.unwrap();
    assert_eq!(history.psql(gaps), "09:30|12:30|1|unwatched", "a repeated roll-up keeps it");
}
