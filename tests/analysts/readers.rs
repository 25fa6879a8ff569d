//! Who has read: its views and functions, what turning it off and forgetting a member erase, and who may see it.

use chrono::TimeDelta;
use receiptd::{
    daemon::jobs::enforce,
    domain,
    rules::retention::Retention,
    store::{ListKey, ToldReader},
};
use sqlx::{Connection, PgConnection};

use crate::{
    common::TestDatabase,
    harness::{APP, seq},
    history::{History, at},
    roles::Member,
};

/// Message 7 of group `g`, sent at 09:00: alice read it before 09:05, bob around the deadline, carol late; dave has
/// not, and erin left.
fn lesson(database: &TestDatabase) {
    database.psql(&format!(
        "SELECT receiptd.watch_group({APP}, 'g', readers => true);
         INSERT INTO receiptd.reader_lists (group_key, msg_seq, sent_at, asked_at, known_until, read_num, unread_num, not_read, gone)
            VALUES (1, 7, '2025-11-20 09:00Z', '2025-11-20 11:00Z', '2025-11-20 11:00Z', 3, 1, '{{dave}}', '{{erin}}');
         INSERT INTO receiptd.message_readers (group_key, msg_seq, member, read_after, read_by, source) VALUES
            (1, 7, 'alice', '2025-11-20 09:05Z', '2025-11-20 09:05Z', 'webhook'),
            (1, 7, 'bob', '2025-11-20 09:50Z', '2025-11-20 10:10Z', 'poll'),
            (1, 7, 'carol', '2025-11-20 10:30Z', '2025-11-20 10:40Z', 'poll')"
    ));
}

#[tokio::test]
async fn each_question_about_readers_has_its_answer() {
    let history = History::new().await;
    lesson(&history.database);
    for (question, answer) in [
        ("SELECT member FROM receiptd.readers_of('g', 7)", "alice\nbob\ncarol"),
        ("SELECT member FROM receiptd.not_read_by('g', 7)", "dave"),
        (
            "SELECT member, outcome FROM receiptd.acknowledged_by('g', 7, '2025-11-20 10:00Z')",
            "alice|in_time\nbob|unclear\ncarol|late\ndave|not_read\nerin|left",
        ),
        (
            "SELECT member, messages_read, messages_not_read, latency_at_least_s, latency_at_most_s
                FROM receiptd.member_latency ORDER BY member",
            "alice|1|0|300|300\nbob|1|0|3000|4200\ncarol|1|0|5400|6000\ndave|0|1||",
        ),
        ("SELECT member FROM receiptd.readers_of('g', 7, 77)", ""),
        ("SELECT readers FROM receiptd.groups", "t"),
    ] {
        assert_eq!(history.psql(question), answer, "{question}");
    }
}

#[tokio::test]
async fn readers_are_off_unless_the_owner_turns_them_on() {
    let history = History::new().await;
    let is_on = || history.psql("SELECT readers FROM receiptd.watched_groups");
    assert_eq!(is_on(), "f");
    for (readers, expected) in [("true", "t"), ("NULL", "t"), ("false", "f"), ("NULL", "f")] {
        history.psql(&format!("SELECT receiptd.watch_group({APP}, 'g', readers => {readers})"));
        assert_eq!(is_on(), expected, "after {readers}");
    }
    history.psql(&format!("SELECT receiptd.watch_group({APP}, 'h', readers => true)"));
    assert_eq!(history.psql("SELECT group_id FROM receiptd.watched_groups WHERE readers"), "h");
}

#[tokio::test]
async fn turning_readers_on_makes_known_messages_due() {
    let history = History::new().await;
    history.message(1, "09:00");
    history.message(2, "09:00");
    history.polls(1, &[("09:01", 2, 9)]).await;
    history.no_receipt(2, "09:01").await;
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.reader_lists"), "0");
    history.psql(&format!("SELECT receiptd.watch_group({APP}, 'g', readers => true)"));
    let due =
        "SELECT msg_seq, moved_read, moved_unread, known_until FROM receiptd.reader_lists WHERE moved_at IS NOT NULL";
    assert_eq!(history.psql(due), "1|2|9|");
}

/// The list of message 1: the counts that make it due, and the time until which its readers are known.
const LIST: &str = "SELECT moved_read, moved_unread, to_char(known_until AT TIME ZONE 'UTC', 'HH24:MI')
    FROM receiptd.reader_lists WHERE moved_at IS NOT NULL";

