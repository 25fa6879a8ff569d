//! Message days: their contents, kept when the snapshots are dropped, and the counts at times in such days.

use chrono::TimeDelta;
use receiptd::{
    daemon::jobs::enforce,
    domain::{Counts, Receipt},
    rules::{retention::Retention, rollup::Stretch},
};

use crate::{
    harness::seq,
    history::{History, at, recording},
};

const DAYS: &str =
    "SELECT msg_seq, to_char(day, 'DD'), reads_gained, reads_lost, reads_found, read_num, unread_num, members, code,
    to_char(first_seen_at, 'HH24:MI'), to_char(last_seen_at, 'HH24:MI') FROM receiptd.message_days ORDER BY 1, 2";

/// Three messages: one that changes on two days, one whose receipt ends on the second, and one that only changes on
/// the first.
async fn history() -> History {
    let history = History::new().await;
    for number in 1..=3 {
        history.message(number, "08:00");
    }
    history.polls(1, &[("08:01", 2, 8), ("09:00", 5, 5), ("12:00", 4, 5)]).await;
    history.polls(2, &[("08:02", 0, 3), ("10:00", 1, 2)]).await;
    history.polls(3, &[("08:03", 1, 1)]).await;
    for (number, minutes, read, unread) in [(1, 1_500, 6, 3), (1, 1_800, 8, 1)] {
        history.poll_at(number, at("00:00") + TimeDelta::minutes(minutes), Some((read, unread))).await;
    }
    history.poll_at(2, at("00:00") + TimeDelta::minutes(1_600), None).await;
    // Otherwise, nothing would be between them and now.
    history.poll_at(1, at("00:00") + TimeDelta::minutes(3_000), Some((9, 0))).await;
    history.poll_at(2, at("00:00") + TimeDelta::minutes(3_000), Some((3, 0))).await;
    history.poll_at(3, at("00:00") + TimeDelta::minutes(3_000), Some((2, 0))).await;
    history
}

const BOTH_DAYS: &str = "1|20|3|1|2|4|5|9|0|08:01|12:00
1|21|4|0|0|8|1|9|0|01:00|06:00
2|20|1|0|0|1|2|3|0|08:02|10:00
2|21|0|0|0|1|2|3|10062|02:40|02:40
3|20|0|0|1|1|1|2|0|08:03|08:03";

async fn drop_snapshots_of_both_days(history: &History) {
    let keep = Retention { snapshots: Some(TimeDelta::days(1)), ..Retention::default() };
    let removed = enforce(&history.store, &keep, "2025-11-23T00:00:00Z".parse().unwrap()).await.unwrap();
    assert!(removed.partitions >= 2, "{removed:?}");
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.receipt_snapshots"), "3");
}

#[tokio::test]
async fn a_message_has_a_row_for_each_whole_day_in_which_it_changed() {
    let history = history().await;
    history.roll_up("23:59").await;
    assert_eq!(history.psql(DAYS), "", "the day is not over");
    roll_up_both_days(&history).await;
    assert_eq!(history.psql(DAYS), BOTH_DAYS);
    drop_snapshots_of_both_days(&history).await;
    let days = history.psql(DAYS);
    assert_eq!(days.lines().filter(|day| !day.contains("|22|")).collect::<Vec<_>>().join("\n"), BOTH_DAYS);
}

async fn roll_up_both_days(history: &History) {
    while history.store.roll_up_next(at("00:00") + TimeDelta::hours(49)).await.unwrap().is_some() {}
}

#[tokio::test]
async fn what_is_stored_late_has_its_day_done_again() {
    let history = history().await;
    roll_up_both_days(&history).await;
    // Marked like the daemon does, so that the flush notes it.
    history.store.mark_rolling_up(at("00:00") + TimeDelta::hours(49)).await.unwrap();
    history.message(4, "07:00");
    history.polls(4, &[("23:30", 3, 4)]).await;
    history.psql(
        "INSERT INTO receiptd.rollup_redo (sdk_app_id, hour) SELECT 1400000000, h
            FROM generate_series('2025-11-20 23:00Z'::timestamptz, '2025-11-21 23:00Z', '1 hour') h",
    );
    for hour in history.store.hours_to_redo().await.unwrap() {
        history.store.roll_up_again(Stretch::of_hour(hour), false).await.unwrap();
    }
    assert_eq!(history.psql(DAYS), format!("{BOTH_DAYS}\n4|20|0|0|3|3|4|7|0|23:30|23:30"));
}

#[tokio::test]
async fn a_write_of_long_ago_has_its_day_done_again_too() {
    let history = History::new().await;
    history.psql(
        "UPDATE receiptd.poller_leases SET rolling_up_until = '2025-12-20 06:30Z';
         INSERT INTO receiptd.watched_messages (group_key, msg_seq) VALUES (1, 1);
         SELECT receiptd.end_under_lease(1400000000, 1, holder, '2025-11-20 04:10Z') FROM (SELECT 'h'::text AS holder) h
         WHERE false",
    );
    history.psql("UPDATE receiptd.poller_leases SET holder = 'h'");
    history.psql(
        "BEGIN; UPDATE receiptd.watched_messages SET sent_at = now();
         SELECT receiptd.end_under_lease(1400000000, 1, 'h', '2025-11-20 04:10Z'); COMMIT",
    );
    let noted = "SELECT string_agg(to_char(hour, 'DD HH24'), ', ' ORDER BY hour) FROM receiptd.rollup_redo WHERE hour < '2025-12-01Z'";
    assert_eq!(history.psql(noted), "20 04, 20 23");
}

