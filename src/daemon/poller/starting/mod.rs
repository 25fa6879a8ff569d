//! Starts polls: which slots leave the schedule now, and the task that polls one. Nothing starts while results can't
//! be stored, while the lease is not trusted, or while the gate is closed.

use std::{
    collections::HashSet,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use chrono::TimeDelta;

use super::{
    Poller,
    call::{LetThrough, Pass},
    claim::Claim,
};
use crate::{
    clock,
    rules::{
        polling::{
            failing,
            gate::{Admission, Place},
            schedule::Now,
        },
        recording::{Kept, Part, Poll, PollEnd},
        slot::{GroupState, Slot, SlotKey},
    },
};

/// Delay after a failed read of the schedule.
pub(super) const READ_AGAIN: Duration = Duration::from_secs(1);

/// While no poll may start, how often this is checked.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Maximum time between rounds of the loop, whatever it waits for, to distinguish it from a hang.
pub(super) const COME_ROUND: Duration = Duration::from_secs(1);

/// Maximum number of slots considered as witnesses before any is due.
pub(super) const WITNESSES: usize = 200;

/// Maximum number of due slots considered for a probe of the app.
pub(super) const TRIED: usize = 40;

/// What may be started in a round of the loop.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// Maximum number of polls.
    most: usize,
    /// The permission by which they call.
    pass: Pass,
}

/// A slot and the absorbed one.
fn of(slot: &Slot) -> impl IntoIterator<Item = SlotKey> + use<> {
    std::iter::once(slot.key).chain(slot.absorbs.as_ref().map(|other| other.key))
}

impl Poller {
    /// Starts as many polls as there is room for. Returns the delay before the next look.
    pub(super) async fn start_polls(&mut self) -> Duration {
        let ahead = self.ahead.polls(self.caller.pacing.rate(), self.settings.max_in_flight);
        self.status.ahead.store(ahead, Ordering::Relaxed);
        let (room, since) = (self.room_left(ahead), clock::uptime());
        if room < ahead.div_ceil(2) {
            return COME_ROUND;
        }
        if self.storing_blocked.load(Ordering::Relaxed) || !self.caller.lease.is_trusted(clock::uptime()) {
            return LOOK_AGAIN;
        }
        // One page per round: polls continue meanwhile.
        if let Err(error) = self.load_page().await {
            error.log(&mut self.trouble, "reading the schedule failed: polling waits");
            return READ_AGAIN;
        }
        self.heartbeat.beat();
        let now = self.now();
        self.bring_freed_forward(now);
        let room = match self.caller.brake().room(now.monotonic) {
            Ok(most) => room.min(most),
            Err(again_at) => return again_at.saturating_duration_since(now.monotonic).min(COME_ROUND),
        };
        let admission = self.caller.gate().admit(now.monotonic);
        match admission {
            Admission::Open => self.start_due(room, usize::MAX, now, since).await.1,
            Admission::First => {
                let (calling, wait) = self.start_due(room, 1, now, since).await;
                if calling == 0 {
                    self.caller.gate().has_not_called();
                }
                wait
            }
            Admission::Probe => self.probe(now).await,
            Admission::Closed(until) => until.saturating_duration_since(now.monotonic).min(COME_ROUND),
        }
    }

    /// Starts polls of due slots, in a round that began at `since`, at most `most` that call. Returns the number of
    /// polls that will call, and the delay before the next look.
    async fn start_due(&mut self, room: usize, most: usize, now: Now, since: Instant) -> (usize, Duration) {
        let (claimed, probes) = self.claim(room, now);
        if claimed.is_empty() {
            return (0, self.until_next_due(now));
        }
        let turn = Turn { most, pass: Pass::None };
        let started = self.start_claimed(claimed, &probes, turn, now).await;
        self.ahead.took(clock::uptime().saturating_duration_since(since));
        started
    }

