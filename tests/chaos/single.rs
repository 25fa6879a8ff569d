//! One group or one message fails permanently. Everything else is observed as before, and the failing part takes few
//! calls.

use std::time::Duration;

use receiptd::simulator::{Fault, When};

use crate::{
    common::ScratchDirectory,
    daemon::PATIENCE,
    harness::{GROUPS, Harness, LIMIT, MESSAGES_A_GROUP, Setup, group, is_long, message},
    oracle::{Breakage, Promises},
};

/// No group is delayed by another's fault for longer than its cadence and 10 s.
const HELD_UP_AT_MOST: Duration = Duration::from_secs(1 + 10);

/// To find the message of a slot that is at fault takes three failed polls of some attempts each, and some more
/// calls.
const UNTIL_BLAMED: Duration = Duration::from_secs(180);

/// The service's counts at some time.
struct Mark {
    at: u64,
    calls_for_bad: u64,
}

impl Mark {
    fn now(scene: &Harness) -> Self {
        let ledger = scene.simulator.ledger();
        let calls_for_bad = ledger.calls_by_group().get(&group(1)).copied().unwrap_or_default();
        Self { at: scene.simulator.now_micros(), calls_for_bad }
    }

    /// What group 1 has cost the others since then.
    fn costs(&self, scene: &Harness) -> Vec<String> {
        let ledger = scene.simulator.ledger();
        let (from, until) = (self.at, scene.simulator.now_micros());
        let mut broken = vec![];
        let mut longest = Duration::ZERO;
        for number in 2..=GROUPS {
            let times = ledger.answered_arrivals(&group(number)).iter().copied().filter(|at| *at > from);
            let times: Vec<u64> = [from].into_iter().chain(times).chain([until]).collect();
            let gap =
                Duration::from_micros(times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap());
            longest = longest.max(gap);
            if gap > HELD_UP_AT_MOST {
                broken.push(format!("group {number} was held up for {gap:?}"));
            }
        }
        let seconds = (until - from) as f64 / 1e6;
        let calls = ledger.calls_by_group()[&group(1)] - self.calls_for_bad;
        println!("within {seconds:.1} s {calls} calls for the bad group; the others waited for {longest:?} at most");
        if calls as f64 > f64::from(LIMIT) / 10.0 * seconds + 10.0 {
            broken.push(format!("{calls} failing calls within {seconds:.1} s"));
        }
        broken
    }
}

/// One group fails from some time on, alone among good ones.
async fn one_bad_group(name: &str, fault: Fault) {
    one_group_among_good_ones(name, fault, Promises::default()).await;
}

async fn one_group_among_good_ones(name: &str, fault: Fault, promises: Promises) {
    let mut scene = Harness::new(name).await;
    let breakage = Breakage::begins(&scene);
    let mark = Mark::now(&scene);
    scene.calls_fail(fault, When::Group { group_id: group(1) });
    scene.lasts(Duration::from_secs(if is_long() { 240 } else { 20 })).await;
    let costs = mark.costs(&scene);
    assert!(costs.is_empty(), "{costs:#?}\n{}", scene.daemon.said());
    let but = "group_id = 'group 1'".into();
    breakage.ends(scene, Promises { but, ..promises }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_group_that_is_refused_like_an_app_holds_up_no_other() {
    one_bad_group("group-60003", Fault::ErrorCode { code: 60_003 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_group_whose_signature_is_refused_holds_up_no_other() {
    one_bad_group("group-70003", Fault::ErrorCode { code: 70_003 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_group_for_which_the_app_is_to_wait_holds_up_no_other() {
    one_bad_group("group-70050", Fault::ErrorCode { code: 70_050 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_group_with_a_slow_down_code_holds_up_no_other() {
    one_bad_group("group-60007", Fault::ErrorCode { code: 60_007 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_group_that_hangs_holds_up_no_other() {
    one_bad_group("group-hangs", Fault::Hang { duration: Duration::from_secs(30) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_group_that_is_answered_with_502_holds_up_no_other() {
    one_bad_group("group-502", Fault::HttpStatus { status: 502 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_group_whose_body_is_cut_holds_up_no_other() {
    one_bad_group("group-cut", Fault::CutMidBody).await;
}

/// Its calls are answered shortly before they time out.
#[tokio::test(flavor = "multi_thread")]
async fn one_group_whose_answers_take_seconds_holds_up_no_other() {
    let slow = Fault::ExtraDelay { duration: Duration::from_secs(3) };
    one_group_among_good_ones("group-slow", slow, Promises::silently()).await;
}

/// Some groups each have one message that makes every call for it fail, from the first one on.
#[tokio::test(flavor = "multi_thread")]
async fn messages_whose_calls_fail_hide_no_other() {
    let mut scene = Harness::idle(ScratchDirectory::new("messages"), Setup::default()).await;
    let breakage = Breakage::begins(&scene);
    let bad = [
        Fault::ErrorCode { code: 10_002 },
        Fault::ErrorCode { code: 99_999 },
        Fault::HttpStatus { status: 502 },
        Fault::CutMidBody,
        Fault::NotJson,
        Fault::Hang { duration: Duration::from_secs(30) },
        Fault::ErrorCode { code: 10_004 },
    ];
    for (fault, number) in bad.iter().zip(1..) {
        let when = When::Message { group_id: group(number), msg_seq: message(MESSAGES_A_GROUP) };
        scene.calls_fail(fault.clone(), when);
    }
    scene.watch_all().await;
    let bad = format!(
        "msg_seq = {MESSAGES_A_GROUP} AND group_id IN (SELECT 'group ' || g FROM generate_series(1, {}) g)",
        bad.len()
    );
    let unknown = format!("SELECT FROM receiptd.latest_receipts WHERE read_num IS NULL AND NOT ({bad})");
    let all_known = scene.until(&format!("SELECT NOT EXISTS ({unknown})"), UNTIL_BLAMED).await;
    let left =
        "SELECT string_agg(group_id || ': ' || msg_seq, ', ') FROM receiptd.latest_receipts WHERE read_num IS NULL";
    let left: Option<String> = crate::stored::scalar(&scene.pool, left).await;
    assert!(all_known, "good messages are not observed: {left:?}\n{}", scene.daemon.said());
    scene.lasts(Duration::from_secs(10)).await;
    let late = format!(
        "SELECT NOT EXISTS (SELECT FROM receiptd.latest_receipts
         WHERE (known_until IS NULL OR known_until < now() - interval '{} s') AND NOT ({bad}))",
        HELD_UP_AT_MOST.as_secs()
    );
    assert!(scene.until(&late, PATIENCE).await, "good messages are late\n{}", scene.daemon.said());
    breakage.ends(scene, Promises { but: bad, ..Promises::default() }).await;
}
