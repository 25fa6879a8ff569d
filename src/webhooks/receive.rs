//! One webhook, from its arrival to its answer.
//!
//! Its head is verified before its body is read. Then it is answered OK in any case: whatever can't be recorded is
//! dropped and counted, and polls find it.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{
        Method, StatusCode,
        header::{CONNECTION, CONTENT_TYPE},
        request::Parts,
    },
    response::{IntoResponse, Response},
};
use tokio::time::timeout;

use super::settings::Settings;
use crate::{
    clock::{self, Clock},
    daemon::{
        events::{Arrival, Dropped, OverLimit},
        status::{DaemonStatus, Role},
    },
    http::lanes::Seat,
    logging::log_throttle::LogThrottle,
    rules::webhooks::{Event, Refusal, Replays, Request as Head},
};

/// Maximum size of a body, in bytes.
const MAX_BYTES: usize = 64 << 10;

/// Maximum time until a body has arrived: Tencent Chat waits for an answer for 2 s.
const BODY_TIMEOUT: Duration = Duration::from_millis(1_500);

/// The answer that Tencent Chat expects.
const OK: &str = r#"{"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":""}"#;

/// The state that all connections share.
#[derive(Debug)]
pub(super) struct Receiver {
    settings: Arc<RwLock<Arc<Settings>>>,
    clock: Arc<Clock>,
    status: Arc<DaemonStatus>,
    replays: Mutex<Replays>,
    refusals: Mutex<LogThrottle>,
}

impl Receiver {
    pub fn new(settings: Arc<RwLock<Arc<Settings>>>, clock: Arc<Clock>, status: Arc<DaemonStatus>) -> Self {
        Self { settings, clock, status, replays: Mutex::default(), refusals: Mutex::default() }
    }

    fn refuse(&self, why: Refusal) -> Response {
        self.status.events.refused(why);
        if let Some(count) = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).happened(clock::uptime()) {
            let (reason, advice) = (why.name(), why.remedy());
            tracing::warn!(count, reason, advice, "a request to webhooks.listen was refused: its {reason} is wrong");
        }
        // A client without a valid signature learns nothing, not even which part of the request is wrong.
        (StatusCode::NOT_FOUND, [(CONNECTION, "close")]).into_response()
    }

    /// Handles a verified webhook.
    fn take(&self, event: Event) {
        let (name, is_for_session) = kind(&event);
        metrics::counter!("receiptd_webhooks_total", "event" => name).increment(1);
        if let Event::OverLimit { command, calls, limit } = &event {
            if command.ends_with("get_group_msg_receipt") {
                let counted = OverLimit { calls: *calls, limit: *limit };
                self.status.events.over_limit(counted, clock::uptime());
            }
            return;
        }
        let arrival = Arrival { event, at: self.clock.now(), uptime: clock::uptime() };
        if is_for_session && !self.status.inbox.offer(arrival) {
            self.status.events.dropped(Dropped::NoRoom, 1);
        }
    }
}

/// The value of the label `event`, and whether it matters to a session.
fn kind(event: &Event) -> (&'static str, bool) {
    match event {
        Event::Receipts(_) => ("receipts", true),
        Event::Sent { .. } => ("sent", true),
        Event::Recalled { .. } => ("recalled", true),
        Event::Created(_) => ("created", true),
        Event::Destroyed(_) => ("destroyed", true),
        Event::MembersChanged(_) => ("members", true),
        Event::OverLimit { .. } => ("over_limit", false),
        Event::Other => ("other", false),
    }
}

/// Answers a request.
pub(super) async fn receive(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    let began = clock::uptime();
    let (parts, body) = request.into_parts();
    let settings = receiver.settings.read().unwrap_or_else(PoisonError::into_inner).clone();
    let query = parts.uri.query();
    let head = Head { is_post: parts.method == Method::POST, path: parts.uri.path(), query: query.unwrap_or_default() };
    if let Err(refusal) = head.verify(&settings.secrets, clock::now()) {
        return receiver.refuse(refusal);
    }
    if let Some(seat) = parts.extensions.get::<Arc<Seat>>() {
        seat.trust();
    }
    receiver.status.events.received(receiver.clock.now());
    if matches!(receiver.status.role(), Role::StandingBy(_)) {
        // A proxy in front passes it on to the receiptd that polls.
        return (StatusCode::SERVICE_UNAVAILABLE, [(CONTENT_TYPE, "text/plain")], "standing by\n").into_response();
    }
    match body_of(body).await {
        Ok(body) => read(&receiver, &settings, &parts, body),
        Err(why) => receiver.status.events.dropped(why, 1),
    }
    metrics::histogram!("receiptd_webhook_seconds").record(clock::uptime() - began);
    ([(CONTENT_TYPE, "application/json")], OK).into_response()
}

async fn body_of(body: Body) -> Result<Bytes, Dropped> {
    match timeout(BODY_TIMEOUT, to_bytes(body, MAX_BYTES)).await {
        Ok(body) => body.map_err(|_| Dropped::TooLarge),
        Err(_) => Err(Dropped::TooSlow),
    }
}

fn read(receiver: &Receiver, settings: &Settings, parts: &Parts, body: Bytes) {
    if !receiver.replays.lock().unwrap_or_else(PoisonError::into_inner).is_new(&body, clock::uptime()) {
        metrics::counter!("receiptd_webhooks_total", "event" => "repeated").increment(1);
        return;
    }
    let event = Event::read(&body, |group| receiver.status.reader_groups.contains(group));
    if let Some(forward) = &settings.forward {
        forward.pass_on(parts.uri.query(), &parts.headers, body);
    }
    match event {
        Ok(event) => receiver.take(event),
        Err(_) => receiver.status.events.dropped(Dropped::Unreadable, 1),
    }
}
