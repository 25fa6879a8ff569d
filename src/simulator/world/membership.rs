//! Who is in a group, and who has read a message.

use super::{
    World,
    fresh::Fresh,
    members::{account, order},
};
use crate::{
    domain::{Counts, GroupId, MsgSeq, Timestamp},
    simulator::refusal::Refusal,
};

/// The readers of a message, and the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Readership {
    /// The accounts that have read it.
    pub read: Vec<String>,
    /// The accounts that have not.
    pub unread: Vec<String>,
}

impl World {
    /// The accounts of a group's members without the sender, including those that left.
    pub fn accounts(&self, group: &GroupId) -> Vec<String> {
        let mut groups = self.lock();
        let entry = self.entry(&mut groups, group);
        (1..entry.members).map(|number| account(entry, number)).collect()
    }

    /// Removes a member from a group. From then on it counts nowhere.
    pub fn leave(&self, group: &GroupId, member: &str) {
        self.edit(group, |entry| {
            let number = (1..entry.members).find(|number| account(entry, *number) == member);
            entry.left.extend(number);
        });
        self.note(|| Fresh::Left { group: group.clone(), member: member.to_owned() });
    }

    /// Adds a member to a group at a time no earlier than that of any other. It counts for messages sent from then on.
    /// Returns its account.
    pub fn join(&self, group: &GroupId, now: Timestamp) -> String {
        let mut member = String::new();
        self.edit(group, |entry| {
            member = account(entry, entry.members);
            entry.members += 1;
            entry.joined.push(now);
        });
        self.note(|| Fresh::Joined { group: group.clone(), member: member.clone() });
        member
    }

    /// The time when a member reads a message by its curve; `None` if it never does, or if the message was never asked
    /// for.
    pub fn read_at_by(&self, group: &GroupId, seq: MsgSeq, member: &str) -> Option<Timestamp> {
        let place = {
            let groups = self.lock();
            let entry = groups.get(group)?;
            order(entry, seq).into_iter().position(|number| account(entry, number) == member)?
        };
        self.read_at(group, seq, u32::try_from(place).ok()? + 1)
    }

    /// Who has and who has not read a message at a time.
    pub(in crate::simulator) fn readership(
        &self,
        group: &GroupId,
        seq: MsgSeq,
        now: Timestamp,
    ) -> Result<Readership, Refusal> {
        let mut groups = self.lock();
        let entry = self.with_receipts(&mut groups, group)?;
        let receipt = self.receipt_of_all(group, entry, seq, now);
        let read = receipt.counts.map(Counts::read).ok_or(Refusal::Ordered(receipt.code))?;
        let order = order(entry, seq);
        let (read, unread) = order.split_at(order.len().min(read as usize));
        let here = |numbers: &[u16]| {
            let here = numbers.iter().filter(|number| !entry.left.contains(number));
            here.map(|number| account(entry, *number)).collect()
        };
        Ok(Readership { read: here(read), unread: here(unread) })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use chrono::{DateTime, TimeDelta};

    use super::*;
    use crate::simulator::WorldConfig;

    fn world() -> (World, GroupId, MsgSeq, Timestamp) {
        let (world, group) = (World::new(WorldConfig::default()), "g".parse().unwrap());
        let (seq, sent_at) = (MsgSeq::try_from(7).unwrap(), DateTime::from_timestamp(1_700_000_000, 0).unwrap());
        world.add_group(&group, 20);
        world.send_message(&group, seq, sent_at);
        (world, group, seq, sent_at)
    }

    #[test]
    fn the_lists_agree_with_the_counts_at_any_time() {
        let (world, group, seq, sent_at) = world();
        let leaver = world.accounts(&group)[4].clone();
        for minutes in 0..60 {
            if minutes == 30 {
                world.leave(&group, &leaver);
            }
            let now = sent_at + TimeDelta::minutes(minutes);
            let lists = world.readership(&group, seq, now).unwrap();
            let counts = world.receipts(&group, &[seq], now).unwrap()[0].1.counts.unwrap();
            assert_eq!((lists.read.len(), lists.unread.len()), (counts.read() as usize, counts.unread() as usize));
            let all: BTreeSet<_> = lists.read.iter().chain(&lists.unread).collect();
            assert_eq!(all.len(), if minutes < 30 { 19 } else { 18 });
            assert_eq!(all.contains(&leaver), minutes < 30);
        }
    }

    #[test]
    fn who_joins_counts_for_later_messages_only() {
        let (world, group, seq, sent_at) = world();
        let later = MsgSeq::try_from(8).unwrap();
        let counts = |seq, now| world.receipts(&group, &[seq], now).unwrap()[0].1.counts.unwrap();
        let hour = sent_at + TimeDelta::hours(1);
        let before = counts(seq, hour);
        let member = world.join(&group, sent_at + TimeDelta::minutes(1));
        world.send_message(&group, later, sent_at + TimeDelta::minutes(2));
        assert_eq!((counts(seq, hour), counts(later, sent_at).unread()), (before, 20));
        let lists = world.readership(&group, later, sent_at).unwrap();
        assert!(lists.unread.contains(&member) && world.accounts(&group).contains(&member));
    }

    #[test]
    fn a_member_is_in_the_list_from_its_time_of_reading_on() {
        let (world, group, seq, sent_at) = world();
        world.readership(&group, seq, sent_at).unwrap();
        let mut readers = 0;
        for member in world.accounts(&group) {
            let Some(read_at) = world.read_at_by(&group, seq, &member) else { continue };
            let has_read = |now| world.readership(&group, seq, now).unwrap().read.contains(&member);
            assert!(!has_read(read_at - TimeDelta::microseconds(5)) && has_read(read_at + TimeDelta::microseconds(5)));
            readers += 1;
        }
        assert!(readers > 12, "{readers}");
    }
}