#[tokio::test]
async fn a_poll_that_sees_other_counts_makes_readers_due() {
    let history = History::new().await;
    history.psql(&format!("SELECT receiptd.watch_group({APP}, 'g', readers => true)"));
    history.message(1, "09:00");
    let answered = |at: &str, read: i32, unread: i32| {
        history.psql(&format!(
            "UPDATE receiptd.reader_lists SET moved_at = NULL, asked_at = '2025-11-20 {at}Z',
                known_until = '2025-11-20 {at}Z', read_num = {read}, unread_num = {unread}"
        ))
    };
    history.polls(1, &[("09:01", 0, 9)]).await;
    assert_eq!(history.psql(LIST), "0|9|09:01", "nobody has read it yet");
    history.polls(1, &[("09:10", 2, 7)]).await;
    assert_eq!(history.psql(LIST), "2|7|09:09", "nobody had read it then");
    answered("09:11", 2, 7);
    history.polls(1, &[("09:20", 3, 6)]).await;
    assert_eq!(history.psql(LIST), "3|6|09:19", "the polls in between saw the counts of the answer");
    history.polls(1, &[("09:30", 4, 5)]).await;
    assert_eq!(history.psql(LIST), "4|5|09:19", "who read it between two changes is not known");
    answered("09:31", 5, 4);
    history.polls(1, &[("09:40", 5, 4)]).await;
    assert_eq!(history.psql(LIST), "", "the answer had these counts already");
    history.polls(1, &[("09:50", 5, 3)]).await;
    assert_eq!(history.psql(LIST), "5|3|09:49", "somebody left");
}

#[tokio::test]
async fn without_readers_a_poll_makes_nothing_due() {
    let history = History::new().await;
    history.message(1, "09:00");
    history.polls(1, &[("09:01", 0, 9), ("09:10", 2, 7)]).await;
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.reader_lists"), "0");
}

#[tokio::test]
async fn readers_are_erased_some_time_after_the_message_was_sent() {
    let history = History::new().await;
    lesson(&history.database);
    let keep = Retention { readers: Some(TimeDelta::days(2)), ..Retention::default() };
    for (now, left) in [("2025-11-22T08:00:00Z", "3"), ("2025-11-22T10:00:00Z", "0")] {
        enforce(&history.store, &keep, now.parse().unwrap()).await.unwrap();
        assert_eq!(history.psql("SELECT count(*) FROM receiptd.message_readers"), left, "{now}");
    }
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.reader_lists"), "0");
}

#[tokio::test]
async fn an_event_tells_the_moment_of_a_read_and_saves_a_call() {
    let history = History::new().await;
    lesson(&history.database);
    history.psql(
        "UPDATE receiptd.reader_lists SET moved_at = now(), moved_read = 4, moved_unread = 0;
         SELECT receiptd.forget_member(1400000000, 'mallory')",
    );
    let told = |number: i64, name: &str, time: &str| ToldReader {
        key: ListKey { group_key: 1, seq: seq(number) },
        sent_at: at("09:00"),
        member: domain::Member::new(name).unwrap(),
        account: None,
        at: at(time),
    };
    let all = [
        told(7, "bob", "10:05"),
        told(7, "carol", "10:45"),
        told(7, "dave", "10:50"),
        told(7, "mallory", "10:50"),
        told(8, "alice", "09:30"),
    ];
    assert_eq!(history.store.write_told_readers(&all).await.unwrap(), 3, "bob, dave and alice");
    let stored = "SELECT msg_seq, member, read_after = read_by, source FROM receiptd.member_reads ORDER BY 1, 2";
    assert_eq!(
        history.psql(stored),
        "7|alice|t|webhook\n7|bob|t|webhook\n7|carol|f|poll\n7|dave|t|webhook\n8|alice|t|webhook",
        "carol had read it before the event, and mallory is forgotten"
    );
    let list = "SELECT read_num, unread_num, not_read, moved_at FROM receiptd.reader_lists WHERE msg_seq = 7";
    assert_eq!(history.psql(list), "4|0|{}|", "the counts are explained");
    let mut owner = PgConnection::connect(&history.database.url()).await.unwrap();
    let mut open = owner.begin().await.unwrap();
    sqlx::query("SELECT FROM receiptd.watched_groups FOR UPDATE").execute(&mut *open).await.unwrap();
    let waits_for_nobody = history.store.write_told_readers(&[told(9, "eve", "10:00")]).await;
    assert_eq!(waits_for_nobody.unwrap(), 0, "the group is locked");
    open.rollback().await.unwrap();
    history.psql(&format!("SELECT receiptd.watch_group({APP}, 'g', readers => false)"));
    assert_eq!(history.store.write_told_readers(&[told(9, "eve", "10:00")]).await.unwrap(), 0);
    assert_eq!(named(&history.database, "eve"), "0 0 0");
}

