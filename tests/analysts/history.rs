//! A hand-written history: messages, polls and calls at given times of a day, recorded like the daemon does, and
//! their roll-up.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use chrono::TimeDelta;
use receiptd::{
    daemon::{
        activity::Activity,
        jobs::catch_up,
        recorder::{Recorder, RecorderSettings},
    },
    domain::{Counts, MsgSeq, Receipt, Timestamp},
    rules::{
        cadence::{Cadence, Cadences, Next, Tier},
        protocol::{Answer, Attempt},
        recording::{KeepSnapshots, Kept, Poll, PollEnd, Told},
        rollup::SETTLED_AFTER,
        slot::{Slot, SlotAssignment, SlotKey},
    },
    store::{FIRST, Store},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    common::TestDatabase,
    harness::{APP, app, seq},
};

pub struct History {
    pub database: TestDatabase,
    pub store: Store,
}

/// A time of the day: `at("12:00")` or `at("12:00:30")`. The day is so long ago that no message comes to an age while a
/// test runs: its rate would become known then.
pub fn at(time: &str) -> Timestamp {
    let seconds = if time.len() == 5 { ":00" } else { "" };
    format!("2025-11-20T{time}{seconds}Z").parse().unwrap()
}

impl History {
    /// An empty schema with the partitions around the day, and a group `g` of key 1.
    pub async fn new() -> Self {
        let database = TestDatabase::new().await;
        let store = Store::new(&database.url().into(), 4, app()).unwrap();
        store.migrate().await.unwrap();
        database.psql(&format!(
            "SELECT receiptd.ensure_partition(t, d::date) FROM unnest(ARRAY['receipt_snapshots', 'api_calls']) t,
                generate_series('2025-11-18'::date, '2025-11-30', '1 day') d;
             SELECT receiptd.watch_group({APP}, 'g');
             INSERT INTO receiptd.poller_leases (sdk_app_id, epoch, acquired_at, expires_at) VALUES ({APP}, 1, now(), now())"
        ));
        Self { database, store }
    }

    /// An active message of group `g`.
    pub fn message(&self, seq: i64, sent: &str) {
        self.database.psql(&format!(
            "INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at) VALUES (1, {seq}, '{}')",
            at(sent)
        ));
    }

    /// Polls of a message with changes: the time, and the numbers of members who had and had not read. The poll
    /// before each was a minute earlier.
    pub async fn polls(&self, number: i64, polls: &[(&str, i64, i64)]) {
        for (time, read, unread) in polls {
            let receipt = Receipt { code: 0, counts: Counts::new(*read, *unread) };
            self.poll_again(number, at(time), receipt).await;
        }
    }

    /// A poll at any time; without counts it found no receipt.
    pub async fn poll_at(&self, number: i64, time: Timestamp, counts: Option<(i64, i64)>) {
        let code = if counts.is_some() { 0 } else { 10062 };
        let counts = counts.and_then(|(read, unread)| Counts::new(read, unread));
        self.poll_again(number, time, Receipt { code, counts }).await;
    }

    /// A poll of a message without a receipt.
    pub async fn no_receipt(&self, number: i64, time: &str) {
        self.poll_again(number, at(time), Receipt { code: 10062, counts: None }).await;
    }

    async fn poll_again(&self, number: i64, polled_at: Timestamp, receipt: Receipt) {
        let mut slot = self.slot_of(seq(number)).await;
        for message in &mut slot.messages {
            message.known_until = message.known_until.map(|_| polled_at - TimeDelta::minutes(1));
        }
        self.record(vec![recording(slot, polled_at, receipt)]).await;
    }

    /// The slot of a message, created if necessary: each has its own.
    pub async fn slot_of(&self, message: MsgSeq) -> Slot {
        let pack = |fresh: &[receiptd::rules::slot::NewMessage], _: &std::collections::HashMap<_, _>| {
            let mine = fresh.iter().filter(|fresh| fresh.seq == message);
            mine.map(|fresh| SlotAssignment {
                slot_id: None,
                group_key: fresh.group_key,
                first: Next { due: fresh.sent_at, every: Duration::from_secs(60) },
                seqs: vec![message],
            })
            .collect()
        };
        self.store.slot_new_messages(FIRST, pack).await.unwrap();
        let slot = "SELECT slot_id FROM receiptd.watched_messages WHERE group_key = 1 AND msg_seq =";
        let key = SlotKey { group_key: 1, slot_id: self.psql(&format!("{slot} {message}")).parse().unwrap() };
        self.store.read_slots(&[key]).await.unwrap().remove(0)
    }

