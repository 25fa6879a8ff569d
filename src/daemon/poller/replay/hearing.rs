//! How events change a replay.

use super::Replay;
use crate::{
    domain::{Counts, MsgSeq},
    rules::{
        recording::{Contents, Heard, Kept, Recording},
        slot::{Slot, SlotKey},
    },
};

impl Replay<'_> {
    /// Records the next event, as the daemon does.
    pub(super) fn hear(&mut self) {
        let Some(told) = self.events.take_next() else { return };
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
        let holds = |slot: &Slot| slot.messages.iter().any(|message| message.seq == seq);
        self.of(group_key).find(|(_, slot)| holds(slot)).map(|(key, _)| (*key, seq))
    }
}
