//! Checks Tencent Chat step by step: DNS, connection, clock, signature.
//!
//! Only makes a call if no daemon polls: the call would have no permit, and one too many in a second halves the
//! daemon's rate. The result of the daemon's last call is used instead.

use std::{net::IpAddr, time::Duration};

use chrono::{DateTime, TimeDelta};
use receiptd::{
    chat::{
        ChatClient, ChatSettings,
        proxy::{by_proxy_for, proxy_for},
    },
    clock,
    domain::{GroupId, MsgSeq, Timestamp},
    host::Holder,
    rules::protocol::{Attempt, Class, Failure, error_class},
};
use reqwest::{Url, header::DATE, redirect::Policy};

use super::{
    super::relative::since,
    database::Polled,
    finding::{Finding, Verdict},
};

/// Presumably, no group has this id: the service accepts the signature, and then answers that the group doesn't
/// exist.
const NO_GROUP: &str = "receiptd-check";

/// Maximum error of the clock. Beyond it, signatures are not valid yet, or expire too late.
const CLOCK: TimeDelta = TimeDelta::seconds(60);

/// Checks the service: connects to each of its domains, then makes a call, unless a daemon polls.
pub async fn look(chat: ChatSettings, request_timeout: Duration, polled: Option<Polled>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut clock = None;
    for (number, url) in chat.destination.urls().iter().enumerate() {
        let proxy = match proxy_of(url) {
            Ok(proxy) => proxy,
            Err(unusable) => {
                findings.push(unusable);
                break;
            }
        };
        findings.extend(
            proxy
                .as_ref()
                .map(|proxy| Finding::ok("proxy", format!("{url} is reached through {proxy}, from the environment"))),
        );
        match reach(url, proxy, request_timeout).await {
            Ok((reached, date)) => {
                findings.extend(reached);
                clock = clock.or(date.map(|date| clock_of(url, date, clock::now())));
            }
            // Calls use the first domain as long as it is reachable.
            Err(failed) if number > 0 => findings.push(Finding { verdict: Verdict::Warning, ..failed }),
            Err(failed) => findings.push(failed),
        }
    }
    findings.extend(clock);
    findings.push(match polled {
        Some(polled) => judge_daemon(&chat.destination.to_string(), &polled, clock::now()),
        None => call(chat, request_timeout).await,
    });
    findings
}

/// The proxy that calls use.
fn proxy_of(url: &str) -> Result<Option<String>, Finding> {
    let Ok(url) = Url::parse(url) else { return Ok(None) };
    // The message contains the remedy.
    proxy_for(&url).map_err(|error| Finding { remedy: None, ..Finding::wrong("proxy", error.to_string(), "") })
}

/// The results on the way there, and the server's time if it sends one.
async fn reach(
    url: &str,
    proxy: Option<String>,
    request_timeout: Duration,
) -> Result<(Vec<Finding>, Option<Timestamp>), Finding> {
    let parsed =
        Url::parse(url).map_err(|error| Finding::failed("dns", format!("{url}: {error}"), "correct chat.endpoint"))?;
    let (host, port) = (parsed.host_str().unwrap_or_default(), parsed.port_or_known_default().unwrap_or(443));
    let mut findings = Vec::new();
    // The proxy resolves the name.
    if proxy.is_none() && host.trim_matches(['[', ']']).parse::<IpAddr>().is_err() {
        let addresses = tokio::net::lookup_host((host, port)).await.map(Iterator::count).unwrap_or_default();
        if addresses == 0 {
            return Err(Finding::failed("dns", format!("{host} does not resolve"), "check DNS (/etc/resolv.conf)"));
        }
        findings.push(Finding::ok("dns", format!("{host} resolves (addresses: {addresses})")));
    }
    let (check, encrypted) = match parsed.scheme() {
        "https" => (
            "tls",
            ", are CA certificates installed (Debian: ca-certificates), is the clock right, does a proxy intercept TLS",
        ),
        _ => ("connection", ""),
    };
    let through = proxy.map_or_else(String::new, |proxy| format!(" from {proxy}"));
    let date = connect(parsed.clone(), request_timeout).await.map_err(|found| {
        Finding::failed(check, format!("{url}: {found}"), format!("is port {port} reachable{through}{encrypted}?"))
    })?;
    findings.push(Finding::ok(check, format!("{url} is reachable")));
    Ok((findings, date))
}

