//! All metrics, with what each tells. Those that are states are told when they are asked for.
//!
//! docs/operators.md has a line for each. Names follow Prometheus: base units, `_total` for counters. All have the app as
//! `sdk_app_id`; no other label has a value that comes from outside, but for error codes and SQLSTATEs.

use std::time::Instant;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::{
    chat::{Class, error_class},
    domain::SdkAppId,
    report::Report,
    store::ERROR_CLASSES,
    term::{Role, TermStatus},
};

const COUNTERS: [(&str, &str); 16] = [
    ("receiptd_calls_total", "Attempts to call Tencent Chat, by class of the outcome and error code."),
    ("receiptd_messages_asked_total", "Messages that attempts asked for."),
    ("receiptd_changes_total", "Receipts that differed from those before."),
    ("receiptd_snapshots_total", "Rows written to receipt_snapshots."),
    ("receiptd_messages_slotted_total", "New messages that were put into the schedule."),
    (
        "receiptd_messages_set_apart_total",
        "Messages that got a call of their own since calls for them fail and those for others of their group don't.",
    ),
    ("receiptd_flushes_total", "Transactions that stored polls."),
    ("receiptd_flush_failures_total", "Attempts to store polls that failed and were made again, by SQLSTATE."),
    ("receiptd_database_errors_total", "Operations on the database that failed, by class."),
    ("receiptd_recordings_lost_total", "Polls whose results were lost since they could not be stored, by reason."),
    (
        "receiptd_set_aside_total",
        "Rows that the tables refused and that are kept in receiptd.set_aside, with the reason.",
    ),
    (
        "receiptd_receipts_dropped_total",
        "Receipts that were not stored: their messages were unwatched and then watched again or forgotten while they were polled.",
    ),
    ("receiptd_partitions_dropped_total", "Old partitions that were dropped."),
    (
        "receiptd_rollup_passed_over_total",
        "Groups that could not be rolled up and were passed over: see receiptd.rollup_passed_over.",
    ),
    ("receiptd_job_failures_total", "Roll-ups and removals of what is old that failed."),
    (
        "receiptd_http_connections_displaced_total",
        "Connections to http.listen that were closed to make room for newer ones.",
    ),
];

const GAUGES: [(&str, &str); 24] = [
    ("receiptd_build_info", "Always 1; the version is a label."),
    ("receiptd_is_polling", "1 if this receiptd has the lease of its app, 0 if it stands by."),
    ("receiptd_lease_epoch", "The epoch of the lease, which counts up with every holder; 0 while standing by."),
    ("receiptd_calls_per_second", "Calls a second, over the last ten seconds."),
    ("receiptd_calls_per_second_allowed", "The rate that is allowed just now: lower after slow-downs."),
    (
        "receiptd_batch_size",
        "Maximum number of messages of a call: less than polling.batch_size if the service takes less.",
    ),
    ("receiptd_budget_used_ratio", "Calls a second, as a part of polling.max_calls_per_second."),
    ("receiptd_calls_highest_second", "The most calls within any second of the last hour, as sent."),
    ("receiptd_behind_seconds", "How long the most overdue of the polls that have not begun has been due."),
    ("receiptd_due_lag_seconds", "How late the latest poll began, by cadence and tier."),
    ("receiptd_scheduled_calls", "Calls on the schedule: messages of a group that are polled together."),
    ("receiptd_polls_in_flight", "Polls under way."),
    ("receiptd_held_groups", "Groups that are refused and not asked for now, until it is known who is to blame."),
    ("receiptd_is_answered", "1 if Tencent Chat answers calls, 0 while it answers none and few are made."),
    ("receiptd_recordings_waiting", "Polls whose results wait to be stored."),
    (
        "receiptd_last_success_timestamp_seconds",
        "When a call was last answered, in seconds since 1970; 0 if never yet.",
    ),
    ("receiptd_watched_groups", "Groups that are polled, as last counted."),
    ("receiptd_watched_messages", "Messages that are polled, as last counted."),
    ("receiptd_quarantined_groups", "Groups that the service refuses, as last counted."),
    (
        "receiptd_partitions_until_timestamp_seconds",
        "Until when all days from today on have their partitions, in seconds since 1970.",
    ),
    (
        "receiptd_rolled_up_until_timestamp_seconds",
        "Until when snapshots and calls are rolled up, in seconds since 1970.",
    ),
    (
        "receiptd_clock_offset_seconds",
        "How far this machine's clock is ahead of the database's; negative if it is behind.",
    ),
    (
        "receiptd_clock_is_doubted",
        "1 while nothing expires or is removed since a clock is wrong or was just set, else 0.",
    ),
    ("receiptd_is_storing", "1 if what polls bring back is stored, 0 while it can't be."),
];

const HISTOGRAMS: [(&str, &str, &[f64]); 5] = [
    ("receiptd_call_seconds", "Time from sending an attempt to its outcome.", &SECONDS),
    ("receiptd_call_messages", "Messages that an attempt asked for.", &SIZES),
    ("receiptd_flush_seconds", "Time of the transactions that stored polls.", &SECONDS),
    ("receiptd_flush_rows", "Rows of the transactions that stored polls.", &SIZES),
    ("receiptd_rollup_seconds", "Time that bringing the roll-ups up to date took.", &SECONDS),
];

