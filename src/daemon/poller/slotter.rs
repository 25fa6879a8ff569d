//! Once a second: assigns new messages to slots, reschedules groups that their owners changed, and hands out probes
//! of quarantined groups.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::PollerStatus;
use crate::{
    clock,
    daemon::events::Health,
    domain::Timestamp,
    logging::log_throttle::LogThrottle,
    rules::{
        cadence::{Cadences, Following, Next, Phase},
        polling::dispatch::ScheduleNews,
        recording::KnownLimit,
        slot::{GroupKey, NewMessage, OpenSlot, Slot, SlotMessage, pack},
    },
    store::{FIRST, LeftBehind, RefusedSlots, Store, StoreError},
};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);

/// Change of the stretch that is stored.
const NOTEWORTHY: f64 = 0.01;

/// Said of what waits.
const REFUSED: &str = "the database refuses slots of a group, as a trigger or a constraint of yours may: what belongs to them \
                       waits, and is tried again each second";

/// State kept from one look to the next.
#[derive(Debug)]
struct Seen {
    left: LeftBehind,
    /// The stored limit.
    limit: Option<KnownLimit>,
    /// The stored stretch.
    stretch: f64,
    /// Whether it has looked for slots with due times far ahead. That reads all slots, so polling doesn't wait for it.
    far_ahead: bool,
    /// Slots that the tables refuse.
    refusals: LogThrottle,
}

/// Finds changes in the watch list and tells the poller.
#[derive(Debug)]
pub struct Slotter {
    /// The database.
    pub store: Store,
    /// The cadences of the config.
    pub cadences: Arc<Cadences>,
    /// The trust in events, which delays first polls.
    pub events: Arc<Health>,
    /// The batch limit found by the poller.
    pub poller: Arc<PollerStatus>,
    /// The poller's queue for news.
    pub news: mpsc::UnboundedSender<ScheduleNews>,
}

impl Slotter {
    /// Looks once a second until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut trouble = LogThrottle::default();
        let mut seen = Seen {
            left: LeftBehind::default(),
            limit: self.poller.known_limit(),
            stretch: self.poller.stretch(),
            far_ahead: false,
            refusals: LogThrottle::default(),
        };
        loop {
            tokio::select! { () = stop.cancelled() => return, _ = ticks.tick() => {} }
            let Some(Err(error)) = stop.run_until_cancelled(self.look(&mut seen, &stop)).await else {
                if trouble.is_over() {
                    tracing::info!("watch list readable again");
                }
                continue;
            };
            // An unanswered operation may have been done. Any other error has changed nothing.
            if error.is_unanswered() {
                self.tell(ScheduleNews::Unsure);
            }
            // The task that renews the lease notices and logs that it is lost.
            if !matches!(error, StoreError::LeaseLost { .. }) {
                error.log(&mut trouble, "reading the watch list failed: new messages wait");
            }
        }
    }

    async fn look(&self, seen: &mut Seen, stop: &CancellationToken) -> Result<(), StoreError> {
        let known = self.poller.known_limit();
        if known != seen.limit {
            self.store.store_batch_limit(known).await?;
            seen.limit = known;
        }
        let stretch = self.poller.stretch();
        if (stretch / seen.stretch - 1.0).abs() > NOTEWORTHY || (stretch <= 1.0 && seen.stretch > 1.0) {
            self.store.store_stretch(stretch).await?;
            seen.stretch = stretch;
        }
        if !seen.far_ahead {
            match self.store.reschedule_what_is_far_ahead().await {
                Ok(0) => {}
                Ok(groups) => tracing::info!(groups, "rescheduling groups that were due too far ahead"),
                Err(error) if error.is_refusal() => error.log(&mut seen.refusals, REFUSED),
                Err(error) => return Err(error),
            }
            seen.far_ahead = true;
        }
        let due = |slot: &Slot| self.due(slot, self.store.clock().now());
        let changed = self.store.reschedule_changed_groups(&mut seen.left, due).await?;
        changed.slots.into_iter().for_each(|(slot, next)| self.tell(ScheduleNews::Due(slot, next)));
        changed.failed.map_or(Ok(()), Err)?;
        let probes = self.store.slots_to_probe(self.store.clock().now()).await?;
        probes.slots.into_iter().for_each(|slot| self.tell(ScheduleNews::Probe(slot)));
        probes.failed.map_or(Ok(()), Err)?;
        let mut refused = changed.refused.or(probes.refused);
        let mut after = Some(FIRST);
        while let Some(place) = after.filter(|_| !stop.is_cancelled()) {
            let slotted = self.store.slot_new_messages(place, |fresh, open| self.pack(fresh, open)).await?;
            slotted.slots.iter().for_each(|(slot, next)| self.tell(ScheduleNews::Joined(*slot, *next)));
            metrics::counter!("receiptd_messages_slotted_total").increment(slotted.messages as u64);
            slotted.failed.map_or(Ok(()), Err)?;
            after = slotted.next;
            refused = refused.or(slotted.refused);
        }
        if let Some(RefusedSlots { group_key, error }) = refused
            && let Some(count) = seen.refusals.happened(clock::uptime())
        {
            let group = self.store.group_id(group_key).await.ok();
            tracing::error!(
                error = &error as &dyn std::error::Error,
                count,
                group,
                sqlstate = error.sqlstate(),
                "{REFUSED}"
            );
        }
        Ok(())
    }

    fn pack(
        &self,
        fresh: &[NewMessage],
        open: &HashMap<GroupKey, OpenSlot>,
    ) -> Vec<crate::rules::slot::SlotAssignment> {
        let (size, stretch) = (self.poller.slot_size(), self.poller.stretch());
        let cadences = self.cadences.giving_way(self.events.trust().untold());
        pack(fresh, open, size, &cadences, stretch, self.store.clock().now())
    }

    /// When a slot of a group with a new cadence or state is due. An empty one has to be deleted: it is due now.
    fn due(&self, slot: &Slot, now: Timestamp) -> Next {
        let cadence = self.cadences.of(slot.cadence.as_deref());
        let (following, phase) =
            (Following { cadence, stretch: self.poller.stretch() }, Phase::of_slot(slot.key.slot_id));
        following.due_again(phase, slot.last_polled_at, slot.messages.iter().map(SlotMessage::known), now)
    }

    fn tell(&self, news: ScheduleNews) {
        // Without a poller, the next one finds the slots in the database.
        _ = self.news.send(news);
    }
}