#[tokio::test]
async fn days_without_snapshots_bound_the_ages_of_their_reads_as_before() {
    let history = History::new().await;
    let on_the_22nd = at("00:00") + TimeDelta::hours(57);
    // One is polled for the first time on the third day, the other was last known at 23:00 of the second.
    for number in 1..=2 {
        history.message(number, "10:00");
    }
    history.poll_at(1, on_the_22nd, Some((5, 5))).await;
    history.poll_at(2, at("10:01"), Some((0, 10))).await;
    let mut slot = history.slot_of(seq(2)).await;
    slot.messages[0].known_until = Some(at("23:00") + TimeDelta::days(1));
    let read = Receipt { code: 0, counts: Counts::new(5, 5) };
    history.record(vec![recording(slot, on_the_22nd, read)]).await;
    let ages = "SELECT msg_seq, age_at_least, age_at_most, reads FROM receiptd.age_at_read ORDER BY 1";
    let before = history.psql(ages);
    assert_eq!(before, "1|00:00:00|1 day 23:00:00|5\n2|1 day 13:00:00|1 day 23:00:00|5");
    while history.store.roll_up_next(at("00:00") + TimeDelta::hours(73)).await.unwrap().is_some() {}
    let keep = Retention { snapshots: Some(TimeDelta::days(1)), ..Retention::default() };
    enforce(&history.store, &keep, "2025-11-26T00:00:00Z".parse().unwrap()).await.unwrap();
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.receipt_snapshots"), "0");
    assert_eq!(history.psql(ages), before);
}

/// With all polls kept, the last snapshot of a message is a quiet one, whose answer arrived after its attempt was sent.
#[tokio::test]
async fn the_last_day_of_a_message_is_part_of_its_curve() {
    let history = History::new().await;
    history.psql(
        "INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at, state, closed_at, read_num, unread_num,
            receipt_code, first_polled_at, last_changed_at, known_until)
         VALUES (1, 1, '2025-11-20 10:00Z', 'expired', '2025-11-21 20:00:00.2Z', 5, 5, 0, '2025-11-20 10:01Z',
            '2025-11-21 09:00Z', '2025-11-21 20:00Z');
         INSERT INTO receiptd.message_receipts_daily (group_key, day, msg_seq, first_seen_at, last_seen_at, reads_gained,
            reads_lost, reads_found, read_num, unread_num, code) VALUES
         (1, '2025-11-20', 1, '2025-11-20 10:01Z', '2025-11-20 23:00:00.2Z', 0, 0, 2, 2, 8, 0),
         (1, '2025-11-21', 1, '2025-11-21 09:00Z', '2025-11-21 20:00:00.2Z', 3, 0, 0, 5, 5, 0)",
    );
    let curve = "SELECT to_char(at, 'DD HH24:MI'), read_num, is_exact FROM receiptd.receipt_curve('g', 1, '8 hours')";
    assert_eq!(history.psql(curve), "20 10:00||\n20 18:00||f\n21 02:00|2|t\n21 10:00|2|f\n21 18:00|2|f");
}

/// Message, counts, time since which they hold, and whether they are exact.
fn known_at(history: &History, moment: &str) -> String {
    history.psql(&format!(
        "SELECT msg_seq, read_num, unread_num, code, to_char(observed_at, 'DD HH24:MI'), is_exact
         FROM receiptd.receipts_at('{moment}') ORDER BY 1"
    ))
}

#[tokio::test]
async fn moments_in_days_without_snapshots_lose_no_message() {
    let history = history().await;
    roll_up_both_days(&history).await;
    let moments = [
        "2025-11-20 08:01:30Z", // within the changes of the first day of message 1
        "2025-11-20 13:00Z",    // after them
        "2025-11-21 00:30Z",    // before those of the second day
        "2025-11-21 03:00Z",    // within them
        "2025-11-22 12:00Z",    // of a day without dropped snapshots
    ];
    let before = moments.map(|moment| known_at(&history, moment));
    assert!(before.iter().all(|known| !known.contains("|f")), "{before:?}");
    drop_snapshots_of_both_days(&history).await;
    let after = moments.map(|moment| known_at(&history, moment));
    assert_eq!(after[0], "1|||||f", "its counts then are gone, and it is told so");
    assert_eq!([&after[1], &after[2], &after[4]], [&before[1], &before[2], &before[4]]);
    assert_eq!(before[3], "1|6|3|0|21 01:00|t\n2|1|2|10062|21 02:40|t\n3|1|1|0|20 08:03|t");
    assert_eq!(after[3], "1|4|5|0|20 12:00|f\n2|1|2|10062|21 02:40|t\n3|1|1|0|20 08:03|t");
}

