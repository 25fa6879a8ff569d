//! The groups and messages of the simulated service, and their receipts at any time.
//!
//! Everything follows from a seed: two worlds with the same seed give the same counts at the same ages. Tests may set
//! members, sending times, receipts and codes, also while the service runs.

mod config;
mod fresh;
mod group;
mod members;
mod membership;
mod telling;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use fastrand::Rng;

use self::{
    config::MAX_MEMBERS,
    group::{Group, Message, seed_of_message},
};
pub use self::{config::WorldConfig, group::PostKind};
pub(super) use self::{
    fresh::{Fresh, Reading},
    group::{GroupState, Post, Posts, seed_of},
    membership::Readership,
};
use super::{curve::ReadingCurve, refusal::Refusal};
use crate::domain::{Counts, GroupId, GroupType, MsgSeq, Receipt, Timestamp};

/// Separates the draw of a message's code from those of its curve.
const CODE_DRAW: u64 = 0x5eed_c0de;

/// Groups and messages, shared between the service and tests.
#[derive(Debug)]
pub struct World {
    config: WorldConfig,
    groups: Mutex<HashMap<GroupId, Group>>,
    /// The news for webhooks; `None` if none are sent.
    fresh: Mutex<Option<Vec<Fresh>>>,
}

impl World {
    pub(super) fn new(config: WorldConfig) -> Self {
        Self { config, groups: Mutex::default(), fresh: Mutex::default() }
    }

    /// Adds a group or changes its number of members. Above 200 its calls are refused with 10060.
    pub fn add_group(&self, group: &GroupId, members: u16) {
        self.edit(group, |entry| entry.members = members);
    }

    /// Refuses every call for the group with `code` (10007 for an AVChatRoom, 10010 after its dissolution, …); 0 ends
    /// that.
    pub fn set_group_code(&self, group: &GroupId, code: i32) {
        self.edit(group, |entry| entry.code = code);
    }

    /// Sets the time of sending. Otherwise, a message counts as sent when it is first asked for.
    pub fn send_message(&self, group: &GroupId, seq: MsgSeq, sent_at: Timestamp) {
        self.edit_message(group, seq, |message| message.sent_at = Some(sent_at));
    }

    /// Sets the type of a group, Public by default.
    pub fn set_group_type(&self, group: &GroupId, group_type: GroupType) {
        self.edit(group, |entry| entry.group_type = group_type);
    }

    /// Sends the group's next message. Returns its seq.
    pub fn post(&self, group: &GroupId, sent_at: Timestamp, kind: PostKind) -> MsgSeq {
        let mut groups = self.lock();
        let entry = self.entry(&mut groups, group);
        let seq = MsgSeq::try_from(i64::from(entry.next_seq())).unwrap_or_else(|_| unreachable!("seqs begin at 1"));
        entry.messages.insert(seq, Message { sent_at: Some(sent_at), fixed: None, kind });
        if kind == PostKind::Ordinary {
            self.note(|| Fresh::Posted { group: group.clone(), seq, sent_at });
        }
        seq
    }

    /// Recalls a message.
    pub fn recall(&self, group: &GroupId, seq: MsgSeq) {
        self.edit_message(group, seq, |message| message.kind = PostKind::Recalled);
        self.note(|| Fresh::Recalled { group: group.clone(), seq });
    }

    /// Lets a member create a group.
    pub fn create_group(&self, group: &GroupId, group_type: GroupType, members: u16) {
        self.edit(group, |entry| (entry.group_type, entry.members) = (group_type, members));
        self.note(|| Fresh::Created(group.clone()));
    }

    /// Dissolves a group: its calls are refused from now on.
    pub fn dissolve(&self, group: &GroupId) {
        self.set_group_code(group, Group::DISSOLVED);
        self.note(|| Fresh::Dissolved(group.clone()));
    }

