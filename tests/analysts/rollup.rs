//! The roll-up as a whole: incremental, idempotent, conserving, resumable.

use chrono::TimeDelta;
use receiptd::{
    daemon::jobs::catch_up,
    domain::Timestamp,
    rules::rollup::{SETTLED_AFTER, Stretch},
    store::{Seed, Store},
};

use crate::{
    common::TestDatabase,
    harness::app,
    history::{History, at},
};

/// A generated history that is not rolled up.
async fn seeded() -> (TestDatabase, Store, Seed) {
    let database = TestDatabase::new().await;
    let store = Store::new(&database.url().into(), 4, app()).unwrap();
    store.migrate().await.unwrap();
    let until: Timestamp = "2025-11-20T00:00:00Z".parse().unwrap();
    let seed = Seed { groups: 5, messages: 40, days: 3, members: 12, until };
    store.seed_groups(&seed).await.unwrap();
    assert!(store.seed_messages(&seed, 0).await.unwrap() > 100);
    store.seed_slots(&seed).await.unwrap();
    (database, store, seed)
}

const ROLLED_UP: &str = "
    SELECT to_jsonb(h) - 'updated_at' FROM receiptd.group_receipts_hourly h ORDER BY group_key, hour;
    SELECT to_jsonb(p) - 'updated_at' FROM receiptd.poll_gaps p ORDER BY group_key, gap_until";

#[tokio::test]
async fn the_roll_up_is_the_same_at_once_in_steps_and_when_repeated() {
    let ((at_once, store, seed), (in_steps, other, _)) = tokio::join!(seeded(), seeded());
    let end = seed.until + SETTLED_AFTER;
    catch_up(&store, end, |_| {}).await.unwrap();
    let mut now = seed.until - TimeDelta::days(4);
    for step in [7, 61, 3_600, 11, 1_440, 59].into_iter().cycle() {
        now = (now + TimeDelta::minutes(step)).min(end);
        catch_up(&other, now, |_| {}).await.unwrap();
        if now == end {
            break;
        }
    }
    let rolled_up = at_once.psql(ROLLED_UP);
    assert!(rolled_up.lines().count() > 300, "{rolled_up}");
    assert_eq!(rolled_up, in_steps.psql(ROLLED_UP));
    let first = seed.until - TimeDelta::days(3);
    for hour in [71, 3, 24, 25, 24, 50] {
        store.roll_up_again(Stretch::of_hour(first + TimeDelta::hours(hour)), false).await.unwrap();
    }
    assert_eq!(rolled_up, at_once.psql(ROLLED_UP), "done again, it changes nothing");
    for (hour, number) in [(24, 24), (0, 7), (53, 19)] {
        let from = first + TimeDelta::hours(hour);
        let hours = Stretch { from, until: from + TimeDelta::hours(number) };
        store.roll_up_again(hours, false).await.unwrap();
        assert_eq!(rolled_up, at_once.psql(ROLLED_UP), "{number} hours from {from} done again");
    }
}

#[tokio::test]
async fn no_read_is_counted_twice_or_lost() {
    let (database, store, seed) = seeded().await;
    catch_up(&store, seed.until + SETTLED_AFTER, |_| {}).await.unwrap();
    let sums = database.psql(
        "SELECT sum(reads_gained - reads_lost + reads_found) = (SELECT sum(read_num) FROM receiptd.latest_receipts),
            sum(messages_sent) = (SELECT count(*) FROM receiptd.latest_receipts WHERE first_polled_at IS NOT NULL),
            sum(calls) = (SELECT count(*) FROM receiptd.api_calls),
            (SELECT unread_backlog FROM receiptd.group_receipts_hourly WHERE group_key = 1 ORDER BY hour DESC LIMIT 1)
                = (SELECT unread_num FROM receiptd.unread_backlog WHERE group_key = 1)
         FROM receiptd.group_receipts_hourly",
    );
    assert_eq!(sums, "t|t|t|t");
}

