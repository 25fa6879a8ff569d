//! Responsibility for a slot during its poll: no panic and no early end may lose it from the schedule.

use std::sync::{Arc, atomic::Ordering};

use tokio::sync::{Notify, mpsc};

use super::PollerStatus;
use crate::rules::{
    polling::dispatch::{self, ScheduleNews},
    recording::Kept,
    slot::{Slot, SlotKey},
};

/// A slot (and the absorbed one) during its poll. If the task ends in any way other than passing its result to the
/// recorder, the slot returns to the schedule.
#[derive(Debug)]
pub(super) struct Claim {
    slots: Vec<SlotKey>,
    news: mpsc::UnboundedSender<ScheduleNews>,
    status: Arc<PollerStatus>,
    room: Arc<Notify>,
    /// Whether it waits for its first permit. Polls of failing slots don't count, since they wait for longer.
    is_waiting: bool,
    fails: bool,
}

impl Claim {
    pub(super) fn new(
        slot: &Slot,
        news: mpsc::UnboundedSender<ScheduleNews>,
        status: Arc<PollerStatus>,
        room: Arc<Notify>,
    ) -> Self {
        status.in_flight.fetch_add(1, Ordering::Relaxed);
        let fails = slot.failures > 0;
        (if fails { &status.failing } else { &status.waiting }).fetch_add(1, Ordering::Relaxed);
        Self { slots: dispatch::of(slot).collect(), news, status, room, is_waiting: !fails, fails }
    }

    /// Notes that the poll no longer waits for its first permit.
    pub(super) fn started(&mut self) {
        let ahead = self.status.ahead.load(Ordering::Relaxed);
        if std::mem::take(&mut self.is_waiting) && self.status.waiting.fetch_sub(1, Ordering::Relaxed) <= ahead / 2 + 1
        {
            self.room.notify_one();
        }
    }

    /// From here on the recorder is responsible for all slots that it reports on.
    pub(super) fn hand_over(&mut self, kept: &Kept) {
        ScheduleNews::of(&kept.recording).into_iter().for_each(|news| _ = self.news.send(news));
        self.slots.retain(|slot| !kept.slots().any(|kept| kept == *slot));
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.started();
        let in_flight = self.status.in_flight.fetch_sub(1, Ordering::Relaxed);
        for slot in self.slots.drain(..) {
            // Without a poller, the next one finds the slot in the database.
            _ = self.news.send(ScheduleNews::Returned(slot));
        }
        if self.fails {
            self.status.failing.fetch_sub(1, Ordering::Relaxed);
        }
        if self.fails || in_flight + self.status.ahead.load(Ordering::Relaxed) > self.status.max_in_flight {
            self.room.notify_one();
        }
    }
}
