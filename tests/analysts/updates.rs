//! The times of change of messages, groups and hours: a client that copies changes misses nothing.

use chrono::TimeDelta;
use receiptd::{
    clock,
    domain::{Counts, Receipt},
    rules::rollup::Stretch,
};

use crate::{
    harness::{APP, seq},
    history::{History, at, recording},
};

/// As if nothing had changed for a day.
fn rest(history: &History) {
    history.psql(
        "UPDATE receiptd.watched_messages SET updated_at = now() - interval '1 day';
         ALTER TABLE receiptd.watched_groups DISABLE TRIGGER note_update;
         UPDATE receiptd.watched_groups SET updated_at = now() - interval '1 day';
         ALTER TABLE receiptd.watched_groups ENABLE TRIGGER note_update;
         ALTER TABLE receiptd.group_receipts_hourly DISABLE TRIGGER note_update;
         UPDATE receiptd.group_receipts_hourly SET updated_at = now() - interval '1 day';
         ALTER TABLE receiptd.group_receipts_hourly ENABLE TRIGGER note_update",
    );
}

/// The messages that have changed within the last hour. After this, everything rests.
fn changed(history: &History) -> String {
    let since = "now() - interval '1 hour'";
    let by_function = history.psql(&format!(
        "SELECT coalesce(string_agg(msg_seq::text, ' ' ORDER BY msg_seq), '') FROM receiptd.messages_since({since})"
    ));
    let by_filter = history.psql(&format!(
        "SELECT coalesce(string_agg(msg_seq::text, ' ' ORDER BY msg_seq), '') FROM receiptd.messages WHERE updated_at >= {since}"
    ));
    assert_eq!(by_function, by_filter);
    rest(history);
    by_function
}

async fn poll(history: &History, number: i64, polled_at: chrono::DateTime<chrono::Utc>, read: i64) {
    let receipt = Receipt { code: 0, counts: Counts::new(read, 9 - read) };
    history.record(vec![recording(history.slot_of(seq(number)).await, polled_at, receipt)]).await;
}

