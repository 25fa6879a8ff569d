//! Once a second: new messages get a slot, groups that their owners changed are rescheduled, quarantined groups whose
//! time has come are probed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{PollerStatus, ScheduleNews};
use crate::{
    cadence::{Cadences, Phase},
    domain::Timestamp,
    log_throttle::LogThrottle,
    recording::KnownLimit,
    slot::{Fresh, GroupKey, OpenSlot, Slot, pack},
    store::{FIRST, LeftBehind, Store, StoreError},
};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);

/// What it remembers from one look to the next.
#[derive(Debug)]
struct Seen {
    left: LeftBehind,
    /// The limit that is stored.
    limit: Option<KnownLimit>,
    /// Whether it has looked for slots that are due far ahead. That reads them all, so polling doesn't wait for it.
    far_ahead: bool,
}

/// Finds what is new in the watch list and tells the poller.
#[derive(Debug)]
pub struct Slotter {
    /// The database.
    pub store: Store,
    /// The cadences of the config.
    pub cadences: Arc<Cadences>,
    /// What the poller has found out about the size of calls.
    pub poller: Arc<PollerStatus>,
    /// The way to the poller.
    pub news: mpsc::UnboundedSender<ScheduleNews>,
}

impl Slotter {
    /// Looks once a second until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut trouble = LogThrottle::default();
        let mut seen = Seen { left: LeftBehind::default(), limit: self.poller.known_limit(), far_ahead: false };
        loop {
            tokio::select! { () = stop.cancelled() => return, _ = ticks.tick() => {} }
            let Some(Err(error)) = stop.run_until_cancelled(self.look(&mut seen, &stop)).await else {
                if trouble.is_over() {
                    tracing::info!("the watch list is read again");
                }
                continue;
            };
            // What was asked for may have been done all the same. Any other error has changed nothing.
            if error.is_unanswered() {
                self.tell(ScheduleNews::Unsure);
            }
            // That the lease is lost is known, and told, by who renews it.
            if !matches!(error, StoreError::LeaseLost { .. }) {
                error.log(&mut trouble, "the watch list can't be read: new messages wait");
            }
        }
    }

    async fn look(&self, seen: &mut Seen, stop: &CancellationToken) -> Result<(), StoreError> {
        let known = self.poller.known_limit();
        if known != seen.limit {
            self.store.store_batch_limit(known).await?;
            seen.limit = known;
        }
        if !seen.far_ahead {
            let groups = self.store.reschedule_what_is_far_ahead().await?;
            if groups > 0 {
                tracing::info!(groups, "messages of {groups} groups are due far ahead: they are rescheduled");
            }
            seen.far_ahead = true;
        }
        let due = |slot: &Slot| self.due(slot, self.store.clock().now());
        let changed = self.store.reschedule_changed_groups(&mut seen.left, due).await?;
        changed.into_iter().for_each(|(slot, due)| self.tell(ScheduleNews::Due(slot, due)));
        let probes = self.store.slots_to_probe(self.store.clock().now()).await?;
        probes.into_iter().for_each(|slot| self.tell(ScheduleNews::Probe(slot)));
        let mut after = Some(FIRST);
        while let Some(place) = after.filter(|_| !stop.is_cancelled()) {
            let slotted = self.store.slot_new_messages(place, |fresh, open| self.pack(fresh, open)).await?;
            slotted.slots.iter().for_each(|(slot, due)| self.tell(ScheduleNews::Joined(*slot, *due)));
            metrics::counter!("receiptd_messages_slotted_total").increment(slotted.messages as u64);
            after = slotted.next;
        }
        Ok(())
    }

    fn pack(&self, fresh: &[Fresh], open: &HashMap<GroupKey, OpenSlot>) -> Vec<crate::slot::Fill> {
        pack(fresh, open, self.poller.slot_size(), &self.cadences, self.store.clock().now())
    }

    /// When a slot of a group is due whose cadence or state has changed. One without messages is to go: that is due now.
    fn due(&self, slot: &Slot, now: Timestamp) -> Timestamp {
        let cadence = self.cadences.of(slot.cadence.as_deref());
        let phase = Phase::of_slot(slot.key.slot_id);
        let due = |message: &crate::slot::SlotMessage| {
            cadence.due_again(phase, message.sent_at, message.known_until, slot.last_polled_at, now)
        };
        slot.messages.iter().map(due).min().unwrap_or(now)
    }

    fn tell(&self, news: ScheduleNews) {
        // Without a poller the slots are found in the database by the next one.
        _ = self.news.send(news);
    }
}
