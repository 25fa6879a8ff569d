//! Who has read: the views and functions over it, what turning it off and forgetting a member erase, and who sees it.

use crate::{common::TestDatabase, harness::APP, history::History, roles::Member};

/// Message 7 of group `g`, sent at 09:00: alice read it before 09:05, bob around the deadline, carol late; dave has not, and erin
/// left.
fn lesson(database: &TestDatabase) {
    database.psql(&format!(
        "SELECT receiptd.watch_group({APP}, 'g', readers => true);
         INSERT INTO receiptd.reader_lists (group_key, msg_seq, sent_at, asked_at, known_until, read_num, unread_num, not_read, gone)
            VALUES (1, 7, '2026-11-20 09:00Z', '2026-11-20 11:00Z', '2026-11-20 11:00Z', 3, 1, '{{dave}}', '{{erin}}');
         INSERT INTO receiptd.message_readers (group_key, msg_seq, member, read_after, read_by, source) VALUES
            (1, 7, 'alice', '2026-11-20 09:05Z', '2026-11-20 09:05Z', 'webhook'),
            (1, 7, 'bob', '2026-11-20 09:50Z', '2026-11-20 10:10Z', 'poll'),
            (1, 7, 'carol', '2026-11-20 10:30Z', '2026-11-20 10:40Z', 'poll')"
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
            "SELECT member, outcome FROM receiptd.acknowledged_by('g', 7, '2026-11-20 10:00Z')",
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
