//! News for the schedule from other parts.

use super::Dispatch;
use crate::{
    domain::Timestamp,
    rules::{cadence::Next, polling::schedule::Now, recording::Recording, slot::SlotKey, writing::Committed},
};

/// News for the schedule.
#[derive(Debug, Clone, Copy)]
pub enum ScheduleNews {
    /// A slot is due then, since its owner has changed it.
    Due(SlotKey, Next),
    /// A slot that was polled before is due at this time, unless it is due sooner anyway.
    Sooner(SlotKey, Timestamp),
    /// A slot was polled, and is due again.
    Polled {
        /// The slot.
        slot: SlotKey,
        /// When it is due.
        next: Next,
        /// Whether the poll failed.
        fails: bool,
    },
    /// Messages that joined a slot have to be polled: the slot is due then at the latest.
    Joined(SlotKey, Next),
    /// A poll of the slot ended with nothing to record: its due time is unchanged.
    Returned(SlotKey),
    /// A quarantined group may be probed with this slot.
    Probe(SlotKey),
    /// A write of slots got no answer: the database may have more than the schedule.
    Unsure,
}

impl ScheduleNews {
    /// Notes that a poll was handed over to the recorder; `None` if nothing of its slot remains.
    ///
    /// The due time is converted now. By the time of the commit, the wall clock may have been set back, and the slot
    /// would not be due until that much later.
    pub(crate) fn of(recording: &Recording) -> Option<Self> {
        let (slot, next, fails) = (recording.slot, recording.next(), recording.failures > 0);
        (!recording.is_empty).then_some(Self::Polled { slot, next, fails })
    }
}

impl Dispatch {
    /// Applies news.
    pub(crate) fn hear(&mut self, news: ScheduleNews, now: Now) {
        match news {
            ScheduleNews::Due(slot, next) => self.schedule.set(slot, next, now),
            ScheduleNews::Sooner(slot, due) => self.schedule.sooner(slot, due, now),
            ScheduleNews::Polled { slot, next, fails } => self.schedule.polled(slot, next, fails, now),
            ScheduleNews::Joined(slot, next) => self.schedule.bring_forward(slot, next, now),
            ScheduleNews::Returned(slot) => self.schedule.give_back(slot, now),
            ScheduleNews::Probe(slot) => _ = self.probes.insert(slot),
            ScheduleNews::Unsure => self.unsure_after = Some(SlotKey::MIN),
        }
    }

    /// Applies the result for a slot, after a commit.
    pub(crate) fn hear_committed(&mut self, committed: Committed, now: Now) {
        match committed {
            Committed::Due(slot, due) => self.schedule.release(slot, due, now),
            Committed::Sooner(slot, due) => self.schedule.sooner(slot, due, now),
            Committed::PutOff(slot, due) => self.schedule.put_off(slot, due, now),
            Committed::Gone(slot) => self.schedule.forget(slot),
            Committed::NewSlot(made) => self.schedule.learn_made(made, now),
        }
    }
}
