//! `receiptd status`, `explain` and `plan` from an operator's view: the real binary, a real PostgreSQL, no poller.

use serde_json::Value;

use crate::{
    commands::{receiptd, seeded},
    common::TestDatabase,
    harness::APP,
};

/// A command's output as JSON.
fn json(database: &TestDatabase, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let (code, out, err) = receiptd(database, &arguments);
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

/// A watched group whose messages are on the schedule, as a daemon would have put them there.
fn schedule(database: &TestDatabase, group: &str, messages: i32) {
    database.psql(&format!(
        "SELECT receiptd.watch_messages({APP}, '{group}', array(SELECT generate_series(1, {messages})::bigint));
         WITH made AS (
            INSERT INTO receiptd.poll_slots (group_key, next_poll_at, msg_seqs, sent_at, aged_from, first_polled_at, read_num,
                member_num, code, changed_at, known_apart, no_receipt_polls, refused_since)
            SELECT group_key, now() + interval '1 hour', array_agg(msg_seq), array_agg(sent_at), array_agg(aged_from),
                array_agg(first_polled_at), array_agg(read_num), array_agg(read_num + unread_num), array_agg(receipt_code),
                array_agg(last_changed_at), array_agg(known_until), array_agg(no_receipt_polls), array_agg(refused_since)
            FROM receiptd.watched_messages JOIN receiptd.watched_groups USING (group_key) WHERE group_id = '{group}'
            GROUP BY group_key RETURNING *
         )
         UPDATE receiptd.watched_messages m SET slot_id = made.slot_id FROM made WHERE m.group_key = made.group_key"
    ));
}

#[tokio::test]
async fn status_tells_how_things_stand_by_the_database_alone() {
    let database = seeded().await;
    schedule(&database, "team", 3);
    database.psql("UPDATE receiptd.poll_slots SET next_poll_at = now() - interval '90 seconds'");
    let (code, out, _) = receiptd(&database, &["status", "--set", "http.listen=off"]);
    assert_eq!(code, 0);
    for part in [
        "nobody: start receiptd",
        "watched     ",
        " overdue for up to 1m 3",
        "none in 10 minutes",
        "rolled up   until ",
        "set aside   0 rows",
        "does not answer",
    ] {
        assert!(out.contains(part), "{part} is not in\n{out}");
    }
    let status = json(&database, &["status", "--set", "http.listen=off"]);
    assert_eq!((&status["database"]["holder"], &status["daemon"]), (&Value::Null, &Value::Null));
    assert!(status["database"]["overdue_calls"].as_i64().unwrap() > 0, "{status}");
}

#[tokio::test]
async fn status_and_list_warn_of_unpolled_apps_and_unknown_cadences() {
    let database = seeded().await;
    database.psql(&format!(
        "SELECT receiptd.watch_group(1400000999, 'elsewhere'), receiptd.watch_group({APP}, 'weekly group', cadence => 'weekly');
         UPDATE receiptd.poller_leases SET cadences = '{{\"default\": \"every minute\"}}' WHERE sdk_app_id = {APP}"
    ));
    let (_, out, _) = receiptd(&database, &["status", "--set", "http.listen=off"]);
    for part in [
        "app 1400000999 has 1 group, but no receiptd polls it",
        "cadence \"weekly\" is not configured: 1 group with it",
    ] {
        assert!(out.contains(part), "{part} is not in\n{out}");
    }
    let (_, _, err) = receiptd(&database, &["watch", "list"]);
    assert!(err.contains("no receiptd polls this app"), "{err}");
    database.psql(&format!(
        "UPDATE receiptd.poller_leases SET holder = 'a', expires_at = now() + interval '1 hour' WHERE sdk_app_id = {APP};
         INSERT INTO receiptd.poller_leases (sdk_app_id, holder, epoch, acquired_at, expires_at)
         VALUES (1400000999, 'b', 1, now(), now() + interval '1 hour')"
    ));
    let (_, out, _) = receiptd(&database, &["status", "--set", "http.listen=off"]);
    assert!(!out.contains("no receiptd polls it"), "{out}");
    assert_eq!(receiptd(&database, &["watch", "list"]).2, "");
}

#[tokio::test]
async fn explain_gives_the_reason_and_the_slot_of_an_unpolled_message() {
    let database = seeded().await;
    schedule(&database, "team", 3);
    let (code, out, _) = receiptd(&database, &["explain", "team", "2"]);
    assert_eq!(code, 0);
    for part in
        ["No receiptd polls this app", "It is due in 59m", "cadence default", "messages 1, 2, 3", "calls    none"]
    {
        assert!(out.contains(part), "{part} is not in\n{out}");
    }
    database.psql(&format!("SELECT receiptd.pause_group({APP}, 'team')"));
    let answer = json(&database, &["explain", "team"]);
    assert_eq!(answer["slots"][0]["msg_seqs"], serde_json::json!([1, 2, 3]));
    assert!(answer["why"].to_string().contains("The group is paused: `receiptd watch resume team`"), "{answer}");
    let (code, _, err) = receiptd(&database, &["explain", "nobody"]);
    assert!(code == 65 && err.contains("not on the watch list"), "{err}");
    let (_, out, _) = receiptd(&database, &["explain", "team", "77"]);
    assert!(out.contains("Message 77 is not watched"), "{out}");
}

#[tokio::test]
async fn plan_counts_what_is_watched_and_what_might_be() {
    let database = TestDatabase::new().await;
    assert_eq!(receiptd(&database, &["migrate"]).0, 0);
    schedule(&database, "team", 3);
    let tiers = "cadence.default.tiers=[{ until = \"1h\", every = \"1m\" }, { until = \"1d\", every = \"10m\" }]";
    let plan = json(&database, &["plan", "--hours", "3", "--set", tiers]);
    let hours = plan["hours"].as_array().unwrap();
    let rate = |hour: usize| hours[hour]["calls_per_second"].as_f64().unwrap();
    // One call per minute for an hour, then one per ten minutes; rounded to ten minutes, by which calls are grouped.
    assert!((rate(0) * 60.0 - 1.0).abs() < 0.2 && (rate(2) * 600.0 - 1.0).abs() < 1e-9, "{plan}");
    assert_eq!((hours.len(), &plan["saturates_at"]), (3, &Value::Null));
    let often = "cadence.default.tiers=[{ until = \"1d\", every = \"1s\" }]";
    let (_, out, _) = receiptd(&database, &["plan", "--set", often, "--set", "polling.max_calls_per_second=1"]);
    assert!(
        out.lines().count() == 27
            && out.contains("No new messages are assumed")
            && out.contains("more is due than the limit of 1 call per second"),
        "{out}"
    );
    let at_a_pace = json(&database, &["plan", "--hours", "3"]);
    let calls = |plan: &Value| plan["hours"].as_array().unwrap()[0]["calls_per_second"].as_f64().unwrap();
    assert!(
        (0.1..0.9).contains(&(calls(&at_a_pace) / calls(&plan))),
        "three unread messages don't need a call a minute"
    );
    let more =
        [&["plan", "--hours", "2", "--set", tiers][..], &["--more-messages", "6000", "--in-groups", "100"]].concat();
    let more = json(&database, &more);
    // 100 groups with 60 messages an hour each, 50 in a call: a young slot in each group, once a minute, and after 50
    // minutes 20 more that are full, for five minutes on average.
    let added = more["hours"][0]["calls_per_second"].as_f64().unwrap() - rate(0);
    assert!((added * 3_600.0 - (100.0 * 60.0 + 20.0 * 5.0)).abs() < 10.0, "{more}");
    let (_, out, _) = receiptd(&database, &["plan"]);
    assert!(out.contains("At a pace of 24m: ") && out.contains("At a pace of 6m: "), "{out}");
    let (code, _, err) = receiptd(&database, &["plan", "--more-messages", "5", "--in-groups", "9"]);
    assert!(code != 0 && err.contains("--in-groups to 5 or fewer"), "{err}");
}

#[tokio::test]
async fn a_pace_is_tried_on_the_reads_that_are_stored() {
    let database = TestDatabase::new().await;
    assert_eq!(receiptd(&database, &["migrate"]).0, 0);
    let seed = ["seed", "--groups", "2", "--messages", "40", "--days", "2", "--members", "9"];
    assert_eq!(receiptd(&database, &seed).0, 0);
    let plan = json(&database, &["plan", "--try", "pace=48m", "--try", "patience=32"]);
    let (now, tried) = (&plan["tried"]["now"], &plan["tried"]["tried"]);
    let calls = |found: &Value| found["calls"].as_u64().unwrap();
    assert!(calls(tried) < calls(now) && calls(tried) > 0, "{plan}");
    assert!(plan["tried"]["messages"].as_u64().unwrap() > 0, "{plan}");
    let (_, out, _) = receiptd(&database, &["plan", "--try", "pace=48m"]);
    assert!(out.contains("pace=48m: ") && out.contains(" % of the calls, milestones "), "{out}");
    let (group, slow) = ("SELECT min(group_key) FROM receiptd.watched_groups", "[{ until = \"30d\", every = \"5m\" }]");
    database.psql(&format!("UPDATE receiptd.watched_groups SET cadence = 'slow' WHERE group_key = ({group})"));
    let slow = format!("cadence.slow.tiers={slow}");
    let of = |trial: &str| json(&database, &["plan", "--set", &slow, "--try", trial])["tried"]["groups"].clone();
    assert_eq!((of("slow.pace=1h"), of("pace=48m")), (1.into(), 1.into()), "each in the groups that have it");
    let (code, _, err) = receiptd(&database, &["plan", "--try", "slow.pace=1h"]);
    assert!(code == 64 && err.contains("the cadence slow to try is not configured"), "{code} {err}");
    let (code, _, err) = receiptd(&database, &["plan", "--try", "tiers=1"]);
    assert!(code == 64 && err.contains("the settings to try are pace, patience and fastest"), "{code} {err}");
}

#[tokio::test]
async fn config_shows_what_holds_and_no_secret() {
    let database = TestDatabase::new().await;
    let (code, out, _) = receiptd(&database, &["config"]);
    assert_eq!(code, 0);
    assert!(out.contains("url = \"***\"  # DATABASE_URL") && !out.contains("postgres://"), "{out}");
    assert!(out.contains("sdk_app_id = \"1400000000\"  # RECEIPTD_CHAT__SDK_APP_ID"), "{out}");
    assert!(out.contains("\n[polling]\nmax_calls_per_second = 200  # default\n"), "{out}");
    let settings: Value = serde_json::from_str(&receiptd(&database, &["config", "--json"]).1).unwrap();
    assert!(settings.as_array().unwrap().iter().all(|setting| setting["key"].is_string()));
}