    /// Stores polls of different slots in one transaction, as the daemon does.
    pub async fn record(&self, polls: Vec<Kept>) {
        let (committed, _told) = mpsc::unbounded_channel();
        let settings = RecorderSettings {
            committed,
            term_over: CancellationToken::new(),
            flush_deadline: CancellationToken::new(),
            storing_blocked: Arc::new(AtomicBool::new(false)),
            activity: Arc::new(Activity::default()),
            events: Arc::default(),
        };
        let (recorder, queue) = Recorder::new(self.store.clone(), settings);
        for kept in polls {
            queue.send(kept).await.unwrap();
        }
        drop(queue);
        assert_eq!(recorder.run().await, 0, "not stored");
    }

    /// A call for group `key` that was due at `due`.
    pub fn call(&self, key: i32, due: &str, called: &str, class: &str) {
        let answered = if class == "success" { 50 } else { 0 };
        self.database.psql(&format!(
            "INSERT INTO receiptd.api_calls (called_at, group_key, attempt, messages_asked, messages_answered, entries_bad,
                class, code, latency_ms, due_at)
             VALUES ('{}', {key}, 1, 50, {answered}, 0, '{class}', 10002, 20, '{}')",
            at(called),
            at(due)
        ));
    }

    /// Ends the watching of a message.
    pub fn close(&self, number: i64, state: &str, time: &str) {
        self.database.psql(&format!(
            "SELECT receiptd.unwatch_messages({APP}, 'g', ARRAY[{number}]);
             UPDATE receiptd.watched_messages SET state = '{state}', closed_at = '{}' WHERE msg_seq = {number}",
            at(time)
        ));
    }

    /// Active messages are not due yet, as if the daemon were still running.
    pub fn polling_goes_on(&self) {
        self.database.psql("UPDATE receiptd.poll_slots SET next_poll_at = now() + interval '1 day'");
    }

    /// Rolls up everything before `until`.
    pub async fn roll_up(&self, until: &str) {
        catch_up(&self.store, at(until) + SETTLED_AFTER, |_| {}).await.unwrap();
    }

    pub fn psql(&self, sql: &str) -> String {
        self.database.psql(sql)
    }
}

/// The tiers of the default cadence without its pace, so that it is obvious when a message is due.
pub fn tiers() -> Cadences {
    let tiers = [(1, 1), (24, 10), (7 * 24, 60), (30 * 24, 360)].map(|(hours, minutes)| Tier {
        until: std::time::Duration::from_secs(hours * 3_600),
        every: std::time::Duration::from_secs(minutes * 60),
    });
    let cadence = Cadence::by_age(tiers.to_vec(), true).unwrap();
    Cadences::new(BTreeMap::from([("default".to_owned(), cadence)]))
}

/// The daemon's recording of a poll of the only message of a slot. Its attempt is left out, so that tests only have the
/// calls that they make.
pub fn recording(slot: Slot, polled_at: Timestamp, receipt: Receipt) -> Kept {
    let attempt = Attempt {
        called_at: polled_at,
        ended_at: polled_at,
        latency: std::time::Duration::from_millis(20),
        http_status: Some(200),
        asked: 1,
        outcome: Ok(Answer::default()),
    };
    let receipts = slot.messages.iter().map(|message| Told::by(&attempt, message.seq, receipt)).collect();
    let poll = Poll { attempts: vec![attempt], receipts, ..Poll::ended(PollEnd::Complete) };
    let mut kept = Kept::of(slot, poll, Arc::new(tiers()), 1.0, KeepSnapshots::Changes, polled_at);
    kept.recording.attempts.clear();
    kept
}
