//! All metrics and their descriptions. Gauges are set when they are scraped.
//!
//! docs/operators.md has a line for each. Names follow Prometheus: base units, `_total` for counters. All have the
//! app as the label `sdk_app_id`; no other label has external values, except error codes and SQLSTATEs.

use std::time::Instant;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::{
    clock,
    daemon::{
        events::Dropped,
        report::Report,
        status::{DaemonStatus, Role},
    },
    domain::SdkAppId,
    rules::{
        discovery::Passed,
        protocol::{Class, error_class},
        webhooks::Refusal,
    },
    store::ERROR_CLASSES,
};

const COUNTERS: [(&str, &str); 29] = [
    ("receiptd_calls_total", "Attempts to call Tencent Chat, by class of the outcome and error code."),
    (
        "receiptd_other_calls_total",
        "Attempts to call APIs other than that for receipts, each with its own limit, by API and class of the outcome.",
    ),
    ("receiptd_messages_asked_total", "Messages asked for by attempts."),
    ("receiptd_changes_total", "Receipts that differed from the previous ones."),
    ("receiptd_snapshots_total", "Rows written to receipt_snapshots."),
    ("receiptd_readers_total", "Reads stored with their members, in groups with readers on."),
    ("receiptd_messages_slotted_total", "New messages added to the schedule."),
    ("receiptd_discovered_messages_total", "Messages that discovery has watched."),
    ("receiptd_passed_messages_total", "Messages that discovery has passed over, by reason."),
    ("receiptd_discovery_failures_total", "Failed attempts to store discovered messages; each is repeated."),
    (
        "receiptd_discovery_refusals_total",
        "Groups of discovery whose rows the database refused, at each attempt to store them.",
    ),
    ("receiptd_messages_set_apart_total", "Messages isolated in a call of their own, since only calls for them fail."),
    ("receiptd_flushes_total", "Transactions that stored polls."),
    ("receiptd_flush_failures_total", "Failed attempts to store polls, by SQLSTATE; each is retried."),
    ("receiptd_database_errors_total", "Failed database operations, by class."),
    ("receiptd_recordings_lost_total", "Polls whose results were lost, by reason."),
    ("receiptd_set_aside_total", "Rows refused by the tables and kept in receiptd.set_aside."),
    (
        "receiptd_receipts_dropped_total",
        "Receipts not stored, since their messages were unwatched and then watched again or deleted during the poll.",
    ),
    ("receiptd_partitions_dropped_total", "Old partitions dropped."),
    (
        "receiptd_rollup_passed_over_total",
        "Groups skipped by the roll-up because of an error: see receiptd.rollup_passed_over.",
    ),
    ("receiptd_job_failures_total", "Failed roll-ups and removals of old data."),
    ("receiptd_http_connections_displaced_total", "Connections to http.listen closed to make room for newer ones."),
    ("receiptd_read_changes_total", "Changes of read counts, by who found them first: a webhook or a poll."),
    ("receiptd_webhooks_total", "Webhooks with a valid signature, by event."),
    ("receiptd_webhooks_refused_total", "Requests to webhooks.listen without a valid signature, by reason."),
    ("receiptd_webhooks_dropped_total", "Webhooks, or counts in them, that were not recorded, by reason."),
    ("receiptd_webhook_counts_late_total", "Counts in webhooks that were known already."),
    ("receiptd_webhooks_forwarded_total", "Webhooks passed on to webhooks.forward, by result."),
    (
        "receiptd_webhook_connections_displaced_total",
        "Connections to webhooks.listen closed to make room for newer ones.",
    ),
];

