//! Looks at groups: one call returns the latest seqs of 50, then the messages of those with new ones are read.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{AGAIN, Discoverer, Known};
use crate::{
    domain::GroupId,
    rules::{
        discovery::{Walk, interval},
        protocol::{
            Class, Failure,
            error_class::Code,
            others::{GetGroupInfo, GetHistory, GroupInfo},
        },
    },
    store::{GroupRead, Outcome, Watching},
};

/// Maximum number of calls for groups in flight.
const BATCHES: usize = 8;

/// Maximum number of groups of a call whose messages are read at a time.
const WALKS: usize = 16;

/// Time for which due groups wait for others, so that each call asks for many.
const COLLECT: Duration = Duration::from_millis(500);

/// Delay before a group that Tencent Chat has refused is looked at again.
const AFTER_REFUSAL: Duration = Duration::from_secs(1_800);

/// The same for a group whose rows the tables refuse.
const AFTER_REFUSED_ROWS: Duration = Duration::from_secs(600);

/// Maximum number of members of a group with receipts.
const MOST_MEMBERS: u32 = 200;

/// The code of groups with more members.
const TOO_MANY_MEMBERS: i32 = 10060;

impl Discoverer {
    /// Looks at due groups.
    pub(super) async fn look(self: &Arc<Self>) {
        let mut looks = JoinSet::new();
        loop {
            let (due, wait) = {
                let (mut groups, (_, now)) = (self.groups(), self.now());
                self.parts.status.is_behind(groups.rounds.behind(now));
                let due = groups.rounds.take(GetGroupInfo::MOST, now);
                (due, groups.rounds.next_at().map_or(COLLECT * 20, |at| at.saturating_duration_since(now)))
            };
            let is_full = due.len() == GetGroupInfo::MOST;
            if !due.is_empty() {
                let look = self.clone();
                looks.spawn(async move { look.look_at(due).await });
            }
            while looks.len() >= BATCHES {
                _ = looks.join_next().await;
            }
            if !is_full {
                _ = timeout(wait, self.due.notified()).await;
                sleep(COLLECT).await;
            }
        }
    }

    async fn look_at(self: Arc<Self>, due: Vec<GroupId>) {
        let told = self.parts.calls.call(&GetGroupInfo { groups: &due }).await;
        let (_, now) = self.now();
        let told = match told {
            Some(Ok(told)) => told,
            Some(Err(_)) | None => return due.into_iter().for_each(|group| self.look_again(group, now + AGAIN)),
        };
        let is_untold = |group: &&GroupId| told.iter().all(|(known, _)| known != *group);
        due.iter().filter(is_untold).for_each(|group| self.look_again(group.clone(), now + AFTER_REFUSAL));
        let (mut gone, mut reads, mut later) = (vec![], vec![], vec![]);
        let looks = told.into_iter().map(|(group, info)| self.read(group, info));
        let mut looks = stream::iter(looks).buffer_unordered(WALKS);
        while let Some(look) = looks.next().await {
            match look {
                Look::Gone(group) => gone.push(group),
                Look::Nothing(group, wait) => self.look_again(group, now + wait),
                Look::Read(read, wait) => {
                    later.push((read.group.clone(), read.next_seq, wait));
                    reads.push(read);
                }
            }
        }
        let watching = if reads.is_empty() { Watching::default() } else { self.store(reads).await };
        for (group, next_seq, wait) in later {
            match watching.of(&group) {
                Outcome::Stored => self.has_looked(group, next_seq, now + wait),
                Outcome::Refused => self.look_again(group, now + wait.max(AFTER_REFUSED_ROWS)),
                Outcome::NotStored => self.look_again(group, now + AGAIN),
            }
        }
        if !gone.is_empty() {
            self.leave_groups(&gone).await;
        }
    }

    async fn leave_groups(&self, gone: &[GroupId]) {
        match self.parts.store.leave_groups(gone).await {
            Ok(refused) => {
                self.refused(&refused);
                gone.iter().for_each(|group| self.leave(group));
            }
            Err(error) => {
                self.failed(&error);
                let (_, now) = self.now();
                gone.iter().for_each(|group| self.look_again(group.clone(), now + AGAIN));
            }
        }
    }

