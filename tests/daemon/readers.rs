//! Who has read: the daemon's readers compared with the truth of the simulated Chat, and nothing about groups that have
//! it off.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use receiptd::{
    rules::{
        cadence::{Cadence, Cadences, Tier},
        readers::pseudonym::Naming,
    },
    simulator::{Fault, FaultRule, When},
};

use crate::harness::{APP, Harness, app, group, seq, simulator_config};

/// The call that returns readers.
const DETAIL: &str = "get_group_msg_receipt_detail";

/// A daemon that polls every two seconds, in a world where an hour of reading takes a quarter of a minute.
async fn fast_world() -> Harness {
    let mut config = simulator_config();
    config.world.median_reading_time = Duration::from_secs(300);
    config.world.speed = 240.0;
    config.world.members = 4..=9;
    let mut rig = Harness::stopped(config).await;
    let tier = Tier { until: Duration::from_secs(3_600), every: Duration::from_secs(2) };
    let cadences = BTreeMap::from([("default".to_owned(), Cadence::by_age(vec![tier], false).unwrap())]);
    rig.settings.session.cadences = Cadences::new(cadences).into();
    rig.settings.session.readers.reader_cadence = TimeDelta::seconds(1);
    rig
}

/// Watches groups `{name}1` to `{name}{number}` with one message each.
async fn watch(rig: &Harness, name: &str, number: i32, readers: bool) {
    let watch =
        "SELECT receiptd.watch_group($1, $2 || n, readers => $4), receiptd.watch_messages($1, $2 || n, ARRAY[1])
        FROM generate_series(1, $3) n";
    let watch = sqlx::query(watch).bind(APP).bind(name).bind(number).bind(readers);
    watch.execute(&rig.pool).await.unwrap();
}

/// A stored reader: group, member, and the interval.
type Stored = (String, String, Option<DateTime<Utc>>, DateTime<Utc>);

async fn stored(rig: &Harness) -> Vec<Stored> {
    let stored = "SELECT group_id, member, read_after, read_by FROM receiptd.member_reads";
    sqlx::query_as(stored).fetch_all(&rig.pool).await.unwrap()
}

/// All tables as text, in which no account of these groups may occur.
pub async fn search(rig: &Harness, accounts: &[String]) -> usize {
    let tables = "SELECT c.oid::regclass::text FROM pg_class c
        WHERE c.relnamespace IN ('receiptd'::regnamespace, 'receiptd_partitions'::regnamespace) AND c.relkind IN ('r', 'm')";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&rig.pool).await.unwrap();
    let mut found = 0;
    for table in tables {
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT t::text FROM {table} t")))
            .fetch_all(&rig.pool)
            .await
            .unwrap();
        found += rows.iter().filter(|row| accounts.iter().any(|account| row.contains(account.as_str()))).count();
    }
    found
}

#[tokio::test]
async fn readers_of_200_groups_agree_with_the_truth() {
    let mut rig = fast_world().await;
    watch(&rig, "on", 200, true).await;
    watch(&rig, "off", 20, false).await;
    rig.start().await;
    // An hour of reading.
    rig.until(
        "(SELECT min(asked_at) FROM receiptd.reader_lists) > now() - interval '1 minute'
        AND (SELECT count(*) FROM receiptd.reader_lists WHERE asked_at IS NOT NULL) = 200",
    )
    .await;
    let until = rig.simulator.now() + TimeDelta::seconds(15);
    let world = rig.simulator.world();
    let mut truth: BTreeMap<(String, String), DateTime<Utc>> = BTreeMap::new();
    for number in 1..=200 {
        let name = format!("on{number}");
        for member in world.accounts(&group(&name)) {
            let read_at = world.read_at_by(&group(&name), seq(1), &member);
            truth.extend(read_at.map(|read_at| ((name.clone(), member), read_at)));
        }
    }
    let is_missing = |stored: &[Stored]| {
        let read = truth.iter().filter(|(_, read_at)| **read_at <= until);
        read.filter(|((name, member), _)| !stored.iter().any(|row| row.0 == *name && row.1 == *member)).count()
    };
    let wait = async {
        while rig.simulator.now() < until || is_missing(&stored(&rig).await) > 0 {
            rig.changed().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(180), wait).await.expect("readers are missing");
    let all = stored(&rig).await;
    for (name, member, after, by) in &all {
        let read_at = truth[&(name.clone(), member.clone())];
        assert!(after.is_none_or(|after| after < read_at) && read_at <= *by, "{name}: {after:?} < {read_at} <= {by}");
    }
    // Each list takes a call for those who have not read it, and each answer with new readers takes one more.
    let least: i64 = rig
        .value(
            "SELECT (SELECT count(*) FROM receiptd.reader_lists) + (SELECT count(*) FROM (
            SELECT DISTINCT group_key, msg_seq, read_by FROM receiptd.message_readers) answers)",
        )
        .await;
    let ledger = rig.simulator.ledger();
    let calls = ledger.api(DETAIL).calls();
    let wide = all.iter().filter(|row| row.2.is_none()).count();
    println!(
        "{} readers, {wide} of them without a lower bound; {calls} calls, at least {least}; highest second {}",
        all.len(),
        ledger.api(DETAIL).highest_sliding_second()
    );
    assert!(calls as f64 <= least as f64 * 1.25, "{calls} calls, and {least} would do");
    assert!(wide * 20 <= all.len(), "the first poll sees nobody, unless its answer is lost: {wide}");
    assert!(ledger.api(DETAIL).highest_sliding_second() <= 200);
    let world = rig.simulator.world();
    let off: Vec<String> = (1..=20).flat_map(|number| world.accounts(&group(&format!("off{number}")))).collect();
    assert_eq!(search(&rig, &off).await, 0);
    let on: Vec<String> = (1..=200).flat_map(|number| world.accounts(&group(&format!("on{number}")))).collect();
    assert!(search(&rig, &on).await > 0, "the search finds what there is");
    rig.stop().await;
}

