//! The HTTP side of the daemon: is it alive, is it ready, what does it count. Read-only.

use std::{net::SocketAddr, sync::Arc};

use axum::{Json, Router, extract::State, http::StatusCode, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    store::Store,
    term::{Role, TermStatus},
};

/// The HTTP listener can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("listening on http.listen = {listen:?} failed: is another process there? Set another address, or \"off\"")]
pub struct ListenError {
    listen: SocketAddr,
    #[source]
    source: std::io::Error,
}

/// What the HTTP side tells of.
#[derive(Clone)]
pub struct Ops {
    /// The database, whose answer is asked for by `/readyz`.
    pub store: Store,
    /// Who polls, and how that goes.
    pub term: Arc<TermStatus>,
    /// The metrics of this process.
    pub metrics: PrometheusHandle,
}

/// A check of `/readyz`.
#[derive(Debug, Serialize)]
struct Check {
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Readiness {
    database: Check,
    lease: Check,
    calls: Check,
    storing: Check,
}

impl Check {
    /// Good unless there is a reason why not.
    fn unless(reason: Option<String>) -> Self {
        Self { ok: reason.is_none(), reason }
    }
}

/// Installs the recorder of metrics, once in a process.
///
/// # Errors
/// If another recorder is installed already.
pub fn install_metrics() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    const SECONDS: [f64; 12] = [0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .install_recorder()?;
    describe();
    Ok(handle)
}

fn describe() {
    use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};
    describe_counter!("receiptd_calls_total", "Attempts to call Tencent Chat, by class of the outcome and error code.");
    describe_counter!("receiptd_messages_asked_total", "Messages that attempts asked for.");
    describe_counter!("receiptd_snapshots_total", "Rows written to receipt_snapshots.");
    describe_counter!("receiptd_messages_slotted_total", "New messages that were put into the schedule.");
    describe_counter!("receiptd_flushes_total", "Transactions that stored polls.");
    describe_counter!(
        "receiptd_flush_failures_total",
        "Attempts to store polls that failed and were made again, by SQLSTATE."
    );
    describe_counter!(
        "receiptd_recordings_lost_total",
        "Polls whose results were lost because they could not be stored, by reason."
    );
    describe_histogram!("receiptd_call_seconds", "Time from sending an attempt to its outcome.");
    describe_histogram!("receiptd_flush_seconds", "Time of the transactions that stored polls.");
    describe_counter!(
        "receiptd_set_aside_total",
        "Rows that the tables refused and that are kept in receiptd.set_aside, with the reason."
    );
    describe_gauge!("receiptd_is_polling", "1 if this receiptd has the lease of its app, 0 if it stands by.");
    describe_gauge!("receiptd_calls_per_second_allowed", "The rate that is allowed just now: lower after slow-downs.");
    describe_gauge!("receiptd_partition_runway_days", "Days from today on that have their partitions.");
    describe_gauge!(
        "receiptd_rolled_up_until_timestamp_seconds",
        "Until when snapshots and calls are rolled up, in seconds since 1970."
    );
    describe_histogram!("receiptd_rollup_seconds", "Time that bringing the roll-ups up to date took.");
    describe_counter!("receiptd_partitions_dropped_total", "Old partitions that were dropped.");
    describe_counter!("receiptd_job_failures_total", "Roll-ups and removals of what is old that failed.");
    for name in [
        "messages_asked",
        "partitions_dropped",
        "job_failures",
        "snapshots",
        "messages_slotted",
        "flushes",
        "set_aside",
    ] {
        counter!(format!("receiptd_{name}_total")).absolute(0);
    }
    for reason in ["stopped", "lease_lost", "too_late"] {
        counter!("receiptd_recordings_lost_total", "reason" => reason).absolute(0);
    }
    gauge!("receiptd_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Opens the listener and serves until `stop` is cancelled.
///
/// # Errors
/// If the address can't be listened on.
pub async fn serve(ops: Ops, listen: SocketAddr, stop: CancellationToken) -> Result<(), ListenError> {
    let listener = TcpListener::bind(listen).await.map_err(|source| ListenError { listen, source })?;
    let app = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(render_metrics))
        .with_state(ops);
    tokio::spawn(async move {
        let served = axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(error = &error as &dyn std::error::Error, "the HTTP listener ended");
        }
    });
    Ok(())
}

async fn ready(State(ops): State<Ops>) -> (StatusCode, Json<Readiness>) {
    let readiness = Readiness {
        database: Check::unless(ops.store.ping().await.err().map(|error| error.explain())),
        lease: lease(&ops.term),
        calls: Check::unless(ops.term.poller().and_then(|poller| poller.fault())),
        storing: Check::unless(
            ops.term.is_stuck().then(|| "what polls bring back can't be stored just now".to_owned()),
        ),
    };
    let ok = [&readiness.database, &readiness.lease, &readiness.calls, &readiness.storing].iter().all(|check| check.ok);
    (if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(readiness))
}

fn lease(term: &TermStatus) -> Check {
    match term.role() {
        Role::Polling => Check { ok: true, reason: None },
        Role::LeaseNotRenewed => Check::unless(Some("the lease could not be renewed: no calls are made".to_owned())),
        Role::StandingBy(other) => {
            let other = other.unwrap_or_else(|| "nobody known yet".to_owned());
            Check { ok: true, reason: Some(format!("standing by: this app is polled by {other}")) }
        }
    }
}

async fn render_metrics(State(ops): State<Ops>) -> String {
    let rate = ops.term.poller().map_or(0, |poller| poller.rate());
    metrics::gauge!("receiptd_calls_per_second_allowed").set(f64::from(rate));
    metrics::gauge!("receiptd_is_polling").set(f64::from(u8::from(ops.term.role() == Role::Polling)));
    ops.metrics.run_upkeep();
    ops.metrics.render()
}
