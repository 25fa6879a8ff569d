//! Groups that the service refused, held in memory until it is known who is to blame, or until their quarantine is stored.
//! Also which groups were answered last: these are the best witnesses.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::{
    chat::{Class, Failure},
    slot::{GroupKey, SlotKey},
};

/// A refused group is asked again after this time, doubled for each refusal …
const AGAIN: Duration = Duration::from_secs(10);

/// … up to this time.
const AGAIN_AT_MOST: Duration = Duration::from_secs(160);

/// The same for a group that is to blame and whose quarantine can't be stored.
const CONVICTED_AT_MOST: Duration = Duration::from_secs(3_600);

/// If the outcome of a trial isn't known after this time, there is another one.
const TRIAL_PATIENCE: Duration = Duration::from_secs(60);

/// A held group that nobody has asked for so long after its time isn't watched any more.
const STALE: Duration = Duration::from_secs(600);

/// For this time it's known that a group answers for some of its messages, and refuses others one by one.
const IN_PART_FOR: Duration = Duration::from_secs(3_600);

/// Maximum number of groups that are held. If more are refused, it's the app.
const MAX_HELD: usize = 2_000;

/// Maximum number of witnesses that are remembered.
const MAX_WITNESSES: usize = 32;

/// One refused group.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub failure: Failure,
    /// When the last refusal was known.
    pub refused_at: Instant,
    refusals: u32,
    /// Whether the group is known to be to blame.
    pub is_convicted: bool,
    /// Whether there was no other group to ask since the last refusal.
    pub is_alone: bool,
    again_at: Instant,
    tried_at: Option<Instant>,
}

/// All refused groups, and the witnesses.
#[derive(Debug, Default)]
pub(super) struct HeldGroups {
    held: HashMap<GroupKey, Held>,
    freed: Vec<GroupKey>,
    /// Groups of which all messages of a slot were refused one by one, and others answered since: when.
    in_part: HashMap<GroupKey, Instant>,
    /// Groups that were answered, each once, the latest last.
    witnesses: VecDeque<SlotKey>,
    /// When the latest attempt was sent that was answered.
    answered: Option<Instant>,
    /// When the latest attempt was sent with which the app was accepted.
    accepted: Option<Instant>,
}

impl HeldGroups {
    pub(super) fn answered(&mut self, slot: SlotKey, sent: Instant) {
        let group = slot.group_key;
        self.answered = self.answered.max(Some(sent));
        self.app_accepted(sent);
        if let Some(held) = self.held.get(&group).filter(|held| sent >= held.refused_at) {
            if held.failure.class == Class::Split && self.in_part.len() < MAX_HELD {
                self.in_part.insert(group, sent);
            }
            self.forget(group);
        }
        self.witnesses.retain(|other| other.group_key != group);
        self.witnesses.push_back(slot);
        if self.witnesses.len() > MAX_WITNESSES {
            self.witnesses.pop_front();
        }
    }

    pub(super) fn app_accepted(&mut self, sent: Instant) {
        self.accepted = self.accepted.max(Some(sent));
    }

    /// Whether the group is known to refuse some of its messages and answer for others.
    pub(super) fn answers_in_part(&mut self, group: GroupKey, now: Instant) -> bool {
        self.in_part.retain(|_, at| now < *at + IN_PART_FOR);
        self.in_part.contains_key(&group)
    }

    /// Holds a group that was refused. Returns what was known of it before.
    pub(super) fn refused(&mut self, group: GroupKey, failure: &Failure, sent: Instant, now: Instant) -> Option<Held> {
        let before = self.held.get(&group).cloned();
        if before.as_ref().is_some_and(|before| sent < before.refused_at) {
            // It was under way already, so it tells the same.
            return before;
        }
        if self.held.len() >= MAX_HELD && before.is_none() {
            return None;
        }
        self.witnesses.retain(|other| other.group_key != group);
        let refusals = before.as_ref().map_or(1, |before| before.refusals.saturating_add(1));
        let is_convicted = before.as_ref().is_some_and(|before| before.is_convicted);
        let again_at = now + pause(refusals, is_convicted);
        let (failure, refused_at) = (failure.clone(), now);
        let (is_alone, tried_at) = (false, None);
        self.held.insert(group, Held { failure, refused_at, refusals, is_convicted, is_alone, again_at, tried_at });
        before
    }

