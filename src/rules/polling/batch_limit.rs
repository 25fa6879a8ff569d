//! The maximum number of messages per call that the service accepts. Its limit is not documented, so it is learned from
//! polls. It is remembered, so that not every poll has to find it, and tested with larger calls now and then. Pure.

use std::time::{Duration, Instant};

use crate::rules::{
    protocol::Class,
    recording::{KnownLimit, Poll, PollEnd},
};

/// How often a call asks for more than is known to be accepted, while the limit is only known roughly.
const NARROW_EVERY: Duration = Duration::from_secs(5);

/// The same when the limit is known.
const TRY_EVERY: Duration = Duration::from_secs(3_600);

/// The batch sizes of a poll: of the first call, which may ask for more than is known to be accepted, and of the
/// others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchSizes {
    pub first: usize,
    pub others: usize,
}

/// The known batch limit.
#[derive(Debug)]
pub(crate) struct BatchLimit {
    /// The configured maximum.
    most: usize,
    /// The service's limit.
    known: Option<KnownLimit>,
    /// When a call may ask for more.
    try_at: Instant,
}

impl BatchLimit {
    pub(crate) fn new(most: usize, now: Instant) -> Self {
        Self { most: most.max(1), known: None, try_at: now }
    }

    /// Applies the limit found by an earlier poller.
    pub(crate) fn recall(&mut self, known: Option<KnownLimit>, now: Instant) {
        self.known = known.filter(|known| known.takes > 0 && known.takes < known.refuses);
        self.try_at = now + self.wait();
    }

    /// The service's limit, if it is known to be less than a call asked for.
    pub(crate) fn known(&self) -> Option<KnownLimit> {
        self.known
    }

    /// Maximum number of messages per call.
    pub(crate) fn size(&self) -> usize {
        self.known.map_or(self.most, |known| known.takes.min(self.most))
    }

    /// Maximum number of messages in a slot. While the limit is only known roughly, and when a larger call is to be
    /// tried, slots may be larger than a call.
    pub(crate) fn slot_size(&self, now: Instant) -> usize {
        if self.is_exact() && now < self.try_at { self.size() } else { self.most }
    }

    /// The batch sizes of a poll for this number of messages. Now and then the first call asks for more than is known
    /// to be accepted.
    pub(crate) fn sizes(&mut self, messages: usize, now: Instant) -> BatchSizes {
        let others = self.size();
        let first = match self.known {
            Some(known) if messages > others && now >= self.try_at => {
                let is_exact = self.is_exact();
                self.try_at = now + self.wait();
                let middle = known.takes + (known.refuses - known.takes) / 2;
                if is_exact { messages.min(self.most) } else { messages.min(middle).min(self.most) }
            }
            _ => others,
        };
        BatchSizes { first, others }
    }

    /// Learns from a poll. True if the limit has changed.
    pub(crate) fn learn(&mut self, poll: &Poll, now: Instant) -> bool {
        let before = self.known;
        let answered = poll.attempts.iter().filter(|attempt| attempt.outcome.is_ok());
        let taken = answered.map(|attempt| attempt.asked).max().unwrap_or(0);
        self.known = before
            .map(|known| KnownLimit { takes: known.takes.max(taken), ..known })
            .filter(|known| known.takes < known.refuses);
        if let Some(takes) = takes_only(poll) {
            let refused = poll.attempts.iter().filter(|attempt| attempt.class() == Class::Split);
            let refuses = refused.map(|attempt| attempt.asked).filter(|asked| *asked > takes).min();
            self.known = refuses.map(|refuses| match self.known {
                // The nearest known bound on either side.
                Some(known) if refuses > known.takes => {
                    KnownLimit { takes: known.takes.max(takes), refuses: known.refuses.min(refuses) }
                }
                _ => KnownLimit { takes, refuses },
            });
        }
        let has_changed = self.known != before;
        if has_changed {
            self.try_at = now + self.wait();
        }
        has_changed
    }

    fn is_exact(&self) -> bool {
        self.known.is_none_or(|known| known.refuses - known.takes <= 1)
    }

    fn wait(&self) -> Duration {
        if self.is_exact() { TRY_EVERY } else { NARROW_EVERY }
    }
}

