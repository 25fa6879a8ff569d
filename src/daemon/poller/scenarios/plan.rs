//! The events of a life, drawn from its seed: how much there is to poll, and what goes wrong when.

use std::time::Duration;

use super::flaw::{self, Flaw, Symptom};
use crate::rules::protocol::Class;

/// Microseconds of virtual time.
pub(super) type Micros = u64;

pub(super) const MILLISECOND: Micros = 1_000;
pub(super) const SECOND: Micros = 1_000_000;

/// Timeout of an attempt.
pub(super) const REQUEST_TIMEOUT: Micros = 4 * SECOND;

/// Timeout of an operation on the database, as in `store::transaction::SHORT`.
pub(super) const PATIENCE: Micros = 10 * SECOND;

/// The same for the lease, as in `store::transaction::RENEWAL`.
pub(super) const LEASE_PATIENCE: Micros = 3 * SECOND;

/// Duration of a life under overload, until everything has to be polled in time: the stretch grows sixfold in six
/// minutes.
const STRETCHES_FOR: Micros = 420 * SECOND;

/// A fault with a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Every call is answered with this `ErrorCode`.
    Code(i64),
    /// Some calls are answered with this `ErrorCode`.
    SomeCode(i64),
    /// The service asks to slow down from this number of calls per second on.
    BelowPromise(u32),
    /// Every call is answered with this HTTP status.
    Status(u16),
    /// The body is cut off or not JSON.
    Garbage,
    /// Calls arrive and are never answered.
    Hang,
    /// No connection can be made.
    Unreachable,
    /// Answers take seconds.
    Slow,
    /// Nothing reaches the service, and at the end everything does at once.
    RequestsHeld,
    /// Nothing returns from the service, and at the end everything does at once.
    AnswersHeld,
    /// The database refuses connections.
    DatabaseDown,
    /// Operations have no effect, and there is no answer.
    DatabaseHangs,
    /// Operations take effect, and some of the answers are lost.
    Unanswered,
    /// Operations take up to a second.
    DatabaseSlow,
    /// The open transaction of another session holds the rows of a group.
    Locked(i32),
    /// The database's clock moves by this number of milliseconds.
    DatabaseClock(i64),
    /// A daemon's wall clock moves by this number of milliseconds.
    Clock(usize, i64),
    /// A daemon stands still.
    Pause(usize),
    /// A daemon is killed, and restarted at the end.
    Kill(usize),
    /// A daemon is stopped, and restarted at the end.
    Stop(usize),
    /// This number of messages of a group are watched from now on.
    Watch(i32, usize),
    /// The messages of a group are unwatched.
    Unwatch(i32),
}

impl Fault {
    pub fn is_of_database(self) -> bool {
        matches!(self, Self::DatabaseDown | Self::DatabaseHangs | Self::Unanswered | Self::DatabaseSlow)
    }

    pub fn is_of_service(self) -> bool {
        use Fault::{
            AnswersHeld, BelowPromise, Code, Garbage, Hang, RequestsHeld, Slow, SomeCode, Status, Unreachable,
        };
        let is_of_answers = matches!(self, Code(_) | SomeCode(_) | BelowPromise(_) | Status(_) | Garbage | Hang | Slow);
        is_of_answers || matches!(self, Unreachable | RequestsHeld | AnswersHeld)
    }

    /// Whether the service refuses the app as such, or every group and every message.
    pub fn refuses_app(self) -> bool {
        use Class::{AppFault, GroupFault, SignAgain, Split, Wait};
        match self {
            Self::Code(code) | Self::SomeCode(code) => {
                matches!(Class::of_code(code), AppFault | Wait | SignAgain | GroupFault | Split)
            }
            _ => false,
        }
    }
}

/// A life.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub seed: u64,
    pub limit: u32,
    pub allowance: Duration,
    pub batch_size: usize,
    pub cadence: Duration,
    /// Maximum wait of a message in intervals; more than one only at a pace.
    pub patience: u32,
    pub daemons: usize,
    /// Maximum number of polls in flight.
    pub max_in_flight: usize,
    /// Whether more is due than the limit allows.
    pub is_busy: bool,
    /// Duration of the overload, if intervals are stretched until everything fits.
    pub stretches_for: Option<Micros>,
    /// Whether the daemons run on one machine, so that each can see that another has ended.
    pub one_machine: bool,
    /// Initial number of messages of each group.
    pub groups: Vec<usize>,
    /// The faults: time, kind and duration.
    pub faults: Vec<(Micros, Fault, Micros)>,
    /// The flaws, and when they begin.
    pub flaws: Vec<(Micros, Flaw)>,
}

