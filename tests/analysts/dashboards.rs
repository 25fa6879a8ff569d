//! Runs every query in the dashboards: SQL as a reader on a generated history, PromQL with a real Prometheus that
//! scrapes a real daemon.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::{cookbook::make_history, prometheus::Scraped, roles::Member};

fn dashboard(name: &str) -> Value {
    let path = format!("{}/dashboards/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The titles of the panels with their queries.
fn questions(dashboard: &Value, key: &str) -> Vec<(String, Value)> {
    let panels = dashboard["panels"].as_array().unwrap();
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().unwrap().clone();
        assert!(!targets.is_empty(), "{title} asks nothing");
        targets.into_iter().map(move |target| (title.clone(), target))
    };
    let questions: Vec<_> = panels.iter().flat_map(of_panel).collect();
    assert!(questions.iter().all(|(_, target)| target[key].is_string()));
    questions
}

/// Expands a query like Grafana does: several values in quotes, a single one as it is; the macros of its PostgreSQL
/// data source.
fn expanded(sql: &str) -> String {
    const FROM: &str = "'2026-11-09T00:00:00Z'";
    const TO: &str = "'2026-11-23T00:00:00Z'";
    let mut sql = sql.to_owned();
    for (variable, value) in [
        ("$curve_group", "class-4"),
        ("$curve_message", "36"),
        ("$group", "'class-1','class-4'"),
        ("$app", "1400000000"),
    ] {
        sql = sql.replace(variable, value);
    }
    while let Some(start) = sql.find("$__timeFilter(") {
        let end = start + sql[start..].find(')').unwrap();
        let column = sql[start + "$__timeFilter(".len()..end].to_owned();
        sql.replace_range(start..=end, &format!("{column} BETWEEN {FROM} AND {TO}"));
    }
    sql = sql.replace("$__timeFrom()", FROM).replace("$__timeTo()", TO);
    assert!(!sql.contains('$'), "{sql}");
    sql
}

#[tokio::test]
async fn every_query_of_the_analysts_dashboard_gives_a_reader_rows() {
    let member = Member::of("receiptd_reader").await;
    make_history(&member.database);
    let dashboard = dashboard("analysts");
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if variable["type"] == "query" {
            let sql = expanded(variable["query"].as_str().unwrap());
            assert!(member.count(&sql).await > 0, "{sql}");
        }
    }
    for (title, target) in questions(&dashboard, "rawSql") {
        let sql = expanded(target["rawSql"].as_str().unwrap());
        assert!(member.count(&sql).await > 0, "{title}: {sql}");
        if target["format"] == "time_series" {
            let times = format!("SELECT FROM ({sql}) q WHERE pg_typeof(time) = 'timestamptz'::regtype");
            assert!(member.count(&times).await > 0, "{title}: {sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operators_dashboard_expression_has_a_value() {
    let scraped = Scraped::new().await;
    let mut open: BTreeSet<String> = questions(&dashboard("operators"), "expr")
        .iter()
        .map(|(_, target)| target["expr"].as_str().unwrap().to_owned())
        .collect();
    assert!(open.len() > 15, "{open:?}");
    scraped
        .until("every expression has a value", async || {
            for expression in open.clone() {
                let asked = expression.replace("$job", "receiptd").replace("$app", "1400000000");
                let found = scraped.query(&asked).await;
                assert_eq!(found["status"], "success", "{expression}: {found}");
                if found["data"]["result"].as_array().is_some_and(|result| !result.is_empty()) {
                    open.remove(&expression);
                }
            }
            if open.is_empty() { Ok(()) } else { Err(format!("{open:#?}")) }
        })
        .await;
}

#[test]
fn the_dashboards_are_what_grafana_takes() {
    for name in ["analysts", "operators"] {
        let dashboard = dashboard(name);
        assert!(
            dashboard["uid"].is_string()
                && dashboard["title"].is_string()
                && dashboard["schemaVersion"].as_u64() >= Some(38)
        );
        let variables: BTreeSet<&str> = dashboard["templating"]["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|variable| variable["name"].as_str().unwrap())
            .collect();
        let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
        for panel in dashboard["panels"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap();
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title} has the id of another");
            assert!(
                panel["description"].as_str().is_some_and(|text| text.len() > 20),
                "{title} does not say what it shows"
            );
            let place = &panel["gridPos"];
            for x in 0..place["w"].as_u64().unwrap() {
                for y in 0..place["h"].as_u64().unwrap() {
                    let cell = (place["x"].as_u64().unwrap() + x, place["y"].as_u64().unwrap() + y);
                    assert!(cell.0 < 24 && places.insert(cell), "{title} lies on another or beside the grid");
                }
            }
            let source = panel["datasource"]["uid"].as_str().unwrap();
            assert!(variables.contains(source.trim_matches(['$', '{', '}'])), "{title}: {source}");
            assert!(
                panel["type"] == "table" || panel["fieldConfig"]["defaults"]["unit"].is_string(),
                "{title} has no unit"
            );
        }
    }
}