/// The service's limit, if `poll` shows that it is less than was asked for: the service refused a whole batch and
/// answered its parts, so no message is at fault.
pub(crate) fn takes_only(poll: &Poll) -> Option<usize> {
    let is_split = poll.attempts.iter().any(|attempt| attempt.class() == Class::Split);
    if !is_split || !poll.rejected.is_empty() || !poll.failed.is_empty() || poll.end != PollEnd::Complete {
        return None;
    }
    poll.attempts.iter().filter(|attempt| attempt.outcome.is_ok()).map(|attempt| attempt.asked).max()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{MsgSeq, Timestamp};
    use crate::rules::{
        polling::poll_progress::{PollProgress, tests::slot},
        protocol::{Answer, Attempt, Failure},
        recording::Others,
    };

    /// A poll of this number of messages by a service that accepts `limit` per call, and refuses calls for the
    /// message `bad`.
    fn poll(known: &mut BatchLimit, messages: i64, limit: usize, bad: Option<u32>, now: Instant) -> Poll {
        let sizes = known.sizes(usize::try_from(messages).unwrap(), now);
        let mut asking = PollProgress::new(&slot(messages), sizes, Others::Answered);
        while let Some(batch) = asking.batch().map(<[MsgSeq]>::to_vec) {
            let is_refused = batch.len() > limit || batch.iter().any(|seq| Some(seq.get()) == bad);
            let failure = Failure { class: Class::Split, code: Some(10004), info: String::new() };
            let receipts = batch.iter().map(|seq| (*seq, crate::domain::Receipt { code: 10062, counts: None }));
            let answer = Answer { receipts: receipts.collect(), bad_entries: 0 };
            let (called_at, ended_at, latency) = (Timestamp::UNIX_EPOCH, Timestamp::UNIX_EPOCH, Duration::ZERO);
            let outcome = if is_refused { Err(failure) } else { Ok(answer) };
            asking.record(
                Attempt { called_at, ended_at, latency, http_status: Some(200), asked: batch.len(), outcome },
                || true,
            );
        }
        asking.into_poll()
    }

    proptest! {
        #[test]
        fn a_few_polls_find_the_batch_limit_and_later_polls_obey_it(
            limit in 1_usize..60,
            messages in 1_i64..=50,
        ) {
            let (mut known, mut now) = (BatchLimit::new(50, Instant::now()), Instant::now());
            for _ in 0..8 {
                let poll = poll(&mut known, messages, limit, None, now);
                known.learn(&poll, now);
                now += NARROW_EVERY;
            }
            let asked = usize::try_from(messages).unwrap();
            if asked <= limit {
                prop_assert_eq!((known.known(), known.size()), (None, 50));
            } else {
                prop_assert_eq!(known.known(), Some(KnownLimit { takes: limit, refuses: limit + 1 }));
                prop_assert_eq!(known.slot_size(now), limit);
            }
            let calls = poll(&mut known, messages, limit, None, now).attempts.len();
            prop_assert_eq!(calls, asked.div_ceil(known.size()));
            // A raised limit is found again.
            now += TRY_EVERY;
            prop_assert_eq!(known.slot_size(now), 50);
            let poll = poll(&mut known, messages, 1_000, None, now);
            known.learn(&poll, now);
            prop_assert_eq!((known.known(), poll.attempts.len()), (None, 1));
        }

        #[test]
        fn one_bad_message_is_not_taken_for_a_limit(bad in 1_u32..=50, others in 1_i64..50) {
            let messages = i64::from(bad).max(others + 1);
            let (mut known, now) = (BatchLimit::new(50, Instant::now()), Instant::now());
            let poll = poll(&mut known, messages, 50, Some(bad), now);
            prop_assert!(!known.learn(&poll, now));
            prop_assert_eq!(known.size(), 50);
        }
    }

    #[test]
    fn trying_more_in_vain_costs_one_poll_an_hour_some_calls() {
        let (mut known, mut now) = (BatchLimit::new(50, Instant::now()), Instant::now());
        known.recall(Some(KnownLimit { takes: 20, refuses: 21 }), now);
        assert_eq!(known.sizes(40, now), BatchSizes { first: 20, others: 20 });
        now += TRY_EVERY;
        assert_eq!(known.sizes(20, now), BatchSizes { first: 20, others: 20 }, "nothing to try it with");
        let refused = poll(&mut known, 40, 20, None, now);
        assert_eq!(refused.attempts.len(), 3, "one more than otherwise");
        known.learn(&refused, now);
        assert_eq!(known.known(), Some(KnownLimit { takes: 20, refuses: 21 }));
        assert_eq!(known.sizes(40, now), BatchSizes { first: 20, others: 20 }, "not again for an hour");
    }

    #[test]
    fn what_was_stored_and_makes_no_sense_is_forgotten() {
        for (takes, refuses) in [(0, 5), (5, 5), (9, 3)] {
            let mut known = BatchLimit::new(50, Instant::now());
            known.recall(Some(KnownLimit { takes, refuses }), Instant::now());
            assert_eq!((known.known(), known.size()), (None, 50));
        }
    }

    #[test]
    fn a_service_that_takes_fewer_than_before_is_believed() {
        let (mut known, now) = (BatchLimit::new(50, Instant::now()), Instant::now());
        known.recall(Some(KnownLimit { takes: 40, refuses: 41 }), now);
        let poll = poll(&mut known, 40, 10, None, now);
        assert!(known.learn(&poll, now));
        assert_eq!(known.known(), Some(KnownLimit { takes: 10, refuses: 20 }));
    }
}
