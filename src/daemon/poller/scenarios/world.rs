//! The virtual clock and its events in order of time, the network between the parts, and the faults.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    daemon::Daemon,
    database::{Database, Fence, wall},
    operation::{Reply, Request},
    plan::{Fault, Micros, Plan, REQUEST_TIMEOUT, SECOND},
    promises::Promises,
    service::Heard,
};
use crate::{
    domain::MsgSeq,
    rules::{
        cadence::{Cadence, Cadences, Pace, Tier},
        polling::schedule::Now,
        slot::GroupKey,
    },
};

/// Number of last events printed when a promise was broken.
const TAIL: usize = 400;

/// Messages stay active unless everybody has read them.
const LIFE: Duration = Duration::from_secs(30 * 86_400);

/// An event of a daemon.
#[derive(Debug, Clone)]
pub(super) enum Doing {
    Lead,
    Load,
    Wake,
    Tick,
    Turn,
    Again(u64),
    GiveTurns,
    Send(u64),
    Ended(u64, Heard),
    Writes,
    PollsMustHaveEnded,
    FlushMustHaveEnded,
    Told(Request, Reply, Micros),
}

impl Doing {
    /// Whether it is about a standby's checks of the lease: these are too many for the log.
    fn is_look(&self) -> bool {
        matches!(self, Self::Lead | Self::Told(Request::Look, ..))
    }
}

/// A process and its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub daemon: usize,
    pub life: u32,
    pub term: u32,
}

#[derive(Debug)]
pub(super) enum Event {
    At(Address, Doing),
    AtDatabase(Address, Request, Option<Fence>, Micros, bool),
    /// The last field is when it was sent.
    AtService(Address, u64, GroupKey, Vec<MsgSeq>, Micros),
    Begins(Fault, Micros),
    Starts(usize),
}

/// Counts over a life, or many.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub events: u64,
    pub calls: u64,
    pub stored: u64,
    pub lost: u64,
    pub terms: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.calls += other.calls;
        self.stored += other.stored;
        self.lost += other.lost;
        self.terms += other.terms;
    }
}

pub(super) struct World {
    pub plan: Plan,
    pub random: fastrand::Rng,
    pub now: Micros,
    pub cadences: Arc<Cadences>,
    pub database: Database,
    pub daemons: Vec<Daemon>,
    pub promises: Promises,
    pub tally: Tally,
    pub log: VecDeque<String>,
    is_logged: bool,
    start: Instant,
    queue: BTreeMap<(Micros, u64), Event>,
    order: u64,
}

impl World {
    pub fn of(plan: Plan, is_logged: bool) -> Self {
        fastrand::seed(plan.seed);
        let tier = Tier { until: LIFE, every: plan.cadence };
        let mut cadence = Cadence::by_age(vec![tier], true).unwrap();
        if plan.patience > 1 {
            // A young message that somebody may read is due after one interval, and one that all have read when
            // patience ends.
            let pace = Pace { pace: 8 * plan.cadence, patience: plan.patience, fastest: plan.cadence };
            cadence = cadence.at_pace(pace).unwrap();
        }
        let mut world = Self {
            random: fastrand::Rng::with_seed(plan.seed ^ 0x5eed),
            now: 0,
            cadences: Arc::new(Cadences::new(BTreeMap::from([("default".to_owned(), cadence)]))),
            database: Database::default(),
            daemons: (0..plan.daemons).map(Daemon::new).collect(),
            promises: Promises::of(&plan),
            tally: Tally::default(),
            log: VecDeque::new(),
            is_logged,
            start: Instant::now(),
            queue: BTreeMap::new(),
            order: 0,
            plan,
        };
        world.database.clocks_are_right =
            !world.plan.faults.iter().any(|(_, fault, _)| matches!(fault, Fault::DatabaseClock(_)));
        for (group, count) in (1..).zip(world.plan.groups.clone()) {
            world.database.watch(group, count, wall(0, 0));
        }
        for daemon in 0..world.plan.daemons {
            let at = world.random.u64(0..2 * SECOND);
            world.at(at, Event::Starts(daemon));
        }
        for (at, fault, span) in world.plan.faults.clone() {
            world.at(at, Event::Begins(fault, span));
        }
        world
    }

