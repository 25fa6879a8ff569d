//! A history written by hand: messages, polls and calls at given times of one day, and what the roll-up makes of them.

use receiptd::{
    domain::Timestamp,
    rollup::{SETTLED_AFTER, catch_up},
    store::Store,
};

use crate::{
    common::TestDatabase,
    rig::{APP, app},
};

pub struct History {
    pub database: TestDatabase,
    pub store: Store,
}

/// A time of the day: `at("12:00")`, also `at("12:00:30")`.
pub fn at(time: &str) -> Timestamp {
    let seconds = if time.len() == 5 { ":00" } else { "" };
    format!("2026-11-20T{time}{seconds}Z").parse().unwrap()
}

impl History {
    /// An empty schema with the partitions around the day, and a group `g` of key 1.
    pub async fn new() -> Self {
        let database = TestDatabase::new().await;
        let store = Store::new(&database.url().into(), 4, app()).unwrap();
        store.migrate().await.unwrap();
        database.psql(&format!(
            "SELECT receiptd.ensure_partition(t, d::date) FROM unnest(ARRAY['receipt_snapshots', 'api_calls']) t,
                generate_series('2026-11-18'::date, '2026-11-30', '1 day') d;
             SELECT receiptd.watch_group({APP}, 'g');
             INSERT INTO receiptd.poller_leases (sdk_app_id, epoch, acquired_at, expires_at) VALUES ({APP}, 1, now(), now())"
        ));
        Self { database, store }
    }

    /// A message of group `g` that is being polled.
    pub fn message(&self, seq: i64, sent: &str) {
        self.database.psql(&format!(
            "INSERT INTO receiptd.watched_messages (group_key, msg_seq, sent_at) VALUES (1, {seq}, '{}')",
            at(sent)
        ));
    }

    /// Polls of a message that left snapshots: when, and how many had read it and had not. The poll before each was a minute
    /// earlier.
    pub fn polls(&self, seq: i64, polls: &[(&str, i32, i32)]) {
        for (time, read, unread) in polls {
            let polled_at = at(time);
            self.database.psql(&format!(
                "INSERT INTO receiptd.receipt_snapshots
                    (group_key, msg_seq, polled_at, read_num, unread_num, code, prior_polled_at, prior_read_num)
                 SELECT 1, {seq}, '{polled_at}', {read}, {unread}, 0,
                    CASE WHEN read_num IS NOT NULL THEN timestamptz '{polled_at}' - interval '1 minute' END, read_num
                 FROM receiptd.watched_messages WHERE msg_seq = {seq};
                 UPDATE receiptd.watched_messages SET read_num = {read}, unread_num = {unread}, receipt_code = 0,
                    first_polled_at = coalesce(first_polled_at, '{polled_at}'), last_changed_at = '{polled_at}',
                    known_until = '{polled_at}' WHERE msg_seq = {seq}"
            ));
        }
    }

    /// A poll of a message that said that it has no receipt.
    pub fn no_receipt(&self, seq: i64, time: &str) {
        let polled_at = at(time);
        self.database.psql(&format!(
            "INSERT INTO receiptd.receipt_snapshots (group_key, msg_seq, polled_at, code, prior_polled_at, prior_read_num)
             SELECT 1, {seq}, '{polled_at}', 10062, known_until, read_num FROM receiptd.watched_messages WHERE msg_seq = {seq};
             UPDATE receiptd.watched_messages SET receipt_code = 10062,
                first_polled_at = coalesce(first_polled_at, '{polled_at}'), last_changed_at = '{polled_at}',
                known_until = '{polled_at}' WHERE msg_seq = {seq}"
        ));
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

    /// Closes a message as the recorder does.
    pub fn close(&self, seq: i64, state: &str, time: &str) {
        self.database.psql(&format!(
            "UPDATE receiptd.watched_messages SET state = '{state}', closed_at = '{}' WHERE msg_seq = {seq}",
            at(time)
        ));
    }

    /// Rolls up everything before `until`.
    pub async fn roll_up(&self, until: &str) {
        catch_up(&self.store, at(until) + SETTLED_AFTER, |_| {}).await.unwrap();
    }

    pub fn psql(&self, sql: &str) -> String {
        self.database.psql(sql)
    }
}
