//! The daemon's own process is stopped, killed and started again, always under full load.

use std::time::Duration;

use crate::{
    harness::{Harness, LIMIT, is_long, seconds},
    oracle::{self, Breakage, Promises},
    stored::Stored,
};

/// Maximum number of a process's calls without a stored result when it was killed: some in flight, some in the queue.
/// A second of calls is more than both.
const UNDER_WAY: u64 = LIMIT as u64;
/// The lease of a process that is gone has to run out first.
const LEASE: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_stopped_and_goes_on_makes_no_burst() {
    let mut scene = Harness::new("sigstop").await;
    let fault = Breakage::begins(&scene);
    for _ in 0..3 {
        scene.daemon.signal("STOP");
        // Two of them and the time between are less than the timeout of a call, also on a busy machine.
        scene.lasts(Duration::from_secs(2)).await;
        scene.daemon.signal("CONT");
        scene.after_calls(2 * u64::from(LIMIT)).await;
    }
    if is_long() {
        scene.daemon.signal("STOP");
        scene.lasts(seconds(3)).await;
        scene.daemon.signal("CONT");
    }
    // Calls out for longer than their timeout may count as unanswered although they were answered.
    let stored = if is_long() { Stored::AllBut { calls: UNDER_WAY } } else { Stored::All };
    fault.ends(scene, Promises { stored, ..Promises::silently() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_keeps_the_limit_and_its_results_after_a_kill() {
    let mut scene = Harness::new("sigkill").await;
    let mut fault = Breakage::begins(&scene);
    let times = if is_long() { 12 } else { 3 };
    for _ in 0..times {
        assert_eq!(oracle::is_small(&scene), None);
        scene.daemon.signal("KILL");
        scene.daemon.end().await;
        scene.daemon.start_again();
        scene.is_ready().await;
        fault = fault.of_another_process(&scene);
        scene.after_calls(2 * u64::from(LIMIT)).await;
    }
    let stored = Stored::AllBut { calls: times * UNDER_WAY };
    fault.ends(scene, Promises { stored, grace: LEASE, ..Promises::silently() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_loses_nothing_when_it_is_stopped_and_restarted() {
    let mut scene = Harness::new("sigterm").await;
    let mut fault = Breakage::begins(&scene);
    for _ in 0..if is_long() { 12 } else { 3 } {
        assert_eq!(oracle::is_small(&scene), None);
        scene.daemon.signal("TERM");
        assert_eq!(scene.daemon.end().await.code(), Some(0), "{}", scene.daemon.said());
        scene.daemon.start_again();
        scene.is_ready().await;
        fault = fault.of_another_process(&scene);
        scene.after_calls(2 * u64::from(LIMIT)).await;
    }
    fault.ends(scene, Promises { lines: 0..=0, ..Promises::default() }).await;
}
