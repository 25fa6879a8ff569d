use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::sync::mpsc;

use super::*;
use crate::{
    chat::{ChatClient, ChatSettings, Credential, Destination},
    daemon::poller::{PollerParts, PollerSettings, ScheduleNews},
    domain::{SdkAppId, Timestamp},
    rules::{
        cadence::{Cadences, Next},
        recording::KeepSnapshots,
    },
    store::Store,
};

/// A poller that reaches nobody.
fn poller() -> Poller {
    let sdk_app_id = SdkAppId::try_from(1).unwrap();
    let client = ChatClient::new(ChatSettings {
        sdk_app_id,
        identifier: "administrator".into(),
        credential: Credential::SecretKey("key".into()),
        destination: Destination::Endpoint("http://127.0.0.1:9".into()),
        request_timeout: Duration::from_secs(8),
        max_connections: 1,
    });
    let parts = PollerParts {
        store: Store::new(&"postgres://nobody@127.0.0.1:9/none".into(), 1, sdk_app_id).unwrap(),
        client: Arc::new(client.unwrap()),
        lease: Arc::default(),
        cadences: Arc::new(Cadences::new(BTreeMap::new())),
        recorder: mpsc::channel(1).0,
        committed: mpsc::unbounded_channel().1,
        storing_blocked: Arc::default(),
        heartbeat: Arc::default(),
        activity: Arc::default(),
        events: Arc::default(),
    };
    let settings = PollerSettings {
        max_calls_per_second: 200,
        transit_allowance: Duration::ZERO,
        batch_size: 50,
        max_in_flight: 400,
        keep: KeepSnapshots::Changes,
    };
    Poller::new(parts, settings, tokio_util::sync::CancellationToken::new())
}

fn key(slot_id: i64) -> SlotKey {
    SlotKey { group_key: 1, slot_id }
}

fn next(due: Timestamp) -> Next {
    Next { due, every: Duration::from_secs(60) }
}

fn offer(poller: &mut Poller, probes: std::ops::RangeInclusive<i64>, due: std::ops::RangeInclusive<i64>) {
    probes.for_each(|slot| poller.hear(ScheduleNews::Probe(key(slot))));
    // One after the other: the clocks may differ by some microseconds from one reading to the next.
    let first = poller.now().time - TimeDelta::seconds(1);
    due.for_each(|slot| poller.hear(ScheduleNews::Due(key(slot), next(first + TimeDelta::milliseconds(slot)))));
}

#[tokio::test]
async fn group_probes_take_half_of_the_room_and_queue_once_each() {
    let claim = |room, poller: &mut Poller| {
        let (claimed, probes) = poller.claim(room, poller.now());
        let ids = |slots: Vec<SlotKey>| slots.into_iter().map(|slot| slot.slot_id).collect::<Vec<_>>();
        (ids(claimed), ids(probes))
    };
    let mut poller = poller();
    offer(&mut poller, 1..=6, 301..=400);
    offer(&mut poller, 1..=6, 301..=400);
    assert_eq!(claim(4, &mut poller), (vec![1, 2, 301, 302], vec![1, 2]));
    assert_eq!(claim(4, &mut poller), (vec![3, 4, 303, 304], vec![3, 4]));
    assert_eq!(claim(8, &mut poller), (vec![5, 6, 305, 306, 307, 308, 309, 310], vec![5, 6]));
}

#[tokio::test]
async fn the_first_call_of_a_term_is_one_of_an_active_group_and_the_others_are_due_as_they_were() {
    let mut poller = poller();
    offer(&mut poller, 1..=1, 301..=303);
    let now = poller.now();
    let (claimed, probes) = poller.claim(40, now);
    let of = |key: SlotKey| {
        let group_state = if key.slot_id == 1 { GroupState::Quarantined } else { GroupState::Active };
        Slot { key, group_state, ..crate::rules::polling::poll_progress::tests::slot(1) }
    };
    let slots = claimed.iter().copied().map(of).collect();
    let turn = Turn { most: 1, pass: Pass::None };
    assert_eq!(poller.start(claimed, slots, &probes, turn, now), 1);
    let others: BTreeSet<SlotKey> = poller.claim(40, now).0.into_iter().collect();
    assert_eq!(others, [key(1), key(302), key(303)].into());
}

#[tokio::test]
async fn a_probe_whose_slot_is_in_another_poll_is_made_after_that() {
    let mut poller = poller();
    offer(&mut poller, 301..=301, 301..=301);
    let now = poller.now();
    assert_eq!(poller.schedule.claim_due(1, 0, now).len(), 1);
    assert_eq!(poller.claim(4, now), (vec![], vec![]));
    poller.hear(ScheduleNews::Returned(key(301)));
    assert_eq!(poller.claim(4, now), (vec![key(301)], vec![key(301)]));
}

#[tokio::test]
async fn a_failed_read_releases_its_slots_and_keeps_the_schedule() {
    let mut poller = poller();
    poller.unsure_after = None;
    (301..=303).for_each(|slot| poller.hear(ScheduleNews::Due(key(slot), next(poller.now().time))));
    let now = poller.now();
    let (claimed, _) = poller.claim(40, now);
    assert_eq!(claimed.len(), 3);
    let turn = Turn { most: usize::MAX, pass: Pass::None };
    // Nobody listens there.
    assert_eq!(poller.start_claimed(claimed.clone(), &[], turn, now).await, (0, READ_AGAIN));
    assert_eq!(poller.unsure_after, None);
    assert_eq!(poller.claim(40, poller.now()).0, claimed);
}
