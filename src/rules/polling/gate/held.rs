//! Refused groups, held in memory until it is known what is at fault, or until their quarantine is stored. Also the
//! groups answered last, which are the best witnesses.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::rules::{
    protocol::{Class, Failure},
    slot::{GroupKey, SlotKey},
};

/// Delay before a refused group is asked again, doubled for each refusal …
const AGAIN: Duration = Duration::from_secs(10);

/// … up to this time.
const AGAIN_AT_MOST: Duration = Duration::from_secs(160);

/// The same for a group at fault whose quarantine can't be stored.
const CONVICTED_AT_MOST: Duration = Duration::from_secs(3_600);

/// Time without an outcome of a trial after which there is another one.
const TRIAL_PATIENCE: Duration = Duration::from_secs(60);

/// Time after which a held group that was not asked is no longer watched.
const STALE: Duration = Duration::from_secs(600);

/// How long a group is known to answer for some of its messages while refusing others one by one.
const IN_PART_FOR: Duration = Duration::from_secs(3_600);

/// Maximum number of held groups. If more are refused, it is the app.
const MAX_HELD: usize = 2_000;

/// Maximum number of remembered witnesses.
const MAX_WITNESSES: usize = 32;

/// Whether a group may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// As usual.
    Free,
    /// Once, to find out whether it is still refused.
    OnTrial,
    /// Not before this time.
    Until(Instant),
}

/// A refused group.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub failure: Failure,
    /// When the last refusal was received.
    pub refused_at: Instant,
    refusals: u32,
    /// Whether the group is known to be at fault.
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
    /// Groups with a slot whose messages were all refused one by one, and which were answered since: when.
    in_part: HashMap<GroupKey, Instant>,
    /// Answered groups, each once, the latest last.
    witnesses: VecDeque<SlotKey>,
    /// When the latest answered attempt was sent.
    answered: Option<Instant>,
    /// When the latest attempt was sent that the app was accepted in.
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

    /// Holds a refused group. Returns its previous state.
    pub(super) fn refused(&mut self, group: GroupKey, failure: &Failure, sent: Instant, now: Instant) -> Option<Held> {
        let before = self.held.get(&group).cloned();
        if before.as_ref().is_some_and(|before| sent < before.refused_at) {
            // It was in flight already, so it is the same news.
            return before;
        }
        if self.held.len() >= MAX_HELD && before.is_none() {
            self.drop_stale(now);
            if self.held.len() >= MAX_HELD {
                return None;
            }
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

    /// Notes that the group is at fault.
    pub(super) fn convict(&mut self, group: GroupKey, now: Instant) {
        if let Some(held) = self.held.get_mut(&group) {
            held.is_convicted = true;
            held.again_at = now + pause(held.refusals, true);
        }
    }

    /// Notes that there is no other group to ask, so no more will be known later.
    pub(super) fn are_alone(&mut self, now: Instant) {
        for held in self.held.values_mut().filter(|held| !held.is_convicted) {
            (held.is_alone, held.again_at) = (true, now);
        }
        self.freed.extend(self.held.keys());
    }

    /// Whether another group was answered after the refusal.
    pub(super) fn is_witnessed(&self, held: &Held) -> bool {
        let witness = if held.failure.class.stops_app() { self.accepted } else { self.answered };
        witness >= Some(held.refused_at)
    }

    /// Number of groups refused with a code of this kind, of the app or of the group, without a witness.
    pub(super) fn without_witness(&self, failure: &Failure) -> usize {
        let is_alike = |held: &&Held| held.failure.class.stops_app() == failure.class.stops_app();
        self.held.values().filter(is_alike).filter(|held| !self.is_witnessed(held)).count()
    }

    pub(super) fn place(&mut self, group: GroupKey, now: Instant) -> Place {
        let Some(held) = self.held.get_mut(&group) else { return Place::Free };
        let is_tried = held.tried_at.is_some_and(|tried_at| now < tried_at + TRIAL_PATIENCE);
        if now < held.again_at {
            return Place::Until(held.again_at);
        }
        if is_tried {
            return Place::Until(now + AGAIN);
        }
        held.tried_at = Some(now);
        Place::OnTrial
    }

    /// Ends the trial of a group that did not show whether the group is still refused.
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

    /// Notes that the app, which counted as at fault, works again: all groups are tried soon. Those refused more than
    /// once wait a little, to distinguish them from an app that only works for a moment.
    pub(super) fn try_all(&mut self, now: Instant) {
        for held in self.held.values_mut() {
            let soon = if held.refusals == 1 { now } else { now + AGAIN };
            held.again_at = held.again_at.min(soon);
        }
        self.freed.extend(self.held.keys());
    }

    /// Whether a refusal of a `held` group confirms that it is refused: a short fault is long over.
    pub(super) fn confirms(held: &Held, sent: Instant) -> bool {
        sent >= held.refused_at + AGAIN
    }

    pub(super) fn take_freed(&mut self) -> Vec<GroupKey> {
        std::mem::take(&mut self.freed)
    }

    /// Whether no group is held, apart from those that are no longer watched.
    pub(super) fn is_empty_at(&mut self, now: Instant) -> bool {
        self.drop_stale(now);
        self.held.is_empty()
    }

    /// Drops groups that are no longer watched: nobody has asked for them again.
    fn drop_stale(&mut self, now: Instant) {
        self.held.retain(|_, held| now < held.again_at + STALE);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (GroupKey, &Failure, Instant)> {
        self.held.iter().map(|(group, held)| (*group, &held.failure, held.again_at))
    }
}

fn pause(refusals: u32, is_convicted: bool) -> Duration {
    let at_most = if is_convicted { CONVICTED_AT_MOST } else { AGAIN_AT_MOST };
    (AGAIN * 2_u32.pow(refusals.clamp(1, 12) - 1)).min(at_most)
}
