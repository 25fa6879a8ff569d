//! The HTTP endpoints, and their alerts.

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
    time::Duration,
};

use receiptd::simulator::{Fault, FaultRule, When};
use sqlx::PgPool;

use crate::{
    common::TestDatabase,
    harness::{Harness, end, get, migrate, signal, watch},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_it_stops_it_can_be_asked_how_that_goes() {
    let (mut place, database) = (Harness::new("stopping", 200).await, TestDatabase::new().await);
    let listen = place.listens();
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let fault = Fault::ExtraDelay { duration: Duration::from_secs(5) };
    place.simulator.add_fault(FaultRule { fault, when: When::All, times: None });
    watch(&PgPool::connect(&database.url()).await.unwrap(), 1, 1).await;
    place.simulator.wait_for_calls(1).await;
    signal(&daemon, "-TERM");
    place.hears("STOPPING=1");
    let (status, metrics) = get(listen, "/metrics").await;
    assert!(status == 200 && metrics.contains("receiptd_polls_in_flight{sdk_app_id=\"1400000000\"} 1"), "{metrics}");
    assert_eq!(end(daemon).0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_readiness_and_metrics_tell_what_is_so_and_no_secret() {
    let (mut place, database) = (Harness::new("ops", 200).await, TestDatabase::new().await);
    let listen = place.listens();
    let daemon = place.spawn(Some(&database));
    place.hears("READY=1");
    let get = async |path: &str| get(listen, path).await;
    assert_eq!(get("/healthz").await, (200, r#"{"ok":true}"#.to_owned()));
    let ready = r#"{"database":{"ok":true},"schema":{"ok":true},"lease":{"ok":true},"credentials":{"ok":true},"service":{"ok":true},"storing":{"ok":true},"clock":{"ok":true}}"#;
    let untried =
        r#""credentials":{"ok":true,"reason":"not known yet: no call has been answered since polling began"}"#;
    while get("/readyz").await != (200, ready.replace(r#""credentials":{"ok":true}"#, untried)) {}
    let pool = PgPool::connect(&database.url()).await.unwrap();
    watch(&pool, 3, 3).await;
    place.simulator.wait_for_ended_calls(3).await;
    while get("/readyz").await != (200, ready.to_owned()) {}
    place.simulator.add_fault(FaultRule { fault: Fault::ErrorCode { code: 60021 }, when: When::All, times: None });
    let calls = place.simulator.ledger().ended_calls();
    place.simulator.wait_for_ended_calls(calls + 1).await;
    let (mut status, mut body) = get("/readyz").await;
    while status == 200 {
        (status, body) = get("/readyz").await;
    }
    assert!(status == 503 && body.contains("60021"), "{body}");
    let (_, metrics) = get("/metrics").await;
    for line in [
        "receiptd_calls_total{sdk_app_id=\"1400000000\",class=\"success\",code=\"0\"}",
        "class=\"app_fault\",code=\"60021\"} ",
        "reason=\"stopped\"} 0",
        "class=\"retry\",code=\"none\"} 0",
        "class=\"unknown\",code=\"none\"} 0",
        "receiptd_flush_failures_total{sdk_app_id=\"1400000000\",sqlstate=\"none\"} 0",
        "class=\"slow_down\",code=\"60007\"} 0",
        "class=\"deadline\"} 0",
        "cadence=\"default\",tier=\"1h\"}",
        "receiptd_is_storing{sdk_app_id=\"1400000000\"} 1",
        "receiptd_lease_epoch{sdk_app_id=\"1400000000\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    assert!(!metrics.contains("canary") && !body.contains("canary"));
    let status = ["status", "--json", "--config", place.write_config().to_str().unwrap()].map(str::to_owned);
    let mut command = Command::new(env!("CARGO_BIN_EXE_receiptd"));
    // A proxy in the environment is not used for this machine.
    command.args(status).env("DATABASE_URL", database.url()).env("http_proxy", "http://127.0.0.1:1");
    let status: serde_json::Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    assert!(status["database"]["holder"].as_str().unwrap().contains(&daemon.id().to_string()), "{status}");
    assert!(status["daemon"]["trouble"].as_str().unwrap().contains("code 60021"), "{status}");
    assert_eq!((&status["daemon"]["role"], &status["daemon"]["epoch"]), (&"polling".into(), &1.into()), "{status}");
    assert_eq!(promtool_check(&metrics), "", "{metrics}");
    database.psql("UPDATE receiptd.schema_migrations SET version = 9999 WHERE version = 1");
    let (mut status, mut body) = get("/readyz").await;
    // The database is queried once a second, however often it is asked for.
    while status == 503 && !body.contains("it is at migration 9999") {
        (status, body) = get("/readyz").await;
    }
    assert_eq!(status, 503, "{body}");
    signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
}

/// promtool's findings about an exposition.
fn promtool_check(metrics: &str) -> String {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let Output { stdout, stderr, .. } = promtool.wait_with_output().unwrap();
    String::from_utf8([stdout, stderr].concat()).unwrap()
}

#[test]
fn every_alert_fires_where_it_should_and_none_while_all_is_well() {
    let dashboards = concat!(env!("CARGO_MANIFEST_DIR"), "/dashboards");
    let tested = Command::new("promtool").args(["test", "rules", "alerts_test.yml"]).current_dir(dashboards).output();
    let tested = tested.unwrap();
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stdout));
    let file = |name: &str| fs::read_to_string(format!("{dashboards}/{name}")).unwrap();
    let (tests, docs) = (file("alerts_test.yml"), file("../docs/operators.md"));
    for name in file("alerts.yml").lines().filter_map(|line| line.trim().strip_prefix("- alert: ").map(str::to_owned)) {
        assert!(tests.contains(&format!("- name: {name}\n")), "{name} has no test");
        let runbook = docs.split(&format!("\n### {name}\n")).nth(1).and_then(|rest| rest.split("\n#").next());
        let runbook = runbook.unwrap_or_else(|| panic!("{name} has no runbook"));
        assert!(runbook.contains("- **Check** ") && runbook.contains("- **Do** "), "{name}: {runbook}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_long_partitions_last_is_told_also_where_none_can_be_made() {
    let (mut place, database) = (Harness::new("runway", 200).await, TestDatabase::new().await);
    let listen = place.listens();
    migrate(&database);
    database.psql(
        "DO $$ BEGIN EXECUTE 'DROP TABLE receiptd_partitions.api_calls_' || to_char(now() AT TIME ZONE 'UTC' + interval '1 day', 'YYYYMMDD'); END $$;
         CREATE OR REPLACE FUNCTION receiptd.ensure_partition(parent text, day date) RETURNS boolean LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'no partitions today'; END $$",
    );
    let daemon = place.spawn(Some(&database));
    place.hears_of(|line| line.starts_with("STATUS=waiting for the database: ") && line.contains("no partitions"));
    let until = "SELECT extract(epoch FROM date_trunc('day', now(), 'UTC'))::bigint + 86400";
    let line = format!(
        "\nreceiptd_partitions_until_timestamp_seconds{{sdk_app_id=\"1400000000\"}} {}\n",
        database.psql(until)
    );
    let (_, metrics) = get(listen, "/metrics").await;
    assert!(metrics.contains(&line), "{line} is missing in\n{metrics}");
    signal(&daemon, "-TERM");
    assert_eq!(end(daemon).0, Some(0));
}
