//! Who is to blame when Tencent Chat refuses a call: the whole app, or the one group that was asked for. Pure, fed with
//! `now`.
//!
//! A refused group is *held*: it isn't asked again for a while. Whether the app is at fault is decided by witnesses, other
//! groups that are asked after the refusal was known. If one is answered, the app works, and a group that is refused once more
//! is to blame: it's quarantined. If witness after witness is refused, it's the app: then no group is quarantined, and calls
//! stop but for a probe now and then, each of another group.
//!
//! A code of the app is doubted at once: no other call is made until a witness was answered. A code of the group raises
//! doubts only if several groups are refused in a row, or one again before any other was asked.
//!
//! Whether a slot whose calls fail is to blame is another question, see `others`: a failure is no refusal, it says nothing of
//! the app, and any recent answer of another slot is a witness, whenever it was asked for.

mod held;
mod signature;

use std::time::{Duration, Instant};

use self::held::HeldGroups;
pub(super) use self::signature::Signature;
use self::signature::SignatureState;
use crate::{
    chat::{Class, Failure},
    slot::{GroupKey, SlotKey},
};

/// Longest time between two probes of an app that is at fault.
const PROBE_AT_MOST: Duration = Duration::from_secs(180);

/// After "signature failed too often" the service asks for a pause of this length.
const WAIT: Duration = Duration::from_secs(60);

/// Number of groups refused alike in a row, none answered meanwhile, that make it the app's fault.
const GROUPS_OF_AN_APP: usize = 5;

/// Number of probes among them: groups that were asked when the first refusal was known.
const WITNESSES_OF_AN_APP: u32 = 3;

/// Number of quick probes. With several bad groups, one of these finds a good one.
const QUICK_PROBES: u32 = 12;

/// Time before the next probe if the outcome of one says nothing of the app.
const AFTER_UNCLEAR: Duration = Duration::from_secs(1);

/// Time between two quick probes.
const QUICK: Duration = Duration::from_millis(250);

/// A refused signature is tried again after this time, doubled each time: the service punishes many of them.
const SIGNATURE_AGAIN: Duration = Duration::from_secs(2);

/// If nothing is known of a probe after this time, another one is made.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// Whether polls may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// All.
    Open,
    /// One, and the others when it is known that its signature is accepted.
    First,
    /// One, as a probe.
    Probe,
    /// None before this time.
    Closed(Instant),
}

/// Whether a group may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// As usual.
    Free,
    /// Once, to see whether it is still refused.
    OnTrial,
    /// Not before this time.
    Until(Instant),
}

/// Who is to blame for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// It isn't known yet: the group is held.
    Unknown,
    /// The group: it's to be quarantined.
    Group,
    /// The app. True if that is news.
    App(bool),
    /// Each of the messages that were refused: other messages of the group were answered.
    Messages,
}

/// The state of the gate.
#[derive(Debug, Default)]
pub(super) struct Gate {
    signature: SignatureState,
    doubt: Option<Doubt>,
    held: HeldGroups,
}

/// The app may be at fault.
#[derive(Debug)]
struct Doubt {
    /// The latest refusal.
    failure: Failure,
    /// When the first refusal was known.
    since: Instant,
    /// Whether it is taken for the app's fault.
    is_app: bool,
    probe_at: Instant,
    /// Number of probes that were refused, and how many of them in a row concern the signature, after a first such refusal.
    probes: u32,
    of_signature: u32,
}