    /// Reads the new messages of a group.
    async fn read(&self, group: GroupId, info: Result<GroupInfo, Failure>) -> Look {
        let known = self.groups().known.get(&group).copied().unwrap_or_default();
        let info = match info {
            Ok(info) => info,
            Err(failure) => return refused(group, &failure),
        };
        if self.parts.rules.selection.refuses(&group, info.group_type).is_some() {
            return Look::Gone(group);
        }
        let read = GroupRead {
            group,
            group_type: info.group_type.or(known.group_type),
            next_seq: Some(info.next_seq),
            last_message_at: info.last_message_at,
            found: vec![],
            passed: vec![],
            refused_code: None,
        };
        if info.members.is_some_and(|members| members > MOST_MEMBERS) {
            return Look::Read(GroupRead { refused_code: Some(TOO_MANY_MEMBERS), ..read }, AFTER_REFUSAL);
        }
        let wait = self.wait_for(info);
        if known.next_seq.is_some_and(|next_seq| next_seq >= info.next_seq) {
            return Look::Nothing(read.group, wait);
        }
        match self.walk(&read.group, known, info).await {
            Ok(walk) => {
                let (told, next_seq) = walk.end();
                let (found, passed) = (told.found, told.passed);
                Look::Read(GroupRead { next_seq: Some(next_seq), found, passed, ..read }, wait)
            }
            Err(Some(failure)) => refused(read.group, &failure),
            Err(None) => Look::Nothing(read.group, AGAIN),
        }
    }

    /// Reads the messages since the last look, or since the beginning of discovery.
    async fn walk(&self, group: &GroupId, known: Known, info: GroupInfo) -> Result<Walk, Option<Failure>> {
        let (rules, began, (now, _)) = (&self.parts.rules, self.began, self.now());
        let is_old =
            info.last_message_at.is_some_and(|at| at + chrono::TimeDelta::seconds(1) <= rules.wanted.from(began));
        let cursor = match known.next_seq {
            Some(next_seq) => next_seq,
            // All of its messages are too old.
            None if is_old => info.next_seq,
            None => 1,
        };
        let mut walk = Walk::new(group.clone(), cursor, info.next_seq);
        while let Some(from) = walk.next_page() {
            match self.parts.calls.call(&GetHistory { group, from }).await {
                Some(Ok(page)) => walk.add(&page, rules, began, now),
                Some(Err(failure)) => return Err(Some(failure)),
                None => return Err(None),
            }
        }
        Ok(walk)
    }

    fn wait_for(&self, info: GroupInfo) -> Duration {
        let (now, _) = self.now();
        let quiet = info.last_message_at.map_or(Duration::MAX, |at| (now - at).to_std().unwrap_or_default());
        interval(quiet)
    }

    fn has_looked(&self, group: GroupId, next_seq: Option<u32>, at: Instant) {
        if let Some(known) = self.groups().known.get_mut(&group) {
            known.next_seq = known.next_seq.max(next_seq);
        }
        self.look_again(group, at);
    }

    /// Schedules a look at a group for this time, or immediately if it was announced meanwhile.
    fn look_again(&self, group: GroupId, at: Instant) {
        let mut groups = self.groups();
        let Some(known) = groups.known.get_mut(&group) else { return };
        let is_hurried = std::mem::take(&mut known.is_hurried);
        let (_, now) = self.now();
        groups.rounds.set(group, if is_hurried { now } else { at });
    }
}

/// The result of a look at a group.
enum Look {
    /// It doesn't exist any more, or is not wanted.
    Gone(GroupId),
    /// There is nothing to store.
    Nothing(GroupId, Duration),
    /// The messages that were read.
    Read(GroupRead, Duration),
}

fn refused(group: GroupId, failure: &Failure) -> Look {
    if failure.code.and_then(Code::of).is_some_and(|code| code.is_final) {
        return Look::Gone(group);
    }
    // The app or the service is at fault, not the group.
    let is_of_group = !failure.class.stops_app() && !matches!(failure.class, Class::Retry | Class::SlowDown);
    let refused_code =
        failure.code.filter(|_| is_of_group).and_then(|code| i32::try_from(code).ok()).filter(|code| *code != 0);
    if refused_code.is_none() {
        return Look::Nothing(group, AGAIN);
    }
    let read = GroupRead {
        group,
        group_type: None,
        next_seq: None,
        last_message_at: None,
        found: vec![],
        passed: vec![],
        refused_code,
    };
    Look::Read(read, AFTER_REFUSAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fault_of_a_group_delays_it_for_long() {
        let wait = |class, code| {
            let group = "g".parse().unwrap();
            match refused(group, &Failure::new(class, Some(code), "")) {
                Look::Gone(_) => panic!("it exists"),
                Look::Nothing(_, wait) | Look::Read(_, wait) => wait,
            }
        };
        assert_eq!(wait(Class::GroupFault, 10007), AFTER_REFUSAL);
        for (class, code) in
            [(Class::Retry, 10002), (Class::SlowDown, 60019), (Class::AppFault, 60009), (Class::Wait, 70050)]
        {
            assert_eq!(wait(class, code), AGAIN, "{code}");
        }
    }
}
