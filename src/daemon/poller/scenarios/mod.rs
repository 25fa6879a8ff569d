//! Thousands of short lives of one to three daemons, with models of Tencent Chat and the database, under random
//! faults drawn from a seed.
//!
//! The decisions are the real ones: pacer, schedule, gate, brake, retries and halving, lease, packing, cadence,
//! recording, writing, the database's clock. What the asynchronous shell does around them, waiting, standing in line
//! and handing over, happens here event by event over a virtual clock: nothing waits, sends or reads a clock, and a
//! seed always gives the same life. A life that breaks a promise of [`promises`] fails the test with its seed and the
//! last events; see CONTRIBUTING.md for how to repeat it.

mod calling;
mod costs;
mod daemon;
mod database;
mod flaw;
mod operation;
mod plan;
mod polling;
mod promises;
mod recorder;
mod service;
mod storing;
mod world;

use self::{plan::Plan, world::World};

/// Default number of lives, unless `RECEIPTD_SCENARIOS` is set.
const LIVES: u64 = 2_000;

/// Default number of lives with a permanent flaw: these last for minutes.
const FLAWED_LIVES: u64 = 100;

/// Number of lives under overload: these last for ten minutes.
const OVERLOADED_LIVES: u64 = 4;

/// Lives with flaws that once broke a promise.
const ONCE_BROKEN: [u64; 5] = [1_000_135, 864_430_126_214, 497_571_606_379, 348_337_586_051, 256_761_947_095];

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}={value} is not a whole number")))
}

/// Runs one life. The error tells which promise was broken, and the events before.
fn live(plan: &Plan) -> Result<world::Tally, String> {
    let world = World::of(plan.clone(), false).run();
    if world.promises.broken.is_none() {
        return Ok(world.tally);
    }
    // The same life again, with a log.
    let world = World::of(plan.clone(), true).run();
    let broken = world.promises.broken.unwrap_or_else(|| "nothing: the life was another one this time".into());
    let log = world.log.into_iter().collect::<Vec<_>>().join("\n");
    let seed = plan.seed;
    Err(format!("{broken}\n{plan:#?}\n{log}\n{broken}\nreplay: RECEIPTD_SCENARIO_SEED={seed} ./test scenarios"))
}

/// Runs the default lives, or those that the environment asks for.
fn live_many(plan_of: fn(u64) -> Plan, lives: u64) {
    if let Some(seed) = from_environment("RECEIPTD_SCENARIO_SEED") {
        let outcome = live(&plan_of(seed));
        assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
        return;
    }
    // A plain run is the same each time, so that a failure comes from a change. Additional lives are new ones.
    let (lives, first) = match from_environment("RECEIPTD_SCENARIOS") {
        Some(lives) => (lives, fastrand::u64(1..1 << 40)),
        None => (lives, 1),
    };
    let mut tally = world::Tally::default();
    for seed in first..first + lives {
        let outcome = live(&plan_of(seed));
        assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
        tally += outcome.unwrap_or_default();
    }
    println!("{lives} lives from seed {first}: {tally:?}");
    assert!(tally.stored > 0 && tally.calls > 0, "nothing happened: {tally:?}");
}

#[test]
fn whatever_fails_the_promises_are_kept() {
    live_many(Plan::of, LIVES);
}

#[test]
fn one_bad_thing_costs_only_what_it_touches() {
    live_many(Plan::with_flaws, FLAWED_LIVES);
}

#[test]
fn lives_that_once_broke_a_promise_keep_it() {
    for seed in ONCE_BROKEN {
        let outcome = live(&Plan::with_flaws(seed));
        assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}

#[test]
fn many_groups_that_fail_hold_up_no_other_when_a_daemon_starts() {
    let outcome = live(&Plan::of_cold_start(1));
    assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
}

#[test]
fn under_overload_waits_stay_within_patience_times_stretch() {
    for seed in 1..=OVERLOADED_LIVES {
        let outcome = live(&Plan::of_overload(seed));
        assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}

#[test]
fn processes_killed_in_a_standstill_leave_only_their_reserve() {
    for seed in 1..50 {
        let outcome = live(&Plan::of_kills_in_a_standstill(seed));
        assert!(outcome.is_ok(), "{}", outcome.unwrap_err());
    }
}

#[test]
fn one_seed_is_always_the_same_life() {
    for seed in 1..20 {
        for plan in [Plan::of(seed), Plan::with_flaws(seed)] {
            assert_eq!(live(&plan), live(&plan), "seed {seed}");
        }
    }
}
