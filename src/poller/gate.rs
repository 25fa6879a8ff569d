//! Whether the app may call at all. A fault of the whole app closes the gate: then one poll at a time probes, every few
//! minutes, until one gets through. A signature that is refused is such a fault if a new one is refused too. Pure, fed
//! with `now`.

use std::time::{Duration, Instant};

use crate::chat::{Class, Failure};

/// A closed gate is probed this often.
const PROBE_EVERY: Duration = Duration::from_secs(180);

/// After "signature failed too often" the service asks for a pause of this length.
const WAIT: Duration = Duration::from_secs(60);

/// What may start now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Any poll.
    Open,
    /// One poll, as a probe.
    Probe,
    /// None before this time.
    Closed(Instant),
}

/// What a refused signature calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signature {
    /// A new one.
    Renew,
    /// Another try: there is a newer one already.
    TryNewer,
    /// Nothing: it was a new one.
    IsHopeless,
}

/// The state of the gate.
#[derive(Debug, Default)]
pub(super) struct Gate {
    closed: Option<Closed>,
    /// Since when there is a signature that no call has got through with yet.
    untried_since: Option<Instant>,
}

#[derive(Debug)]
struct Closed {
    failure: Failure,
    probe_at: Instant,
}

impl Gate {
    /// Asks for admission. A probe that is let in holds the gate for one probing interval.
    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        match &mut self.closed {
            None => Admission::Open,
            Some(closed) if now >= closed.probe_at => {
                closed.probe_at = now + PROBE_EVERY;
                Admission::Probe
            }
            Some(closed) => Admission::Closed(closed.probe_at),
        }
    }

    /// Lets the next probe in at once: the last one found nothing to poll.
    pub(super) fn probe_again(&mut self, now: Instant) {
        if let Some(closed) = &mut self.closed {
            closed.probe_at = now;
        }
    }

    /// Closes for a fault of the app. True if it was open, so that the fault is news.
    pub(super) fn close(&mut self, failure: Failure, now: Instant) -> bool {
        let pause = if failure.class == Class::Wait { WAIT } else { PROBE_EVERY };
        self.closed.replace(Closed { failure, probe_at: now + pause }).is_none()
    }

    /// Opens after a probe got through. True if it was closed.
    pub(super) fn open(&mut self) -> bool {
        self.closed.take().is_some()
    }

    /// The signature of a call that was sent at `sent` was refused. Whoever of all polls in flight learns first that a new
    /// one does not help tells the others: the service counts refused signatures and punishes many.
    pub(super) fn signature_refused(&mut self, sent: Instant, now: Instant) -> Signature {
        match self.untried_since {
            None => {
                self.untried_since = Some(now);
                Signature::Renew
            }
            Some(since) if sent < since => Signature::TryNewer,
            Some(_) => Signature::IsHopeless,
        }
    }

    /// A call that was sent at `sent` got through.
    pub(super) fn accepted(&mut self, sent: Instant) {
        self.untried_since = self.untried_since.filter(|since| sent < *since);
    }

    /// Why it is closed.
    pub(super) fn fault(&self) -> Option<&Failure> {
        self.closed.as_ref().map(|closed| &closed.failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(class: Class) -> Failure {
        Failure { class, code: Some(60021), info: "no".into() }
    }

    #[test]
    fn a_fault_of_the_app_lets_one_probe_in_every_few_minutes() {
        let now = Instant::now();
        let mut gate = Gate::default();
        assert_eq!(gate.admit(now), Admission::Open);
        assert!(gate.close(failure(Class::AppFault), now));
        assert!(!gate.close(failure(Class::AppFault), now), "said once");
        assert_eq!(gate.admit(now), Admission::Closed(now + PROBE_EVERY));
        assert_eq!(gate.admit(now + PROBE_EVERY), Admission::Probe);
        assert_eq!(gate.admit(now + PROBE_EVERY), Admission::Closed(now + 2 * PROBE_EVERY), "one at a time");
        assert!(gate.open() && !gate.open());
        assert_eq!(gate.admit(now), Admission::Open);
    }

    #[test]
    fn a_second_refusal_condemns_a_signature_only_if_it_is_of_the_new_one() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut gate = Gate::default();
        assert_eq!(gate.signature_refused(at(0), at(10)), Signature::Renew);
        assert_eq!(gate.signature_refused(at(5), at(12)), Signature::TryNewer, "it was sent with the old one");
        gate.accepted(at(5));
        assert_eq!(gate.signature_refused(at(11), at(20)), Signature::IsHopeless);
        gate.accepted(at(15));
        assert_eq!(gate.signature_refused(at(30), at(40)), Signature::Renew, "the one before has worked");
    }

    #[test]
    fn a_wait_lasts_one_minute() {
        let now = Instant::now();
        let mut gate = Gate::default();
        gate.close(failure(Class::Wait), now);
        assert_eq!(gate.admit(now + WAIT - Duration::from_millis(1)), Admission::Closed(now + WAIT));
        assert_eq!(gate.admit(now + WAIT), Admission::Probe);
    }

    #[test]
    fn a_probe_that_found_nothing_to_poll_is_not_used_up() {
        let now = Instant::now();
        let mut gate = Gate::default();
        gate.close(failure(Class::AppFault), now);
        assert_eq!(gate.admit(now + PROBE_EVERY), Admission::Probe);
        gate.probe_again(now + PROBE_EVERY);
        assert_eq!(gate.admit(now + PROBE_EVERY), Admission::Probe);
    }
}