    /// Runs until everything that must have been polled again has been, or a promise is broken.
    pub fn run(mut self) -> Self {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            self.now = at;
            if self.promises.end().is_some_and(|end| at > end) {
                break;
            }
            self.tally.events += 1;
            self.happens(event);
            self.look_at_promises();
            if self.promises.broken.is_some() {
                return self;
            }
        }
        self.look_at_promises_at_the_end();
        self
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::At(address, doing) => {
                let Some(to) = self.reached(address) else { return };
                // A process that stood still finds everything in order when it continues.
                if to.paused_until > self.now {
                    let until = to.paused_until;
                    return self.at(until, Event::At(address, doing));
                }
                if !doing.is_look() {
                    self.tell(|| format!("daemon {} {doing:?}", address.daemon));
                }
                self.does(address.daemon, doing);
            }
            Event::AtDatabase(from, request, fence, asked_at, is_answered) => {
                if !matches!(request, Request::Look) {
                    self.tell(|| format!("database {} {request:?}", from.daemon));
                }
                let reply = self.at_database(from, &request, fence.as_ref());
                if is_answered {
                    let back = self.database_way();
                    self.at(self.now + back, Event::At(from, Doing::Told(request, reply, asked_at)));
                }
            }
            Event::AtService(from, attempt, group, batch, sent_at) => {
                // By then its connection was closed, and the kernel has dropped unsent data.
                if self.now < sent_at + REQUEST_TIMEOUT {
                    self.at_service(from, attempt, group, &batch);
                }
            }
            Event::Begins(fault, span) => self.begins(fault, span),
            Event::Starts(daemon) => self.starts(daemon),
        }
    }

    fn begins(&mut self, fault: Fault, span: Micros) {
        self.tell(|| format!("{fault:?} for {span} µs"));
        let until = self.now + span;
        match fault {
            Fault::Clock(daemon, step) => self.daemons[daemon].wall_offset += step * 1_000,
            Fault::DatabaseClock(step) => self.database.clock_offset += step * 1_000,
            Fault::Pause(daemon) => {
                if self.plan.is_busy {
                    // The worst time is between a permit and its attempt.
                    self.daemons[daemon].pauses_at_permit = Some(until - self.now);
                } else {
                    self.daemons[daemon].paused_until = until.max(self.daemons[daemon].paused_until);
                }
            }
            Fault::Kill(daemon) => {
                self.dies(daemon);
                self.at(until, Event::Starts(daemon));
            }
            Fault::Stop(daemon) if self.daemons[daemon].paused_until > self.now => {
                let at = self.daemons[daemon].paused_until;
                self.at(at, Event::Begins(fault, until.saturating_sub(at)));
            }
            Fault::Stop(daemon) => {
                self.daemons[daemon].starts_again_at = until;
                self.stops(daemon);
            }
            Fault::Watch(group, count) => self.database.watch(group, count, wall(self.now, 0)),
            Fault::Unwatch(group) => self.database.unwatch(group),
            _ => {}
        }
    }

    fn reached(&self, to: Address) -> Option<&Daemon> {
        let daemon = &self.daemons[to.daemon];
        (daemon.is_alive && (daemon.life, daemon.term_number) == (to.life, to.term)).then_some(daemon)
    }

    pub fn address(&self, daemon: usize) -> Address {
        let Daemon { life, term_number: term, .. } = self.daemons[daemon];
        Address { daemon, life, term }
    }

    /// Schedules an event of a daemon after a delay, unless it has ended by then.
    pub fn after(&mut self, daemon: usize, wait: Duration, doing: Doing) {
        let at = self.now + u64::try_from(wait.as_nanos().div_ceil(1_000)).unwrap();
        self.at(at, Event::At(self.address(daemon), doing));
    }

    pub fn at(&mut self, at: Micros, event: Event) {
        self.order += 1;
        self.queue.insert((at.max(self.now), self.order), event);
    }

    /// The present faults.
    pub fn faults(&self) -> impl Iterator<Item = Fault> + '_ {
        let is_on = |(at, _, span): &&(Micros, Fault, Micros)| (*at..at + span).contains(&self.now);
        self.plan.faults.iter().filter(is_on).map(|(_, fault, _)| *fault)
    }

    /// The database's clock and the monotonic clock, as a daemon reads them.
    pub fn clocks(&self, daemon: usize) -> Now {
        let (monotonic, daemon) = (self.instant(), &self.daemons[daemon]);
        let time = daemon.clock.at(monotonic).unwrap_or_else(|| wall(self.now, daemon.wall_offset));
        Now { time, monotonic }
    }

    pub fn instant(&self) -> Instant {
        self.start + Duration::from_micros(self.now)
    }

    /// The first moment that is not before it.
    pub fn micros(&self, instant: Instant) -> Micros {
        u64::try_from(instant.saturating_duration_since(self.start).as_nanos().div_ceil(1_000)).unwrap()
    }

    pub fn tell(&mut self, what: impl FnOnce() -> String) {
        if !self.is_logged {
            return;
        }
        if self.log.len() == TAIL {
            self.log.pop_front();
        }
        let text: String = what().chars().take(300).collect();
        self.log.push_back(format!("{:>12} {text}", self.now));
    }
}
