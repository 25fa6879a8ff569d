//! Events in a replay: webhooks tell a share of all reads when they happen, and polls give way to them.

use fastrand::Rng;

use super::{Replay, Sent};
use crate::{
    domain::{Counts, MsgSeq, Timestamp},
    rules::{
        recording::{Contents, Heard, Kept, Recording},
        slot::SlotKey,
        webhooks::Trust,
    },
};

/// A read that a webhook tells.
#[derive(Debug, Clone, Copy)]
struct Told {
    at: Timestamp,
    /// The place of the message among all.
    index: usize,
    /// How many have read it then.
    read: u32,
}

/// The reads that webhooks tell, and how far they are trusted.
#[derive(Debug)]
pub(super) struct Events {
    /// In order of time.
    told: Vec<Told>,
    next: usize,
    pub trust: Trust,
}

impl Events {
    /// The share `told` of the reads of all messages.
    pub fn of(messages: &[Sent], told: f64) -> Self {
        let mut rng = Rng::with_seed(1);
        let reads = messages.iter().enumerate().flat_map(|(index, message)| {
            message.reads.iter().zip(1..).map(move |(at, read)| Told { at: *at, index, read })
        });
        let mut told: Vec<Told> = reads.filter(|_| rng.f64() < told).collect();
        told.sort_by_key(|one| one.at);
        Self { told, next: 0, trust: Trust::default() }
    }

    /// When the next one is told.
    pub fn next_at(&self) -> Option<Timestamp> {
        self.told.get(self.next).map(|one| one.at)
    }
}

impl Replay<'_> {
    /// Records the next event, as the daemon does.
    pub(super) fn hear(&mut self) {
        let Some(told) = self.events.told.get(self.events.next).copied() else { return };
        self.events.next += 1;
        self.now = self.now.max(told.at);
        let message = &self.watching.messages[told.index];
        let (group_key, unread) = (message.group_key, message.members - told.read);
        let Some((slot, seq)) = self.slot_of(group_key, told.index) else { return };
        let Some(counts) = Counts::new(told.read.into(), unread.into()) else { return };
        let heard = Heard { seq, counts, members: 1, happened_at: Some(told.at), arrived_at: self.now };
        let (slot, cadences) = (self.slots[&slot].clone(), self.way.cadences.clone());
        let Some(kept) = Kept::of_events(slot, vec![heard], cadences, self.now.into()) else { return };
        self.count(&kept.recording);
        self.watching.heard(told.index, told.at, told.read);
        if let (Contents::Counted(messages) | Contents::Other(messages), Some(slot)) =
            (kept.outcome(&[]).contents, self.slots.get_mut(&kept.recording.slot))
        {
            slot.messages = messages;
            slot.next_poll_at = kept.recording.next_poll_at;
            self.schedule.sooner(kept.recording.slot, kept.recording.next_poll_at, self.clocks());
        }
    }

    /// Notes what a recording has made known, and who found it.
    pub(super) fn count(&mut self, recording: &Recording) {
        for (seq, made) in &recording.milestones {
            let index = self.of_group[&recording.slot.group_key][seq.get() as usize - 1];
            self.watching.made_known(index, made);
        }
        self.events.trust.add(recording.tally());
    }

    fn slot_of(&self, group_key: i32, index: usize) -> Option<(SlotKey, MsgSeq)> {
        let place = self.of_group.get(&group_key)?.iter().position(|at| *at == index)?;
        let seq = MsgSeq::try_from(place as i64 + 1).ok()?;
        let holds = |slot: &super::Slot| slot.messages.iter().any(|message| message.seq == seq);
        self.of(group_key).find(|(_, slot)| holds(slot)).map(|(key, _)| (*key, seq))
    }
}