const GAUGES: [(&str, &str); 36] = [
    ("receiptd_build_info", "Always 1; the version is a label."),
    ("receiptd_is_polling", "1 if this receiptd holds the lease of its app, 0 if it stands by."),
    ("receiptd_lease_epoch", "Epoch of the lease, which increases with each holder; 0 on a standby."),
    ("receiptd_calls_per_second", "Calls per second, over the last ten seconds."),
    ("receiptd_calls_per_second_allowed", "Calls per second allowed at the moment: lower after slow-downs."),
    (
        "receiptd_batch_size",
        "Maximum number of messages per call: less than polling.batch_size if the service accepts fewer.",
    ),
    ("receiptd_budget_used_ratio", "Fraction of polling.max_calls_per_second in use."),
    ("receiptd_calls_highest_second", "Maximum number of calls within any second of the last hour, as sent."),
    (
        "receiptd_stretch_ratio",
        "Factor by which all intervals are longer, since more is due than the limit allows; 1 while everything fits.",
    ),
    ("receiptd_behind_seconds", "Age of the most overdue poll that has not started."),
    ("receiptd_due_lag_seconds", "Lateness of the latest poll, by cadence and tier."),
    ("receiptd_scheduled_calls", "Calls on the schedule: messages of a group that are polled together."),
    ("receiptd_polls_in_flight", "Polls in flight."),
    (
        "receiptd_held_groups",
        "Groups that were refused and are not polled until it is known whether the app or the \
        group is at fault.",
    ),
    ("receiptd_is_answered", "1 if Tencent Chat answers calls, 0 during an outage, when few calls are made."),
    ("receiptd_recordings_waiting", "Polls whose results are waiting to be stored."),
    (
        "receiptd_last_success_timestamp_seconds",
        "Time of the last answered call, in seconds since 1970; 0 if there was none.",
    ),
    ("receiptd_watched_groups", "Groups being polled, as last counted."),
    ("receiptd_watched_messages", "Messages being polled, as last counted."),
    ("receiptd_quarantined_groups", "Groups refused by the service, as last counted."),
    (
        "receiptd_partitions_until_timestamp_seconds",
        "Time up to which daily partitions exist without a gap from today, in seconds since 1970.",
    ),
    (
        "receiptd_rolled_up_until_timestamp_seconds",
        "Time up to which snapshots and calls are rolled up, in seconds since 1970.",
    ),
    (
        "receiptd_clock_offset_seconds",
        "Seconds by which this machine's clock is ahead of the database's; negative if it is behind.",
    ),
    (
        "receiptd_clock_is_doubted",
        "1 while nothing expires or is removed because a clock is wrong or was just set, else 0.",
    ),
    ("receiptd_readers_behind", "Messages whose readers are due and have not been asked for."),
    ("receiptd_readers_behind_seconds", "Time since the first of them is due."),
    ("receiptd_is_storing", "1 if results can be stored, 0 if not."),
    ("receiptd_receives_webhooks", "1 if this receiptd listens for webhooks, else 0."),
    (
        "receiptd_last_webhook_timestamp_seconds",
        "Time of the last webhook with a valid signature, in seconds since 1970; 0 if there was none.",
    ),
    (
        "receiptd_untold_ratio",
        "Fraction of changes that only polls find, which decides how rare polls become; 1 without webhooks.",
    ),
    (
        "receiptd_calls_per_second_counted",
        "Calls per second of this API as Tencent Chat last counted them; 0 if it has not.",
    ),
    ("receiptd_calls_per_second_limit", "Limit of this API as Tencent Chat last named it; 0 if it has not."),
    ("receiptd_discovery_groups", "Groups that discovery follows; 0 if it is not running."),
    ("receiptd_discovery_active_messages", "Discovered messages being polled, as last counted."),
    ("receiptd_discovery_behind_seconds", "Time for which the most overdue group has waited for a look of discovery."),
    (
        "receiptd_discovery_receipt_ratio",
        "Fraction of the latest discovered messages of each group that have a receipt; 0 if none is known.",
    ),
];

const HISTOGRAMS: [(&str, &str, &[f64]); 6] = [
    ("receiptd_call_seconds", "Time from sending an attempt to its outcome.", &SECONDS),
    ("receiptd_call_messages", "Messages per attempt.", &SIZES),
    ("receiptd_flush_seconds", "Duration of transactions that store polls.", &SECONDS),
    ("receiptd_flush_rows", "Rows per transaction that stores polls.", &SIZES),
    ("receiptd_rollup_seconds", "Duration of roll-ups.", &SECONDS),
    ("receiptd_webhook_seconds", "Time from the head of a webhook to its answer.", &SHORT_SECONDS),
];

const SECONDS: [f64; 12] = [0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
const SHORT_SECONDS: [f64; 8] = [0.0001, 0.0002, 0.0005, 0.001, 0.005, 0.02, 0.1, 2.0];
const SIZES: [f64; 11] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0];

/// The most frequent errors of flushes: no answer, a constraint, a read-only server, conflicts, a right, disk,
/// memory, connections, locks, a timeout, a shutdown. Others appear with their first failure.
const SQLSTATES: [&str; 12] =
    ["none", "23514", "25006", "40001", "40P01", "42501", "53100", "53200", "53300", "55P03", "57014", "57P01"];

/// Installs the metrics recorder of the process, for the app that it polls.
///
/// # Errors
/// If another recorder is installed already.
pub fn install_metrics(app: SdkAppId) -> Result<PrometheusHandle, BuildError> {
    let with_buckets = |builder: PrometheusBuilder, (name, _, buckets): &(&str, &str, &[f64])| {
        builder.set_buckets_for_metric(Matcher::Full((*name).to_owned()), buckets)
    };
    // Several apps may be scraped as one job: a problem of one must not be hidden by another.
    let builder = PrometheusBuilder::new().add_global_label("sdk_app_id", app.to_string());
    let handle = HISTOGRAMS.iter().try_fold(builder, with_buckets)?.install_recorder()?;
    COUNTERS.iter().for_each(|(name, what)| describe_counter!(*name, *what));
    GAUGES.iter().for_each(|(name, what)| describe_gauge!(*name, *what));
    HISTOGRAMS.iter().for_each(|(name, what, _)| describe_histogram!(*name, *what));
    begin_at_zero();
    Ok(handle)
}

