//! A virtual network and service for the pacer's tests: connections that have to be set up, a network that is blocked
//! and released, delayed answers. Counts what the service sees.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{Grant, Pacer};

/// Microseconds of virtual time.
pub type Micros = u64;

pub const MS: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;

/// Latency of the service.
pub type Service = fn(&mut fastrand::Rng) -> Micros;

/// What is blocked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    There,
    Back,
    Both,
}

/// A time span in which nothing gets through. Everything delayed arrives at its end, all at once.
#[derive(Debug, Clone, Copy)]
pub struct Standstill {
    pub from: Micros,
    pub to: Micros,
    pub way: Way,
}

#[derive(Debug, Clone)]
pub struct Network {
    pub service: Service,
    /// Time from the client to the service.
    pub transit: std::ops::RangeInclusive<Micros>,
    pub round_trip: Micros,
    /// Round trips to set up a connection.
    pub handshake: u64,
    pub standstills: Vec<Standstill>,
    /// Times at which all connections break.
    pub breaks: Vec<Micros>,
    /// Standstills of the process: time and duration.
    pub stops: Vec<(Micros, Micros)>,
    pub request_timeout: Micros,
    pub span: Micros,
}

/// Arrivals at the service, in order.
#[derive(Debug)]
pub struct Seen {
    pub arrivals: Vec<Micros>,
    span: Micros,
}

impl Seen {
    /// Maximum number of arrivals in any half-open second.
    pub fn highest_second(&self) -> usize {
        let mut first = 0;
        let window = |(last, at): (usize, &Micros)| {
            while at - self.arrivals[first] >= SECOND {
                first += 1;
            }
            last + 1 - first
        };
        self.arrivals.iter().enumerate().map(window).max().unwrap_or(0)
    }

    /// Arrivals per second from `from` to the end.
    pub fn rate(&self, from: Micros) -> f64 {
        let count = self.arrivals.iter().filter(|at| **at >= from).count();
        count as f64 * SECOND as f64 / (self.span - from) as f64
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Turn,
    Break,
    Connected,
    NotConnected(u64),
    Write(u64),
    Answer(u64),
    Fail(u64),
}

/// As many as `polling.max_in_flight`, for a service that takes two seconds.
pub const MAX_IN_FLIGHT: usize = 400;
const CONNECT_TIMEOUT: Micros = 3 * SECOND;

struct Run<'a> {
    network: &'a Network,
    pacer: &'a mut Pacer,
    random: fastrand::Rng,
    start: Instant,
    now: Micros,
    queue: BTreeMap<(Micros, u64), Event>,
    order: u64,
    /// The permit of each attempt, and whether it was written.
    attempts: BTreeMap<u64, (Grant, bool)>,
    last_id: u64,
    idle_connections: usize,
    without_connection: VecDeque<u64>,
    turn_at: Option<Micros>,
    /// Arrival of each attempt.
    arrivals: Vec<(Micros, u64)>,
}

impl Network {
    /// A service some milliseconds away, on a network that is always open.
    pub fn new(service: Service) -> Self {
        Self {
            service,
            transit: MS..=8 * MS,
            round_trip: 10 * MS,
            handshake: 2,
            standstills: Vec::new(),
            breaks: Vec::new(),
            stops: Vec::new(),
            request_timeout: 8 * SECOND,
            span: 40 * SECOND,
        }
    }

    /// Calls as fast as the pacer allows.
    pub fn run(&self, pacer: &mut Pacer, start: Instant, seed: u64) -> Seen {
        let mut run = Run {
            network: self,
            pacer,
            random: fastrand::Rng::with_seed(seed),
            start,
            now: 0,
            queue: BTreeMap::new(),
            order: 0,
            attempts: BTreeMap::new(),
            last_id: 0,
            idle_connections: 0,
            without_connection: VecDeque::new(),
            turn_at: None,
            arrivals: Vec::new(),
        };
        self.breaks.iter().for_each(|at| run.at(*at, Event::Break));
        run.turn_at(0);
        while let Some(((at, _), event)) = run.queue.pop_first().filter(|((at, _), _)| *at < self.span) {
            // A process that stood still sees everything that has happened when it continues.
            match self.stops.iter().find(|(from, span)| (*from..from + span).contains(&at)) {
                Some((from, span)) if !matches!(event, Event::Break) => run.at(from + span, event),
                _ => run.happens(at, event),
            }
        }
        let mut arrivals: Vec<Micros> =
            run.arrivals.iter().map(|arrival| arrival.0).filter(|at| *at < self.span).collect();
        arrivals.sort_unstable();
        Seen { arrivals, span: self.span }
    }