    /// Starts a probe of the app: of a group that isn't held, if there is one. Returns the delay before the next
    /// look.
    async fn probe(&mut self, now: Now) -> Duration {
        let is_at_fault = self.caller.gate().fault().is_some();
        let witness = self.caller.gate().take_witness().filter(|slot| self.schedule.claim(*slot));
        let mut claimed: Vec<SlotKey> =
            witness.into_iter().chain(self.schedule.claim_due(TRIED, self.failing_room(), now)).collect();
        let looks_ahead = claimed.is_empty() && !is_at_fault;
        if looks_ahead {
            // No other group is due, and a held group waits until a witness was asked.
            claimed = self.schedule.claim_soonest(WITNESSES);
        }
        let (calling, wait) = if claimed.is_empty() {
            (0, Duration::ZERO)
        } else {
            self.start_claimed(claimed, &[], Turn { most: 1, pass: Pass::Trial }, now).await
        };
        if calling > 0 {
            return wait;
        }
        let is_anybody_due = self.schedule.until_next(self.failing_room() > 0, now).is_some_and(|until| until <= 0);
        if is_anybody_due || !(looks_ahead || is_at_fault) {
            self.caller.gate().probe_again(now.monotonic);
            return wait.max(Duration::from_millis(1));
        }
        let news = self.caller.gate().no_witness(now.monotonic);
        news.into_iter().for_each(|failure| self.caller.says_app_is_at_fault(&failure));
        self.until_next_due(now)
    }

    /// Slots postponed for groups that are no longer held are due again.
    fn bring_freed_forward(&mut self, now: Now) {
        let freed = self.caller.gate().take_freed();
        for slot in freed.into_iter().filter_map(|group| self.put_off.remove(&group)).flatten() {
            self.schedule.sooner(slot, now.time, now);
        }
    }

    /// Starts polls of the claimed slots. Returns the number of polls that will call, and the delay before the next
    /// look.
    async fn start_claimed(
        &mut self,
        mut claimed: Vec<SlotKey>,
        probes: &[SlotKey],
        turn: Turn,
        now: Now,
    ) -> (usize, Duration) {
        match self.read(&mut claimed).await {
            Ok(slots) => (self.start(claimed, slots, probes, turn, now), Duration::ZERO),
            Err(error) => {
                error.log(&mut self.trouble, "reading the schedule failed: polling waits");
                // A slot may have been split without an answer.
                if error.is_unanswered() {
                    self.unsure_after = Some(SlotKey::MIN);
                }
                claimed.into_iter().for_each(|slot| self.schedule.release(slot, now.time, now));
                (0, READ_AGAIN)
            }
        }
    }

    /// Takes up to `room` slots from the schedule. Returns all of them, and which are probes of quarantined groups:
    /// at most half, so that many of them don't delay good groups. The others wait for their turn.
    fn claim(&mut self, room: usize, now: Now) -> (Vec<SlotKey>, Vec<SlotKey>) {
        // A slot in another poll is probed after that: the poll began before the quarantine, and can't end it.
        let free = self.probes.iter().copied().filter(|slot| self.schedule.claim_unknown(*slot));
        let probes: Vec<SlotKey> = free.take(room.div_ceil(2)).collect();
        probes.iter().for_each(|slot| _ = self.probes.remove(slot));
        let (room, is_braked) = (room - probes.len(), self.caller.brake().is_on());
        // During an outage, the most overdue slots may all be of failing groups, while others are good.
        let due = match is_braked {
            true => self.schedule.claim_drawn(room, fastrand::f64, now),
            false => self.schedule.claim_due(room, self.failing_room(), now),
        };
        (probes.iter().copied().chain(due).collect(), probes)
    }

    fn room_left(&self, ahead: usize) -> usize {
        let in_flight = self.settings.max_in_flight.saturating_sub(self.status.in_flight.load(Ordering::Relaxed));
        in_flight.min(ahead.saturating_sub(self.status.waiting.load(Ordering::Relaxed)))
    }

    /// Number of additional polls of failing slots that may start.
    fn failing_room(&self) -> usize {
        failing::places(self.settings.max_in_flight).saturating_sub(self.status.failing.load(Ordering::Relaxed))
    }

    fn until_next_due(&self, now: Now) -> Duration {
        let most = if self.unsure_after.is_some() { 1_000 } else { 1_000_000 };
        let until_next = self.schedule.until_next(self.failing_room() > 0, now);
        let micros = until_next.unwrap_or(i64::MAX).clamp(1_000, most);
        Duration::from_micros(micros.unsigned_abs())
    }

