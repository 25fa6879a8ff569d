//! The calls of a poll. Mirrors the waiting of `src/daemon/poller/call.rs` and `src/daemon/pacing.rs`; the real
//! [`Pacer`](crate::rules::pacer::Pacer), [`Gate`](crate::rules::polling::gate::Gate) and [`PollProgress`](crate::rules::polling::poll_progress::Asking)
//! decide whether and when an attempt may be made, and the reaction to its outcome.

use std::time::Duration;

use super::{
    plan::{Fault, Micros},
    polling::Turn,
    service::Heard,
    world::{Doing, World},
};
use crate::{
    daemon::poller::call::Pass,
    rules::{
        pacer::Grant,
        polling::{gate::Signature, poll_progress::Step},
        protocol::{Attempt, Class},
    },
};

impl World {
    /// A poll waits for its next permit, or has ended.
    pub fn queues(&mut self, daemon: usize, id: u64) {
        let is_over = self.daemons[daemon].term.as_ref().is_none_or(|term| term.is_over);
        let (instant, polling) = (self.instant(), self.polling(daemon));
        let Some(poll) = polling.polls.get_mut(&id) else { return };
        poll.asking.others_are(polling.outcomes.of_others(poll.slot.key.slot_id, instant));
        if is_over && !poll.slot.messages.is_empty() {
            poll.asking.stop();
        }
        if poll.asking.batch().is_none() {
            return self.poll_has_ended(daemon, id);
        }
        let polling = self.polling(daemon);
        let Some(poll) = polling.polls.get_mut(&id) else { return };
        if poll.is_let_through && poll.has_started {
            if let Err(again_at) = polling.brake.next_call(instant) {
                return self.after(daemon, again_at.saturating_duration_since(instant), Doing::Again(id));
            }
            polling.brake.calls(instant);
        }
        if poll.is_limited() {
            polling.awaiting_turn.push_back(id);
            return self.gives_turns(daemon);
        }
        polling.waiting.push_back(id);
        self.turn_at(daemon, self.now);
    }

    /// Mirrors `FailingShare::turn`.
    pub fn gives_turns(&mut self, daemon: usize) {
        let instant = self.instant();
        let polling = self.polling(daemon);
        while let Some(id) = polling.awaiting_turn.front().copied() {
            let Some(poll) = polling.polls.get_mut(&id) else {
                polling.awaiting_turn.pop_front();
                continue;
            };
            if let Err(from) = polling.failing.take(instant) {
                if let Some(from) = from {
                    self.after(daemon, from.saturating_duration_since(instant), Doing::GiveTurns);
                }
                return;
            }
            poll.turn = Some(Turn { sent: None });
            polling.awaiting_turn.pop_front();
            polling.waiting.push_back(id);
            let now = self.now;
            return self.turn_at(daemon, now);
        }
    }

    /// Mirrors the end of `Caller::wait`: while the brake is on, no call is repeated.
    pub fn repeats(&mut self, daemon: usize, id: u64) {
        let polling = self.polling(daemon);
        if polling.brake.is_on() {
            polling.polls.get_mut(&id).into_iter().for_each(|poll| poll.asking.give_up());
        }
        self.queues(daemon, id);
    }

    fn turn_at(&mut self, daemon: usize, at: Micros) {
        let now = self.now;
        let polling = self.polling(daemon);
        if polling.turn_at.is_none_or(|earlier| earlier > at) {
            polling.turn_at = Some(at);
            self.after(daemon, Duration::from_micros(at.saturating_sub(now)), Doing::Turn);
        }
    }

    /// Mirrors `Pacing::permit` and the checks of `Caller` before sending.
    pub fn takes_turns(&mut self, daemon: usize) {
        let (now, instant) = (self.now, self.instant());
        if self.polling(daemon).turn_at.take_if(|at| *at <= now).is_none() {
            return;
        }
        while let Some(id) = self.polling(daemon).waiting.front().copied() {
            match self.polling(daemon).pacer.take(instant) {
                Ok(grant) => {
                    self.polling(daemon).waiting.pop_front();
                    self.may_send(daemon, id, grant);
                }
                Err(Some(ready_at)) => {
                    let late = self.random.u64(0..1_100);
                    return self.turn_at(daemon, self.micros(ready_at) + late);
                }
                // Until an attempt ends.
                Err(None) => return,
            }
        }
    }

    fn may_send(&mut self, daemon: usize, id: u64, grant: Grant) {
        let instant = self.instant();
        let is_trusted = self.daemons[daemon].elector.contender().is_trusted(instant);
        let polling = self.polling(daemon);
        let Some(poll) = polling.polls.get_mut(&id) else { return polling.pacer.failed(&grant, instant) };
        poll.has_started = true;
        let is_trial = std::mem::take(&mut poll.tries_signature) || poll.pass == Pass::Trial;
        let may_call = is_trial || polling.gate.may_call(poll.slot.key.group_key, instant);
        let is_braked = polling.brake.is_on() && !poll.is_let_through;
        if !may_call || is_braked || !is_trusted {
            poll.asking.stop();
            polling.pacer.failed(&grant, instant);
            if poll.turn.take().is_some() {
                polling.failing.give_back(None);
            }
            self.poll_has_ended(daemon, id);
            return self.gives_turns_if_on(daemon);
        }
        if let Some(turn) = &mut poll.turn {
            polling.failing.sends(instant);
            turn.sent = Some(instant);
        }
        poll.sent = instant;
        poll.grant = Some(grant);
        // Connecting may take time, and the process may be stopped just then.
        let longest = u64::try_from(self.plan.allowance.as_micros()).unwrap() / 2;
        let longest = if self.random.u8(0..5) == 0 { longest } else { 300 };
        let wait = Duration::from_micros(self.random.u64(0..longest));
        self.after(daemon, wait, Doing::Send(id));
        if let Some(span) = self.daemons[daemon].pauses_at_permit.take() {
            self.daemons[daemon].paused_until = self.now + span;
        }
        self.wake_in(daemon, Duration::ZERO);
        self.gives_turns_if_on(daemon);
    }