/// All places that name a member, as text.
fn named(database: &TestDatabase, member: &str) -> String {
    let rows = |table: &str| {
        database.psql(&format!("SELECT count(*) FROM receiptd.{table} t WHERE t::text LIKE '%{member}%'"))
    };
    format!("{} {} {}", rows("message_readers"), rows("reader_lists"), rows("forgotten_members"))
}

#[tokio::test]
async fn a_forgotten_member_is_erased_everywhere_and_nobody_else() {
    let history = History::new().await;
    lesson(&history.database);
    for (member, times) in [("bob", "1"), ("dave", "1"), ("erin", "1"), ("nobody", "0")] {
        assert_eq!(history.psql(&format!("SELECT receiptd.forget_member({APP}, '{member}')")), times, "{member}");
        assert_eq!(named(&history.database, member), "0 0 0", "{member}");
    }
    assert_eq!(history.psql("SELECT member FROM receiptd.member_reads ORDER BY 1"), "alice\ncarol");
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.forgotten_members"), "4");
    let of_another_app = "SELECT receiptd.forget_member(77, 'alice')";
    assert_eq!(history.psql(of_another_app), "0");
}

#[tokio::test]
async fn erasing_the_readers_of_a_group_leaves_its_counts() {
    let history = History::new().await;
    lesson(&history.database);
    history.message(7, "09:00");
    history.polls(7, &[("09:01", 2, 9)]).await;
    history.psql(&format!("SELECT receiptd.watch_group({APP}, 'g', readers => false)"));
    assert_eq!(history.psql(&format!("SELECT receiptd.erase_readers({APP}, 'g')")), "3");
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.reader_lists"), "0");
    assert_eq!(history.psql("SELECT count(*) FROM receiptd.member_reads"), "0");
    assert_eq!(history.psql("SELECT read_num FROM receiptd.latest_receipts"), "2");
}

#[tokio::test]
async fn a_member_reader_reads_who_has_read_and_nothing_else() {
    let member = Member::of("receiptd_member_reader").await;
    lesson(&member.database);
    let seen = ["message_readers", "member_reads", "members_not_read", "member_latency"];
    for relation in member.relations() {
        let select = format!("SELECT * FROM receiptd.{relation}");
        match seen.contains(&relation.as_str()) {
            true => member.may(&select).await,
            false => member.may_not(&select).await,
        }
    }
    assert_eq!(member.count("SELECT * FROM receiptd.readers_of('g', 7)").await, 3);
    assert_eq!(member.count("SELECT * FROM receiptd.not_read_by('g', 7)").await, 1);
    assert_eq!(member.count("SELECT * FROM receiptd.acknowledged_by('g', 7, now())").await, 5);
    for refused in [
        "DELETE FROM receiptd.message_readers",
        "SELECT receiptd.forget_member(1400000000, 'alice')",
        "SELECT receiptd.erase_readers(1400000000, 'g')",
    ] {
        member.may_not(refused).await;
    }
}

#[tokio::test]
async fn rights_by_app_hold_for_members_too() {
    let member = Member::of_two_apps("receiptd_member_reader").await;
    member.database.psql(&format!(
        "SELECT receiptd.watch_group(app, 'g', readers => true) FROM unnest(ARRAY[{APP}, 77]) AS app;
         INSERT INTO receiptd.reader_lists (group_key, msg_seq, sent_at, not_read)
            SELECT group_key, 1, now(), '{{dave}}' FROM receiptd.watched_groups ON CONFLICT DO NOTHING;
         INSERT INTO receiptd.message_readers SELECT group_key, 1, 'alice', NULL, now() FROM receiptd.watched_groups;
         INSERT INTO receiptd.role_apps VALUES ('{}', {APP})",
        member.login
    ));
    for relation in ["message_readers", "member_reads", "members_not_read", "readers_of('g', 1)", "not_read_by('g', 1)"]
    {
        assert_eq!(member.count(&format!("SELECT 1 FROM receiptd.{relation}")).await, 1, "{relation}");
    }
}

#[tokio::test]
async fn latencies_begin_at_the_time_of_sending_that_the_message_has() {
    let history = History::new().await;
    lesson(&history.database);
    let latency =
        "SELECT to_char(sent_at, 'HH24:MI'), latency_at_most FROM receiptd.member_reads WHERE member = 'alice'";
    assert_eq!(history.psql(latency), "09:00|00:05:00", "its row was deleted");
    history.message(7, "08:30");
    assert_eq!(history.psql(latency), "08:30|00:35:00");
    let not_read = "SELECT DISTINCT to_char(sent_at, 'HH24:MI') FROM receiptd.members_not_read";
    assert_eq!(history.psql(not_read), "08:30");
}