/// A daemon with a message of group `g`, of four readers and others.
async fn one_group() -> Harness {
    let mut rig = Harness::stopped(simulator_config()).await;
    rig.simulator.world().add_group(&group("g"), 6);
    rig.settings.session.readers.reader_cadence = TimeDelta::seconds(1);
    rig.watch("g", [1]).await;
    sqlx::query("SELECT receiptd.watch_group($1, 'g', readers => true)").bind(APP).execute(&rig.pool).await.unwrap();
    rig
}

fn read(rig: &Harness, read: i64, unread: i64) {
    let counts = receiptd::domain::Counts::new(read, unread).unwrap();
    rig.simulator.world().set_receipt(&group("g"), seq(1), counts);
}

#[tokio::test]
async fn who_left_is_not_among_those_who_have_not_read() {
    let mut rig = one_group().await;
    rig.start().await;
    rig.until("(SELECT cardinality(not_read) FROM receiptd.reader_lists) = 5").await;
    let leaver: String = rig.value("SELECT not_read[1] FROM receiptd.reader_lists").await;
    rig.simulator.world().leave(&group("g"), &leaver);
    rig.until("(SELECT cardinality(not_read) FROM receiptd.reader_lists) = 4").await;
    let outcome: String =
        rig.value("SELECT string_agg(outcome, ' ' ORDER BY 1) FROM receiptd.acknowledged_by('g', 1, now())").await;
    assert_eq!(outcome, "left not_read not_read not_read not_read");
    assert_eq!(rig.count("receiptd.not_read_by('g', 1)").await, 4);
    rig.stop().await;
}

#[tokio::test]
async fn a_restart_loses_no_readers_that_are_due() {
    let mut rig = one_group().await;
    let refuse =
        FaultRule { fault: Fault::ErrorCode { code: 10002 }, when: When::Api { api: DETAIL.into() }, times: None };
    rig.simulator.add_fault(refuse);
    rig.start().await;
    read(&rig, 2, 3);
    rig.until("(SELECT max(failures) FROM receiptd.reader_lists WHERE moved_read = 2) > 0").await;
    rig.stop().await;
    rig.simulator.clear_faults();
    sqlx::query("UPDATE receiptd.reader_lists SET retry_at = NULL").execute(&rig.pool).await.unwrap();
    rig.start().await;
    rig.until("(SELECT count(*) FROM receiptd.message_readers) = 2").await;
    rig.stop().await;
}

