//! A round of the poller: does what [`Dispatch`](crate::rules::polling::dispatch::Dispatch) asks for until it is over,
//! and starts a task for each poll.

use std::{sync::atomic::Ordering, time::Duration};

use super::{Poller, claim::Claim};
use crate::{
    clock,
    rules::{
        polling::{
            calls::PollInFlight,
            dispatch::{Claimed, Conditions, Contents, ContentsTask, READ_AGAIN, Task},
        },
        slot::Slot,
    },
    store::StoreError,
};

impl Poller {
    /// Starts as many polls as may start now. Returns the delay before the next round.
    pub(super) async fn round(&mut self) -> Duration {
        loop {
            let (conditions, now) = (self.conditions(), self.now());
            let task = self.dispatch.next(&mut self.caller.calls(), conditions, now);
            match task {
                Task::Wait(wait) => {
                    self.say_fault();
                    return wait;
                }
                Task::Read(claimed) => return self.start(claimed).await,
                Task::Load => {
                    if let Err(error) = self.load_page().await {
                        self.dispatch.not_loaded();
                        error.log(&mut self.trouble, "reading the schedule failed: polling waits");
                        return READ_AGAIN;
                    }
                    self.say_readable();
                }
            }
            self.heartbeat.beat();
        }
    }

    fn conditions(&self) -> Conditions {
        let rate = self.caller.pacing.rate();
        self.status.ahead.store(self.dispatch.ahead(rate), Ordering::Relaxed);
        let is_blocked = self.storing_blocked.load(Ordering::Relaxed);
        Conditions {
            may_poll: !is_blocked && self.caller.lease.is_trusted(clock::uptime()),
            rate,
            in_flight: self.status.in_flight.load(Ordering::Relaxed),
            waiting: self.status.waiting.load(Ordering::Relaxed),
            failing: self.status.failing.load(Ordering::Relaxed),
        }
    }

    /// Reads claimed slots and starts their polls. Returns the delay before the next round.
    async fn start(&mut self, mut claimed: Claimed) -> Duration {
        let read = self.read(&mut claimed).await;
        let now = self.now();
        let round = match read {
            Ok(slots) => {
                self.say_readable();
                self.dispatch.start(&mut self.caller.calls(), claimed, slots, now)
            }
            Err(error) => {
                error.log(&mut self.trouble, "reading the schedule failed: polling waits");
                self.dispatch.not_read(&mut self.caller.calls(), claimed, error.is_unanswered(), now)
            }
        };
        self.say_fault();
        for poll in round.polls {
            self.warn_of_unknown_cadence(poll.slot());
            self.spawn(poll);
        }
        round.wait
    }

    fn say_readable(&mut self) {
        if self.trouble.is_over() {
            tracing::info!("schedule readable again");
        }
    }

    /// Reads the present contents of slots. Newly claimed slots are added to `claimed`, also if this fails.
    async fn read(&mut self, claimed: &mut Claimed) -> Result<Vec<Slot>, StoreError> {
        let mut contents = Contents::new(self.status.slot_size());
        loop {
            let task = match self.dispatch.read_next(&mut contents, claimed, self.now()) {
                Ok(task) => task,
                Err(slots) => return Ok(slots),
            };
            match task {
                ContentsTask::Read(slots) => {
                    let read = self.store.read_slots(&slots).await?;
                    self.dispatch.has_read(&mut contents, claimed, read, self.now());
                }
                ContentsTask::Split(slot, size) => {
                    let made = match self.store.split_slot(&slot, size).await {
                        Err(error) if error.is_refusal() => {
                            error.log(
                                &mut self.refusals,
                                "the database refuses to split a slot: its youngest messages wait",
                            );
                            vec![]
                        }
                        made => made?,
                    };
                    self.dispatch.has_split(&mut contents, made, self.now());
                }
                ContentsTask::FindNeighbours(slots, size) => {
                    let pairs = self.store.merge_candidates(&slots, size).await?;
                    self.dispatch.has_found(&mut contents, pairs);
                }
            }
            // Each of these has its own deadline; together they may take longer than a watchdog waits.
            self.heartbeat.beat();
        }
    }

    fn spawn(&self, poll: PollInFlight) {
        let claim = Claim::new(poll.slot(), self.news_sender.clone(), self.status.clone(), self.room.clone());
        // Tasks are moved several times, and this is some kilobytes.
        self.polls.spawn(Box::pin(self.life.clone().poll_slot(poll, claim, self.dispatch.stretch())));
    }

    fn say_fault(&mut self) {
        self.dispatch.take_fault().into_iter().for_each(|failure| self.caller.says_app_is_at_fault(&failure));
    }

    fn warn_of_unknown_cadence(&mut self, slot: &Slot) {
        let Some(name) = slot.cadence.as_deref().filter(|name| !self.life.cadences.has(name)) else { return };
        // Once for each group; the limit keeps a mistake in a million groups from filling memory and log.
        if self.warned.len() < 1_000 && self.warned.insert((slot.key.group_key, name.to_owned())) {
            tracing::warn!(
                group = %slot.group_id,
                cadence = name,
                "group {} names the cadence {name:?}, which is not configured, so the default applies: add \
                 [cadence.{name}] or correct watched_groups.cadence",
                slot.group_id
            );
        }
    }
}
