//! A daemon: its process, its lease and its terms. Mirrors `Terms` in `src/daemon/leadership/mod.rs`, which needs a runtime; the real
//! [`Contender`] decides whether it may take the lease, and for how long it trusts it.

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
    lease::{Contender, LOOK_EVERY, RENEW_EVERY, Verdict},
};

/// As `term::ASK_AGAIN`, `term::GRACE_FOR_POLLS` and `term::GRACE_FOR_FLUSH`.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(10);

/// systemd restarts a daemon that ended by itself.
const STARTED_AGAIN_AFTER: Micros = SECOND;

/// Consecutive processes in one place.
pub(super) struct Daemon {
    index: usize,
    pub life: u32,
    pub is_alive: bool,
    pub is_stopping: bool,
    pub starts_again_at: Micros,
    pub paused_until: Micros,
    /// It stands still for this long from its next permit on.
    pub pauses_at_permit: Option<Micros>,
    pub wall_offset: i64,
    /// Its knowledge of the database's clock.
    pub clock: DatabaseClock,
    pub contender: Contender,
    pub term_number: u32,
    pub term: Option<Term>,
}

/// State that lives as long as the lease is held.
pub(super) struct Term {
    epoch: i64,
    pub is_loaded: bool,
    pub is_over: bool,
    has_failed: bool,
    is_held: bool,
    is_renewing: bool,
    is_ending: bool,
    has_ended: bool,
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
            starts_again_at: 0,
            paused_until: 0,
            pauses_at_permit: None,
            wall_offset: 0,
            clock: DatabaseClock::default(),
            contender: Contender::default(),
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
        self.after(daemon, Duration::from_millis(50), Doing::Look);
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

    /// SIGTERM.
    pub fn stops(&mut self, daemon: usize) {
        if !self.daemons[daemon].is_alive {
            return;
        }
        self.daemons[daemon].is_stopping = true;
        if self.daemons[daemon].term.is_some() {
            self.ends_term(daemon);
        } else {
            self.leaves(daemon);
        }
    }

    fn leaves(&mut self, daemon: usize) {
        self.daemons[daemon].is_alive = false;
        let Daemon { is_stopping, starts_again_at, .. } = self.daemons[daemon];
        let again = if is_stopping { starts_again_at } else { self.now + STARTED_AGAIN_AFTER };
        self.at(again, Event::Starts(daemon));
    }

    pub fn does(&mut self, daemon: usize, doing: Doing) {
        match doing {
            Doing::Look => self.request(daemon, Request::Look),
            Doing::Renew => self.renews(daemon),
            Doing::Load => self.loads(daemon),
            Doing::Tick => self.ticks(daemon),
            Doing::Wake => self.wakes(daemon),
            Doing::Turn => self.takes_turns(daemon),
            Doing::Again(poll) => self.queues(daemon, poll),
            Doing::Repeat(poll) => self.repeats(daemon, poll),
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
            (Request::Look, Reply::Row(row, _)) => {
                let now = self.instant();
                let own = Daemon::name(daemon, self.daemons[daemon].life);
                let mut contender = std::mem::take(&mut self.daemons[daemon].contender);
                let is_free = |holder: &str| holder == own || self.is_seen_dead(holder);
                let verdict = contender.saw(row.as_ref(), is_free, now);
                self.daemons[daemon].contender = contender;
                match verdict {
                    Verdict::Take => self.request(daemon, Request::Take(row)),
                    Verdict::Wait => self.after(daemon, LOOK_EVERY, Doing::Look),
                }
            }
            (Request::Take(_), Reply::Taken(Some(epoch))) => self.begins_term(daemon, epoch, asked_at),
            (Request::Take(_), Reply::Taken(None)) => self.after(daemon, LOOK_EVERY, Doing::Look),
            (Request::Look | Request::Take(_), _) => {
                self.daemons[daemon].contender.lost_sight();
                self.after(daemon, ASK_AGAIN, Doing::Look);
            }
            (Request::Release, _) => self.has_released(daemon),
            (Request::Renew, reply) => self.renewed(daemon, reply, asked_at),
            (Request::Load(_), Reply::Schedule(slots, next)) => self.loaded(daemon, slots, next),
            (Request::Load(_), _) => self.not_loaded(daemon),
            (Request::Read(claimed, is_probe), reply) => self.has_read(daemon, claimed, is_probe, reply),
            (Request::Slot, reply) => self.slotted(daemon, reply),
            (Request::Flush(_) | Request::SetAside(..) | Request::ReadAgain(..), reply) => self.wrote(daemon, reply),
        }
    }