    /// When something due to get through at `at` does.
    fn gets_through(&self, at: Micros, way: Way) -> Micros {
        let holds =
            |still: &&Standstill| (still.from..still.to).contains(&at) && (still.way == Way::Both || still.way == way);
        self.standstills.iter().find(holds).map_or(at, |still| self.gets_through(still.to, way))
    }
}

impl Run<'_> {
    fn at(&mut self, at: Micros, event: Event) {
        self.order += 1;
        self.queue.insert((at, self.order), event);
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_micros(self.now)
    }

    fn turn_at(&mut self, at: Micros) {
        if self.turn_at.is_none_or(|earlier| earlier > at) {
            self.turn_at = Some(at);
            self.at(at, Event::Turn);
        }
    }

    fn happens(&mut self, at: Micros, event: Event) {
        self.now = at;
        match event {
            Event::Turn => {
                if self.turn_at.take_if(|turn| *turn <= at).is_some() {
                    self.takes();
                }
            }
            Event::Break => {
                self.idle_connections = 0;
                let sent: Vec<u64> =
                    self.attempts.iter().filter(|attempt| attempt.1.1).map(|attempt| *attempt.0).collect();
                // Data delayed on a broken connection is lost with it.
                self.arrivals.retain(|(at, id)| *at <= self.now || !sent.contains(id));
                sent.into_iter().for_each(|id| _ = self.ends(id, false));
            }
            Event::Connected => self.has_connection(),
            Event::Write(id) => self.writes(id),
            Event::Answer(id) => {
                if self.ends(id, true) {
                    self.has_connection();
                }
            }
            Event::NotConnected(id) => {
                // Another connection may have become free for it.
                if self.attempts.get(&id).is_some_and(|(_, is_written)| !is_written) {
                    self.ends(id, false);
                }
            }
            Event::Fail(id) => _ = self.ends(id, false),
        }
    }

    fn takes(&mut self) {
        while self.attempts.len() < MAX_IN_FLIGHT {
            match self.pacer.take(self.instant()) {
                Ok(grant) => self.begins(grant),
                Err(ready_at) => {
                    // Timers wake up a little late.
                    let late = self.random.u64(0..1_100);
                    if let Some(ready_at) = ready_at {
                        let ready_at = ready_at.saturating_duration_since(self.start).as_micros();
                        self.turn_at(Micros::try_from(ready_at).unwrap().max(self.now + 1) + late);
                    }
                    return;
                }
            }
        }
    }

    fn begins(&mut self, grant: Grant) {
        self.last_id += 1;
        let id = self.last_id;
        self.attempts.insert(id, (grant, false));
        self.at(self.now + self.network.request_timeout, Event::Fail(id));
        self.without_connection.push_back(id);
        if self.idle_connections > 0 {
            self.idle_connections -= 1;
            return self.has_connection();
        }
        let mut connected = self.now;
        for _ in 0..self.network.handshake {
            connected = self.network.gets_through(connected + self.network.round_trip / 2, Way::There);
            connected = self.network.gets_through(connected + self.network.round_trip / 2, Way::Back);
        }
        match connected - self.now < CONNECT_TIMEOUT {
            true => self.at(connected, Event::Connected),
            false => self.at(self.now + CONNECT_TIMEOUT, Event::NotConnected(id)),
        }
    }

    /// A connection is free for the next attempt.
    fn has_connection(&mut self) {
        let waits = loop {
            match self.without_connection.pop_front() {
                Some(id) if !self.attempts.contains_key(&id) => {}
                waits => break waits,
            }
        };
        match waits {
            Some(id) => self.at(self.now + 100, Event::Write(id)),
            None => self.idle_connections += 1,
        }
    }

    fn writes(&mut self, id: u64) {
        let instant = self.instant();
        let Some((grant, is_written)) = self.attempts.get_mut(&id) else { return };
        *is_written = true;
        self.pacer.written(grant, instant);
        let transit = self.random.u64(self.network.transit.clone());
        let arrives = self.network.gets_through(self.now + transit, Way::There);
        self.arrivals.push((arrives, id));
        let done = arrives + (self.network.service)(&mut self.random);
        let answered = self.network.gets_through(done + self.network.round_trip / 2, Way::Back);
        self.at(answered, Event::Answer(id));
    }

    fn ends(&mut self, id: u64, is_answered: bool) -> bool {
        let instant = self.instant();
        let Some((grant, _)) = self.attempts.remove(&id) else { return false };
        match is_answered {
            true => self.pacer.answered(&grant, instant),
            false => self.pacer.failed(&grant, instant),
        }
        if self.turn_at.is_none_or(|turn| turn > self.now + SECOND) {
            self.turn_at(self.now);
        }
        true
    }
}
