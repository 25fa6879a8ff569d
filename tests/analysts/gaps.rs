//! Gaps: where nothing was observed though it was due, and why.

use crate::history::History;

const GAPS: &str = "SELECT group_key, to_char(gap_from, 'HH24:MI'), to_char(gap_until, 'HH24:MI'), reason, code
    FROM receiptd.poll_gaps ORDER BY group_key, gap_until";
const COVERAGE: &str = "SELECT to_char(hour, 'HH24'), coverage FROM receiptd.hourly_receipts
    WHERE group_key = 1 ORDER BY hour";

#[tokio::test]
async fn a_poll_that_came_late_leaves_a_gap_with_its_reason() {
    let history = History::new().await;
    history.message(1, "08:30");
    history.polls(1, &[("08:31", 0, 9)]).await;
    history.psql("SELECT receiptd.watch_group(1400000000, 'busy'), receiptd.watch_group(1400000000, 'idle')");
    // Group 1 fails for half an hour, while group 2 is polled; then nothing is, for two hours.
    history.call(1, "09:00", "09:00", "success");
    history.call(1, "09:10", "09:10", "retry");
    history.call(1, "09:10", "09:40", "success");
    for time in ["09:05", "09:15", "09:25", "09:35"] {
        history.call(2, time, time, "success");
    }
    history.call(3, "09:12", "09:38", "success");
    history.call(1, "10:00", "12:00", "success");
    // Two slots of a group that were late together are one gap.
    history.call(2, "10:10", "12:01", "success");
    history.call(2, "10:20", "12:02", "success");
    history.roll_up("13:00").await;
    assert_eq!(
        history.psql(GAPS),
        "1|09:10|09:40|retry|10002\n1|10:00|12:00|not_polling|\n2|10:10|12:02|not_polling|\n3|09:12|09:38|waiting|"
    );
    assert_eq!(history.psql(COVERAGE), "08|1\n09|0.5\n10|0\n11|0\n12|1");
}

#[tokio::test]
async fn lateness_of_less_than_a_minute_is_none() {
    let history = History::new().await;
    history.call(1, "09:00", "09:00:59", "success");
    history.roll_up("10:00").await;
    assert_eq!(history.psql(GAPS), "");
    assert_eq!(history.psql(COVERAGE), "09|1");
}

#[tokio::test]
async fn a_gap_that_goes_on_is_told_while_it_does() {
    let history = History::new().await;
    history.psql("SELECT receiptd.watch_messages(1400000000, 'p', ARRAY[1, 2]), receiptd.pause_group(1400000000, 'p')");
    history.psql(
        "WITH slot AS (
            INSERT INTO receiptd.poll_slots (group_key, next_poll_at, last_polled_at)
            VALUES (2, now() + interval '1 hour', now() - interval '1 minute') RETURNING slot_id
         ) UPDATE receiptd.watched_messages SET slot_id = slot.slot_id FROM slot",
    );
    let open =
        "SELECT group_id, gap_until IS NULL, duration > '1 minute', messages, reason FROM receiptd.poll_coverage";
    assert_eq!(history.psql(open), "p|t|t|2|paused");
    history.psql("SELECT receiptd.resume_group(1400000000, 'p')");
    assert_eq!(history.psql(open), "");
    history.psql("UPDATE receiptd.poll_slots SET failures = 3");
    assert_eq!(history.psql(open), "p|t|t|2|failing");
}

const VIEW: &str =
    "SELECT group_id, to_char(gap_from, 'DD HH24:MI'), to_char(gap_until, 'DD HH24:MI'), messages, reason, code
    FROM receiptd.poll_coverage WHERE gap_until IS NOT NULL ORDER BY 1, 2";

#[tokio::test]
async fn a_gap_of_days_has_the_reason_that_its_last_failed_call_told() {
    let history = History::new().await;
    history.psql("SELECT receiptd.watch_group(1400000000, 'busy')");
    // Refused, and probed a last time seven hours before the end; another group is polled meanwhile, and then nobody is.
    history.call(1, "00:10", "03:00", "group_fault");
    history.call(1, "00:10", "10:00", "success");
    history.call(2, "00:30", "00:30", "success");
    history.call(2, "01:30", "01:30", "success");
    history.call(2, "01:40", "10:00", "success");
    history.psql("SELECT receiptd.watch_group(1400000000, 'held up')");
    history.call(3, "00:20", "10:00", "success");
    history.roll_up("11:00").await;
    assert_eq!(
        history.psql(VIEW),
        "busy|20 01:40|20 10:00|50|not_polling|\ng|20 00:10|20 10:00|50|group_fault|10002\nheld up|20 00:20|20 10:00|50|waiting|"
    );
}