const COMPLETE: &str = "SELECT to_char(complete_until, 'DD HH24:MI') FROM receiptd.data_freshness";

#[tokio::test]
async fn a_day_that_is_refused_is_answered_from_its_snapshots() {
    let history = history().await;
    let moments = ["2025-11-20 13:00Z", "2025-11-21 00:30Z", "2025-11-21 03:00Z", "2025-11-22 12:00Z"];
    let before = moments.map(|moment| known_at(&history, moment));
    // Without the first day, messages have a row for the second one or none.
    history.psql("ALTER TABLE receiptd.message_receipts_daily ADD CONSTRAINT no_20 CHECK (day <> '2025-11-20')");
    roll_up_both_days(&history).await;
    assert_eq!(history.psql("SELECT DISTINCT day FROM receiptd.message_days"), "2025-11-21");
    assert_eq!(moments.map(|moment| known_at(&history, moment)), before);
    assert_eq!(history.psql(COMPLETE), "20 23:00");
    history.psql("ALTER TABLE receiptd.message_receipts_daily DROP CONSTRAINT no_20");
    history.psql("UPDATE receiptd.rollup_passed_over SET last_at = last_at - interval '2 hours'");
    history.store.roll_up_passed_over().await.unwrap();
    assert_eq!(history.psql(DAYS), BOTH_DAYS);
    assert_eq!(moments.map(|moment| known_at(&history, moment)), before);
    assert_eq!(history.psql(COMPLETE), "22 01:00");
    history.psql("INSERT INTO receiptd.rollup_redo (sdk_app_id, hour) VALUES (1400000000, '2025-11-21 02:00Z')");
    assert_eq!(history.psql(COMPLETE), "21 02:00", "late data is still to be rolled up");
}

#[tokio::test]
async fn a_curve_tells_what_is_not_kept_from_what_was_not_polled() {
    let history = history().await;
    roll_up_both_days(&history).await;
    let curve = "SELECT to_char(at, 'DD HH24:MI'), read_num, unread_num, is_exact FROM receiptd.receipt_curve('g', 1, '6 hours')";
    let exact = "20 08:00|||\n20 14:00|4|5|t\n20 20:00|4|5|t\n21 02:00|6|3|t\n21 08:00|8|1|t";
    assert!(history.psql(curve).starts_with(exact), "{}", history.psql(curve));
    drop_snapshots_of_both_days(&history).await;
    let kept = "20 08:00|||\n20 14:00|4|5|t\n20 20:00|4|5|t\n21 02:00|4|5|f\n21 08:00|8|1|t";
    assert!(history.psql(curve).starts_with(kept), "{}", history.psql(curve));
    let first_day = "SELECT read_num, is_exact FROM receiptd.receipt_curve('g', 1, '1 hour') ORDER BY at LIMIT 2";
    assert_eq!(history.psql(first_day), "|\n|f");
}

#[tokio::test]
async fn retention_removes_days_but_the_last_before_the_cut() {
    let history = history().await;
    roll_up_both_days(&history).await;
    let cut = at("00:00") + TimeDelta::days(2);
    assert_eq!(history.store.count_message_days(cut).await.unwrap(), 2);
    assert_eq!(history.store.delete_message_days(cut).await.unwrap(), 2);
    assert_eq!(
        history.psql(
            "SELECT string_agg(msg_seq || ' ' || to_char(day, 'DD'), ', ' ORDER BY msg_seq) FROM receiptd.message_days
        GROUP BY ()"
        ),
        "1 21, 2 21, 3 20"
    );
    // It is not needed if its message is gone.
    history.psql("DELETE FROM receiptd.watched_messages WHERE msg_seq = 3");
    assert_eq!(history.store.delete_message_days(cut).await.unwrap(), 1);
}

#[tokio::test]
async fn hours_of_any_zone_hold_the_same_reads() {
    let history = history().await;
    roll_up_both_days(&history).await;
    for (zone, expected) in [
        ("UTC", "20 09:00|3\n20 10:00|1\n21 01:00|2\n21 06:00|2"),
        ("Asia/Kolkata", "20 14:00|3\n20 15:00|1\n21 06:00|2\n21 11:00|2"),
        ("Asia/Kathmandu", "20 14:00|3\n20 15:00|1\n21 06:00|2\n21 11:00|2"),
    ] {
        let hours = format!(
            "SELECT to_char(local_hour, 'DD HH24:MI'), reads_gained FROM receiptd.hourly_reads('{zone}') ORDER BY hour"
        );
        assert_eq!(history.psql(&hours), expected, "{zone}");
    }
    let since = "SELECT to_char(hour, 'HH24:MI'), reads_gained
        FROM receiptd.hourly_reads('Asia/Kolkata', '2025-11-20 09:00Z', '2025-11-21 06:00Z') ORDER BY hour";
    assert_eq!(history.psql(since), "08:30|3\n09:30|1\n00:30|2");
    assert_eq!(
        history.psql(
            "SELECT sum(reads_gained), sum(q) FROM receiptd.group_receipts_hourly, unnest(gained_by_quarter) q
            WHERE reads_gained = 0"
        ),
        "|",
        "without reads nothing is written"
    );
}
