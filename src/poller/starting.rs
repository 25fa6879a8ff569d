//! Starting polls: which slots are taken out of the schedule now, and the task that polls one. Nothing is started while nothing
//! could be stored, while the lease is not trusted, or while the gate is closed.

use std::{
    collections::HashSet,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{AHEAD, Poller, claim::Claim, gate::Admission, metrics, schedule::Now};
use crate::{
    recording::{Part, Poll, PollEnd, Recording},
    slot::{GroupState, Slot, SlotId},
    store::StoreError,
};

/// After a failed read of the schedule it is tried again after this time.
pub(super) const READ_AGAIN: Duration = Duration::from_secs(1);

/// While no poll may start it is looked this often whether one may.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The loop comes round this often at least, whatever it waits for: who watches it can tell that from a hang.
pub(super) const COME_ROUND: Duration = Duration::from_secs(1);

impl Poller {
    /// Starts as many polls as there is room for. Returns after how long to look again.
    pub(super) async fn start_polls(&mut self) -> Duration {
        let room = self.room_left();
        if room < AHEAD.min(self.settings.max_in_flight).div_ceil(2) {
            return COME_ROUND;
        }
        if self.is_stuck.load(Ordering::Relaxed) || !self.caller.lease.is_trusted() {
            return LOOK_AGAIN;
        }
        if self.is_unsure
            && let Err(error) = self.load().await
        {
            self.say(&error);
            return READ_AGAIN;
        }
        self.progress.beat();
        let now = self.now();
        let (room, is_probe) = match self.caller.gate().admit(now.monotonic) {
            Admission::Open => (room, false),
            Admission::Probe => (1, true),
            Admission::Closed(until) => return until.saturating_duration_since(now.monotonic).min(COME_ROUND),
        };
        let (calling, wait) = self.start_due(room, is_probe, now).await;
        if is_probe && calling == 0 {
            self.caller.gate().probe_again(now.monotonic);
        }
        wait
    }

    /// Starts polls of up to `room` slots. Returns how many will call, and after how long to look again.
    async fn start_due(&mut self, room: usize, is_probe: bool, now: Now) -> (usize, Duration) {
        let (mut claimed, probes) = self.claim(room, now);
        if claimed.is_empty() {
            return (0, self.until_next_due(now));
        }
        match self.read(&mut claimed).await {
            Ok(slots) => (self.start(claimed, slots, &probes, is_probe), Duration::ZERO),
            Err(error) => {
                self.say(&error);
                // A slot may have been split without an answer.
                self.is_unsure |= error.is_unanswered();
                claimed.into_iter().for_each(|slot| self.schedule.release(slot, now.time, now));
                (0, READ_AGAIN)
            }
        }
    }

    /// Takes up to `room` slots out of the schedule. Returns all of them, and which are probes of quarantined groups: half at
    /// most, so that many of them don't hold up the groups that are well. The others wait for their turn.
    fn claim(&mut self, room: usize, now: Now) -> (Vec<SlotId>, Vec<SlotId>) {
        let mut probes = Vec::new();
        while probes.len() < room.div_ceil(2)
            && let Some(slot) = self.probes.pop_first()
        {
            // One that is in another poll already is not tried once more.
            if self.schedule.claim_unknown(slot) {
                probes.push(slot);
            }
        }
        let due = self.schedule.claim_due(room - probes.len(), now);
        (probes.iter().copied().chain(due).collect(), probes)
    }

    fn say(&mut self, error: &StoreError) {
        if let Some(count) = self.trouble.happened() {
            let (cause, advice) = (error as &dyn std::error::Error, error.advice());
            tracing::error!(error = cause, count, advice, "the schedule can't be read: polling waits");
        }
    }

    fn room_left(&self) -> usize {
        let in_flight = self.settings.max_in_flight.saturating_sub(self.status.in_flight.load(Ordering::Relaxed));
        in_flight.min(AHEAD.saturating_sub(self.status.waiting.load(Ordering::Relaxed)))
    }

    fn until_next_due(&self, now: Now) -> Duration {
        let micros = self.schedule.until_next(now).unwrap_or(i64::MAX).clamp(1_000, 1_000_000);
        Duration::from_micros(micros.unsigned_abs())
    }

    /// Starts a poll for each slot that may be polled; the others leave the schedule until they are asked for again.
    /// Returns how many will call.
    fn start(&mut self, claimed: Vec<SlotId>, slots: Vec<Slot>, probes: &[SlotId], is_probe: bool) -> usize {
        let mut missing: HashSet<SlotId> = claimed.into_iter().collect();
        let mut calling = 0;
        for slot in slots {
            missing.remove(&slot.slot_id);
            slot.absorbs.iter().for_each(|(other, _)| _ = missing.remove(other));
            let may_poll = match slot.group_state {
                GroupState::Active => true,
                GroupState::Quarantined => probes.contains(&slot.slot_id),
                GroupState::Stopped => false,
            };
            if may_poll {
                self.warn_of_unknown_cadence(&slot);
                calling += usize::from(!slot.messages.is_empty());
                self.spawn(slot, is_probe);
            } else {
                slot.absorbs.into_iter().for_each(|(other, _)| self.schedule.forget(other));
                self.schedule.forget(slot.slot_id);
            }
        }
        // Slots that do not exist any more.
        missing.into_iter().for_each(|slot| self.schedule.forget(slot));
        calling
    }

    fn spawn(&self, slot: Slot, is_probe: bool) {
        let claim = Claim::new(&slot, self.news_sender.clone(), self.status.clone(), self.room.clone());
        let (caller, recorder, cadences) = (self.caller.clone(), self.recorder.clone(), self.cadences.clone());
        let (keep, clock) = (self.settings.keep, self.store.clock().clone());
        self.polls.spawn(async move {
            let mut claim = claim;
            let began = |claim: &mut Claim| {
                claim.started();
                caller.activity.began(metrics::note_lag(&slot, &cadences, clock.now()), Instant::now());
            };
            let poll = if slot.messages.is_empty() {
                Poll::ended(PollEnd::Complete)
            } else {
                caller.poll(&slot, is_probe, || began(&mut claim)).await
            };
            claim.started();
            if poll.attempts.is_empty() && poll.end == PollEnd::Stopped {
                return;
            }
            let cadence = cadences.of(slot.cadence.as_deref());
            let group_id = slot.group_id.clone();
            let recording = Recording::of(slot, poll, cadence, keep, clock.now());
            let alone = recording.parts.iter().filter_map(Part::alone);
            alone.for_each(|seq| caller.trouble.set_apart(&group_id, seq));
            let Ok(permit) = recorder.reserve().await else {
                // The recorder gave up before this poll ended: what it brought back counts as lost like the rest.
                ::metrics::counter!("receiptd_recordings_lost_total", "reason" => "too_late").increment(1);
                return;
            };
            claim.hand_over(&recording);
            permit.send(recording);
        });
    }

    fn warn_of_unknown_cadence(&mut self, slot: &Slot) {
        let Some(name) = slot.cadence.as_deref().filter(|name| !self.cadences.has(name)) else { return };
        // Once for each group; the bound keeps a mistake in a million groups from filling memory and log.
        if self.warned.len() < 1_000 && self.warned.insert((slot.group_key, name.to_owned())) {
            tracing::warn!(
                group = %slot.group_id,
                cadence = name,
                "group {} names the cadence {name:?}, which the config lacks, so it gets the default: add [cadence.{name}] or \
                 correct watched_groups.cadence",
                slot.group_id
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use tokio::sync::mpsc;

    use super::*;
    use crate::{
        cadence::Cadences,
        chat::{ChatClient, ChatSettings, Credential, Destination},
        domain::SdkAppId,
        poller::{PollerParts, PollerSettings, ScheduleNews},
        recording::KeepSnapshots,
        store::Store,
    };

    /// A poller that reaches nobody.
    fn poller() -> Poller {
        let sdk_app_id = SdkAppId::try_from(1).unwrap();
        let client = ChatClient::new(ChatSettings {
            sdk_app_id,
            identifier: "administrator".into(),
            credential: Credential::SecretKey("key".into()),
            destination: Destination::Endpoint("http://127.0.0.1:9".into()),
            request_timeout: Duration::from_secs(8),
            max_connections: 1,
        });
        let parts = PollerParts {
            store: Store::new(&"postgres://nobody@127.0.0.1:9/none".into(), 1, sdk_app_id).unwrap(),
            client: Arc::new(client.unwrap()),
            lease: Arc::default(),
            cadences: Arc::new(Cadences::new(BTreeMap::new())),
            recorder: mpsc::channel(1).0,
            committed: mpsc::unbounded_channel().1,
            is_stuck: Arc::default(),
            progress: Arc::default(),
            activity: Arc::default(),
        };
        let settings = PollerSettings {
            max_calls_per_second: 200,
            transit_allowance: Duration::ZERO,
            batch_size: 50,
            max_in_flight: 400,
            keep: KeepSnapshots::Changes,
        };
        Poller::new(parts, settings, tokio_util::sync::CancellationToken::new())
    }

    fn offer(poller: &mut Poller, probes: std::ops::RangeInclusive<SlotId>, due: std::ops::RangeInclusive<SlotId>) {
        probes.for_each(|slot| poller.hear(ScheduleNews::Probe(slot)));
        due.for_each(|slot| poller.hear(ScheduleNews::Due(slot, poller.now().time)));
    }

    #[tokio::test]
    async fn a_closed_gate_lets_one_poll_through_however_many_groups_are_due_for_a_probe() {
        let mut poller = poller();
        offer(&mut poller, 1..=300, 301..=400);
        assert_eq!(poller.claim(1, poller.now()), (vec![1], vec![1]));
    }

    #[tokio::test]
    async fn probes_of_groups_take_half_of_the_room_and_the_others_wait_once_each() {
        let mut poller = poller();
        offer(&mut poller, 1..=6, 301..=400);
        offer(&mut poller, 1..=6, 301..=400);
        assert_eq!(poller.claim(4, poller.now()), (vec![1, 2, 301, 302], vec![1, 2]));
        assert_eq!(poller.claim(4, poller.now()), (vec![3, 4, 303, 304], vec![3, 4]));
        assert_eq!(poller.claim(8, poller.now()), (vec![5, 6, 305, 306, 307, 308, 309, 310], vec![5, 6]));
    }
}
