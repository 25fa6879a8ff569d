//! Says what goes wrong, once and then once a minute for each code, with how often it happened meanwhile.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use crate::{
    chat::{Class, Failure},
    domain::{GroupId, MsgSeq},
    repeated::{Repeated, SAY_AGAIN},
};

/// What has been said about failures of calls. Its size is bounded by the number of classes and codes.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    said: Mutex<HashMap<(Class, Option<i64>), Said>>,
    halved: Mutex<Repeated>,
    set_apart: Mutex<Repeated>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    since: u64,
}

impl Trouble {
    /// Notes a failure and logs it if it is time.
    pub(super) fn note(&self, group: &GroupId, failure: &Failure) {
        if let Some(count) = self.due(failure, Instant::now()) {
            let (class, code, info) = (failure.class.name(), failure.code, failure.info.as_str());
            tracing::warn!(class, code, info, %group, count, "a call to Tencent Chat failed ({class}): {info}");
        }
    }

    /// Notes that the service takes `most` messages in a call and no more, and says so if it is time.
    pub(super) fn takes_only(&self, most: usize) {
        if let Some(count) = self.halved.lock().unwrap_or_else(PoisonError::into_inner).happened() {
            tracing::warn!(
                most,
                count,
                "Tencent Chat refuses calls for as many messages as polling.batch_size allows, and answers them in parts, which \
                 takes three calls or more for each: lower polling.batch_size to {most}"
            );
        }
    }

    /// Notes that calls fail that ask for this message, and says so if it is time.
    pub(super) fn set_apart(&self, group: &GroupId, seq: MsgSeq) {
        metrics::counter!("receiptd_messages_set_apart_total").increment(1);
        if let Some(count) = self.set_apart.lock().unwrap_or_else(PoisonError::into_inner).happened() {
            tracing::warn!(
                %group,
                %seq,
                count,
                "calls for message {seq} of group {group} fail, and those for others of the group don't: it is asked for alone from \
                 now on, less and less often while that fails"
            );
        }
    }

    /// How many failures of this kind there were since it was last said, if it is to be said now.
    fn due(&self, failure: &Failure, now: Instant) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        // Codes come from outside: a service that makes up ever new ones must not fill the memory.
        if said.len() > 1_000 {
            said.clear();
        }
        let Some(last) = said.get_mut(&(failure.class, failure.code)) else {
            said.insert((failure.class, failure.code), Said { at: now, since: 0 });
            return Some(1);
        };
        last.since += 1;
        if now < last.at + SAY_AGAIN {
            return None;
        }
        last.at = now;
        Some(std::mem::take(&mut last.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_failure_is_said_once_and_then_once_a_minute_with_its_count() {
        let trouble = Trouble::default();
        let failure = |code| Failure { class: Class::Retry, code: Some(code), info: String::new() };
        let now = Instant::now();
        assert_eq!(trouble.due(&failure(10002), now), Some(1));
        for _ in 0..9 {
            assert_eq!(trouble.due(&failure(10002), now), None);
        }
        assert_eq!(trouble.due(&failure(60008), now), Some(1), "another code is other news");
        assert_eq!(trouble.due(&failure(10002), now + SAY_AGAIN), Some(10));
        assert_eq!(trouble.due(&failure(10002), now + SAY_AGAIN), None);
    }
}
