//! Decides whether the whole app or only the group is at fault when Tencent Chat refuses a call. Pure, given `now`.
//!
//! A refused group is *held*: it isn't asked again for a while. Witnesses decide whether the app is at fault: other
//! groups that are asked after the refusal. If one is answered, the app works, and a group that is refused once more
//! is at fault: it is quarantined. If witness after witness is refused, the app is at fault: no group is quarantined,
//! and calls stop except for occasional probes, each of another group.
//!
//! A code of the app raises doubts immediately: no other call is made until a witness was answered. A code of the
//! group only raises doubts if several groups are refused in a row, or one again before any other was asked.
//!
//! Whether a failing slot is itself at fault is another question, see `others`: a failure is not a refusal, it says
//! nothing about the app, and any recent answer of another slot is a witness.

mod held;
mod signature;

use std::time::{Duration, Instant};

use self::{
    held::HeldGroups,
    signature::{QUICK, SignatureState},
};
pub(crate) use self::{
    held::Place,
    signature::{Admission, Signature},
};
use crate::rules::{
    protocol::{Class, Failure},
    slot::{GroupKey, SlotKey},
};

/// Maximum time between two probes of an app that is at fault.
const PROBE_AT_MOST: Duration = Duration::from_secs(180);

/// Delay that the service asks for after too many failed signatures.
const WAIT: Duration = Duration::from_secs(60);

/// Number of consecutive groups with similar refusals, without an answer in between, that make it the app's fault.
const GROUPS_OF_AN_APP: usize = 5;

/// Number of probes among them, i.e. groups asked after the first refusal.
const WITNESSES_OF_AN_APP: u32 = 3;

/// Number of quick probes. With several bad groups, one of these finds a good one.
const QUICK_PROBES: u32 = 12;

/// Delay before the next probe if the outcome of one says nothing about the app.
const AFTER_UNCLEAR: Duration = Duration::from_secs(1);

/// Delay before a refused signature is tried again, doubled each time: the service punishes many of them.
const SIGNATURE_AGAIN: Duration = Duration::from_secs(2);

/// Time without an outcome of a probe after which another one is made.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// What is at fault for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blame {
    /// Not known yet: the group is held.
    Unknown,
    /// The group: it has to be quarantined.
    Group,
    /// The app. True if that is news.
    App(bool),
    /// Each of the refused messages: other messages of the group were answered.
    Messages,
}

/// The state of the gate.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    signature: SignatureState,
    doubt: Option<Doubt>,
    held: HeldGroups,
}

/// The app may be at fault.
#[derive(Debug)]
struct Doubt {
    /// The latest refusal.
    failure: Failure,
    /// When the first refusal was received.
    since: Instant,
    /// Whether it counts as the app's fault.
    is_app: bool,
    probe_at: Instant,
    /// Number of refused probes, and of consecutive ones about the signature, after a first such refusal.
    probes: u32,
    of_signature: u32,
}

impl Gate {
    /// Asks for admission of polls.
    pub(crate) fn admit(&mut self, now: Instant) -> Admission {
        if self.doubt.is_some() && self.held.is_empty_at(now) {
            // The refused groups are no longer watched.
            self.doubt = None;
        }
        match &mut self.doubt {
            None => self.signature.admit(now),
            Some(doubt) if now >= doubt.probe_at => {
                doubt.probe_at = now + doubt.pause().max(PROBE_PATIENCE);
                Admission::Probe
            }
            Some(doubt) => Admission::Closed(doubt.probe_at),
        }
    }

    /// Reports that there was nothing to ask for with the first call.
    pub(crate) fn has_not_called(&mut self) {
        self.signature.has_not_called();
    }

    /// Reports that the last probe found nothing to ask: the next one is admitted immediately.
    pub(crate) fn probe_again(&mut self, now: Instant) {
        if let Some(doubt) = &mut self.doubt {
            doubt.probe_at = now;
        }
    }

