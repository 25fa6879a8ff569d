//! The cost of an observation, by the fraction that differs from the previous one: processor time and WAL, compared
//! with the same observations without receiptd, see [`super::baseline`].

use std::time::{Duration, Instant};

use receiptd::{
    domain::{Counts, GroupId, MsgSeq},
    simulator::{Ledger, World},
};
use tokio::time::interval;

use crate::{
    baseline::{BareLoop, Upserted, upsert},
    cost,
    setup::{Daemon, Setup, Watch},
};

const GROUPS: usize = 1_000;

const WATCH: Watch = Watch { groups: GROUPS as i32, messages: 50, every: "5s", members: 200 };

/// Members of each group without the sender.
const READERS: i64 = 199;

/// Initial number of readers of a message: between two milestones, as nearly all changes are, and of each another.
fn read_at_first(seq: i64) -> i64 {
    20 + seq
}

/// Time in which each message changes once, if all do: less than between two polls of it.
const ROUND: Duration = Duration::from_millis(4_800);

/// Number of steps of a round.
const STEPS: i32 = 40;

/// Which counts change between two polls.
#[derive(Clone, Copy)]
pub enum Changing {
    All,
    OneInTwenty,
    None,
}

impl Changing {
    fn words(self) -> &'static str {
        match self {
            Self::All => "all counts change",
            Self::OneInTwenty => "1 in 20 counts changes",
            Self::None => "no count changes",
        }
    }

    /// Whether a message changes in a round.
    fn changes(self, seq: i64, round: i64) -> bool {
        match self {
            Self::All => true,
            Self::OneInTwenty => (seq + round) % 20 == 0,
            Self::None => false,
        }
    }
}

/// Usage so far.
struct Used {
    calls: u64,
    observations: u64,
    daemon: Duration,
    postgres: Duration,
    wal: i64,
    bare_observations: u64,
    bare_loop: Duration,
    upserted: u64,
    upsert: Duration,
    upsert_wal: i64,
}

/// Measures for `span`.
pub async fn price(changing: Changing, span: Duration) {
    let mut setup = Setup::new(WATCH.members).await;
    let beside = Setup::beside().await;
    setup.watch(WATCH).await;
    for world in [setup.simulator.world(), beside.simulator.world()] {
        groups().for_each(|group| seqs().for_each(|seq| set(world, &group, seq, read_at_first(seq))));
    }
    let daemon = setup.start_daemon(WATCH.every);
    let bare_loop = BareLoop::start(&beside.simulator.endpoint(), WATCH);
    let upserted = Upserted::default();
    let measured = async {
        // Until the rate is steady, and the first receipts of all are stored.
        let are_all_known = |ledger: &Ledger| ledger.calls() >= 2_400 && ledger.calls_by_group().len() == GROUPS;
        setup.simulator.wait_until(are_all_known).await;
        setup.simulator.wait_for_calls(setup.asked().await.0 + 400).await;
        // Counting uses the server's time, so it is done before and after the rest.
        let snapshots = setup.count("receipt_snapshots").await;
        let (start, before) = (Instant::now(), used(&setup, &beside, &daemon, &bare_loop, &upserted).await);
        tokio::time::sleep(span).await;
        let (took, after) = (start.elapsed(), used(&setup, &beside, &daemon, &bare_loop, &upserted).await);
        (took, before, after, setup.count("receipt_snapshots").await - snapshots)
    };
    let (took, before, after, snapshots) = tokio::select! {
        measured = measured => measured,
        () = change(setup.simulator.world(), changing) => unreachable!("counts change for ever"),
        () = upsert(beside.pool.clone(), WATCH, &upserted) => unreachable!("upserts go on for ever"),
    };
    println!("\n{}, 200 calls a second with 50 messages each, {:.0} s", changing.words(), took.as_secs_f64());
    tell(&before, &after, snapshots, took);
    daemon.stop();
}

fn groups() -> impl Iterator<Item = GroupId> {
    (1..=WATCH.groups).map(|group| format!("group {group}").parse().unwrap())
}

fn seqs() -> impl Iterator<Item = i64> {
    1..=WATCH.messages
}

fn set(world: &World, group: &GroupId, seq: i64, read: i64) {
    world.set_receipt(group, MsgSeq::try_from(seq).unwrap(), Counts::new(read, READERS - read).unwrap());
}

/// One more member has read a message, round by round.
async fn change(world: &World, changing: Changing) {
    let groups: Vec<GroupId> = groups().collect();
    let mut read: Vec<i64> = seqs().map(read_at_first).collect();
    let mut step = interval(ROUND / STEPS.unsigned_abs());
    for round in 0.. {
        let changed: Vec<i64> = seqs().filter(|seq| changing.changes(*seq, round)).collect();
        changed.iter().for_each(|seq| read[*seq as usize - 1] += 1);
        for part in groups.chunks(groups.len().div_ceil(STEPS.unsigned_abs() as usize)) {
            step.tick().await;
            part.iter()
                .for_each(|group| changed.iter().for_each(|seq| set(world, group, *seq, read[*seq as usize - 1])));
        }
    }
}

async fn used(setup: &Setup, beside: &Setup, daemon: &Daemon, bare_loop: &BareLoop, upserted: &Upserted) -> Used {
    let (calls, observations) = setup.asked().await;
    Used {
        calls,
        observations,
        daemon: cost::cpu(daemon.id()),
        postgres: setup.postgres_cpu(),
        wal: setup.wal().await,
        bare_observations: beside.asked().await.1,
        bare_loop: cost::cpu(bare_loop.id()),
        upserted: upserted.rows(),
        upsert: beside.postgres_cpu(),
        upsert_wal: beside.wal().await,
    }
}

fn tell(before: &Used, after: &Used, snapshots: i64, took: Duration) {
    let observations = after.observations - before.observations;
    let per_million = |cpu: Duration, observations: u64| cpu.as_secs_f64() / (observations as f64 / 1e6);
    let daemon = per_million(after.daemon - before.daemon, observations);
    let postgres = per_million(after.postgres - before.postgres, observations);
    let bare_loop = per_million(after.bare_loop - before.bare_loop, after.bare_observations - before.bare_observations);
    let upserted = after.upserted - before.upserted;
    let upsert = per_million(after.upsert - before.upsert, upserted);
    let (wal, upsert_wal) = ((after.wal - before.wal) as f64, (after.upsert_wal - before.upsert_wal) as f64);
    println!(
        "  calls           {:.1} /s; {:.1} % of {observations} observations had changed",
        (after.calls - before.calls) as f64 / took.as_secs_f64(),
        snapshots as f64 / observations as f64 * 100.0
    );
    println!(
        "  receiptd        {daemon:.2} s of processor time for a million observations, {:.2} x",
        daemon / bare_loop
    );
    println!("  a bare loop     {bare_loop:.2} s");
    println!(
        "  PostgreSQL      {postgres:.2} s for a million observations, {:.2} x; {:.1} bytes of WAL an observation, {:.0} a changed one",
        postgres / upsert,
        wal / observations as f64,
        wal / snapshots as f64
    );
    println!("  a plain upsert  {upsert:.2} s; {:.1} bytes of WAL an observation", upsert_wal / upserted as f64);
}
