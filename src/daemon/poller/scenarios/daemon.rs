//! A daemon: its process, its lease and its terms. [`Elector`] decides what it does about the lease, and the model of
//! the database answers.

use std::{collections::BTreeMap, time::Duration};

use super::{
    database::{Fence, wall},
    operation::{Reply, Request},
    plan::{Fault, Micros, SECOND},
    polling::Polling,
    recorder::Recorder,
    world::{Doing, Event, World},
};
use crate::rules::{
    database_clock::{DatabaseClock, Reading},
    lease::{Elector, GRACE_FOR_FLUSH, GRACE_FOR_POLLS, Task},
};

/// systemd restarts a daemon that ended by itself.
const STARTED_AGAIN_AFTER: Micros = SECOND;

/// Consecutive processes in one place.
pub(super) struct Daemon {
    index: usize,
    pub life: u32,
    pub is_alive: bool,
    pub is_stopping: bool,
    /// Whether it held the lease when it was stopped, and has to give it back.
    has_led: bool,
    pub starts_again_at: Micros,
    pub paused_until: Micros,
    /// Duration for which it stands still, from its next permit on.
    pub pauses_at_permit: Option<Micros>,
    pub wall_offset: i64,
    /// Its knowledge of the database's clock.
    pub clock: DatabaseClock,
    pub elector: Elector,
    /// Whether a request about the lease is on its way.
    is_asking: bool,
    leads_at: Option<Micros>,
    pub term_number: u32,
    pub term: Option<Term>,
}

/// The progress of a term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Polling,
    /// All polls have ended, and the remaining results are written.
    Writing,
    /// Everything has ended, but the elector does not know yet.
    Ended,
    Over,
}

/// State that lives as long as the lease is held.
pub(super) struct Term {
    epoch: i64,
    pub is_loaded: bool,
    pub is_over: bool,
    has_failed: bool,
    phase: Phase,
    pub polling: Polling,
    pub recorder: Recorder,
}

impl Daemon {
    pub fn new(index: usize) -> Self {
        Self {
            index,
            life: 0,
            is_alive: false,
            is_stopping: false,
            has_led: false,
            starts_again_at: 0,
            paused_until: 0,
            pauses_at_permit: None,
            wall_offset: 0,
            clock: DatabaseClock::default(),
            elector: Elector::default(),
            is_asking: false,
            leads_at: None,
            term_number: 0,
            term: None,
        }
    }

    pub fn name(index: usize, life: u32) -> String {
        format!("{index}/{life}")
    }

    pub fn fence(&self) -> Option<Fence> {
        let holder = Self::name(self.index, self.life);
        self.term.as_ref().map(|term| Fence { holder, epoch: term.epoch })
    }
}

impl World {
    pub fn starts(&mut self, daemon: usize) {
        if self.daemons[daemon].is_alive {
            return;
        }
        let Daemon { life, wall_offset, paused_until, .. } = self.daemons[daemon];
        // A started process is not the one that was stopped.
        let paused_until = if paused_until > self.now { self.now } else { paused_until };
        let (life, is_alive) = (life + 1, true);
        self.daemons[daemon] = Daemon { life, is_alive, wall_offset, paused_until, ..Daemon::new(daemon) };
        self.promises.stirred(self.now);
        self.after(daemon, Duration::from_millis(50), Doing::Lead);
    }

    pub fn dies(&mut self, daemon: usize) {
        let killed = self.daemons[daemon].term.take();
        let free_at = self.gets_through(self.now, Fault::RequestsHeld);
        if let Some(term) = killed {
            self.promises.killed_with(term.recorder.unwritten());
            if free_at > self.now && !term.polling.under_way.is_empty() {
                self.promises.killed_in_standstill(free_at);
            }
        }
        self.daemons[daemon].is_alive = false;
    }

    /// Handles SIGTERM.
    pub fn stops(&mut self, daemon: usize) {
        let stopped = &mut self.daemons[daemon];
        if !stopped.is_alive {
            return;
        }
        stopped.is_stopping = true;
        stopped.elector.stop();
        if stopped.term.is_some() {
            stopped.has_led = true;
            return self.ends_term(daemon);
        }
        // No answer is waited for.
        stopped.is_asking = false;
        self.leads(daemon);
    }

