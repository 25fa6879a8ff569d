//! Gaps: times without due observations, and the reasons.

use receiptd::rules::rollup::Stretch;

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
    // Group 1 fails for half an hour while group 2 is polled; then nothing is polled for two hours.
    history.call(1, "09:00", "09:00", "success");
    history.call(1, "09:10", "09:10", "retry");
    history.call(1, "09:10", "09:40", "success");
    for time in ["09:05", "09:15", "09:25", "09:35"] {
        history.call(2, time, time, "success");
    }
    history.call(3, "09:12", "09:38", "success");
    history.call(1, "10:00", "12:00", "success");
    // Two slots of a group that were late together form one gap.
    history.call(2, "10:10", "12:01", "success");
    history.call(2, "10:20", "12:02", "success");
    history.roll_up("13:00").await;
    history.polling_goes_on();
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
async fn an_open_gap_begins_when_the_first_poll_was_due() {
    let history = History::new().await;
    history.psql("SELECT receiptd.ensure_partition('api_calls', (now() AT TIME ZONE 'UTC')::date - n) FROM generate_series(0, 1) n");
    history.message(1, "09:00");
    history.polls(1, &[("09:01", 0, 9)]).await;
    let slot = |set: &str| history.psql(&format!("UPDATE receiptd.poll_slots SET {set}"));
    let open = |from: &str| {
        history.psql(&format!(
            "SELECT group_id, gap_until IS NULL, gap_from = ({from}), duration > '1 minute', messages, reason
             FROM receiptd.poll_coverage"
        ))
    };
    let due = "SELECT next_poll_at FROM receiptd.poll_slots";
    slot("next_poll_at = now() + interval '1 hour', last_polled_at = now() - interval '10 minutes'");
    history.psql("SELECT receiptd.pause_group(1400000000, 'g')");
    assert_eq!(open(due), "", "nothing was due since");
    slot("next_poll_at = now() - interval '30 seconds'");
    assert_eq!(open(due), "", "it is late by less than a minute");
    slot("next_poll_at = now() - interval '2 minutes'");
    assert_eq!(open(due), "g|t|t|t|1|paused");
    assert_eq!(history.psql("SELECT groups_in_gap FROM receiptd.data_freshness"), "1");
    history.psql("SELECT receiptd.resume_group(1400000000, 'g')");
    assert_eq!(open(due), "g|t|t|t|1|waiting");
    // A failed poll is retried soon: the due time was earlier.
    slot("next_poll_at = now() + interval '5 minutes', failures = 3");
    assert_eq!(open("SELECT last_polled_at FROM receiptd.poll_slots"), "g|t|t|t|1|failing");
    history.psql(
        "INSERT INTO receiptd.api_calls (called_at, group_key, attempt, messages_asked, messages_answered, entries_bad,
            class, latency_ms, due_at)
         SELECT now() - n * interval '1 minute', 1, 1, 1, 0, 0, 'retry', 20, now() - interval '8 minutes'
         FROM generate_series(1, 8) n",
    );
    assert_eq!(open("SELECT min(due_at) FROM receiptd.api_calls"), "g|t|t|t|1|failing");
    slot("next_poll_at = now() + interval '5 minutes', failures = 0");
    assert_eq!(open(due), "");
    assert_eq!(history.psql("SELECT groups_in_gap, gap_from FROM receiptd.data_freshness"), "0|");
}

#[tokio::test]
async fn hours_in_a_gap_that_goes_on_are_not_covered() {
    let history = History::new().await;
    history.message(1, "08:30");
    history.polls(1, &[("08:31", 0, 9)]).await;
    history.call(1, "09:10", "09:40", "success");
    history.call(1, "10:10", "10:20", "success");
    history.psql("UPDATE receiptd.poll_slots SET next_poll_at = '2025-11-20 10:30Z'");
    history.roll_up("14:00").await;
    assert_eq!(history.psql(COVERAGE), "08|1\n09|0.5\n10|0.3333333333333333\n11|0\n12|0\n13|0");
    history.polling_goes_on();
    assert_eq!(history.psql(COVERAGE), "08|1\n09|0.5\n10|0.8333333333333334\n11|1\n12|1\n13|1");
}

#[tokio::test]
async fn reads_that_a_gap_carried_into_a_later_hour_are_told_apart() {
    let history = History::new().await;
    history.message(1, "08:30");
    history.message(2, "08:30");
    history.polls(1, &[("08:31", 0, 9)]).await;
    history.polls(2, &[("08:31", 0, 9), ("11:20", 2, 7)]).await;
    // Polled at 11:10 again, after it was last known at 08:31.
    let slot = history.slot_of(crate::harness::seq(1)).await;
    let counts = receiptd::domain::Counts::new(4, 5);
    let receipt = receiptd::domain::Receipt { code: 0, counts };
    history.record(vec![crate::history::recording(slot, crate::history::at("11:10"), receipt)]).await;
    history.polls(1, &[("11:40", 5, 4), ("12:30", 6, 3)]).await;
    history.call(1, "08:41", "11:10", "success");
    history.roll_up("13:00").await;
    let reads = "SELECT to_char(hour, 'HH24'), reads_gained, reads_carried FROM receiptd.hourly_receipts
        WHERE reads_gained > 0 ORDER BY hour";
    assert_eq!(history.psql(reads), "11|7|4\n12|1|0");
}

