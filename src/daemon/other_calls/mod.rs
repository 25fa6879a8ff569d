//! Calls of all APIs except that for receipts. The service limits each API separately, so each has a pacing of its own,
//! and none takes anything from polling. All need the lease.
//!
//! A call is retried a few times and then given up; its caller will try again later.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    chat::ChatClient,
    clock,
    daemon::pacing::Pacing,
    logging::log_throttle::LogThrottle,
    rules::{
        lease::Lease,
        polling::retry::Retry,
        protocol::{Api, Call, Called, Class, Failure},
    },
};

/// Delay after a refusal of the app, in which no other call is made.
const AFTER_REFUSAL: Duration = Duration::from_secs(180);

/// The same after too many failed signatures.
const AFTER_WRONG_SIGNATURES: Duration = Duration::from_secs(60);

/// The other calls of a session.
#[derive(Debug)]
pub struct OtherCalls {
    client: Arc<ChatClient>,
    /// `None` outside a daemon.
    lease: Option<Arc<Lease>>,
    pacings: HashMap<Api, Arc<Pacing>>,
    /// Time until which the app counts as refused.
    refused_until: Mutex<Option<Instant>>,
    trouble: Mutex<LogThrottle>,
    /// Cancelled when no more calls may be made.
    session_over: CancellationToken,
}

impl OtherCalls {
    /// Calls of these APIs, with their maximum numbers of calls per second. The lease is only needed if a daemon may
    /// make the same calls.
    pub fn new(
        client: Arc<ChatClient>,
        lease: Option<Arc<Lease>>,
        limits: impl IntoIterator<Item = (Api, u32)>,
        transit_allowance: Duration,
        session_over: CancellationToken,
    ) -> Self {
        let pacings = limits.into_iter().map(|(api, limit)| (api, Pacing::new(limit, transit_allowance))).collect();
        let (refused_until, trouble) = (Mutex::default(), Mutex::default());
        Self { client, lease, pacings, refused_until, trouble, session_over }
    }

    /// Makes a call, in as many attempts as necessary. `None` if the session is over, the lease is lost, or the API is
    /// none of these.
    pub async fn call<C: Call>(&self, call: &C) -> Option<Result<C::Answer, Failure>> {
        self.call_timed(call).await.map(|called| called.outcome)
    }

    /// The same with the times of the last attempt.
    pub async fn call_timed<C: Call>(&self, call: &C) -> Option<Called<C::Answer>> {
        self.session_over.run_until_cancelled(self.attempts(call)).await?
    }

    async fn attempts<C: Call>(&self, call: &C) -> Option<Called<C::Answer>> {
        let (mut retry, mut has_new_signature) = (Retry::default(), false);
        loop {
            let called = self.attempt(call).await?;
            let Err(failure) = &called.outcome else { return Some(called) };
            let signs_again = failure.class == Class::SignAgain && !has_new_signature;
            has_new_signature |= signs_again;
            if signs_again && self.client.renew_signature() {
                continue;
            }
            let may_pass = failure.class == Class::SlowDown || failure.is_passing();
            match retry.next_wait().filter(|_| may_pass) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => {
                    self.give_up(C::API, failure);
                    return Some(called);
                }
            }
        }
    }

    async fn attempt<C: Call>(&self, call: &C) -> Option<Called<C::Answer>> {
        let pacing = self.pacings.get(&C::API)?;
        let until = *self.refused_until();
        if let Some(until) = until {
            tokio::time::sleep(until.saturating_duration_since(clock::uptime())).await;
        }
        let permit = pacing.permit().await;
        let lease = self.lease.clone();
        let may_call = move || lease.as_ref().is_none_or(|lease| lease.is_trusted(clock::uptime()));
        if !may_call() {
            return None;
        }
        let writing = permit.writing();
        let may_send = move || {
            let may_send = may_call();
            if may_send {
                writing.begins();
            }
            may_send
        };
        // A call that was not made is not an attempt.
        let called = self.client.call(call, may_send).await.ok()?;
        let class = called.outcome.as_ref().err().map_or(Class::Success, |failure| failure.class);
        metrics::counter!("receiptd_other_calls_total", "api" => C::API.name(), "class" => class.name()).increment(1);
        if class == Class::SlowDown {
            pacing.slow_down(&permit);
        }
        if called.http_status.is_some() {
            permit.answered();
        }
        if class == Class::Success && self.trouble().is_over() {
            tracing::info!("Tencent Chat accepts other calls than those for receipts again");
        }
        Some(called)
    }

    /// Reports a failed call. If the app is refused, no other call is made for a while.
    fn give_up(&self, api: Api, failure: &Failure) {
        let rest = match failure.class {
            Class::Wait => Some(AFTER_WRONG_SIGNATURES),
            Class::SignAgain | Class::AppFault => Some(AFTER_REFUSAL),
            _ => None,
        };
        if let Some(rest) = rest {
            // Whatever was wrong with the signature, the next call uses a new one.
            self.client.renew_signature();
            *self.refused_until() = Some(clock::uptime() + rest);
        }
        if let Some(count) = self.trouble().happened(clock::uptime()) {
            let (api, code, info, class) = (api.name(), failure.code, failure.info.as_str(), failure.class.name());
            let remedy = failure.code.and_then(crate::rules::protocol::error_class::remedy);
            tracing::warn!(
                api,
                code,
                info,
                class,
                remedy,
                count,
                "a call of {api} failed, and will be made again later"
            );
        }
    }

    fn refused_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.refused_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, LogThrottle> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