    /// The group is to blame.
    pub(super) fn convict(&mut self, group: GroupKey, now: Instant) {
        if let Some(held) = self.held.get_mut(&group) {
            held.is_convicted = true;
            held.again_at = now + pause(held.refusals, true);
        }
    }

    /// There is no other group to ask: nothing more is known later.
    pub(super) fn are_alone(&mut self, now: Instant) {
        for held in self.held.values_mut().filter(|held| !held.is_convicted) {
            (held.is_alone, held.again_at) = (true, now);
        }
        self.freed.extend(self.held.keys());
    }

    /// Whether another group was answered after the refusal was known.
    pub(super) fn is_witnessed(&self, held: &Held) -> bool {
        let witness = if super::is_of_app(&held.failure) { self.accepted } else { self.answered };
        witness >= Some(held.refused_at)
    }

    /// How many groups are refused with a code of that kind, of the app or of the group, without a witness.
    pub(super) fn without_witness(&self, failure: &Failure) -> usize {
        let is_alike = |held: &&Held| super::is_of_app(&held.failure) == super::is_of_app(failure);
        self.held.values().filter(is_alike).filter(|held| !self.is_witnessed(held)).count()
    }

    pub(super) fn place(&mut self, group: GroupKey, now: Instant) -> super::Place {
        let Some(held) = self.held.get_mut(&group) else { return super::Place::Free };
        let is_tried = held.tried_at.is_some_and(|tried_at| now < tried_at + TRIAL_PATIENCE);
        if now < held.again_at {
            return super::Place::Until(held.again_at);
        }
        if is_tried {
            return super::Place::Until(now + AGAIN);
        }
        held.tried_at = Some(now);
        super::Place::OnTrial
    }

    /// The trial of a group ended, and it isn't known whether the group is still refused.
    pub(super) fn is_unclear(&mut self, group: GroupKey) {
        self.held.get_mut(&group).into_iter().for_each(|held| held.tried_at = None);
    }

    pub(super) fn holds(&self, group: GroupKey) -> bool {
        self.held.contains_key(&group)
    }

    pub(super) fn take_witness(&mut self) -> Option<SlotKey> {
        self.witnesses.pop_back()
    }

    pub(super) fn forget(&mut self, group: GroupKey) {
        if self.held.remove(&group).is_some() {
            self.freed.push(group);
        }
    }

    /// The app works again, which was taken to be at fault: all groups are tried soon. Those that were refused more than once
    /// wait a little, so that they are told from an app that works for a moment only.
    pub(super) fn try_all(&mut self, now: Instant) {
        for held in self.held.values_mut() {
            let soon = if held.refusals == 1 { now } else { now + AGAIN };
            held.again_at = held.again_at.min(soon);
        }
        self.freed.extend(self.held.keys());
    }

    /// Whether a refusal by a group that is `held` confirms that it is refused: what failed for a moment is long over.
    pub(super) fn confirms(held: &Held, sent: Instant) -> bool {
        sent >= held.refused_at + AGAIN
    }

    pub(super) fn take_freed(&mut self) -> Vec<GroupKey> {
        std::mem::take(&mut self.freed)
    }

    /// Whether no group is held, those aside that aren't watched any more.
    pub(super) fn is_empty_at(&mut self, now: Instant) -> bool {
        self.held.retain(|_, held| now < held.again_at + STALE);
        self.held.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (GroupKey, &Failure, Instant)> {
        self.held.iter().map(|(group, held)| (*group, &held.failure, held.again_at))
    }
}

fn pause(refusals: u32, is_convicted: bool) -> Duration {
    let at_most = if is_convicted { CONVICTED_AT_MOST } else { AGAIN_AT_MOST };
    (AGAIN * 2_u32.pow(refusals.clamp(1, 12) - 1)).min(at_most)
}