#[tokio::test]
async fn a_gap_is_one_wherever_the_roll_up_was_cut() {
    let history = History::new().await;
    history.call(1, "09:00", "11:59:50", "success");
    history.call(1, "09:01", "12:00:10", "success");
    history.call(1, "13:00", "13:30", "success");
    history.roll_up("12:00").await;
    assert_eq!(history.psql(VIEW), "g|20 09:00|20 11:59|50|not_polling|");
    history.roll_up("14:00").await;
    let gaps = "g|20 09:00|20 12:00|100|not_polling|\ng|20 13:00|20 13:30|50|not_polling|";
    assert_eq!(history.psql(VIEW), gaps);
    for hour in ["12:00", "11:00", "09:00"] {
        history.store.roll_up_again(crate::history::at(hour)).await.unwrap();
        assert_eq!(history.psql(VIEW), gaps, "{hour} done again");
    }
}

#[tokio::test]
async fn messages_that_nobody_has_begun_to_poll_are_a_gap() {
    let history = History::new().await;
    history.message(1, "08:30");
    let open = "SELECT group_id, gap_until IS NULL, duration > '1 day', messages, reason FROM receiptd.poll_coverage";
    assert_eq!(history.psql(open), "", "it was watched just now");
    history.psql("UPDATE receiptd.watched_messages SET added_at = now() - interval '2 days'");
    assert_eq!(history.psql(open), "g|t|t|1|waiting");
}

#[tokio::test]
async fn an_hour_of_overload_is_one_gap_and_a_row_an_hour() {
    let (at_once, in_steps) = tokio::join!(History::new(), History::new());
    for history in [&at_once, &in_steps] {
        history.message(1, "08:30");
        history.call(1, "08:31", "08:31", "success");
        // Every five minutes two minutes late; then one in time, and one more that is late.
        for minute in (0..120).step_by(5) {
            let time = |minute: i32| format!("{:02}:{:02}", 9 + (minute + 30) / 60, (minute + 30) % 60);
            history.call(1, &time(minute), &time(minute + 2), "success");
        }
        history.call(1, "11:30", "11:30", "success");
        history.call(1, "11:35", "11:37", "success");
    }
    at_once.roll_up("13:00").await;
    for time in ["09:31", "09:43", "09:58", "10:01", "10:30", "10:59", "11:02", "11:28", "11:36", "12:00", "13:00"] {
        in_steps.roll_up(time).await;
    }
    let rows = "1|09:30|09:57|waiting|\n1|09:57|10:57|waiting|\n1|10:57|11:27|waiting|\n1|11:35|11:37|not_polling|";
    let gaps = "g|20 09:30|20 11:27|50|waiting|\ng|20 11:35|20 11:37|50|not_polling|";
    let coverage = "08|1\n09|0.5\n10|0\n11|0.5166666666666667";
    for history in [&at_once, &in_steps] {
        assert_eq!(history.psql(GAPS), rows);
        assert_eq!(history.psql(VIEW), gaps);
    }
    for hour in ["10:00", "09:00", "11:00", "10:00"] {
        in_steps.store.roll_up_again(crate::history::at(hour)).await.unwrap();
        assert_eq!((in_steps.psql(GAPS), in_steps.psql(VIEW)), (rows.to_owned(), gaps.to_owned()), "{hour} done again");
    }
    for history in [&at_once, &in_steps] {
        assert_eq!(history.psql(COVERAGE), coverage);
    }
}

#[tokio::test]
async fn late_polls_that_are_far_apart_are_gaps_of_their_own() {
    let history = History::new().await;
    history.call(1, "09:00", "09:02", "success");
    history.call(1, "09:18", "09:20", "success");
    history.roll_up("10:00").await;
    assert_eq!(history.psql(VIEW).lines().count(), 2);
}
