//! The reaction to a refused signature. The service counts refused signatures, and punishes many (70050). So a new one
//! is made once, and the outcome of the call that tries it applies to all calls in flight.

use std::time::{Duration, Instant};

/// Time between two quick probes.
pub(super) const QUICK: Duration = Duration::from_millis(250);

/// Maximum time that other calls wait while a new signature is tried.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many polls may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// All.
    Open,
    /// One; the others wait until its signature is accepted.
    First,
    /// One, as a probe.
    Probe,
    /// None before this time.
    Closed(Instant),
}

/// The reaction to a refused signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signature {
    /// Make a new one.
    Renew,
    /// Try again: there is a newer one already.
    TryNewer,
    /// None: it was a new one.
    IsHopeless,
}

/// Time without an answer to the first call of a term after which another one is made.
const NEXT_FIRST: Duration = Duration::from_secs(1);

/// The state of the signature in use.
#[derive(Debug, Default)]
pub(super) struct SignatureState {
    /// Whether the service has judged a signature since the term began.
    is_known: bool,
    /// Times of the first and the latest call with the first signature of a term.
    first: Option<(Instant, Instant)>,
    /// Time since which there is a signature that has not been accepted yet.
    untried_since: Option<Instant>,
    /// Whether that one was refused too.
    is_refused: bool,
}

impl SignatureState {
    /// Whether polls may start, as far as the signature is concerned. The first signature of a term may be refused,
    /// so there is one call with it, and the others wait for its outcome.
    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        if self.is_tried(now) {
            return Admission::Closed(now + QUICK);
        }
        if self.is_known || self.first.is_some_and(|(first, _)| now >= first + PATIENCE) {
            return Admission::Open;
        }
        match self.first {
            Some((_, latest)) if now < latest + NEXT_FIRST => Admission::Closed(latest + NEXT_FIRST),
            first => {
                self.first = Some((first.map_or(now, |(first, _)| first), now));
                Admission::First
            }
        }
    }

    /// Whether the service has judged a signature since the term began.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    /// Reports that there was nothing to ask for with the first call.
    pub(super) fn has_not_called(&mut self) {
        self.first = None;
    }

    /// Reports that the signature of a call sent at `sent` was refused.
    pub(super) fn refused(&mut self, sent: Instant, now: Instant) -> Signature {
        self.is_known = true;
        match self.untried_since {
            None => {
                (self.untried_since, self.is_refused) = (Some(now), false);
                Signature::Renew
            }
            Some(since) if sent < since => Signature::TryNewer,
            Some(_) => {
                self.is_refused = true;
                Signature::IsHopeless
            }
        }
    }

    /// Whether one call tries a new signature, so that others should wait: each refusal is punished.
    pub(super) fn is_tried(&self, now: Instant) -> bool {
        self.untried_since.is_some_and(|since| now < since + PATIENCE) && !self.is_refused
    }

    /// Whether calls wait for the outcome of another.
    pub(super) fn holds_up(&self, now: Instant) -> bool {
        self.is_tried(now) || (!self.is_known && self.first.is_some())
    }

    /// Reports that the signature of a call sent at `sent` was accepted.
    pub(super) fn accepted(&mut self, sent: Instant) {
        self.is_known = true;
        self.untried_since = self.untried_since.filter(|since| sent < *since);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_call_a_second_tries_the_first_signature() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut state = SignatureState::default();
        assert_eq!(state.admit(at(0)), Admission::First);
        state.has_not_called();
        assert_eq!(state.admit(at(10)), Admission::First);
        assert_eq!(state.admit(at(20)), Admission::Closed(at(1_010)));
        assert_eq!(state.admit(at(1_010)), Admission::First);
        assert_eq!(state.admit(at(1_020)), Admission::Closed(at(2_010)));
        assert_eq!(state.admit(at(5_010)), Admission::Open, "nothing is heard of it");
        state.first = Some((at(0), at(0)));
        state.accepted(at(0));
        assert_eq!(state.admit(at(100)), Admission::Open);
        let mut state = SignatureState::default();
        assert_eq!(state.admit(at(0)), Admission::First);
        assert_eq!(state.refused(at(0), at(50)), Signature::Renew);
        assert_eq!(state.admit(at(60)), Admission::Closed(at(60) + QUICK));
        assert_eq!(state.refused(at(70), at(120)), Signature::IsHopeless);
    }

    #[test]
    fn only_a_refusal_of_the_new_signature_condemns_it() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut state = SignatureState::default();
        assert_eq!(state.refused(at(0), at(10)), Signature::Renew);
        assert_eq!(state.refused(at(5), at(12)), Signature::TryNewer, "it was sent with the old one");
        assert!(state.is_tried(at(13)) && !state.is_tried(at(10) + PATIENCE));
        state.accepted(at(5));
        assert_eq!(state.refused(at(11), at(20)), Signature::IsHopeless);
        assert!(!state.is_tried(at(21)), "now it is for the gate to judge");
        state.accepted(at(15));
        assert_eq!(state.refused(at(30), at(40)), Signature::Renew, "the one before has worked");
    }
}
