//! Liveness and readiness as JSON, with a reason for each failed check.

use std::time::Instant;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;

use super::state::{Check, Ops};
use crate::{
    daemon::{
        poller::PollerStatus,
        status::{DaemonStatus, Role},
    },
    store::Store,
};

/// The response of `/readyz`.
#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    /// Whether the database answers.
    database: Check,
    /// Whether the schema has the version of this program.
    schema: Check,
    /// Whether the lease holder is known, and if it is this process, whether its lease holds.
    lease: Check,
    /// Whether Tencent Chat accepts the app's calls.
    credentials: Check,
    /// Whether Tencent Chat answers calls.
    service: Check,
    /// Whether results can be stored.
    storing: Check,
    /// Whether this machine's clock and the database's agree, and neither was just set.
    clock: Check,
}

impl Check {
    /// Ok unless there is a reason.
    fn unless(reason: Option<String>) -> Self {
        Self { ok: reason.is_none(), reason }
    }
}

/// `/healthz`: 200 while the main loop runs, whatever the database and the service do.
pub(super) async fn alive(State(ops): State<Ops>) -> (StatusCode, Json<Check>) {
    let still = ops.term.heartbeat().hangs_for(Instant::now());
    let check = Check::unless(still.map(|still| format!("the main loop has not run for {} s", still.as_secs())));
    (status(check.ok), Json(check))
}

/// `/readyz`: 200 if this process polls, or could as soon as the lease holder stops.
pub(super) async fn ready(State(ops): State<Ops>) -> (StatusCode, Json<Readiness>) {
    let store = ops.store.clone();
    let (database, schema) = ops.looks.readiness.get(async move { database(&store).await }).await;
    let readiness = Readiness {
        database,
        schema,
        lease: lease(&ops.term),
        credentials: credentials(ops.term.poller().as_deref()),
        service: Check::unless(ops.term.poller().and_then(|poller| poller.outage())),
        storing: Check::unless(ops.term.storing_blocked().then(|| "results can't be stored".to_owned())),
        clock: Check::unless(ops.term.doubt().map(|doubt| doubt.to_string())),
    };
    let Readiness { database, schema, lease, credentials, service, storing, clock } = &readiness;
    let ok = [database, schema, lease, credentials, service, storing, clock].iter().all(|check| check.ok);
    (status(ok), Json(readiness))
}

async fn database(store: &Store) -> (Check, Check) {
    let known = Store::known_schema_version();
    match store.schema_version().await {
        Ok(Some(found)) if found == known => match store.read_only().await {
            Ok(why) => (Check::unless(why.map(str::to_owned)), Check::unless(None)),
            Err(error) => (Check::unless(Some(error.explain())), Check::unless(None)),
        },
        Ok(found) => {
            let found = found.map_or_else(|| "missing".to_owned(), |found| format!("at migration {found}"));
            (Check::unless(None), Check::unless(Some(format!("it is {found}, but this receiptd needs {known}"))))
        }
        Err(error) => {
            (Check::unless(Some(error.explain())), Check::unless(Some("the database can't be reached".to_owned())))
        }
    }
}

fn lease(term: &DaemonStatus) -> Check {
    match term.role() {
        Role::Polling => Check { ok: true, reason: None },
        Role::LeaseNotRenewed => Check::unless(Some("the lease could not be renewed: no calls are made".to_owned())),
        Role::StandingBy(Some(other)) => {
            Check { ok: true, reason: Some(format!("standing by: this app is polled by {other}")) }
        }
        Role::StandingBy(None) => {
            let unknown = || "the lease holder is not known yet".to_owned();
            Check::unless(Some(term.trouble().unwrap_or_else(unknown)))
        }
    }
}

fn credentials(poller: Option<&PollerStatus>) -> Check {
    match poller.map(|poller| (poller.fault(), poller.is_judged())) {
        Some((Some(fault), _)) => Check::unless(Some(fault)),
        Some((None, false)) => {
            Check { ok: true, reason: Some("not known yet: no call has been answered since polling began".to_owned()) }
        }
        Some((None, true)) | None => Check::unless(None),
    }
}

fn status(ok: bool) -> StatusCode {
    if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}