    fn gives_turns_if_on(&mut self, daemon: usize) {
        if self.daemons[daemon].term.is_some() {
            self.gives_turns(daemon);
        }
    }

    pub fn sends(&mut self, daemon: usize, id: u64) {
        let (now, instant) = (self.now, self.instant());
        let is_trusted = self.daemons[daemon].elector.contender().is_trusted(instant);
        let is_connected = !self.faults().any(|fault| fault == Fault::Unreachable);
        let polling = self.polling(daemon);
        let attempt = polling.next_id();
        let Some(poll) = polling.polls.get_mut(&id) else { return };
        // Mirrors `GuardedBody`: when the request is written, the lease is checked again.
        if !is_trusted {
            poll.asking.stop();
            let grant = poll.grant.take().expect("an attempt holds a permit");
            polling.pacer.failed(&grant, instant);
            if let Some(turn) = poll.turn.take() {
                polling.failing.give_back(turn.sent);
            }
            return self.poll_has_ended(daemon, id);
        }
        if let Some(grant) = poll.grant.as_ref().filter(|_| is_connected) {
            polling.pacer.written(grant, instant);
        }
        poll.sent = instant;
        let (group, batch) = (poll.slot.key.group_key, poll.asking.batch().unwrap_or_default().to_vec());
        polling.under_way.insert(attempt, (id, now));
        self.send(daemon, attempt, group, batch);
    }

    /// An attempt has ended.
    pub fn hears(&mut self, daemon: usize, attempt: u64, heard: Heard) {
        let (now, instant) = (self.now, self.instant());
        let clock = self.daemons[daemon].clock.clone();
        let polling = self.polling(daemon);
        let Some((id, sent_at)) = polling.under_way.remove(&attempt) else { return };
        let Some(poll) = polling.polls.get_mut(&id) else { return };
        let latency = Duration::from_micros(now - sent_at);
        let asked = poll.asking.batch().unwrap_or_default().len();
        let Heard { http_status, outcome } = heard;
        // Mirrors `Clock::interval`.
        let sent = clock.bounds(instant - latency).map(|(earliest, _)| earliest);
        let ended = clock.bounds(instant).map(|(_, latest)| latest);
        let (called_at, ended_at) = sent.zip(ended).expect("a daemon that polls has checked the lease");
        let attempt = Attempt { called_at, ended_at, latency, http_status, asked, outcome };
        let grant = poll.grant.take().expect("an attempt holds a permit");
        if attempt.class() == Class::SlowDown {
            polling.pacer.slow_down(&grant, instant);
        }
        match attempt.http_status {
            Some(_) => polling.pacer.answered(&grant, instant),
            None => polling.pacer.failed(&grant, instant),
        }
        polling.outcomes.note(poll.slot.key.slot_id, attempt.class(), instant);
        let turn = poll.turn.take();
        let held_up = polling.gate.holds_up(instant);
        // When more calls may be made than before.
        let mut wakes = polling.brake.is_on() && attempt.outcome.is_ok();
        if attempt.class().is_answer() {
            polling.gate.answered(poll.slot.key, poll.sent, instant);
            turn.into_iter().for_each(|turn| polling.failing.give_back(turn.sent));
        }
        wakes |= held_up && !polling.gate.holds_up(instant);
        polling.brake.note(poll.slot.key.slot_id, &attempt, poll.sent, instant);
        let (gate, sent) = (&mut polling.gate, poll.sent);
        let (tries_signature, has_failed) = (&mut poll.tries_signature, attempt.has_failed_for_now());
        let next = poll.asking.record(attempt, || {
            let verdict = gate.signature_refused(sent, instant);
            *tries_signature = verdict == Signature::Renew;
            verdict != Signature::IsHopeless
        });
        if has_failed && next == Step::Continue && polling.brake.is_on() {
            poll.asking.gives_way();
        }
        if polling.turn_at.is_none_or(|at| at > now + 1_000_000) {
            self.turn_at(daemon, now);
        }
        match next {
            Step::Continue => self.queues(daemon, id),
            Step::Wait(wait) => {
                let is_over = self.daemons[daemon].term.as_ref().is_none_or(|term| term.is_over);
                match is_over || self.polling(daemon).brake.is_on() {
                    true => self.repeats(daemon, id),
                    false => self.after(daemon, wait, Doing::Repeat(id)),
                }
            }
            Step::StopApp(failure) => {
                self.polling(daemon)
                    .polls
                    .get_mut(&id)
                    .into_iter()
                    .for_each(|poll| poll.refusal = Some(failure.clone()));
                self.queues(daemon, id);
            }
        }
        self.gives_turns_if_on(daemon);
        if wakes {
            self.wake_in(daemon, Duration::ZERO);
        }
    }

    /// No attempt starts any more.
    pub fn stops_polls(&mut self, daemon: usize) {
        let polling = self.polling(daemon);
        polling.waiting.clear();
        polling.awaiting_turn.clear();
        let idle: Vec<u64> = polling.polls.iter().filter(|poll| poll.1.grant.is_none()).map(|poll| *poll.0).collect();
        idle.into_iter().for_each(|id| self.queues(daemon, id));
    }
}