impl Plan {
    /// A life with additional flaws of single things.
    pub fn with_flaws(seed: u64) -> Self {
        let mut plan = Self::of(seed);
        let mut random = fastrand::Rng::with_seed(seed ^ 0xf1a3);
        // Answers for others show what is at fault, so there are some.
        plan.groups.resize(plan.groups.len().max(4), 1);
        // Some groups have several slots: a bad one has neighbours. All of them together take at most half of the
        // limit.
        let in_time = plan.limit as usize * usize::try_from(plan.cadence.as_secs()).unwrap();
        let mut room = if plan.is_busy { in_time } else { (in_time / 2).saturating_sub(plan.groups.len()) };
        for messages in &mut plan.groups {
            let slots = random.usize(0..=2).min(room);
            if slots > 0 && random.u8(0..3) == 0 {
                *messages += random.usize(1..=plan.batch_size * slots);
                room -= slots;
            }
        }
        plan.faults.retain(|(_, fault, _)| !fault.refuses_app());
        plan.flaws = flaw::draw(&mut random, &plan.groups, plan.batch_size);
        let mut now_and_then = fastrand::Rng::with_seed(seed ^ 0xf1a4);
        plan.flaws.extend(flaw::draw_now_and_then(&mut now_and_then, plan.groups.len()));
        // A minute in which nothing works at all.
        if random.u8(0..4) == 0 {
            let all = [10002, 10004, 10010].map(Fault::Code).into_iter().chain([
                Fault::Status(502),
                Fault::Hang,
                Fault::Unreachable,
            ]);
            let all: Vec<Fault> = all.collect();
            let fault = all[random.usize(..all.len())];
            plan.faults.push((random.u64(0..60 * SECOND), fault, random.u64(5 * SECOND..=60 * SECOND)));
        }
        plan
    }

    /// A start at which many failing groups are due together, before all others.
    pub fn of_cold_start(seed: u64) -> Self {
        let symptoms =
            [Symptom::Code(10002), Symptom::Code(99999), Symptom::Status(502), Symptom::Garbage, Symptom::Hang];
        let flaws = (1..=60).zip(symptoms.into_iter().cycle());
        Self {
            limit: 40,
            batch_size: 1,
            cadence: Duration::from_secs(10),
            patience: 1,
            daemons: 1,
            max_in_flight: 80,
            is_busy: false,
            groups: vec![1; 260],
            faults: vec![],
            flaws: flaws.map(|(group, symptom)| (0, Flaw::Group(group, symptom))).collect(),
            ..Self::of(seed)
        }
    }

    /// A standstill in which two processes are killed, one after the other has called.
    pub fn of_kills_in_a_standstill(seed: u64) -> Self {
        let (begins, moment) = (10 * SECOND, 50 * MILLISECOND);
        Self {
            limit: 20,
            allowance: Duration::from_millis(30),
            batch_size: 1,
            cadence: Duration::from_secs(1),
            patience: 1,
            daemons: 1,
            max_in_flight: 60,
            is_busy: true,
            one_machine: true,
            groups: vec![1; 40],
            faults: vec![
                (begins, Fault::RequestsHeld, 3_900 * MILLISECOND),
                (begins + 990 * MILLISECOND, Fault::Kill(0), moment),
                (begins + 2_300 * MILLISECOND, Fault::Kill(0), moment),
            ],
            flaws: vec![],
            ..Self::of(seed)
        }
    }

    /// Up to six times as much is due as the limit allows, for so long that the stretch makes it fit. Meanwhile the
    /// poller is replaced.
    pub fn of_overload(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let (limit, cadence) = (random.u32(6..=10), random.u64(10..=15));
        let slots = u64::from(limit) * cadence * random.u64(2..=6);
        let replaced_at = random.u64(60 * SECOND..=STRETCHES_FOR);
        Self {
            limit,
            batch_size: 1,
            cadence: Duration::from_secs(cadence),
            daemons: 2,
            is_busy: true,
            stretches_for: Some(STRETCHES_FOR),
            groups: (0..slots).map(|_| 1).collect(),
            faults: vec![(replaced_at, [Fault::Kill(0), Fault::Stop(0)][random.usize(..2)], 5 * SECOND)],
            flaws: vec![],
            ..Self::of(seed)
        }
    }