#[tokio::test]
async fn quiet_polls_are_no_change_of_a_message() {
    let history = History::new().await;
    history.psql(
        "SELECT receiptd.ensure_partition(t, (now() AT TIME ZONE 'UTC')::date + n)
        FROM unnest(ARRAY['receipt_snapshots', 'api_calls']) t, generate_series(-1, 1) n",
    );
    let sent = clock::now() - TimeDelta::days(20);
    for number in [1, 2, 3] {
        history.psql(&format!(
            "INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at) VALUES (1, {number}, '{sent}')"
        ));
    }
    assert_eq!(changed(&history), "1 2 3", "they are new");
    poll(&history, 1, clock::now(), 1).await;
    let row = "SELECT updated_at < now() - interval '1 hour' FROM receiptd.watched_messages WHERE msg_seq = 1";
    assert_eq!(history.psql(row), "t", "a poll writes nothing that is indexed");
    assert_eq!(changed(&history), "1");
    history
        .psql("UPDATE receiptd.poll_slots SET changed_at = ARRAY[now() - interval '2 hours'] WHERE read_num = '{1}'");
    poll(&history, 1, clock::now(), 1).await;
    assert_eq!(changed(&history), "", "it saw the same");
    history.psql(&format!(r#"SELECT receiptd.watch_messages({APP}, 'g', ARRAY[3], labels => '{{"arm": "A"}}')"#));
    assert_eq!(changed(&history), "3");
    history.psql(&format!(r#"SELECT receiptd.watch_messages({APP}, 'g', ARRAY[3], labels => '{{"arm": "A"}}')"#));
    assert_eq!(changed(&history), "", "it has that label");
    history.psql(&format!("SELECT receiptd.unwatch_messages({APP}, 'g', ARRAY[2])"));
    assert_eq!(changed(&history), "2");
    history.psql(&format!("SELECT receiptd.watch_messages({APP}, 'g', ARRAY[2])"));
    assert_eq!(changed(&history), "2");
}

#[tokio::test]
async fn late_rows_count_as_changed_when_they_are_stored() {
    let history = History::new().await;
    history.message(1, "09:00");
    history.message(2, "09:00");
    rest(&history);
    poll(&history, 1, at("09:05"), 2).await;
    assert_eq!(changed(&history), "1");
}

#[tokio::test]
async fn a_rate_that_becomes_known_is_a_change() {
    let history = History::new().await;
    history.message(1, "09:00");
    poll(&history, 1, at("09:05"), 2).await;
    // An hour old five minutes ago, and still polled.
    history.psql(
        "UPDATE receiptd.watched_messages SET sent_at = now() - interval '65 minutes';
         UPDATE receiptd.poll_slots SET known_until = now(), changed_at = ARRAY[now() - interval '61 minutes'],
            next_poll_at = now() + interval '1 minute'",
    );
    rest(&history);
    assert_eq!(history.psql("SELECT read_1h, updated_at = sent_at + interval '1 hour' FROM receiptd.messages"), "2|t");
    assert_eq!(changed(&history), "1");

    // Its ages are in a gap: the poll after it proves them, and the roll-up that finds the gap notes the change.
    let history = History::new().await;
    history.message(1, "09:00");
    poll(&history, 1, at("09:05"), 2).await;
    poll(&history, 1, at("11:00"), 2).await;
    rest(&history);
    history.call(1, "09:06", "11:00", "success");
    history.roll_up("11:10").await;
    assert_eq!(history.psql("SELECT read_15m, read_1h FROM receiptd.messages"), "2|2");
    assert_eq!(changed(&history), "1");

    // Gaps of other groups later in the hour change nothing about it.
    rest(&history);
    history.psql(
        "SELECT receiptd.watch_group(1400000000, 'other');
         UPDATE receiptd.poll_gaps SET updated_at = now() - interval '1 day'",
    );
    history.call(2, "11:12", "11:15", "success");
    history.roll_up("11:20").await;
    assert_eq!(changed(&history), "");
    let gaps =
        "SELECT string_agg(group_key::text, ' ') FROM receiptd.poll_gaps WHERE updated_at >= now() - interval '1 hour'";
    assert_eq!(history.psql(gaps), "2");
}

#[tokio::test]
async fn groups_and_hours_say_when_they_changed() {
    let history = History::new().await;
    history.message(1, "08:30");
    history.polls(1, &[("08:31", 0, 9), ("09:10", 2, 7)]).await;
    history.roll_up("11:00").await;
    rest(&history);
    let groups = "SELECT count(*) FROM receiptd.groups WHERE updated_at >= now() - interval '1 hour'";
    let hours =
        "SELECT coalesce(string_agg(to_char(hour, 'HH24'), ' ' ORDER BY hour), '') FROM receiptd.hourly_receipts
        WHERE updated_at >= now() - interval '1 hour'";
    assert_eq!((history.psql(groups).as_str(), history.psql(hours).as_str()), ("0", ""));
    history.store.roll_up_again(Stretch::of_hour(at("09:00")), false).await.unwrap();
    assert_eq!(history.psql(hours), "", "it came to the same");
    history.polls(1, &[("09:40", 3, 6)]).await;
    history.store.roll_up_again(Stretch::of_hour(at("09:00")), false).await.unwrap();
    assert_eq!(history.psql(hours), "09 10", "the hour after it ends with the same counts");
    history.psql("SELECT receiptd.pause_group(1400000000, 'g')");
    assert_eq!(history.psql(groups), "1");
    rest(&history);
    history.psql("UPDATE receiptd.watched_groups SET probe_at = NULL, reschedule = false");
    assert_eq!(history.psql(groups), "0", "that is the daemon's own affair");
}

#[tokio::test]
async fn days_and_gaps_say_when_they_changed() {
    let history = History::new().await;
    for number in [1, 2] {
        history.message(number, "08:30");
        history.polls(number, &[("08:31", 0, 9), ("11:00", 2, 7)]).await;
    }
    history.call(1, "09:00", "11:00", "success");
    let midnight = at("00:00") + TimeDelta::days(1);
    while history.store.roll_up_next(midnight + TimeDelta::hours(1)).await.unwrap().is_some() {}
    let changed = "SELECT count(*) FROM receiptd.poll_coverage WHERE updated_at >= now() - interval '1 hour';
        SELECT string_agg(msg_seq::text, ' ' ORDER BY msg_seq) FROM receiptd.message_days
            WHERE updated_at >= now() - interval '1 hour'";
    assert_eq!(history.psql(changed), "1\n1 2", "they are new");
    history.psql(
        "ALTER TABLE receiptd.message_receipts_daily DISABLE TRIGGER note_update;
         UPDATE receiptd.message_receipts_daily SET updated_at = now() - interval '1 day';
         ALTER TABLE receiptd.message_receipts_daily ENABLE TRIGGER note_update;
         UPDATE receiptd.poll_gaps SET updated_at = now() - interval '1 day'",
    );
    let last = midnight - TimeDelta::hours(1);
    history.store.roll_up_again(Stretch::of_hour(last), false).await.unwrap();
    assert_eq!(history.psql(changed), "0", "it came to the same");
    history.polls(2, &[("12:00", 3, 6)]).await;
    history.store.roll_up_again(Stretch::of_hour(last), false).await.unwrap();
    history.store.roll_up_again(Stretch::of_hour(at("11:00")), false).await.unwrap();
    assert_eq!(history.psql(changed), "1\n2");
}

#[tokio::test]
async fn reads_have_the_age_of_their_message_without_snapshots() {
    let history = History::new().await;
    history.message(1, "09:00");
    history.polls(1, &[("09:10", 2, 8), ("09:20", 5, 5), ("10:30", 4, 5), ("23:00", 6, 3)]).await;
    history.roll_up("23:59").await;
    let ages = "SELECT age_at_least, age_at_most, reads FROM receiptd.age_at_read ORDER BY seen_at";
    assert_eq!(history.psql(ages), "00:00:00|00:10:00|2\n00:19:00|00:20:00|3\n13:59:00|14:00:00|2");
    history.store.roll_up_next("2025-11-21T02:00:00Z".parse().unwrap()).await.unwrap();
    history.store.roll_up_next("2025-11-21T02:00:00Z".parse().unwrap()).await.unwrap();
    let days = ["18", "19", "20"].map(|day| format!("DROP TABLE receiptd_partitions.receipt_snapshots_202511{day}"));
    history.psql(&days.join("; "));
    assert_eq!(history.psql(ages), "00:00:00|14:00:00|7");
}
