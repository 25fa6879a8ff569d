//! The calls of a poll: [`Calls`](crate::rules::polling::calls::Calls) and the [`Pacer`](crate::rules::pacer::Pacer)
//! decide whether and when a call may be made, and what follows from its outcome. Here polls wait in line for turns and
//! permits, as tasks do in the daemon.

use std::time::Duration;

use super::{
    plan::{Fault, Micros},
    polling::Turn,
    service::Heard,
    world::{Doing, World},
};
use crate::rules::{
    pacer::Grant,
    polling::calls::Next,
    protocol::{Attempt, Class},
};

impl World {
    /// A poll makes its next call, waits, or has ended.
    pub fn queues(&mut self, daemon: usize, id: u64) {
        let is_over = self.daemons[daemon].term.as_ref().is_none_or(|term| term.is_over);
        let (instant, polling) = (self.instant(), self.polling(daemon));
        let Some(polled) = polling.polls.get_mut(&id) else { return };
        if is_over {
            polled.poll.stop();
        }
        match polling.calls.next(&mut polled.poll, instant) {
            Next::End => self.poll_has_ended(daemon, id),
            Next::Wait(until) => self.after(daemon, until.saturating_duration_since(instant), Doing::Again(id)),
            Next::Call { is_limited: true } => {
                polling.awaiting_turn.push_back(id);
                self.gives_turns(daemon);
            }
            Next::Call { is_limited: false } => {
                polling.waiting.push_back(id);
                self.turn_at(daemon, self.now);
            }
        }
    }

    /// Gives turns to polls of failing slots, in order.
    pub fn gives_turns(&mut self, daemon: usize) {
        let instant = self.instant();
        let polling = self.polling(daemon);
        while let Some(id) = polling.awaiting_turn.front().copied() {
            let Some(polled) = polling.polls.get_mut(&id) else {
                polling.awaiting_turn.pop_front();
                continue;
            };
            if let Err(from) = polling.failing.take(instant) {
                if let Some(from) = from {
                    self.after(daemon, from.saturating_duration_since(instant), Doing::GiveTurns);
                }
                return;
            }
            polled.turn = Some(Turn { sent: None });
            polling.awaiting_turn.pop_front();
            polling.waiting.push_back(id);
            let now = self.now;
            return self.turn_at(daemon, now);
        }
    }

    fn turn_at(&mut self, daemon: usize, at: Micros) {
        let now = self.now;
        let polling = self.polling(daemon);
        if polling.turn_at.is_none_or(|earlier| earlier > at) {
            polling.turn_at = Some(at);
            self.after(daemon, Duration::from_micros(at.saturating_sub(now)), Doing::Turn);
        }
    }

    /// Gives permits to waiting polls, in order.
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
        let Some(polled) = polling.polls.get_mut(&id) else { return polling.pacer.failed(&grant, instant) };
        if !polling.calls.may_send(&mut polled.poll, is_trusted, instant) {
            polling.pacer.failed(&grant, instant);
            if polled.turn.take().is_some() {
                polling.failing.give_back(None);
            }
            self.queues(daemon, id);
            return self.gives_turns_if_on(daemon);
        }
        if let Some(turn) = &mut polled.turn {
            polling.failing.sends(instant);
            turn.sent = Some(instant);
        }
        polled.grant = Some(grant);
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
        let Some(polled) = polling.polls.get_mut(&id) else { return };
        // When the request is written, the lease is checked again.
        if !is_trusted {
            polled.poll.stop();
            let grant = polled.grant.take().expect("an attempt holds a permit");
            polling.pacer.failed(&grant, instant);
            if let Some(turn) = polled.turn.take() {
                polling.failing.give_back(turn.sent);
            }
            return self.queues(daemon, id);
        }
        if let Some(grant) = polled.grant.as_ref().filter(|_| is_connected) {
            polling.pacer.written(grant, instant);
        }
        let (group, batch) = (polled.poll.slot().key.group_key, polled.poll.batch().to_vec());
        polling.under_way.insert(attempt, (id, now));
        polling.sent.push_back(instant);
        self.send(daemon, attempt, group, batch);
    }

    /// An attempt has ended.
    pub fn hears(&mut self, daemon: usize, attempt: u64, heard: Heard) {
        let (now, instant) = (self.now, self.instant());
        let clock = self.daemons[daemon].clock.clone();
        let polling = self.polling(daemon);
        let Some((id, sent_at)) = polling.under_way.remove(&attempt) else { return };
        let Some(polled) = polling.polls.get_mut(&id) else { return };
        let (latency, asked) = (Duration::from_micros(now - sent_at), polled.poll.batch().len());
        let Heard { http_status, outcome } = heard;
        // As in `Clock::interval`.
        let sent = clock.bounds(instant - latency).map(|(earliest, _)| earliest);
        let ended = clock.bounds(instant).map(|(_, latest)| latest);
        let (called_at, ended_at) = sent.zip(ended).expect("a daemon that polls has checked the lease");
        let attempt = Attempt { called_at, ended_at, latency, http_status, asked, outcome };
        let grant = polled.grant.take().expect("an attempt holds a permit");
        if attempt.class() == Class::SlowDown {
            polling.pacer.slow_down(&grant, instant);
        }
        match attempt.http_status {
            Some(_) => polling.pacer.answered(&grant, instant),
            None => polling.pacer.failed(&grant, instant),
        }
        if let Some(turn) = polled.turn.take().filter(|_| attempt.class().is_answer()) {
            polling.failing.give_back(turn.sent);
        }
        let makes_room = polling.calls.heard(&mut polled.poll, attempt, || true, instant).makes_room;
        if polling.turn_at.is_none_or(|at| at > now + 1_000_000) {
            self.turn_at(daemon, now);
        }
        self.queues(daemon, id);
        self.gives_turns_if_on(daemon);
        if makes_room {
            self.wake_in(daemon, Duration::ZERO);
        }
    }

    /// Notes that no attempt starts any more.
    pub fn stops_polls(&mut self, daemon: usize) {
        let polling = self.polling(daemon);
        polling.waiting.clear();
        polling.awaiting_turn.clear();
        let idle: Vec<u64> = polling.polls.iter().filter(|poll| poll.1.grant.is_none()).map(|poll| *poll.0).collect();
        idle.into_iter().for_each(|id| self.queues(daemon, id));
    }
}