    /// Reports that there is no other group to ask, so the refusals count as the app's fault. If only one group is
    /// refused, with a code of its own, it is at fault as soon as it is refused once more. Returns the refusal if the
    /// app is newly at fault.
    pub(crate) fn no_witness(&mut self, now: Instant) -> Option<Failure> {
        let doubt = self.doubt.as_mut()?;
        if !doubt.is_app && !doubt.failure.class.stops_app() && self.held.without_witness(&doubt.failure) <= 1 {
            self.doubt = None;
            self.held.are_alone(now);
            return None;
        }
        doubt.probe_at = now + PROBE_PATIENCE;
        (!std::mem::replace(&mut doubt.is_app, true)).then(|| doubt.failure.clone())
    }

    /// A slot for a probe: of the group answered last that isn't held. Offered once.
    pub(crate) fn take_witness(&mut self) -> Option<SlotKey> {
        self.held.take_witness()
    }

    /// Whether the group may be asked now. `OnTrial` is returned once until the outcome is known.
    pub(crate) fn place(&mut self, group: GroupKey, now: Instant) -> Place {
        self.held.place(group, now)
    }

    /// Whether the group was refused, and not answered since.
    pub(crate) fn holds(&self, group: GroupKey) -> bool {
        self.held.holds(group)
    }

    /// Whether an attempt may be made that is neither a probe nor a trial, and doesn't try a new signature.
    pub(crate) fn may_call(&self, group: GroupKey, now: Instant) -> bool {
        self.doubt.is_none() && !self.held.holds(group) && !self.signature.is_tried(now)
    }

    /// Ends the trial of a group that did not show whether the group is still refused.
    ///
    /// If it was a probe of the app, the next one needn't wait as long as after a refusal.
    pub(crate) fn is_unclear(&mut self, group: GroupKey, now: Instant) {
        self.held.is_unclear(group);
        if let Some(doubt) = &mut self.doubt {
            doubt.probe_at = doubt.probe_at.min(now + AFTER_UNCLEAR);
        }
    }

    /// Notes that the group's quarantine is stored and applies from now on.
    pub(crate) fn is_quarantined(&mut self, group: GroupKey) {
        self.held.forget(group);
    }

    /// Notes that the service answered an attempt sent at `sent`. True if the app counted as at fault until now.
    pub(crate) fn answered(&mut self, slot: SlotKey, sent: Instant, now: Instant) -> bool {
        self.signature.accepted(sent);
        self.held.answered(slot, sent);
        self.end_doubt(sent, now)
    }

    /// Notes that the service refused an attempt sent at `sent`, with a code of the app or of the group.
    pub(crate) fn refused(&mut self, group: GroupKey, failure: &Failure, sent: Instant, now: Instant) -> Blame {
        let is_of_group = !failure.class.stops_app();
        if is_of_group {
            // The app was accepted, whatever is wrong with the group.
            self.signature.accepted(sent);
            self.held.app_accepted(sent);
            if self.doubt.as_ref().is_some_and(|doubt| doubt.failure.class.stops_app()) {
                self.end_doubt(sent, now);
            }
        }
        if failure.class == Class::Split && self.held.answers_in_part(group, now) {
            return Blame::Messages;
        }
        let before = self.held.refused(group, failure, sent, now);
        let alike = self.held.without_witness(failure);
        let is_again = before.as_ref().is_some_and(|before| HeldGroups::confirms(before, sent));
        let is_alone = is_of_group && alike <= 1 && before.as_ref().is_some_and(|before| before.is_alone);
        let is_known = before.is_some_and(|before| before.is_convicted || self.held.is_witnessed(&before));
        if is_alone || (is_again && is_known) {
            self.held.convict(group, now);
            return Blame::Group;
        }
        let raises_doubts = !is_of_group || alike >= GROUPS_OF_AN_APP || is_again;
        if raises_doubts || self.doubt.is_some() { self.doubt(failure, alike, sent, now) } else { Blame::Unknown }
    }