/// Connects without a signature. Returns the server's time if it sends one.
async fn connect(url: Url, request_timeout: Duration) -> Result<Option<Timestamp>, String> {
    // Another part of the process may have installed one first: any provider will do.
    _ = rustls::crypto::ring::default_provider().install_default();
    // A redirect is not followed: an answer that claims the service is elsewhere isn't trusted.
    let client = reqwest::Client::builder().timeout(request_timeout).http1_only().redirect(Policy::none());
    let client = by_proxy_for(&url, client).map_err(|error| error.to_string())?.build();
    let client = client.map_err(|error| error.without_url().to_string())?;
    let answer = client.head(url).send().await.map_err(|error| causes(&error.without_url()))?;
    let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
    Ok(date.and_then(|date| DateTime::parse_from_rfc2822(date).ok()).map(|date| date.to_utc()))
}

/// The error with its causes; the last one says what is wrong.
fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn clock_of(url: &str, theirs: Timestamp, ours: Timestamp) -> Finding {
    let off = ours - theirs;
    if off.abs() > CLOCK {
        let found = format!("this machine's clock differs by {} s from that of {url}", off.num_seconds());
        return Finding::failed("clock", found, "set it by NTP: signatures contain the time");
    }
    Finding::ok("clock", format!("this machine's clock agrees with that of {url}"))
}

/// One signed call.
async fn call(chat: ChatSettings, request_timeout: Duration) -> Finding {
    let destination = chat.destination.to_string();
    let asked = async || -> Result<Attempt, String> {
        let client = ChatClient::new(chat, request_timeout, 1).map_err(|error| error.to_string())?;
        let group: GroupId = NO_GROUP.parse().map_err(|error| format!("{error}"))?;
        let seq = MsgSeq::try_from(1).map_err(|error| error.to_string())?;
        client.get_receipts(&group, &[seq], || true).await.map_err(|error| error.to_string())
    };
    match asked().await {
        Ok(attempt) => {
            judge(&destination, attempt.outcome.as_ref().err(), &format!("in {} ms", attempt.latency.as_millis()))
        }
        Err(error) => Finding::failed("service", error, "check the section [chat] of the configuration"),
    }
}

/// Judges by the daemon's last call.
fn judge_daemon(destination: &str, polled: &Polled, now: Timestamp) -> Finding {
    let call = &polled.call;
    let (holder, ago) = (Holder::in_words(&polled.holder), since(call.called_at, now));
    let how = format!("in the last call of {holder}, {ago} ago (check makes no call of its own while one polls)");
    judge(destination, call.failure().as_ref(), &how)
}

/// Whatever the answer says about the group or the rate, it accepted the app and its signature.
fn judge(destination: &str, failure: Option<&Failure>, how: &str) -> Finding {
    let ok = |found: &str| Finding::ok("service", format!("{destination} {found}, {how}"));
    let Some(Failure { class, code, info }) = failure else { return ok("accepts the signature") };
    match (class, code) {
        (Class::GroupFault | Class::Split | Class::Message, _) => ok("accepts the signature"),
        (Class::SlowDown, _) => ok("accepts the signature, but is busy"),
        (_, Some(code)) => {
            let remedy = error_class::remedy(*code).unwrap_or("see the error codes in docs/operators.md");
            let found = format!("{destination} refuses the call with code {code} ({info}), {how}");
            Finding::failed("service", found, remedy)
        }
        (_, None) => {
            let found = format!("{destination} does not answer like Tencent Chat ({info}), {how}");
            Finding::failed("service", found, "is it reachable, and does something in between answer instead?")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_by_over_a_minute_fails() {
        let now: Timestamp = "2026-11-23T12:00:00Z".parse().unwrap();
        for (seconds, verdict) in
            [(0, Verdict::Ok), (59, Verdict::Ok), (-61, Verdict::Failed), (3_600, Verdict::Failed)]
        {
            assert_eq!(clock_of("chat", now, now + TimeDelta::seconds(seconds)).verdict, verdict, "{seconds}");
        }
    }

    fn failure(class: Class, code: Option<i64>) -> Failure {
        Failure { class, code, info: "it says so".to_owned() }
    }

    #[test]
    fn the_check_passes_on_a_group_fault_or_a_busy_service() {
        for (class, found) in [
            (Class::GroupFault, "chat accepts the signature, in 5 ms"),
            (Class::SlowDown, "chat accepts the signature, but is busy, in 5 ms"),
        ] {
            assert_eq!(judge("chat", Some(&failure(class, Some(60011))), "in 5 ms"), Finding::ok("service", found));
        }
    }

    #[test]
    fn a_call_that_broke_on_its_way_was_refused_by_nobody() {
        let finding = judge("chat", Some(&failure(Class::Retry, None)), "in 5 ms");
        assert_eq!(finding.verdict, Verdict::Failed);
        assert_eq!(finding.found, "chat does not answer like Tencent Chat (it says so), in 5 ms");
        assert!(!finding.line().contains("see the error codes"), "{}", finding.line());
        assert!(judge("chat", Some(&failure(Class::Unknown, Some(5))), "").line().contains("see the error codes"));
    }
}
