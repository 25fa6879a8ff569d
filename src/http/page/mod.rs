//! The page at `/`: the present state of the daemon, for people. It needs no JavaScript, loads nothing from other
//! hosts, and refreshes every ten seconds. Read-only.

mod chart;

use std::{sync::Arc, time::Instant};

use axum::{body::Bytes, extract::State, response::Html};
use chrono::TimeDelta;
use indicatif::HumanCount;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::state::{Found, Ops};
use crate::{
    daemon::{activity::Minute, discovery::DiscoveryReport, report::Report},
    domain::Timestamp,
    rules::protocol::error_class,
    store::{DueCall, PageData, QuarantinedGroup, ReadCurve},
    text::counted::counted,
};

const STYLE: &str = include_str!("style.css");

/// `/`.
pub(super) async fn page(State(ops): State<Ops>) -> Html<Bytes> {
    let looks = ops.looks.clone();
    Html(looks.document.get(render(ops)).await)
}

async fn render(ops: Ops) -> Bytes {
    let store = ops.store.clone();
    let look = async move { store.glance().await.map(Arc::new).map_err(|error| error.explain()) };
    let glance = ops.looks.page.get(look).await;
    let now = Instant::now();
    let (report, minutes) = (Report::of(&ops.term, now), ops.term.activity().minutes(now));
    document(&ops, &report, &minutes, &glance, ops.store.clock().now()).into_string().into()
}

fn document(ops: &Ops, report: &Report, minutes: &[Minute], glance: &Found, now: Timestamp) -> Markup {
    let app = ops.store.sdk_app_id();
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content="10";
                title { "receiptd: app " (app) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { "receiptd" }
                    p .trouble[report.trouble.is_some() || report.clock.is_some()] #status { (report) }
                    small { "app " (app) " · version " (env!("CARGO_PKG_VERSION")) " · " (now.format("%Y-%m-%d %H:%M:%S UTC")) }
                }
                (tiles(report))
                section {
                    h2 { "Calls in the last hour, by minute" }
                    (chart::calls(minutes))
                    p .faint .ends { span { "an hour ago" } span { "now" } }
                    (classes(report, minutes))
                }
                @if let Some(words) = &report.webhooks_in_words {
                    section #webhooks { h2 { "Webhooks since the start" } p { (words) } }
                }
                @match glance {
                    Ok(glance) => { (of_database(glance, now)) }
                    Err(why) => { section { h2 { "The database can't be reached" } p .trouble { (why) } } }
                }
            }
        }
    }
}

fn tiles(report: &Report) -> Markup {
    let allowed = report.calls_per_second_allowed;
    let hour = &report.last_hour;
    let tile = |number: String, what: &str, more: String| {
        html! { div .tile { b { (number) } (what) " " br; small { (more) } } }
    };
    let count = |count: i64| HumanCount(count.unsigned_abs()).to_string();
    html! {
        div .tiles {
            (tile(format!("{:.0}", report.calls_per_second), "calls per second", format!("of {allowed} allowed; {} in \
                the busiest second", hour.highest_second)))
            (tile(seconds(report.behind_seconds), "behind", format!("at most {} in the last hour", seconds(hour.latest_by_seconds))))
            @if report.stretch > 1.0 {
                (tile(format!("× {:.1}", report.stretch), "intervals", "longer, since more is due than the limit allows".to_owned()))
            }
            (tile(HumanCount(hour.changes).to_string(), "changes", format!("in the last hour, in {} asked for", counted(hour.messages, "message"))))
            @if let Some(watched) = report.watched {
                (tile(count(watched.messages), "messages watched", format!("in {}, on the schedule as {}", counted(watched.groups.unsigned_abs(), "group"), counted(report.scheduled_calls as u64, "call"))))
                (tile(count(watched.quarantined), "groups quarantined", "refused by Tencent Chat".to_owned()))
            }
            @if let Some(found) = &report.discovery {
                (tile(count(found.totals.watched), "messages discovered", discovered(found)))
            }
        }
    }
}