#[tokio::test]
async fn nothing_is_stored_after_readers_were_turned_off() {
    let mut rig = one_group().await;
    rig.start().await;
    read(&rig, 2, 3);
    rig.until("(SELECT count(*) FROM receiptd.message_readers) = 2").await;
    sqlx::raw_sql(
        "SELECT receiptd.watch_group(1400000000, 'g', readers => false), receiptd.erase_readers(1400000000, 'g')",
    )
    .execute(&rig.pool)
    .await
    .unwrap();
    read(&rig, 3, 2);
    rig.until("(SELECT read_num FROM receiptd.latest_receipts) = 3").await;
    let asked = rig.simulator.ledger().api(DETAIL).calls();
    rig.simulator.wait_for_calls(rig.simulator.ledger().calls() + 3).await;
    assert_eq!(rig.simulator.ledger().api(DETAIL).calls(), asked);
    assert_eq!(search(&rig, &rig.simulator.world().accounts(&group("g"))).await, 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_forgotten_member_does_not_come_back() {
    let mut rig = one_group().await;
    rig.start().await;
    read(&rig, 2, 3);
    rig.until("(SELECT count(*) FROM receiptd.message_readers) = 2").await;
    let member: String = rig.value("SELECT min(member) FROM receiptd.message_readers").await;
    let forget = sqlx::query("SELECT receiptd.forget_member($1, $2)").bind(APP).bind(&member);
    forget.execute(&rig.pool).await.unwrap();
    read(&rig, 4, 1);
    rig.until(
        "(SELECT count(*) FROM receiptd.message_readers) = 3 AND (SELECT moved_at IS NULL FROM receiptd.reader_lists)",
    )
    .await;
    assert_eq!(search(&rig, &[member]).await, 0);
    rig.stop().await;
}

#[tokio::test]
async fn a_change_of_naming_waits_until_nobody_is_stored() {
    let mut rig = one_group().await;
    rig.start().await;
    rig.until("(SELECT cardinality(not_read) FROM receiptd.reader_lists) = 5").await;
    rig.stop().await;
    rig.settings.session.readers.naming = Naming::Pseudonyms("canary-key-of-32-characters-or-so".into());
    let asked = rig.simulator.ledger().api(DETAIL).calls();
    read(&rig, 2, 3);
    rig.start().await;
    rig.until("(SELECT moved_read FROM receiptd.reader_lists) = 2").await;
    rig.simulator.wait_for_calls(rig.simulator.ledger().calls() + 3).await;
    assert_eq!(rig.simulator.ledger().api(DETAIL).calls(), asked, "a member would have two names");
    let erase = "SELECT receiptd.erase_readers(1400000000, 'g');
        UPDATE receiptd.watched_groups SET readers = false; UPDATE receiptd.watched_groups SET readers = true";
    sqlx::raw_sql(erase).execute(&rig.pool).await.unwrap();
    rig.until("(SELECT count(*) FROM receiptd.message_readers WHERE member LIKE '~%') = 2").await;
    assert_eq!(search(&rig, &rig.simulator.world().accounts(&group("g"))).await, 0);
    rig.stop().await;
}

#[tokio::test]
async fn with_pseudonyms_no_account_is_stored() {
    let mut rig = one_group().await;
    rig.settings.session.readers.naming = Naming::Pseudonyms("canary-key-of-32-characters-or-so".into());
    rig.start().await;
    rig.until("(SELECT cardinality(not_read) FROM receiptd.reader_lists) = 5").await;
    let accounts = rig.simulator.world().accounts(&group("g"));
    // Forgotten by account: the pseudonym is excluded too.
    let forget = sqlx::query("SELECT receiptd.forget_member($1, $2)").bind(APP).bind(&accounts[0]);
    forget.execute(&rig.pool).await.unwrap();
    read(&rig, 5, 0);
    rig.until("(SELECT count(*) FROM receiptd.message_readers) = 4").await;
    assert_eq!(search(&rig, &accounts).await, 0);
    let pseudonym = rig.settings.session.readers.naming.name(app(), &accounts[1]).unwrap();
    let stored = format!("receiptd.readers_of('g', 1) WHERE member = '{}'", pseudonym.as_str());
    assert_eq!(rig.count(&stored).await, 1);
    rig.stop().await;
}

#[tokio::test]
async fn a_refused_reader_holds_up_no_other_group() {
    let mut rig = one_group().await;
    rig.simulator.world().add_group(&group("h"), 6);
    rig.watch("h", [1]).await;
    sqlx::raw_sql(
        "SELECT receiptd.watch_group(1400000000, 'h', readers => true);
         CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'not %', NEW.member USING ERRCODE = 'ZZ001'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON receiptd.message_readers FOR EACH ROW
         WHEN (NEW.group_key = 1) EXECUTE FUNCTION public.refuse()",
    )
    .execute(&rig.pool)
    .await
    .unwrap();
    assert_eq!(rig.count("receiptd.watched_groups WHERE group_key = 1 AND group_id = 'g'").await, 1);
    rig.start().await;
    let counts = receiptd::domain::Counts::new(3, 2).unwrap();
    read(&rig, 2, 3);
    rig.simulator.world().set_receipt(&group("h"), seq(1), counts);
    rig.until("(SELECT count(*) FROM receiptd.member_reads WHERE group_id = 'h') = 3").await;
    rig.until(
        "EXISTS (SELECT FROM receiptd.reader_lists WHERE group_key = 1 AND failures > 0 AND moved_at IS NOT NULL
            AND retry_at > now() + interval '5 seconds')",
    )
    .await;
    let counts = receiptd::domain::Counts::new(5, 0).unwrap();
    rig.simulator.world().set_receipt(&group("h"), seq(1), counts);
    rig.until("(SELECT count(*) FROM receiptd.member_reads WHERE group_id = 'h') = 5").await;
    assert_eq!(rig.count("receiptd.member_reads WHERE group_id = 'g'").await, 0);
    let mend = "DROP TRIGGER refuse ON receiptd.message_readers; UPDATE receiptd.reader_lists SET retry_at = NULL";
    sqlx::raw_sql(mend).execute(&rig.pool).await.unwrap();
    rig.until("(SELECT count(*) FROM receiptd.member_reads WHERE group_id = 'g') = 2").await;
    assert_eq!(rig.count("receiptd.reader_lists WHERE failures > 0").await, 0);
    rig.stop().await;
}