    fn leaves(&mut self, daemon: usize) {
        let left = &self.daemons[daemon];
        if left.has_led && !self.database_is_unsteady() {
            self.promises.stopped(&Daemon::name(daemon, left.life), self.database.lease.as_ref());
        }
        (self.daemons[daemon].is_alive, self.daemons[daemon].term) = (false, None);
        let Daemon { is_stopping, starts_again_at, .. } = self.daemons[daemon];
        let again = if is_stopping { starts_again_at } else { self.now + STARTED_AGAIN_AFTER };
        self.at(again, Event::Starts(daemon));
    }

    pub fn does(&mut self, daemon: usize, doing: Doing) {
        match doing {
            Doing::Lead => self.leads(daemon),
            Doing::Load => self.loads(daemon),
            Doing::Tick => self.ticks(daemon),
            Doing::Wake => self.wakes(daemon),
            Doing::Turn => self.takes_turns(daemon),
            Doing::Again(poll) => self.queues(daemon, poll),
            Doing::GiveTurns => self.gives_turns(daemon),
            Doing::Send(poll) => self.sends(daemon, poll),
            Doing::Ended(poll, heard) => self.hears(daemon, poll, heard),
            Doing::Writes => self.writes(daemon),
            Doing::PollsMustHaveEnded => {
                self.daemons[daemon].term.iter_mut().for_each(|term| term.polling.polls = BTreeMap::new());
                self.polls_have_ended(daemon);
            }
            Doing::FlushMustHaveEnded => self.gives_up(daemon),
            Doing::Told(request, reply, asked_at) => self.told(daemon, request, reply, asked_at),
        }
    }

    fn told(&mut self, daemon: usize, request: Request, reply: Reply, asked_at: Micros) {
        if let Reply::Row(_, time) | Reply::IsHeld(_, time) = &reply {
            let (wall, answered_at) = (wall(self.now, self.daemons[daemon].wall_offset), self.instant());
            let asked_at = answered_at - Duration::from_micros(self.now - asked_at);
            self.daemons[daemon].clock.learn(Reading { asked_at, answered_at, database: *time }, wall);
        }
        match (request, reply) {
            (Request::Look | Request::Take(_) | Request::Renew | Request::Release, reply) => {
                self.asked(daemon, reply, asked_at);
            }
            (Request::Load(_), Reply::Schedule(slots, next, stretch)) => self.loaded(daemon, slots, next, stretch),
            (Request::Load(_), _) => self.not_loaded(daemon),
            (Request::Read(_) | Request::Split(..) | Request::FindNeighbours(..), reply) => {
                self.has_read(daemon, reply);
            }
            (Request::Slot, reply) => self.slotted(daemon, reply),
            (Request::Flush(_) | Request::SetAside(..) | Request::ReadAgain(..), reply) => self.wrote(daemon, reply),
        }
    }

    /// Handles the database's answer to a request about the lease.
    fn asked(&mut self, daemon: usize, reply: Reply, asked_at: Micros) {
        let (now, asked_at) = (self.instant(), self.instant() - Duration::from_micros(self.now - asked_at));
        let own = Daemon::name(daemon, self.daemons[daemon].life);
        let mut elector = std::mem::take(&mut self.daemons[daemon].elector);
        match reply {
            Reply::Row(row, _) => {
                let is_free = |holder: &str| holder == own || self.is_seen_dead(holder);
                elector.saw(row.as_ref(), is_free, now);
            }
            Reply::Taken(epoch) => elector.took(epoch, asked_at, now),
            Reply::IsHeld(is_held, _) => elector.renewed(is_held, asked_at, now),
            Reply::Released => elector.released(),
            _ => elector.failed(now),
        }
        (self.daemons[daemon].elector, self.daemons[daemon].is_asking) = (elector, false);
        self.leads(daemon);
    }