    fn is_seen_dead(&self, holder: &str) -> bool {
        let is_alive = |daemon: &Daemon| daemon.is_alive && Daemon::name(daemon.index, daemon.life) == holder;
        self.plan.one_machine && !self.daemons.iter().any(is_alive)
    }

    fn begins_term(&mut self, daemon: usize, epoch: i64, asked_at: Micros) {
        let asked_at = self.instant() - Duration::from_micros(self.now - asked_at);
        let (polling, recorder) = (Polling::new(&self.plan, self.instant()), Recorder::new(self.instant()));
        self.tally.terms += 1;
        let held = &mut self.daemons[daemon];
        held.contender.holds(epoch, asked_at);
        held.term_number += 1;
        held.term = Some(Term {
            epoch,
            is_loaded: false,
            is_over: false,
            has_failed: false,
            is_held: true,
            is_renewing: false,
            is_ending: false,
            has_ended: false,
            polling,
            recorder,
        });
        self.after(daemon, RENEW_EVERY, Doing::Renew);
        self.loads(daemon);
    }

    fn renews(&mut self, daemon: usize) {
        let Some(term) = self.daemons[daemon].term.as_mut().filter(|term| !term.has_ended) else { return };
        term.is_renewing = true;
        self.request(daemon, Request::Renew);
    }

    fn renewed(&mut self, daemon: usize, reply: Reply, asked_at: Micros) {
        let asked_at = self.instant() - Duration::from_micros(self.now - asked_at);
        let held = &mut self.daemons[daemon];
        let Some(term) = &mut held.term else { return };
        term.is_renewing = false;
        let has_ended = term.has_ended;
        match reply {
            Reply::IsHeld(true, _) => {
                held.contender.holds(term.epoch, asked_at);
                self.after(daemon, RENEW_EVERY, Doing::Renew);
            }
            Reply::IsHeld(false, _) => {
                term.is_held = false;
                held.contender.lost();
                self.ends_term(daemon);
            }
            _ => self.after(daemon, ASK_AGAIN, Doing::Renew),
        }
        if has_ended {
            self.gives_back(daemon);
        }
    }

    /// No attempt starts any more; those in flight end, and then their results are written.
    pub fn ends_term(&mut self, daemon: usize) {
        let Some(term) = self.daemons[daemon].term.as_mut().filter(|term| !term.is_over) else { return };
        term.is_over = true;
        if !term.is_loaded {
            return self.term_has_ended(daemon);
        }
        self.after(daemon, GRACE, Doing::PollsMustHaveEnded);
        self.stops_polls(daemon);
        self.polls_have_ended(daemon);
    }

    /// The recorder ended by itself.
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
        if !std::mem::replace(&mut term.is_ending, true) {
            term.recorder.closes();
            self.after(daemon, GRACE, Doing::FlushMustHaveEnded);
            self.writes(daemon);
        }
    }

    /// A renewal in progress is waited for: a process that releases the lease must not take it for its own again.
    fn term_has_ended(&mut self, daemon: usize) {
        let Some(term) = self.daemons[daemon].term.as_mut() else { return };
        term.has_ended = true;
        if !term.is_renewing {
            self.gives_back(daemon);
        }
    }

    fn gives_back(&mut self, daemon: usize) {
        self.daemons[daemon].contender.lost();
        let is_held = self.daemons[daemon].term.as_ref().is_some_and(|term| term.is_held);
        if is_held { self.request(daemon, Request::Release) } else { self.has_released(daemon) }
    }

    fn has_released(&mut self, daemon: usize) {
        let held = &mut self.daemons[daemon];
        let has_failed = held.term.take().is_some_and(|term| term.has_failed);
        held.term_number += 1;
        if held.is_stopping || has_failed {
            self.leaves(daemon);
        } else {
            self.after(daemon, Duration::ZERO, Doing::Look);
        }
    }
}