impl Gate {
    /// Asks for admission of polls.
    pub(super) fn admit(&mut self, now: Instant) -> Admission {
        if self.doubt.is_some() && self.held.is_empty_at(now) {
            // Whoever was refused isn't watched any more.
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

    /// There was nothing to ask for the first call.
    pub(super) fn has_not_called(&mut self) {
        self.signature.has_not_called();
    }

    /// The last probe found nothing to ask: the next one is let in at once.
    pub(super) fn probe_again(&mut self, now: Instant) {
        if let Some(doubt) = &mut self.doubt {
            doubt.probe_at = now;
        }
    }

    /// There is no other group to ask, so the refusals are taken for the app's fault, unless only one group is refused with a code of
    /// its own: it is to blame if it is refused once more. Returns the refusal if it is the app's fault and that is news.
    pub(super) fn no_witness(&mut self, now: Instant) -> Option<Failure> {
        let doubt = self.doubt.as_mut()?;
        if !doubt.is_app && !is_of_app(&doubt.failure) && self.held.without_witness(&doubt.failure) <= 1 {
            self.doubt = None;
            self.held.are_alone(now);
            return None;
        }
        doubt.probe_at = now + PROBE_PATIENCE;
        (!std::mem::replace(&mut doubt.is_app, true)).then(|| doubt.failure.clone())
    }

    /// A slot of a group that was answered before, for a probe: of the group answered last that isn't held. It's offered once.
    pub(super) fn take_witness(&mut self) -> Option<SlotKey> {
        self.held.take_witness()
    }

    /// Whether the group may be asked now. `OnTrial` is given out once until the outcome is known.
    pub(super) fn place(&mut self, group: GroupKey, now: Instant) -> Place {
        self.held.place(group, now)
    }

    /// Whether the group was refused, and not answered since.
    pub(super) fn holds(&self, group: GroupKey) -> bool {
        self.held.holds(group)
    }

    /// Whether an attempt may be made that is neither a probe nor a trial, and doesn't try a new signature.
    pub(super) fn may_call(&self, group: GroupKey, now: Instant) -> bool {
        self.doubt.is_none() && !self.held.holds(group) && !self.signature.is_tried(now)
    }

    /// The trial of a group ended, and it isn't known whether the group is still refused.
    ///
    /// If it was a probe of the app, the next one needn't wait as after a refusal.
    pub(super) fn is_unclear(&mut self, group: GroupKey, now: Instant) {
        self.held.is_unclear(group);
        if let Some(doubt) = &mut self.doubt {
            doubt.probe_at = doubt.probe_at.min(now + AFTER_UNCLEAR);
        }
    }

    /// The group's quarantine is known to be stored: from here on it goes by that.
    pub(super) fn is_quarantined(&mut self, group: GroupKey) {
        self.held.forget(group);
    }

    /// The service answered an attempt that was sent at `sent`. True if the app was taken to be at fault until now.
    pub(super) fn answered(&mut self, slot: SlotKey, sent: Instant, now: Instant) -> bool {
        self.signature.accepted(sent);
        self.held.answered(slot, sent);
        self.end_doubt(sent, now)
    }

    /// The service refused an attempt that was sent at `sent`: with a code of the app, or of the group.
    pub(super) fn refused(&mut self, group: GroupKey, failure: &Failure, sent: Instant, now: Instant) -> Blame {
        let is_of_group = !is_of_app(failure);
        if is_of_group {
            // The app was accepted, whatever is wrong with the group.
            self.signature.accepted(sent);
            self.held.app_accepted(sent);
            if self.doubt.as_ref().is_some_and(|doubt| is_of_app(&doubt.failure)) {
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

    /// Doubts the app, since so many groups were `refused` alike.
    fn doubt(&mut self, failure: &Failure, refused: usize, sent: Instant, now: Instant) -> Blame {
        let doubt = self.doubt.get_or_insert_with(|| Doubt::new(failure, now));
        let is_first_of_signature = !is_of_signature(&doubt.failure);
        doubt.failure = failure.clone();
        // What was under way when the doubt arose is no probe.
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

    /// What a refused signature calls for, see [`SignatureState::refused`].
    pub(super) fn signature_refused(&mut self, sent: Instant, now: Instant) -> Signature {
        self.signature.refused(sent, now)
    }

    /// Groups of which more may be polled than before since this was last asked: what was put off for them is due again.
    pub(super) fn take_freed(&mut self) -> Vec<GroupKey> {
        self.held.take_freed()
    }

    /// Why no calls are made, if the app is at fault.
    pub(super) fn fault(&self) -> Option<&Failure> {
        self.doubt.as_ref().filter(|doubt| doubt.is_app).map(|doubt| &doubt.failure)
    }

    /// The refusal for which calls wait, whoever is to blame for it.
    pub(super) fn doubted_for(&self) -> Option<&Failure> {
        self.doubt.as_ref().map(|doubt| &doubt.failure)
    }

    /// Whether calls wait for what becomes of another.
    pub(super) fn holds_up(&self, now: Instant) -> bool {
        self.doubt.is_some() || self.signature.holds_up(now)
    }

    /// The groups that are held, each with its refusal and when it is asked again.
    pub(super) fn held(&self) -> impl Iterator<Item = (GroupKey, &Failure, Instant)> {
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

    /// How many groups have to be refused, and how many of them as probes, before it's taken for the app's fault. Refused
    /// signatures are punished, so fewer are enough.
    fn enough(&self) -> (usize, u32) {
        match self.failure.class {
            Class::Wait => (2, 1),
            _ if is_of_signature(&self.failure) => (3, 2),
            _ => (GROUPS_OF_AN_APP, WITNESSES_OF_AN_APP),
        }
    }

    /// How many probes were refused like the latest. What another group was refused for says nothing of the signature.
    fn witnesses(&self) -> u32 {
        if is_of_signature(&self.failure) { self.of_signature } else { self.probes }
    }

    /// How long to wait before the next probe.
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

/// Whether the code says that no call of the app can succeed.
fn is_of_app(failure: &Failure) -> bool {
    failure.class.stops_app()
}

fn is_of_signature(failure: &Failure) -> bool {
    let is_code = |code| (70_001..=70_099).contains(&code);
    matches!(failure.class, Class::Wait | Class::SignAgain) || failure.code.is_some_and(is_code)
}

#[cfg(test)]
mod tests;
