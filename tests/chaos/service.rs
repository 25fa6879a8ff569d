//! The service hangs, breaks off, sends nonsense, refuses, and doesn't resolve.

use std::{ffi::OsString, fs, os::unix::fs::MetadataExt, path::Path, time::Duration};

use receiptd::simulator::{BadNumber, Fault, When};

use crate::{
    common::ScratchDirectory,
    daemon::PATIENCE,
    harness::{Harness, LIMIT, Setup, is_long, seconds},
    oracle::{Breakage, Promises},
};

/// A fault of every call for a while.
async fn every_call_meets(name: &str, fault: Fault, promises: Promises) {
    let mut scene = Harness::new(name).await;
    let breakage = Breakage::begins(&scene);
    scene.calls_fail(fault, When::All);
    scene.lasts(seconds(10)).await;
    scene.simulator.clear_faults();
    breakage.ends(scene, promises).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_hangs_is_polled_again_when_it_answers() {
    let fault = Fault::Hang { duration: Duration::from_secs(30) };
    every_call_meets("hangs", fault, Promises::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resetting_service_is_polled_again_when_it_answers() {
    every_call_meets("resets", Fault::CutBeforeAnswer, Promises::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_answers_502_is_waited_for() {
    every_call_meets("502", Fault::HttpStatus { status: 502 }, Promises::saying("502")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_service_gets_no_more_calls_a_second_than_a_fast_one() {
    let fault = Fault::ExtraDelay { duration: Duration::from_millis(350) };
    every_call_meets("slow", fault, Promises { lines: 0..=0, ..Promises::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn garbled_answers_are_dropped_and_good_parts_are_kept() {
    let mut scene = Harness::new("garbled").await;
    let breakage = Breakage::begins(&scene);
    let garbled = [
        Fault::NotJson,
        Fault::TruncatedJson,
        Fault::CutMidBody,
        Fault::MissingEntries,
        Fault::RepeatedEntries { conflicting: true },
        Fault::UnaskedEntries,
        Fault::OutOfRange { number: BadNumber::TooLarge },
        Fault::FailWithoutCode,
    ];
    for (fault, seed) in garbled.into_iter().zip(1..) {
        scene.calls_fail(fault, When::Probability { probability: 0.15, seed });
    }
    // Few of these are enough.
    let huge = Fault::OversizedBody { bytes: 5 << 20 };
    scene.calls_fail(huge, When::Probability { probability: 0.05, seed: 100 });
    scene.lasts(seconds(10)).await;
    scene.simulator.clear_faults();
    // A slot whose poll fails four times in a row, while others are answered, waits for 20 s.
    let grace = seconds(20);
    breakage.ends(scene, Promises { grace, ..Promises::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_below_its_promised_rate_gets_fewer_calls() {
    let mut scene = Harness::new("fewer").await;
    let breakage = Breakage::begins(&scene);
    scene.simulator.set_calls_per_second(20);
    scene.lasts(seconds(6)).await;
    let (settled, start) = (scene.simulator.ledger().calls(), tokio::time::Instant::now());
    scene.lasts(seconds(6)).await;
    let rate = (scene.simulator.ledger().calls() - settled) as f64 / start.elapsed().as_secs_f64();
    assert!(rate < 30.0, "{rate} calls a second to a service that takes 20");
    scene.simulator.set_calls_per_second(LIMIT);
    breakage.ends(scene, Promises::saying("60011")).await;
}

/// The gate lets a probe through only every three minutes: in the short version, a restart opens it instead.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_signature_stops_nearly_all_calls() {
    let mut scene = Harness::new("signature").await;
    let breakage = Breakage::begins(&scene);
    scene.calls_fail(Fault::ErrorCode { code: 70_003 }, When::All);
    let calls = scene.simulator.ledger().calls();
    scene.lasts(Duration::from_secs(if is_long() { 240 } else { 10 })).await;
    let refused = scene.simulator.ledger().calls() - calls;
    assert!((1..=10).contains(&refused), "{refused} calls with a signature that is refused");
    let (status, body) = scene.daemon.get("/readyz", PATIENCE).await.unwrap();
    assert!(status == 503 && body.contains("70003"), "{status} {body}");
    scene.simulator.clear_faults();
    let promises = Promises::saying("70003");
    if is_long() {
        return breakage.ends(scene, Promises { grace: Duration::from_secs(180), ..promises }).await;
    }
    assert_eq!(scene.daemon.has_exited(), None);
    scene.daemon.signal("TERM");
    assert_eq!(scene.daemon.end().await.code(), Some(0), "{}", scene.daemon.said());
    scene.daemon.start_again();
    scene.is_ready().await;
    breakage.of_another_process(&scene).ends(scene, promises).await;
}

/// The daemon has its own mount namespace, in which the test's files replace those of name resolution. All its
/// connections are cut at the same time, since an open one needs no name.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_not_found_for_a_while_is_looked_up_again() {
    let directory = ScratchDirectory::new("names");
    let hosts = directory.path().join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let prefix = with_names_from(&hosts);
    let mut scene = Harness::with(directory, Setup { prefix, ..Setup::default() }).await;
    let breakage = Breakage::begins(&scene);
    fs::write(&hosts, "").unwrap();
    scene.calls_fail(Fault::CutBeforeAnswer, When::All);
    scene.lasts(seconds(10)).await;
    let calls = scene.simulator.ledger().calls();
    scene.lasts(Duration::from_secs(1)).await;
    assert_eq!(scene.simulator.ledger().calls(), calls, "it found the service without its name");
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    scene.simulator.clear_faults();
    breakage.ends(scene, Promises::default()).await;
}

/// A prefix that runs a program where names are only looked up in `hosts`. Its process stays the same.
fn with_names_from(hosts: &Path) -> Vec<OsString> {
    let nowhere_else = hosts.with_file_name("nsswitch.conf");
    fs::write(&nowhere_else, "hosts: files\n").unwrap();
    let script = r#"mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/nsswitch.conf && shift 2 && exec "$@""#;
    let mut words: Vec<OsString> = vec!["unshare".into()];
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        words.extend(["--user".into(), "--map-root-user".into()]);
    }
    words.extend(["--mount", "sh", "-c", script, "sh"].map(OsString::from));
    words.extend([hosts.into(), nowhere_else.into()]);
    words
}
