//! The network is blocked and released, or all connections are lost. The service's own clock counts.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    common::ScratchDirectory,
    harness::{Harness, LIMIT, Setup, is_long},
    oracle::{Breakage, Promises},
    stored::Stored,
    way::Held,
};

/// Number of repetitions in a scenario, each at another time of the second.
fn times() -> u32 {
    if is_long() { 20 } else { 3 }
}

async fn scene(name: &str) -> Harness {
    Harness::with(ScratchDirectory::new(name), Setup { has_way: true, ..Setup::default() }).await
}

/// Waits for the calls of three seconds at the full rate, so that every second after the fault is counted.
async fn recovers(scene: &Harness) {
    let start = Instant::now();
    scene.after_calls(3 * u64::from(LIMIT)).await;
    println!("{} calls within {:?} of the end", 3 * LIMIT, start.elapsed());
}

async fn stands_still(name: &str, held: Held, lengths: &[u64]) {
    let scene = scene(name).await;
    let breakage = Breakage::begins(&scene);
    for _ in 0..times() {
        for length in lengths {
            scene.way().hold(held);
            sleep(Duration::from_millis(*length)).await;
            scene.way().hold(Held::Nothing);
            recovers(&scene).await;
            let highest = scene.simulator.ledger().highest_sliding_second();
            assert!(highest <= LIMIT as usize, "{highest} calls in a second after {held:?} were held for {length} ms");
        }
    }
    breakage.ends(scene, Promises::silently()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_requests_stay_within_the_limit_on_release() {
    stands_still("requests-held", Held::Requests, &[700, 1_500, 3_000]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_answers_cause_no_burst_on_release() {
    stands_still("answers-held", Held::Answers, &[700, 1_500, 3_000]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standstill_both_ways_stays_within_the_limit_on_release() {
    stands_still("both-held", Held::Both, &[700, 1_500, 3_000]).await;
}

/// Longer than a call may take: requests that timed out arrive together with later ones.
#[tokio::test(flavor = "multi_thread")]
async fn requests_released_after_a_timeout_stay_within_the_limit() {
    let scene = scene("forgotten").await;
    let breakage = Breakage::begins(&scene);
    scene.way().hold(Held::Requests);
    sleep(Duration::from_millis(5_500)).await;
    scene.way().hold(Held::Nothing);
    recovers(&scene).await;
    let stored = Stored::AllBut { calls: u64::from(LIMIT) };
    breakage.ends(scene, Promises { stored, ..Promises::silently() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_connections_with_slow_handshakes_cause_no_burst() {
    let scene = scene("lost-connections").await;
    let breakage = Breakage::begins(&scene);
    for _ in 0..2 * times() {
        scene.way().drop_connections(Duration::from_millis(540));
        recovers(&scene).await;
        let highest = scene.simulator.ledger().highest_sliding_second();
        assert!(highest <= LIMIT as usize, "{highest} calls in a second after all connections were lost");
    }
    // Answers on a lost connection.
    let stored = Stored::AllBut { calls: u64::from(2 * times() * LIMIT) / 2 };
    breakage.ends(scene, Promises { stored, ..Promises::silently() }).await;
}