    /// The known groups of a type, or of all types, by id.
    pub(super) fn groups(&self, group_type: Option<GroupType>) -> Vec<GroupId> {
        let groups = self.lock();
        let listed = groups.iter().filter(|(_, group)| {
            group_type.is_none_or(|wanted| wanted == group.group_type) && !Group::GONE.contains(&group.code)
        });
        let mut ids: Vec<GroupId> = listed.map(|(id, _)| id.clone()).collect();
        ids.sort_unstable();
        ids
    }

    /// The state of a group.
    pub(super) fn state(&self, group: &GroupId) -> Result<GroupState, Refusal> {
        let mut groups = self.lock();
        let entry = self.existing(&mut groups, group)?;
        let last_message_at = entry.messages.values().next_back().and_then(|message| message.sent_at);
        let Group { group_type, members, .. } = *entry;
        Ok(GroupState { group_type, members, next_seq: entry.next_seq(), last_message_at })
    }

    /// At most `number` messages of a group, from this seq down, or from the newest.
    pub(super) fn posts(&self, group: &GroupId, from: Option<u32>, number: usize) -> Result<Posts, Refusal> {
        let mut groups = self.lock();
        let entry = self.existing(&mut groups, group)?;
        let mut older = entry.messages.iter().rev().filter(|(seq, _)| from.is_none_or(|from| seq.get() <= from));
        let page = older.by_ref().take(number);
        let newest_first =
            page.map(|(seq, message)| Post { seq: seq.get(), sent_at: message.sent_at, kind: message.kind }).collect();
        Ok(Posts { newest_first, has_more: older.next().is_some() })
    }

    /// Fixes a message's counts from now on.
    pub fn set_receipt(&self, group: &GroupId, seq: MsgSeq, counts: Counts) {
        let receipt = Receipt { code: 0, counts: Some(counts) };
        self.edit_message(group, seq, |message| message.fixed = Some(receipt));
    }

    /// Answers for a message with a code and no counts from now on; 0 returns it to its curve.
    pub fn set_message_code(&self, group: &GroupId, seq: MsgSeq, code: i32) {
        let receipt = (code != 0).then_some(Receipt { code, counts: None });
        self.edit_message(group, seq, |message| message.fixed = receipt);
    }

    /// The time when the `count`-th member reads a message by its curve; `None` if fewer ever do, or if it was never
    /// asked for.
    pub fn read_at(&self, group: &GroupId, seq: MsgSeq, count: u32) -> Option<Timestamp> {
        let groups = self.lock();
        let entry = groups.get(group)?;
        let age = self.curve(entry, seq).age_at(count)? / self.config.speed;
        Some(entry.messages.get(&seq)?.sent_at? + Duration::try_from_secs_f64(age).ok()?)
    }

    /// The receipts of some messages of one group at a time, in the order asked.
    pub(super) fn receipts(
        &self,
        group: &GroupId,
        seqs: &[MsgSeq],
        now: Timestamp,
    ) -> Result<Vec<(MsgSeq, Receipt)>, Refusal> {
        let mut groups = self.lock();
        let entry = self.with_receipts(&mut groups, group)?;
        Ok(seqs.iter().map(|seq| (*seq, self.receipt(group, entry, *seq, now))).collect())
    }

    fn receipt(&self, id: &GroupId, group: &mut Group, seq: MsgSeq, now: Timestamp) -> Receipt {
        let receipt = self.receipt_of_all(id, group, seq, now);
        let counts = receipt.counts.and_then(|counts| {
            let (read, unread) = members::left_of(group, seq, counts.read());
            Counts::new(i64::from(counts.read()) - i64::from(read), i64::from(counts.unread()) - i64::from(unread))
        });
        Receipt { counts, ..receipt }
    }

