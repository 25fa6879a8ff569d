//! Several daemons for one app: one polls at a time, one that ends or stands still is succeeded, and no other calls
//! are made.
//!
//! Under full load an extra call would show as a sliding second above the limit.

use std::{
    ffi::OsString,
    fs, mem,
    os::unix::fs::MetadataExt,
    time::{Duration, Instant},
};

use receiptd::rules::lease::TTL;

use crate::{
    common::ScratchDirectory,
    daemon::{Daemon, PATIENCE},
    harness::{Harness, LIMIT, Setup, is_long},
    oracle::{Breakage, Promises},
    pgbouncer::Parameters,
    stored::Stored,
};

/// Maximum time until a successor polls after a clean stop.
const AFTER_A_STOP: Duration = Duration::from_secs(2);

/// The same after a death or a standstill.
const AFTER_A_DEATH: Duration = Duration::from_secs(TTL.as_secs() + 2);

/// Maximum number of a process's calls in flight when it ends.
const UNDER_WAY: u64 = LIMIT as u64;

/// The fate of the lease holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is asked to stop.
    Stops,
    /// It is killed.
    Dies,
    /// It stands still for longer than the lease lasts, and continues.
    Stalls,
}

/// The lease holder meets its fate, and the standby becomes the scene's daemon. Returns the old one.
async fn succeed(scene: &mut Harness, successor: Daemon, fate: Fate, within: Duration) -> Daemon {
    let arrived = scene.simulator.ledger().arrivals().len();
    let start = Instant::now();
    scene.daemon.signal(match fate {
        Fate::Stops => "TERM",
        Fate::Dies => "KILL",
        Fate::Stalls => "STOP",
    });
    let old = mem::replace(&mut scene.daemon, successor);
    while scene.daemon.metric("receiptd_calls_total").await == 0.0 {
        assert!(start.elapsed() < PATIENCE, "nobody polls\n{}", scene.daemon.said());
    }
    let ledger = scene.simulator.ledger();
    let gap = ledger.arrivals()[arrived - 1..].windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    let gap = Duration::from_micros(gap);
    println!("{fate:?}: the successor polls after {gap:?}");
    assert!(gap > Duration::from_secs(1), "the second that is under way is waited out: {gap:?}");
    assert!(gap < within, "{fate:?}: the successor polls after {gap:?}\n{}", scene.daemon.said());
    old
}

async fn of_several_one_polls(mut scene: Harness) {
    let mut fault = Breakage::begins(&scene);
    let mut lost_calls = 0;
    for fate in [Fate::Stops, Fate::Dies, Fate::Stalls].into_iter().cycle().take(if is_long() { 9 } else { 3 }) {
        let successor = scene.another_daemon().await;
        let within = if fate == Fate::Stops { AFTER_A_STOP } else { AFTER_A_DEATH };
        let mut old = succeed(&mut scene, successor, fate, within).await;
        fault = fault.of_another_process(&scene);
        match fate {
            Fate::Stops => assert_eq!(old.end().await.code(), Some(0), "{}", scene.daemon.said()),
            Fate::Dies => lost_calls += UNDER_WAY,
            Fate::Stalls => {
                lost_calls += UNDER_WAY;
                stands_by_from_now_on(&scene, old).await;
            }
        }
        scene.after_calls(2 * u64::from(LIMIT)).await;
    }
    fault.ends(scene, Promises { stored: Stored::AllBut { calls: lost_calls }, ..Promises::silently() }).await;
}

/// A daemon that lost its lease while it stood still continues.
async fn stands_by_from_now_on(scene: &Harness, mut zombie: Daemon) {
    zombie.signal("CONT");
    let stands_by = async { while !zombie.get("/readyz", PATIENCE).await.unwrap().1.contains("standing by") {} };
    assert!(tokio::time::timeout(PATIENCE, stands_by).await.is_ok(), "it does not stand by\n{}", scene.daemon.said());
    let calls = zombie.metric("receiptd_calls_total").await;
    scene.after_calls(u64::from(LIMIT)).await;
    assert_eq!(zombie.metric("receiptd_calls_total").await, calls, "a zombie calls");
    let lost = zombie.metric("receiptd_recordings_lost_total").await;
    println!("{lost} polls were in flight when it stood still");
    assert!(lost <= UNDER_WAY as f64, "{lost} polls lost");
    zombie.signal("TERM");
    // It reports that it could not store results in flight.
    let code = zombie.end().await.code();
    assert_eq!(code, Some(if lost > 0.0 { 70 } else { 0 }), "{}", scene.daemon.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_daemons_one_polls_and_is_succeeded() {
    of_several_one_polls(Harness::new("handover").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_daemons_behind_pgbouncer_poll_one_after_another() {
    let directory = ScratchDirectory::new("pgbouncer");
    let setup = Setup { pgbouncer: Some(Parameters::Dropped), ..Setup::default() };
    of_several_one_polls(Harness::with(directory, setup).await).await;
}

/// Its death is not visible, as if it were on another machine: its processes have their own pid namespace.
#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_dies_elsewhere_is_succeeded_after_its_lease() {
    let mut prefix: Vec<OsString> = ["unshare", "--pid", "--fork", "--kill-child"].map(OsString::from).into();
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        prefix.extend(["--user".into(), "--map-root-user".into()]);
    }
    let setup = Setup { prefix, ..Setup::default() };
    let mut scene = Harness::with(ScratchDirectory::new("elsewhere"), setup).await;
    let fault = Breakage::begins(&scene);
    let successor = scene.another_daemon().await;
    succeed(&mut scene, successor, Fate::Dies, AFTER_A_DEATH).await;
    let fault = fault.of_another_process(&scene);
    scene.after_calls(2 * u64::from(LIMIT)).await;
    let promises = Promises { stored: Stored::AllBut { calls: UNDER_WAY }, ..Promises::silently() };
    fault.ends(scene, promises).await;
}

/// A prefix that hides all other processes from a program in /proc, also those with the same prefix except `right`: a
/// process may inspect others with no more rights than itself. The right to open any file is for the server's socket.
/// Only root can mount such a /proc.
fn hidden(right: &str) -> Vec<OsString> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return vec![];
    }
    let script = r#"mount -t proc -o hidepid=2 proc /proc && right="$1" && shift && \
        exec setpriv --regid nogroup --clear-groups --bounding-set "-all,+dac_override,+$right" "$@""#;
    ["unshare", "--mount", "sh", "-c", script, "sh", right].map(OsString::from).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_hidden_from_each_other_leave_the_lease_to_its_holder() {
    let setup = Setup { prefix: hidden("chown"), ..Setup::default() };
    let mut scene = Harness::with(ScratchDirectory::new("hidden"), setup).await;
    let fault = Breakage::begins(&scene);
    let other = scene.another_daemon_in(hidden("fowner")).await;
    for _ in 0..3 {
        scene.lasts(Duration::from_secs(1)).await;
        let (_, ready) = other.get("/readyz", PATIENCE).await.unwrap();
        assert!(ready.contains("standing by"), "{ready}");
    }
    let epoch: i64 =
        sqlx::query_scalar("SELECT epoch FROM receiptd.poller_leases").fetch_one(&scene.pool).await.unwrap();
    assert_eq!(epoch, 1, "the lease has changed hands\n{}", scene.daemon.said());
    fault.ends(scene, Promises::silently()).await;
}