/// A counter that only appears with its first event can't be used in alerts on increases.
fn begin_at_zero() {
    const LABELLED: [&str; 11] = [
        "receiptd_read_changes_total",
        "receiptd_webhooks_total",
        "receiptd_webhooks_refused_total",
        "receiptd_webhooks_dropped_total",
        "receiptd_webhooks_forwarded_total",
        "receiptd_calls_total",
        "receiptd_other_calls_total",
        "receiptd_passed_messages_total",
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
    // A call that broke on the way, or was answered by something in between.
    for class in [Class::Retry, Class::Unknown] {
        counter!("receiptd_calls_total", "class" => class.name(), "code" => "none").absolute(0);
    }
    for sqlstate in SQLSTATES {
        counter!("receiptd_flush_failures_total", "sqlstate" => sqlstate).absolute(0);
    }
    for class in ERROR_CLASSES {
        counter!("receiptd_database_errors_total", "class" => class).absolute(0);
    }
    for passed in Passed::ALL {
        counter!("receiptd_passed_messages_total", "reason" => passed.name()).absolute(0);
    }
    for reason in ["stopped", "lease_lost", "too_late"] {
        counter!("receiptd_recordings_lost_total", "reason" => reason).absolute(0);
    }
    for found_by in ["webhook", "poll"] {
        counter!("receiptd_read_changes_total", "found_by" => found_by).absolute(0);
    }
    for refusal in Refusal::ALL {
        counter!("receiptd_webhooks_refused_total", "reason" => refusal.name()).absolute(0);
    }
    for dropped in Dropped::ALL {
        counter!("receiptd_webhooks_dropped_total", "reason" => dropped.name()).absolute(0);
    }
    for result in ["taken", "failed", "left_out"] {
        counter!("receiptd_webhooks_forwarded_total", "result" => result).absolute(0);
    }
    gauge!("receiptd_last_webhook_timestamp_seconds").set(0.0);
    gauge!("receiptd_last_success_timestamp_seconds").set(0.0);
    gauge!("receiptd_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Sets the gauges to the present state.
pub(crate) fn tell(term: &DaemonStatus) {
    let report = Report::of(term, Instant::now());
    let poller = term.poller();
    let limit = poller.as_ref().map_or(0, |poller| poller.limit());
    let used = if limit == 0 { 0.0 } else { report.calls_per_second / f64::from(limit) };
    let over_limit = term.webhooks().and_then(|webhooks| webhooks.report(clock::uptime()).over_limit);
    let as_number = |is_so: bool| f64::from(u8::from(is_so));
    let discovery = report.discovery.clone().unwrap_or_default();
    for (name, value) in [
        ("receiptd_is_polling", as_number(report.role == Role::Polling)),
        ("receiptd_is_storing", as_number(!term.storing_blocked())),
        ("receiptd_lease_epoch", report.epoch.unwrap_or_default() as f64),
        ("receiptd_calls_per_second", report.calls_per_second),
        ("receiptd_calls_per_second_allowed", f64::from(report.calls_per_second_allowed)),
        ("receiptd_batch_size", report.batch_size as f64),
        ("receiptd_budget_used_ratio", used),
        ("receiptd_calls_highest_second", report.last_hour.highest_second as f64),
        ("receiptd_stretch_ratio", report.stretch),
        ("receiptd_behind_seconds", report.behind_seconds),
        ("receiptd_scheduled_calls", report.scheduled_calls as f64),
        ("receiptd_polls_in_flight", report.polls_in_flight as f64),
        ("receiptd_held_groups", report.held_groups as f64),
        ("receiptd_is_answered", as_number(poller.as_ref().is_none_or(|poller| poller.outage().is_none()))),
        ("receiptd_untold_ratio", term.untold_share()),
        ("receiptd_receives_webhooks", as_number(term.webhooks().is_some())),
        ("receiptd_calls_per_second_counted", over_limit.map_or(0.0, |counted| f64::from(counted.calls))),
        ("receiptd_calls_per_second_limit", over_limit.map_or(0.0, |counted| f64::from(counted.limit))),
        ("receiptd_discovery_groups", discovery.groups as f64),
        ("receiptd_discovery_active_messages", discovery.active as f64),
        ("receiptd_discovery_behind_seconds", discovery.behind_seconds),
        ("receiptd_discovery_receipt_ratio", discovery.receipt_share.unwrap_or_default()),
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