    /// Starts a poll for each slot that may be polled; the others leave the schedule until they are requested again,
    /// or are postponed. Returns the number of polls that will call.
    fn start(
        &mut self,
        claimed: Vec<SlotKey>,
        mut slots: Vec<Slot>,
        probes: &[SlotKey],
        turn: Turn,
        now: Now,
    ) -> usize {
        let mut missing: HashSet<SlotKey> = claimed.into_iter().collect();
        let mut calling = 0;
        if turn.most == 1 {
            // A refused group is a worse witness than others.
            let is_refused = |slot: &Slot| {
                slot.group_state == GroupState::Quarantined || self.caller.gate().holds(slot.key.group_key)
            };
            slots.sort_by_key(is_refused);
        }
        for slot in slots {
            missing.remove(&slot.key);
            slot.absorbs.iter().for_each(|other| _ = missing.remove(&other.key));
            let place = match slot.group_state {
                // Nothing to ask: the slot has to be deleted.
                _ if slot.messages.is_empty() => Some(Place::Free),
                GroupState::Active if calling >= turn.most => Some(Place::Until(now.monotonic)),
                GroupState::Active => Some(self.caller.gate().place(slot.key.group_key, now.monotonic)),
                GroupState::Quarantined => {
                    self.caller.gate().is_quarantined(slot.key.group_key);
                    let place = if calling < turn.most { Place::Free } else { Place::Until(now.monotonic) };
                    probes.contains(&slot.key).then_some(place)
                }
                GroupState::Stopped => None,
            };
            match place {
                Some(Place::Until(until)) => self.put_off(&slot, until, now),
                Some(place) => {
                    self.warn_of_unknown_cadence(&slot);
                    calling += usize::from(!slot.messages.is_empty());
                    self.spawn(slot, if place == Place::OnTrial { Pass::Trial } else { turn.pass });
                }
                None => of(&slot).into_iter().for_each(|slot| self.schedule.forget(slot)),
            }
        }
        // Slots that no longer exist.
        missing.into_iter().for_each(|slot| self.schedule.forget(slot));
        calling
    }

    /// Returns a slot to the schedule: its group is held until then, or another slot is polled instead.
    fn put_off(&mut self, slot: &Slot, until: Instant, now: Now) {
        let wait = TimeDelta::from_std(until.saturating_duration_since(now.monotonic)).unwrap_or_default();
        for id in of(slot) {
            if wait.is_zero() {
                self.schedule.give_back(id, now);
            } else {
                self.put_off.entry(slot.key.group_key).or_default().insert(id);
                self.schedule.release(id, slot.next_poll_at.max(now.time + wait), now);
            }
        }
    }

    fn spawn(&self, slot: Slot, pass: Pass) {
        let claim = Claim::new(&slot, self.news_sender.clone(), self.status.clone(), self.room.clone());
        let (caller, recorder, cadences) = (self.caller.clone(), self.recorder.clone(), self.cadences.clone());
        let (keep, clock, stretch) = (self.settings.keep, self.store.clock().clone(), self.stretch.factor());
        let let_through = if slot.messages.is_empty() { None } else { LetThrough::new(&caller) };
        self.polls.spawn(async move {
            let mut claim = claim;
            let began = |claim: &mut Claim| {
                claim.started();
                caller.activity.began(caller.metrics.note_lag(&slot, &cadences, clock.now()), Instant::now());
            };
            let poll = if slot.messages.is_empty() {
                Poll::ended(PollEnd::Complete)
            } else {
                caller.poll(&slot, pass, let_through.is_some(), || began(&mut claim)).await
            };
            drop(let_through);
            claim.started();
            if poll.attempts.is_empty() && poll.end == PollEnd::Stopped {
                return;
            }
            let group_id = slot.group_id.clone();
            let kept = Kept::of(slot, poll, cadences, stretch, keep, clock.moment());
            let alone = kept.recording.parts.iter().filter_map(Part::alone);
            alone.for_each(|seq| caller.trouble.set_apart(&group_id, seq));
            let Ok(permit) = recorder.reserve().await else {
                // The recorder gave up before this poll ended: its results count as lost like the rest.
                ::metrics::counter!("receiptd_recordings_lost_total", "reason" => "too_late").increment(1);
                return;
            };
            claim.hand_over(&kept.recording);
            permit.send(kept);
        });
    }

    fn warn_of_unknown_cadence(&mut self, slot: &Slot) {
        let Some(name) = slot.cadence.as_deref().filter(|name| !self.cadences.has(name)) else { return };
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

#[cfg(test)]
mod tests;