    /// The receipt of a message, with the members who left.
    fn receipt_of_all(&self, id: &GroupId, group: &mut Group, seq: MsgSeq, now: Timestamp) -> Receipt {
        let message = group.messages.entry(seq).or_default();
        if message.sent_at.is_none() {
            self.note(|| Fresh::Message { group: id.clone(), seq });
        }
        let sent_at = *message.sent_at.get_or_insert(now);
        if let Some(fixed) = message.fixed {
            return fixed;
        }
        let draw = Rng::with_seed(seed_of_message(group, seq) ^ CODE_DRAW).f64();
        if draw < self.config.no_receipt_share {
            return Receipt { code: 10062, counts: None };
        }
        if draw < self.config.no_receipt_share + self.config.online_only_share {
            return Receipt { code: 10061, counts: None };
        }
        let curve = self.curve(group, seq);
        let age_seconds = (now - sent_at).as_seconds_f64() * self.config.speed;
        let (read, unread) = curve.counts_at(age_seconds);
        Receipt { code: 0, counts: Counts::new(read.into(), unread.into()) }
    }

    fn curve(&self, group: &Group, seq: MsgSeq) -> ReadingCurve {
        let median_seconds = self.config.median_reading_time.as_secs_f64();
        ReadingCurve::new(seed_of_message(group, seq), members::audience(group, seq).into(), median_seconds)
    }

    fn edit(&self, group: &GroupId, change: impl FnOnce(&mut Group)) {
        change(self.entry(&mut self.lock(), group));
    }

    fn edit_message(&self, group: &GroupId, seq: MsgSeq, change: impl FnOnce(&mut Message)) {
        self.edit(group, |entry| change(entry.messages.entry(seq).or_default()));
        self.note(|| Fresh::Message { group: group.clone(), seq });
    }