    /// Does what the elector asks for.
    fn leads(&mut self, daemon: usize) {
        let instant = self.instant();
        let held = &mut self.daemons[daemon];
        if held.is_asking {
            return;
        }
        if let Some(term) = held.term.as_mut().filter(|term| term.phase == Phase::Ended) {
            term.phase = Phase::Over;
            held.elector.polling_ended(term.has_failed);
        }
        let request = match held.elector.next(instant) {
            Task::Look => Request::Look,
            Task::Take(row) => Request::Take(row),
            Task::Renew => Request::Renew,
            Task::Release => Request::Release,
            Task::Wait(until) => return self.leads_at(daemon, self.micros(until)),
            Task::StepDown => return self.ends_term(daemon),
            Task::End => return self.leaves(daemon),
            Task::Lead(epoch) => {
                self.begins_term(daemon, epoch);
                return self.leads(daemon);
            }
        };
        if matches!(request, Request::Look | Request::Take(_)) && held.term.take().is_some() {
            (held.term_number, held.leads_at) = (held.term_number + 1, None);
        }
        held.is_asking = true;
        self.request(daemon, request);
    }

    fn leads_at(&mut self, daemon: usize, at: Micros) {
        if self.daemons[daemon].leads_at != Some(at) {
            self.daemons[daemon].leads_at = Some(at);
            self.after(daemon, Duration::from_micros(at.saturating_sub(self.now)), Doing::Lead);
        }
    }

    fn is_seen_dead(&self, holder: &str) -> bool {
        let is_alive = |daemon: &Daemon| daemon.is_alive && Daemon::name(daemon.index, daemon.life) == holder;
        self.plan.one_machine && !self.daemons.iter().any(is_alive)
    }

    fn begins_term(&mut self, daemon: usize, epoch: i64) {
        let (polling, recorder) = (Polling::new(&self.plan, self.instant()), Recorder::new(self.instant()));
        self.tally.terms += 1;
        let held = &mut self.daemons[daemon];
        (held.term_number, held.leads_at) = (held.term_number + 1, None);
        held.term = Some(Term {
            epoch,
            is_loaded: false,
            is_over: false,
            has_failed: false,
            phase: Phase::Polling,
            polling,
            recorder,
        });
        self.loads(daemon);
    }

    /// Ends a term: no attempt starts any more, those in flight end, and then their results are written.
    pub fn ends_term(&mut self, daemon: usize) {
        let Some(term) = self.daemons[daemon].term.as_mut().filter(|term| !term.is_over) else { return };
        term.is_over = true;
        if !term.is_loaded {
            return self.term_has_ended(daemon);
        }
        self.after(daemon, GRACE_FOR_POLLS, Doing::PollsMustHaveEnded);
        self.stops_polls(daemon);
        self.polls_have_ended(daemon);
    }

    /// Notes that the recorder ended by itself.
    pub fn recorder_has_failed(&mut self, daemon: usize) {
        let Some(term) = self.daemons[daemon].term.as_mut() else { return };
        term.has_failed |= !term.is_over;
        self.ends_term(daemon);
        self.polls_have_ended(daemon);
    }

    /// If so, the remaining results have some time to be written.
    pub fn polls_have_ended(&mut self, daemon: usize) {
        let Some(term) = self.daemons[daemon].term.as_mut() else { return };
        if !term.is_over || !term.polling.polls.is_empty() || !term.is_loaded {
            return;
        }
        if term.recorder.has_ended() {
            return self.term_has_ended(daemon);
        }
        if term.phase == Phase::Polling {
            term.phase = Phase::Writing;
            term.recorder.closes();
            self.after(daemon, GRACE_FOR_FLUSH, Doing::FlushMustHaveEnded);
            self.writes(daemon);
        }
    }

    fn term_has_ended(&mut self, daemon: usize) {
        let Some(term) = self.daemons[daemon].term.as_mut().filter(|term| term.phase != Phase::Over) else { return };
        term.phase = Phase::Ended;
        self.leads(daemon);
    }
}