    /// Raises doubts about the app, since `refused` groups had similar refusals.
    fn doubt(&mut self, failure: &Failure, refused: usize, sent: Instant, now: Instant) -> Blame {
        let doubt = self.doubt.get_or_insert_with(|| Doubt::new(failure, now));
        let is_first_of_signature = !is_of_signature(&doubt.failure);
        doubt.failure = failure.clone();
        // Calls in flight when the doubt arose are not probes.
        if sent >= doubt.since {
            doubt.probes += 1;
            doubt.of_signature = if is_first_of_signature { 0 } else { doubt.of_signature + 1 };
            doubt.probe_at = now + doubt.pause();
        }
        let (groups, witnesses) = doubt.enough();
        let is_app = doubt.is_app || (refused >= groups && doubt.witnesses() >= witnesses);
        let is_news = is_app && !std::mem::replace(&mut doubt.is_app, is_app);
        if is_app { Blame::App(is_news) } else { Blame::Unknown }
    }

    /// Whether the service has judged a signature since the term began.
    pub(crate) fn signature_is_known(&self) -> bool {
        self.signature.is_known()
    }

    /// The reaction to a refused signature, see [`SignatureState::refused`].
    pub(crate) fn signature_refused(&mut self, sent: Instant, now: Instant) -> Signature {
        self.signature.refused(sent, now)
    }

    /// Groups with more permitted polls than at the last call: their postponed slots are due again.
    pub(crate) fn take_freed(&mut self) -> Vec<GroupKey> {
        self.held.take_freed()
    }

    /// Why no calls are made, if the app is at fault.
    pub(crate) fn fault(&self) -> Option<&Failure> {
        self.doubt.as_ref().filter(|doubt| doubt.is_app).map(|doubt| &doubt.failure)
    }

    /// The refusal for which calls are paused, whatever is at fault.
    pub(crate) fn doubted_for(&self) -> Option<&Failure> {
        self.doubt.as_ref().map(|doubt| &doubt.failure)
    }

    /// Whether calls wait for the outcome of another.
    pub(crate) fn holds_up(&self, now: Instant) -> bool {
        self.doubt.is_some() || self.signature.holds_up(now)
    }

    /// The held groups, each with its refusal and the time when it is asked again.
    pub(crate) fn held(&self) -> impl Iterator<Item = (GroupKey, &Failure, Instant)> {
        self.held.iter()
    }

    fn end_doubt(&mut self, sent: Instant, now: Instant) -> bool {
        let Some(doubt) = self.doubt.take_if(|doubt| sent >= doubt.since) else { return false };
        if doubt.is_app {
            self.held.try_all(now);
        }
        doubt.is_app
    }
}

impl Doubt {
    fn new(failure: &Failure, now: Instant) -> Self {
        let doubt =
            Self { failure: failure.clone(), since: now, is_app: false, probe_at: now, probes: 0, of_signature: 0 };
        Self { probe_at: now + doubt.pause(), ..doubt }
    }

    /// Number of refused groups, and of probes among them, that make it the app's fault. Refused signatures are
    /// punished, so fewer are enough.
    fn enough(&self) -> (usize, u32) {
        match self.failure.class {
            Class::Wait => (2, 1),
            _ if is_of_signature(&self.failure) => (3, 2),
            _ => (GROUPS_OF_AN_APP, WITNESSES_OF_AN_APP),
        }
    }

    /// Number of probes with the same kind of refusal as the latest. Other refusals say nothing about the signature.
    fn witnesses(&self) -> u32 {
        if is_of_signature(&self.failure) { self.of_signature } else { self.probes }
    }

    /// Delay before the next probe.
    fn pause(&self) -> Duration {
        let doubled = |first: Duration, times: u32| (first * 2_u32.pow(times.min(10))).min(PROBE_AT_MOST);
        match self.failure.class {
            Class::Wait if self.of_signature > 0 => WAIT,
            _ if is_of_signature(&self.failure) => doubled(SIGNATURE_AGAIN, self.of_signature),
            _ if self.probes == 0 => Duration::ZERO,
            _ => doubled(QUICK, self.probes.saturating_sub(QUICK_PROBES)),
        }
    }
}

fn is_of_signature(failure: &Failure) -> bool {
    let is_code = |code| (70_001..=70_099).contains(&code);
    matches!(failure.class, Class::Wait | Class::SignAgain) || failure.code.is_some_and(is_code)
}

#[cfg(test)]
mod tests;