    pub fn of(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let is_busy = random.u8(0..4) == 0;
        let (limit, cadence) = match is_busy {
            true => (random.u32(4..=8), random.u64(1..=2)),
            false => (random.u32(4..=20), random.u64(3..=8)),
        };
        let batch_size = random.usize(1..=12);
        let daemons = random.usize(1..=3);
        // Twice what the limit allows, or well below.
        let in_time = u64::from(limit) * cadence;
        let groups = if is_busy { in_time * 2 } else { (in_time / 6).clamp(1, 12) };
        let groups: Vec<usize> = (0..groups).map(|_| random.usize(1..=batch_size)).collect();
        let mut faults: Vec<(Micros, Fault, Micros)> = Vec::new();
        for _ in 0..random.usize(0..=6) {
            faults.push(fault(&mut random, limit, daemons, groups.len(), batch_size));
        }
        // A slot due some time after a poll without receipts, or never polled, is due later by as much as the
        // database's clock was set back since, if it is read again.
        let reads_back =
            |fault: Fault| fault.is_of_database() || matches!(fault, Fault::Kill(_) | Fault::Stop(_) | Fault::Pause(_));
        if faults.iter().any(|(_, fault, _)| reads_back(*fault)) {
            for (_, fault, _) in &mut faults {
                if let Fault::DatabaseClock(step) = fault {
                    *step = (*step).max(-1_500);
                }
            }
        }
        let mut of_locks = fastrand::Rng::with_seed(seed ^ 0xf1a5);
        if of_locks.u8(0..4) == 0 {
            let group = of_locks.i32(1..=i32::try_from(groups.len()).unwrap());
            let span = of_locks.u64(50 * MILLISECOND..=14 * SECOND);
            faults.push((of_locks.u64(0..=30 * SECOND), Fault::Locked(group), span));
        }
        let allowance = Duration::from_millis(random.u64(30..=200));
        let one_machine = random.bool();
        let cadence = Duration::from_secs(cadence);
        Self {
            seed,
            limit,
            allowance,
            batch_size,
            cadence,
            patience: if seed.is_multiple_of(4) { 3 } else { 1 },
            daemons,
            max_in_flight: 60,
            is_busy,
            stretches_for: None,
            one_machine,
            groups,
            faults,
            flaws: vec![],
        }
    }

    /// Whether the service refuses the app as such at any time.
    pub fn refuses_app(&self) -> bool {
        self.faults.iter().any(|(_, fault, _)| fault.refuses_app())
    }

    /// When the last fault is over, including everything that was started during it.
    pub fn calm_from(&self) -> Micros {
        let aftermath = |fault: Fault| match fault {
            Fault::DatabaseHangs | Fault::Unanswered => PATIENCE + 5 * SECOND,
            // What was tried in vain for long is retried after at most five seconds.
            Fault::DatabaseDown | Fault::DatabaseSlow => 6 * SECOND,
            // Locked rows are tried once a second.
            Fault::Locked(_) => 3 * SECOND,
            fault if fault.is_of_service() => REQUEST_TIMEOUT + 8 * SECOND,
            _ => 0,
        };
        self.faults.iter().map(|(at, fault, span)| at + span + aftermath(*fault)).max().unwrap_or(5 * SECOND)
    }
}

fn fault(
    random: &mut fastrand::Rng,
    limit: u32,
    daemons: usize,
    groups: usize,
    batch: usize,
) -> (Micros, Fault, Micros) {
    let daemon = random.usize(..daemons);
    let group = random.i32(1..=i32::try_from(groups).unwrap());
    let codes = [10002, 60008, 10006, 60007, 70003, 70050, 60021, 10004, 10062, 99999, -1];
    let code = codes[random.usize(..codes.len())];
    let fault = match random.u8(0..23) {
        0 => Fault::Code(code),
        1 => Fault::SomeCode(code),
        2 => Fault::BelowPromise((limit / 2).max(1)),
        3 => Fault::Status([500, 502, 429, 404][random.usize(..4)]),
        4 => Fault::Garbage,
        5 => Fault::Hang,
        6 => Fault::Unreachable,
        7 => Fault::Slow,
        8 => Fault::DatabaseDown,
        9 => Fault::DatabaseHangs,
        10 => Fault::Unanswered,
        11 => Fault::DatabaseSlow,
        12 => Fault::Clock(daemon, random.i64(-7_200_000..=7_200_000)),
        13 | 14 => Fault::Pause(daemon),
        15 => Fault::Kill(daemon),
        16 => Fault::Stop(daemon),
        17 => Fault::DatabaseClock(random.i64(-60_000..=60_000)),
        18 | 19 => Fault::RequestsHeld,
        20 => Fault::AnswersHeld,
        21 => Fault::Watch(group, random.usize(1..=batch.min(3))),
        _ => Fault::Unwatch(group),
    };
    let span = match fault {
        Fault::Watch(..) | Fault::Unwatch(_) | Fault::Clock(..) | Fault::DatabaseClock(_) => 0,
        Fault::RequestsHeld | Fault::AnswersHeld => random.u64(50 * MILLISECOND..=REQUEST_TIMEOUT),
        _ => random.u64(50 * MILLISECOND..=14 * SECOND),
    };
    (random.u64(0..=30 * SECOND), fault, span)
}
