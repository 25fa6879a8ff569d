//! The status in words.

use indicatif::HumanCount;
use receiptd::{
    domain::Timestamp,
    host::Holder,
    store::{DiscoveryTotals, Overview, Watched},
    text::{counted::counted, printable::printable},
};

use super::look::Status;
use crate::cli::relative::since;

/// The status as lines, each with its name.
pub fn lines(status: &Status, place: &str, now: Timestamp) -> Vec<String> {
    facts(status, place, now).iter().map(|(what, how)| format!("{what:<11} {}", printable(how))).collect()
}

fn facts(status: &Status, place: &str, now: Timestamp) -> Vec<(&'static str, String)> {
    let Status { database, trouble, clock, daemon, daemon_unheard, discovery } = status;
    let Watched { groups, messages, quarantined } = database.watched;
    let refused =
        if quarantined > 0 { format!("; quarantined: {}", number(quarantined, "group")) } else { String::new() };
    let ago = |time: Timestamp| format!("{} ago", since(time, now));
    let line = daemon.as_ref().and_then(|daemon| daemon["line"].as_str());
    let mut lines = vec![
        ("database", place.to_owned()),
        (
            "polled by",
            match (&database.holder, database.polling_since) {
                (Some(holder), Some(from)) => format!("{}, for {}", Holder::in_words(holder), since(from, now)),
                _ => "nobody: start receiptd, or run `receiptd check` to see why it waits".to_owned(),
            },
        ),
        ("watched", format!("{} in {}{refused}", number(messages, "message"), number(groups, "group"))),
        ("due", due(database, now)),
        ("calls", calls_made(database, now)),
        (
            "rolled up",
            database.rolled_up_until.map_or_else(|| "nothing yet".to_owned(), |until| format!("until {}", ago(until))),
        ),
        ("partitions", format!("exist for {}, including today", counted(database.partition_runway_days as u64, "day"))),
        ("set aside", number(database.set_aside, "row")),
        ("passed over", format!("{} of groups skipped by the roll-up", number(database.passed_over, "hour"))),
        ("daemon", line.or(daemon_unheard.as_deref()).unwrap_or("no information").to_owned()),
    ];
    let webhooks = daemon.as_ref().and_then(|daemon| daemon["webhooks_in_words"].as_str());
    lines.extend(webhooks.map(|words| ("webhooks", words.to_owned())));
    lines.extend(discovery.map(|found| ("discovery", discovered(&found))));
    lines.extend(warnings(database));
    let stretched = (database.stretch > 1.0).then(|| stretched(database.stretch));
    lines.extend(stretched.map(|stretched| ("intervals", stretched)));
    let limit = |taken| ("batch", format!("Tencent Chat takes at most {} in a call", number(taken, "message")));
    lines.extend(database.batch_taken.map(|taken| limit(taken.into())));
    // The daemon's line contains it already if it is the lease holder.
    lines.extend(trouble.clone().filter(|trouble| Some(trouble.as_str()) != line).map(|trouble| ("trouble", trouble)));
    lines.extend(clock.clone().map(|clock| ("clock", clock)));
    lines
}

/// The stretch, in words.
fn stretched(factor: f64) -> String {
    format!("{factor:.1} times as long, since more is due than the limit allows")
}

fn discovered(found: &DiscoveryTotals) -> String {
    let share =
        found.receipt_share().map_or_else(String::new, |share| format!(", {:.0} % with a receipt", share * 100.0));
    format!("{} followed, {} watched{share}", number(found.groups, "group"), number(found.watched, "message"))
}

/// The calls of the last ten minutes.
fn calls_made(database: &Overview, now: Timestamp) -> String {
    let Some(last) = database.last_call_at else { return "none in 10 minutes".to_owned() };
    let calls: i64 = database.calls.iter().map(|(_, count)| count).sum();
    let classes: Vec<String> =
        database.calls.iter().map(|(class, count)| format!("{class} {}", HumanCount(count.unsigned_abs()))).collect();
    format!("{} in 10 minutes ({}), the last one {} ago", number(calls, "call"), classes.join(", "), since(last, now))
}

/// Configured cadences and apps that don't match the watched groups.
fn warnings(database: &Overview) -> impl Iterator<Item = (&'static str, String)> {
    let unpolled = |(app, groups): &(i64, i64)| {
        let groups = number(*groups, "group");
        format!("app {app} has {groups}, but no receiptd polls it: start one for it, or correct the app id")
    };
    let missing = |(cadence, groups): &(String, i64)| {
        let groups = number(*groups, "group");
        format!("cadence {cadence:?} is not configured: {groups} with it will use the default")
    };
    let unpolled = database.unpolled_apps.iter().map(unpolled);
    unpolled.chain(database.missing_cadences.iter().map(missing)).map(|warning| ("warning", warning))
}

/// The polls that should have been made by now.
fn due(database: &Overview, now: Timestamp) -> String {
    let late = database
        .overdue_since
        .map(|first| format!("{}, overdue for up to {}", number(database.overdue_calls, "call"), since(first, now)));
    let wait_for = if database.holder.is_some() { "to be scheduled" } else { "for a poller" };
    let new =
        (database.unslotted > 0).then(|| format!("{} waiting {wait_for}", number(database.unslotted, "new message")));
    let due: Vec<String> = late.into_iter().chain(new).collect();
    if due.is_empty() { "nothing: all polls are on time".to_owned() } else { due.join("; ") }
}

fn number(number: i64, thing: &str) -> String {
    counted(number.unsigned_abs(), thing)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn overview(holder: Option<&str>, unslotted: i64, overdue: Option<(i64, Timestamp)>) -> Overview {
        Overview {
            holder: holder.map(str::to_owned),
            polling_since: None,
            epoch: None,
            watched: Watched { groups: 0, messages: 0, quarantined: 0 },
            unslotted,
            overdue_calls: overdue.map_or(0, |(calls, _)| calls),
            overdue_since: overdue.map(|(_, since)| since),
            calls: vec![],
            last_call_at: None,
            stretch: 1.0,
            batch_taken: None,
            rolled_up_until: None,
            partition_runway_days: 8,
            set_aside: 0,
            passed_over: 0,
            unpolled_apps: vec![],
            missing_cadences: vec![],
        }
    }

    #[test]
    fn due_work_includes_new_messages_with_their_reason_to_wait() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        let late = Some((1_200, now - TimeDelta::seconds(90)));
        for (database, said) in [
            (overview(Some("vm"), 0, None), "nothing: all polls are on time"),
            (overview(None, 20_000, None), "20,000 new messages waiting for a poller"),
            (
                overview(Some("vm"), 7, late),
                "1,200 calls, overdue for up to 1m 30s; 7 new messages waiting to be scheduled",
            ),
        ] {
            assert_eq!(due(&database, now), said);
        }
    }
}
