//! Logs failures once and then once a minute for each code, with a count. Codes come from outside: if a service
//! invents new ones, the first of a minute are logged separately and the others together.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use crate::{
    clock,
    domain::{GroupId, MsgSeq},
    logging::log_throttle::LogThrottle,
    rules::{
        protocol::{Class, Failure},
        recording::KnownLimit,
    },
};

/// Maximum number of kinds logged separately within [`EVERY`].
const KINDS: usize = 20;

/// Failures that are logged together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    /// Those of a class with this code.
    Code(Class, Option<i64>),
    /// Those beyond the first [`KINDS`].
    Others,
}

/// The throttles for failures of calls.
#[derive(Debug, Default)]
pub(crate) struct FailureLog {
    said: Mutex<HashMap<Kind, LogThrottle>>,
    limited: Mutex<LogThrottle>,
    set_apart: Mutex<LogThrottle>,
    quarantined: Mutex<LogThrottle>,
    outages: Mutex<LogThrottle>,
}

impl FailureLog {
    /// Notes a failure and logs it if it is time.
    pub(crate) fn note(&self, group: &GroupId, failure: &Failure) {
        let (class, code, info) = (failure.class.name(), failure.code, failure.info.as_str());
        match self.due(failure, clock::uptime()) {
            Some((Kind::Code(..), count)) => {
                tracing::warn!(class, code, info, %group, count, "a call to Tencent Chat failed ({class}): {info}");
            }
            Some((Kind::Others, count)) => tracing::warn!(
                class, code, info, %group, count,
                "calls to Tencent Chat fail with over {KINDS} different codes, for example ({info})"
            ),
            None => {}
        }
    }

    /// Notes that a group is quarantined, and logs it if it is time.
    pub(crate) fn quarantines(&self, group: &GroupId, failure: &Failure) {
        if let Some(count) = self.quarantined.lock().unwrap_or_else(PoisonError::into_inner).happened(clock::uptime()) {
            let (code, info) = (failure.code, failure.info.as_str());
            tracing::warn!(
                code,
                info,
                %group,
                count,
                "Tencent Chat keeps refusing group {group} but answers others: quarantined, with occasional probes"
            );
        }
    }

    /// Logs an outage if it is time.
    pub(crate) fn outage_begins(&self, failure: &Failure) {
        if let Some(count) = self.outages.lock().unwrap_or_else(PoisonError::into_inner).happened(clock::uptime()) {
            let (class, code, said) = (failure.class.name(), failure.code, failure.of_service());
            tracing::error!(class, code, count, "{said}; calling about once a second until one is answered");
        }
    }

    /// Logs the end of an outage.
    pub(crate) fn outage_ends(&self) {
        if self.outages.lock().unwrap_or_else(PoisonError::into_inner).is_over() {
            tracing::info!("Tencent Chat answers calls again: resuming at the full rate");
        }
    }

    /// Logs the known batch limit.
    pub(crate) fn takes_only(&self, limit: Option<KnownLimit>) {
        let Some(count) = self.limited.lock().unwrap_or_else(PoisonError::into_inner).happened(clock::uptime()) else {
            return;
        };
        match limit {
            Some(KnownLimit { takes, refuses }) => tracing::warn!(
                takes,
                refuses,
                count,
                "Tencent Chat accepts batches of {takes} and refuses {refuses}: calls now ask for at most \
                 {takes}, except for occasional larger ones"
            ),
            None => tracing::info!(count, "Tencent Chat accepts polling.batch_size messages per call again"),
        }
    }

    /// Notes that calls for this message fail, and logs it if it is time.
    pub(crate) fn set_apart(&self, group: &GroupId, seq: MsgSeq) {
        metrics::counter!("receiptd_messages_set_apart_total").increment(1);
        if let Some(count) = self.set_apart.lock().unwrap_or_else(PoisonError::into_inner).happened(clock::uptime()) {
            tracing::warn!(
                %group,
                %seq,
                count,
                "calls for message {seq} of group {group} fail, while calls for other messages of the group succeed: \
                 it is now polled alone, less and less often while that fails"
            );
        }
    }

    /// The kind of this failure and its count since it was last logged, if it has to be logged now.
    fn due(&self, failure: &Failure, now: Instant) -> Option<(Kind, u64)> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kind = Kind::Code(failure.class, failure.code);
        if !said.contains_key(&kind) && said.len() >= KINDS {
            said.retain(|kind, last| *kind == Kind::Others || last.is_recent(now));
            if said.len() >= KINDS {
                kind = Kind::Others;
            }
        }
        said.entry(kind).or_default().happened(now).map(|count| (kind, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logging::log_throttle::EVERY;

    #[test]
    fn a_repeated_failure_is_logged_once_a_minute_with_its_count() {
        let trouble = FailureLog::default();
        let failure = |code| Failure { class: Class::Retry, code: Some(code), info: String::new() };
        let now = Instant::now();
        let due = |code, now| trouble.due(&failure(code), now).map(|(_, count)| count);
        assert_eq!(due(10002, now), Some(1));
        for _ in 0..9 {
            assert_eq!(due(10002, now), None);
        }
        assert_eq!(due(60008, now), Some(1), "another code is other news");
        assert_eq!(due(10002, now + EVERY), Some(10));
        assert_eq!(due(10002, now + EVERY), None);
    }

    #[test]
    fn ever_new_codes_make_a_bounded_number_of_lines_a_minute() {
        let trouble = FailureLog::default();
        let start = Instant::now();
        let lines = |from: Instant| {
            let failures = (0..12_000_u32).map(|call| {
                let code = Some(i64::from(fastrand::u32(..)));
                let failure = Failure { class: Class::Unknown, code, info: String::new() };
                trouble.due(&failure, from + EVERY * call / 12_000)
            });
            let said: Vec<(Kind, u64)> = failures.flatten().collect();
            assert!(trouble.said.lock().unwrap().len() <= KINDS + 1);
            said
        };
        let first = lines(start);
        assert_eq!(first.len(), KINDS + 1, "{first:?}");
        let second = lines(start + EVERY);
        assert!(second.len() <= KINDS + 2, "{}", second.len());
        assert!(second.iter().any(|(kind, count)| *kind == Kind::Others && *count > 11_000), "{second:?}");
    }
}