#[tokio::test]
async fn rates_proved_after_a_gap_count_in_their_hour() {
    let history = History::new().await;
    for (number, after) in [(1, (3, 6)), (2, (5, 4))] {
        history.psql(&format!(
            "INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at) VALUES (1, {number}, '2025-11-19 09:30Z')"
        ));
        let poll = async |time, (read, unread)| {
            let slot = history.slot_of(crate::harness::seq(number)).await;
            let receipt = receiptd::domain::Receipt { code: 0, counts: receiptd::domain::Counts::new(read, unread) };
            history.record(vec![crate::history::recording(slot, crate::history::at(time), receipt)]).await;
        };
        poll("08:00", (3, 6)).await;
        history.roll_up("10:30").await;
        poll("11:00", after).await;
    }
    let aged =
        "SELECT messages_aged_24h, median_read_rate_24h FROM receiptd.hourly_receipts WHERE hour = '2025-11-20 09:00Z'";
    assert_eq!(history.psql(aged), "0|", "nobody knows yet");
    history.call(1, "08:10", "11:00", "success");
    history.roll_up("12:00").await;
    assert_eq!(history.psql(aged), "1|0.3333333333333333", "the other may have had any counts then");
}

const VIEW: &str =
    "SELECT group_id, to_char(gap_from, 'DD HH24:MI'), to_char(gap_until, 'DD HH24:MI'), messages, reason, code
    FROM receiptd.poll_coverage WHERE gap_until IS NOT NULL ORDER BY 1, 2";

#[tokio::test]
async fn a_gap_of_days_has_the_reason_that_its_last_failed_call_told() {
    let history = History::new().await;
    history.psql("SELECT receiptd.watch_group(1400000000, 'busy')");
    // Refused, and probed for the last time seven hours before the end; another group is polled meanwhile, and then
    // none.
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
        history.store.roll_up_again(Stretch::of_hour(crate::history::at(hour)), false).await.unwrap();
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
        // Every five minutes two minutes late; then one on time, and one more that is late.
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
        in_steps.store.roll_up_again(Stretch::of_hour(crate::history::at(hour)), false).await.unwrap();
        assert_eq!((in_steps.psql(GAPS), in_steps.psql(VIEW)), (rows.to_owned(), gaps.to_owned()), "{hour} done again");
    }
    for history in [&at_once, &in_steps] {
        history.polling_goes_on();
        assert_eq!(history.psql(COVERAGE), coverage);
    }
}

/// Calls of three groups in four hours: a third in time, most others a few minutes late, some by half an hour, some failed.
fn random_calls(history: &History, seed: u32) {
    history.psql(&format!(
        "SELECT receiptd.watch_group(1400000000, 'second'), receiptd.watch_group(1400000000, 'third');
         SELECT setseed({seed} / 100.0);
         INSERT INTO receiptd.api_calls (called_at, group_key, attempt, messages_asked, messages_answered, entries_bad, class,
            latency_ms, due_at)
         SELECT called, key, 1, 50, CASE WHEN is_answered THEN 50 ELSE 0 END, 0,
            CASE WHEN is_answered THEN 'success' ELSE 'retry' END, 20, called - late
         FROM (
            SELECT timestamptz '{}' + random() * interval '4 hours' AS called, 1 + n % 3 AS key, random() > 0.2 AS is_answered,
                CASE WHEN random() < 0.3 THEN interval '0' ELSE random() ^ 4 * interval '30 minutes' END AS late
            FROM generate_series(1, 150) AS n
         ) calls",
        crate::history::at("09:00")
    ));
}

#[tokio::test]
async fn random_gaps_are_the_same_at_once_and_in_steps() {
    for seed in 1..=4 {
        let (at_once, in_steps) = tokio::join!(History::new(), History::new());
        for history in [&at_once, &in_steps] {
            random_calls(history, seed);
        }
        at_once.roll_up("14:00").await;
        let mut random = fastrand::Rng::with_seed(seed.into());
        let mut minute = 0;
        while minute < 5 * 60 {
            minute = (minute + random.i32(1..40)).min(5 * 60);
            in_steps.roll_up(&format!("{:02}:{:02}:{:02}", 9 + minute / 60, minute % 60, 0)).await;
        }
        let rows =
            "SELECT group_key, gap_from, gap_until, messages, reason, code FROM receiptd.poll_gaps ORDER BY 1, 3";
        let gaps = at_once.psql(rows);
        assert!(gaps.lines().count() > 10, "{gaps}");
        assert_eq!(in_steps.psql(rows), gaps, "seed {seed}");
    }
}

/// How many rows of calls a roll-up reads: 1200 calls of 400 groups, each `late` after it was due, without statistics.
async fn rows_read(late: &str, gaps: &str) -> u64 {
    let history = History::new().await;
    history.psql(&format!(
        "SELECT receiptd.watch_group(1400000000, 'g' || n) FROM generate_series(2, 400) n;
         INSERT INTO receiptd.api_calls (called_at, group_key, attempt, messages_asked, messages_answered, entries_bad, class,
            latency_ms, due_at)
         SELECT called, 1 + n % 400, 1, 50, 50, 0, 'success', 20, called - interval '{late}'
         FROM (SELECT n, timestamptz '2025-11-20 09:30Z' + n * interval '1 second' AS called FROM generate_series(1, 1200) n) c"
    ));
    history.roll_up("11:00").await;
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.poll_gaps"), gaps);
    // A session reports what it has read at its end at the latest.
    history.store.close();
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'receiptd'";
    while history.psql(sessions) != "0" {
        tokio::task::yield_now().await;
    }
    let read = "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_user_tables WHERE relname = 'api_calls_20251120'";
    history.psql(read).parse().unwrap()
}

#[tokio::test]
async fn calls_are_read_a_few_times_and_not_for_each_group_or_gap() {
    for (late, gaps) in [("20 minutes", "400"), ("20 seconds", "0")] {
        let read = rows_read(late, gaps).await;
        assert!((1200..1200 * 40).contains(&read), "{read} rows of 1200 calls that were {late} late");
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
