//! What a refused signature calls for. The service counts refused signatures and punishes many (70050), so a new one is made
//! once, and what one call learns of it holds for all calls under way.

use std::time::{Duration, Instant};

/// While a new signature is tried, other calls wait for this time at most.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a refused signature calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::poller) enum Signature {
    /// A new one.
    Renew,
    /// Another try: there is a newer one already.
    TryNewer,
    /// Nothing: it was a new one.
    IsHopeless,
}

/// What is known of the signature in use.
#[derive(Debug, Default)]
pub(super) struct SignatureState {
    /// Since when there is a signature that no call has got through with yet.
    untried_since: Option<Instant>,
    /// Whether that one was refused too.
    is_refused: bool,
}

impl SignatureState {
    /// The signature of a call that was sent at `sent` was refused.
    pub(super) fn refused(&mut self, sent: Instant, now: Instant) -> Signature {
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

    /// Whether one call tries a new signature, so that others had better wait: each that is refused is punished.
    pub(super) fn is_tried(&self, now: Instant) -> bool {
        self.untried_since.is_some_and(|since| now < since + PATIENCE) && !self.is_refused
    }

    /// The signature of a call that was sent at `sent` was accepted.
    pub(super) fn accepted(&mut self, sent: Instant) {
        self.untried_since = self.untried_since.filter(|since| sent < *since);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_refusal_condemns_a_signature_only_if_it_is_of_the_new_one() {
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