#[tokio::test]
async fn an_hour_adds_up_what_was_gained_lost_and_found() {
    let history = History::new().await;
    history.message(1, "08:30");
    history.polls(1, &[("08:31", 2, 8), ("09:10", 5, 5), ("09:20", 4, 5), ("09:50", 6, 3), ("10:05", 9, 0)]).await;
    history.message(2, "09:40");
    history.polls(2, &[("09:41", 0, 9)]).await;
    history.call(1, "09:00", "09:00", "success");
    history.call(1, "09:10", "09:10", "retry");
    history.roll_up("11:00").await;
    let hours = "SELECT to_char(hour, 'HH24'), messages_sent, messages_active, reads_gained, reads_lost, reads_found,
        unread_backlog, polls, calls FROM receiptd.group_receipts_hourly ORDER BY hour";
    assert_eq!(history.psql(hours), "08|1|1|0|0|2|8|0|0\n09|1|2|5|1|0|12|1|2\n10|0|2|3|0|0|9|0|0");
}

#[tokio::test]
async fn a_message_seen_late_counts_in_the_hour_of_its_sending() {
    let history = History::new().await;
    history.message(1, "08:30");
    history.polls(1, &[("08:31", 0, 9)]).await;
    history.message(2, "08:40");
    history.polls(2, &[("11:41", 3, 6)]).await;
    history.roll_up("12:00").await;
    let sent = "SELECT to_char(hour, 'HH24'), messages_sent FROM receiptd.group_receipts_hourly
        WHERE messages_sent > 0 ORDER BY hour";
    assert_eq!(history.psql(sent), "08|2");
}

#[tokio::test]
async fn the_hour_has_median_and_p90_of_messages_turning_a_day_old() {
    let history = History::new().await;
    for (seq, read) in [(1, 1), (2, 5), (3, 10)] {
        history.message(seq, "09:30");
        history.polls(seq, &[("09:40", read, 10 - read)]).await;
    }
    // No poll is due until then.
    history.psql("UPDATE receiptd.poll_slots SET next_poll_at = '2025-11-21 10:00Z'");
    let until = at("10:00") + TimeDelta::days(1);
    catch_up(&history.store, until + SETTLED_AFTER, |_| {}).await.unwrap();
    let aged = "SELECT hour, messages_aged_24h, median_read_rate_24h, p90_read_rate_24h
        FROM receiptd.group_receipts_hourly WHERE messages_aged_24h > 0";
    assert_eq!(history.psql(aged), "2025-11-21 09:00:00+00|3|0.5|0.9");
}

#[tokio::test]
async fn a_repeated_roll_up_keeps_hours_whose_data_is_gone() {
    let history = History::new().await;
    history.message(1, "08:30");
    history.polls(1, &[("08:31", 2, 8), ("09:10", 5, 5)]).await;
    history.call(1, "09:00", "09:10", "success");
    history.roll_up("11:00").await;
    let before = history.psql(ROLLED_UP);
    assert!(history.store.roll_up_again(Stretch::of_hour(at("09:00")), false).await.unwrap(), "all is there");
    for table in ["receipt_snapshots", "api_calls"] {
        history.psql(&format!("ALTER TABLE receiptd.{table} DETACH PARTITION receiptd_partitions.{table}_20251120"));
        for hour in ["08:00", "09:00", "10:00"] {
            assert!(!history.store.roll_up_again(Stretch::of_hour(at(hour)), false).await.unwrap());
        }
        assert_eq!(history.psql(ROLLED_UP), before, "without {table}");
    }
}

#[tokio::test]
async fn a_group_that_has_been_silent_for_weeks_is_among_the_groups() {
    let history = History::new().await;
    history.message(1, "08:30");
    history.polls(1, &[("08:31", 2, 8)]).await;
    history.roll_up("09:00").await;
    let engagement = "SELECT group_id, messages_aged_7d, last_sent_at, as_of - last_sent_at > '20 days' FROM receiptd.group_engagement";
    history.psql("UPDATE receiptd.poller_leases SET rolled_up_until = rolled_up_until + interval '30 days'");
    assert_eq!(history.psql(engagement), "g|0|2025-11-20 08:30:00+00|t");
    history.psql("UPDATE receiptd.watched_groups SET state = 'removed'");
    assert_eq!(history.psql(engagement), "", "of a group that is not watched any more nobody asks that");
}