    /// The group, unless it does not exist or is refused by the code set for it.
    fn existing<'g>(&self, groups: &'g mut HashMap<GroupId, Group>, group: &GroupId) -> Result<&'g mut Group, Refusal> {
        if !self.config.open && !groups.contains_key(group) {
            return Err(Refusal::GroupUnknown);
        }
        let entry = self.entry(groups, group);
        if entry.code == 0 { Ok(entry) } else { Err(Refusal::Ordered(entry.code)) }
    }

    /// The same, if it has receipts.
    fn with_receipts<'g>(
        &self,
        groups: &'g mut HashMap<GroupId, Group>,
        group: &GroupId,
    ) -> Result<&'g mut Group, Refusal> {
        let entry = self.existing(groups, group)?;
        if entry.members > MAX_MEMBERS { Err(Refusal::GroupTooLarge) } else { Ok(entry) }
    }

    fn entry<'g>(&self, groups: &'g mut HashMap<GroupId, Group>, group: &GroupId) -> &'g mut Group {
        groups.entry(group.clone()).or_insert_with(|| self.drawn_group(group))
    }

    fn drawn_group(&self, group: &GroupId) -> Group {
        let seed = seed_of(self.config.seed, group);
        let members = Rng::with_seed(seed).u16(self.config.members.clone());
        Group {
            seed,
            members,
            code: 0,
            group_type: GroupType::Public,
            messages: BTreeMap::new(),
            left: BTreeSet::new(),
            joined: vec![],
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<GroupId, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};

    use super::*;

    fn start() -> Timestamp {
        DateTime::from_timestamp(1_700_000_000, 0).unwrap()
    }

    fn group(id: &str) -> GroupId {
        id.parse().unwrap()
    }

    fn seq(number: i64) -> MsgSeq {
        MsgSeq::try_from(number).unwrap()
    }

    fn receipt_of(world: &World, seq: MsgSeq, now: Timestamp) -> Receipt {
        world.receipts(&group("g"), &[seq], now).unwrap()[0].1
    }

    fn counts(read: i64, unread: i64) -> Counts {
        Counts::new(read, unread).unwrap()
    }

    #[test]
    fn a_message_is_sent_when_first_asked_for_unless_said_otherwise() {
        let world = World::new(WorldConfig::default());
        world.add_group(&group("g"), 100);
        world.send_message(&group("g"), seq(2), start() - TimeDelta::days(30));
        assert_eq!(receipt_of(&world, seq(1), start()).counts, Some(counts(0, 99)));
        assert!(receipt_of(&world, seq(1), start() + TimeDelta::days(30)).counts.unwrap().read() > 60);
        assert!(receipt_of(&world, seq(2), start()).counts.unwrap().read() > 60);
    }

    #[test]
    fn speed_makes_an_hour_a_minute() {
        let world = |speed| {
            let world = World::new(WorldConfig { speed, ..WorldConfig::default() });
            (1..40).for_each(|number| world.send_message(&group("g"), seq(number), start()));
            world
        };
        let all: Vec<MsgSeq> = (1..40).map(seq).collect();
        let slow = world(1.0).receipts(&group("g"), &all, start() + TimeDelta::hours(1)).unwrap();
        let fast = world(60.0).receipts(&group("g"), &all, start() + TimeDelta::minutes(1)).unwrap();
        assert_eq!(slow, fast);
        assert!(slow.iter().any(|(_, receipt)| receipt.counts.unwrap().read() > 0));
    }

    #[test]
    fn members_come_from_the_range_and_differ_between_groups() {
        let world = World::new(WorldConfig { members: 5..=9, ..WorldConfig::default() });
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..200 {
            let receipts = world.receipts(&group(&format!("group {number}")), &[seq(1)], start()).unwrap();
            let counts = receipts[0].1.counts.unwrap();
            seen.insert(counts.read() + counts.unread() + 1);
        }
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_closed_world_has_only_the_groups_that_were_added() {
        let world = World::new(WorldConfig { open: false, ..WorldConfig::default() });
        assert_eq!(world.receipts(&group("g"), &[seq(1)], start()), Err(Refusal::GroupUnknown));
        world.add_group(&group("g"), 7);
        assert_eq!(receipt_of(&world, seq(1), start()).counts, Some(counts(0, 6)));
    }

    #[test]
    fn a_group_is_refused_when_too_large_or_by_the_code_set_for_it() {
        let world = World::new(WorldConfig::default());
        world.add_group(&group("g"), 201);
        let asked = || world.receipts(&group("g"), &[seq(1)], start()).map_err(|refusal| refusal.code());
        assert_eq!(asked().unwrap_err(), 10060);
        world.set_group_code(&group("g"), 10010);
        assert_eq!(asked().unwrap_err(), 10010);
        world.set_group_code(&group("g"), 0);
        world.add_group(&group("g"), 200);
        assert!(asked().is_ok());
    }

    #[test]
    fn receipts_and_codes_set_by_hand_hold_until_set_again() {
        let world = World::new(WorldConfig::default());
        world.set_receipt(&group("g"), seq(1), counts(3, 4));
        assert_eq!(receipt_of(&world, seq(1), start()), Receipt { code: 0, counts: Some(counts(3, 4)) });
        world.set_message_code(&group("g"), seq(1), 10062);
        assert_eq!(receipt_of(&world, seq(1), start()), Receipt { code: 10062, counts: None });
        world.set_message_code(&group("g"), seq(1), 0);
        assert_eq!(receipt_of(&world, seq(1), start()).counts.unwrap().read(), 0, "back on its curve");
    }

    #[test]
    fn the_shares_without_receipt_are_about_as_configured() {
        let config = WorldConfig { no_receipt_share: 0.2, online_only_share: 0.1, ..WorldConfig::default() };
        let seqs: Vec<MsgSeq> = (1..=2000).map(seq).collect();
        let receipts = World::new(config).receipts(&group("g"), &seqs, start()).unwrap();
        let of_code = |code| receipts.iter().filter(|(_, receipt)| receipt.code == code).count();
        assert!((340..460).contains(&of_code(10062)), "{}", of_code(10062));
        assert!((150..250).contains(&of_code(10061)), "{}", of_code(10061));
        assert!(receipts.iter().all(|(_, receipt)| (receipt.code == 0) == receipt.counts.is_some()));
    }
}