fn discovered(found: &DiscoveryReport) -> String {
    let groups = counted(found.groups as u64, "group");
    let share =
        found.receipt_share.map_or_else(String::new, |share| format!(", {:.0} % with a receipt", share * 100.0));
    format!("in {groups} followed{share}")
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.1}\u{a0}s")
}

/// The number of calls in the busiest minute, which is the scale of the bars, and the calls by class, in the colours
/// of the bars.
fn classes(report: &Report, minutes: &[Minute]) -> Markup {
    let busiest = minutes.iter().map(Minute::attempts).max().unwrap_or_default();
    html! {
        @if report.last_hour.calls.is_empty() { p .faint { "None yet." } }
        @else {
            p .faint .classes {
                @for (class, calls) in &report.last_hour.calls {
                    span { i .dot .(chart::kind(class)) {} (class) " " (HumanCount(*calls)) }
                }
                span { "busiest minute: " (HumanCount(busiest)) }
            }
        }
    }
}

fn of_database(glance: &PageData, now: Timestamp) -> Markup {
    html! {
        section {
            h2 { "Read curves of the newest messages in the groups polled last" }
            @if glance.curves.is_empty() { p .faint { "No message has been polled yet." } }
            div .curves { @for curve in &glance.curves { (read_curve(curve, now)) } }
        }
        div .columns {
            section { h2 { "Due next" } (due(&glance.due, now)) }
            section #quarantined { h2 { "Quarantined groups" } (quarantined(&glance.quarantined, now)) }
        }
    }
}

fn read_curve(curve: &ReadCurve, now: Timestamp) -> Markup {
    let last = curve.percent.last().copied().unwrap_or_default();
    html! {
        figure {
            figcaption title=(curve.group_id) { (curve.group_id) " #" (curve.msg_seq) }
            (chart::curve(curve, now))
            small { (format!("{last:.0} % read · ")) span .whole { "sent " (span(now - curve.sent_at)) " ago" } }
        }
    }
}

fn due(calls: &[DueCall], now: Timestamp) -> Markup {
    html! {
        @if calls.is_empty() { p .faint { "The schedule is empty." } }
        @else {
            table {
                tr { th { "Group" } th .number { "Messages" } th .number { "Due" } }
                @for call in calls {
                    tr { td { (call.group_id) } td .number { (call.messages) } td .number { (when(call.next_poll_at, now)) } }
                }
            }
        }
    }
}

fn quarantined(groups: &[QuarantinedGroup], now: Timestamp) -> Markup {
    html! {
        @if groups.is_empty() { p .faint { "None." } }
        @else {
            table {
                tr { th { "Group" } th { "Why" } }
                @for group in groups {
                    tr { td { (group.group_id) } td { (why(group)) br; small { "retried " (probed(group.probe_at, now)) } } }
                }
            }
        }
    }
}

/// The code and its remedy; the service's text if there is none.
fn why(group: &QuarantinedGroup) -> String {
    let code = group.state_code.map_or_else(String::new, |code| format!("{code}: "));
    let remedy = group.state_code.and_then(|code| error_class::remedy(code.into()));
    format!("{code}{}", remedy.or(group.state_reason.as_deref()).unwrap_or_default())
}

fn probed(at: Option<Timestamp>, now: Timestamp) -> String {
    at.map_or_else(|| "after it is resumed".to_owned(), |at| when(at.max(now), now))
}

fn when(at: Timestamp, now: Timestamp) -> String {
    match (at - now).num_seconds() {
        0 => "now".to_owned(),
        1.. => format!("in {}", span(at - now)),
        _ => format!("{} ago", span(now - at)),
    }
}

/// A duration in its largest unit.
fn span(span: TimeDelta) -> String {
    match span.num_seconds() {
        seconds @ ..120 => format!("{} s", seconds.max(0)),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}