#[tokio::test]
async fn counts_near_the_integer_maximum_cause_no_overflow() {
    let history = History::new().await;
    history.message(1, "08:30");
    history.polls(1, &[("08:31", 0, 2_147_483_647), ("08:40", 2_147_483_646, 1), ("09:40", 2_147_483_646, 1)]).await;
    history.message(2, "08:30");
    history.polls(2, &[("08:31", 1_073_741_824, 1_073_741_823), ("09:40", 1_073_741_824, 1_073_741_823)]).await;
    history.message(3, "08:30");
    history.polls(3, &[("08:31", 0, 2_147_483_647), ("09:40", 0, 2_147_483_647)]).await;
    history.roll_up("10:00").await;
    let rates = "SELECT read_rate_15m, read_rate_1h FROM receiptd.message_milestones ORDER BY msg_seq";
    assert_eq!(
        history.psql(rates),
        "0.9999999995343387|0.9999999995343387\n0.5000000002328306|0.5000000002328306\n0|0"
    );
    let sums = "SELECT sum(reads_gained), sum(reads_found) FROM receiptd.group_receipts_hourly";
    assert_eq!(history.psql(sums), "2147483646|1073741824");
    let curve = "SELECT count(*), max(read_rate) FROM receiptd.receipt_curve('g', 2, '1 minute')";
    assert_eq!(history.psql(curve), "71|0.5000000002328306");
    assert_eq!(history.psql("SELECT read_num, unread_num FROM receiptd.unread_backlog"), "3221225470|3221225471");
    history.store.glance().await.unwrap();
}

#[tokio::test]
async fn a_group_that_fails_to_roll_up_stops_no_other_nor_retention() {
    let history = History::new().await;
    history.psql("SELECT receiptd.watch_group(1400000000, id) FROM unnest(ARRAY['bad', 'c', 'd', 'e']) AS id");
    history.psql("ALTER TABLE receiptd.poll_gaps ADD CONSTRAINT not_two CHECK (group_key <> 2)");
    for (group, called) in [(1, "09:30"), (2, "09:30"), (2, "10:30"), (3, "09:30"), (5, "10:30")] {
        history.call(group, "09:10", called, "success");
    }
    history.roll_up("12:00").await;
    let gaps = "SELECT group_key, to_char(gap_until, 'HH24:MI') FROM receiptd.poll_gaps ORDER BY 1, 2";
    assert_eq!(history.psql(gaps), "1|09:30\n3|09:30\n5|10:30");
    let noted =
        "SELECT group_key, to_char(hour, 'HH24'), sqlstate, reason LIKE '%not_two%' FROM receiptd.rollup_passed_over
        ORDER BY hour";
    assert_eq!(history.psql(noted), "2|09|23514|t\n2|10|23514|t");
    assert_eq!(history.store.rolled_up_by_all().await.unwrap(), Some(at("12:00")), "retention goes on");
    // Late data: the repeated hour is skipped too.
    history.psql("INSERT INTO receiptd.rollup_redo (sdk_app_id, hour) VALUES (1400000000, '2025-11-20 09:00Z')");
    history.roll_up("12:05").await;
    assert_eq!(history.store.rolled_up_by_all().await.unwrap(), Some(at("12:05")));
    assert_eq!(history.psql(gaps), "1|09:30\n3|09:30\n5|10:30");
    // Once it can be rolled up, missing rows are added.
    history.psql("ALTER TABLE receiptd.poll_gaps DROP CONSTRAINT not_two");
    history.psql("UPDATE receiptd.rollup_passed_over SET last_at = last_at - interval '2 hours'");
    history.roll_up("12:10").await;
    assert_eq!(history.psql(noted), "");
    assert_eq!(history.psql(gaps), "1|09:30\n2|09:30\n2|10:30\n3|09:30\n5|10:30");
}