const SECONDS: [f64; 12] = [0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
const SIZES: [f64; 11] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0];

/// What flushes fail with most often: no answer, a constraint, a server that only reads, conflicts, a right, disk, memory,
/// connections, locks, a timeout, a shutdown. Others appear with their first failure.
const SQLSTATES: [&str; 12] =
    ["none", "23514", "25006", "40001", "40P01", "42501", "53100", "53200", "53300", "55P03", "57014", "57P01"];

/// Installs the recorder of metrics, once in a process, for the app that it polls.
///
/// # Errors
/// If another recorder is installed already.
pub fn install_metrics(app: SdkAppId) -> Result<PrometheusHandle, BuildError> {
    let with_buckets = |builder: PrometheusBuilder, (name, _, buckets): &(&str, &str, &[f64])| {
        builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)
    };
    // Several apps may be scraped as one job: what is wrong with one must not be hidden by another.
    let builder = PrometheusBuilder::new().add_global_label("sdk_app_id", app.to_string());
    let handle = HISTOGRAMS.iter().try_fold(builder, with_buckets)?.install_recorder()?;
    COUNTERS.iter().for_each(|(name, what)| describe_counter!(*name, *what));
    GAUGES.iter().for_each(|(name, what)| describe_gauge!(*name, *what));
    HISTOGRAMS.iter().for_each(|(name, what, _)| describe_histogram!(*name, *what));
    begin_at_zero();
    Ok(handle)
}

/// A counter that appears with its first event can't be watched for it.
fn begin_at_zero() {
    const LABELLED: [&str; 4] = [
        "receiptd_calls_total",
        "receiptd_flush_failures_total",
        "receiptd_database_errors_total",
        "receiptd_recordings_lost_total",
    ];
    for (name, _) in COUNTERS.iter().filter(|(name, _)| !LABELLED.contains(name)) {
        counter!(*name).absolute(0);
    }
    for known in error_class::CODES {
        counter!("receiptd_calls_total", "class" => known.class.name(), "code" => known.code.to_string()).absolute(0);
    }
    // A call that broke on its way, or that something in between answered.
    for class in [Class::Retry, Class::Unknown] {
        counter!("receiptd_calls_total", "class" => class.name(), "code" => "none").absolute(0);
    }
    for sqlstate in SQLSTATES {
        counter!("receiptd_flush_failures_total", "sqlstate" => sqlstate).absolute(0);
    }
    for class in ERROR_CLASSES {
        counter!("receiptd_database_errors_total", "class" => class).absolute(0);
    }
    for reason in ["stopped", "lease_lost", "too_late"] {
        counter!("receiptd_recordings_lost_total", "reason" => reason).absolute(0);
    }
    gauge!("receiptd_last_success_timestamp_seconds").set(0.0);
    gauge!("receiptd_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Tells the states as they are now.
pub(super) fn tell(term: &TermStatus) {
    let report = Report::of(term, Instant::now());
    let poller = term.poller();
    let limit = poller.as_ref().map_or(0, |poller| poller.limit());
    let used = if limit == 0 { 0.0 } else { report.calls_per_second / f64::from(limit) };
    let as_number = |is_so: bool| f64::from(u8::from(is_so));
    for (name, value) in [
        ("receiptd_is_polling", as_number(report.role == Role::Polling)),
        ("receiptd_is_storing", as_number(!term.is_stuck())),
        ("receiptd_lease_epoch", report.epoch.unwrap_or_default() as f64),
        ("receiptd_calls_per_second", report.calls_per_second),
        ("receiptd_calls_per_second_allowed", f64::from(report.calls_per_second_allowed)),
        ("receiptd_batch_size", report.batch_size as f64),
        ("receiptd_budget_used_ratio", used),
        ("receiptd_calls_highest_second", report.last_hour.highest_second as f64),
        ("receiptd_behind_seconds", report.behind_seconds),
        ("receiptd_scheduled_calls", report.scheduled_calls as f64),
        ("receiptd_polls_in_flight", report.polls_in_flight as f64),
        ("receiptd_held_groups", report.held_groups as f64),
        ("receiptd_is_answered", as_number(poller.as_ref().is_none_or(|poller| poller.outage().is_none()))),
        ("receiptd_recordings_waiting", poller.as_ref().map_or(0, |poller| poller.waiting_to_be_stored()) as f64),
    ] {
        gauge!(name).set(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_a_line_in_the_docs() {
        let docs = include_str!("../../docs/operators.md");
        let names = COUNTERS.iter().chain(&GAUGES).map(|(name, _)| *name).chain(HISTOGRAMS.map(|(name, ..)| name));
        let missing: Vec<&str> = names.filter(|name| !docs.contains(&format!("| `{name}"))).collect();
        assert!(missing.is_empty(), "docs/operators.md says nothing of {missing:?}");
    }
}
